"""Reduction of embeddings with UMAP (paper section 5.1).

Axes: n rows, d embedding, r reduced dimensions, k neighbours.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.config import AtlasConfig
from apmae.seeding import subseed

_EXACT = 4096
"""Fewer rows than this have their neighbours searched exactly, as UMAP itself would."""


class Reduced(NamedTuple):
    """Coordinates and the neighbours they were made from."""

    coordinates: Float[ndarray, "n r"]
    neighbors: Int[ndarray, "n k"]
    """Nearest rows in embedding space, the row itself among them; -1 where the search found no more."""
    distances: Float[ndarray, "n k"]


def merge_duplicates(z: Float[ndarray, "n d"]) -> tuple[Int[ndarray, " u"], Int[ndarray, " n"], Int[ndarray, " u"]]:
    """Rows that are equal in fp16, the precision they are stored in.

    Returns:
        The first row of each group, the group of each row, and the size of each group. Groups are in the order of
        their first rows.
    """
    rows = np.ascontiguousarray(z.astype(np.float16) + np.float16(0))  # -0 becomes 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, group, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[group.ravel()], count[order]


def reduce(z: Float[ndarray, "n d"], config: AtlasConfig) -> Reduced:
    """Fit UMAP on distinct rows.

    Seeded, and therefore on one thread: the same rows give the same coordinates within a process. Another process may
    differ in the last bits (its linear algebra's threads), and the layout with them: compare partitions then.

    Args:
        z: distinct embeddings, at least 1.
        config: neighbours, minimum distance, metric, dimensions, seed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba warn of their own internals on import and on small data
        seed = subseed(config.seed, "umap") % 2**31
        k = min(config.neighbors, len(z))
        indices, distances = _neighbors(z, k, config.metric, seed)
        if len(z) <= config.dimensions + 2:  # too few rows for a layout: their own principal axes
            return Reduced(_principal(z, config.dimensions), indices, distances)
        from umap import UMAP

        model = UMAP(
            n_neighbors=k,
            min_dist=config.min_dist,
            metric=config.metric,
            n_components=config.dimensions,
            init="pca" if z.shape[1] >= config.dimensions else "random",  # there are no more axes than dimensions
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(indices, distances),
        )
        coordinates = np.asarray(model.fit_transform(z), dtype=np.float32)
    return Reduced(coordinates, indices, distances)


def _neighbors(
    z: Float[ndarray, "n d"], k: int, metric: str, seed: int
) -> tuple[Int[ndarray, "n k"], Float[ndarray, "n k"]]:
    if len(z) < _EXACT:
        from sklearn.neighbors import NearestNeighbors

        distances, indices = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(z).kneighbors(z)
    else:
        from umap.umap_ import nearest_neighbors

        indices, distances, _ = nearest_neighbors(z, k, metric, {}, metric == "cosine", np.random.RandomState(seed))
    return np.asarray(indices, dtype=np.int64), np.asarray(distances, dtype=np.float32)


def _principal(z: Float[ndarray, "n d"], dimensions: int) -> Float[ndarray, "n r"]:
    centered = z - z.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    axes = (u * s)[:, :dimensions]
    return np.pad(axes, ((0, 0), (0, dimensions - axes.shape[1]))).astype(np.float32)
