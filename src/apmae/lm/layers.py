"""A model's layers: which of them attend, by which module, and with how many heads.

Layers keep the model's own numbers. Hybrid models attend in some layers only and mix tokens otherwise in the others;
in a few models the layers differ in their number of heads. A vision-language model is read by its text model.
"""

import inspect
from functools import cache
from types import CodeType
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from apmae.errors import CaptureError

_CROSS_ATTENTION = ("cross", "encoder_attn", "encdec")
"""What modules are called that attend to another model's tokens."""
_HEADS = ("num_heads", "num_attention_heads", "num_q_heads", "n_heads", "n_head")
"""What an attention module may call its number of heads."""


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The part that reads text: of a vision-language model its text model, of any other the model itself."""
    text = model.config.get_text_config()
    if text is model.config:
        return model
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    return next((part for part in parts if isinstance(part.config, type(text))), model)


def attention_modules(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The self-attention module of each layer that has one, by the model's own number of the layer, ascending.

    Raises:
        CaptureError: if there is none, or two claim the same layer.
    """
    name, found = type(model).__name__, _self_attention(text_model(model))
    if not found:
        raise CaptureError(
            f"{name} has no self-attention modules that apmae can find; docs/models.md lists what it reads"
        )
    paths: dict[int, str] = {}
    for path, module in found.items():
        layer = _layer_of(path, module)
        if layer is None:
            raise CaptureError(
                f"expected attention modules that know their layer (layer_idx) or are in a list of layers, {path} of "
                f"{name} does not; docs/models.md lists what apmae reads"
            )
        if layer in paths:
            raise CaptureError(
                f"expected one self-attention in each layer of {name}, {paths[layer]} and {path} both are layer "
                f"{layer}; apmae does not support such models"
            )
        paths[layer] = path
    return {layer: found[paths[layer]] for layer in sorted(paths)}


def _self_attention(tower: PreTrainedModel) -> dict[str, nn.Module]:
    """Self-attention modules by path: those that call transformers' AttentionInterface; else, of families that attend
    by themselves, the innermost ones of that name. Linear attention has the name in some hybrids, and is none.
    """
    parts: list[tuple[str, nn.Module]] = list(tower.named_modules())
    others = tuple(
        f"{path}."
        for path, part in parts
        if isinstance(part, PreTrainedModel) and not isinstance(part.config, type(tower.config))
    )  # what reads pictures or sound

    def wanted(path: str) -> bool:
        return not path.startswith(others) and not any(word in path.lower() for word in _CROSS_ATTENTION)

    if through := {path: module for path, module in parts if calls_interface(module) and wanted(path)}:
        return through
    named = {path: part for path, part in parts if "attention" in type(part).__name__.lower() and wanted(path)}
    numbered = {path: module for path, module in named.items() if _own_number(module) is not None}
    chosen = numbered or named
    return {p: module for p, module in chosen.items() if not any(other.startswith(f"{p}.") for other in chosen)}


def calls_interface(module: nn.Module) -> bool:
    """Whether a module's forward looks up its attention in transformers' ``AttentionInterface``."""
    return _kind_calls_interface(type(module))


@cache
def _kind_calls_interface(kind: type) -> bool:
    forwards = (vars(part).get("forward") for part in kind.__mro__)
    plain = (inspect.unwrap(forward) for forward in forwards if forward is not None)
    return any(
        "ALL_ATTENTION_FUNCTIONS" in _names(forward.__code__)
        and forward.__globals__.get("ALL_ATTENTION_FUNCTIONS") is ALL_ATTENTION_FUNCTIONS  # a few have their own
        for forward in plain
        if inspect.isfunction(forward)
    )


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _own_number(module: nn.Module) -> int | None:
    layer = getattr(module, "layer_idx", getattr(module, "layer_id", None))
    return layer if isinstance(layer, int) and layer >= 0 else None


def _layer_of(path: str, module: nn.Module) -> int | None:
    """By the module's own word, else its place in the list of layers."""
    own = _own_number(module)
    return own if own is not None else next((int(part) for part in path.split(".") if part.isdigit()), None)


def count_layers(model: PreTrainedModel) -> int:
    """All layers of the model, those without attention among them."""
    noted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    return max(noted if isinstance(noted, int) else 0, max(attention_modules(model)) + 1)


def count_heads(model: PreTrainedModel) -> dict[int, int]:
    """The query heads of each layer that attends; other layers are absent.

    Raises:
        CaptureError: if there is no attention, or neither a module nor the config says how many heads it has.
    """
    config = model.config.get_text_config()
    return {layer: _heads_of(module, config, layer) for layer, module in attention_modules(model).items()}


def _heads_of(module: nn.Module, config: Any, layer: int) -> int:
    """By the module's own word, by the widths of its projections, which pruning changes, else by the config."""
    for name in _HEADS:
        if isinstance(own := getattr(module, name, None), int):
            return own
    noted = _noted_heads(config, layer)
    width = getattr(module, "head_dim", None)
    if isinstance(width, int):
        # Queries may be projected together with gates, and values may be of another width: either one can be off.
        projected = {
            getattr(getattr(module, projection, None), side, 0) // width
            for projection, side in (("q_proj", "out_features"), ("o_proj", "in_features"))
        } - {0}
        if len(projected) == 1 or noted is None and projected:
            return min(projected)
    if noted is None:
        raise CaptureError(
            f"expected {type(module).__name__} or the model's config to say how many heads layer {layer} has "
            "(num_attention_heads), neither does; apmae does not support such models"
        )
    return noted


def _noted_heads(config: Any, layer: int) -> int | None:
    if getattr(config, "is_heterogeneous", False):
        config = config.per_layer_config[layer]
    noted = getattr(config, "num_attention_heads", None)
    if isinstance(noted, list | tuple) and layer < len(noted):
        noted = noted[layer]
    return noted if isinstance(noted, int) else None


def other_layers(model: PreTrainedModel) -> dict[int, str]:
    """The layers without attention, and the module by which each of them mixes tokens, as its class is called."""
    attending, total = attention_modules(model), count_layers(model)
    stacks = (part for part in text_model(model).modules() if isinstance(part, nn.ModuleList) and len(part) == total)
    stack = next(stacks, None)
    absent = [layer for layer in range(total) if layer not in attending]
    if stack is None:
        return dict.fromkeys(absent, "another kind of layer")
    usual = {type(part) for layer in attending for part in stack[layer].modules()}
    return {layer: _mixer(stack[layer], usual) for layer in absent}


def _mixer(layer: nn.Module, usual: set[type]) -> str:
    """What a layer has that those with attention do not; a module with a place in the cache, if there is one."""
    own = [part for part in layer.modules() if part is not layer and type(part) not in usual]
    mixers = [part for part in own if hasattr(part, "layer_idx")]
    return type([*mixers, *own, layer][0]).__name__


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as people write them: 0-2, 4, 6-8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
