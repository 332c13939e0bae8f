"""Clusters in each head alone, as the paper's published notebook finds them: hundreds of small fits in a process pool.

A cluster then is one head's way to attend, and heads can be compared by how many they have.

Axes: n rows, d embedding, r reduced dimensions, c clusters, m rows of a head.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.clusterers import PaperClusterer
from apmae.atlas.rows import Where
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
from apmae.schema import NOISE

_FEW = 16
"""With fewer heads, starting processes takes longer than fitting."""


class PerHeadClusterer:
    """Clusters the patterns of each head by themselves, by the paper's clusterer.

    Attributes are those of ``Clusters``. Coordinates of different heads are of different layouts.
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
            config: settings of UMAP, HDBSCAN and the filters.
        """
        self.config = config

    def fit(
        self, z: Float[ndarray, "n d"], where: Where | None = None, prompts: Int[ndarray, " n"] | None = None
    ) -> "PerHeadClusterer":
        """Find the clusters.

        Args:
            z: embeddings.
            where: layer and head of each row.
            prompts: the prompt of each row.

        Raises:
            ConfigError: if it is not known which head each row is of.
        """
        if where is None:
            raise ConfigError("expected where=(layer, head) of each embedding for clusters per head, got none; give it")
        _, head = np.unique(np.stack(where), axis=1, return_inverse=True)
        order = np.argsort(head.ravel(), kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(head.ravel()))[:-1])
        prompts = np.arange(len(z)) if prompts is None else prompts
        jobs = [(z[own], prompts[own]) for own in rows]
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        fit = partial(_fit_head, config=self.config)
        if len(jobs) < _FEW or workers < 2:
            fitted = [fit(job) for job in jobs]
        else:  # spawned: numba's and torch's threads do not survive a fork
            with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
                fitted = list(pool.map(fit, jobs, chunksize=max(1, len(jobs) // (4 * workers))))
        self._join(fitted, rows, len(z))
        return self

    def _join(self, fitted: list[PaperClusterer], rows: list[Int[ndarray, " _"]], count: int) -> None:
        """Number the clusters of all heads together, the largest first."""
        labels = np.full(count, NOISE, np.int64)
        nearest = np.zeros(count, np.float32)
        coordinates = np.zeros((count, self.config.dimensions), np.float32)
        begin, dropped = 0, {}
        for found, own in zip(fitted, rows, strict=True):
            labels[own] = np.where(found.labels_ == NOISE, NOISE, found.labels_ + begin)
            nearest[own], coordinates[own] = found.nearest_distances_, found.coordinates_
            begin += len(found.stability_)
            for reason, number in found.dropped_.items():
                dropped[reason] = dropped.get(reason, 0) + number
        sizes = np.bincount(labels[labels != NOISE], minlength=begin)
        order = np.argsort(-sizes, kind="stable")
        number = np.append(np.argsort(order), NOISE)
        self.labels_, self.nearest_distances_, self.coordinates_ = number[labels], nearest, coordinates
        for name in ("mean_distances_", "stability_", "seed_stability_"):
            setattr(self, name, np.concatenate([getattr(found, name) for found in fitted])[order])
        self.dropped_ = dropped


def _fit_head(job: tuple[Float[ndarray, "m d"], Int[ndarray, " m"]], config: AtlasConfig) -> PaperClusterer:
    """Fit one head's rows; a head with a single row has no clusters."""
    return PaperClusterer(config).fit(job[0], None, job[1])
