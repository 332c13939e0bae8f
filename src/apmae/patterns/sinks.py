"""Sinks: keys that draw attention from nearly every row that can see them, wherever they are in the text.

Axes: n patterns, k patches, p pixels along a patch, t tokens, c candidates.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apmae.patterns.marginals import Layout, by_key

_MIN_ROWS = 16
"""A key is judged only if this many rows see it."""
_MIN_STRENGTH = 0.2
"""Smallest mean attention that a sink draws from them."""
_MIN_ATTENTION = 0.05
"""A row attends to a key if it gives it at least this."""
_NEARLY_ALL = 0.9
"""Smallest share of the rows that attend to a sink."""
_MIN_SHARE = 0.25
"""Smallest share of a prompt's rows that see a sink other than key 0. Otherwise, if a head looks at the latest line
break, the last one in the text would be a sink of the few rows after it."""


class Sinks(NamedTuple):
    """The sinks of some patterns."""

    strength: Float[Tensor, "n t"]
    """The mean attention that a sink draws from the rows that see it; 0 for keys that are not sinks."""
    later: Float[Tensor, " n"]
    """Mean mass on sinks other than key 0, over the rows that see one; 0 if there are none, NaN if no key is judged."""

    def positions(self) -> list[tuple[int, ...]]:
        """The keys of each pattern's sinks, the strongest first. Waits for the device."""
        found: list[list[int]] = [[] for _ in self.strength]
        ordered = self.strength.sort(dim=1, descending=True, stable=True)
        pattern, place = (ordered.values > 0).nonzero(as_tuple=True)
        for number, key in zip(pattern.tolist(), ordered.indices[pattern, place].tolist(), strict=True):
            found[number].append(key)
        return [tuple(keys) for keys in found]


def visible_from(logs: Float[Tensor, "n k p p"], real: Bool[Tensor, "n t"], where: Layout) -> Int[Tensor, "n t"]:
    """The first key that each row can see: packing and sliding windows hide earlier ones. 0 for rows of padding."""
    query = torch.arange(where.size, device=logs.device)
    first = torch.zeros(len(logs), where.size, dtype=torch.long, device=logs.device)
    hidden = logs.flatten(1)[:, where.slot(query, torch.zeros_like(query))].isneginf()
    rare = (hidden & real).any(1).nonzero()[:, 0]  # the rows of every other pattern see key 0
    if len(rare):
        seen = ~logs[rare].isneginf()
        of_patch = torch.where(seen.any(-1), where.key[:, :1] + seen.to(torch.uint8).argmax(-1), where.size)
        found = torch.full((len(rare), where.size), where.size, device=logs.device)
        found.scatter_reduce_(1, where.query.flatten().expand(len(rare), -1), of_patch.flatten(1), "amin")
        first[rare] = found.masked_fill(~real[rare], 0)
    return first


def find_sinks(
    patches: Float[Tensor, "n k p p"],
    itself: Float[Tensor, "n t"],
    first: Int[Tensor, "n t"],
    real: Bool[Tensor, "n t"],
    where: Layout,
) -> Sinks:
    """A key is a sink if at least 16 rows see it, give it 0.2 or more on average, and nine in ten of them 0.05 or more.

    A row sees the keys from ``first`` up to itself, or up to the last token in square patterns. What a token gives to
    itself does not count. Sinks other than key 0 count only if a quarter of the rows see one.

    Args:
        patches: probabilities.
        itself: what each row gives to its own key.
        first: from :func:`visible_from`.
        real: which rows are not padding.
        where: the patches' layout.
    """
    position = torch.arange(where.size, device=patches.device)
    last = position if where.causal else (real * position).amax(1, keepdim=True)
    last = last.expand_as(first)
    seen = _rows_that_see(first, last, real)
    strength = (by_key(patches.sum(2), where) - itself) / seen.clamp(min=1)
    judged = real & (seen >= _MIN_ROWS)
    pattern, key = (judged & (strength >= _MIN_STRENGTH)).nonzero(as_tuple=True)

    sees = (first[pattern] <= key[:, None]) & (key[:, None] <= last[pattern]) & real[pattern]
    sees &= position != key[:, None]  # c t: rows that see the candidate
    query = torch.where(sees, position, key[:, None])  # other rows may have no such pixel
    given = patches.flatten(1)[pattern[:, None], where.slot(query, key[:, None])]
    steady = ((given >= _MIN_ATTENTION) & sees).sum(1) >= _NEARLY_ALL * seen[pattern, key]

    later = steady & (key > 0)
    any_seen = torch.zeros_like(strength).index_add_(0, pattern[later], sees[later].to(strength.dtype)) > 0
    rows = any_seen.sum(1)
    wide = rows >= _MIN_SHARE * real[:, 1:].sum(1)
    keep = steady & (wide[pattern] | (key == 0))
    sinks = torch.zeros_like(strength)
    sinks[pattern[keep], key[keep]] = strength[pattern[keep], key[keep]].clamp(max=1)
    mass = (sinks * seen)[:, 1:].sum(1) / rows.clamp(min=1)
    return Sinks(sinks, mass.clamp(max=1).masked_fill(~judged[:, 1:].any(1), torch.nan))


def _rows_that_see(
    first: Int[Tensor, "n t"], last: Int[Tensor, "n t"], real: Bool[Tensor, "n t"]
) -> Int[Tensor, "n t"]:
    """How many rows see each key, its own row left out."""
    size = first.shape[1]
    borders = torch.zeros(len(first), size + 1, dtype=torch.long, device=first.device)
    weight = real.long()
    borders.scatter_add_(1, first, weight)
    borders.scatter_add_(1, last + 1, -weight)
    itself = real & (first <= torch.arange(size, device=first.device))
    return borders.cumsum(1)[:, :size] - itself.long()
