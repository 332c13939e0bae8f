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


def _doubling(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (back > 0) & ((back & (back - 1)) == 0)


def _region(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    begin = int(len(back) * draw.uniform(0.1, 0.4))
    return (key >= begin) & (key < begin + max(len(back) // 12, 3))


def _segment_before(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    length = draw.integers(8, 20)
    return (back + key) // length - 1 == key // length


def _two_bands(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (back == 1) | (back == draw.integers(12, 24))


def _same_parity(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (back % 2 == 0) & (back < draw.integers(12, 20))


def _held_targets(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    run = draw.integers(6, 12)
    targets = (draw.random(len(back) // run + 1) * np.arange(len(back) // run + 1) * run).astype(int)
    return key == targets[(back + key) // run]


def _growing_band(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return back <= (back + key) // draw.integers(5, 8)


def _ends_of_segments(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    length = draw.integers(10, 20)
    return (key % length >= length - 2) & (back < 3 * length)


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


AFTERWARDS: dict[str, Callable[[ndarray, ndarray, Draw], ndarray]] = {
    "doubling": _doubling,
    "region": _region,
    "segment_before": _segment_before,
    "two_bands": _two_bands,
    "same_parity": _same_parity,
    "held_targets": _held_targets,
    "growing_band": _growing_band,
    "ends_of_segments": _ends_of_segments,
}
"""Written after the clusterer of atlases was chosen, for ``experiments/atlas.py planted``."""


def held_out(
    count: int,
    *,
    shortest: int | None = None,
    size: int = 256,
    seed: int = 0,
    families: dict[str, Callable[[ndarray, ndarray, Draw], ndarray]] = HELD_OUT,
) -> tuple[Patterns, ndarray]:
    """Patterns of every family, of strength 5 to 8 and noise 0.1 to 2, as ``planted`` makes them.

    Args:
        count: patterns per family.
        shortest: tokens of the shortest; None: all have ``size``.
        size: tokens of the longest.
        seed: decides all draws.
        families: bonuses by name.
    """
    dense = torch.zeros(len(families) * count, size, size)
    for number, (name, family) in enumerate(families.items()):
        draw = generator(seed, "held out", name)
        for i in range(count):
            length = size if shortest is None else int(draw.integers(shortest, size + 1))
            query, key = np.indices((length, length))
            bonus = draw.uniform(5.0, 8.0) * family(query - key, key, draw)
            scores = torch.from_numpy(draw.uniform(0.1, 2.0) * draw.standard_normal((length, length)) + bonus)
            hidden = torch.ones(length, length).triu(1).bool()
            dense[number * count + i, :length, :length] = scores.masked_fill(hidden, -torch.inf).softmax(-1).float()
    return Patterns.from_probabilities(dense), np.repeat(np.arange(len(families)), count)
