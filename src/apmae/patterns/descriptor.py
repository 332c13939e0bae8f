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

Axes: n patterns, t tokens, f numbers, q quantiles, e eighths.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.patterns import geometry
from apmae.patterns.gate import structure
from apmae.patterns.overlap import DISTANCES, overlaps_of
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
from apmae.patterns.sums import SMALLEST_LOG, Sums, joined, lengths_of, sums_of

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

_PIXELS = 1 << 19
"""Pixels read at a time: arrays of 2 MB, which a processor's cache holds."""
_TOGETHER = 1 << 22
"""Pixels of the patterns that are described together, from sums."""


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
    tile, step = (max(pixels // patterns.size**2, 1) for pixels in (_PIXELS, _TOGETHER))
    size = geometry.grid_size(patterns.size, patterns.patch) * patterns.patch
    parts = []
    for begin in range(0, len(patterns), step):
        logs = patterns.log_patches[begin : begin + step]
        sums = joined([sums_of(logs[i : i + tile], size, patterns.causal) for i in range(0, len(logs), tile)])
        parts.append(_described(sums, patterns.causal))
    if not parts:
        return Described(np.zeros((0, WIDTH), np.float32), np.zeros(0, np.float32))
    return Described(*(torch.cat(field).cpu().numpy() for field in zip(*parts, strict=True)))


def _described(sums: Sums, causal: bool) -> tuple[Float[Tensor, "n f"], Float[Tensor, " n"]]:
    """The descriptor and the gate's statistic, from sums over pixels."""
    real = sums.real
    position = torch.arange(real.shape[1], device=real.device)
    length, rows = lengths_of(real), real & (position > 0)
    statistic = structure(overlaps_of(sums.inside, real, causal))  # mass outside the softmax would be a column
    off = (sums.mass - sums.first).clamp(min=0)
    sink = (1 - off).clamp(min=0) * rows
    options = (position + 1).expand(len(real), -1) if causal else length[:, None].expand(-1, len(position))
    entropy = _entropy(sums, sink, options)
    standing = (sums.first_height - sums.height / options.clamp(min=1)) / -SMALLEST_LOG
    lags = lag_profile(sums.back, sums.ahead, sums.first, length, causal)
    columns = column_profile(sums.far, length, causal)
    pairs = [_pairs(real, distance) & rows for distance in DISTANCES]
    quantiles = _quantiles(
        torch.stack([entropy, sink, standing, sums.largest, *_persistence(sums, off)], 1),
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
        _roughness(sums, rows, length, causal),
        _where(sums.drawn, off, entropy, sink, rows, length),
        _root(_ahead(sums.ahead, rows)),
    ]
    return torch.cat(values, dim=1), statistic


def _root(values: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """Differences of sums can be a little less than 0."""
    return values.clamp(min=0).sqrt()


def _pairs(real: Bool[Tensor, "n t"], distance: int) -> Bool[Tensor, "n t"]:
    """Rows that have a row ``distance`` later."""
    return real & torch.nn.functional.pad(real, (0, distance))[:, distance:]


def _entropy(sums: Sums, sink: Float[Tensor, "n t"], options: Int[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Entropy of each row over the log of its options, with the sink's mass on key 0."""
    spent = sums.spent + SMALLEST_LOG * sums.mass  # the sum of p log p
    spent = spent - torch.special.xlogy(sums.first, sums.first) + torch.special.xlogy(sink, sink)
    return (-spent / options.clamp(min=2).log()).clamp(0, 1)


def _persistence(sums: Sums, off: Float[Tensor, "n t"]) -> list[Float[Tensor, "n t"]]:
    """Overlaps of pn by key, then by lag, over what both rows have off key 0; last, those of p with the next row."""
    values, product = [], sums.pairs.product
    for by_lag in (False, True):
        for number, distance in enumerate(DISTANCES):
            both = torch.zeros_like(off)
            if distance < off.shape[1]:
                partner = sums.roots[:, distance:, 1 + number if by_lag else 0]
                share = (off[:, :-distance] * off[:, distance:]).clamp(min=1e-12).sqrt()
                common = product[:, int(by_lag), number, :-distance] - sums.roots[:, :-distance, 0] * partner
                both[:, :-distance] = (common / share).clamp(0, 1)
            values.append(both)
    return [*values, *product[:, :, 0].unbind(1)]


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


def _roughness(sums: Sums, rows: Bool[Tensor, "n t"], length: Int[Tensor, " n"], causal: bool) -> Float[Tensor, "n 7"]:
    """S.d. of log p, its mean absolute differences down, along the diagonal and across, and these over the s.d."""
    count, size = rows.shape
    position = torch.arange(size, device=rows.device)
    keys = (position + 1).expand(count, -1) if causal else length[:, None].expand(-1, size)
    both = rows[:, 1:] & rows[:, :-1]
    pixels = (keys * rows).sum(1).clamp(min=1)
    total = (sums.height * rows).sum(1)
    square = (sums.square * rows).sum(1)
    spread = (square / pixels - (total / pixels).square()).clamp(min=0).sqrt()
    pairs = keys[:, :-1]
    beside = position.expand(count, -1) if causal else keys - 1
    sides = [
        (sums.down[:, :-1] * both).sum(1) / (pairs * both).sum(1).clamp(min=1),
        (sums.along[:, :-1] * both).sum(1) / ((pairs if causal else pairs - 1) * both).sum(1).clamp(min=1),
        (sums.across * rows).sum(1) / (beside * rows).sum(1).clamp(min=1),
    ]
    relative = [side / spread.clamp(min=1e-3) for side in sides]
    return torch.stack([spread, *sides, *relative], 1)


def _where(
    drawn: Float[Tensor, "n t"],
    off: Float[Tensor, "n t"],
    entropy: Float[Tensor, "n t"],
    sink: Float[Tensor, "n t"],
    rows: Bool[Tensor, "n t"],
    length: Int[Tensor, " n"],
) -> Float[Tensor, "n 24"]:
    """By eighths of the prompt: root of the mass of pn over keys; mean entropy and mass on key 0 over queries."""
    position = torch.arange(drawn.shape[1], device=drawn.device)
    eighth = (position * EIGHTHS // length[:, None].clamp(min=1)).clamp(max=EIGHTHS - 1)
    drawn = drawn * (position > 0)

    def summed(values: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        return values.new_zeros(len(values), EIGHTHS).scatter_add_(1, eighth, values)

    count = summed(rows.to(drawn.dtype)).clamp(min=1)
    keys = summed(drawn) / off.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.cat([keys.clamp(min=0).sqrt(), summed(entropy * rows) / count, summed(sink) / count], 1)


def _ahead(ahead: Float[Tensor, "n t"], rows: Bool[Tensor, "n t"]) -> Float[Tensor, "n 3"]:
    """Mean mass on keys 1, 2 to 7 and 8 or more ahead."""
    count = rows.sum(1, keepdim=True).clamp(min=1)
    return torch.stack([ahead[:, 1:2].sum(1), ahead[:, 2:8].sum(1), ahead[:, 8:].sum(1)], 1) / count
