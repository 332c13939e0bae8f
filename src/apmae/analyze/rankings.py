"""Heads in the order in which they are removed, and the random sets that each choice is compared with.

What is ranked is the change of a figure when a head is removed, measured on prompts that are not used again. The three
controls of a set of heads, each drawn several times:

- "size": as many heads, any.
- "layers": as many heads in each layer as the set has. Heads of the set may be drawn again; where it has a whole layer,
  they must be.
- "effect": heads that are not in the set, each drawn among those whose change is nearest to that of a head of the set.
  There are none for more than half of the heads. The largest effects have no equal: the mean change of both is kept, so
  that one sees how near they are.

Axes: h heads.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.seeding import generator

Ranking = Literal["helpful", "harmful", "neutral"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
"""Which heads come first: those without which the figure falls most, those without which it rises most, or those
without which it changes least."""
CONTROLS = ("size", "layers", "effect")
_NEAREST = 5
"""Heads among which one near in effect is drawn."""


class HeadSet(NamedTuple):
    """Heads that are removed together."""

    dose: int
    control: str
    """"" for the ranked heads themselves, or one of :data:`CONTROLS`."""
    draw: int
    """Number of the random draw, from 0."""
    heads: tuple[int, ...]
    """Numbers of the heads, ascending."""


def rank_heads(change: Float[ndarray, " h"], ranking: Ranking, seed: int) -> Int[ndarray, " h"]:
    """Numbers of the heads in the order of a ranking; heads with the same change are in random order.

    Args:
        change: of a figure that is better if it is larger, when each head is removed.
        ranking: one of :data:`RANKINGS`.
        seed: for the order of equals.
    """
    shuffled = generator(seed, "ranking").permutation(len(change))
    key = {"helpful": change, "harmful": -change, "neutral": np.abs(change)}[ranking]
    return shuffled[np.argsort(key[shuffled], kind="stable")]


def doses_of(heads: int, asked: Sequence[int] | None = None) -> list[int]:
    """How many heads are removed together: those asked for that there are, or 1, 2, 4, ... and all."""
    if asked is not None:
        return sorted({min(dose, heads) for dose in asked})
    doses = [1]
    while doses[-1] * 2 < heads:
        doses.append(doses[-1] * 2)
    return sorted({*doses, heads})


def sets_of(
    order: Int[ndarray, " h"],
    change: Float[ndarray, " h"],
    layer: Int[ndarray, " h"],
    doses: Sequence[int],
    draws: int,
    seed: int,
    *names: object,
) -> Iterator[HeadSet]:
    """The first heads of an order at each dose, and their controls.

    Args:
        order: from :func:`rank_heads`.
        change: that it was made from.
        layer: of each head.
        doses: how many heads.
        draws: random sets of each control.
        seed: for the draws.
        names: whose controls they are. Sets of the same size do not depend on it: all rankings share them.
    """
    for dose in doses:
        chosen = order[:dose]
        yield HeadSet(dose, "", 0, _numbers(chosen))
        if dose == len(order):
            continue
        for draw in range(draws):
            any_ = generator(seed, "size", dose, draw).choice(len(order), dose, replace=False)
            yield HeadSet(dose, "size", draw, _numbers(any_))
            yield HeadSet(dose, "layers", draw, _in_layers(chosen, layer, seed, *names, dose, draw))
            if matched := _alike(chosen, change, seed, *names, dose, draw):
                yield HeadSet(dose, "effect", draw, matched)


def _numbers(heads: Int[ndarray, " d"]) -> tuple[int, ...]:
    return tuple(sorted(heads.tolist()))


def _in_layers(chosen: Int[ndarray, " d"], layer: Int[ndarray, " h"], seed: int, *names: object) -> tuple[int, ...]:
    draw = generator(seed, "layers", *names)
    found = []
    for number, count in zip(*np.unique(layer[chosen], return_counts=True), strict=True):
        found += draw.choice(np.flatnonzero(layer == number), count, replace=False).tolist()
    return tuple(sorted(found))


def _alike(
    chosen: Int[ndarray, " d"], change: Float[ndarray, " h"], seed: int, *names: object
) -> tuple[int, ...] | None:
    """Other heads, the nearest in effect; None if there are not as many others."""
    if 2 * len(chosen) > len(change):
        return None
    draw = generator(seed, "effect", *names)
    left = np.setdiff1d(np.arange(len(change)), chosen)
    found = []
    for head in draw.permutation(chosen):
        left = left[draw.permutation(len(left))]  # equals in random order
        nearest = np.argsort(np.abs(change[left] - change[head]), kind="stable")[:_NEAREST]
        place = int(draw.choice(nearest))
        found.append(int(left[place]))
        left = np.delete(left, place)
    return tuple(sorted(found))
