"""Families that attend by themselves: GPT-J, GPT-Neo, CodeGen, Falcon, BLOOM, MPT and others.

They are read at the softmax or the ``scaled_dot_product_attention`` that their attention module calls; their heads'
output, where it enters the module's output projection, or leaves a module that has none. One rule for all of them, none
for each.

They form whole score matrices; the tap reads the rows that it wants. In float16 their masks are -65 504, which CodeGen
divides by the root of the head width, so there everything below -3 000 counts as masked; no real score is near it.
Falcon with ALiBi is checked against eager attention that counts its bias once: transformers 5.23's eager code adds it
to a mask that holds it already (share of attention moved 0.18), its SDPA, as trained, does not.
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
"""In float16 masks are filled with -65504, and CodeGen divides it by the root of its head width, at most 16."""


class _OwnAttention(TorchFunctionMode):
    """Sees what is handed to softmax or SDPA while one attention module runs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.lowest = _LOWEST_HALF if dtype == torch.float16 else LOWEST
        self.found: list[Attention] = []
        self.before: set[nn.Module] = set()
        """Children of the module that were called before it attended."""
        self.after = False
        """Whether one with weights was called since."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.softmax, torch.softmax, Tensor.softmax):
            self.found.append(Attention(scores=args[0].detach(), lowest=self.lowest))
        elif func is F.scaled_dot_product_attention:
            query, key, mask = args[0], args[1], kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            scale = kwargs.get("scale")
            self.found.append(
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
        """The one that was found in a module of that name.

        Raises:
            CaptureError: if there is not one, by prompt and head.
        """
        axes = [part.ndim for a in self.found if (part := a.query if a.scores is None else a.scores) is not None]
        if axes != [4]:
            raise CaptureError(
                f"expected one softmax over the 4 axes (prompt, head, query, key) in {name}, got {len(axes)} over "
                f"{axes} axes; apmae cannot read the attention of this family"
            )
        return self.found[0]


def read_own_attention(module: nn.Module, layer: int, listener: Listener, dtype: torch.dtype) -> Callable[[], None]:
    """Let ``listener`` hear of a layer's attention; returns what ends it. ``dtype`` is the model's."""
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
        if not mode.found:
            mode.before.add(child)
            return None
        mode.after |= child in weighted
        attention = mode.attention(name)
        if not _is_merged(inputs, attention):
            return None
        leave_mode()
        replaced = listener(layer, attention, inputs[0].unflatten(-1, (attention.shape[1], -1)))
        return None if replaced is None else (replaced.flatten(-2), *inputs[1:])

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        mode = leave_mode()
        if mode is None or output is None:  # heard of at its projection, or failed
            return None
        attention = mode.attention(name)
        heads, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if mode.after or not weighted <= mode.before or not _is_merged((heads,), attention):
            listener(layer, attention, None)
            return None
        # All of its weights came before: the projection is another module's (DeBERTa), and this is the heads' output.
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
    """Whether a child of the module is called with all heads' output, (b, q, h * v): it is the output projection."""
    batch, heads, queries, _ = attention.shape
    merged = inputs[0] if inputs else None
    return (
        isinstance(merged, Tensor)
        and merged.ndim == 3
        and merged.shape[:2] == (batch, queries)
        and merged.shape[2] % heads == 0
    )
