"""Finding how a model's logits depend on what its heads write, in whatever family.

The model is run on a few tokens, and values are compared:

- the *output projection* of a layer is the first linear module that is called with its heads' output;
- the *final norm* is the module whose output the unembedding reads (there may be none);
- what a projection writes must reach the norm by additions and factors alone: with the outputs of all other modules
  that have weights cut off, the gradient of the last state by what the projection wrote is a number times the identity.

So a family with a norm after the projection (Gemma 3, BERT), a gate before it (Qwen3-Next) or an unembedding that is
not linear (the soft-cap of Gemma 2) has no direct shares, and :func:`find_readout` says why.

Axes: q tokens, d of the residual stream.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from apmae.errors import CaptureError, first_line
from apmae.lm.language_model import LM
from apmae.lm.layers import attention_modules
from apmae.lm.observe import Seen, observing
from apmae.lm.readout import Readout

_TOKENS = 12
"""Of the text that the model is looked at with."""


class _Missing(Exception):
    """Why a model, or a layer, has no direct share in its logits."""


def find_readout(lm: LM) -> Readout | str:
    """Find how a model's logits depend on what its heads write.

    Runs the model twice on a few tokens.

    Returns:
        The readout; or why the model has none.
    """
    try:
        return _find(lm)
    except _Missing as missing:
        return str(missing)
    except (RuntimeError, TypeError, ValueError) as error:
        return f"it could not be looked at: {first_line(error)}"


@torch.no_grad()
def find_projections(lm: LM) -> dict[int, nn.Module]:
    """The output projection of each layer, whatever its heads' share in the logits is.

    Raises:
        CaptureError: if a layer has none that is called with its heads' output alone, or layers share one.
    """
    try:
        look = _look(lm, _few_tokens(lm))
    except (RuntimeError, TypeError, ValueError) as error:
        raise CaptureError(
            f"expected a forward of {type(lm.model).__name__} in which output projections can be found, got: "
            f"{first_line(error)}"
        ) from None
    found: dict[int, nn.Module] = {}
    weights: set[int] = set()
    for layer in attention_modules(lm.model):
        projection = _projection(look, layer)
        weight = getattr(projection, "weight", None)  # two modules may share one
        where = weight.data_ptr() if isinstance(weight, Tensor) else id(projection)
        if projection is None or where in weights:
            why = "has none" if projection is None else "shares one with another layer"
            raise CaptureError(
                f"expected a linear module of its own that layer {layer} of {type(lm.model).__name__} gives its heads' "
                f"output to, it {why}; heads of this model can be removed by edits, but not from its weights"
            )
        weights.add(where)
        found[layer] = projection
    return found


def _few_tokens(lm: LM) -> Tensor:
    vocabulary = lm.model.config.get_text_config().vocab_size
    size = min(_TOKENS, lm.max_length or _TOKENS)
    return ((torch.arange(size)[None] * 7919 + 11) % vocabulary).to(lm.device)


@dataclass
class _Look:
    """What was seen of one small forward."""

    calls: list[tuple[nn.Module, Tensor, Tensor | None]] = field(default_factory=list)
    """Modules with weights, what each was called with and what it returned, in the order in which they were called."""
    merged: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> the output of its heads side by side."""
    begun: dict[int, int] = field(default_factory=dict)
    """Layer -> the call from which its projection is looked for."""
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


def _find(lm: LM) -> Readout:
    unembedding = lm.model.get_output_embeddings()
    vocabulary = lm.model.config.get_text_config().vocab_size
    weight = getattr(unembedding, "weight", None)
    if unembedding is None or not isinstance(weight, Tensor) or weight.ndim != 2 or len(weight) < vocabulary:
        raise _Missing("it has no unembedding with a weight per token")
    ids = _few_tokens(lm)
    with torch.no_grad():
        look = _look(lm, ids)
        read = next((given for module, given, _ in reversed(look.calls) if module is unembedding), None)
        if read is None:
            raise _Missing("its unembedding is not called as a module")
        scale = _scale(look, unembedding)
        norm = _norm(look, unembedding, read)
        gain, bias, centred = _affine(norm, read)
    reasons: dict[int, str] = {}
    projections: dict[int, nn.Module] = {}
    for layer in attention_modules(lm.model):
        found = _projection(look, layer)
        if found is None:
            reasons[layer] = "no linear module is called with its heads' output"
        else:
            projections[layer] = found
    factors = _factors(lm, ids, projections, unembedding if norm is None else norm)
    for layer in [layer for layer in projections if layer not in factors]:
        reasons[layer] = "what its heads write reaches the last state by more than additions"
        del projections[layer]
    if not projections:
        raise _Missing(next(iter(reasons.values())))
    return Readout(norm, gain, bias, centred, unembedding, scale, projections, factors, reasons)


def _look(lm: LM, ids: Tensor) -> _Look:
    """Run the model and note what its modules are called with."""
    look = _Look()

    def see(seen: Seen) -> None:
        # a layer with attention code of its own is heard when its projection has just been called
        look.begun[seen.layer] = max(len(look.calls) - 1, 0)
        if seen.output is not None:
            look.merged[seen.layer] = seen.output.flatten(-2)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            look.calls.append((module, inputs[0].clone(), None))

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        places = [place for place, (own, _, made) in enumerate(look.calls) if own is module and made is None]
        if places and isinstance(output, Tensor):
            look.calls[places[-1]] = (*look.calls[places[-1]][:2], output.clone())

    with ExitStack() as stack:
        for module in lm.model.modules():
            if next(module.parameters(), None) is not None and not isinstance(module, nn.ModuleList):
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        stack.enter_context(observing(lm.model, see))
        look.logits = lm.model(input_ids=ids, use_cache=False).logits[0].float()
    return look


