"""Attended tokens: the strongest pairs of a query and a key in a pattern, and what each key receives.

Axes: n patterns, t tokens (query_pos, key_pos), k pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.patterns.patterns import Patterns

_CHUNK = 32
"""Patterns unpacked at a time."""


class Pairs(NamedTuple):
    """The pairs with the most attention, the strongest first."""

    query: Int[ndarray, "n k"]
    """-1 after the last pair: a pattern may have fewer with any attention."""
    key: Int[ndarray, "n k"]
    weight: Float[ndarray, "n k"]
    """Probability that the query gives to the key, in [0, 1]; 0 after the last pair."""


class Attended(NamedTuple):
    """What some patterns attend to."""

    received: Float[ndarray, "n t"]
    """Attention that each key gets from all queries together; a pattern's entries sum to its number of rows, or to less
    if the model attends to something that is no key."""
    pairs: Pairs
    """Without the first row of a causal pattern, which can only attend to itself."""
    away: Pairs
    """The same where the key is neither the first token nor a sink."""


def attended(patterns: Patterns, sinks: Sequence[Sequence[int]], count: int) -> Attended:
    """The strongest pairs of each pattern, and the attention that each key receives.

    Args:
        patterns: any number.
        sinks: of each pattern, the positions of its sinks (``Scores.sinks``).
        count: pairs of each kind, at most.
    """
    size, parts = patterns.size, []
    for first in range(0, len(patterns), _CHUNK):
        own = torch.from_numpy(patterns[first : first + _CHUNK].probabilities())
        received = own.sum(1).numpy()
        if patterns.causal:
            own[:, 0] = 0
        every = _strongest(own, count)
        own[:, :, 0] = 0
        for number, keys in enumerate(sinks[first : first + _CHUNK]):
            own[number, :, [key for key in keys if key < size]] = 0
        parts.append((received, *every, *_strongest(own, count)))
    empty = [np.zeros((0, size), np.float32), *[np.zeros((0, min(count, size * size)))] * 6]
    joined = [np.concatenate(values) for values in zip(*parts, strict=True)] if parts else empty
    return Attended(joined[0], Pairs(*joined[1:4]), Pairs(*joined[4:]))


def _strongest(
    dense: Float[Tensor, "n t t"], count: int
) -> tuple[Int[ndarray, "n k"], Int[ndarray, "n k"], Float[ndarray, "n k"]]:
    """Queries, keys and weights of the largest entries; of equal ones the earlier query and key."""
    size, flat = dense.shape[-1], dense.flatten(1)
    kept = min(count, flat.shape[1])
    # topk does not say which of equal entries it takes, so all that reach the last one are ordered by place.
    least = flat.topk(kept, dim=1).values[:, -1:]
    places = np.full((len(flat), kept), -1, np.int64)
    weights = np.zeros((len(flat), kept), np.float32)
    for number, (row, bound) in enumerate(zip(flat, least, strict=True)):
        able = ((row >= bound) & (row > 0)).nonzero()[:, 0]
        order = row[able].sort(descending=True, stable=True).indices[:kept]
        places[number, : len(order)] = able[order].numpy()
        weights[number, : len(order)] = row[able[order]].numpy()
    found = places >= 0
    return np.where(found, places // size, -1), np.where(found, places % size, -1), weights
