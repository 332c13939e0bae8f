"""Reduction of embeddings with UMAP (paper section 5.1).

UMAP starts from PCA, not from the spectral layout: PCA takes linear time and copes with many connected components.

On a GPU both the search for neighbours and UMAP are cuML's, which is imported for nothing else. The calls follow the
source of cuML 26.10; they were never run on a GPU.

Axes: n rows, d embedding, r reduced dimensions.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.atlas.neighbors import Neighbors, find_neighbors
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
from apmae.seeding import subseed

_EXTENT = 10.0
"""Largest coordinate of a layout's start, as in UMAP itself."""

_EPOCHS = 200
"""UMAP's own number for more than 10 000 rows. With fewer it takes 500, in two and a half times the time, which changed
nothing that was measured (``docs/studies/atlas.md``)."""


class Reducer:
    """UMAP, with the interface of a scikit-learn estimator.

    It is seeded and therefore runs on one thread: within a process the same rows give the same coordinates. In another
    process the last bits may differ (linear algebra uses threads), and then the layout does too: compare partitions.
    A GPU gives another layout.

    Attributes:
        coordinates_: (n, r) reduced rows.
        neighbors_: neighbours in embedding space, from which the coordinates were made.
    """

    coordinates_: Float[ndarray, "n r"]
    neighbors_: Neighbors

    def __init__(self, config: AtlasConfig) -> None:
        """Store the settings.

        Args:
            config: neighbours, minimum distance, metric, dimensions, device, seed.

        Raises:
            ConfigError: if the device is "cuda" and cuML is not installed.
        """
        expect_device(config.device)
        self.config = config

    def fit(self, z: Float[ndarray, "n d"]) -> "Reducer":
        """Find neighbours and lay them out.

        Args:
            z: distinct embeddings, at least 1.

        Raises:
            ConfigError: if the device is "cuda" and cuML cannot compute there: no GPU, or too little memory on it.
        """
        config, seed = self.config, subseed(self.config.seed, "umap") % 2**31
        k = min(config.neighbors, len(z))
        few = len(z) <= config.dimensions + 2
        if config.device == "cuda":
            with _gpu_errors():
                self.neighbors_ = _cuml_neighbors(z, k, config.metric)
                self.coordinates_ = _principal(z, config.dimensions) if few else _cuml_layout(z, k, config, seed)
            return self
        self.neighbors_ = find_neighbors(z, k, config.metric, seed)
        if few:  # too few rows for a layout: use their principal axes
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
                n_epochs=_EPOCHS,
                precomputed_knn=self.neighbors_,
            )
            self.coordinates_ = np.asarray(model.fit_transform(z), dtype=np.float32)
        return self


def expect_device(device: str) -> None:
    """Refuse a device whose library is not installed.

    Raises:
        ConfigError: if it is "cuda", and cuML is not there.
    """
    if device == "cuda" and find_spec("cuml") is None:
        raise ConfigError(
            "expected cuML for device=cuda, it is not installed; on Linux with an NVIDIA GPU run: pip install "
            "'apmae[gpu]', or leave device at cpu"
        )


@contextmanager
def _gpu_errors() -> Iterator[None]:
    """What cuML says of a GPU that is missing, too old or full, in one line; CUDA's own errors are RuntimeErrors."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, MemoryError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"expected a GPU that cuML can use for device=cuda: {why}; leave device at cpu") from error


def _cuml_neighbors(z: Float[ndarray, "n d"], k: int, metric: str) -> Neighbors:
    """The k rows nearest to each row, itself among them; exact, however many rows there are."""
    search = import_module("cuml.neighbors").NearestNeighbors(
        n_neighbors=k, algorithm="brute", metric=metric, output_type="numpy"
    )
    distances, indices = search.fit(z).kneighbors(z)
    return Neighbors(np.asarray(indices, dtype=np.int64), np.asarray(distances, dtype=np.float32))


def _cuml_layout(z: Float[ndarray, "n d"], k: int, config: AtlasConfig, seed: int) -> Float[ndarray, "n r"]:
    """UMAP from PCA. It searches neighbours again: given ones have to begin with the row itself, which ties prevent."""
    from sklearn.decomposition import PCA

    start: Any = "random"
    if z.shape[1] >= config.dimensions:
        axes = PCA(config.dimensions, random_state=seed).fit_transform(z)
        start = (axes * (_EXTENT / np.abs(axes).max())).astype(np.float32)
    model = import_module("cuml.manifold").UMAP(
        n_neighbors=k,
        min_dist=config.min_dist,
        metric=config.metric,
        n_components=config.dimensions,
        init=start,
        random_state=seed,
        output_type="numpy",
    )
    return np.asarray(model.fit_transform(z), dtype=np.float32)


def _principal(z: Float[ndarray, "n d"], dimensions: int) -> Float[ndarray, "n r"]:
    centered = z - z.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    axes = (u * s)[:, :dimensions]
    return np.pad(axes, ((0, 0), (0, dimensions - axes.shape[1]))).astype(np.float32)
