"""What the ablate stage is given, before anything heavy is loaded. Torch-free.

``ablate`` takes a study, whose prompts, window and model it uses, or a model with prompts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from apmae.artifacts import expect_place, expect_stage, read_json
from apmae.config import AblateConfig, LMConfig, PruneConfig, StudyConfig, parse
from apmae.engine.checks import heads_written
from apmae.engine.head_checks import study_prompts
from apmae.engine.prompts import load_prompts
from apmae.errors import ConfigError
from apmae.lm.declared import Declared, expect_answering, expect_infill, expect_window
from apmae.lm.folder import expect_model, expect_tokenizer
from apmae.prompts.prompt import Prompt
from apmae.study.layout import Layout
from apmae.study.reader import Study

CONTEXT = 256
"""Tokens of a window without a study."""

Settings = TypeVar("Settings", AblateConfig, PruneConfig)
"""Of the stages that remove heads."""


class Ablated(NamedTuple):
    """What heads are removed of, and on what."""

    lm: LMConfig
    prompts: Path
    out: Path
    config: AblateConfig
    """With a window."""
    study_lm: str | None
    """Fingerprint of the study's model; None without a study."""
    study_lm_name: str | None


def subject_of(
    study: Path | None,
    lm: str | None,
    prompts: Path | None,
    out: Path | None,
    config: AblateConfig,
    loading: Mapping[str, Any],
) -> Ablated:
    """Find the model, prompts, window and folder.

    Args:
        study: a study's folder.
        lm: a model; by default the study's, or the bundled one.
        prompts: prompts; of a study only if they are not in its folder.
        out: by default ``ablate/`` in the study; needed without a study, or for another model.
        config: settings; without a window they get the study's, or 256 tokens.
        loading: how the model is loaded: fields of ``LMConfig``.

    Raises:
        ConfigError: if something is missing.
        ArtifactError: if the study is unfinished or damaged, or the prompts are not its own.
    """
    if study is None:
        if prompts is None or out is None:
            lacking = [name for name, value in (("--prompts", prompts), ("--out", out)) if value is None]
            raise ConfigError(
                "expected a STUDY, or --lm MODEL with --prompts and --out, got no STUDY and no "
                f"{' and no '.join(lacking)}; give one or the other"
            )
        model = parse(LMConfig, {"source": lm or "bundled", **loading}, "language model")
        return Ablated(model, prompts, out, with_context(config, None), None, None)
    opened = Study(study)
    if lm is not None and out is None:
        raise ConfigError(
            "expected --out with --lm and a STUDY: its folder is for what its own model does; give another folder"
        )
    source = _study_model(opened) if lm is None else {"source": lm}
    model = parse(LMConfig, {**source, **loading}, "language model")
    return Ablated(
        model,
        study_prompts(opened, prompts),
        Layout(opened.folder).ablation if out is None else out,
        with_context(config, opened.encoded.counts.get("context")),
        opened.encoded.inputs.get("lm"),
        str(opened.encoded.counts.get("lm")),
    )


def with_context(config: Settings, context: int | None) -> Settings:
    """Settings with a window: their own, else the one given, else of 256 tokens."""
    return config if config.context is not None else config.model_copy(update={"context": context or CONTEXT})


def _study_model(study: Study) -> dict[str, Any]:
    path = Layout(study.folder).settings
    if not path.is_file():
        raise ConfigError(
            f"expected {path}, which says where the study's model is, found none; give it with --lm, and an --out"
        )
    return parse(StudyConfig, read_json(path), str(path)).lm.model_dump()


def heads_asked(texts: Sequence[str] | None) -> tuple[tuple[int, int], ...] | str:
    """Heads written as ``3.5``, several separated by commas, each once; "all" if none is."""
    written = [part.strip() for text in texts or () for part in text.split(",")]
    return "all" if not texts or written == ["all"] else tuple(dict.fromkeys(heads_written(written)))


def expect_ablation(subject: Ablated, json: Path | None, *, overwrite: bool) -> None:
    """``apmae ablate``; arguments and errors as for :func:`apmae.engine.ablation.ablate`."""
    config = subject.config
    expect_tables_at(subject.out, json)
    expect_stage(subject.out, "ablate", config.model_dump(mode="json"), overwrite=overwrite)
    declared = expect_subject(subject.lm, subject.prompts, config.context)
    if config.heads != "all":
        declared.expect_heads(config.heads)


def expect_tables_at(out: Path, json: Path | None) -> None:
    """Refuse places where the tables, or what is found as JSON, cannot be.

    Raises:
        ConfigError: saying which.
    """
    if out.suffix == ".parquet":
        raise ConfigError(f"expected a folder for the tables, which are several files, got {out}; leave the suffix out")
    expect_place(out, folder=True)
    if json is not None:
        expect_place(json)


def expect_subject(lm: LMConfig, prompts: Path, context: int | None) -> Declared:
    """What a model's files say of it, if it can answer the prompts with heads removed.

    Raises:
        CaptureError, ConfigError, ModelError, SourceError: as for :func:`apmae.engine.ablation.measurable`.
    """
    expect_measurable(load_prompts(prompts))
    expect_model(lm)
    expect_tokenizer(lm)
    expect_infill(lm)
    declared = Declared.of(lm)
    expect_window(context or CONTEXT, declared.positions)
    expect_answering(declared.answers, lm.source)
    return declared


def expect_measurable(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts on which nothing could be ranked and measured.

    Raises:
        ConfigError: if one has no completion, or all are of one file.
    """
    empty = [prompt.id for prompt in prompts if not prompt.completion]
    if empty:
        raise ConfigError(
            f"expected prompts with completions, {len(empty)} of {len(prompts)} have none ({', '.join(empty[:3])}); "
            "leave them out, or say what is expected"
        )
    if len({prompt.path for prompt in prompts}) < 2:
        raise ConfigError(
            "expected prompts of two files or more, of which some rank heads and others measure, found one; take "
            "prompts of more files, or give each its path"
        )
