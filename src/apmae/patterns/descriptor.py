"""The descriptor: 141 statistics of a pattern that do not depend on where its text has what.

Two patterns of one behaviour differ pixel by pixel, because the text decides where a head finds what it looks for. The
descriptor measures how a pattern attends, not where: how far back, in how many columns, how periodically, how
surely, and how alike its rows are. p is the pattern, pn the same without key 0, lag is query - key. What a row gives
to no key (sinks outside the softmax) counts as given to key 0.

==============  ====  ==============================================================================================
group           size  numbers
==============  ====  ==============================================================================================
``lag``           16  root of the mean of pn over rows, in bins of lag with edges 0 1 2 3 4 6 8 12 16 24 ... 256
``peak``          12  root of the largest single lag's mean inside each of the upper 12 bins
``lag_rank``       7  root of the lag profile, sorted, at ranks 1 2 3 5 9 17 33
``lag_period``     2  periodicity of the lag profile: its largest autocorrelation at shifts from 2 to half the length,
                      and the share of its strongest frequency (``patterns/profiles.py``)
``column_rank``    8  root of the column profile (keys 8 or more back, mean over the rows that could see them),
                      sorted, at ranks 1 2 3 5 9 17 33 65
``column_period``  2  periodicity of the column profile
``rows``          20  quantiles (5, 25, 50, 75, 95 %) over rows of entropy / log of the row's length; of mass on key 0;
                      of log p of key 0, less the row's mean of log p, over log 1e6; and of the largest entry of pn
``persistence``   40  quantiles over rows of the overlap of rows q and q + 1, q + 4, q + 16, by key and by lag
                      (``patterns/overlap.py``): of pn over what both have off key 0; and of p for q + 1
``roughness``      7  of log p: its s.d., mean absolute difference down, along the diagonal and across, and these over
                      the s.d.
``where``         24  by eighths of the prompt: root of the share of pn over keys; entropy and mass on key 0 of rows
``ahead``          3  root of the mass on keys 1, 2 to 7 and 8 or more ahead, in square patterns; else 0
==============  ====  ==============================================================================================

Rows are those of real tokens except the first, which has no choice. log p is cut at 1e-6. Square patterns count
distance both ways.

Axes: n patterns, t tokens, k patches, p pixels along a patch, f numbers, q quantiles, e eighths.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.patterns import geometry
from apmae.patterns.gate import structure
from apmae.patterns.overlap import DISTANCES, Overlaps, overlaps
from apmae.patterns.patterns import Patterns
from apmae.patterns.profiles import (
    COLUMN_RANKS,
    LAG_RANKS,
    binned,
    column_profile,
    lag_profile,
    peaks,
    periodicity,
    ranked,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EIGHTHS = 8
SIZES = {
    "lag": 16,
    "peak": 12,
    "lag_rank": 7,
    "lag_period": 2,
    "column_rank": 8,
    "column_period": 2,
    "rows": 20,
    "persistence": 40,
    "roughness": 7,
    "where": 24,
    "ahead": 3,
}
"""How many numbers each group has, in their order."""
WIDTH = sum(SIZES.values())

_SMALLEST_LOG = float(np.log(1e-6))
_ROUNDING = 0.01
"""Rows whose sum is less than 1 by more than this have a sink outside the softmax."""
_SHORTEST = 4
"""Shorter patterns get empty rows up to this many."""
_PIXELS = 1 << 18
"""Pixels described at a time: arrays of 1 MB, which a core's cache holds."""


class Described(NamedTuple):
    """The descriptors of some patterns, and how much structure they have."""

    values: Float[ndarray, "n f"]
    """Not standardised; finite."""
    structure: Float[ndarray, " n"]
    """The gate's statistic (``patterns/gate.py``); NaN where a pattern is too short to be judged."""


