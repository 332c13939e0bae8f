"""Whether clusters are found again: by fits on each half of the prompts, and with another seed (paper: not measured).

A cluster of a study is worth a name if it would have been found without half of the prompts. For each half, the rows
are clustered again, the rows of the other half are placed among them by their nearest neighbours, and a cluster's
stability is the Jaccard index between its rows there and the cluster of that fit that matches best (Hennig 2007,
"Cluster-wise assessment of cluster stability"). Rows that were placed are compared, not those that were fitted: those
would look stable even in noise.

Axes: n rows, d embedding, b groups of rows, c groups of another fit, m rows of that fit.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.seeding import generator, subseed

_VOTERS = 5
_FEWEST = 10
"""With fewer rows in a half, nothing is fitted on it."""

Refit = Callable[[Int[ndarray, " m"], int], Bool[ndarray, "c m"]]
"""Groups that a fit of some rows (their numbers) with a seed finds."""


class Stability(NamedTuple):
    """Jaccard index of each group with the best match in other fits, in [0, 1]; 0 where nothing could be fitted."""

    halves: Float[ndarray, " b"]
    """Mean over the halves of the prompts."""
    seeds: Float[ndarray, " b"]
    """On the same rows, with another seed."""


def stability_of(
    members: Bool[ndarray, "b n"],
    z: Float[ndarray, "n d"],
    prompts: Int[ndarray, " n"],
    counts: Int[ndarray, " n"],
    refit: Refit,
    *,
    metric: str,
    seed: int,
) -> Stability:
    """How well each group is found again.

    Args:
        members: groups of rows, which may be nested.
        z: embeddings of the rows.
        prompts: the prompt of each row. With a single prompt, rows are halved instead.
        counts: how often each row occurs.
        refit: finds groups among some of the rows.
        metric: distance between embeddings.
        seed: for the halves; the other fits get seeds of their own.
    """
    from apmae.atlas.search import Search

    first = _half(prompts, seed)
    found = []
    for number, half in enumerate((first, ~first)):
        fitted, other = np.flatnonzero(half), np.flatnonzero(~half)
        if len(fitted) < _FEWEST or len(other) < _FEWEST:
            found.append(np.zeros(len(members)))
            continue
        groups = refit(fitted, subseed(seed, "half", number) % 2**31)
        nearest = Search(z[fitted], metric, _VOTERS).nearest(z[other]).indices
        placed = groups[:, nearest].mean(-1) > 0.5
        found.append(best_jaccard(members[:, other], placed, counts[other]))
    again = refit(np.arange(len(z)), subseed(seed, "again") % 2**31)
    return Stability(np.mean(found, axis=0), best_jaccard(members, again, counts))


def best_jaccard(
    groups: Bool[ndarray, "b n"], others: Bool[ndarray, "c n"], counts: Int[ndarray, " n"] | None = None
) -> Float[ndarray, " b"]:
    """The Jaccard index of each group with the one among the others that matches best; 0 if there is none.

    Args:
        groups: sets of rows.
        others: sets of the same rows.
        counts: how often each row occurs; None: once.
    """
    if not len(others):
        return np.zeros(len(groups))
    weights = np.ones(groups.shape[1]) if counts is None else counts.astype(np.float64)
    ours = groups * weights.astype(np.float32)
    both = (ours @ others.T.astype(np.float32)).astype(np.float64)
    either = (groups @ weights)[:, None] + (others @ weights) - both
    return (both / np.maximum(either, 1)).max(1)


def _half(prompts: Int[ndarray, " n"], seed: int) -> Bool[ndarray, " n"]:
    """A seeded half of the prompts."""
    distinct = np.unique(prompts)
    if len(distinct) < 2:
        prompts, distinct = np.arange(len(prompts)), np.arange(len(prompts))
    drawn = generator(seed, "halves").permutation(distinct)
    return np.isin(prompts, drawn[: len(drawn) // 2])
