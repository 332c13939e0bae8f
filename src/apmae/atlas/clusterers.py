"""Clusterers: their contract, and three of them. ``docs/structure.md`` says how to add another.

``StableClusterer`` is the default: UMAP, the density tree of HDBSCAN, and of its branches those that are found again.
``PaperClusterer`` is the paper's (section 5): UMAP, HDBSCAN and filters. ``PerHeadClusterer`` (``atlas/heads.py``) is
the way of the paper's published notebook.

A clusterer gets every row, equal ones too, and merges equal rows itself. It also reports how far members are from each
other (``nearest_distances_``), because only it has the neighbours.

Axes: n rows, d embedding, r reduced dimensions, c clusters.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.atlas.branches import branches_of, choose
from apmae.atlas.density import FilteredHDBSCAN, lone_rows, mean_distance
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import Where, members_of, merge_duplicates
from apmae.atlas.stability import stability_of
from apmae.config import AtlasConfig
from apmae.schema import NOISE

_FEWEST = 5


@runtime_checkable
class Clusters(Protocol):
    """What was found among embeddings.

    Attributes:
        labels_: (n,) cluster of each row, -1 (``schema.NOISE``) for noise. Clusters are numbered from 0, the largest
            first, and each has a member. Equal rows (of the same head, for a clusterer per head) have the same label.
        coordinates_: (n, r) reduced coordinates of each row, finite; equal for equal rows.
        nearest_distances_: (n,) distance of each row to the nearest other row of its label, in embedding space, by
            ``AtlasConfig.metric``; used to place new patterns. 0 for a row with copies and no other neighbour.
        mean_distances_: (c,) mean distance of a member to its cluster's centre, in reduced coordinates.
        stability_: (c,) how well each cluster is found again from half of the prompts, in [0, 1]
            (``atlas/stability.py``); 1 for a cluster of equal rows.
        seed_stability_: (c,) the same for a fit with another seed.
        dropped_: how many clusters were found but left out, by reason.
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    stability_: Float[ndarray, " c"]
    seed_stability_: Float[ndarray, " c"]
    dropped_: dict[str, int]


class Clusterer(Clusters, Protocol):
    """Finds clusters among embeddings, with the interface of a scikit-learn estimator.

    The constructor only stores settings; ``fit`` computes, sets the attributes of :class:`Clusters` and returns the
    clusterer. The same rows in the same order, with the same seed, give the same attributes.
    """

    def fit(
        self, z: Float[ndarray, "n d"], where: Where | None = None, prompts: Int[ndarray, " n"] | None = None
    ) -> "Clusterer":
        """Find the clusters.

        Args:
            z: embeddings, at least 2, finite and rounded to fp16; some rows may be equal.
            where: layer and head of each row; None if unknown, which only clusterers that work per head refuse.
            prompts: the prompt of each row, for stability; None: rows are halved instead.
        """
        ...


