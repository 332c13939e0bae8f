"""A whole study: the stages' settings in one file."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from apmae.config.base import Config
from apmae.config.prompts import PromptsConfig
from apmae.config.stages import AtlasConfig, EncodeConfig
from apmae.config.training import TrainConfig


class StudyConfig(Config):
    """One study: a language model, source files, and what is done with them. The content of ``STUDY.yaml``."""

    lm: str = "bundled"
    """Folder or hub id of the language model, or "bundled", "bundled-medium" or "bundled-small"."""

    sources: tuple[str, ...] = ("bundled",)
    """Folders, files, zips or tars of source code, a prompts JSONL or Parquet, or "bundled"."""

    encoder: str = "bundled"
    """Folder or hub id of an AP-MAE, "bundled", or "train" to train one in the study."""

    out: Path = Path("study")
    """The study's folder."""

    prompts: PromptsConfig = PromptsConfig(per_task=100, outcome="balanced")
    """Prompts of the atlas; fields that a file leaves out are those of this default."""
    train: TrainConfig | None = None
    """Used when ``encoder`` is "train"."""
    train_prompts: PromptsConfig | None = None
    """Prompts to train on. In a file, fields left out are tasks ["random"], outcome "correct" and split "train"; the
    atlas prompts are then held out."""
    encode: EncodeConfig = EncodeConfig()
    atlas: AtlasConfig = AtlasConfig()

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    infill: str = "auto"
    """How the language model sees a prompt with right context: by its own sentinels ("auto"), left context only
    ("none"), as a family of ``prompts.sentinels`` does, or by a template with {prefix} and {suffix}."""

    @model_validator(mode="before")
    @classmethod
    def _fill_prompts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        trained = values.get("encoder") == "train"
        defaults = {
            "prompts": {"per_task": 100, "outcome": "balanced", "split": "atlas" if trained else "all"},
            "train_prompts": {"tasks": ("random",), "outcome": "correct", "split": "train"},
        }
        given = {key: values[key] for key in defaults if isinstance(values.get(key), dict)}
        if trained:
            given.setdefault("prompts", values.get("prompts", {}))
        return values | {key: defaults[key] | value for key, value in given.items() if isinstance(value, dict)}

    @model_validator(mode="after")
    def _train_is_configured(self) -> Self:
        if self.encoder == "train" and (self.train is None or self.train_prompts is None):
            raise ValueError("encoder is 'train', so train and train_prompts must be given (see recipes.demo)")
        if self.encoder != "train" and (self.train is not None or self.train_prompts is not None):
            raise ValueError(
                f"train is given, but encoder is {self.encoder!r}: set encoder to 'train', or leave it out"
            )
        return self
