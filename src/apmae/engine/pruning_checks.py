"""What the prune stage is given, before anything heavy is loaded. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from apmae.artifacts import expect_place, expect_stage
from apmae.config import LMConfig, PruneConfig
from apmae.engine.ablation_checks import expect_subject, expect_tables_at, subject_of
from apmae.errors import ArtifactError, ConfigError
from apmae.study.layout import Layout

PRUNED_FILE = "pruning.json"
"""In the folder of a saved model: what was removed from it."""


class Pruned(NamedTuple):
    """What heads are removed of, and on what."""

    lm: LMConfig
    prompts: Path
    out: Path
    config: PruneConfig
    """With a window."""
    study: Path | None
    """Whose atlas knows the model's heads; None if there is no study, or it is another model's."""
    study_lm: str | None
    study_lm_name: str | None


class Saving(NamedTuple):
    """A model to save with heads removed."""

    folder: Path
    remove: int
    by: str | None
    """A ranking; None: the most exact one that the stage has."""
    even: bool = False
    """Whether heads are chosen so that they can be taken out: whole groups, as many in each layer."""


def pruning_subject(
    study: Path | None,
    lm: str | None,
    prompts: Path | None,
    out: Path | None,
    config: PruneConfig,
    loading: Mapping[str, Any],
) -> Pruned:
    """Find the model, prompts, window and folder; arguments and errors as for ``ablation_checks.subject_of``."""
    if study is not None and lm is None and out is None:
        out = Layout(study).pruning
    found = subject_of(study, lm, prompts, out, config.removing(), loading)
    config = config.model_copy(update={"context": found.config.context})
    return Pruned(
        found.lm,
        found.prompts,
        found.out,
        config,
        study if lm is None else None,
        found.study_lm,
        found.study_lm_name,
    )


def expect_pruning(subject: Pruned, saving: Saving | None, json: Path | None, *, overwrite: bool) -> None:
    """``apmae prune``; arguments and errors as for :func:`apmae.engine.pruning.prune`.

    With a model to save, ``overwrite`` is about that model: its tables stay.
    """
    config = subject.config
    expect_tables_at(subject.out, json)
    if config.rankings is not None and "unknown" in config.rankings and subject.study is None:
        raise ConfigError(
            "expected a STUDY for the ranking unknown, whose atlas says which heads it knows, got none; leave it out"
        )
    if saving is not None:
        expect_savable(saving, config, subject.out, overwrite=overwrite)
    expect_stage(subject.out, "prune", config.model_dump(mode="json"), overwrite=overwrite and saving is None)
    expect_subject(subject.lm, subject.prompts, config.context)


def expect_savable(saving: Saving, config: PruneConfig, out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else, and a ranking that the stage does not make.

    Raises:
        ArtifactError: if the folder exists and ``overwrite`` is not given, or it holds no pruned model.
        ConfigError: for other mistakes.
    """
    folder = saving.folder
    if saving.remove < 1:
        raise ConfigError(f"expected --remove of 1 or more heads, got {saving.remove}")
    if saving.by is not None and config.rankings is not None and saving.by not in config.rankings:
        raise ConfigError(
            f"expected --by one of the rankings {', '.join(config.rankings)}, got {saving.by}; add it to --ranking"
        )
    if folder.resolve() == out.resolve() or out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"expected a folder for the model other than that of the tables, {out}, got {folder}")
    if not folder.exists():
        return expect_place(folder, folder=True)
    if folder.is_dir() and not any(folder.iterdir()):
        return None
    if not (folder / PRUNED_FILE).is_file():
        raise ArtifactError(
            f"expected a new folder for the model, {folder} exists and is no model that apmae pruned; give another"
        )
    if not overwrite:
        raise ArtifactError(f"expected a new folder for the model, {folder} holds one; --overwrite replaces it")
    return None
