"""What finds clusters: the contract, and the paper's way (section 5). ``docs/structure.md`` says how to add another.

A clusterer gets every row, equal ones too, and merges them itself: equal patterns of two heads are one point over all
heads and two per head. How far apart members lie (``apart_``) is its business too, because only it has the neighbours.
There is no registry yet, nor a setting: with one clusterer both would have one value. K-means and HDBSCAN per head were
tried on a throwaway branch; placing per head was not, and by the embedding alone half of its members come back to
another head's cluster.

Axes: n rows, d embedding, r reduced dimensions, c clusters.
"""

from typing import Protocol

from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.density import FilteredHDBSCAN
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import Where, merge_duplicates
from apmae.config import AtlasConfig


class Clusterer(Protocol):
    """Finds clusters among embeddings, in scikit-learn's manner.

    The constructor stores settings and computes nothing; ``fit`` computes, leaves the attributes below and returns the
    clusterer. The same rows, order and seed leave the same attributes.

    Attributes:
        labels_: (n,) cluster of each row, -1 (``schema.NOISE``) for noise. Clusters are numbered from 0, the largest
            first, and each has a member. Rows that are equal (within a head, if that is how it works) have one label.
        coordinates_: (n, r) reduced coordinates of each row, finite; of equal rows equal ones.
        apart_: (n,) distance of each row to the nearest other of its label in embedding space, by
            ``AtlasConfig.metric``: what places new patterns by. 0 for a row with copies and no other neighbour.
        mean_distances_: (c,) mean distance of a member to its cluster's centre, reduced coordinates.
        persistence_: (c,) how clearly each cluster stands out, in [0, 1].
        dropped_: clusters that were found and left out, by reason.
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    apart_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    persistence_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def fit(self, z: Float[ndarray, "n d"], where: Where | None = None) -> "Clusterer":
        """Find the clusters.

        Args:
            z: embeddings, at least 2, finite and rounded to fp16; some rows may be equal.
            where: layer and head of each row; None where not known, which only clusterers that work per head refuse.
        """
        ...


class GlobalClusterer:
    """The patterns of all heads in one layout: equal rows merged, UMAP, HDBSCAN, the paper's filters.

    Attributes are those of :class:`Clusterer`; ``persistence_`` is HDBSCAN's, reasons are "wide" and "small".
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    apart_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    persistence_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def __init__(self, config: AtlasConfig, num_heads: int | None = None) -> None:
        """Store the settings.

        Args:
            config: of UMAP, HDBSCAN and the filters.
            num_heads: heads of the whole language model, which scale the smallest cluster; None takes 5 members.
        """
        self.config = config
        self.num_heads = num_heads

    def fit(self, z: Float[ndarray, "n d"], where: Where | None = None) -> "GlobalClusterer":
        """Find the clusters, as in :class:`Clusterer`.

        Args:
            z: embeddings.
            where: not used: clusterers that work per head need it.
        """
        first, group, counts = merge_duplicates(z)
        reduced = Reducer(self.config).fit(z[first])
        neighbors = reduced.neighbors_
        found = FilteredHDBSCAN(self.config, self.num_heads).fit(reduced.coordinates_, counts, neighbors.nearest())
        self.labels_ = found.labels_[group]
        self.coordinates_ = reduced.coordinates_[group]
        self.apart_ = neighbors.apart(found.labels_, counts)[group]
        self.mean_distances_ = found.mean_distances_
        self.persistence_ = found.persistence_
        self.dropped_ = found.dropped_
        return self
