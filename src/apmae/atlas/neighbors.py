"""Nearest neighbours of embeddings, and how far apart rows lie.

Axes: n rows, d embedding, k neighbours.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_EXACT = 4096
"""Fewer rows than this have their neighbours searched exactly, as UMAP itself would."""


class Neighbors(NamedTuple):
    """The nearest rows of each row."""

    indices: Int[ndarray, "n k"]
    """The row itself is among them; -1 where the search found no more."""
    distances: Float[ndarray, "n k"]

    def nearest(self) -> Float[ndarray, " n"]:
        """Distance of each row to its nearest other."""
        return np.where(self._others(), self.distances, np.inf).min(1)

    def apart(self, labels: Int[ndarray, " n"], counts: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
        """Distance of each row to its nearest other of the same label.

        Where none is among the neighbours, a row that occurs several times has its own copies, at 0; another's is
        further than all its neighbours, the furthest of which is taken.

        Args:
            labels: cluster of each row.
            counts: how often each row occurs.
        """
        others = self._others()
        same = others & (labels[self.indices] == labels[:, None])
        apart = np.where(same, self.distances, np.inf).min(1)
        furthest = np.where(others, self.distances, 0).max(1)
        return np.where(np.isfinite(apart), apart, np.where(counts > 1, 0, furthest))

    def _others(self) -> Bool[ndarray, "n k"]:
        """Which of the neighbours are other rows."""
        return (self.indices >= 0) & (self.indices != np.arange(len(self.indices))[:, None])


def find_neighbors(z: Float[ndarray, "n d"], k: int, metric: str, seed: int) -> Neighbors:
    """The k nearest rows of each row, by an approximate search where there are many rows.

    Args:
        z: distinct rows, at least ``k``.
        k: neighbours, the row itself among them.
        metric: distance between rows, by scikit-learn's and UMAP's name.
        seed: of the approximate search.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba warn of their own internals on import and on small data
        if len(z) < _EXACT:
            from sklearn.neighbors import NearestNeighbors

            search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(z)
            distances, indices = search.kneighbors(z)
        else:
            from umap.umap_ import nearest_neighbors

            random = np.random.RandomState(seed)
            indices, distances, _ = nearest_neighbors(z, k, metric, {}, metric == "cosine", random)
    return Neighbors(np.asarray(indices, dtype=np.int64), np.asarray(distances, dtype=np.float32))
