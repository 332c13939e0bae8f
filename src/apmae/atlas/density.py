"""Clusters of reduced embeddings with HDBSCAN, and the paper's two filters (section 5.2).

The smallest cluster grows with the study: a third of the square root of its rows, at most 50 and never below the
paper's floor. With a fixed size, the number of clusters would grow with the number of patterns. Mean distance is to the
centre, because there are quadratically many pairs. A row that alone reaches the floor is a separate cluster: to
HDBSCAN, 1 000 equal patterns are one point, and would be noise. We use hdbscan because scikit-learn's HDBSCAN takes
quadratic time, and fast_hdbscan compiles for minutes at first use.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.atlas.rows import members_of
from apmae.config import AtlasConfig
from apmae.schema import NOISE


def floor_of(config: AtlasConfig, num_heads: int | None) -> int:
    """Fewest members of a cluster: the paper's 100 / 160 / 267 for 720 / 1 152 / 1 920 heads, scaled; at least 5.

    Args:
        config: ``floor_per_head``.
        num_heads: heads of the whole model (layers x heads); None if unknown.
    """
    return max(5, round(config.floor_per_head * (num_heads or 0)))


def smallest_cluster(config: AtlasConfig, num_heads: int | None, rows: int) -> int:
    """HDBSCAN's smallest cluster. The paper does not state it; a fixed size gives more clusters the larger the study.

    Args:
        config: ``min_cluster_size``, if it is set.
        num_heads: heads of the model: clusters below their floor would be dropped.
        rows: distinct rows; a third of their square root, at most 50, keeps a small study in a few clusters.
    """
    return config.min_cluster_size or max(floor_of(config, num_heads), min(50, int(rows**0.5 / 3)))


class FilteredHDBSCAN:
    """HDBSCAN, of which wide and small clusters are dropped. A scikit-learn estimator.

    Attributes:
        labels_: (n,) cluster of each row, -1 for noise; the largest cluster is 0.
        sizes_: (c,) members of each cluster, copies counted.
        mean_distances_: (c,) mean distance of a member to its cluster's centre, in reduced coordinates.
        persistence_: (c,) HDBSCAN's, in [0, 1]: over how large a range of densities the cluster exists.
        dropped_: how many clusters were left out, by reason: "wide" and "small".
    """

    labels_: Int[ndarray, " n"]
    sizes_: Int[ndarray, " c"]
    mean_distances_: Float[ndarray, " c"]
    persistence_: Float[ndarray, " c"]
    dropped_: dict[str, int]

    def __init__(self, config: AtlasConfig, num_heads: int | None = None) -> None:
        """Store the settings.

        Args:
            config: HDBSCAN's settings and the filters.
            num_heads: heads of the whole language model, for the floor; None if unknown.
        """
        self.config = config
        self.num_heads = num_heads

    def fit(
        self,
        coordinates: Float[ndarray, "n r"],
        counts: Int[ndarray, " n"],
        nearest: Float[ndarray, " n"] | None = None,
    ) -> "FilteredHDBSCAN":
        """Find clusters, then drop the wide and the small ones.

        Args:
            coordinates: reduced embeddings of distinct rows.
            counts: how often each row occurs. A row that alone reaches the floor, and is noise or an outlier, becomes
                a separate cluster.
            nearest: distance of each row to its nearest other row before the reduction, which draws outliers towards
                their neighbours; None counts only noise.
        """
        config = self.config
        smallest = smallest_cluster(config, self.num_heads, len(coordinates))
        labels, persistence = _hdbscan(coordinates, smallest, config)
        floor = floor_of(config, self.num_heads)
        start = len(persistence)
        lone = lone_rows(labels, nearest, counts >= floor, start)
        labels[lone] = np.arange(start, start + len(lone))
        persistence = np.concatenate([persistence, np.ones(len(lone))])
        total = len(persistence)
        members = members_of(labels, total)
        sizes = np.array([counts[own].sum() for own in members], dtype=np.int64)
        spread = np.array([mean_distance(coordinates[own], counts[own]) for own in members])
        wide, small = spread > config.max_mean_distance, sizes < floor
        kept = np.flatnonzero(~wide & ~small)
        kept = kept[np.argsort(-sizes[kept], kind="stable")]
        number = np.full(total + 1, NOISE, dtype=np.int64)
        number[kept] = np.arange(len(kept))
        self.labels_ = number[labels]
        self.sizes_, self.mean_distances_, self.persistence_ = sizes[kept], spread[kept], persistence[kept]
        self.dropped_ = {"wide": int(wide.sum()), "small": int((small & ~wide).sum())}
        return self


def _hdbscan(
    coordinates: Float[ndarray, "n r"],
    smallest: int,
    config: AtlasConfig,
) -> tuple[Int[ndarray, " n"], Float[ndarray, " c"]]:
    if len(coordinates) < max(smallest, 3):
        return np.full(len(coordinates), NOISE, dtype=np.int64), np.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between hdbscan and its own dependencies
        from hdbscan import HDBSCAN

        model = HDBSCAN(
            min_cluster_size=smallest,
            min_samples=min(config.min_samples or min(smallest, 10), len(coordinates) - 1),
            cluster_selection_epsilon=config.epsilon,
            approx_min_span_tree=False,  # the approximate tree is no faster and mislabels a few percent of the rows
            core_dist_n_jobs=1,
        ).fit(coordinates.astype(np.float64))
    return model.labels_.astype(np.int64), np.asarray(model.cluster_persistence_, dtype=np.float64)


def lone_rows(
    labels: Int[ndarray, " n"], nearest: Float[ndarray, " n"] | None, many: Bool[ndarray, " n"], count: int
) -> Int[ndarray, " l"]:
    """Rows that occur often enough to be a cluster alone, and are noise or an outlier of the cluster that they are in.

    Args:
        labels: cluster of each row, -1 for noise.
        nearest: distance of each row to its nearest other row before the reduction; None counts only noise.
        many: which rows occur often enough.
        count: number of clusters.
    """
    isolated = labels == NOISE
    if nearest is not None:
        isolated |= _outlying(labels, nearest, many, count)
    return np.flatnonzero(isolated & many)


def _outlying(
    labels: Int[ndarray, " n"], nearest: Float[ndarray, " n"], many: Bool[ndarray, " n"], count: int
) -> Bool[ndarray, " n"]:
    """Rows more than twice as far from all others as is usual in their cluster.

    What is usual follows from the rows that do not occur ``many`` times.
    """
    outlying = np.zeros(len(labels), dtype=bool)
    for own in members_of(labels, count):
        usual = nearest[own[~many[own]]]
        outlying[own] = nearest[own] > 2 * (np.quantile(usual, 0.95) if len(usual) else np.inf)
    return outlying


def mean_distance(points: Float[ndarray, "m r"], weights: Int[ndarray, " m"]) -> float:
    """Weighted mean distance to the centre. The paper says intra-cluster distance, but there are quadratically many."""
    centre = np.average(points, axis=0, weights=weights)
    return float(np.average(np.linalg.norm(points - centre, axis=1), weights=weights))
