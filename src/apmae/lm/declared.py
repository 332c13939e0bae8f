"""What a language model's config.json and tokenizer.json say of it, before torch is imported.

A setting that the file leaves to transformers' defaults is not known here; those that load the model check again.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from apmae.artifacts import read_json
from apmae.config import LMConfig
from apmae.errors import ArtifactError, CaptureError, ConfigError, ModelError
from apmae.lm.folder import CONFIG, path_of
from apmae.prompts.sentinels import find_sentinels

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_POSITIONS = ("max_position_embeddings", "n_positions")
_CONTINUING = ("ForCausalLM", "LMHeadModel")
"""How the names of classes end that continue text, though others of their model type are encoders."""
_ENCODERS = (
    "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "eurobert", "megatron-bert",
    "modernbert", "mpnet", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
"""Model types of encoders. Loading a model finds out about the others."""


class Declared(NamedTuple):
    """Sizes of a language model, each None if its config.json does not say."""

    layers: int | None
    heads: int | None
    """Query heads of the largest layer."""
    positions: int | None
    """Most tokens."""
    square: bool = False
    """Whether it is known to be an encoder, whose patterns are square."""
    answers: bool = True
    """False for an encoder without a head for masked tokens: no outcome of its prompts can be known."""

    @classmethod
    def of(cls, config: LMConfig) -> Self:
        """The sizes of a model in a folder, or of one whose config.json was fetched from the hub."""
        values = _settings(path_of(config))
        values = values["text_config"] if isinstance(values.get("text_config"), dict) else values
        heads = list(_numbers(values, _HEADS))
        return cls(
            # Two attentions per layer of LongCat-Flash are counted as layers.
            None if str(values.get("model_type")).startswith("longcat") else _largest(values, _LAYERS),
            max(heads) if heads and all(isinstance(number, int) for number in heads) else None,
            _largest(values, _POSITIONS),
            *_encoder(values),
        )

    def expect_heads(self, heads: Sequence[tuple[int, int]]) -> None:
        """Refuse ``(layer, head)`` pairs that the model cannot have.

        Raises:
            ConfigError: naming the layers and heads that it may have.
        """
        for layer, head in heads:
            known = [
                (layer, self.layers, f"layers 0-{(self.layers or 1) - 1}"),
                (head, self.heads, f"heads 0-{(self.heads or 1) - 1}"),
            ]
            if any(most is not None and number >= most for number, most, _ in known):
                having = " and ".join(words for _, most, words in known if most is not None)
                raise ConfigError(f"expected LAYER.HEAD like 3.5 with {having}, got '{layer}.{head}'")


def expect_window(length: int, positions: int | None) -> None:
    """Refuse a window of more tokens than the model has positions for; None: not known.

    Raises:
        CaptureError: if it has fewer.
    """
    if positions is not None and length > positions:
        raise CaptureError(
            f"expected a window of at most the model's {positions} positions, got {length}; take a smaller length"
        )


def expect_outcome(outcome: str, answers: bool, source: str) -> None:
    """Refuse to choose prompts by the outcomes of a model that answers nothing.

    Args:
        outcome: "any", or another of ``PromptsConfig.outcome``.
        answers: whether the model answers.
        source: the model, for the message.

    Raises:
        ConfigError: if it does not, and outcomes are wanted.
    """
    if outcome != "any" and not answers:
        raise ConfigError(
            f"expected outcome 'any' for {source}, got {outcome!r}: it is an encoder without a head for masked tokens, "
            "so it answers nothing and no prompt is correct or incorrect; set outcome to any (--set outcome=any)"
        )


def expect_answering(answers: bool, source: str) -> None:
    """Refuse a model that answers nothing where its answer is looked at.

    Raises:
        ModelError: if it does not.
    """
    if not answers:
        raise ModelError(
            f"expected a model that says which tokens are probable, {source} is an encoder without a head for masked "
            "tokens; take another"
        )


def context_of(positions: int | None, size: int, context: int | None) -> int:
    """The tokens of a captured window.

    Args:
        positions: the model's; None if not known.
        size: rows of a pattern.
        context: tokens asked for; None takes one per row.

    Raises:
        CaptureError: if the model has no positions for so many.
    """
    length = size if context is None else context
    if positions is not None and length > positions:
        what, instead = "an encoder with a pattern_size", "use or train an encoder with a smaller pattern_size"
        if context is not None:
            what, instead = "a context", "take a shorter one"
        raise CaptureError(
            f"expected {what} of at most {positions}, the positions of the language model, got {length}; {instead}"
        )
    return length


def expect_infill(config: LMConfig) -> None:
    """Refuse sentinels that the tokenizer of a model's folder does not have.

    Raises:
        ConfigError: as for :func:`apmae.prompts.sentinels.find_sentinels`.
    """
    folder = Path(path_of(config))
    if config.infill not in ("auto", "none") and (tokenizer := _tokenizer(folder)) is not None:
        find_sentinels(tokenizer, config.infill)


def _tokenizer(folder: Path) -> "Tokenizer | None":
    """A folder's tokenizer with the special tokens that transformers adds to it; None if it is not a plain file."""
    if not (folder / "tokenizer.json").is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # tokenizers raises plain Exception; loading the model says what is wrong
        return None
    with suppress(OSError, ValueError, AttributeError, TypeError):
        values = json.loads((folder / "tokenizer_config.json").read_bytes())
        added = [token["content"] for token in values.get("added_tokens_decoder", {}).values()]
        added += [token for token in values.get("additional_special_tokens") or () if isinstance(token, str)]
        tokenizer.add_special_tokens([token for token in added if tokenizer.token_to_id(token) is None])
    return tokenizer


def _settings(source: str) -> dict[str, Any]:
    path = Path(source) / CONFIG
    if not Path(source).is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(source, CONFIG)
        except HFValidationError:  # a path: loading says that there is no such folder
            return {}
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    try:
        values = read_json(path)
    except ArtifactError:
        return {}
    return values if isinstance(values, dict) else {}


def _encoder(values: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a model is an encoder, and whether it answers."""
    names = values.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    if name.endswith("ForMaskedLM"):
        return True, True
    if values.get("model_type") not in _ENCODERS or values.get("is_decoder") or name.endswith(_CONTINUING):
        return False, True
    return True, name.endswith("ForPreTraining") and name != "ElectraForPreTraining"


def _largest(values: dict[str, Any], names: Sequence[str]) -> int | None:
    found = [values[name] for name in names if isinstance(values.get(name), int)]
    return max(found, default=None)


def _numbers(values: Any, names: Sequence[str], *, own: bool = False) -> Iterator[Any]:
    """Every value under one of these names, or a name that begins so, also in nested settings and lists."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, names, own=str(key).startswith(tuple(names)))
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, names, own=own)
    elif own:
        yield values
