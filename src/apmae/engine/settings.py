"""Settings that a user asks for: study files, recipes, what ``train`` is given. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from apmae.config import SQUARE, LMConfig, PromptsConfig, StudyConfig, TrainConfig, parse
from apmae.errors import ConfigError
from apmae.lm.declared import Declared
from apmae.recipes import RECIPES, demo, recipe, study_settings, train_settings
from apmae.report.console import Column, open_console, print_table


def demo_study(out: Path, *, train: bool, seed: int) -> StudyConfig:
    """The study of ``apmae demo`` (:func:`apmae.recipes.demo`)."""
    return demo(out, train=train, seed=seed)


def read_study(path: Path) -> StudyConfig:
    """Read a study's file. The study's folder is by default the file's path without its suffix.

    Raises:
        ConfigError: if it cannot be read, or is not YAML of a study.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected a study file at {path}: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected YAML in {path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected fields of a study in {path}, got {type(values).__name__}; see docs/pipeline.md")
    train = values.get("train")
    if isinstance(train, dict) and _reads_squares(values.get("lm")):
        values["train"] = {name: value for name, value in SQUARE.items() if name not in train.get("model", {})} | train
    return parse(StudyConfig, {"out": str(path.with_suffix("")), **study_settings(values)}, str(path))


def _reads_squares(lm: Any) -> bool:
    """Whether a study's language model is known to be an encoder."""
    source = lm.get("source") if isinstance(lm, dict) else lm
    return isinstance(source, str) and Declared.of(LMConfig(source=source)).square


def print_recipes() -> None:
    """Print the recipes, one per line."""
    studies = {name: recipe(name) for name in RECIPES}
    trains = [study.train for study in studies.values() if study.train is not None]
    models = [study.lm for study in studies.values()]
    columns = (
        Column(header="recipe", cells=list(studies)),
        Column(header="encoder", cells=[f"{own.model.encoder_layers} x {own.model.encoder_dim}" for own in trains]),
        Column(header="steps", cells=[f"{train.steps:,}" for train in trains]),
        Column(header="batch", cells=[str(train.batch_size) for train in trains], priority=2),
        Column(header="language model", cells=[lm.source for lm in models]),
        Column(header="device", cells=[lm.device for lm in models], priority=3),
        Column(header="settings", cells=[study.digest for study in studies.values()], priority=1),
    )
    print_table(open_console(), columns, "apmae recipes NAME has all settings")


def recipe_file(name: str) -> str:
    """A recipe as a study's file, for ``apmae run``."""
    fields = yaml.safe_dump(recipe(name).model_dump(mode="json"), sort_keys=False).rstrip()
    return f"# recipe {name}, {recipe(name).digest}\n{fields}"


class Training(NamedTuple):
    """What ``apmae train`` was asked for."""

    config: TrainConfig
    lm: LMConfig
    corpus: PromptsConfig | None
    """How prompts are drawn; None without source files."""


def training(
    name: str,
    changes: dict[str, Any],
    lm: Mapping[str, Any],
    *,
    language: str | None = None,
    per_task: int | None = None,
) -> Training:
    """A recipe's training with some settings changed.

    Args:
        name: of the recipe.
        changes: fields of ``TrainConfig``; for an encoder on top of ``config.SQUARE``.
        lm: fields of ``LMConfig``; those left out are the recipe's.
        language: of the corpus; None without a corpus.
        per_task: prompts per task in an epoch of the corpus; None takes the recipe's.

    Raises:
        ConfigError: if there is no such recipe, or a setting does not fit.
    """
    study = recipe(name)
    model = parse(LMConfig, study.lm.model_dump() | dict(lm), "language model")
    square = SQUARE if Declared.of(model).square else {}
    config = parse(TrainConfig, train_settings(name, {**square, **changes}), "train")
    if language is None:
        return Training(config, model, None)
    corpus = (study.train_prompts or PromptsConfig()).model_dump()
    corpus |= {"language": language, "seed": config.seed}
    corpus |= {"length": config.capture.context or config.model.pattern_size}
    corpus |= {} if per_task is None else {"per_task": per_task}
    return Training(config, model, parse(PromptsConfig, corpus, "--corpus"))
