"""Loading a language model."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from apmae.config import LMConfig, parse
from apmae.errors import ApmaeError, ConfigError, ModelError, first_line
from apmae.lm.attention import refusal
from apmae.lm.check import check_capture
from apmae.lm.folder import expect_model, path_of
from apmae.lm.language_model import LM
from apmae.lm.layers import other_layers, ranges
from apmae.prompts.sentinels import Sentinels, find_sentinels

_log = logging.getLogger(__name__)
_DISCRIMINATORS = ("electra", "funnel")
"""Model types whose ForPreTraining tells replaced tokens from others. Elsewhere it has a head for masked tokens."""


def load_lm(
    source: str | Path = "bundled",
    *,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    attention: str | None = None,
    infill: str = "auto",
    outcome_rule: str = "text",
    check: bool = True,
) -> LM:
    """Load a language model and check that it can be captured.

    Args:
        source: folder or hub id of a transformers decoder or encoder, or one of ``bundled.LANGUAGE_MODELS``.
        device: where to put it, for instance "cpu" or "cuda:0"; "auto" spreads it over all devices (``device_map``).
        dtype: "float32", "bfloat16" or "float16".
        attention: transformers' ``attn_implementation`` that computes the model's output, for instance
            "flash_attention_2"; by default sdpa, or eager where the family has none.
        infill: how prompts with a suffix are arranged: "auto" by the known sentinels that its tokenizer has, "none" for
            left context only, or as :func:`apmae.prompts.sentinels.find_sentinels` says.
        outcome_rule: what makes an answer correct: its "text", or its first "token", as in the paper.
        check: compare a tiny forward's patterns with eager attention, and refuse the model if they differ.

    Raises:
        ConfigError: if there is no such dtype, or ``infill`` asks for sentinels that the model does not have.
        ModelError: if there is no such model, it cannot be loaded, or its patterns would be wrong.
    """
    given = {"source": str(source), "device": str(device), "dtype": dtype, "attention": attention, "infill": infill}
    given |= {"outcome_rule": outcome_rule}
    return load(parse(LMConfig, given, "language model"), check=check)


def load(config: LMConfig, *, check: bool = True) -> LM:
    """Load the language model of a configuration; the same configuration gives the same model anywhere.

    Args:
        config: which model, and how.
        check: as for :func:`load_lm`.

    Raises:
        ApmaeError: as :func:`load_lm` does.
    """
    expect_model(config)
    path = path_of(config)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = _load_tokenizer(path)
        _sentinels(tokenizer, config.infill, None, path)  # refused before the weights are read
        model, factory, info = _read(config, path)
    except ApmaeError:
        raise
    except Exception as error:  # transformers raises many kinds of error, and each means that there is no model
        if "not compiled with CUDA" in str(error) or "No CUDA GPUs" in str(error) or "NVIDIA driver" in str(error):
            raise ModelError(
                f"expected a device that this machine has, got {config.device!r} ({first_line(error)}); use "
                "--device cpu"
            ) from error
        if "custom code" in str(error):
            raise ModelError(
                f"expected a transformers model, {config.source} brings code of its own, which apmae does not run; "
                "load it with transformers (trust_remote_code=True) and give the model to apmae.capture"
            ) from error
        raise ModelError(f"cannot load a language model from {config.source}: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
    _expect_weights(model, config, info)
    causal = factory in (AutoModelForCausalLM, AutoModelForImageTextToText)
    if not causal and config.infill != "auto":
        raise ConfigError(
            f"expected infill 'auto' for {type(model).__name__}, an encoder, which sees both contexts with masks "
            f"between them, got {config.infill!r}; leave it out"
        )
    text = model.config.get_text_config()
    lm = LM(
        model=model,
        tokenizer=tokenizer,
        config=config,
        causal=causal,
        sentinels=_sentinels(tokenizer, config.infill, text.vocab_size, path) if causal else None,
        bos=_bos(tokenizer),
    )
    if check:
        check_capture(lm)
    _name_other_layers(lm)
    return lm


def _name_other_layers(lm: LM) -> None:
    """Say in one line which layers of a hybrid have no attention, and what they have instead."""
    others = other_layers(lm.model)
    if others:
        kinds = dict.fromkeys(others.values())
        absent = (f"{ranges([i for i, other in others.items() if other == kind])} ({kind})" for kind in kinds)
        _log.warning(
            "%s attends in %d of its %d layers (%s); layers without attention: %s",
            type(lm.model).__name__,
            len(lm.heads),
            lm.num_layers,
            ranges(list(lm.heads)),
            ", ".join(absent),
        )


def _read(config: LMConfig, path: str) -> tuple[Any, Any, dict[str, Any]]:
    """The model on its device, the auto class that loaded it, and what was wrong with its weights."""
    hf_config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    factory = _factory(hf_config)
    # Quantised weights and those for several devices are put in their places while they are read.
    placed = config.device == "auto" or getattr(hf_config, "quantization_config", None) is not None
    model, info = factory.from_pretrained(
        path,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attention,
        device_map=config.device if placed else None,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model.eval().requires_grad_(False)
    if not placed:
        model.to(config.device)
    return model, factory, info


def _expect_weights(model: Any, config: LMConfig, info: dict[str, Any]) -> None:
    """Refuse a model whose weights are incomplete: transformers would fill in random numbers."""
    absent = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    absent += [
        f"{name} has shape {tuple(found)}, not {tuple(wanted)}" for name, found, wanted in info["mismatched_keys"]
    ]
    if absent:
        more = f" and {len(absent) - 2} more" if len(absent) > 2 else ""
        raise ModelError(
            f"expected all weights of {type(model).__name__} in {config.source}: {'; '.join(absent[:2])}{more}; "
            "give the complete model"
        )


def _sentinels(tokenizer: Any, infill: str, vocabulary: int | None, path: str) -> Sentinels | None:
    if getattr(tokenizer, "is_fast", False):
        return find_sentinels(tokenizer.backend_tokenizer, infill, vocabulary)
    if infill not in ("auto", "none"):
        raise ConfigError(f"expected a fast tokenizer in {path} for infill {infill!r}, found none; take infill 'none'")
    return None


def _factory(config: Any) -> Any:
    """The auto class of transformers that loads a model.

    Raises:
        ModelError: if the family has no attention patterns; its weights are not read for that.
    """
    name = (config.architectures or [type(config).__name__])[0]
    if reason := refusal(config):
        raise ModelError(f"{name} {reason}")
    fills_in = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    pretrained = name.endswith("ForPreTraining") and config.model_type not in _DISCRIMINATORS
    if name.endswith("ForMaskedLM") or (fills_in and pretrained):
        return AutoModelForMaskedLM
    generates = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if generates and (not fills_in or name.endswith(("ForCausalLM", "LMHeadModel"))):
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else AutoModel


def _load_tokenizer(path: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("a")  # with half its files it loads, and fails when it is used
    except Exception as error:  # tokenizers raises plain Exception
        # Capture works without a tokenizer; prompts say what is missing when they need one.
        _log.warning("no tokenizer in %s (%s)", path, first_line(error))
        return None
    return tokenizer


def _bos(tokenizer: Any) -> int | None:
    if tokenizer is None or tokenizer.bos_token_id is None:
        return None
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id if ids and ids[0] == tokenizer.bos_token_id else None
