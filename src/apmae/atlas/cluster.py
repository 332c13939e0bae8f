"""Clusters of reduced embeddings with HDBSCAN, and the paper's two filters (section 5.2)."""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.spatial import cKDTree

from apmae.config import AtlasConfig

NOISE = -1


class Clusters(NamedTuple):
    """Labels and what is known of each cluster, in the order of its number (largest first)."""

    labels: Int[ndarray, " n"]
    """Cluster of each row, -1 noise."""
    sizes: Int[ndarray, " c"]
    mean_distances: Float[ndarray, " c"]
    """Mean distance of a member to its cluster's centre, reduced coordinates."""
    persistence: Float[ndarray, " c"]
    """HDBSCAN's, in [0, 1]: how long the cluster outlives its density level."""
    dropped: dict[str, int]
    """Clusters left out, by reason."""


def floor_of(config: AtlasConfig, num_heads: int | None) -> int:
    """Fewest members of a cluster: the paper's 100 / 160 / 267 for 720 / 1 152 / 1 920 heads, scaled; at least 5.

    Args:
        config: ``floor_per_head``.
        num_heads: heads of the whole model (layers x heads); None where unknown.
    """
    return max(5, round(config.floor_per_head * (num_heads or 0)))


def smallest_cluster(config: AtlasConfig, num_heads: int | None, rows: int) -> int:
    """HDBSCAN's smallest cluster. The paper names none; a fixed one finds ever more clusters as the study grows.

    Args:
        config: ``min_cluster_size``, if it is set.
        num_heads: heads of the model: clusters below their floor would be dropped.
        rows: distinct rows; a fifth of their square root, at most 50, keeps a small study from splitting into crumbs.
    """
    return config.min_cluster_size or max(floor_of(config, num_heads), min(50, int(rows**0.5 / 5)))


def separation(coordinates: Float[ndarray, "n r"], config: AtlasConfig, neighbors: int) -> float:
    """Distance below which clusters are not told apart: the paper's 0.5, or less where the points lie denser.

    The paper's is an absolute distance in a layout of 19.2 million patterns. In a layout of a few thousand it joins
    everything: 9 600 patterns gave 2 clusters, both too wide. The median distance to a point's ``neighbors``-th
    neighbour is the layout's own scale (``docs/decisions.md``).
    """
    distances, _ = cKDTree(coordinates).query(coordinates, k=[neighbors + 1])
    return min(config.epsilon, float(np.median(distances)))


def cluster(
    coordinates: Float[ndarray, "n r"], counts: Int[ndarray, " n"], config: AtlasConfig, num_heads: int | None
) -> Clusters:
    """Find clusters and drop the wide and the small ones.

    Args:
        coordinates: reduced embeddings of distinct rows.
        counts: how often each row occurs; a row that alone reaches the floor is a cluster of its own.
        config: HDBSCAN's settings and the filters.
        num_heads: heads of the model, for the floor.
    """
    labels, persistence = _hdbscan(coordinates, config, num_heads)
    floor = floor_of(config, num_heads)
    lone = np.flatnonzero((labels == NOISE) & (counts >= floor))
    start = len(persistence)
    labels[lone] = np.arange(start, start + len(lone))
    persistence = np.concatenate([persistence, np.ones(len(lone))])
    total = len(persistence)
    members = members_of(labels, total)
    sizes = np.array([counts[own].sum() for own in members], dtype=np.int64)
    spread = np.array([_mean_distance(coordinates[own], counts[own]) for own in members])
    wide, small = spread > config.max_mean_distance, sizes < floor
    kept = np.flatnonzero(~wide & ~small)
    kept = kept[np.argsort(-sizes[kept], kind="stable")]
    number = np.full(total + 1, NOISE, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    dropped = {"wide": int(wide.sum()), "small": int((small & ~wide).sum())}
    return Clusters(number[labels], sizes[kept], spread[kept], persistence[kept], dropped)


def _hdbscan(
    coordinates: Float[ndarray, "n r"], config: AtlasConfig, num_heads: int | None
) -> tuple[Int[ndarray, " n"], Float[ndarray, " c"]]:
    smallest = smallest_cluster(config, num_heads, len(coordinates))
    if len(coordinates) < max(smallest, 3):
        return np.full(len(coordinates), NOISE, dtype=np.int64), np.zeros(0)
    samples = min(config.min_samples or min(smallest, 10), len(coordinates) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between hdbscan and its own dependencies
        from hdbscan import HDBSCAN

        model = HDBSCAN(
            min_cluster_size=smallest,
            min_samples=samples,
            cluster_selection_method=config.selection,
            cluster_selection_epsilon=separation(coordinates, config, samples),
            core_dist_n_jobs=1,
        ).fit(coordinates.astype(np.float64))
    return model.labels_.astype(np.int64), np.asarray(model.cluster_persistence_, dtype=np.float64)


def members_of(labels: Int[ndarray, " n"], count: int) -> list[Int[ndarray, " m"]]:
    """Rows of each of the labels 0 .. count - 1, ascending, in one pass whatever their number."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(count + 1)))[1:-1]


def _mean_distance(points: Float[ndarray, "m r"], weights: Int[ndarray, " m"]) -> float:
    """To the centre, not between pairs: the paper says average intra-cluster distance, and pairs are quadratic."""
    centre = np.average(points, axis=0, weights=weights)
    return float(np.average(np.linalg.norm(points - centre, axis=1), weights=weights))
