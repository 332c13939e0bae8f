"""What a forward is given: its token ids, whether the model has positions for them, whether all layers read them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.layers import text_model

_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings")


@contextmanager
def watching_inputs(model: PreTrainedModel, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Hand on the token ids of every forward, and refuse more of them than the model has positions for."""
    limit = _positions(text_model(model))

    def look(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        ids = keywords.get("input_ids", arguments[0] if arguments else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            return
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

    They share the keys of earlier layers, so that transformers (5.23) runs them only for the tokens whose logits are
    asked for (``logits_to_keep``), as ``generate`` does.
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
            # RoBERTa counts from behind the padding token, OPT from an offset.
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None
