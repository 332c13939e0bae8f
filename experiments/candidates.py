"""Candidates for the clusterer of the atlas, compared on two halves of the prompts. Used by ``atlas.py clusterers``.

Two candidates are of packages that apmae does not depend on; without one of them its rows are left out.

Axes: n rows, d embedding, r reduced dimensions.
"""

from collections.abc import Callable
from functools import cached_property, partial
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
from embedding import jaccard
from numpy import ndarray
from scipy.sparse import csr_matrix
from seen import Seen
from sklearn.metrics import mutual_info_score

from apmae.atlas.branches import STABLE, Branches, branches_of, choose
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import merge_duplicates, sample_of
from apmae.atlas.search import Search
from apmae.atlas.stability import stability_of
from apmae.atlas.vote import VOTERS
from apmae.config import AtlasConfig
from apmae.schema import NOISE

_PACKAGES = {"fast_hdbscan": "fast-hdbscan==0.3.4", "sknetwork.clustering": "scikit-network==0.33.5"}
_SHARED = 3
"""Shared neighbours that join two patterns in Leiden's graph, at least."""


class Half:
    """Distinct patterns of one half of the prompts, and layouts of them that all candidates share."""

    def __init__(self, found: Seen, rows: ndarray, seed: int) -> None:
        self.config = AtlasConfig(seed=seed)
        rows = sample_of(rows, self.config.fit_points, found.z.shape[1], seed)
        self.rows = rows[merge_duplicates(found.z[rows])[0]]
        self.z = found.z[self.rows].astype(np.float16).astype(np.float32)
        self.prompt = found.prompt[self.rows]
        self._layouts: dict[int, ndarray] = {}

    def layout(self, seed: int, rows: ndarray | slice = slice(None)) -> ndarray:
        """UMAP of some rows. A seed belongs to the same rows each time."""
        if seed not in self._layouts:
            config = self.config.model_copy(update={"seed": seed})
            self._layouts[seed] = Reducer(config).fit(self.z[rows]).coordinates_
        return self._layouts[seed]

    @cached_property
    def graph(self) -> csr_matrix:
        """How many of their nearest neighbours any two patterns share."""
        near = Search(self.z, self.config.metric, VOTERS).nearest(self.z).indices
        pointers = np.arange(0, near.size + 1, VOTERS)
        linked = csr_matrix((np.ones(near.size), near.ravel(), pointers), shape=(len(near), len(near)))
        shared = linked @ linked.T
        shared.setdiag(0)
        shared.data[shared.data < _SHARED] = 0
        shared.eliminate_zeros()
        return shared


def hdbscan(smallest: int, method: str, half: Half) -> ndarray:
    """Labels of HDBSCAN, with its own choice of branches ("eom") or its leaves."""
    from hdbscan import HDBSCAN

    model = HDBSCAN(
        min_cluster_size=smallest,
        min_samples=10,
        cluster_selection_method=method,
        approx_min_span_tree=False,
        core_dist_n_jobs=1,
    )
    return model.fit(half.layout(half.config.seed).astype(np.float64)).labels_


def plscan(half: Half) -> ndarray:
    """Labels of PLSCAN: HDBSCAN without a smallest cluster."""
    return _imported("fast_hdbscan").PLSCAN().fit(half.layout(half.config.seed)).labels_


def leiden(resolution: float, half: Half) -> ndarray:
    """Labels of Leiden on the graph of shared neighbours."""
    model = _imported("sknetwork.clustering").Leiden(resolution=resolution, random_state=0)
    return model.fit_predict(half.graph)


def branches(free: float, part: int, half: Half) -> ndarray:
    """Branches of the density tree, chosen by their stability over halves of the half's own prompts (the default way).

    Args:
        free: stability that earns nothing.
        part: the smallest branch is the root of the patterns divided by this.
        half: the patterns.
    """

    def tree(coordinates: ndarray) -> Branches:
        smallest = max(5, int(len(coordinates) ** 0.5 / part))
        return branches_of(coordinates, smallest, min(smallest, 10))

    def refit(rows: ndarray, seed: int) -> ndarray:
        if len(rows) == len(half.z):
            return np.zeros((0, len(rows)), bool)  # stability over seeds chooses nothing
        return tree(half.layout(seed, rows)).members[1:]

    found, once = tree(half.layout(half.config.seed)), np.ones(len(half.z), np.int64)
    stable = stability_of(
        found.members, half.z, half.prompt, once, refit, metric=half.config.metric, seed=half.config.seed
    )
    labels = np.full(len(half.z), NOISE)
    for number, branch in enumerate(choose(found, stable.halves, once, free)):
        labels[found.members[branch]] = number
    return labels


CANDIDATES: dict[str, Callable[[Half], ndarray]] = {
    **{f"HDBSCAN, smallest cluster {size}": partial(hdbscan, size, "eom") for size in (25, 50, 100)},
    "HDBSCAN's leaves, smallest cluster 50": partial(hdbscan, 50, "leaf"),
    "PLSCAN of fast-hdbscan 0.3": plscan,
    **{f"Leiden on shared neighbours, resolution {size}": partial(leiden, size) for size in (1, 3, 10)},
    **{
        f"branches above {free}, the smallest a fifth of the root": partial(branches, free, 5)
        for free in (0.2, 0.3, 0.4, 0.5)
    },
    "branches above 0.3, the smallest a third of the root": partial(branches, 0.3, 3),
    "branches above 0.3, the smallest a tenth of the root": partial(branches, 0.3, 10),
}


class Row(NamedTuple):
    """A line of the table; all but the last two are of the first half's patterns."""

    clusters: int
    covered: float
    """Share of the patterns that are in a cluster."""
    largest: float
    """Share of the patterns that are in the largest."""
    nats: float
    """What the cluster tells of the head."""
    again: float
    """Mean Jaccard index of a cluster with the other half's cluster that matches best, on that half's patterns."""
    stable: float
    """Share of the clusters for which that is at least 0.75."""


def compared(first: Half, second: Half, head: ndarray, candidate: Callable[[Half], ndarray]) -> Row:
    """Fit both halves, and look for the clusters of the first in the second.

    Args:
        first: whose clusters are measured.
        second: where they are looked for.
        head: of each pattern that was seen.
        candidate: gives labels.
    """
    ours, theirs = candidate(first), candidate(second)
    placed = _placed(first, ours, second)
    sizes = np.bincount(ours[ours != NOISE])
    best = np.array(
        [
            max((jaccard(placed == own, theirs == other) for other in range(theirs.max() + 1)), default=0.0)
            for own in range(len(sizes))
        ]
    )
    return Row(
        len(sizes),
        float(np.mean(ours != NOISE)),
        float(sizes.max(initial=0) / len(ours)),
        float(mutual_info_score(head[first.rows], ours)),
        float(best.mean()) if len(best) else np.nan,
        float(np.mean(best >= STABLE)) if len(best) else np.nan,
    )


def _placed(half: Half, labels: ndarray, other: Half) -> ndarray:
    """The label that half of the nearest patterns have, or noise: labels alone, since radii differ with candidates."""
    voters = labels[Search(half.z, half.config.metric, VOTERS).nearest(other.z).indices]
    placed = np.full(len(voters), NOISE)
    for label in range(labels.max() + 1):
        placed[(voters == label).mean(1) > 0.5] = label
    return placed


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"not measured: pip install {_PACKAGES[name]}") from error
