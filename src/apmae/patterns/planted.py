"""Planted patterns: made from scores with a known behaviour, so that clusters can be compared with the truth.

Each family adds a bonus to noisy scores where its behaviour attends. Parameters that vary in real heads (strength,
width, distance, which columns, how many blocks) are drawn per pattern; noise and length are too if that is asked for.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.errors import ConfigError
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
    return np.isin(key, draw.choice(np.arange(1, len(back)), draw.integers(4, 9), replace=False))


def _borders(size: int, draw: Draw) -> ndarray:
    """First tokens of 4 to 9 blocks."""
    return np.append(0, np.sort(draw.choice(np.arange(1, size), draw.integers(3, 9), replace=False)))


def _blocks(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    block = np.searchsorted(_borders(len(back), draw), np.arange(len(back)), side="right")
    return block[:, None] == block[None, :]


def _uniform(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return np.zeros_like(back, dtype=bool)


def _sink_and_previous(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (key == 0) | (back == 1)


def _sink_and_recent(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return (key == 0) | (back <= draw.integers(4, 24))


def _repeats(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    # An induction or duplicate-token head on a text that repeats itself: one diagonal per earlier copy.
    distance = draw.integers(max(len(back) // 12, 2), max(len(back) // 4, 3))
    return (back > 0) & ((back + draw.integers(0, 2)) % distance == 0)


def _stripes(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    period = draw.integers(4, 25)
    return key % period == draw.integers(0, period)


def _decay(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return -back / draw.uniform(32, 128)  # like ALiBi: at strength 5 to 8 weights fall by a factor e in 4 to 26 tokens


def _beginning(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    return key < draw.integers(max(len(back) // 16, 2), max(len(back) // 5, 3))


def _block_start(back: ndarray, key: ndarray, draw: Draw) -> ndarray:
    borders = _borders(len(back), draw)
    own = borders[np.searchsorted(borders, np.arange(len(back)), side="right") - 1]
    return key == own[:, None]


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
    "sink_and_recent": _sink_and_recent,
    "repeats": _repeats,
    "stripes": _stripes,
    "decay": _decay,
    "beginning": _beginning,
    "block_start": _block_start,
}
"""Each family's bonus over (query_pos, key_pos), in units of its strength, by the family's name."""


def planted(
    count: int,
    *,
    size: int = 256,
    noise: float | tuple[float, float] = 1.0,
    shortest: int | None = None,
    families: Sequence[str] = tuple(FAMILIES),
    seed: int = 0,
) -> tuple[Patterns, Int[ndarray, " n"]]:
    """Patterns of every family.

    Args:
        count: patterns per family.
        size: tokens per pattern.
        noise: standard deviation of the scores, or a range from which it is drawn for each pattern; 0 leaves the
            behaviour alone.
        shortest: tokens of the shortest prompt, at least 16. Lengths are drawn from there to ``size``, and the rows
            after a prompt are empty. None: all prompts have ``size`` tokens.
        families: keys of :data:`FAMILIES`; a family's patterns do not depend on which other families are made.
        seed: decides all draws.

    Returns:
        The patterns, family by family, and for each the index of its family in ``families``.

    Raises:
        ConfigError: if there is no such family, or ``shortest`` is not between 16 and ``size``.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ConfigError(f"expected planted families of {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if shortest is not None and not 16 <= shortest <= size:
        raise ConfigError(f"expected a shortest prompt of 16 to {size} tokens, got {shortest}")
    dense = torch.zeros(len(families) * count, size, size)
    draws = [(name, draw) for name in families for draw in [generator(seed, "planted", name)] for _ in range(count)]
    for i, (name, draw) in enumerate(draws):
        length = size if shortest is None else int(draw.integers(shortest, size + 1))
        spread = noise if isinstance(noise, float | int) else draw.uniform(*noise)
        dense[i, :length, :length] = _pattern(name, length, spread, draw)
    return Patterns.from_probabilities(dense), np.repeat(np.arange(len(families)), count)


def _pattern(name: str, length: int, noise: float, draw: Draw) -> Float[torch.Tensor, "t t"]:
    query, key = np.indices((length, length))
    bonus = draw.uniform(5.0, 8.0) * FAMILIES[name](query - key, key, draw)
    scores = torch.from_numpy(noise * draw.standard_normal((length, length)) + bonus)
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1).float()
