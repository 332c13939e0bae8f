"""What a forward is given: its token ids, and the call of ``generate`` that it belongs to.

The model must have positions for all tokens, and every layer must read all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from threading import RLock, local
from typing import Any

from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.layers import text_model

_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings")


@dataclass(frozen=True, eq=False)
class Generation:
    """A call of ``generate``."""

    drafts: bool
    """Whether it reads drafts, tokens that it may drop again (assisted decoding, prompt lookup)."""


class _Running(local):
    """What runs in this thread."""

    generation: Generation | None = None
    """The innermost call of ``generate``."""


_running = _Running()
_lock = RLock()
_open = 0
_mixin: Any = GenerationMixin
_generate = _mixin.generate


def generation() -> Generation | None:
    """The call of ``generate`` that runs in this thread, inside :func:`watching_generations`."""
    return _running.generation


@contextmanager
def watching_generations() -> Iterator[None]:
    """Keep track of which call of ``generate`` a forward belongs to; transformers does not say."""
    global _generate, _open
    with _lock:
        if not _open:
            _generate = _mixin.generate
            _mixin.generate = _numbered(_generate)
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                _mixin.generate = _generate


def _numbered(generate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(generate)
    def run(*arguments: Any, **keywords: Any) -> Any:
        outer, _running.generation = _running.generation, Generation(_drafts(*arguments, **keywords))
        try:
            return generate(*arguments, **keywords)
        finally:
            _running.generation = outer

    return run


def _drafts(model: Any, inputs: Any = None, generation_config: Any = None, *_: Any, **keywords: Any) -> bool:
    """Whether a call of ``generate`` with these arguments reads drafts, by transformers' own order of precedence."""
    if keywords.get("assistant_model") is not None:
        return True
    settings = generation_config or getattr(model, "generation_config", None)
    default = getattr(settings, "prompt_lookup_num_tokens", None)
    return keywords.get("prompt_lookup_num_tokens", default) is not None


@contextmanager
def watching_inputs(model: PreTrainedModel, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Call ``see`` with the token ids of every forward.

    Raises:
        CaptureError: in a forward without a token, or with more than the model has positions for.
    """
    limit = _positions(text_model(model))

    def look(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        ids = keywords.get("input_ids", arguments[0] if arguments else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            return
        if not ids.numel():
            raise CaptureError(
                f"expected at least one prompt of at least one token, got input_ids of shape {tuple(ids.shape)}; "
                "leave empty batches out"
            )
        past = keywords.get("past_key_values")
        tokens = ids.shape[1] + (past.get_seq_length() if isinstance(past, Cache) else 0)
        if limit is not None and tokens > limit:
            raise CaptureError(
                f"expected a prompt of at most the {limit} positions that {type(model).__name__} has learned, got "
                f"{tokens}; shorten it"
            )
        see(ids)

    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    hooks = [part.register_forward_pre_hook(look, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def reading_all_tokens(model: PreTrainedModel) -> Iterator[None]:
    """Let the last layers of Gemma 4 read all tokens of a prompt.

    They share the keys of earlier layers, so transformers (5.23) runs them only for the tokens whose logits are asked
    for (``logits_to_keep``), as ``generate`` does.
    """

    def ask_for_all(
        _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, {name: value for name, value in keywords.items() if name != "logits_to_keep"}

    parts = [part for part in model.modules() if hasattr(part, "_maybe_slice_kv_shared_inputs")]
    hooks = [part.register_forward_pre_hook(ask_for_all, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _positions(model: PreTrainedModel) -> int | None:
    """Tokens that a table of learned positions has room for; None for models that compute positions."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and path.rsplit(".", 1)[-1] in _POSITION_TABLES:
            # RoBERTa counts from the position after the padding token, OPT from an offset.
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None
