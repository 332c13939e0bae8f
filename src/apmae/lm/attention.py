"""A model's attention: refusing families without patterns, listening to those that have them.

Most families hand query, key and mask to a function of transformers' ``AttentionInterface`` (``lm.interface``); others
attend by themselves, GPT-J, Falcon, BLOOM and MPT among them (``lm.own_attention``). Whoever listens sees what a layer
attends with, and may put something else in the place of its heads' output.

Families without patterns are refused by their config, before weights are read; those that mix kinds of layer when their
modules are seen.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.interface import read_interface, wrapped_interface
from apmae.lm.layers import calls_interface
from apmae.lm.own_attention import read_own_attention
from apmae.lm.rows import Attention, Listener

_REFUSED = {
    **dict.fromkeys(
        ("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"), "has no attention, only a state that it updates"
    ),
    **dict.fromkeys(("longformer", "big_bird"), "attends within overlapping chunks, not by rows over all keys"),
    "reformer": "attends within chunks of tokens sorted by hash, not by rows over all keys",
    "fnet": "has no attention, it mixes tokens by Fourier transforms",
    "xlnet": "attends in two streams, to tokens in a permuted order",
    "albert": "has one attention module for all of its layers, by which they cannot be told apart",
    "deepseek_v4": "attends to compressed keys, each of many tokens: its rows have no probability for each token",
}
"""By ``model_type``, what attention patterns cannot be read of."""


class Loaded(Protocol):
    """A language model and what belongs to it: what ``load_lm`` returns."""

    @property
    def model(self) -> nn.Module:
        """Of transformers."""
        ...


def refusal(config: Any) -> str | None:
    """Why a family has no attention patterns to read, by its config alone; None where it may have."""
    if getattr(config, "is_encoder_decoder", False):
        reason = "is an encoder-decoder, whose attention crosses two texts"
    else:
        families = (config.model_type, config.get_text_config().model_type)
        reason = next((_REFUSED[family] for family in families if family in _REFUSED), None)
        if reason is None:
            return None
    return f"{reason}; docs/models.md lists the decoders and encoders that apmae reads"


def find_model(model: nn.Module | Loaded) -> PreTrainedModel:
    """The transformers model inside whatever wraps it (torch.compile, PEFT, DistributedDataParallel, ``load_lm``, ...).

    Raises:
        CaptureError: if there is none, or it is of a family that cannot be read.
    """
    module = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    parts = module.modules() if isinstance(module, nn.Module) else ()
    found = next((part for part in parts if isinstance(part, PreTrainedModel)), None)
    if found is None:
        name = type(module).__name__
        raise CaptureError(f"expected a model of transformers, {name} holds none; pass what from_pretrained returned")
    if reason := refusal(found.config):
        raise CaptureError(f"{type(found).__name__} {reason}")
    return found


def attention_implementations(model: PreTrainedModel) -> list[tuple[PreTrainedModel, str]]:
    """The attention implementation of a model and of each model inside it, the outer ones first."""
    return [
        (part, part.config._attn_implementation or "eager")
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    ]


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model with its own eager attention, which returns patterns."""
    before = attention_implementations(model)
    switchable = model._can_set_attn_implementation()
    with ExitStack() as stack:
        for part, implementation in reversed(before):  # undone last first, so that the inner models have the last word
            if switchable:
                stack.callback(part.set_attn_implementation, implementation)
            elif implementation == "sdpa":  # Falcon asks its config at every forward
                stack.callback(setattr, part.config, "_attn_implementation", implementation)
                part.config._attn_implementation = "eager"
        if switchable:
            model.set_attn_implementation("eager")
        for module in model.modules():
            if type(module).__name__ == "FalconAttention":
                stack.callback(module.register_forward_pre_hook(_without_second_alibi, with_kwargs=True).remove)
        yield


def _without_second_alibi(_module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Falcon's eager attention (transformers 5.23) adds ALiBi to a mask that holds it already; its SDPA does not."""
    alibi = keywords.get("alibi")
    return arguments, keywords if alibi is None else {**keywords, "alibi": torch.zeros_like(alibi)}


@contextmanager
def listening(model: PreTrainedModel, modules: dict[int, nn.Module], listener: Listener) -> Iterator[None]:
    """Call ``listener`` with every attention of these modules, in the order in which blocks were opened."""
    once = _Once(model, listener)
    with ExitStack() as stack:
        flex = any("flex" in implementation for _, implementation in attention_implementations(model))
        if "torch._dynamo" in sys.modules and not flex:
            # A compiled forward cannot be seen from inside: it runs as written, and is left compiled as it was. Flex
            # attention is itself compiled, and would form whole score matrices if it were not.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(wrapped_interface())
        stack.callback(model.register_forward_pre_hook(once.begin).remove)
        stack.callback(model.register_forward_hook(once.end, always_call=True).remove)
        for layer, module in modules.items():
            if calls_interface(module):
                stack.callback(read_interface(module, layer, once.listen))
            else:
                stack.callback(read_own_attention(module, layer, once.listen, model.dtype))
        yield


class _Once:
    """Passes attentions on, and refuses a layer that attends twice in one forward of the model."""

    def __init__(self, model: PreTrainedModel, listener: Listener) -> None:
        self._name = type(model).__name__
        self._listener = listener
        self._heard: dict[int, set[int]] = {}  # layers by thread, while the model's forward runs

    def begin(self, _model: nn.Module, _inputs: Any) -> None:
        self._heard[get_ident()] = set()

    def end(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        self._heard.pop(get_ident(), None)

    def listen(self, layer: int, attention: Attention, output: Tensor | None) -> Tensor | None:
        heard = self._heard.get(get_ident())
        if heard is not None:
            if layer in heard:
                raise CaptureError(
                    f"expected each layer of {self._name} to attend once in a forward, layer {layer} attends again; "
                    "apmae cannot tell which of the two is a head's pattern"
                )
            heard.add(layer)
        return self._listener(layer, attention, output)
