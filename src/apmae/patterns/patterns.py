"""``Patterns``: attention patterns in memory, as log probabilities of the patches that exist."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.errors import CaptureError
from apmae.patterns import arrays, files, geometry
from apmae.patterns import probabilities as given
from apmae.patterns.reach import REACHES as REACHES
from apmae.patterns.reach import check_reach, known_lengths, known_of, merged, one_prompt, row_labels
from apmae.patterns.scaling import SCALINGS

PATCH = 32
"""Side of a patch, in tokens (paper Table 2)."""


class Patterns:
    """Attention patterns, with the prompt and head that each came from.

    Attributes:
        log_patches: (n, k, p, p) log probabilities, float32 or float16; -inf where attention is impossible.
        size: rows along a side.
        prompt, layer, head: (n,) int64 arrays, the prompt's number and the head that made the pattern.
        causal: True if a pattern has nothing above the diagonal; False for the square patterns of encoders.
        tokens: token strings of the whole prompt without padding, by prompt number; None if unknown.
        reach: which tokens the rows represent, one of ``REACHES``. "whole": one row per token. "pool": row i of a
            longer prompt represents the block of tokens ``i * length // rows`` to ``(i + 1) * length // rows - 1``.
            "crop": the rows represent the last tokens.
        lengths: number of tokens before pooling or cropping, by prompt number, including the prompts of ``tokens``;
            None if unknown.
        rows: number of rows that represent tokens, by prompt number, where it is not ``min(size, length)``.
    """

    dims: ClassVar[tuple[str, ...]] = ("layer", "head", "query_pos", "key_pos")
    """Names of the axes of :meth:`to_numpy`."""

    def __init__(
        self,
        log_patches: Float[Tensor, "n k p p"],
        size: int,
        *,
        prompt: Int[ndarray, " n"],
        layer: Int[ndarray, " n"],
        head: Int[ndarray, " n"],
        causal: bool = True,
        tokens: Mapping[int, Sequence[str]] | None = None,
        reach: str = "whole",
        lengths: Mapping[int, int] | None = None,
        rows: Mapping[int, int] | None = None,
    ) -> None:
        expected = geometry.num_patches(size, log_patches.shape[-1], causal)
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
        self.causal = causal
        self.tokens = None if tokens is None else {int(key): tuple(texts) for key, texts in tokens.items()}
        self.reach = reach
        self.lengths = known_lengths(self.tokens, lengths)
        self.rows = None if rows is None else dict(rows)
        check_reach(reach, size, self.lengths)

    @classmethod
    def from_probabilities(
        cls,
        array: Any,
        *,
        patch: int = PATCH,
        prompt: Sequence[int] | ndarray | None = None,
        layer: Sequence[int] | ndarray | None = None,
        head: Sequence[int] | ndarray | None = None,
        causal: bool = True,
        tokens: Mapping[int, Sequence[str]] | None = None,
    ) -> "Patterns":
        """Make patterns from probabilities that another tool captured.

        Args:
            array: (n, length, length) probabilities, array or tensor. Rows sum to 1, or to 0 for padding, but no
                pattern is all zero; if ``causal``, there is nothing above the diagonal.
            patch: side of a patch, in tokens.
            prompt: (n,) the prompt of each pattern; by default pattern i is prompt i.
            layer: (n,) the layer; by default 0.
            head: (n,) the head within the layer; by default 0.
            causal: False for patterns of encoders, which attend to later tokens too.
            tokens: token strings by prompt number, at most ``length`` per prompt.

        Raises:
            CaptureError: if the array has another shape, is not finite or does not hold (causal) probabilities, or one
                of its patterns is all zero.
        """
        array = given.as_array(array)
        logs = given.log_patches(array, patch, causal)
        count = len(logs)
        where = [
            np.asarray(values, dtype=np.int64) if values is not None else default
            for values, default in (
                (prompt, np.arange(count)),
                (layer, np.zeros(count, np.int64)),
                (head, np.zeros(count, np.int64)),
            )
        ]
        if any(len(values) != count for values in where):
            lengths = [len(values) for values in where]
            raise CaptureError(f"expected {count} values of prompt, layer and head, got {lengths}")
        prompt, layer, head = where
        return cls(logs, array.shape[-1], prompt=prompt, layer=layer, head=head, causal=causal, tokens=tokens)

    def without_texts(self) -> "Patterns":
        """The same patterns without their prompts' tokens and lengths, for instance to train on."""
        return Patterns(
            self.log_patches,
            self.size,
            prompt=self.prompt,
            layer=self.layer,
            head=self.head,
            causal=self.causal,
            reach=self.reach,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Patterns"]) -> "Patterns":
        """Join patterns. Shorter ones get empty rows, so that all have the size of the longest. One part is not copied.

        Raises:
            CaptureError: if there is nothing to join, the parts differ in patch, reach or ``causal``, or two of them
                use the same number for different prompts.
        """
        if not parts:
            raise CaptureError("expected at least one forward inside the capture, got none; call the model first")
        patches = sorted({part.patch for part in parts})
        if len(patches) > 1:
            raise CaptureError(f"expected patches of one size, got {patches}; call repacked() first")
        if len({part.causal for part in parts}) > 1:
            raise CaptureError("expected causal or square patterns, got both; join each kind separately")
        # Prompts that fit are whole, whether the longer ones were pooled or cropped.
        reaches = sorted({part.reach for part in parts} - {"whole"}) or ["whole"]
        if len(reaches) > 1:
            raise CaptureError(f"expected patterns of one reach, got {reaches}; capture all prompts the same way")
        if len(parts) == 1:
            return parts[0]
        size, count = max(part.size for part in parts), max(part.log_patches.shape[1] for part in parts)
        dtype = reduce(torch.promote_types, [part.log_patches.dtype for part in parts])
        shape = (sum(map(len, parts)), count, *parts[0].log_patches.shape[2:])
        logs = parts[0].log_patches.new_empty(shape, dtype=dtype)
        first = 0
        for part in parts:  # one at a time: resized copies of all parts would take a third of the memory
            own = logs[first : first + len(part)]
            fitted = part.log_patches if part.causal else part.resized(size).log_patches
            own[:, : fitted.shape[1]] = fitted
            own[:, fitted.shape[1] :] = -torch.inf
            first += len(part)
        return cls(
            logs,
            size,
            prompt=np.concatenate([part.prompt for part in parts]),
            layer=np.concatenate([part.layer for part in parts]),
            head=np.concatenate([part.head for part in parts]),
            causal=parts[0].causal,
            tokens=merged("tokens", [part.tokens for part in parts]),
            reach=reaches[0],
            lengths=merged("lengths", [part.lengths for part in parts]),
            rows=merged("rows", [part._rows_at(size) for part in parts]),
        )

    @property
    def patch(self) -> int:
        """Side of a patch, in tokens."""
        return self.log_patches.shape[-1]

    def __len__(self) -> int:
        return self.log_patches.shape[0]

    def __repr__(self) -> str:
        kind = ("" if self.causal else ", square") + ("" if self.reach == "whole" else f", {self.reach}")
        return f"Patterns({len(self)} of {self.size}x{self.size}, {len(np.unique(self.prompt))} prompts{kind})"

    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | ndarray) -> "Patterns":
        """Some of the patterns, by slice, numbers or boolean mask; an integer gives a single pattern, with n = 1."""
        numbers = np.array(np.arange(len(self))[key], ndmin=1, order="C")
        prompts = np.unique(self.prompt[numbers]).tolist()
        return type(self)(
            self.log_patches[torch.from_numpy(numbers)],
            self.size,
            prompt=self.prompt[numbers],
            layer=self.layer[numbers],
            head=self.head[numbers],
            causal=self.causal,
            tokens=known_of(self.tokens, prompts),
            reach=self.reach,
            lengths=known_of(self.lengths, prompts),
            rows=known_of(self.rows, prompts),
        )

    def labels(self, prompt: int) -> list[str]:
        """Names of a prompt's rows: the token, the first and last token of a block, or the position if unknown.

        Raises:
            CaptureError: if there is no such prompt.
        """
        rows = self.num_rows(prompt)
        return row_labels((self.lengths or {}).get(prompt, rows), rows, self.reach, (self.tokens or {}).get(prompt))

    def num_rows(self, prompt: int) -> int:
        """Number of rows that represent the prompt's tokens; the rows after them are empty.

        Raises:
            CaptureError: if there is no such prompt.
        """
        one_prompt(self.prompt, prompt)
        if self.rows is not None and prompt in self.rows:
            return self.rows[prompt]
        return min(self.size, (self.lengths or {}).get(prompt, self.size))

    def resized(self, size: int) -> "Patterns":
        """The same patterns with empty rows added at the end, up to ``size``.

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
        rows = self._rows_at(size)
        if self.causal:
            more = geometry.num_patches(size, self.patch) - self.log_patches.shape[1]
            empty = self.log_patches.new_full((len(self), more, self.patch, self.patch), -torch.inf)
            return self._with(torch.cat([self.log_patches, empty], dim=1), size, rows)
        beyond = size - self.size
        dense = torch.nn.functional.pad(self._dense(), (0, beyond, 0, beyond), value=-torch.inf)
        return self._with(geometry.pack(dense, self.patch, -torch.inf, causal=False), size, rows)

    def _rows_at(self, size: int) -> dict[int, int] | None:
        """``rows`` once patterns have ``size``: those of a pooled or cropped prompt no longer follow from the size."""
        if size == self.size:
            return self.rows
        longer = {prompt: self.size for prompt, length in (self.lengths or {}).items() if length > self.size}
        return {**longer, **(self.rows or {})} or None

    def cropped(self, lengths: Int[ndarray, " n"]) -> "Patterns":
        """The first ``lengths`` rows of each pattern; later rows become empty.

        In a causal model the first t rows are exactly the pattern of a prompt of the first t tokens.

        Raises:
            CaptureError: if the patterns are square, because there each row depends on all tokens.
        """
        if not self.causal:
            raise CaptureError("expected causal patterns to crop, got square ones; run the model on shorter prompts")
        rows, _ = geometry.tiles(geometry.grid_size(self.size, self.patch))
        query = rows[:, None] * self.patch + torch.arange(self.patch)  # k p
        empty = query[None] >= torch.from_numpy(np.asarray(lengths, np.int64))[:, None, None]  # n k p
        logs = self.log_patches.masked_fill(empty[..., None].to(self.log_patches.device), -torch.inf)
        return self._with(logs, self.size, self.rows)

    def repacked(self, patch: int) -> "Patterns":
        """The same patterns in patches with another side."""
        if patch == self.patch:
            return self
        return self._with(geometry.pack(self._dense(), patch, -torch.inf, self.causal), self.size, self.rows)

    def probabilities(self) -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): rows sum to 1 (0 for padding); exactly 0 above the diagonal if causal."""
        return geometry.unpack(self.log_patches.float().exp(), self.size, 0.0, self.causal).cpu().numpy()

    def scaled(self, scaling: str = "log_normalize") -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): what the encoder sees; in [0, 1] for the default scaling (DESIGN section 4)."""
        return geometry.unpack(self.scaled_patches(scaling), self.size, 0.0, self.causal).cpu().numpy()

    def scaled_patches(self, scaling: str = "log_normalize") -> Float[Tensor, "n k p p"]:
        """float32 (n, k, p, p): the scaled patches that exist, 0 above the diagonal if causal."""
        scaled = SCALINGS[scaling](self.log_patches.float())
        return scaled.masked_fill_(~_real(self.size, self.patch, self.causal).to(scaled.device), 0.0)

    def to_numpy(self, prompt: int | None = None) -> Float[ndarray, "layers heads rows rows"]:
        """float32 (layer, head, query_pos, key_pos): the probabilities of one prompt's heads over its own rows.

        The first two axes are the layers and heads that occur, ascending; heads that were not captured are NaN.

        Args:
            prompt: its number; None if there is only one.

        Raises:
            CaptureError: if there is no such prompt, there are several and ``prompt`` is None, or a head occurs twice.
        """
        own = self._of_prompt(prompt)
        rows = own.num_rows(int(own.prompt[0]))
        return arrays.by_head(own.probabilities()[:, :rows, :rows], own.layer, own.head)

    def to_xarray(self, prompt: int | None = None) -> Any:
        """What :meth:`to_numpy` returns, as an ``xarray.DataArray`` with coordinates.

        The coordinates are layer, head, query_pos and key_pos (numbers), query_token and key_token (:meth:`labels`).

        Raises:
            CaptureError: as for :meth:`to_numpy`.
            DependencyError: if xarray is not installed.
        """
        own = self._of_prompt(prompt)
        return arrays.named(own.to_numpy(), own.layer, own.head, own.labels(int(own.prompt[0])), self.dims)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, atomically; equal patterns give equal bytes.

        Raises:
            CaptureError: if ``path`` does not end in .safetensors.
            ArtifactError: if the disk is full or the folder cannot be written.
        """
        files.save(path, self._fields())

    @staticmethod
    def load(path: str | Path, *, causal: bool | None = None) -> "Patterns":
        """Read what :meth:`save` wrote, or probabilities that another tool saved as .npy, .npz or .safetensors.

        Args:
            path: the file. Another tool's array has shape (n, L, L), (layers, heads, L, L) or
                (prompts, layers, heads, L, L). It is the only array in the file, or it is named attention, attentions,
                patterns or probabilities.
            causal: whether another tool's probabilities are causal; None finds out: they are square if anything is
                above the diagonal.

        Raises:
            CaptureError: if there is no such file, it is damaged or of another kind, or it holds no probabilities.
        """
        with files.naming(path):
            return Patterns(**files.load(path, patch=PATCH, causal=causal))

    def _fields(self) -> dict[str, Any]:
        """The arguments from which ``Patterns`` makes the same patterns."""
        names = ("log_patches", "size", "prompt", "layer", "head", "causal", "tokens", "reach", "lengths", "rows")
        return {name: getattr(self, name) for name in names}

    def _of_prompt(self, prompt: int | None) -> "Patterns":
        """The patterns of one prompt, each head once; raises what :meth:`to_numpy` raises."""
        wanted = one_prompt(self.prompt, prompt)
        own = self[self.prompt == wanted]
        arrays.check_heads(own.layer, own.head, wanted)
        return own

    def _dense(self) -> Float[Tensor, "n t t"]:
        return geometry.unpack(self.log_patches, self.size, -torch.inf, self.causal)

    def _with(self, log_patches: Tensor, size: int, rows: Mapping[int, int] | None) -> "Patterns":
        """Patterns with other pixels, of the same heads and prompts."""
        return type(self)(**{**self._fields(), "log_patches": log_patches, "size": size, "rows": rows})


def _real(size: int, patch: int, causal: bool) -> Tensor:
    return geometry.real_pixels(geometry.grid_size(size, patch), patch, causal)
