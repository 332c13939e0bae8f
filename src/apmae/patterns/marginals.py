"""Marginals of packed patterns: their sums by query, by key and by distance, without unpacking them.

Axes: n patterns, k patches, p pixels along a patch, t tokens, w distances.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apmae.patterns import geometry


class Layout(NamedTuple):
    """The token pair of each pixel of a packed pattern."""

    size: int
    """Tokens along a side, rounded up to whole patches."""
    causal: bool
    query: Int[Tensor, "k p"]
    """Query of each pixel row."""
    key: Int[Tensor, "k p"]
    """Key of each pixel column."""
    offset: Int[Tensor, " k"]
    """Patches between a patch and the diagonal, negative above it; in square patterns shifted to begin at 0."""

    @property
    def back(self) -> Int[Tensor, "k p p"]:
        """Tokens from each pixel's key to its query; negative where the key comes later."""
        return self.query[:, :, None] - self.key[:, None, :]

    def slot(self, query: Int[Tensor, "..."], key: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Positions of token pairs in a flattened packed pattern; pairs above the diagonal only if it is square."""
        patch = self.key.shape[1]
        row, column = query // patch, key // patch
        before = row * (row + 1) // 2 if self.causal else row * (self.size // patch)
        return (before + column) * patch**2 + query % patch * patch + key % patch


@lru_cache(maxsize=16)
def layout(grid: int, patch: int, causal: bool, device: torch.device) -> Layout:
    """The layout of patterns with ``grid`` patches of ``patch`` tokens along a side."""
    rows, columns = geometry.tiles(grid, causal)
    query = rows[:, None] * patch + torch.arange(patch)
    key = columns[:, None] * patch + torch.arange(patch)
    offset = rows - columns + (0 if causal else grid - 1)
    return Layout(grid * patch, causal, query.to(device), key.to(device), offset.to(device))


def by_query(rows: Float[Tensor, "n k p"], where: Layout) -> Float[Tensor, "n t"]:
    """Sums by query, from sums along the rows of patches."""
    return rows.new_zeros(len(rows), where.size).index_add_(1, where.query.flatten(), rows.flatten(1))


def by_key(columns: Float[Tensor, "n k p"], where: Layout) -> Float[Tensor, "n t"]:
    """Sums by key, from sums along the columns of patches."""
    return columns.new_zeros(len(columns), where.size).index_add_(1, where.key.flatten(), columns.flatten(1))


def by_distance(patches: Float[Tensor, "n k p p"], where: Layout) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"]]:
    """Sums by how many tokens the key is before the query (0 or more), and by how many it is after it (1 or more)."""
    count, patch = len(patches), patches.shape[-1]
    offsets = int(where.offset.max()) + 1
    # First add up patches at the same distance from the diagonal, then sum along the diagonals of the results.
    stacked = patches.new_zeros(count, offsets, patch, patch).index_add_(1, where.offset, patches)
    within = torch.arange(patch, device=patches.device)
    diagonal = torch.nn.functional.one_hot(within[:, None] - within + patch - 1, 2 * patch - 1).to(patches.dtype)
    sums = stacked.flatten(2) @ diagonal.flatten(0, 1)  # n offsets 2p-1
    first = 0 if where.causal else offsets // 2
    distance = (torch.arange(offsets, device=patches.device) - first)[:, None] * patch
    distance = (distance + torch.arange(1 - patch, patch, device=patches.device)).flatten()
    back = patches.new_zeros(count, where.size)
    ahead = back.clone()
    backward = distance >= 0
    flat = sums.flatten(1)
    back.index_add_(1, distance[backward], flat[:, backward])
    ahead.index_add_(1, -distance[~backward], flat[:, ~backward])
    return back, ahead


def near(patches: Float[Tensor, "n k p p"], back: Sequence[int], where: Layout) -> Float[Tensor, "n t w"]:
    """The mass of each query on the key ``back`` tokens before it, for several distances; 0 where there is no key."""
    query = torch.arange(where.size, device=patches.device)[:, None]
    key = query - torch.tensor(back, device=patches.device)
    real = (key >= 0) & (key < where.size)
    chosen = patches.flatten(1)[:, where.slot(query, key.clamp(0, where.size - 1)).flatten()]
    return chosen.unflatten(1, key.shape) * real
