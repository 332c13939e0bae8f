"""Trustworthiness of a reduction (paper section 5.1 and Figure 7; Venna and Kaski 2001).

Are rows that are neighbours in reduced space neighbours in embedding space too? Each of a row's k nearest in reduced
space costs as much as it ranks beyond k in embedding space. The definition is that of ``trustworthiness`` in
``sklearn.manifold``, which holds all n x n distances and their order at once. Here ranks are as exact, but taken for
some query rows at a time, against all rows.

Axes: n rows, d embedding, r reduced dimensions, q queries, k neighbours.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.rows import finite_embeddings
from apmae.errors import ConfigError
from apmae.seeding import generator

_BLOCK = 64
"""Queries at a time; with n rows they take 8 n bytes each."""
_TILE = 4096
"""Rows whose distances to a block are computed at a time: scikit-learn copies what it is given to float64."""


class Trustworthiness(NamedTuple):
    """How far a reduction can be trusted."""

    value: float
    """In [0, 1]; 1: every neighbour in reduced space is one of the k nearest in embedding space. Random neighbours have
    about 0.5."""
    error: float
    """Standard error of ``value`` from asking a sample of the n rows; 0 if all were asked. It says how far the value
    for these n rows and this reduction may be off, not what other patterns or another seed of UMAP would give."""
    queries: int
    """Rows asked."""


def trustworthiness(
    z: Any, reduced: Any, k: int = 1000, *, queries: int | None = 1000, metric: str = "manhattan", seed: int = 0
) -> Trustworthiness:
    """Compare neighbours in reduced space with ranks in embedding space.

    Rows at equal distance share the best of their ranks.

    Args:
        z: (n, d) embeddings.
        reduced: (n, r) the same rows in reduced coordinates, where distances are Euclidean.
        k: neighbours, fewer than half of the rows. The value depends on ``k / n``: compare at equal numbers only.
        queries: rows to ask, drawn without replacement; all of them if None or at least n. The standard error is about
            0.14 divided by the root of it.
        metric: distance between embeddings, a name that scikit-learn knows.
        seed: decides which rows are asked: the same ones for every reduction of as many rows.

    Raises:
        ConfigError: if ``k`` is not in [1, n / 2), ``queries`` is under 2, the arrays have different numbers of rows,
            or not all values are finite.
    """
    from sklearn.neighbors import NearestNeighbors

    z, reduced = finite_embeddings(z), finite_embeddings(reduced)
    rows = len(z)
    if len(reduced) != rows:
        raise ConfigError(f"expected as many reduced rows as embeddings, {rows}, got {len(reduced)}")
    if not 1 <= k < rows / 2:
        raise ConfigError(
            f"expected neighbors from 1 to {(rows - 1) // 2}, fewer than half of the {rows} rows, got {k}; take fewer, "
            "or encode more prompts"
        )
    if queries is not None and queries < 2:
        raise ConfigError(f"expected at least 2 queries, for a standard error, got {queries}")
    asked = np.arange(rows)
    if queries is not None and queries < rows:
        asked = np.sort(generator(seed, "trustworthiness").choice(rows, queries, replace=False))
    search = NearestNeighbors(n_neighbors=k + 1).fit(reduced)
    excess = np.empty(len(asked))
    for first in range(0, len(asked), _BLOCK):
        block = asked[first : first + _BLOCK]
        neighbors = _others(search.kneighbors(reduced[block], return_distance=False), block)
        excess[first : first + _BLOCK] = np.maximum(_ranks(z, block, neighbors, metric) - k, 0).sum(1)
    worth = 1 - excess * 2 / (k * (2 * rows - 3 * k - 1))
    error = np.sqrt(worth.var(ddof=1) / len(asked) * (1 - len(asked) / rows))  # of a draw without replacement
    return Trustworthiness(float(worth.mean()), float(error), len(asked))


def _others(found: Int[ndarray, "q more"], asked: Int[ndarray, " q"]) -> Int[ndarray, "q k"]:
    """Without the row itself, or without the furthest where many equal rows keep it out; one less than was found."""
    own = found == asked[:, None]
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(found), -1)


def _ranks(
    z: Float[ndarray, "n d"], asked: Int[ndarray, " q"], neighbors: Int[ndarray, "q k"], metric: str
) -> Int[ndarray, "q k"]:
    """Of each neighbour, how many other rows are nearer to the row asked in embedding space, plus 1."""
    from sklearn.metrics import pairwise_distances

    distances = np.empty((len(asked), len(z)))
    for first in range(0, len(z), _TILE):
        tile = z[first : first + _TILE]
        distances[:, first : first + _TILE] = pairwise_distances(z[asked], tile, metric=metric)
    distances[np.arange(len(asked)), asked] = -np.inf  # the row itself is first, which makes the next rank 1
    wanted = np.take_along_axis(distances, neighbors, axis=1)
    distances.sort(axis=1)
    return np.stack([np.searchsorted(*pair) for pair in zip(distances, wanted, strict=True)])
