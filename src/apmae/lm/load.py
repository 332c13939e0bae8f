"""Loading a language model, and the check that what the tap captures is what the model's own eager attention says."""

import inspect
import logging
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from apmae import bundled
from apmae.artifacts import fingerprint
from apmae.errors import CaptureError, ConfigError, ModelError
from apmae.lm.attention import eager_attention, refusal
from apmae.lm.tap import capture
from apmae.prompts.sentinels import Sentinels, find_sentinels, split_template

TOLERANCE = 1e-4
"""Largest difference in probability from eager that loading accepts in float32."""

TOLERANCE_MOVED = {torch.bfloat16: 0.15, torch.float16: 0.03}
"""The same for half precisions, where eager rounds its scores: one entry of a right pattern can be off by more than
0.1. There the share of attention that a head puts elsewhere is compared, a mean over rows: the right patterns of the
models measured stay under 0.04 and 0.005, heads taken for one another are near 0.4."""

DTYPES = ("float32", "bfloat16", "float16")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LM:
    """A language model under study, with what prompts and capture need to know of it."""

    model: PreTrainedModel
    tokenizer: Any
    """Its transformers tokenizer; None where the folder has none."""
    source: str
    """Where it came from: a folder or a hub id."""
    num_layers: int
    num_heads: int
    """Query heads a layer."""
    causal: bool
    """Whether it continues text: a decoder. Encoders have square patterns and no completions."""
    sentinels: Sentinels | None
    """Fill-in-the-middle tokens; None for a model that only continues text."""
    bos: int | None
    """The token that its tokenizer puts first, if it does."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.model.device

    @property
    def max_length(self) -> int | None:
        """The longest input it has positions for; None where its config does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

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
        """The ``tokenizers.Tokenizer`` inside; a plain copy where a padded or truncated call has left its mark on it.

        Raises:
            ModelError: if the model came without a fast tokenizer.
        """
        if self.tokenizer is None or not getattr(self.tokenizer, "is_fast", False):
            found = "none" if self.tokenizer is None else f"{type(self.tokenizer).__name__}, which has no offsets"
            raise ModelError(
                f"expected a fast tokenizer (tokenizer.json) in {self.source}, one that says which characters each "
                f"token holds, found {found}; add one"
            )
        backend = self.tokenizer.backend_tokenizer
        return backend if backend.truncation is None and backend.padding is None else self._plain_tokenizer

    @cached_property
    def _plain_tokenizer(self) -> Any:
        plain = deepcopy(self.tokenizer.backend_tokenizer)
        plain.no_truncation()
        plain.no_padding()
        return plain

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's files; for a hub model its commit."""
        folder = Path(self.source)
        return fingerprint(folder) if folder.is_dir() else str(getattr(self.model.config, "_commit_hash", self.source))

    @cached_property
    def keeps_logits(self) -> bool:
        """Whether its forward can compute the logits of chosen positions only."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters


def load_lm(
    source: str | Path = "bundled",
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str | None = None,
    infill: str = "auto",
    check: bool = True,
) -> LM:
    """Load a language model and check that it can be captured.

    Args:
        source: folder or hub id of a transformers decoder or encoder, or one of ``bundled.LANGUAGE_MODELS``.
        device: where to put it, for instance "cpu" or "cuda:0"; "auto" spreads it over all devices (``device_map``).
        dtype: "float32", "bfloat16" or "float16".
        attention: transformers' ``attn_implementation`` that computes the model's output, for instance
            "flash_attention_2"; by default sdpa, or eager where the family has none.
        infill: how prompts with a suffix are arranged: "auto" by the sentinels that its tokenizer is known by, "none"
            for left context only, or as :func:`apmae.prompts.sentinels.find_sentinels` says.
        check: compare a tiny forward's patterns with eager attention, and refuse the model if they differ.

    Raises:
        ConfigError: if ``infill`` asks for sentinels that the model does not have.
        ModelError: if there is no such model, it cannot be loaded, or its patterns would be wrong.
    """
    if dtype not in DTYPES:
        raise ModelError(f"expected a dtype, one of {', '.join(DTYPES)}, got {dtype!r}")
    split_template(infill)  # refused before the weights are read
    path = str(bundled.LANGUAGE_MODELS.get(str(source), source))
    _expect_source(path)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        factory = _factory(config)
        # Quantised weights and those on several devices are put in their places while they are read.
        placed = device == "auto" or getattr(config, "quantization_config", None) is not None
        model, info = factory.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            device_map=device if placed else None,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        model.eval().requires_grad_(False)
        if not placed:
            model.to(device)
        tokenizer = _load_tokenizer(path)
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds; whatever it says, there is no model
        if "not compiled with CUDA" in str(error) or "No CUDA GPUs" in str(error) or "NVIDIA driver" in str(error):
            raise ModelError(
                f"expected a device that this machine has, got {device!r} ({_first_line(error)}); take --device cpu"
            ) from error
        raise ModelError(f"cannot load a language model from {source}: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
    # Transformers would go on with random numbers in the place of these.
    absent = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    absent += [
        f"{name} has shape {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in info["mismatched_keys"]
    ]
    if absent:
        more = f" and {len(absent) - 2} more" if len(absent) > 2 else ""
        raise ModelError(
            f"expected all weights of {type(model).__name__} in {source}: {'; '.join(absent[:2])}{more}; "
            "give the complete model"
        )
    text = model.config.get_text_config()
    lm = LM(
        model=model,
        tokenizer=tokenizer,
        source=path,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        causal=factory is AutoModelForCausalLM,
        sentinels=_sentinels(tokenizer, infill, text.vocab_size, path),
        bos=_bos(tokenizer),
    )
    if check:
        check_capture(lm)
    return lm


def _sentinels(tokenizer: Any, infill: str, vocabulary: int, path: str) -> Sentinels | None:
    if getattr(tokenizer, "is_fast", False):
        return find_sentinels(tokenizer.backend_tokenizer, infill, vocabulary)
    if infill not in ("auto", "none"):
        raise ConfigError(f"expected a fast tokenizer in {path} for infill {infill!r}, found none; take infill 'none'")
    return None


def _factory(config: Any) -> Any:
    """Which of transformers' automatic classes loads a model.

    Raises:
        ModelError: for a family without attention patterns, by name: before its weights are read.
    """
    name = (config.architectures or [type(config).__name__])[0]
    if reason := refusal(config):
        raise ModelError(f"{name} {reason}")
    if name.endswith("ForMaskedLM"):
        return AutoModelForMaskedLM
    generates = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills_in = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if generates and (not fills_in or name.endswith(("ForCausalLM", "LMHeadModel"))):
        return AutoModelForCausalLM
    return AutoModel


def _expect_source(source: str) -> None:
    path = Path(source)
    looks_like_path = (
        path.is_absolute() or source.startswith(".") or source.count("/") > 1 or "/" in source and path.parent.is_dir()
    )
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"expected a transformers model in {source}, it has no config.json; check the folder")
    elif path.exists() or looks_like_path:
        raise ModelError(f"expected a model folder or a hub id, found no folder {source}; check the path")


def _load_tokenizer(path: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("a")  # one with half its files loads, and fails when it is used
    except Exception as error:  # tokenizers raises its bare kind
        # Capture works without a tokenizer; prompts say what is missing when they need one.
        _log.warning("no tokenizer in %s (%s)", path, _first_line(error))
        return None
    return tokenizer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()[:2]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__


def _bos(tokenizer: Any) -> int | None:
    if tokenizer is None or tokenizer.bos_token_id is None:
        return None
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id if ids and ids[0] == tokenizer.bos_token_id else None


@torch.no_grad()
def check_capture(lm: LM) -> float:
    """Compare the tap with the model's own eager attention on two short prompts, one of them padded.

    Returns:
        The largest difference in probability; for half precisions what :data:`TOLERANCE_MOVED` bounds.

    Raises:
        ModelError: if the model has no eager attention to compare with in some layer, is not causal, or differs by more
            than :data:`TOLERANCE`.
    """
    name = type(lm.model).__name__
    size = min(48, lm.max_length or 48)
    vocabulary = lm.model.config.get_text_config().vocab_size
    ids = (torch.arange(2 * size).reshape(2, size) * 7919 + 11) % vocabulary
    mask = torch.ones_like(ids)
    padding = size // 4
    mask[1, :padding] = 0
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    try:
        with capture(lm.model) as tap:
            lm.model(input_ids=ids, attention_mask=mask, use_cache=False)
        captured = tap.patterns
        with eager_attention(lm.model):
            eager = lm.model(input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True).attentions
    except CaptureError as error:
        raise ModelError(f"cannot capture {name}: {error}") from error
    except RuntimeError as error:
        raise ModelError(f"cannot run {name}: {_first_line(error)}; do its weights fit its config?") from error
    ours = torch.from_numpy(captured.probabilities()).unflatten(0, (2, lm.num_layers, lm.num_heads))
    if len(eager or ()) != lm.num_layers or any(layer is None or layer.shape[-1] != size for layer in eager):
        raise ModelError(f"{name} gives no eager attention to check capture against; apmae does not support it")
    theirs = torch.stack(eager, dim=1).float().cpu()
    real = mask.bool().cpu()
    valid = real[:, None, None, :, None] & real[:, None, None, None, :]
    theirs = theirs.masked_fill(~valid, 0.0)  # rows of padding may hold anything
    theirs[1] = theirs[1].roll((-padding, -padding), (-2, -1))  # ours begin with the first token
    if lm.causal and float(theirs.triu(1).amax()) > 1e-6:
        raise ModelError(f"expected a causal model, {name} attends to later tokens; is its config a decoder's?")
    differences = (ours - theirs).abs()  # prompt layer head query_pos key_pos
    if lm.model.dtype in TOLERANCE_MOVED:
        limit = TOLERANCE_MOVED[lm.model.dtype]
        difference = float((differences.sum((0, 3, 4)) / 2 / real.sum()).amax())
    else:
        limit, difference = TOLERANCE, float(differences.amax())
    if not difference <= limit:
        raise ModelError(
            f"expected captured patterns of {name} within {limit:g} of its eager attention, they differ by "
            f"{difference:.3g}; apmae does not support this kind of attention"
        )
    return difference
