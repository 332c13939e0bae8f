"""Which pixels of a pattern exist, and how they are packed into patches.

A pattern of ``size`` tokens is cut into ``patch x patch`` tiles, in row-major order. A causal pattern has only the
tiles on or below the diagonal, so the patches of a shorter pattern are a prefix of a longer one's. A square
pattern (``causal=False``, as encoders make) has the whole grid.

Axes: n patterns, t tokens (query_pos, key_pos), k patches, p pixels along a patch.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def grid_size(size: int, patch: int) -> int:
    """Patches along one side of a pattern of ``size`` tokens; the last may be partly empty."""
    return -(-size // patch)


def num_patches(size: int, patch: int, causal: bool = True) -> int:
    """Patches that exist: with 256 tokens and patches of 32, 36 if causal (paper section 4) and 64 if square."""
    grid = grid_size(size, patch)
    return grid * (grid + 1) // 2 if causal else grid * grid


@lru_cache
def tiles(grid: int, causal: bool = True) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Row and column of each patch that exists, row-major."""
    rows, columns = torch.tril_indices(grid, grid, 0 if causal else grid)
    return rows, columns


@lru_cache
def real_pixels(grid: int, patch: int, causal: bool = True) -> Bool[Tensor, "k p p"]:
    """True where attention is possible: in the lower half of diagonal patches, and everywhere in all others."""
    rows, columns = tiles(grid, causal)
    pixels = torch.ones(len(rows), patch, patch, dtype=torch.bool)
    if causal:
        pixels[rows == columns] = torch.ones(patch, patch, dtype=torch.bool).tril()
    return pixels


def pack(dense: Float[Tensor, "n t t"], patch: int, fill: float, causal: bool = True) -> Float[Tensor, "n k p p"]:
    """Cut patterns into the patches that exist.

    Args:
        dense: patterns, any values.
        patch: side of a patch, in tokens.
        fill: value of pixels beyond the pattern's last token.
        causal: keep the lower triangle only.
    """
    grid = grid_size(dense.shape[-1], patch)
    beyond = grid * patch - dense.shape[-1]
    if beyond:
        dense = torch.nn.functional.pad(dense, (0, beyond, 0, beyond), value=fill)
    grids = dense.unflatten(1, (grid, patch)).unflatten(3, (grid, patch))  # n row p column p
    rows, columns = tiles(grid, causal)
    return grids[:, rows, :, columns].transpose(0, 1).contiguous()


def unpack(patches: Float[Tensor, "n k p p"], size: int, fill: float, causal: bool = True) -> Float[Tensor, "n t t"]:
    """The inverse of :func:`pack`; in a causal pattern everything above the diagonal becomes ``fill``."""
    patch = patches.shape[-1]
    grid = grid_size(size, patch)
    rows, columns = tiles(grid, causal)
    if causal:
        patches = torch.where(real_pixels(grid, patch).to(patches.device), patches, fill)
    grids = patches.new_full((patches.shape[0], grid, grid, patch, patch), fill)
    grids[:, rows, columns] = patches
    dense = grids.transpose(2, 3).reshape(-1, grid * patch, grid * patch)
    return dense[:, :size, :size].contiguous()
