"""Families whose layers call a function of transformers' ``AttentionInterface``.

While anyone listens, that function is wrapped under its own name. The model's output is still computed by the function
it was loaded with (sdpa, eager, flash, flex), its config is untouched, and the wrapper sees the inputs and the heads'
output of every module.

The alternative, registering a new name and setting it on the model, has three drawbacks: the implementation has to be
restored, padded batches lose their mask unless the mask function is registered too, and soft-caps and sinks are not
passed. The wrapper depends on one method of transformers (``ALL_ATTENTION_FUNCTIONS.get_interface``), which is put back
when the last block closes. Patterns are those before attention dropout, and the model draws the same dropout as without
us.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from apmae.errors import CaptureError
from apmae.lm.rows import Attention, Listener, of_all_queries

_UNREADABLE = {"cache": "a paged cache", "cu_seq_lens_q": "packed sequences without a mask"}
_listeners: WeakKeyDictionary[nn.Module, list[tuple[Listener, int]]] = WeakKeyDictionary()
_lock = RLock()
_open = 0


def read_interface(module: nn.Module, layer: int, listener: Listener) -> Callable[[], None]:
    """Call ``listener`` when a layer attends inside :func:`wrapped_interface`; returns a function that stops it."""
    entry = (listener, layer)
    with _lock:
        _listeners[module] = [*_listeners.get(module, []), entry]

    def remove() -> None:
        with _lock:
            remaining = [other for other in _listeners.get(module, []) if other is not entry]
            if remaining:
                _listeners[module] = remaining
            else:
                _listeners.pop(module, None)

    return remove


@contextmanager
def wrapped_interface() -> Iterator[None]:
    """Wrap the look-up of attention functions; models without a listener are not affected."""
    global _open
    with _lock:
        _open += 1
        ALL_ATTENTION_FUNCTIONS.get_interface = _get_interface
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                del ALL_ATTENTION_FUNCTIONS.get_interface  # the class's own is back


def _get_interface(attn_implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
    function = AttentionInterface.get_interface(ALL_ATTENTION_FUNCTIONS, attn_implementation, default)
    return partial(_attend, function, attn_implementation)


def _attend(
    function: Callable[..., Any],
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *arguments: Any,
    **kwargs: Any,
) -> Any:
    """Call the function that the model was loaded with; the module's listeners see its inputs and output."""
    returned = function(module, query, key, value, attention_mask, *arguments, **kwargs)
    listeners = _listeners.get(module)
    if not listeners:
        return returned
    with torch.no_grad():
        attention = _read(implementation, module, query.detach(), key.detach(), attention_mask, kwargs)
    output, *rest = returned
    for listener, layer in listeners:
        replaced = listener(layer, attention, output)
        output = output if replaced is None else replaced
    return output, *rest


def _read(
    implementation: str, module: nn.Module, query: Tensor, key: Tensor, mask: Any, kwargs: dict[str, Any]
) -> Attention:
    for argument, meaning in _UNREADABLE.items():
        if kwargs.get(argument) is not None:
            raise CaptureError(
                f"{type(module).__name__} uses {meaning}, which capture does not support; run padded batches without it"
            )
    if kwargs.get("sinks") is not None:  # not those of s_aux: Inkling2's differ by query
        raise CaptureError(
            f"{type(module).__name__} has attention sinks that differ by query, which capture does not read; its "
            "patterns would be wrong"
        )
    causal = kwargs.get("is_causal")
    scaling, bias = kwargs.get("scaling"), kwargs.get("position_bias")
    fields: dict[str, Any] = {"causal": bool(getattr(module, "is_causal", True) if causal is None else causal)}
    if isinstance(mask, BlockMask):
        fields["rule"] = mask.mask_mod
    elif mask is not None and mask.ndim == 2:  # flash
        fields["padding"] = mask.bool()
    elif mask is not None:
        fields["mask"] = of_all_queries(mask.detach()[..., : key.shape[2]], query.shape[2])
    elif implementation == "eager" and query.shape[2] > 1:
        fields["causal"] = False  # without a mask, eager attention sees everything
    sliding = kwargs.get("sliding_window") or getattr(module, "sliding_window", None)
    if "flash" in implementation:
        fields["window"] = sliding
    return Attention(
        query=query,
        key=key,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.get("softcap"),
        # transformers' SDPA ignores sinks, so its patterns have none
        sinks=None if kwargs.get("s_aux") is None or "sdpa" in implementation else kwargs["s_aux"].detach(),
        bias=None if bias is None else bias.detach(),
        sliding=sliding,
        source=mask,
        **fields,
    )
