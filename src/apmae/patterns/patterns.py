"""``Patterns``: attention patterns in memory, packed as log probabilities of their lower-triangle patches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.errors import CaptureError
from apmae.patterns import geometry
from apmae.patterns.scaling import SCALINGS

PATCH = 32
"""Side of a patch, tokens (paper Table 2)."""

_ROW_TOLERANCE = 1e-3
"""What a row's sum may be off by; bfloat16, which rounds by more, gets its own epsilon."""


class Patterns:
    """Patterns of heads, with where each came from.

    Attributes:
        log_patches: (n, k, p, p) log probabilities, float32 or float16; -inf where nothing can be attended to.
        size: tokens along a side.
        prompt, layer, head: (n,) int64 arrays, the prompt's number and the head that made the pattern.
    """

    def __init__(
        self,
        log_patches: Float[Tensor, "n k p p"],
        size: int,
        *,
        prompt: Int[ndarray, " n"],
        layer: Int[ndarray, " n"],
        head: Int[ndarray, " n"],
    ) -> None:
        expected = geometry.num_patches(size, log_patches.shape[-1])
        if log_patches.shape[1] != expected:
            raise CaptureError(
                f"expected {expected} patches for a pattern of {size} tokens, got {log_patches.shape[1]}; "
                "give the size that the patches were cut from"
            )
        self.log_patches = log_patches
        self.size = size
        self.prompt = prompt
        self.layer = layer
        self.head = head

    @classmethod
    def from_probabilities(
        cls,
        array: Any,
        *,
        patch: int = PATCH,
        prompt: Sequence[int] | ndarray | None = None,
        layer: Sequence[int] | ndarray | None = None,
        head: Sequence[int] | ndarray | None = None,
    ) -> "Patterns":
        """Patterns that another tool captured.

        Args:
            array: (n, length, length) probabilities, array or tensor; rows sum to 1 (or to 0 for padding), nothing
                above the diagonal.
            patch: side of a patch, tokens.
            prompt: (n,) which prompt each is of; by default pattern i is prompt i.
            layer: (n,) which layer made it; by default 0.
            head: (n,) which head of the layer; by default 0.

        Raises:
            CaptureError: if the array is of another shape, is not finite, or holds no causal probabilities.
        """
        dense = torch.as_tensor(np.array(array) if not isinstance(array, Tensor) else array.detach()).cpu()
        if dense.ndim != 3 or dense.shape[1] != dense.shape[2] or not dense.shape[1]:
            raise CaptureError(f"expected probabilities of shape (n, length, length), got {tuple(dense.shape)}")
        tolerance = _ROW_TOLERANCE
        if dense.is_floating_point():
            tolerance = max(tolerance, torch.finfo(dense.dtype).eps)
        dense = dense.to(torch.float64)
        _check_probabilities(dense, tolerance)
        count = len(dense)
        where = [
            np.asarray(values, dtype=np.int64) if values is not None else default
            for values, default in (
                (prompt, np.arange(count)),
                (layer, np.zeros(count, np.int64)),
                (head, np.zeros(count, np.int64)),
            )
        ]
        if any(len(values) != count for values in where):
            raise CaptureError(f"expected {count} of prompt, layer and head, got {[len(values) for values in where]}")
        logs = dense.clamp(0, 1).log().to(torch.float32)
        return cls(
            geometry.pack(logs, patch, -torch.inf).masked_fill_(~_real(dense.shape[-1], patch), -torch.inf),
            dense.shape[-1],
            prompt=where[0],
            layer=where[1],
            head=where[2],
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Patterns"]) -> "Patterns":
        """Join patterns; shorter ones get empty rows, so that all have the longest's size.

        Raises:
            CaptureError: if there is nothing to join, or the patches differ in size.
        """
        if not parts:
            raise CaptureError("expected at least one forward inside the capture, got none; call the model first")
        patches = sorted({part.patch for part in parts})
        if len(patches) > 1:
            raise CaptureError(f"expected patches of one size, got {patches}; bring the patterns to one by repacked()")
        size = max(part.size for part in parts)
        return cls(
            torch.cat([part.resized(size).log_patches for part in parts]),
            size,
            prompt=np.concatenate([part.prompt for part in parts]),
            layer=np.concatenate([part.layer for part in parts]),
            head=np.concatenate([part.head for part in parts]),
        )

    @property
    def patch(self) -> int:
        """Side of a patch, tokens."""
        return self.log_patches.shape[-1]

    def __len__(self) -> int:
        return self.log_patches.shape[0]

    def __repr__(self) -> str:
        return f"Patterns({len(self)} of {self.size}x{self.size}, {len(np.unique(self.prompt))} prompts)"

    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | ndarray) -> "Patterns":
        """Some of the patterns, by slice, numbers or a boolean mask; an integer gives one pattern, as n = 1."""
        numbers = np.array(np.arange(len(self))[key], ndmin=1, order="C")
        return type(self)(
            self.log_patches[torch.from_numpy(numbers)],
            self.size,
            prompt=self.prompt[numbers],
            layer=self.layer[numbers],
            head=self.head[numbers],
        )

    def resized(self, size: int) -> "Patterns":
        """The same patterns with empty rows after their last token, up to ``size``.

        Raises:
            CaptureError: if the patterns are longer than ``size``.
        """
        if size == self.size:
            return self
        if size < self.size:
            raise CaptureError(
                f"expected patterns of at most {size} tokens, got {self.size}; use shorter prompts "
                "or a larger pattern_size"
            )
        more = geometry.num_patches(size, self.patch) - self.log_patches.shape[1]
        empty = self.log_patches.new_full((len(self), more, self.patch, self.patch), -torch.inf)
        return type(self)(
            torch.cat([self.log_patches, empty], dim=1), size, prompt=self.prompt, layer=self.layer, head=self.head
        )

    def cropped(self, lengths: Int[ndarray, " n"]) -> "Patterns":
        """The patterns of the first ``lengths`` tokens of each prompt: later rows become empty.

        In a causal model the first t rows are exactly the pattern that the first t tokens alone would make.
        """
        rows, _ = geometry.triangle(geometry.grid_size(self.size, self.patch))
        query = rows[:, None] * self.patch + torch.arange(self.patch)  # k p
        empty = query[None] >= torch.from_numpy(np.asarray(lengths, np.int64))[:, None, None]  # n k p
        logs = self.log_patches.masked_fill(empty[..., None].to(self.log_patches.device), -torch.inf)
        return Patterns(logs, self.size, prompt=self.prompt, layer=self.layer, head=self.head)

    def repacked(self, patch: int) -> "Patterns":
        """The same patterns in patches of another side."""
        if patch == self.patch:
            return self
        dense = geometry.unpack(self.log_patches, self.size, -torch.inf)
        packed = geometry.pack(dense, patch, -torch.inf)
        return type(self)(packed, self.size, prompt=self.prompt, layer=self.layer, head=self.head)

    def probabilities(self) -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): rows sum to 1 (0 for padding tokens), exactly 0 above the diagonal."""
        return geometry.unpack(self.log_patches.float().exp(), self.size, 0.0).cpu().numpy()

    def scaled(self, scaling: str = "log_normalize") -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): what the encoder sees; in [0, 1] for the default scaling (DESIGN section 4)."""
        return geometry.unpack(self.scaled_patches(scaling), self.size, 0.0).cpu().numpy()

    def scaled_patches(self, scaling: str = "log_normalize") -> Float[Tensor, "n k p p"]:
        """float32 (n, k, p, p): scaled lower-triangle patches, 0 above the diagonal."""
        scaled = SCALINGS[scaling](self.log_patches.float())
        return scaled.masked_fill_(~_real(self.size, self.patch).to(scaled.device), 0.0)


def _real(size: int, patch: int) -> Tensor:
    return geometry.real_pixels(geometry.grid_size(size, patch), patch)


def _check_probabilities(dense: Float[Tensor, "n t t"], tolerance: float) -> None:
    if not torch.isfinite(dense).all() or (dense < -1e-6).any() or (dense > 1 + tolerance).any():
        raise CaptureError("expected finite probabilities in [0, 1], got others; pass attention after its softmax")
    above = float(dense.triu(1).abs().amax()) if dense.shape[0] else 0.0
    if above > 1e-6:
        raise CaptureError(
            f"expected causal patterns, got {above:.3g} above the diagonal; apmae reads decoder attention"
        )
    sums = dense.sum(-1)
    worst = float(torch.minimum((sums - 1).abs(), sums.abs()).amax()) if dense.shape[0] else 0.0
    if worst > tolerance:
        raise CaptureError(f"expected rows that sum to 1, one is off by {worst:.3g}; normalise them over key_pos")
