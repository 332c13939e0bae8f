"""Families with attention code of their own: GPT-J, GPT-Neo, CodeGen, Falcon, BLOOM, MPT and others.

Their scores are read where the attention module calls softmax or ``scaled_dot_product_attention``; their heads' output,
where it enters the module's output projection, or leaves a module that has none. One rule serves all of them.

They form whole score matrices; the tap reads the rows that it wants. In float16 their masks are -65 504, which CodeGen
divides by the root of the head width. So in float16 everything below -3 000 counts as masked; no real score is near it.
Falcon with ALiBi is checked against eager attention that adds its bias once. The eager code of transformers 5.23 adds
it to a mask that already contains it, which moves a share of 0.18 of the attention; its SDPA, as in training, does not.
"""

from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from apmae.errors import CaptureError
from apmae.lm.rows import LOWEST, Attention, Listener, of_all_queries

_LOWEST_HALF = -3e3
"""In float16 masks are filled with -65504, which CodeGen divides by the root of its head width, at most 16."""


class _OwnAttention(TorchFunctionMode):
    """Records what is passed to softmax or SDPA while one attention module runs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.lowest = _LOWEST_HALF if dtype == torch.float16 else LOWEST
        self.attentions: list[Attention] = []
        self.called_before: set[nn.Module] = set()
        """Children of the module that were called before it attended."""
        self.weights_after = False
        """Whether a child with weights was called after that."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.softmax, torch.softmax, Tensor.softmax):
            self.attentions.append(Attention(scores=args[0].detach(), lowest=self.lowest))
        elif func is F.scaled_dot_product_attention:
            query, key, mask = args[0], args[1], kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            scale = kwargs.get("scale")
            self.attentions.append(
                Attention(
                    query=query.detach(),
                    key=key.detach(),
                    mask=None if mask is None else of_all_queries(mask.detach(), query.shape[2]),
                    causal=bool(kwargs.get("is_causal", False)) or query.shape[2] == 1,
                    scale=query.shape[-1] ** -0.5 if scale is None else scale,
                )
            )
        return func(*args, **kwargs)

    def attention(self, name: str) -> Attention:
        """What the module attended with; ``name`` is its class, for messages.

        Raises:
            CaptureError: if it did not call one softmax over the axes (prompt, head, query, key).
        """
        axes = [part.ndim for a in self.attentions if (part := a.query if a.scores is None else a.scores) is not None]
        if axes != [4]:
            raise CaptureError(
                f"expected one softmax over the 4 axes (prompt, head, query, key) in {name}, got {len(axes)} over "
                f"{axes} axes; apmae cannot read the attention of this family"
            )
        return self.attentions[0]


def read_own_attention(module: nn.Module, layer: int, listener: Listener, dtype: torch.dtype) -> Callable[[], None]:
    """Call ``listener`` when a layer attends; returns a function that stops it. ``dtype`` is the model's."""
    name = type(module).__name__
    running: dict[int, _OwnAttention] = {}  # by thread, as torch keeps its modes
    weighted = {child for child in module.children() if next(child.parameters(), None) is not None}

    def enter(_module: nn.Module, _inputs: Any) -> None:
        leave_mode()
        running[get_ident()] = _OwnAttention(dtype)
        running[get_ident()].__enter__()

    def leave_mode() -> _OwnAttention | None:
        mode = running.pop(get_ident(), None)
        if mode is not None:
            mode.__exit__(None, None, None)
        return mode

    def project(child: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        mode = running.get(get_ident())
        if mode is None:
            return None
        if not mode.attentions:
            mode.called_before.add(child)
            return None
        mode.weights_after |= child in weighted
        attention = mode.attention(name)
        if not _is_merged(inputs, attention):
            return None
        leave_mode()
        replaced = listener(layer, attention, inputs[0].unflatten(-1, (attention.shape[1], -1)))
        return None if replaced is None else (replaced.flatten(-2), *inputs[1:])

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        mode = leave_mode()
        if mode is None or output is None:  # the listener was called at the projection, or the forward failed
            return None
        attention = mode.attention(name)
        heads, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if mode.weights_after or not weighted <= mode.called_before or not _is_merged((heads,), attention):
            listener(layer, attention, None)
            return None
        # All children with weights were called before: the projection is in another module (DeBERTa), and the output
        # is that of the heads.
        replaced = listener(layer, attention, heads.unflatten(-1, (attention.shape[1], -1)))
        if replaced is None:
            return None
        return replaced.flatten(-2) if rest is None else (replaced.flatten(-2), *rest)

    hooks = [
        module.register_forward_pre_hook(enter),
        *(child.register_forward_pre_hook(project) for child in module.children()),
        module.register_forward_hook(leave, always_call=True),
    ]

    def remove() -> None:
        leave_mode()  # torch runs no hook after a KeyboardInterrupt
        for hook in hooks:
            hook.remove()

    return remove


def _is_merged(inputs: tuple[Any, ...], attention: Attention) -> bool:
    """Whether a child is called with the output of all heads, (b, q, h * v): then it is the output projection."""
    batch, heads, queries, _ = attention.shape
    merged = inputs[0] if inputs else None
    return (
        isinstance(merged, Tensor)
        and merged.ndim == 3
        and merged.shape[:2] == (batch, queries)
        and merged.shape[2] % heads == 0
    )
