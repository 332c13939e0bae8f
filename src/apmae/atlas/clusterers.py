"""Clusterers: their contract, and the paper's (section 5). ``docs/structure.md`` says how to add another.

A clusterer gets every row, equal ones too, and merges equal rows itself: equal patterns of two heads are one point if
all heads are clustered together, and two per head. It also reports how far members are from each other
(``nearest_distances_``), because only it has the neighbours. There is no registry and no setting yet: with one
clusterer both would have a single value. K-means and HDBSCAN per head were tried on a throwaway branch. Placing per
head was not: by the embedding alone, half of the members are placed in another head's cluster.

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
    """Finds clusters among embeddings, with the interface of a scikit-learn estimator.

    The constructor only stores settings; ``fit`` computes, sets the attributes below and returns the clusterer. The
    same rows in the same order, with the same seed, give the same attributes.

    Attributes:
        labels_: (n,) cluster of each row, -1 (``schema.NOISE``) for noise. Clusters are numbered from 0, the largest
            first, and each has a member. Equal rows (of the same head, for a clusterer per head) have the same label.
        coordinates_: (n, r) reduced coordinates of each row, finite; equal for equal rows.
        nearest_distances_: (n,) distance of each row to the nearest other row of its label, in embedding space, by
            ``AtlasConfig.metric``; used to place new patterns. 0 for a row with copies and no other neighbour.
        mean_distances_: (c,) mean distance of a member to its cluster's centre, in reduced coordinates.
        persistence_: (c,) how clearly each cluster stands out, in [0, 1].
        dropped_: how many clusters were found but left out, by reason.
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    persistence_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def fit(self, z: Float[ndarray, "n d"], where: Where | None = None) -> "Clusterer":
        """Find the clusters.

        Args:
            z: embeddings, at least 2, finite and rounded to fp16; some rows may be equal.
            where: layer and head of each row; None if unknown, which only clusterers that work per head refuse.
        """
        ...


class GlobalClusterer:
    """Clusters the patterns of all heads together: merges equal rows, then UMAP, HDBSCAN and the paper's filters.

    Attributes are those of :class:`Clusterer`; ``persistence_`` is HDBSCAN's, the reasons are "wide" and "small".
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    persistence_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def __init__(self, config: AtlasConfig, num_heads: int | None = None) -> None:
        """Store the settings.

        Args:
            config: settings of UMAP, HDBSCAN and the filters.
            num_heads: heads of the whole language model, which scale the smallest cluster; None: 5 members.
        """
        self.config = config
        self.num_heads = num_heads

    def fit(self, z: Float[ndarray, "n d"], where: Where | None = None) -> "GlobalClusterer":
        """Find the clusters, as in :class:`Clusterer`.

        Args:
            z: embeddings.
            where: not used; it is for clusterers that work per head.
        """
        first, group, counts = merge_duplicates(z)
        reduced = Reducer(self.config).fit(z[first])
        neighbors = reduced.neighbors_
        density = FilteredHDBSCAN(self.config, self.num_heads).fit(reduced.coordinates_, counts, neighbors.nearest())
        self.labels_ = density.labels_[group]
        self.coordinates_ = reduced.coordinates_[group]
        self.nearest_distances_ = neighbors.nearest_of_label(density.labels_, counts)[group]
        self.mean_distances_ = density.mean_distances_
        self.persistence_ = density.persistence_
        self.dropped_ = density.dropped_
        return self
