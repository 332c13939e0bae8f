"""The patterns of one forward, and the rows that a generation adds to them from its cache.

Generations that do not simply grow row by row are refused. Beam search reorders prompts between steps; it is recognised
by the last key, which may be off by a tenth, because MLA computes keys again. Static caches, cropped ones, and those
filled before the capture began are refused too. So is pooling a generation, because blocks move as the text grows.

Axes: b prompts, s selected heads, q queries, t keys, k patches, p pixels along a patch.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.inputs import Generation
from apmae.lm.rows import Attention, Sight
from apmae.lm.selection import Selection
from apmae.lm.sights import Sights
from apmae.patterns import geometry
from apmae.patterns.patterns import PATCH, Patterns
from apmae.prompts.fim import token_texts

_SAME_KEY = 0.1
"""How far a key may move from one step to the next, relative to its length."""


@dataclass(slots=True)
class Forward:
    """One forward, and the steps of a generation after it."""

    selection: Selection
    first_prompt: int
    """Number of its first prompt."""
    tokens: int
    """Tokens per prompt, padding included; those of ``steps`` are not counted."""
    size: int
    """Rows of a pattern: ``tokens``, or fewer where patterns are pooled or cropped."""
    reach: str
    sight: Sight
    heads: Int[ndarray, "b s"]
    """The selected heads of all layers, one layer after the other."""
    generation: Generation | None = None
    """The call of ``generate`` that it belongs to."""
    patches: Float[Tensor, "b s k p p"] | None = None
    """None if each layer is passed on at once."""
    filled: dict[int, int] = field(default_factory=dict)
    """Layer -> tokens so far."""
    bad: dict[int, Float[Tensor, ""]] = field(default_factory=dict)
    """Layer -> NaN if a score was not finite. Read late, because reading it waits for the GPU."""
    steps: dict[int, list[Float[Tensor, "b s q t"]]] = field(default_factory=dict)
    """Layer -> log rows of later forwards, which continue from its cache."""
    ids: list[Int[Tensor, "b t"]] = field(default_factory=list)
    """Token ids of each forward, where they are known."""
    sights: Sights = field(default_factory=Sights)
    """What its masks show."""
    _last_key: Tensor | None = None
    _moved: Tensor | None = None

    @property
    def batch(self) -> int:
        """How many prompts."""
        return self.heads.shape[0]

    @property
    def grown(self) -> int:
        """Tokens that were added after the first forward."""
        return max(self.filled.values(), default=self.tokens) - self.tokens

    def empty(self, heads: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "b s k p p"]:
        """Patches that attend to nothing yet."""
        count = geometry.num_patches(self.size, PATCH, causal=self.sight.causal)
        return torch.full((self.batch, heads, count, PATCH, PATCH), -torch.inf, dtype=dtype, device=device)

    def is_read_again(self, ids: Int[Tensor, "b t"]) -> bool:
        """Whether a later forward of the same generation reads these prompts again, with more tokens after them.

        ``generate`` does that without a cache. Waits for the device.

        Args:
            ids: of the later forward.
        """
        own = torch.cat(self.ids, dim=1)
        count = own.shape[1]
        if len(ids) != len(own) or ids.shape[1] <= count:
            return False
        same = (ids[:, None, :count] == own).all(-1)  # later prompt, earlier prompt
        return bool(same.any(1).all())

    def replace(self, before: "Forward") -> None:
        """Take the place of the forward that read the same prompts with fewer tokens."""
        own = torch.cat(before.ids, dim=1)
        moved = (self.ids[0][:, : own.shape[1]] != own).any()
        self._moved = moved if before._moved is None else before._moved | moved

    # -- layer by layer ------------------------------------------------------------------------------------------------

    def finish(self, attention: Attention) -> None:
        """After the last layer: forget the masks, and see whether prompts have changed places since the last step."""
        self.sights.forget()
        if attention.key is None:
            return
        # Beam search reorders the batch between steps: in the place of the last key there would be another prompt's.
        # The same key may be off by rounding where the model computes it again from a compressed cache (MLA).
        if self._last_key is not None:
            before, now = self._last_key, attention.key[:, 0, -1 - attention.shape[2]].float()
            moved = ((now - before).norm(dim=-1) > _SAME_KEY * before.norm(dim=-1)).any()
            self._moved = moved if self._moved is None else self._moved | moved
        self._last_key = attention.key[:, 0, -1].float().clone()

    def expect_finite(self, layer: int) -> None:
        """Refuse scores that are not finite. Waits for the device.

        Raises:
            CaptureError: naming the layer.
        """
        if bool(self.bad[layer].isnan()):
            raise CaptureError(
                f"expected finite attention scores, layer {layer} has NaN or infinite ones; check the model's weights, "
                "and use bfloat16 or float32 if float16 overflows"
            )

    # -- all layers ----------------------------------------------------------------------------------------------------

    def patterns(self, tokenizer: Any) -> Patterns:
        """The patterns of all layers, ordered by prompt, layer, head.

        Raises:
            CaptureError: if the forward did not reach all layers, scores were not finite, or prompts changed places.
        """
        layers = self.selection.layers
        if len(self.filled) < len(layers) or len(set(self.filled.values())) > 1:
            whole = sum(count == max(self.filled.values()) for count in self.filled.values())
            raise CaptureError(
                f"expected patterns of {len(layers)} layers, the forward reached {whole}; let the model's forward "
                "finish; if it did, its other layers attend in a way that cannot be read"
            )
        for layer in layers:
            self.expect_finite(layer)
        if self._moved is not None and bool(self._moved):
            raise CaptureError(
                "the prompts of the batch changed places during the generation, as in beam search; "
                "generate with num_beams=1"
            )
        assert self.patches is not None
        of_layer = np.repeat(layers, [self.selection.count(layer) for layer in layers])
        patches = self._with_steps(self.patches) if self.grown else self.patches
        return self.named(patches, np.tile(of_layer, self.batch), self.heads, tokenizer)

    def named(
        self, patches: Float[Tensor, "b s k p p"], layer: Int[ndarray, " n"], heads: Int[ndarray, "b s"], tokenizer: Any
    ) -> Patterns:
        """Patches as Patterns, with the tokens of their prompts if a tokenizer is given."""
        numbers = np.arange(self.first_prompt, self.first_prompt + self.batch)
        spans = list(zip(self.sight.starts, self.sight.ends, strict=True))
        lengths = [end - start + self.grown for start, end in spans]
        tokens = None
        known = sum(part.shape[1] for part in self.ids)  # fewer where embeddings were given
        if tokenizer is not None and known == self.tokens + self.grown:
            ids = torch.cat([part.cpu() for part in self.ids], dim=1).tolist()
            own = [row[start:end] + row[self.tokens :] for row, (start, end) in zip(ids, spans, strict=True)]
            tokens = {int(number): token_texts(tokenizer, row) for number, row in zip(numbers, own, strict=True)}
        return Patterns(
            patches.flatten(0, 1),
            self.size + self.grown,
            prompt=np.repeat(numbers, heads.shape[1]),
            layer=layer,
            head=heads.reshape(-1),
            causal=self.sight.causal,
            tokens=tokens,
            reach=self.reach,
            lengths=dict(zip(numbers.tolist(), lengths, strict=True)),
        )

    def _with_steps(self, first: Float[Tensor, "b s k p p"]) -> Float[Tensor, "b s k p p"]:
        """The patches of a generation: the first forward's, and a row for each token after it."""
        total = self.tokens + self.grown
        patches = first.new_full((*first.shape[:2], geometry.num_patches(total, PATCH), PATCH, PATCH), -torch.inf)
        patches[:, :, : first.shape[2]] = first
        for layer, steps in self.steps.items():
            columns = self.selection.columns(layer)
            wide = [nn.functional.pad(step, (0, total - step.shape[-1]), value=-torch.inf) for step in steps]
            rows = torch.cat(wide, dim=2)
            for prompt, start in enumerate(self.sight.starts):
                _write_rows(rows[prompt, :, :, start:], patches[prompt, columns], self.tokens - start)
        return patches


def _write_rows(rows: Float[Tensor, "s q t"], out: Float[Tensor, "s k p p"], first: int) -> None:
    """Write log rows of a causal pattern into its patches, from row ``first`` on."""
    last = first + rows.shape[1]
    for patch_row in range(first // PATCH, -(-last // PATCH)):
        begin, end = max(first, patch_row * PATCH), min(last, (patch_row + 1) * PATCH)
        keys = (patch_row + 1) * PATCH
        logs = rows[:, begin - first : end - first, :keys]
        logs = nn.functional.pad(logs, (0, keys - logs.shape[-1]), value=-torch.inf)
        tile = patch_row * (patch_row + 1) // 2
        inside = slice(begin - patch_row * PATCH, end - patch_row * PATCH)
        out[:, tile : tile + patch_row + 1, inside] = logs.unflatten(-1, (patch_row + 1, PATCH)).transpose(1, 2)
