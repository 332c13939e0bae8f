"""The language model under study, as a value."""

import inspect
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from apmae import bundled
from apmae.artifacts import fingerprint
from apmae.config import LMConfig
from apmae.lm.folder import path_of, tokenizer_error
from apmae.lm.layers import count_heads, count_layers
from apmae.prompts.sentinels import Masks, Sentinels, find_masks


@dataclass(frozen=True, kw_only=True)
class LM:
    """A language model under study, with what prompts and capture need to know about it."""

    model: PreTrainedModel
    tokenizer: Any
    """Its transformers tokenizer; None if the folder has none."""
    config: LMConfig
    """How it was loaded."""
    causal: bool
    """Whether it continues text: a decoder. Encoders have square patterns, and fill in masks if they have a head."""
    sentinels: Sentinels | None
    """Fill-in-the-middle tokens; None for a model that only continues text, and for encoders."""
    bos: int | None
    """The token that its tokenizer puts first; None if it puts none."""

    @cached_property
    def masks(self) -> Masks | None:
        """How an encoder sees a prompt; None for a decoder, and if its tokenizer has no mask token.

        Raises:
            ModelError: if the model came without a fast tokenizer.
        """
        mask = None if self.causal else getattr(self.tokenizer, "mask_token", None)
        return None if mask is None else find_masks(self.backend_tokenizer, mask)

    @property
    def answers(self) -> bool:
        """Whether it says which tokens are probable: a decoder, or an encoder with a head for masked tokens."""
        return self.model.get_output_embeddings() is not None

    @property
    def source(self) -> str:
        """Where it came from: a folder or a hub id."""
        return path_of(self.config)

    @property
    def name(self) -> str:
        """Its name, for display."""
        return bundled.name_of(self.source)

    @cached_property
    def heads(self) -> dict[int, int]:
        """Layer -> its query heads. Layers keep the model's own numbers; those without attention are absent."""
        return count_heads(self.model)

    @property
    def num_heads(self) -> int:
        """Query heads per layer; where layers differ, those of the largest."""
        return max(self.heads.values())

    @cached_property
    def num_layers(self) -> int:
        """Layers, including those without attention."""
        return count_layers(self.model)

    @property
    def heads_by_layer(self) -> tuple[int, ...]:
        """Query heads of each layer, 0 for one without attention."""
        return tuple(self.heads.get(layer, 0) for layer in range(self.num_layers))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.model.device

    @property
    def max_length(self) -> int | None:
        """Most tokens that it has positions for; None if its config does not say."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # RoBERTa counts positions from the one after that of its padding
        table = getattr(getattr(self.model.base_model, "embeddings", None), "position_embeddings", None)
        skipped = getattr(table, "padding_idx", None)
        return most if most is None or skipped is None else most - skipped - 1

    @property
    def pad_id(self) -> int:
        """A token to fill short prompts with; masked, so any will do."""
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(self.model.config, name, None)
            if isinstance(value, int) and 0 <= value < self.model.config.get_text_config().vocab_size:
                return value
        return 0

    @property
    def backend_tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` inside; a plain copy if a call with padding or truncation has changed it.

        Raises:
            ModelError: if the model came without a fast tokenizer.
        """
        if self.tokenizer is None or not getattr(self.tokenizer, "is_fast", False):
            found = "none" if self.tokenizer is None else f"{type(self.tokenizer).__name__}, which has no offsets"
            raise tokenizer_error(self.source, found)
        backend = self.tokenizer.backend_tokenizer
        return backend if backend.truncation is None and backend.padding is None else self._plain_tokenizer

    @cached_property
    def _plain_tokenizer(self) -> Any:
        plain = deepcopy(self.tokenizer.backend_tokenizer)
        plain.no_truncation()
        plain.no_padding()
        return plain

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of its tokenizer's special tokens, which stand for no text."""
        return frozenset(
            number for number, token in self.backend_tokenizer.get_added_tokens_decoder().items() if token.special
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's files; for a hub model its commit."""
        folder = Path(self.source)
        return fingerprint(folder) if folder.is_dir() else str(getattr(self.model.config, "_commit_hash", self.source))

    @cached_property
    def keeps_logits(self) -> bool:
        """Whether its forward can compute the logits of chosen positions only."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters
