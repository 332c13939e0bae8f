"""What ``apmae circuit`` is given, checked before anything heavy is loaded. Torch-free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apmae.artifacts import expect_place, expect_stage, fingerprint, read_json
from apmae.config import LMConfig, PatchingConfig, parse
from apmae.engine.checks import heads_written
from apmae.engine.head_checks import study_prompts
from apmae.engine.prompts import load_prompts
from apmae.errors import ConfigError, ModelError, SourceError
from apmae.lm.declared import Declared, expect_infill, expect_window
from apmae.lm.folder import expect_model, expect_tokenizer, path_of
from apmae.study.layout import Layout
from apmae.study.reader import Study


class Task(NamedTuple):
    """Where the pairs come from, and where the circuit goes."""

    prompts: Path
    out: Path
    note: str
    """What does not carry over from the study to this model; "" if it is the study's."""


def parse_exact(exact: str, heads: Sequence[str]) -> str | tuple[tuple[int, int], ...]:
    """Which heads are patched, from ``--exact`` and ``--head``.

    Raises:
        ConfigError: if a head is written otherwise than ``3.5``, both are given, or ``--exact`` is something else.
    """
    if exact not in ("shortlist", "all"):
        raise ConfigError(f"expected --exact shortlist or --exact all, got {exact}; for single heads give --head 3.5")
    if heads and exact != "shortlist":
        raise ConfigError(f"expected --exact {exact} or single heads (--head), got both; leave one out")
    return tuple(dict.fromkeys(heads_written(heads))) if heads else exact


def circuit_lm(study: Path | None, source: str | None, loading: Mapping[str, Any]) -> LMConfig:
    """The model that is asked for: by default that of the study, as it was loaded there, or else the bundled one.

    Args:
        study: with ``study.json``, if no source is given.
        source: folder or hub id.
        loading: fields of ``LMConfig`` that were given.

    Raises:
        ConfigError: if the study does not say which model it is of.
    """
    known: dict[str, Any] = {"source": source or "bundled"}
    if study is not None and source is None:
        settings = Layout(study).settings
        if not settings.is_file():
            raise ConfigError(f"expected --lm for {study}, which was made stage by stage; give its language model")
        known = read_json(settings).get("lm", {})
    return parse(LMConfig, {**known, **loading}, "language model")


def circuit_task(study: Path | None, prompts: Path | None, out: Path | None, lm: LMConfig) -> Task:
    """The prompts and the folder, of a study or by themselves.

    Args:
        study: with prompts that have counterfactuals.
        prompts: the study's, if they are not in its folder; or any, without a study.
        out: by default ``circuit/`` in the study.
        lm: the model.

    Raises:
        ConfigError: if there is neither study nor prompts, they are not the study's, or there is no ``out`` for prompts
            alone or for a model that is not the study's.
        ArtifactError: if the study is unfinished, damaged or has no file of prompts.
    """
    if study is None:
        if prompts is None or out is None:
            raise ConfigError(
                "expected a study, or --prompts with counterfactuals and --out, got neither; make prompts with apmae "
                "prompts circuit:induction --lm MODEL --out pairs.parquet"
            )
        return Task(prompts, out, "")
    opened = Study(study)
    found = study_prompts(opened, prompts)
    source, note = Path(path_of(lm)), ""
    settings = Layout(opened.folder).settings
    own = read_json(settings).get("lm", {}).get("source") if settings.is_file() else None
    if (fingerprint(source) != opened.encoded.inputs.get("lm")) if source.is_dir() else own not in (None, lm.source):
        if out is None:
            raise ConfigError(
                f"expected the study's model, {opened.encoded.counts.get('lm')}, got {lm.source}; what another model "
                "does belongs in a folder of its own: give it with --out"
            )
        note = (
            f"The study is of {opened.encoded.counts.get('lm')}. Its prompts are used with {lm.source} where their "
            "counterfactuals have as many tokens there too; its heads, tags and atlas are those of the other model."
        )
    return Task(found, out or Layout(opened.folder).circuit, note)


def expect_circuit(
    lm: LMConfig, task: Task, config: PatchingConfig, tags: tuple[str, str] | None, *, overwrite: bool
) -> None:
    """``apmae circuit``; arguments and errors as for :func:`apmae.engine.circuit.find_circuit`."""
    if task.out.suffix == ".parquet":
        raise ConfigError(
            f"expected a folder for the tables, which are several files, got {task.out}; leave the suffix out"
        )
    expect_tags(config, tags)
    expect_place(task.out, folder=True)
    expect_stage(task.out, "circuit", config.model_dump(mode="json"), overwrite=overwrite)
    expect_model(lm)
    expect_tokenizer(lm)
    expect_infill(lm)
    declared = Declared.of(lm)
    expect_window(config.context, declared.positions)
    expect_decoder(not declared.square, lm.source)
    if not isinstance(config.exact, str):
        declared.expect_heads(config.exact)
    expect_counterfactuals(task.prompts)


def expect_counterfactuals(path: Path) -> None:
    """Refuse prompts of which none has a counterfactual and a wrong completion.

    Raises:
        SourceError: if none has, or the file is no file of prompts.
    """
    prompts = load_prompts(path)
    if not any(prompt.counterfactual is not None and prompt.wrong for prompt in prompts):
        raise SourceError(
            f"expected prompts with counterfactuals and wrong completions in {path}, none of {len(prompts)} has both; "
            "make some with apmae prompts circuit:NAME --lm MODEL, or write your own (docs/prompts.md)"
        )


def expect_decoder(causal: bool, source: str) -> None:
    """Refuse an encoder: pairs are compared where a decoder says what comes next.

    Raises:
        ModelError: if it is one.
    """
    if not causal:
        raise ModelError(f"expected a model that continues text, {source} is an encoder; take a decoder")


def expect_tags(config: PatchingConfig, tags: tuple[str, str] | None) -> None:
    """Refuse to choose heads by tags without an atlas.

    Raises:
        ConfigError: if there is none.
    """
    if config.filter == "tags" and tags is None:
        raise ConfigError("expected --atlas for the filter 'tags', got none; give an atlas of this model")
