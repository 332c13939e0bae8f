"""``Patterns``: attention patterns in memory, packed as log probabilities of the patches that exist."""

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
"""Side of a patch, tokens (paper Table 2)."""


class Patterns:
    """Patterns of heads, with where each came from.

    Attributes:
        log_patches: (n, k, p, p) log probabilities, float32 or float16; -inf where nothing can be attended to.
        size: rows along a side.
        prompt, layer, head: (n,) int64 arrays, the prompt's number and the head that made the pattern.
        causal: whether nothing above the diagonal exists; False for the square patterns of encoders.
        tokens: the token strings of prompts by number, the prompt's whole text without padding; None if unknown.
        reach: how rows stand for tokens, one of ``REACHES``. "whole": one row a token. "pool": row i of a longer prompt
            stands for the block of tokens ``i * length // rows`` to ``(i + 1) * length // rows - 1``. "crop": the rows
            stand for the last tokens.
        lengths: tokens of prompts by number, before pooling or cropping; None if unknown, else those of ``tokens`` too.
        rows: rows of prompts by number that stand for their tokens, where not ``min(size, length)``.
    """

    dims: ClassVar[tuple[str, ...]] = ("layer", "head", "query_pos", "key_pos")
    """What the axes of :meth:`to_numpy` are called."""

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
        """Patterns that another tool captured.

        Args:
            array: (n, length, length) probabilities, array or tensor; rows sum to 1 (or to 0 for padding, but not all
                of a pattern), and if ``causal`` nothing lies above the diagonal.
            patch: side of a patch, tokens.
            prompt: (n,) which prompt each is of; by default pattern i is prompt i.
            layer: (n,) which layer made it; by default 0.
            head: (n,) which head of the layer; by default 0.
            causal: False for patterns of encoders, which attend to later tokens too.
            tokens: the token strings of prompts by number, at most ``length`` of each.

        Raises:
            CaptureError: if the array is of another shape, is not finite, holds no (causal) probabilities, or a pattern
                of it is all zero.
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
            raise CaptureError(f"expected {count} of prompt, layer and head, got {[len(values) for values in where]}")
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
        """Join patterns; shorter ones get empty rows, so that all have the longest's size. One alone is not copied.

        Raises:
            CaptureError: if there is nothing to join, the parts differ in patch, reach or being causal, or two of them
                number different prompts alike.
        """
        if not parts:
            raise CaptureError("expected at least one forward inside the capture, got none; call the model first")
        patches = sorted({part.patch for part in parts})
        if len(patches) > 1:
            raise CaptureError(f"expected patches of one size, got {patches}; bring the patterns to one by repacked()")
        if len({part.causal for part in parts}) > 1:
            raise CaptureError("expected causal or square patterns, got both; join the patterns of each kind by itself")
        # Prompts short enough are whole whichever way the longer ones were taken.
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
        for part in parts:  # one after the other: resized copies of all of them would be a third of the memory
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
        """Side of a patch, tokens."""
        return self.log_patches.shape[-1]

    def __len__(self) -> int:
        return self.log_patches.shape[0]

    def __repr__(self) -> str:
        kind = ("" if self.causal else ", square") + ("" if self.reach == "whole" else f", {self.reach}")
        return f"Patterns({len(self)} of {self.size}x{self.size}, {len(np.unique(self.prompt))} prompts{kind})"

    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | ndarray) -> "Patterns":
        """Some of the patterns, by slice, numbers or a boolean mask; an integer gives one pattern, as n = 1."""
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
        """What each row of a prompt is called: its token, its block's first and last token, or else its position.

        Raises:
            CaptureError: if there is no such prompt.
        """
        rows = self.num_rows(prompt)
        return row_labels((self.lengths or {}).get(prompt, rows), rows, self.reach, (self.tokens or {}).get(prompt))

    def num_rows(self, prompt: int) -> int:
        """Rows that stand for the prompt's tokens; those after them are empty.

        Raises:
            CaptureError: if there is no such prompt.
        """
        one_prompt(self.prompt, prompt)
        if self.rows is not None and prompt in self.rows:
            return self.rows[prompt]
        return min(self.size, (self.lengths or {}).get(prompt, self.size))

    def resized(self, size: int) -> "Patterns":
        """The same patterns with empty rows after their last one, up to ``size``.

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
        """Rows of prompts once patterns have ``size``: of a pooled or cropped prompt they no longer follow from it."""
        if size == self.size:
            return self.rows
        longer = {prompt: self.size for prompt, length in (self.lengths or {}).items() if length > self.size}
        return {**longer, **(self.rows or {})} or None

    def cropped(self, lengths: Int[ndarray, " n"]) -> "Patterns":
        """The patterns of the first ``lengths`` rows of each pattern: later rows become empty.

        In a causal model the first t rows are exactly the pattern that the first t tokens alone would make.

        Raises:
            CaptureError: if the patterns are square: there each row depends on all tokens.
        """
        if not self.causal:
            raise CaptureError("expected causal patterns to crop, got square ones; run the model on shorter prompts")
        rows, _ = geometry.tiles(geometry.grid_size(self.size, self.patch))
        query = rows[:, None] * self.patch + torch.arange(self.patch)  # k p
        empty = query[None] >= torch.from_numpy(np.asarray(lengths, np.int64))[:, None, None]  # n k p
        logs = self.log_patches.masked_fill(empty[..., None].to(self.log_patches.device), -torch.inf)
        return self._with(logs, self.size, self.rows)

    def repacked(self, patch: int) -> "Patterns":
        """The same patterns in patches of another side."""
        if patch == self.patch:
            return self
        return self._with(geometry.pack(self._dense(), patch, -torch.inf, self.causal), self.size, self.rows)

    def probabilities(self) -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): rows sum to 1 (0 for padding tokens); if causal, exactly 0 above the diagonal."""
        return geometry.unpack(self.log_patches.float().exp(), self.size, 0.0, self.causal).cpu().numpy()

    def scaled(self, scaling: str = "log_normalize") -> Float[ndarray, "n t t"]:
        """float32 (n, size, size): what the encoder sees; in [0, 1] for the default scaling (DESIGN section 4)."""
        return geometry.unpack(self.scaled_patches(scaling), self.size, 0.0, self.causal).cpu().numpy()

    def scaled_patches(self, scaling: str = "log_normalize") -> Float[Tensor, "n k p p"]:
        """float32 (n, k, p, p): the scaled patches that exist, 0 above the diagonal of causal ones."""
        scaled = SCALINGS[scaling](self.log_patches.float())
        return scaled.masked_fill_(~_real(self.size, self.patch, self.causal).to(scaled.device), 0.0)

    def to_numpy(self, prompt: int | None = None) -> Float[ndarray, "layers heads rows rows"]:
        """float32 (layer, head, query_pos, key_pos): the probabilities of one prompt's heads over its own rows.

        The first two axes are the layers and heads that occur, ascending; heads that were not captured are NaN.

        Args:
            prompt: its number; None takes the only one.

        Raises:
            CaptureError: if there is no such prompt, several and none is named, or a head occurs twice.
        """
        own = self._of_prompt(prompt)
        rows = own.num_rows(int(own.prompt[0]))
        return arrays.by_head(own.probabilities()[:, :rows, :rows], own.layer, own.head)

    def to_xarray(self, prompt: int | None = None) -> Any:
        """As :meth:`to_numpy`, as an ``xarray.DataArray`` with coordinates.

        Coordinates are layer, head, query_pos and key_pos (numbers), query_token and key_token (:meth:`labels`).

        Raises:
            CaptureError: as :meth:`to_numpy`.
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
            path: of a foreign file, the array has shape (n, L, L), (layers, heads, L, L) or
                (prompts, layers, heads, L, L), and is the only one or called attention, attentions, patterns or
                probabilities.
            causal: whether foreign probabilities are causal; None finds it out: square if anything is above the
                diagonal.

        Raises:
            CaptureError: if there is no such file, it is damaged or of another kind, or holds no probabilities.
        """
        with files.naming(path):
            return Patterns(**files.load(path, patch=PATCH, causal=causal))

    def _fields(self) -> dict[str, Any]:
        """The arguments that make the same patterns."""
        names = ("log_patches", "size", "prompt", "layer", "head", "causal", "tokens", "reach", "lengths", "rows")
        return {name: getattr(self, name) for name in names}

    def _of_prompt(self, prompt: int | None) -> "Patterns":
        """The patterns of one prompt, each head once; raises as :meth:`to_numpy`."""
        wanted = one_prompt(self.prompt, prompt)
        own = self[self.prompt == wanted]
        arrays.check_heads(own.layer, own.head, wanted)
        return own

    def _dense(self) -> Float[Tensor, "n t t"]:
        return geometry.unpack(self.log_patches, self.size, -torch.inf, self.causal)

    def _with(self, log_patches: Tensor, size: int, rows: Mapping[int, int] | None) -> "Patterns":
        """Other pixels of the same heads and prompts."""
        return type(self)(**{**self._fields(), "log_patches": log_patches, "size": size, "rows": rows})


def _real(size: int, patch: int, causal: bool) -> Tensor:
    return geometry.real_pixels(geometry.grid_size(size, patch), patch, causal)
