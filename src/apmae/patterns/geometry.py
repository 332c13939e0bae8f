"""Which pixels of a causal pattern exist, and how they are packed into patches.

A pattern of ``size`` tokens is cut into ``patch x patch`` tiles. Only tiles on or below the diagonal exist; they are
kept in row-major order, so the patches of a shorter pattern are a prefix of a longer one's.

Axes: n patterns, t tokens (query_pos, key_pos), k patches, p pixels along a patch.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def grid_size(size: int, patch: int) -> int:
    """Patches along one side of a pattern of ``size`` tokens; the last may be partly empty."""
    return -(-size // patch)


def num_patches(size: int, patch: int) -> int:
    """Patches on or below the diagonal: 36 for 256 tokens and patches of 32 (paper section 4)."""
    grid = grid_size(size, patch)
    return grid * (grid + 1) // 2


@lru_cache
def triangle(grid: int) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Row and column of each patch on or below the diagonal, row-major."""
    rows, columns = torch.tril_indices(grid, grid)
    return rows, columns


@lru_cache
def real_pixels(grid: int, patch: int) -> Bool[Tensor, "k p p"]:
    """True where a pixel lies on or below the pattern's diagonal: all of a lower patch, half of a diagonal one."""
    rows, columns = triangle(grid)
    pixels = torch.ones(len(rows), patch, patch, dtype=torch.bool)
    pixels[rows == columns] = torch.ones(patch, patch, dtype=torch.bool).tril()
    return pixels


def pack(dense: Float[Tensor, "n t t"], patch: int, fill: float) -> Float[Tensor, "n k p p"]:
    """Cut patterns into their lower-triangle patches.

    Args:
        dense: patterns, any values.
        patch: side of a patch.
        fill: value of pixels beyond the pattern's last token.
    """
    grid = grid_size(dense.shape[-1], patch)
    beyond = grid * patch - dense.shape[-1]
    if beyond:
        dense = torch.nn.functional.pad(dense, (0, beyond, 0, beyond), value=fill)
    tiles = dense.unflatten(1, (grid, patch)).unflatten(3, (grid, patch))  # n row p column p
    rows, columns = triangle(grid)
    return tiles[:, rows, :, columns].transpose(0, 1).contiguous()


def unpack(patches: Float[Tensor, "n k p p"], size: int, fill: float) -> Float[Tensor, "n t t"]:
    """The inverse of :func:`pack`; everything above the diagonal becomes ``fill``."""
    patch = patches.shape[-1]
    grid = grid_size(size, patch)
    rows, columns = triangle(grid)
    tiles = patches.new_full((patches.shape[0], grid, grid, patch, patch), fill)
    tiles[:, rows, columns] = torch.where(real_pixels(grid, patch).to(patches.device), patches, fill)
    dense = tiles.transpose(2, 3).reshape(-1, grid * patch, grid * patch)
    return dense[:, :size, :size].contiguous()