def _scale(look: _Look, unembedding: nn.Module) -> float:
    """What logits are a multiple of the unembedding's output by."""
    made = next((out for module, _, out in reversed(look.calls) if module is unembedding), None)
    if made is None:
        raise _Missing("its unembedding returns no tensor")
    plain = made[0].float()
    scale = float((look.logits * plain).sum() / (plain * plain).sum())
    if not _close(scale * plain, look.logits, made.dtype):
        raise _Missing("its logits are no multiple of what the unembedding makes, as with a soft-cap")
    return scale


def _norm(look: _Look, unembedding: nn.Module, read: Tensor) -> nn.Module | None:
    """The module whose output the unembedding reads; None if it is a sum, of whatever layers wrote."""
    for module, given, made in reversed(look.calls):
        if module is unembedding or made is None or made.shape != read.shape or not torch.equal(made, read):
            continue
        if next(module.children(), None) is None and not torch.equal(given, made):
            return module
    return None


def _affine(norm: nn.Module | None, read: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Gain and bias of a norm, and whether it takes off the mean: by what it makes of known inputs."""
    width, device, dtype = read.shape[-1], read.device, read.dtype
    if norm is None:
        return torch.ones(width, device=device), torch.zeros(width, device=device), False
    if width % 2:
        raise _Missing("its residual stream has an odd width, for which its final norm is not looked at")
    known = torch.ones(width, device=device)
    known[1::2] = -1  # mean 0, s.d. 1; larger by far than what a norm adds to a variance
    with_mean = torch.stack([0 * known, 256 * known, 256 * known + 256]).to(dtype)
    bias, plain, moved = norm(with_mean).float()
    gain = (plain - bias) * known
    centred = _close(moved, plain, dtype)
    state = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype) + 0.5
    centre = state.float() - state.float().mean(-1, keepdim=True) if centred else state.float()
    expected = gain * centre / centre.square().mean(-1, keepdim=True).sqrt() + bias
    if not _close(norm(state).float(), expected, dtype):
        raise _Missing(f"its {type(norm).__name__} before the unembedding is no norm with a gain and a bias")
    return gain, bias, centred


def _projection(look: _Look, layer: int) -> nn.Module | None:
    """The first linear module that is called with the output of a layer's heads."""
    merged = look.merged.get(layer)
    if merged is None:
        return None
    for module, given, _ in look.calls[look.begun[layer] :]:
        if given.shape == merged.shape and torch.equal(given, merged) and _is_linear(module, merged):
            return module
    return None


def _is_linear(module: nn.Module, given: Tensor) -> bool:
    try:
        once, twice, nothing = (module(factor * given[0]) for factor in (1, 2, 0))
    except (TypeError, RuntimeError, ValueError, IndexError):
        return False  # it wants more than heads' outputs
    if not all(isinstance(made, Tensor) for made in (once, twice, nothing)):
        return False
    return _close((twice - nothing).float(), 2 * (once - nothing).float(), given.dtype)


def _factors(lm: LM, ids: Tensor, projections: dict[int, nn.Module], reader: nn.Module) -> dict[int, float]:
    """How much of what each projection writes is in the last state that the reader is given; without those layers for
    which it is no multiple.
    """
    written: dict[int, Tensor] = {}
    current: list[int] = []
    ours = set(projections.values())
    around = {module for module in lm.model.modules() if any(part in ours for part in module.modules())} - ours
    read: list[Tensor] = []

    def cut(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if module in ours and current and projections.get(current[-1]) is module and isinstance(output, Tensor):
            written[current[-1]] = output.detach().requires_grad_()
            return written[current[-1]]
        return _detached(output)

    def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0])

    with torch.enable_grad(), ExitStack() as stack:
        for module in lm.model.modules():
            if next(module.parameters(recurse=False), None) is not None and module not in around:
                stack.callback(module.register_forward_hook(cut).remove)
        stack.callback(reader.register_forward_pre_hook(keep).remove)
        stack.enter_context(observing(lm.model, lambda seen: current.append(seen.layer)))
        lm.model(input_ids=ids, use_cache=False)
        last = read[-1]
        along = torch.randn(last.shape[-1], generator=torch.Generator().manual_seed(1)).to(last)
        leaves = list(written.values())
        if not leaves or not last.requires_grad:
            return {}
        gradients = torch.autograd.grad((last[0, -1] * along).sum(), leaves, allow_unused=True)
    found = {}
    for layer, gradient in zip(written, gradients, strict=True):
        if gradient is None or not gradient.any():
            continue
        own, direction = gradient.reshape(-1, gradient.shape[-1]).float(), along.float()
        factor = float(own[-1] @ direction / (direction @ direction))
        expected = torch.zeros_like(own)
        expected[-1] = factor * direction
        if _close(own, expected, along.dtype):
            found[layer] = factor
    return found


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, tuple | list):
        return type(output)(_detached(part) for part in output) if type(output) in (tuple, list) else output
    return output


def _close(made: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether values agree, but for rounding in a precision."""
    limit = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    return bool((made - expected).abs().max() <= limit * expected.abs().max().clamp(min=1e-30))
