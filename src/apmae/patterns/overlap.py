"""Overlap of a pattern's rows: how alike rows q and q + d are, key by key and lag by lag.

Both the descriptor and the gate read it. Rows are compared by the products of their root probabilities (Bhattacharyya
coefficient, 1943) over the keys that both can see, and over the lags that both have: there row q + d is moved d keys
back. In a column of attention neighbouring rows agree by key, on a diagonal by lag.

Axes: n patterns, t tokens, d distances, a alignments (by key, by lag).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DISTANCES = (1, 4, 16)
"""Rows between the two that are compared."""


class Overlaps(NamedTuple):
    """Sums over what rows q and q + d share, at index q; 0 where one of them is no row. Key 0 counts as any other."""

    product: Float[Tensor, "n a d t"]
    """Of the products of root p."""
    sums: tuple[Float[Tensor, "n a d t"], Float[Tensor, "n a d t"]]
    """Of root p of row q, and of row q + d."""
    masses: tuple[Float[Tensor, "n a d t"], Float[Tensor, "n a d t"]]
    """Of p of row q, and of row q + d."""
    shared: Float[Tensor, "n a d t"]
    """How many keys or lags they share."""


class Pairs(NamedTuple):
    """Sums over the pixels of root p, of which :class:`Overlaps` is made: all that needs the pixels themselves."""

    product: Float[Tensor, "n a d t"]
    """Of the products of rows q and q + d, at index q; 0 where there is no row q + d."""
    whole: Float[Tensor, "2 n t"]
    """Of each row's root p, and of its p."""
    begin: Float[Tensor, "2 n t d"]
    """The same over its first d keys."""
    end: Float[Tensor, "2 n t d"]
    """The same over its last d keys."""


def overlaps(root: Float[Tensor, "n t t"], real: Bool[Tensor, "n t"], causal: bool) -> Overlaps:
    """Compare every row with those 1, 4 and 16 rows later.

    Args:
        root: root probabilities; 0 where attention is impossible.
        real: which rows are not padding, which comes last.
        causal: whether row q sees the keys up to q, or all keys.
    """
    return overlaps_of(pairs_of(root, real.sum(1), causal), real, causal)


def pairs_of(root: Float[Tensor, "n t t"], length: Int[Tensor, " n"], causal: bool) -> Pairs:
    """The sums over pixels; arguments as for :func:`overlaps`, with the prompts' lengths."""
    count, size, _ = root.shape
    square = root.square()
    whole = torch.stack([root.sum(-1), square.sum(-1)])
    product = root.new_zeros(count, 2, len(DISTANCES), size)
    for place, distance in enumerate(DISTANCES):
        if distance < size:
            left = size - distance
            for by_lag in (False, True):
                keys = left if by_lag else size
                scratch = square.view(-1)[: count * left * keys].view(count, left, keys)
                later = root[:, distance:, distance if by_lag else 0 :]
                torch.mul(root[:, :-distance, :keys], later, out=scratch)
                torch.sum(scratch, -1, out=product[:, int(by_lag), place, :-distance])
    # The last keys of a row: up to its own, or in square patterns up to the prompt's last.
    position = torch.arange(size, device=root.device)
    last = position.expand(count, -1) if causal else (length - 1).clamp(min=0)[:, None].expand(-1, size)
    edge = min(max(DISTANCES), size)
    keys = last[..., None] - torch.arange(edge, device=root.device)
    end = root.gather(2, keys.clamp(min=0)) * (keys >= 0)
    return Pairs(product, whole, _running(root[..., :edge]), _running(end))


def _running(values: Float[Tensor, "n t e"]) -> Float[Tensor, "2 n t d"]:
    """Sums of the first d values along the last axis, and of their squares; of all if there are fewer."""
    place = torch.arange(values.shape[-1], device=values.device)
    return torch.stack([values, values.square()]) @ (place[:, None] < torch.tensor(DISTANCES).to(place)).to(
        values.dtype
    )


def overlaps_of(found: Pairs, real: Bool[Tensor, "n t"], causal: bool) -> Overlaps:
    """Overlaps from sums over pixels; arguments as for :func:`overlaps`."""
    count, size = real.shape
    position, length = torch.arange(size, device=real.device), real.sum(1)
    values = found.whole.new_zeros(5, 2, len(DISTANCES), count, size)
    for place, distance in enumerate(DISTANCES):
        if distance >= size:
            continue
        both = (real[:, distance:] & real[:, :-distance]).to(values.dtype)
        for by_lag in (False, True):
            first, second = found.whole[..., :-distance], found.whole[..., distance:]
            if by_lag:  # row q + d has d lags more: those of its first keys; and row q in square patterns
                second = second - found.begin[..., distance:, place]
                first = first if causal else first - found.end[..., :-distance, place]
            elif causal:  # row q + d sees d keys more: its last ones
                second = second - found.end[..., distance:, place]
            if causal:
                shared = (position[:-distance] + 1).expand(count, -1)
            else:
                shared = (length - distance * by_lag)[:, None].expand(-1, size - distance)
            for number, value in enumerate((first[0], second[0], first[1], second[1], shared)):
                values[number, int(by_lag), place, :, :-distance] = value * both
    *sums, shared = (field.permute(2, 0, 1, 3) for field in values)
    # No product where one of the two is no row: they are 0 there.
    return Overlaps(found.product, (sums[0], sums[1]), (sums[2], sums[3]), shared)
