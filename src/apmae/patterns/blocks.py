"""Block structure: how far a causal pattern splits into blocks along the diagonal that hardly look past their borders.

A band has no blocks: its reach moves on with every row, while all rows of a block reach back to the same border. So
each border is compared with what would cross it if every row followed the pattern's mean by distance ("the band").

The mass inside the best blocks is no measure: it is high for every band, and for columns if a block begins at each. So
a border must keep out at least half of what the band would send across it. And the score can be no higher than what
even attention would send across, so that a border near the start (columns) counts little. Mass on q and q-1 does not
count here, otherwise a self head would score 0.2 to 0.3 for the few other tokens it looks at.

Axes: n patterns, k patches, p pixels along a patch, t tokens, w tokens after a border.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apmae.patterns.marginals import Layout, by_query

_WINDOW = 8
"""Rows from a token on that decide whether it begins a block. The first and the last block are at least as long."""
_MIN_DISTANCE = 4
"""Only the clearest of several borders within this many tokens counts."""
_CLEAR = 0.5
"""Smallest share of the expected crossing mass that a border must keep out."""
_MIN_EXPECTED = 0.05
"""Mass per row that must be expected to cross a border before it can be judged."""


def block_structure(
    patches: Float[Tensor, "n k p p"],
    nearest: Float[Tensor, "n t w"],
    away: Float[Tensor, "n t"],
    distance: Float[Tensor, "n t"],
    real: Bool[Tensor, "n t"],
    where: Layout,
) -> Float[Tensor, " n"]:
    """The score ``blocks``: ``even * (1 - crossing / band)``, in [0, 1); 0 without a border.

    All three are the mass off key 0 that goes to earlier blocks, as a mean over rows 1 and later. ``crossing`` is the
    measured mass. ``band`` is what it would be if each row spread its mass by distance like the mean row. ``even`` is
    what it would be if each row spread evenly what it gives to keys further back than the previous token (self and
    previous-token heads cannot show a block). Token b begins a block if rows b to b + 7 send less than half as much to
    keys before b as the band would, and no token within 4 is a clearer border.

    Args:
        patches: probabilities.
        nearest: each row's mass on the 8 or more tokens nearest to it, its own token first.
        away: each row's mass off key 0; 0 for row 0 and rows of padding.
        distance: that mass by distance, summed over rows.
        real: which rows are not padding.
        where: the patches' layout, causal.
    """
    position = torch.arange(where.size, device=patches.device)
    rows = real[:, 1:].sum(1)
    reaching = real.flip(1).cumsum(1).flip(1)[:, 1:]  # rows with a key other than key 0 at each distance
    mean = torch.zeros_like(distance)
    mean[:, :-1] = distance[:, :-1] / reaching.clamp(min=1)
    within = torch.nn.functional.pad(mean.cumsum(1), (1, 0))  # n t+1: the band's mass within so many tokens

    start = _starts(nearest[:, :, :_WINDOW], away, within, real)
    depth = position - start  # tokens back to the first of the row's block
    inside = _inside(patches, start, where)
    crossing = (away - inside).clamp(min=0).sum(1)
    band = (away * _beyond(within, depth + 1, position)).sum(1)
    further = (away - nearest[:, :, :2].sum(2)).clamp(min=0)
    even = (further * (start - 1).clamp(min=0) / position.clamp(min=1)).sum(1)
    kept_out = (1 - crossing / band.clamp(min=1e-6)).clamp(0, 1)
    return even / rows.clamp(min=1) * kept_out


def _beyond(within: Float[Tensor, "n _"], tokens: Int[Tensor, "n t"], query: Int[Tensor, "*t"]) -> Float[Tensor, "n t"]:
    """Share of a row's mass that the band sends further back than the nearest ``tokens``, leaving out key 0."""
    query = query.expand_as(tokens)
    whole = within.gather(1, query)  # query q sees q keys other than key 0
    return (1 - within.gather(1, tokens.minimum(query)) / whole.clamp(min=1e-12)).masked_fill(whole <= 1e-12, 0.0)


def _starts(
    nearest: Float[Tensor, "n t w"],
    away: Float[Tensor, "n t"],
    within: Float[Tensor, "n _"],
    real: Bool[Tensor, "n t"],
) -> Int[Tensor, "n t"]:
    """The first token of each token's block; 1 for the first block, because key 0 is left out."""
    size, window = away.shape[1], nearest.shape[2]
    position = torch.arange(size, device=away.device)
    if size < 2 * window:
        return position.clamp(max=1).expand_as(away).contiguous()
    borders = position[window : size - window + 1]
    inside = nearest.cumsum(2)
    crossing = away.new_zeros(len(away), len(borders))
    expected = crossing.clone()
    for step in range(window):
        row = borders + step
        tokens = torch.full_like(crossing, step + 1, dtype=torch.long)
        crossing += away[:, row] - inside[:, row, step]
        expected += away[:, row] * _beyond(within, tokens, row)
    contrast = 1 - crossing / expected.clamp(min=1e-6)
    contrast = contrast.masked_fill((expected < _MIN_EXPECTED * window) | ~real[:, borders + window - 1], 0.0)
    clearest = torch.nn.functional.max_pool1d(contrast, 2 * _MIN_DISTANCE + 1, stride=1, padding=_MIN_DISTANCE)
    begins = (contrast >= _CLEAR) & (contrast == clearest)
    start = position.clamp(max=1).repeat(len(away), 1)
    start[:, borders] = torch.where(begins, borders, start[:, borders])
    return start.cummax(1).values


def _inside(patches: Float[Tensor, "n k p p"], start: Int[Tensor, "n t"], where: Layout) -> Float[Tensor, "n t"]:
    """Each row's mass on its own block."""
    own = where.key[None, :, None, :] >= start[:, where.query][..., None]
    return by_query((patches * own).sum(-1), where)
