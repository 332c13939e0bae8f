"""Probabilities that another tool captured: checked, and packed as log patches.

This is done in float64 for 32 patterns at a time, so that a large file takes no more memory than its packed size.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from apmae.errors import CaptureError
from apmae.patterns import geometry

_ROW_TOLERANCE = 2**-8
"""How far a row's sum may be off. bfloat16 rounds by half of that, and NumPy has to keep bfloat16 as float32."""
_NOTHING = 1e-6
"""The largest value that still counts as zero."""
_CHUNK = 32
"""Patterns held in float64 at a time."""


def as_array(array: Any) -> ndarray | Tensor:
    """A list, array or tensor as an array or tensor of real numbers; not copied if it is one already.

    Raises:
        CaptureError: if it is ragged or holds anything but real numbers.
    """
    if isinstance(array, Tensor):
        if not array.is_complex():
            return array.detach()
        raise CaptureError(f"expected probabilities, got an array of {array.dtype}; pass attention after its softmax")
    try:
        found = np.asarray(array)
    except ValueError as error:
        raise CaptureError(f"expected probabilities of shape (n, length, length), got no array: {error}") from None
    if found.dtype.kind not in "biuf":
        raise CaptureError(f"expected probabilities, got an array of {found.dtype}; pass attention after its softmax")
    return found


def log_patches(array: ndarray | Tensor, patch: int, causal: bool) -> Float[Tensor, "n k p p"]:
    """float32 log patches of (n, length, length) probabilities.

    Raises:
        CaptureError: if the array has another shape, is not finite or does not hold (causal) probabilities, or one of
            its patterns is all zero.
    """
    if array.ndim != 3 or array.shape[1] != array.shape[2] or not array.shape[1]:
        raise CaptureError(f"expected probabilities of shape (n, length, length), got {tuple(array.shape)}")
    size = array.shape[-1]
    real = geometry.real_pixels(geometry.grid_size(size, patch), patch, causal)
    packed = torch.full((len(array), *real.shape), -torch.inf)
    for first in range(0, len(array), _CHUNK):
        dense = _float64(array[first : first + _CHUNK])
        _check(dense, causal, first)
        logs = geometry.pack(dense.clamp(0, 1).log().float(), patch, -torch.inf, causal)
        packed[first : first + _CHUNK] = logs.masked_fill_(~real, -torch.inf)
    return packed


def is_causal(array: ndarray | Tensor) -> bool:
    """Whether (n, length, length) probabilities are all zero above the diagonal."""
    chunks = (_float64(array[first : first + _CHUNK]) for first in range(0, len(array), _CHUNK))
    return all(not (chunk.triu(1).abs() > _NOTHING).any() for chunk in chunks)


def _float64(array: ndarray | Tensor) -> Float[Tensor, "n t t"]:
    """Probabilities on the CPU; they may share the caller's memory."""
    if isinstance(array, Tensor):
        return array.to("cpu", torch.float64)
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _check(dense: Float[Tensor, "n t t"], causal: bool, first: int) -> None:
    if not torch.isfinite(dense).all() or (dense < -_NOTHING).any() or (dense > 1 + _ROW_TOLERANCE).any():
        raise CaptureError("expected finite probabilities in [0, 1], got others; pass attention after its softmax")
    above = float(dense.triu(1).abs().amax()) if causal else 0.0
    if above > _NOTHING:
        raise CaptureError(
            f"expected causal patterns, got {above:.3g} above the diagonal; for patterns of encoders say causal=False"
        )
    sums = dense.sum(-1)
    worst = float(torch.minimum((sums - 1).abs(), sums.abs()).amax())
    if worst > _ROW_TOLERANCE:
        raise CaptureError(
            f"expected rows that sum to 1, one is off by {worst:.3g}; normalise them over key_pos; for a model with "
            "attention sinks use apmae.capture and Patterns.save"
        )
    empty = (sums < 0.5).all(1).nonzero().flatten()
    if len(empty):
        raise CaptureError(
            f"expected at least one row that sums to 1 in every pattern, all rows of pattern {first + int(empty[0])} "
            "are 0, like padding; leave out prompts without tokens and heads that were not captured"
        )
