"""Nearest neighbours of embeddings, and distances between rows.

Axes: n rows, d embedding, k neighbours.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_EXACT = 4096
"""With fewer rows than this the search is exact, as in UMAP itself."""


class Neighbors(NamedTuple):
    """The rows nearest to each row."""

    indices: Int[ndarray, "n k"]
    """The row itself is among them; -1 where the search found no more."""
    distances: Float[ndarray, "n k"]

    def nearest(self) -> Float[ndarray, " n"]:
        """Distance of each row to its nearest other row."""
        return np.where(self._is_other_row(), self.distances, np.inf).min(1)

    def nearest_of_label(self, labels: Int[ndarray, " n"], counts: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
        """Distance of each row to its nearest other row of the same label.

        If there is none among the neighbours, it is 0 for a row with copies. For any other row it is at least the
        distance of the furthest neighbour, which is returned.

        Args:
            labels: cluster of each row.
            counts: how often each row occurs.
        """
        other = self._is_other_row()
        same = other & (labels[self.indices] == labels[:, None])
        nearest = np.where(same, self.distances, np.inf).min(1)
        furthest = np.where(other, self.distances, 0).max(1)
        return np.where(np.isfinite(nearest), nearest, np.where(counts > 1, 0, furthest))

    def _is_other_row(self) -> Bool[ndarray, "n k"]:
        """True for neighbours that are other rows, not the row itself or missing."""
        return (self.indices >= 0) & (self.indices != np.arange(len(self.indices))[:, None])


def find_neighbors(z: Float[ndarray, "n d"], k: int, metric: str, seed: int) -> Neighbors:
    """The k rows nearest to each row; the search is approximate if there are many rows.

    Args:
        z: distinct rows, at least ``k``.
        k: number of neighbours, including the row itself.
        metric: distance between rows, a name that scikit-learn and UMAP both know.
        seed: for the approximate search.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba warn about their internals on import and on small data
        if len(z) < _EXACT:
            from sklearn.neighbors import NearestNeighbors

            search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(z)
            distances, indices = search.kneighbors(z)
        else:
            from umap.umap_ import nearest_neighbors

            random = np.random.RandomState(seed)
            indices, distances, _ = nearest_neighbors(z, k, metric, {}, metric == "cosine", random)
    return Neighbors(np.asarray(indices, dtype=np.int64), np.asarray(distances, dtype=np.float32))
