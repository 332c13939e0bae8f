"""Starting a forward at a later layer: what the layers below returned in a plain forward is returned again.

    restart = Restart(lm)
    with restart.recording():
        lm.model(**inputs)
    with restart.at(7), apmae.edit(lm.model, {(7, 2): "zero"}):
        lm.model(**inputs)  # layers 0 to 6 are not computed

An edit of a layer changes nothing below it. So patching every head in turn costs half of the layers, on average. Layers
are found as the list whose entries contain the attention modules. Each returns whatever it returned before, a tensor or
a tuple, so that nothing has to be known of what the model does between its layers.

Whether a family allows that is tried, not listed: layers that read keys of earlier ones (Gemma 3n, Gemma 4) do not.
Where it fails, every forward is a whole one, and :attr:`Restart.reason` says why.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from apmae.errors import CaptureError, first_line
from apmae.lm.attention import find_model
from apmae.lm.edit import edited_heads
from apmae.lm.language_model import LM
from apmae.lm.layers import attention_modules, count_layers, text_model

_TOKENS = 8
"""Of each of the two prompts that restarts are tried on."""
_SAME = 1e-5
"""Largest difference of logits between a restarted and a whole forward, as a share of the largest logit."""


class Restart:
    """Restarts of one model's forwards, from the layers of the last recorded batch."""

    def __init__(self, lm: LM) -> None:
        """Find the model's layers, and try a restart from each on a few tokens.

        Args:
            lm: a model in eval mode.
        """
        self._model: PreTrainedModel = find_model(lm)
        self._stack: list[nn.Module] = []
        self._made: list[Any] = []
        self._given: dict[str, Tensor] = {}
        self.reason: str | None = None
        """Why no forward can be restarted; None if it can."""
        try:
            self._stack = _layers(self._model)
            self._try(lm)
        except CaptureError as error:
            self.reason = str(error)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            name = type(self._model).__name__
            self.reason = f"started at a later layer, {name} fails ({type(error).__name__}: {first_line(error)})"
        self._made, self._given = [], {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what each layer returns in the last forward inside the block, which must be of a whole batch.

        Kept are layers x prompts x tokens x width of the residual stream, where the model computes it.

        Raises:
            CaptureError: in a forward that continues from a cache, or of a model in train mode.
        """
        if self.reason is not None:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(_uncompiled())
            stack.callback(self._model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for layer in self._stack:
                stack.enter_context(_forwarding(layer, self._keeping(layer)))
            yield

    @contextmanager
    def at(self, layer: int) -> Iterator[None]:
        """Inside the block, forwards of the recorded batch begin at a layer.

        They return what whole forwards would, but for a cache. A model that cannot be restarted (:attr:`reason`) runs
        whole forwards.

        Args:
            layer: the first that is computed, by the model's own number; 0 computes all.

        Raises:
            CaptureError: if there is no such layer, or nothing was recorded; in a forward, if it is of another batch
                than the recorded one, or a head below the layer is edited, which would have no effect.
        """
        if self.reason is not None:
            yield
            return
        if not 0 <= layer < len(self._stack):
            raise CaptureError(f"expected a layer from 0 to {len(self._stack) - 1} to start at, got {layer}")
        if len(self._made) != len(self._stack):
            raise CaptureError("expected a recorded batch to restart, got none; run it inside recording() first")

        def check(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            given = _tensors(arguments, keywords)
            if given.keys() != self._given.keys() or any(
                own.shape != given[name].shape or not torch.equal(own, given[name]) for name, own in self._given.items()
            ):
                raise CaptureError("expected the batch that was recorded, got another; record each batch before it")
            if below := sorted(place for place in edited_heads(self._model) if place[0] < layer):
                raise CaptureError(
                    f"expected edits of layer {layer} and later in a forward that starts there, head {below[0]} is "
                    "edited too; start at the first layer that is edited"
                )
            return arguments, {**keywords, "use_cache": False}

        with ExitStack() as stack:
            stack.enter_context(_uncompiled())
            stack.callback(self._model.register_forward_pre_hook(check, with_kwargs=True).remove)
            for module, made in zip(self._stack[:layer], self._made[:layer], strict=True):
                stack.enter_context(_forwarding(module, partial(_return, made)))
            yield

    # -- a recorded forward --------------------------------------------------------------------------------------------

    def _begin(self, _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if self._model.training:
            raise CaptureError("expected a model in eval mode, whose layers repeat what they do; call model.eval()")
        if keywords.get("past_key_values") is not None:
            raise CaptureError(
                "expected a forward of whole prompts, got one that continues from a cache; generate first, then run "
                "the whole text"
            )
        self._made, self._given = [], _tensors(arguments, keywords)
        return arguments, {**keywords, "use_cache": False}

    def _keeping(self, layer: nn.Module) -> Callable[..., Any]:
        """A layer's forward that keeps what it returns; hooks of the layer, which run again, come after it."""
        forward = layer.forward

        def run(*arguments: Any, **keywords: Any) -> Any:
            made = forward(*arguments, **keywords)
            if layer is not self._stack[len(self._made) % len(self._stack)]:
                raise CaptureError("its layers do not run one after another")
            self._made.append(_copied(made))
            return made

        return run

    # -- the trial -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _try(self, lm: LM) -> None:
        """Compare restarts from each layer with a whole forward.

        Raises:
            CaptureError: if they differ.
        """
        size = min(_TOKENS, lm.max_length or _TOKENS)
        vocabulary = self._model.config.get_text_config().vocab_size
        ids = ((torch.arange(4 * size).reshape(2, 2, size) * 7919 + 11) % vocabulary).to(lm.device)
        mask = torch.ones_like(ids[0])
        mask[1, size - size // 4 :] = 0
        with self.recording():
            whole = self._logits(ids[0], mask)
        made, given = self._made, self._given
        self._logits(ids[1], mask)  # what a model may keep from its last forward is of another batch
        for layer in range(1, len(self._stack)):
            self._made, self._given = made, given
            with self.at(layer):
                found = self._logits(ids[0], mask)
            difference = float((found - whole)[mask.bool()].abs().max() / whole[mask.bool()].abs().max())
            if not difference <= _SAME:
                raise CaptureError(
                    f"started at layer {layer}, it gives other outputs than from its first layer, by a share of "
                    f"{difference:.2g}"
                )

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._model(input_ids=ids, attention_mask=mask, use_cache=False)[0].float()


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The list of a model's layers.

    Raises:
        CaptureError: if there is none whose entries contain the attention modules.
    """
    attending, total = attention_modules(model), count_layers(model)
    for part in text_model(model).modules():
        if not isinstance(part, nn.ModuleList) or len(part) != total or len(set(part)) != total:
            continue
        if all(any(inner is module for inner in part[layer].modules()) for layer, module in attending.items()):
            return list(part)
    raise CaptureError(f"{type(model).__name__} has no list of {total} layers that contain its attention")


@contextmanager
def _forwarding(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another forward."""
    own = vars(module)
    before = own.get("forward")  # accelerate sets one too
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before


def _return(made: Any, *_arguments: Any, **_keywords: Any) -> Any:
    """A layer's forward that computes nothing."""
    return _copied(made)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run a compiled model as it is written: what was compiled knows nothing of the block."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _tensors(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that a forward is given, by name or place."""
    given = {**{str(place): value for place, value in enumerate(arguments)}, **keywords}
    return {name: value.detach() for name, value in given.items() if isinstance(value, Tensor) and name != "labels"}


def _copied(made: Any) -> Any:
    """What a layer returned, with tensors of its own: models may add to theirs in place."""
    if isinstance(made, Tensor):
        return made.detach().clone()
    if type(made) in (tuple, list):
        return type(made)(_copied(part) for part in made)
    return made
