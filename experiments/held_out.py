"""Planted families that were written after representations were chosen, and that nothing was tuned on.

Ten families beside the fifteen of ``apmae.patterns.planted``, with the same strengths and noise. Used by
``experiments/embedding.py``. Axes: t tokens.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy import ndarray

from apmae.patterns.patterns import Patterns
from apmae.seeding import generator

Draw = np.random.Generator


def _comb(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    step = draw.integers(2, 4)
    return (back > 0) & (back <= 4 * step) & (back % step == 0)


def _half_way(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.abs(2 * key - (back + key)) <= draw.integers(1, 3)


def _mirror(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.abs(back + 2 * key - (len(back) - 1)) <= draw.integers(0, 2)


def _staircase(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    period = draw.integers(6, 20)
    return key == (back + key) // period * period


def _later_sink(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return key == draw.integers(2, max(len(back) // 5, 3))


def _alternating(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.where((back + key) % 2 == draw.integers(0, 2), back == 1, key == 0)


def _self_and_sink(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (back == 0) | (key == 0)


def _gap(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    begin = draw.integers(6, 10)
    return (back >= begin) & (back < 2 * begin)


def _two_halves(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    middle = len(back) * draw.uniform(0.4, 0.6)
    return np.where(back + key < middle, back == 0, key < len(back) // 8)


def _fading_columns(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    chosen = draw.random(len(back)) < 0.12
    return chosen[key] & (back < draw.integers(20, 40))


HELD_OUT: dict[str, Callable[[ndarray, ndarray, Draw], ndarray]] = {
    "comb": _comb,
    "half_way": _half_way,
    "mirror": _mirror,
    "staircase": _staircase,
    "later_sink": _later_sink,
    "alternating": _alternating,
    "self_and_sink": _self_and_sink,
    "gap": _gap,
    "two_halves": _two_halves,
    "fading_columns": _fading_columns,
}
"""Each family's bonus over (query_pos, key_pos), in units of its strength, by the family's name."""


def held_out(count: int, *, shortest: int | None = None, size: int = 256, seed: int = 0) -> tuple[Patterns, ndarray]:
    """Patterns of every family, of strength 5 to 8 and noise 0.1 to 2, as ``planted`` makes them.

    Args:
        count: patterns per family.
        shortest: tokens of the shortest; None: all have ``size``.
        size: tokens of the longest.
        seed: decides all draws.
    """
    dense = torch.zeros(len(HELD_OUT) * count, size, size)
    for number, (name, family) in enumerate(HELD_OUT.items()):
        draw = generator(seed, "held out", name)
        for i in range(count):
            length = size if shortest is None else int(draw.integers(shortest, size + 1))
            query, key = np.indices((length, length))
            bonus = draw.uniform(5.0, 8.0) * family(query - key, key, draw)
            scores = torch.from_numpy(draw.uniform(0.1, 2.0) * draw.standard_normal((length, length)) + bonus)
            hidden = torch.ones(length, length).triu(1).bool()
            dense[number * count + i, :length, :length] = scores.masked_fill(hidden, -torch.inf).softmax(-1).float()
    return Patterns.from_probabilities(dense), np.repeat(np.arange(len(HELD_OUT)), count)
