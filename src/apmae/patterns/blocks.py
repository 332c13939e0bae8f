"""Block structure: how far a causal pattern falls into blocks along the diagonal that hardly look past their borders.

A band is no block: its rows move on with every token, while the rows of a block all reach back to the same border. So
each border is held against what the pattern's own mean by distance would send across it.

Mass inside the best blocks alone is high for every band, and for columns once a block begins at each. So a border must
keep away half of what the band would send across, and what can be won is what even attention would lose: one border
near the start (columns) counts little. Mass on q and q-1 is left out of that, or a self head's few other tokens score
0.2 to 0.3.

Axes: n patterns, k patches, p pixels along a patch, t tokens, w tokens behind a border.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apmae.patterns.marginals import Layout, by_query

_BEHIND = 8
"""Rows behind a token that decide whether it begins a block; no block is cut off shorter at either end."""
_APART = 4
"""Of borders nearer to each other than this only the clearest counts."""
_CLEAR = 0.5
"""Least share of the expected crossings that a border must keep away."""
_LEAST = 0.05
"""Mass that a row must be expected to send across a border for it to say anything."""


def block_structure(
    patches: Float[Tensor, "n k p p"],
    nearest: Float[Tensor, "n t w"],
    away: Float[Tensor, "n t"],
    distance: Float[Tensor, "n t"],
    real: Bool[Tensor, "n t"],
    where: Layout,
) -> Float[Tensor, " n"]:
    """The score ``blocks``: ``even * (1 - crossing / band)``, in [0, 1); 0 without a border.

    All three are mass off key 0, mean over rows 1 and later, that goes to an earlier block: ``crossing`` as it is,
    ``band`` if each row spread it by distance as the mean row does, ``even`` if each row spread evenly what it gives
    to keys further back than the previous token (self and previous-token heads cannot show a block). Token b begins a
    block if rows b to b + 7 send less than half as much to keys before b as that band would, and no token within 4 is
    a clearer border.

    Args:
        patches: probabilities.
        nearest: what each row gives to the 8 or more tokens nearest to it, itself first.
        away: each row's mass off key 0; 0 for row 0 and rows of padding.
        distance: that mass by distance, summed over rows.
        real: rows that are no padding.
        where: the patches' layout, causal.
    """
    position = torch.arange(where.size, device=patches.device)
    rows = real[:, 1:].sum(1)
    reaching = real.flip(1).cumsum(1).flip(1)[:, 1:]  # rows that have a key other than key 0 so far back
    mean = torch.zeros_like(distance)
    mean[:, :-1] = distance[:, :-1] / reaching.clamp(min=1)
    within = torch.nn.functional.pad(mean.cumsum(1), (1, 0))  # n t+1: the band's mass nearer than so many tokens

    start = _starts(nearest[:, :, :_BEHIND], away, within, real)
    depth = position - start  # tokens back to the own block's first
    inside = _inside(patches, start, where)
    crossing = (away - inside).clamp(min=0).sum(1)
    band = (away * _beyond(within, depth + 1, position)).sum(1)
    further = (away - nearest[:, :, :2].sum(2)).clamp(min=0)
    even = (further * (start - 1).clamp(min=0) / position.clamp(min=1)).sum(1)
    kept_away = (1 - crossing / band.clamp(min=1e-6)).clamp(0, 1)
    return even / rows.clamp(min=1) * kept_away


def _beyond(within: Float[Tensor, "n _"], tokens: Int[Tensor, "n t"], query: Int[Tensor, "*t"]) -> Float[Tensor, "n t"]:
    """Share of a row's mass that the band sends further back than to the ``tokens`` nearest, key 0 left out."""
    query = query.expand_as(tokens)
    whole = within.gather(1, query)  # query q has q keys beside key 0
    return (1 - within.gather(1, tokens.minimum(query)) / whole.clamp(min=1e-12)).masked_fill(whole <= 1e-12, 0.0)


def _starts(
    nearest: Float[Tensor, "n t w"],
    away: Float[Tensor, "n t"],
    within: Float[Tensor, "n _"],
    real: Bool[Tensor, "n t"],
) -> Int[Tensor, "n t"]:
    """The first token of each token's block; 1 for the first block, as key 0 stands apart."""
    size, behind = away.shape[1], nearest.shape[2]
    position = torch.arange(size, device=away.device)
    if size < 2 * behind:
        return position.clamp(max=1).expand_as(away).contiguous()
    borders = position[behind : size - behind + 1]
    inside = nearest.cumsum(2)
    crossing = away.new_zeros(len(away), len(borders))
    expected = crossing.clone()
    for step in range(behind):
        row = borders + step
        tokens = torch.full_like(crossing, step + 1, dtype=torch.long)
        crossing += away[:, row] - inside[:, row, step]
        expected += away[:, row] * _beyond(within, tokens, row)
    contrast = 1 - crossing / expected.clamp(min=1e-6)
    contrast = contrast.masked_fill((expected < _LEAST * behind) | ~real[:, borders + behind - 1], 0.0)
    clearest = torch.nn.functional.max_pool1d(contrast, 2 * _APART + 1, stride=1, padding=_APART)
    begins = (contrast >= _CLEAR) & (contrast == clearest)
    start = position.clamp(max=1).repeat(len(away), 1)
    start[:, borders] = torch.where(begins, borders, start[:, borders])
    return start.cummax(1).values


def _inside(patches: Float[Tensor, "n k p p"], start: Int[Tensor, "n t"], where: Layout) -> Float[Tensor, "n t"]:
    """Each row's mass on its own block."""
    own = where.key[None, :, None, :] >= start[:, where.query][..., None]
    return by_query((patches * own).sum(-1), where)
