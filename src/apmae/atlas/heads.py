"""Clusters in each head alone, as the paper's published notebook finds them: hundreds of small fits in processes.

A cluster then is one head's way to attend, and heads can be compared by how many they have.

Processes are joblib's (loky): they do not import the main module, so a script needs no ``if __name__ == "__main__"``
and may come from standard input, and each computes in one thread.

Axes: n rows, d embedding, r reduced dimensions, c clusters, m rows of a head.
"""

import os
from itertools import starmap
from multiprocessing import current_process
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from joblib import Parallel, delayed, parallel_config
from numpy import ndarray

from apmae.atlas.clusterers import PaperClusterer
from apmae.atlas.rows import Where, head_numbers, members_of
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
            z: embeddings; float16 will do.
            where: layer and head of each row.
            prompts: the prompt of each row.

        Raises:
            ConfigError: if it is not known which head each row is of.
        """
        if where is None:
            raise ConfigError("expected where=(layer, head) of each embedding for clusters per head, got none; give it")
        numbers, head = np.unique(head_numbers(where), return_inverse=True)
        rows = members_of(head.ravel(), len(numbers))
        prompts = np.arange(len(z)) if prompts is None else prompts
        workers = min(_workers(), len(rows)) if len(rows) >= _FEW else 1
        # A head's rows are copied when a process is about to be free for them, not before.
        jobs = ((z[own].astype(np.float32), prompts[own], self.config) for own in rows)
        if workers == 1:
            fitted = list(starmap(_fit_head, jobs))
        else:
            with parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1):
                one_by_one: Any = Parallel(batch_size=1, max_nbytes=None)  # pyright: ignore[reportArgumentType]
                fitted = one_by_one(delayed(_fit_head)(*job) for job in jobs)
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


def share_at_once(where: Where | None) -> float:
    """The largest share of the rows that are in memory for a fit at the same time, in (0, 1].

    Args:
        where: layer and head of each row; None: there is no fit without it, so all.
    """
    if where is None or not len(where[0]):
        return 1.0
    _, sizes = np.unique(head_numbers(where), return_counts=True)
    return min(1.0, _workers() * int(sizes.max()) / int(sizes.sum()))


def _workers() -> int:
    """Processes to fit with; one, this one, if it may not start others."""
    if current_process().daemon:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fit_head(z: Float[ndarray, "m d"], prompts: Int[ndarray, " m"], config: AtlasConfig) -> PaperClusterer:
    """Fit one head's rows; a head with a single row has no clusters."""
    return PaperClusterer(config).fit(z, None, prompts)
