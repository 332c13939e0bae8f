"""The tap: capture attention patterns from a transformers model as loaded, at the cost of its own forward.

An attention function registered in transformers' ``AttentionInterface`` calls the model's own SDPA for the output, so
that logits stay bit-identical, and for the wanted heads only forms ``score - logsumexp(scores)`` in fp32, 32 query rows
at a time, straight into lower-triangle patches. No (heads, length, length) array ever exists.

Axes: b prompts, h heads of a layer, s selected heads, t tokens, d head width, k patches, p pixels along a patch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from apmae.errors import CaptureError
from apmae.patterns import geometry
from apmae.patterns.patterns import PATCH, Patterns
from apmae.seeding import generator

NAME = "apmae_capture"
"""The name under which both interfaces know the tap."""

Heads = str | float | Sequence[tuple[int, int]]
"""Which heads: "all", a share of each layer's drawn anew for every prompt, or a list of (layer, head)."""

_UNSUPPORTED = {
    "softcap": "soft-capped scores",
    "s_aux": "attention sinks outside the keys",
    "position_bias": "a learned position bias",
}
_CROSS_ATTENTION = ("cross", "encoder_attn", "encdec")
"""What modules are called that attend to another model's tokens."""
_taps: WeakKeyDictionary[nn.Module, list[tuple["Tap", int]]] = WeakKeyDictionary()


def _capture_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The model's own SDPA; every tap on this module takes its rows on the way."""
    for argument, meaning in _UNSUPPORTED.items():
        if kwargs.get(argument) is not None:
            raise CaptureError(f"{type(module).__name__} uses {meaning}, which capture does not support")
    output = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    taps = _taps.get(module, ())
    if taps and attention_mask is None and query.shape[2] > 1 and not _is_causal(module, kwargs.get("is_causal")):
        raise CaptureError(f"{type(module).__name__} attends to later tokens; apmae reads causal models only")
    for tap, layer in taps:
        with torch.no_grad():
            tap._record(layer, query.detach(), key.detach(), attention_mask, kwargs.get("scaling"))
    return output


def _is_causal(module: nn.Module, is_causal: bool | None) -> bool:
    """As SDPA's wrapper decides it where there is no mask."""
    return bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))


AttentionInterface.register(NAME, _capture_attention)
# Without a mask function of the same name, padded batches silently lose their mask (DESIGN section 3).
AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass(slots=True)
class _Forward:
    """What one forward has left so far."""

    first_prompt: int
    size: int
    patches: Tensor  # b s k p p, s over the selected heads of all layers
    heads: np.ndarray  # b s
    filled: set[int]


