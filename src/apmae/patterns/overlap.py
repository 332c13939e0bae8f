"""Overlap of a pattern's rows: how alike rows q and q + d are, key by key and lag by lag.

Both the descriptor and the gate read it. Rows are compared by the products of their root probabilities (Bhattacharyya
coefficient, 1943) over the keys that both can see, and over the lags that both have: there row q + d is moved d keys
back. In a column of attention neighbouring rows agree by key, on a diagonal by lag.

Axes: n patterns, t tokens, d distances, a alignments (by key, by lag).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
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


def overlaps(root: Float[Tensor, "n t t"], real: Bool[Tensor, "n t"], causal: bool) -> Overlaps:
    """Compare every row with those 1, 4 and 16 rows later.

    Args:
        root: root probabilities; 0 where attention is impossible.
        real: which rows are not padding, which comes last.
        causal: whether row q sees the keys up to q, or all keys.
    """
    count, size, _ = root.shape
    edge = min(max(DISTANCES), size)
    whole = torch.stack([root.sum(-1), root.square().sum(-1)])  # 2 n t
    begin = _running(root[..., :edge])
    position = torch.arange(size, device=root.device)
    length = real.sum(1)
    # The last keys of a row: up to its own, or in square patterns up to the prompt's last.
    last = position.expand(count, -1) if causal else (length - 1).clamp(min=0)[:, None].expand(-1, size)
    keys = last[..., None] - torch.arange(edge, device=root.device)
    end = _running(root.gather(2, keys.clamp(min=0)) * (keys >= 0))
    found: list[list[Tensor]] = [[] for _ in range(6)]
    for by_lag in (False, True):
        for distance in DISTANCES:
            values = root.new_zeros(6, count, size)
            if distance < size:
                both = (real[:, distance:] & real[:, :-distance]).to(root.dtype)
                first, second = whole[..., :-distance], whole[..., distance:]
                earlier, later = root[:, :-distance], root[:, distance:]
                if by_lag:  # row q + d has d lags more: those of its first keys; and row q in square patterns
                    earlier, later = earlier[..., :-distance], later[..., distance:]
                    second = second - begin[..., distance:, distance - 1]
                    first = first if causal else first - end[..., :-distance, distance - 1]
                elif causal:  # row q + d sees d keys more: its last ones
                    second = second - end[..., distance:, distance - 1]
                product = torch.linalg.vecdot(earlier, later)
                if causal:
                    shared = (position[:-distance] + 1).expand(count, -1)
                else:
                    shared = (length - distance * by_lag)[:, None].expand(-1, size - distance)
                for place, value in enumerate((product, first[0], second[0], first[1], second[1], shared)):
                    values[place, :, :-distance] = value * both
            for field, value in zip(found, values.unbind(), strict=True):
                field.append(value)
    product, *sums, shared = (torch.stack(field, 1).unflatten(1, (2, len(DISTANCES))) for field in found)
    return Overlaps(product, (sums[0], sums[1]), (sums[2], sums[3]), shared)


def _running(values: Float[Tensor, "n t e"]) -> Float[Tensor, "2 n t e"]:
    """Running sums of values and of their squares along the last axis."""
    return torch.stack([values, values.square()]).cumsum(-1)
