"""Which language model, and which of its patterns."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from apmae.config.base import Config
from apmae.errors import ConfigError


def _expect_share(heads: float | str) -> float | str:
    if isinstance(heads, float) and not 0 < heads <= 1:
        raise ValueError(f"heads is {heads}: expected 'all' or a share in (0, 1]")
    return heads


Share = Annotated[float | Literal["all"], AfterValidator(_expect_share)]


_DEVICE = "expected a device such as cpu, cuda, cuda:1 or auto"
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mlu", "musa", "mtia", "xla")


def device_kind(device: str) -> str:
    """The kind of a device: "cuda" for "cuda:1". "auto" stays, and whether this machine has the device is not checked.

    Raises:
        ConfigError: if there is no such device anywhere.
    """
    kind, colon, number = device.partition(":")
    if kind not in (*_DEVICES, "auto") or (colon and not (number.isdecimal() and kind != "auto")):
        raise ConfigError(f"{_DEVICE}, got {device!r}")
    return kind


def _expect_device(device: str) -> str:
    try:
        device_kind(device)
    except ConfigError:
        raise ValueError(_DEVICE) from None  # the given value is added to it
    return device


class LMConfig(Config):
    """A language model, how it is loaded and how its answers are judged: all that a worker needs to do the same."""

    source: str = "bundled"
    """Folder or hub id of a transformers model, or "bundled", "bundled-medium" or "bundled-small"."""

    device: Annotated[str, AfterValidator(_expect_device)] = "cpu"
    """Where it runs: "cpu", "cuda", "cuda:1"; "auto" spreads it over all devices."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Its precision."""

    infill: str = "auto"
    """How it sees a prompt with right context: with its own sentinels ("auto"), left context only ("none"), with those
    of a family of ``prompts.sentinels``, or by a template with {prefix} and {suffix}."""

    attention: str | None = None
    """transformers' ``attn_implementation`` that computes its output, for instance "flash_attention_2"; by default
    sdpa, or eager where the family has none."""

    outcome_rule: Literal["text", "token"] = "text"
    """When an answer counts as correct: if its text continues the prompt as the completion does
    (``prompts.prompt.continues``), or only if its first token is the completion's first (paper section 5)."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, values: Any) -> Any:
        return {"source": values} if isinstance(values, str) else values


class CaptureConfig(Config):
    """Which patterns of a language model are captured, and how."""

    heads: Share = "all"
    """All heads, or a share of each layer's heads, redrawn for each prompt."""

    context: int | None = Field(default=None, ge=8)
    """Tokens of the language model's window; by default as many as a pattern has rows (paper: 256)."""

    long: Literal["pool", "crop"] = "pool"
    """What is captured of a window with more tokens than a pattern has rows: blocks of tokens ("pool") or the last
    tokens ("crop"); see docs/long_contexts.md."""

    batch: int = Field(default=8, ge=1)
    """Prompts per forward of the language model, at most."""
