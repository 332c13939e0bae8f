"""The whole patterns that a study kept, as squares to look at.

Axes: k patches that exist, p pixels along a patch, t tokens (query_pos, key_pos).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.artifacts import unpack_patches


def unpack(row: Mapping[str, Any]) -> Float[ndarray, "t t"]:
    """A row of ``schema.EXEMPLARS`` as a float32 log pattern; -inf where attention is impossible.

    Raises:
        ArtifactError: if the number of bytes does not fit the size.
    """
    patches = unpack_patches(row["log_pattern"], row["size"], row["patch"], row["causal"])
    return dense(patches, row["size"], -np.inf, row["causal"])


def dense(patches: Float[ndarray, "k p p"], size: int, fill: float, causal: bool = True) -> Float[ndarray, "t t"]:
    """The patches of a pattern as one float32 square.

    Args:
        patches: those that exist, row-major.
        size: tokens along a side.
        fill: value above the diagonal of a causal pattern.
        causal: whether they are those on or below the diagonal, or those of the whole square.
    """
    patch = patches.shape[-1]
    grid = -(-size // patch)
    tiles = np.full((grid, grid, patch, patch), fill, dtype=np.float32)
    tiles[np.tril_indices(grid, 0 if causal else grid)] = patches
    whole = tiles.transpose(0, 2, 1, 3).reshape(grid * patch, grid * patch)[:size, :size]
    return np.where(np.tri(size, dtype=bool), whole, np.float32(fill)) if causal else whole


def scaled(log_pattern: Float[ndarray, "t t"]) -> Float[ndarray, "t t"]:
    """``(log p - m) / (-m)`` with m the smallest finite log, in [0, 1]; 0 where attention is impossible.

    The formula of ``log_normalize`` (``patterns/scaling.py``); if m = 0 (every row on one key) attended entries are 1.
    """
    smallest = min(float(np.min(log_pattern, where=np.isfinite(log_pattern), initial=0.0)), 0.0)
    return np.maximum(1 - log_pattern / (smallest or -1.0), 0.0).astype(np.float32)