def describe(patterns: Patterns) -> Described:
    """Describe every pattern.

    Args:
        patterns: of any size, causal or square, whole, pooled or cropped. Padding is left out, on either side.
    """
    step = max(_PIXELS // patterns.size**2, 1)
    parts = [_described(patterns, slice(i, i + step)) for i in range(0, len(patterns), step)]
    if not parts:
        return Described(np.zeros((0, WIDTH), np.float32), np.zeros(0, np.float32))
    return Described(*(torch.cat(field).cpu().numpy() for field in zip(*parts, strict=True)))


def _described(patterns: Patterns, chosen: slice) -> tuple[Float[Tensor, "n f"], Float[Tensor, " n"]]:
    """The descriptor and the gate's statistic of some patterns."""
    logs, causal = patterns.log_patches[chosen].float(), patterns.causal
    size = geometry.grid_size(patterns.size, patterns.patch) * patterns.patch
    root = _dense((0.5 * logs).exp_(), size, causal)
    # How far log p is above the cut: 0 where there is no attention.
    height = _dense(logs.clamp(min=_SMALLEST_LOG).sub_(_SMALLEST_LOG), size, causal)
    real = root.sum(-1) > 0
    if not real[:, 0].all():  # padding on the left, or an empty first row
        first = torch.minimum(_first(real), _first(root.sum(1) > 0))
        root, height, real = _moved(root, first), _moved(height, first), real.gather(1, _source(first, size))
    longest = max(int(_lengths(real).max()), _SHORTEST)
    if longest < size:
        root, height = (dense[:, :longest, :longest].contiguous() for dense in (root, height))
    return describe_dense(root, height, real[:, :longest], causal)


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


def describe_dense(
    root: Float[Tensor, "n t t"], height: Float[Tensor, "n t t"], real: Bool[Tensor, "n t"], causal: bool
) -> tuple[Float[Tensor, "n f"], Float[Tensor, " n"]]:
    """The descriptor and the gate's statistic.

    Args:
        root: root probabilities; 0 where attention is impossible.
        height: log p above its cut, max(log p - log 1e-6, 0); 0 where attention is impossible. At least 4 tokens.
        real: which rows are not empty.
        causal: whether row q sees the keys up to q.
    """
    position = torch.arange(root.shape[1], device=root.device)
    length, rows = _lengths(real), real & (position > 0)
    found = overlaps(root, real, causal)
    statistic = structure(found)  # of the attention that there is: mass outside would be a column
    p, changed = _with_sinks(root, height, real)
    found = overlaps(root, real, causal) if changed else found
    p[:, 0] = 0
    off = (p.sum(-1) - p[:, :, 0]).clamp(min=0)
    sink = (1 - off).clamp(min=0) * rows
    options = (position + 1).expand(len(p), -1) if causal else length[:, None].expand(-1, len(position))
    entropy = _entropy(p, height, sink, options)
    standing = (height[:, :, 0] - height.sum(-1) / options.clamp(min=1)) / -_SMALLEST_LOG
    lags, ahead = lag_profile(p, length, causal)
    columns = column_profile(p, length, causal)
    pairs = [_pairs(real, distance) & rows for distance in DISTANCES]
    quantiles = _quantiles(
        torch.stack([entropy, sink, standing, p[:, :, 1:].amax(-1), *_persistence(found, root, off)], 1),
        torch.stack([rows] * 4 + pairs * 2 + pairs[:1] * 2, 1),
    )
    values = [
        _root(binned(lags)),
        _root(peaks(lags)),
        _root(ranked(lags, LAG_RANKS)),
        periodicity(lags, length),
        _root(ranked(columns, COLUMN_RANKS)),
        periodicity(columns, length),
        quantiles.flatten(1),
        _roughness(height, rows, length, causal),
        _where(p, off, entropy, sink, rows, length),
        _root(_ahead(ahead, rows)),
    ]
    return torch.cat(values, dim=1), statistic


def _with_sinks(
    root: Float[Tensor, "n t t"], height: Float[Tensor, "n t t"], real: Bool[Tensor, "n t"]
) -> tuple[Float[Tensor, "n t t"], bool]:
    """p, in which key 0 has what a row gives to no key, and whether any does; ``root`` and ``height`` then change."""
    p = root.square()
    missing = (1 - _ROUNDING - p.sum(-1)).clamp(min=0) * real
    changed = bool(missing.any())
    if changed:
        first = p[:, :, 0] + missing
        higher = (first.clamp(min=1e-9).log() - _SMALLEST_LOG).clamp(min=0)
        p[:, :, 0], root[:, :, 0] = first, first.sqrt()
        height[:, :, 0] = torch.where(missing > 0, higher, height[:, :, 0])
    return p, changed


def _root(values: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """Differences of sums can be a little less than 0."""
    return values.clamp(min=0).sqrt()


def _first(some: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
    return some.to(torch.uint8).argmax(1)


def _lengths(real: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
    """Tokens up to the last row that is not empty."""
    return (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)


def _pairs(real: Bool[Tensor, "n t"], distance: int) -> Bool[Tensor, "n t"]:
    """Rows that have a row ``distance`` later."""
    return real & torch.nn.functional.pad(real, (0, distance))[:, distance:]


def _entropy(
    p: Float[Tensor, "n t t"], height: Float[Tensor, "n t t"], sink: Float[Tensor, "n t"], options: Int[Tensor, "n t"]
) -> Float[Tensor, "n t"]:
    """Entropy of each row over the log of its options, with the sink's mass on key 0."""
    spent = torch.linalg.vecdot(p, height) + _SMALLEST_LOG * p.sum(-1)  # the sum of p log p
    first = p[:, :, 0]
    spent = spent - torch.special.xlogy(first, first) + torch.special.xlogy(sink, sink)
    return (-spent / options.clamp(min=2).log()).clamp(0, 1)


def _persistence(
    found: Overlaps, root: Float[Tensor, "n t t"], off: Float[Tensor, "n t"]
) -> list[Float[Tensor, "n t"]]:
    """Overlaps of pn by key, then by lag, over what both rows have off key 0; last, those of p with the next row."""
    values = []
    for by_lag in (False, True):
        for number, distance in enumerate(DISTANCES):
            both = torch.zeros_like(off)
            if distance < off.shape[1]:
                partner = root[:, distance:, distance if by_lag else 0]
                share = (off[:, :-distance] * off[:, distance:]).clamp(min=1e-12).sqrt()
                common = found.product[:, int(by_lag), number, :-distance] - root[:, :-distance, 0] * partner
                both[:, :-distance] = (common / share).clamp(0, 1)
            values.append(both)
    return [*values, *found.product[:, :, 0].unbind(1)]


def _quantiles(values: Float[Tensor, "n f t"], valid: Bool[Tensor, "n f t"]) -> Float[Tensor, "n f q"]:
    """Quantiles over the valid entries, by linear interpolation; 0 if there are none."""
    ordered = _sorted(values.masked_fill(~valid, torch.inf))
    count = valid.sum(-1, keepdim=True)
    place = (count - 1).clamp(min=0) * torch.tensor(QUANTILES, device=values.device)
    below = place.floor().long()
    above = torch.minimum(below + 1, (count - 1).clamp(min=0))
    low, high = ordered.gather(-1, below), ordered.gather(-1, above)
    return torch.where(count > 0, low + (high - low) * (place - below), 0.0)


def _sorted(values: Float[Tensor, "n f t"]) -> Float[Tensor, "n f t"]:
    """Ascending. On a CPU by numpy, which takes a tenth of torch's time."""
    if values.device.type != "cpu" or values.requires_grad:
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))


def _roughness(
    height: Float[Tensor, "n t t"], rows: Bool[Tensor, "n t"], length: Int[Tensor, " n"], causal: bool
) -> Float[Tensor, "n 7"]:
    """S.d. of log p, its mean absolute differences down, along the diagonal and across, and these over the s.d."""
    size = height.shape[1]
    position = torch.arange(size, device=height.device)
    keys = (position + 1).expand(len(height), -1) if causal else length[:, None].expand(-1, size)
    both = rows[:, 1:] & rows[:, :-1]
    count = (keys * rows).sum(1).clamp(min=1)
    total = (height.sum(-1) * rows).sum(1)
    square = (torch.linalg.vecdot(height, height) * rows).sum(1)
    spread = (square / count - (total / count).square()).clamp(min=0).sqrt()
    down = (height[:, 1:] - height[:, :-1]).abs_().sum(-1)
    along = (height[:, 1:, 1:] - height[:, :-1, :-1]).abs_().sum(-1)
    across = (height[..., 1:] - height[..., :-1]).abs_().sum(-1)
    if causal:  # pairs with a pixel above the diagonal are no pairs
        own = height.diagonal(0, 1, 2)
        down, across = down - own[:, 1:], torch.cat([across[:, :-1] - own[:, :-1], across[:, -1:]], 1)
        pairs, beside = keys[:, :-1], position.expand(len(height), -1)
    else:
        last = (length - 1).clamp(min=0)[:, None, None]
        final = height.gather(2, last.expand(-1, size, 1))[..., 0] * (length[:, None] < size)
        across = across - final
        along = along - final[:, :-1]  # the last key of a row has no partner in the next
        pairs, beside = keys[:, :-1], keys - 1
    sides = [
        (down * both).sum(1) / (pairs * both).sum(1).clamp(min=1),
        (along * both).sum(1) / ((pairs if causal else pairs - 1) * both).sum(1).clamp(min=1),
        (across * rows).sum(1) / (beside * rows).sum(1).clamp(min=1),
    ]
    relative = [side / spread.clamp(min=1e-3) for side in sides]
    return torch.stack([spread, *sides, *relative], 1)


def _where(
    p: Float[Tensor, "n t t"],
    off: Float[Tensor, "n t"],
    entropy: Float[Tensor, "n t"],
    sink: Float[Tensor, "n t"],
    rows: Bool[Tensor, "n t"],
    length: Int[Tensor, " n"],
) -> Float[Tensor, "n 24"]:
    """By eighths of the prompt: root of the mass of pn over keys; mean entropy and mass on key 0 over queries."""
    size = p.shape[1]
    position = torch.arange(size, device=p.device)
    eighth = (position * EIGHTHS // length[:, None].clamp(min=1)).clamp(max=EIGHTHS - 1)
    drawn = p.sum(1) * (position > 0)

    def summed(values: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        return values.new_zeros(len(values), EIGHTHS).scatter_add_(1, eighth, values)

    count = summed(rows.to(p.dtype)).clamp(min=1)
    keys = summed(drawn) / off.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.cat([keys.clamp(min=0).sqrt(), summed(entropy * rows) / count, summed(sink) / count], 1)


def _ahead(ahead: Float[Tensor, "n t"], rows: Bool[Tensor, "n t"]) -> Float[Tensor, "n 3"]:
    """Mean mass on keys 1, 2 to 7 and 8 or more ahead."""
    count = rows.sum(1, keepdim=True).clamp(min=1)
    return torch.stack([ahead[:, 1:2].sum(1), ahead[:, 2:8].sum(1), ahead[:, 8:].sum(1)], 1) / count