class StableClusterer:
    """Clusters that are found again: branches of the density tree, chosen by their stability.

    Attributes are those of :class:`Clusters`; nothing that was found is dropped.
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    stability_: Float[ndarray, " c"]
    seed_stability_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def __init__(self, config: AtlasConfig) -> None:
        """Store the settings.

        Args:
            config: settings of UMAP and of the tree.
        """
        self.config = config

    def fit(
        self, z: Float[ndarray, "n d"], where: Where | None = None, prompts: Int[ndarray, " n"] | None = None
    ) -> "StableClusterer":
        """Find the clusters, as in :class:`Clusterer`.

        Args:
            z: embeddings.
            where: not used; it is for clusterers that work per head.
            prompts: the prompt of each row.
        """
        first, group, counts = merge_duplicates(z)
        own = z[first]
        reduced = Reducer(self.config).fit(own)
        tree = branches_of(reduced.coordinates_, *self._sizes(len(own)))
        found = stability_of(
            tree.members,
            own,
            np.arange(len(own)) if prompts is None else prompts[first],
            counts,
            lambda rows, seed: self._branches(own[rows], seed),
            metric=self.config.metric,
            seed=self.config.seed,
        )
        chosen = choose(tree, found.halves, counts)
        labels = np.full(len(own), NOISE, np.int64)
        for number, branch in enumerate(chosen):
            labels[tree.members[branch]] = number
        many = counts >= max(_FEWEST, self._sizes(len(own))[0])
        lone = lone_rows(labels, reduced.neighbors_.nearest(), many, len(chosen))
        labels[lone] = np.arange(len(chosen), len(chosen) + len(lone))
        count = len(chosen) + len(lone)
        sizes = np.bincount(labels[labels != NOISE], counts[labels != NOISE], count)
        left = int(np.count_nonzero(sizes))  # a row that is a cluster alone has left another, which may now be empty
        kept = np.argsort(-sizes, kind="stable")[:left]
        number = np.full(count + 1, NOISE, np.int64)
        number[kept] = np.arange(left)
        labels = number[labels]
        members = members_of(labels, left)
        self.labels_ = labels[group]
        self.coordinates_ = reduced.coordinates_[group]
        self.nearest_distances_ = reduced.neighbors_.nearest_of_label(labels, counts)[group]
        self.mean_distances_ = np.array([mean_distance(reduced.coordinates_[rows], counts[rows]) for rows in members])
        self.stability_, self.seed_stability_ = (
            np.append(values[chosen], np.ones(len(lone)))[kept] for values in found
        )
        self.dropped_ = {}
        return self

    def _sizes(self, rows: int) -> tuple[int, int]:
        """Fewest rows of a branch, and the neighbours that say how dense it is around a row.

        A tenth of the square root of the rows: on SmolLM2-135M a fifth is as stable, but in 20 000 of 100 000 rows it
        does not see a group of one in a thousand (``docs/studies/atlas.md``). How many clusters there are follows from
        stability, not from this.
        """
        smallest = self.config.min_cluster_size or max(_FEWEST, int(rows**0.5 / 10))
        return smallest, self.config.min_samples or min(smallest, 10)

    def _branches(self, z: Float[ndarray, "m d"], seed: int) -> Bool[ndarray, "b m"]:
        """Every branch that another fit finds. All rows together are none: half of any noise would match them."""
        reduced = Reducer(self.config.model_copy(update={"seed": seed})).fit(z)
        return branches_of(reduced.coordinates_, *self._sizes(len(z))).members[1:]


class PaperClusterer:
    """The paper's clusters of all heads' patterns together: UMAP, HDBSCAN and two filters.

    Attributes are those of :class:`Clusters`; the reasons are "wide" and "small".
    """

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    stability_: Float[ndarray, " c"]
    seed_stability_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def __init__(self, config: AtlasConfig, num_heads: int | None = None) -> None:
        """Store the settings.

        Args:
            config: settings of UMAP, HDBSCAN and the filters.
            num_heads: heads of the whole language model, which scale the smallest cluster; None: 5 members.
        """
        self.config = config
        self.num_heads = num_heads

    def fit(
        self, z: Float[ndarray, "n d"], where: Where | None = None, prompts: Int[ndarray, " n"] | None = None
    ) -> "PaperClusterer":
        """Find the clusters, as in :class:`Clusterer`.

        Args:
            z: embeddings.
            where: not used; it is for clusterers that work per head.
            prompts: the prompt of each row.
        """
        first, group, counts = merge_duplicates(z)
        own = z[first]
        reduced, density = self._fitted(own, counts, self.config)
        found = stability_of(
            one_hot(density.labels_, len(density.sizes_)),
            own,
            np.arange(len(own)) if prompts is None else prompts[first],
            counts,
            lambda rows, seed: self._clusters(own[rows], counts[rows], seed, len(rows) / len(own)),
            metric=self.config.metric,
            seed=self.config.seed,
        )
        alone = np.bincount(density.labels_[density.labels_ != NOISE], minlength=len(density.sizes_)) == 1
        self.labels_ = density.labels_[group]
        self.coordinates_ = reduced.coordinates_[group]
        self.nearest_distances_ = reduced.neighbors_.nearest_of_label(density.labels_, counts)[group]
        self.mean_distances_ = density.mean_distances_
        self.stability_, self.seed_stability_ = (np.where(alone, 1.0, values) for values in found)
        self.dropped_ = density.dropped_
        return self

    def _fitted(
        self, z: Float[ndarray, "m d"], counts: Int[ndarray, " m"], config: AtlasConfig
    ) -> tuple[Reducer, FilteredHDBSCAN]:
        reduced = Reducer(config).fit(z)
        density = FilteredHDBSCAN(config, self.num_heads)
        return reduced, density.fit(reduced.coordinates_, counts, reduced.neighbors_.nearest())

    def _clusters(
        self, z: Float[ndarray, "m d"], counts: Int[ndarray, " m"], seed: int, share: float
    ) -> Bool[ndarray, "c m"]:
        """Clusters of a share of the rows, in which a cluster has that share of its members; so sizes that are given
        shrink with it.
        """
        sizes = {"min_cluster_size": 2, "min_samples": 1}
        given = {name: getattr(self.config, name) for name in sizes}
        scaled = {name: max(sizes[name], round(value * share)) for name, value in given.items() if value is not None}
        _, density = self._fitted(z, counts, self.config.model_copy(update={"seed": seed, **scaled}))
        return one_hot(density.labels_, len(density.sizes_))


def one_hot(labels: Int[ndarray, " n"], count: int) -> Bool[ndarray, "c n"]:
    """The rows of each label from 0 to count - 1."""
    return labels == np.arange(count)[:, None]
