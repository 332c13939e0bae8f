"""A whole study: the stages' settings in one file."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from apmae.config.base import Config
from apmae.config.capture import LMConfig
from apmae.config.prompts import PromptsConfig
from apmae.config.stages import AtlasConfig, EncodeConfig
from apmae.config.training import TrainConfig


class StudyConfig(Config):
    """One study: a language model, source files, and what is done with them. The content of ``STUDY.yaml``."""

    flat: ClassVar = ("lm",)

    lm: LMConfig = LMConfig()
    """The language model: its source alone, or its fields. Those beside the source may also be given by themselves."""

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
    """How prompts to train on are drawn, as training goes on; ``per_task`` is the length of an epoch. In a file, fields
    left out are tasks ["random"] and split "train"; the atlas prompts are then held out. No model is asked beforehand:
    ``train.outcome`` says which are trained on."""
    encode: EncodeConfig = EncodeConfig()
    atlas: AtlasConfig = AtlasConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_prompts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if "source" in values:  # else it would be the language model's
            raise ValueError("source is no field: sources are the files, lm is the language model")
        trained = values.get("encoder") == "train"
        defaults = {
            "prompts": {"per_task": 100, "outcome": "balanced", "split": "atlas" if trained else "all"},
            "train_prompts": {"tasks": ("random",), "split": "train"},
        }
        given = {key: values[key] for key in defaults if isinstance(values.get(key), dict)}
        if trained:
            given.setdefault("prompts", values.get("prompts", {}))
        return values | {key: defaults[key] | value for key, value in given.items() if isinstance(value, dict)}

    @model_validator(mode="after")
    def _train_is_configured(self) -> Self:
        if self.encoder == "train" and (self.train is None or self.train_prompts is None):
            raise ValueError("encoder is 'train', so train and train_prompts must be given (see recipes.demo)")
        if self.train_prompts is not None and self.train_prompts.outcome != "any":
            raise ValueError(
                f"train_prompts.outcome is {self.train_prompts.outcome!r}, but no model is asked before training: "
                "leave it out, and set train.outcome, which says which prompts are trained on"
            )
        if self.encoder != "train" and (self.train is not None or self.train_prompts is not None):
            raise ValueError(
                f"train is given, but encoder is {self.encoder!r}: set encoder to 'train', or leave it out"
            )
        return self