class Tap:
    """Collects the patterns of every forward inside :func:`capture`."""

    def __init__(
        self, layers: Sequence[int], num_heads: int, heads: Heads, seed: int, dtype: torch.dtype, first_prompt: int
    ) -> None:
        self._layers = tuple(layers)
        self._num_heads = num_heads
        self._wanted = _wanted(heads, self._layers, num_heads)
        self._seed = seed
        self._dtype = dtype
        self._forwards: list[_Forward] = []
        self._prompts = first_prompt

    @property
    def patterns(self) -> Patterns:
        """Everything captured so far, ordered by prompt, layer, head; prompts are numbered over all forwards.

        Raises:
            CaptureError: if no forward ran, or one did not reach all layers.
        """
        return Patterns.concatenate([self._patterns(forward) for forward in self._forwards])

    def _patterns(self, forward: _Forward) -> Patterns:
        if len(forward.filled) < len(self._layers):
            raise CaptureError(
                f"expected patterns of {len(self._layers)} layers, the forward reached {len(forward.filled)}; "
                "let the model's forward finish"
            )
        batch, selected = forward.heads.shape
        layers = np.repeat(self._layers, [self._count(layer) for layer in self._layers])
        return Patterns(
            forward.patches.flatten(0, 1),
            forward.size,
            prompt=np.repeat(np.arange(forward.first_prompt, forward.first_prompt + batch), selected),
            layer=np.tile(layers, batch),
            head=forward.heads.reshape(-1),
        )

    def _count(self, layer: int) -> int:
        """Selected heads of a layer."""
        if isinstance(self._wanted, dict):
            return len(self._wanted.get(layer, ()))
        return max(1, round(self._wanted * self._num_heads))

    def _select(self, layer: int, first_prompt: int, batch: int) -> np.ndarray:
        """(b, s) the selected heads of a layer, ascending."""
        if isinstance(self._wanted, dict):
            return np.tile(np.array(self._wanted.get(layer, ()), dtype=np.int64), (batch, 1))
        draws = generator(self._seed, "heads", first_prompt, layer).random((batch, self._num_heads))
        return np.sort(draws.argsort(axis=1)[:, : self._count(layer)], axis=1)

    def _begin(self, query: Tensor, mask: Tensor | None) -> _Forward:
        if mask is not None and bool(_allowed(mask).triu(1).any()):
            raise CaptureError("the attention mask lets queries see later tokens; apmae reads causal attention only")
        batch, _, size, _ = query.shape
        shape = (batch, sum(map(self._count, self._layers)), geometry.num_patches(size, PATCH), PATCH, PATCH)
        patches = torch.full(shape, -torch.inf, dtype=self._dtype, device=query.device)
        forward = _Forward(self._prompts, size, patches, np.zeros(shape[:2], np.int64), set())
        self._prompts += batch
        self._forwards.append(forward)
        return forward

    def _record(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """Form the log patterns of one layer's selected heads. query: b h t d; key: b h/group t d."""
        batch, heads, size, width = query.shape
        if heads != self._num_heads:
            raise CaptureError(
                f"expected the config's {self._num_heads} heads in layer {layer}, got {heads}; apmae does not support "
                "models whose layers differ in it"
            )
        if key.shape[2] != size:
            raise CaptureError(
                f"expected as many keys as queries in layer {layer}, got {size} queries and {key.shape[2]} keys; "
                "run whole forwards without a cache (use_cache=False), not generate()"
            )
        forward = self._forwards[-1] if self._forwards else None
        if forward is None or layer in forward.filled:
            forward = self._begin(query, mask)
        forward.filled.add(layer)
        selected = self._select(layer, forward.first_prompt, batch)
        if not selected.shape[1]:
            return
        before = self._layers.index(layer)
        start = sum(map(self._count, self._layers[:before]))
        columns = slice(start, start + selected.shape[1])
        forward.heads[:, columns] = selected
        chosen = torch.from_numpy(selected).to(query.device)
        prompts = torch.arange(batch, device=query.device)[:, None]
        scale = width**-0.5 if scaling is None else scaling
        rows = query[prompts, chosen].float() * scale
        keys = key[prompts, chosen // (heads // key.shape[1])].float().transpose(-1, -2)
        if mask is not None and mask.shape[1] > 1:
            mask = mask[prompts.to(mask.device) if mask.shape[0] > 1 else 0, chosen]
        _write_log_pattern(rows, keys, mask, forward.patches[:, columns])


def _allowed(mask: Tensor) -> Tensor:
    """A boolean or additive mask as a boolean one, True where a query attends."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _write_log_pattern(query: Tensor, key: Tensor, mask: Tensor | None, out: Tensor) -> None:
    """Write ``score - logsumexp(score)``, 32 query rows at a time.

    Args:
        query: b s t d, fp32, scaled.
        key: b s d t, fp32.
        mask: b or 1, s or 1, t, t; boolean (True attends) or additive; None for plain causal.
        out: b s k p p, written in place; left at -inf where nothing is attended to.
    """
    size = query.shape[-2]
    future = torch.ones(PATCH, PATCH, dtype=torch.bool, device=query.device).triu(1)
    for row in range(geometry.grid_size(size, PATCH)):
        begin, end = row * PATCH, min((row + 1) * PATCH, size)
        scores = query[:, :, begin:end] @ key[..., :end]
        height = end - begin
        scores[..., begin:].masked_fill_(future[:height, :height], -torch.inf)
        if mask is not None:
            allowed = mask[..., begin:end, :end]
            if allowed.dtype != torch.bool:
                scores += allowed
                allowed = _allowed(allowed)
            # A query that may not see itself is padding: its row stays empty.
            itself = allowed[..., begin:].diagonal(dim1=-2, dim2=-1)[..., None]
            scores.masked_fill_(~(allowed & itself), -torch.inf)
        total = scores.logsumexp(-1, keepdim=True)
        scores -= total.masked_fill_(total.isneginf(), 0.0)
        if end < begin + PATCH:
            beyond = begin + PATCH - end
            scores = nn.functional.pad(scores, (0, beyond, 0, beyond), value=-torch.inf)
        tiles = scores.unflatten(-1, (row + 1, PATCH)).transpose(2, 3)  # b s r+1 p p
        first = row * (row + 1) // 2
        out[:, :, first : first + row + 1] = tiles


@contextmanager
def capture(
    model: PreTrainedModel,
    *,
    heads: Heads = "all",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    first_prompt: int = 0,
) -> Iterator[Tap]:
    """Capture the patterns of every forward in the block.

    Args:
        model: a causal model of transformers, as loaded; its attention implementation is restored afterwards.
        heads: "all"; a share in (0, 1] of each layer's heads, drawn anew for every prompt; or (layer, head) pairs.
        seed: decides the draw.
        dtype: of the kept log probabilities; they are formed in float32. float16 halves the memory and costs about
            1e-4 relative on an embedding (DESIGN section 3).
        first_prompt: number of the first prompt; a draw of heads depends on the number of its batch's first prompt.

    Yields:
        A :class:`Tap`; its ``patterns`` may be read inside the block or after it.

    Raises:
        CaptureError: if the model does not route its attention through the AttentionInterface, the heads do not exist,
            or a forward cannot be captured (a cache, soft-caps, attention to later tokens).
    """
    modules = attention_modules(model)
    tap = Tap(list(modules), model.config.get_text_config().num_attention_heads, heads, seed, dtype, first_prompt)
    before = attention_implementations(model)
    try:
        model.set_attn_implementation(NAME)
        for layer, module in modules.items():
            _taps.setdefault(module, []).append((tap, layer))
        yield tap
    finally:
        for module in modules.values():
            remaining = [entry for entry in _taps.get(module, []) if entry[0] is not tap]
            if remaining:
                _taps[module] = remaining
            else:
                _taps.pop(module, None)
        for part, implementation in before:
            part.set_attn_implementation(implementation)


def attention_implementations(model: PreTrainedModel) -> list[tuple[PreTrainedModel, str]]:
    """The attention implementation of a model and of each model inside it, the outer ones first."""
    return [
        (part, part.config._attn_implementation or "eager")
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    ]


def attention_modules(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The self-attention module of each layer.

    Raises:
        CaptureError: if the model does not use transformers' AttentionInterface.
    """
    name = type(model).__name__
    modules: dict[int, nn.Module] = {}
    for path, module in model.named_modules():
        layer = getattr(module, "layer_idx", None)
        other = any(word in path.lower() for word in _CROSS_ATTENTION)
        if isinstance(layer, int) and "attention" in type(module).__name__.lower() and not other:
            modules[layer] = module
    if not isinstance(model, PreTrainedModel) or not modules or not model._can_set_attn_implementation():
        raise CaptureError(
            f"expected a model whose attention goes through transformers' AttentionInterface, {name} does not; "
            "use one of StarCoder2, Llama, Mistral, Qwen2, Qwen3, GPT-2, GPT-NeoX"
        )
    return dict(sorted(modules.items()))


def _wanted(heads: Heads, layers: tuple[int, ...], num_heads: int) -> float | dict[int, list[int]]:
    if isinstance(heads, str):
        if heads != "all":
            raise CaptureError(f"expected heads to be 'all', a share in (0, 1] or (layer, head) pairs, got {heads!r}")
        return {layer: list(range(num_heads)) for layer in layers}
    if isinstance(heads, int | float | np.number):
        if not 0 < heads <= 1:
            raise CaptureError(
                f"expected a share of heads in (0, 1], got {heads}; 0.25 takes a quarter of each layer's"
            )
        return float(heads)
    try:
        pairs = sorted({(int(layer), int(head)) for layer, head in heads})
    except (TypeError, ValueError):
        raise CaptureError(
            f"expected heads to be 'all', a share in (0, 1] or (layer, head) pairs, got {heads!r}"
        ) from None
    wanted: dict[int, list[int]] = {}
    for layer, head in pairs:
        if layer not in layers or not 0 <= head < num_heads:
            raise CaptureError(
                f"expected layers {layers[0]}-{layers[-1]} and heads 0-{num_heads - 1}, got ({layer}, {head})"
            )
        wanted.setdefault(layer, []).append(head)
    if not wanted:
        raise CaptureError("expected at least one (layer, head) pair, got none; heads='all' takes every head")
    return wanted
