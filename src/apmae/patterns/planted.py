"""Planted patterns: made from scores with a known behaviour, so that clusters can be held against the truth.

Each family places a bonus where its behaviour attends, on noisy scores; parameters that a real head would vary
(strength, width, offset, which columns) are drawn per pattern.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.patterns.patterns import Patterns
from apmae.seeding import generator

Draw = np.random.Generator


def _first_token(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return key == 0


def _previous(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return back == 1


def _self(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return back == 0


def _local(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return back <= draw.integers(10, 24)


def _offset(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return back == draw.integers(len(back) // 4, len(back) // 2)


def _columns(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.isin(key, draw.choice(np.arange(1, len(back)), 6, replace=False))


def _blocks(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    borders = np.sort(draw.choice(np.arange(1, len(back)), 5, replace=False))
    block = np.searchsorted(borders, np.arange(len(back)), side="right")
    return block[:, None] == block[None, :]


def _uniform(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.zeros_like(back, dtype=bool)


def _sink_and_previous(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (key == 0) | (back == 1)


FAMILIES: dict[str, Callable[[ndarray, ndarray, Draw], ndarray]] = {
    "first_token": _first_token,
    "previous": _previous,
    "self": _self,
    "local": _local,
    "offset": _offset,
    "columns": _columns,
    "blocks": _blocks,
    "uniform": _uniform,
    "sink_and_previous": _sink_and_previous,
}
"""By name: where (query_pos, key_pos) a family's bonus falls."""


def planted(count: int, *, size: int = 256, noise: float = 1.0, seed: int = 0) -> tuple[Patterns, Int[ndarray, " n"]]:
    """Patterns of every family.

    Args:
        count: patterns a family.
        size: tokens.
        noise: standard deviation of the scores; 0 leaves the bare behaviour.
        seed: of all draws.

    Returns:
        The patterns, family after family, and the number of each one's family in ``FAMILIES``.
    """
    query, key = np.indices((size, size))
    future = torch.ones(size, size).triu(1).bool()
    dense = []
    for name, place in FAMILIES.items():
        draw = generator(seed, "planted", name)
        for _ in range(count):
            bonus = draw.uniform(5.0, 8.0) * place(query - key, key, draw)
            dense.append(_softmax(noise * draw.standard_normal((size, size)) + bonus, future))
    return Patterns.from_probabilities(torch.stack(dense)), np.repeat(np.arange(len(FAMILIES)), count)


def _softmax(scores: ndarray, future: Tensor) -> Float[Tensor, "t t"]:
    return torch.from_numpy(scores).masked_fill(future, -torch.inf).softmax(-1).float()
