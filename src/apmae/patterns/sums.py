"""What the descriptor reads of a pattern's pixels: sums by row, by key and by lag, in few passes over memory.

Pixels are many and sums are few, so pixels are read a few patterns at a time, as many as a core's cache holds, and
everything else is computed from the sums of many patterns.

Axes: n patterns, t tokens, k patches, p pixels along a patch, d distances.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from apmae.patterns.overlap import DISTANCES, Pairs, pairs_of
from apmae.patterns.profiles import far_sums, lag_sums

SMALLEST_LOG = float(np.log(1e-6))
"""log p is cut here. A *height* is how far log p is above it: 0 where there is no attention."""
_ROUNDING = 0.01
"""Rows whose sum is less than 1 by more than this have a sink outside the softmax."""
_SHORTEST = 4
"""Shorter patterns get empty rows up to this many."""


class Sums(NamedTuple):
    """Sums over the pixels of some patterns. p without row 0; key 0 has what a row gives to no key."""

    real: Bool[Tensor, "n t"]
    """Which rows are not empty."""
    inside: Pairs
    """Of the attention that there is."""
    pairs: Pairs
    """With what goes to no key on key 0."""
    roots: Float[Tensor, "n t d"]
    """Root p of key 0 and of keys as far from it as rows are that are compared."""
    first: Float[Tensor, "n t"]
    """p of key 0."""
    mass: Float[Tensor, "n t"]
    """Of p, by row."""
    largest: Float[Tensor, "n t"]
    """p of the strongest key other than key 0, by row."""
    spent: Float[Tensor, "n t"]
    """Of p times height, by row."""
    height: Float[Tensor, "n t"]
    """By row."""
    first_height: Float[Tensor, "n t"]
    """Of key 0."""
    square: Float[Tensor, "n t"]
    """Of squared height, by row."""
    drawn: Float[Tensor, "n t"]
    """Of p, by key."""
    far: Float[Tensor, "n t"]
    """The same, from rows at least 8 away."""
    back: Float[Tensor, "n t"]
    """Of p, by how far the key is before the query."""
    ahead: Float[Tensor, "n t"]
    """Of p, by how far it is after it."""
    down: Float[Tensor, "n t"]
    """Of absolute differences of height between a row and the next, over keys that both have."""
    along: Float[Tensor, "n t"]
    """The same along the diagonal."""
    across: Float[Tensor, "n t"]
    """The same between the keys of a row."""


def sums_of(logs: Float[Tensor, "n k p p"], size: int, causal: bool) -> Sums:
    """The sums of some patterns.

    Args:
        logs: their log patches.
        size: tokens along a side, in whole patches.
        causal: whether they are those on or below the diagonal, or those of the whole square.
    """
    logs = logs.float()
    height = _dense(logs.clamp(min=SMALLEST_LOG).sub_(SMALLEST_LOG), size, causal)
    root = _dense((0.5 * logs).exp_(), size, causal)
    real = root.sum(-1) > 0
    if not real[:, 0].all():  # padding on the left, or an empty first row
        first = torch.minimum(_first(real), _first(root.sum(1) > 0))
        root, height, real = _moved(root, first), _moved(height, first), real.gather(1, _source(first, size))
    longest = max(int(lengths_of(real).max()), _SHORTEST)
    if longest < size:
        root, height = (dense[:, :longest, :longest].contiguous() for dense in (root, height))
    found = _sums(root, height, real[:, :longest], causal)
    return Sums(*(_padded(field, size - root.shape[1]) for field in found))


def joined(parts: list[Sums]) -> Sums:
    """The sums of all."""
    fields: list[Any] = [
        Pairs(*(torch.cat(of, dim) for of, dim in zip(zip(*fields, strict=True), (0, 1, 1, 1), strict=True)))
        if isinstance(fields[0], Pairs)
        else torch.cat(fields)
        for fields in zip(*parts, strict=True)
    ]
    return Sums(*fields)


def lengths_of(real: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
    """Tokens up to the last row that is not empty."""
    return (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)


def _sums(
    root: Float[Tensor, "n t t"], height: Float[Tensor, "n t t"], real: Bool[Tensor, "n t"], causal: bool
) -> Sums:
    """Root p and height are 0 where attention is impossible; those of key 0 may change."""
    length, size = lengths_of(real), root.shape[1]
    inside = pairs = pairs_of(root, real.sum(1), causal)
    missing = (1 - _ROUNDING - pairs.whole[1]).clamp(min=0) * real
    if missing.any():
        first = root[:, :, 0].square() + missing
        higher = (first.clamp(min=1e-9).log() - SMALLEST_LOG).clamp(min=0)
        root[:, :, 0] = first.sqrt()
        height[:, :, 0] = torch.where(missing > 0, higher, height[:, :, 0])
        pairs = pairs_of(root, real.sum(1), causal)
    p, mass = root.square(), pairs.whole[1].clone()
    p[:, 0] = mass[:, 0] = 0
    first = p[:, :, 0].clone()
    back, ahead = lag_sums(p, causal)
    drawn = p.sum(1)
    scratch = torch.mul(p, height)
    spent = scratch.sum(-1)
    square = torch.mul(height, height, out=scratch).sum(-1)
    far = far_sums(drawn, p, causal)
    p[:, :, 0] = 0  # a slice without key 0 would take amax four times as long
    return Sums(
        real,
        inside,
        pairs,
        root[:, :, [0, *(min(distance, size - 1) for distance in DISTANCES)]],
        first,
        mass,
        p.amax(-1),
        spent,
        height.sum(-1),
        height[:, :, 0].clone(),  # not a view, which would keep all pixels in memory
        square,
        drawn,
        far,
        back,
        ahead,
        *_differences(height, length, causal, scratch),
    )


def _differences(
    height: Float[Tensor, "n t t"], length: Int[Tensor, " n"], causal: bool, scratch: Float[Tensor, "n t t"]
) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"], Float[Tensor, "n t"]]:
    """Sums of absolute differences down, along the diagonal and across; pairs with a pixel outside are no pairs."""
    size = height.shape[1]
    down = _apart(height[:, 1:], height[:, :-1], scratch)
    along = _apart(height[:, 1:, 1:], height[:, :-1, :-1], scratch)
    across = _apart(height[..., 1:], height[..., :-1], scratch)
    if causal:
        own = height.diagonal(0, 1, 2)
        down, across = down - own[:, 1:], torch.cat([across[:, :-1] - own[:, :-1], across[:, -1:]], 1)
    else:
        last = (length - 1).clamp(min=0)[:, None, None]
        final = height.gather(2, last.expand(-1, size, 1))[..., 0] * (length[:, None] < size)
        across = across - final
        along = along - final[:, :-1]  # the last key of a row has no partner in the next
    return F.pad(down, (0, 1)), F.pad(along, (0, 1)), across


def _apart(
    one: Float[Tensor, "n a b"], other: Float[Tensor, "n a b"], scratch: Float[Tensor, "n t t"]
) -> Float[Tensor, "n a"]:
    """The L1 distance of rows; ``vector_norm`` takes five times as long."""
    room = scratch.view(-1)[: one.numel()].view(one.shape)
    return torch.sub(one, other, out=room).abs_().sum(-1)


def _padded(field: Tensor | Pairs, more: int) -> Tensor | Pairs:
    """A field of shorter patterns, with empty rows at the end."""
    if not more:
        return field
    if isinstance(field, Pairs):
        product, whole, begin, end = field
        return Pairs(
            F.pad(product, (0, more)), F.pad(whole, (0, more)), *(F.pad(x, (0, 0, 0, more)) for x in (begin, end))
        )
    return F.pad(field, (0, 0, 0, more) if field.ndim == 3 else (0, more))


def _dense(patches: Float[Tensor, "n k p p"], size: int, causal: bool) -> Float[Tensor, "n t t"]:
    """Patches put side by side, 0 above the diagonal. :func:`geometry.unpack` takes four times as long."""
    patch = patches.shape[-1]
    dense = patches.new_zeros(len(patches), size, size)
    blocks, first = dense.unflatten(2, (-1, patch)), 0
    for row in range(size // patch):
        many = row + 1 if causal else size // patch
        rows = slice(row * patch, (row + 1) * patch)
        blocks[:, rows, :many] = patches[:, first : first + many].transpose(1, 2)
        if causal:
            blocks[:, rows, row].tril_()
        first += many
    return dense


def _source(first: Int[Tensor, " n"], size: int) -> Int[Tensor, "n t"]:
    return (torch.arange(size, device=first.device) + first[:, None]) % size


def _moved(dense: Float[Tensor, "n t t"], first: Int[Tensor, " n"]) -> Float[Tensor, "n t t"]:
    """Each pattern with its first rows and columns moved to the end."""
    source, number = _source(first, dense.shape[1]), torch.arange(len(dense), device=dense.device)[:, None, None]
    return dense[number, source[:, :, None], source[:, None, :]]


def _first(some: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
    return some.to(torch.uint8).argmax(1)
