"""Reduction of embeddings with UMAP (paper section 5.1).

UMAP starts from PCA, not from the spectral layout: PCA takes linear time and copes with many connected components.

Axes: n rows, d embedding, r reduced dimensions.
"""

import warnings

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.atlas.neighbors import Neighbors, find_neighbors
from apmae.config import AtlasConfig
from apmae.seeding import subseed


class Reducer:
    """UMAP, with the interface of a scikit-learn estimator.

    It is seeded and therefore runs on one thread: within a process the same rows give the same coordinates. In another
    process the last bits may differ (linear algebra uses threads), and then the layout does too: compare partitions.

    Attributes:
        coordinates_: (n, r) reduced rows.
        neighbors_: neighbours in embedding space, from which the coordinates were made.
    """

    coordinates_: Float[ndarray, "n r"]
    neighbors_: Neighbors

    def __init__(self, config: AtlasConfig) -> None:
        """Store the settings.

        Args:
            config: neighbours, minimum distance, metric, dimensions, seed.
        """
        self.config = config

    def fit(self, z: Float[ndarray, "n d"]) -> "Reducer":
        """Find neighbours and lay them out.

        Args:
            z: distinct embeddings, at least 1.
        """
        config, seed = self.config, subseed(self.config.seed, "umap") % 2**31
        k = min(config.neighbors, len(z))
        self.neighbors_ = find_neighbors(z, k, config.metric, seed)
        if len(z) <= config.dimensions + 2:  # too few rows for a layout: use their principal axes
            self.coordinates_ = _principal(z, config.dimensions)
            return self
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap and numba warn about their internals on import and on small data
            from umap import UMAP

            model = UMAP(
                n_neighbors=k,
                min_dist=config.min_dist,
                metric=config.metric,
                n_components=config.dimensions,
                init="pca" if z.shape[1] >= config.dimensions else "random",  # there are no more axes than dimensions
                random_state=seed,
                n_jobs=1,
                precomputed_knn=self.neighbors_,
            )
            self.coordinates_ = np.asarray(model.fit_transform(z), dtype=np.float32)
        return self


def _principal(z: Float[ndarray, "n d"], dimensions: int) -> Float[ndarray, "n r"]:
    centered = z - z.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    axes = (u * s)[:, :dimensions]
    return np.pad(axes, ((0, 0), (0, dimensions - axes.shape[1]))).astype(np.float32)
