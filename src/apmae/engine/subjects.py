"""What the answers stage is given, and what the predict stage is, before anything heavy is loaded. Torch-free.

``predict`` takes a study, a study with ``answers/`` inside, or the folder of an answers stage alone.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from apmae.analyze.answers import SIMILAR, Answers, Drawn, answers_of, drawn_of, read_answers
from apmae.artifacts import (
    Manifest,
    expect_place,
    expect_stage,
    fingerprint,
    journal_path,
    manifest_path,
    read_manifest,
    read_tables,
)
from apmae.artifacts.manifest import read_record
from apmae.bundled import LANGUAGE_MODELS
from apmae.config import AnswersConfig, LMConfig
from apmae.engine.prompts import expect_prompts
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.declared import Declared, expect_answering, expect_infill, expect_window
from apmae.lm.folder import expect_model, expect_tokenizer, path_of
from apmae.prompts.files import read_prompts
from apmae.study.layout import Layout
from apmae.study.reader import Study

_SAME = ["prompt", "id", "tokens"]
"""Columns of prompts in which a study and its answers have to agree."""
_OTHERWISE = 0.02
"""Share of prompts that may be answered otherwise: in half precision a near tie depends on how prompts are batched."""


class Subject(NamedTuple):
    """What is predicted, and from what."""

    answers: Answers
    drawn: Drawn
    asked: Manifest
    """Of the stage that asked the model: encode, or answers."""
    study: Study | None
    """Embeddings and atlas, where there are any."""
    read: Path | None
    """The folder of the answers stage, where there is one."""
    otherwise: int
    """Prompts that the model answered otherwise when its heads were read; outcomes are those of the study."""
    inputs: dict[str, str]
    """Hashes of what is read, by stage."""
    out: Path
    """Where predictions go."""


def subject_of(folder: Path, similar: float = SIMILAR) -> Subject:
    """Open a study or the folder of an answers stage.

    Args:
        folder: either.
        similar: as for :func:`apmae.analyze.answers.answers_of`.

    Raises:
        ConfigError: if it is neither, or there are no outcomes to predict.
        ArtifactError: if something is unfinished or damaged, or the answers in a study are not of its
            prompts and model.
    """
    _expect_subject(folder)
    if _made_by_answers(folder):
        manifest = read_manifest(folder, "answers")
        prompts = read_tables(folder, "answers", "prompts")
        return Subject(
            answers=answers_of(prompts, str(manifest.config.get("infill", "none")), similar, folder),
            drawn=Drawn(
                str(manifest.counts["drawn"]),
                manifest.counts["natural_rate"],
                manifest.counts.get("natural_by_task", {}),
            ),
            asked=manifest,
            study=None,
            read=folder,
            otherwise=0,
            inputs={"answers": fingerprint(folder)},
            out=Layout(folder).prediction,
        )
    study = Study(folder)
    inputs = {"encode": fingerprint(study.embeddings_folder), "cluster": fingerprint(study.atlas_folder)}
    read, otherwise = Layout(study.folder).answers, 0
    there = read.is_dir()  # one that is not finished is refused, not left out
    if there:
        otherwise = _expect_same(study, read, read_manifest(read, "answers"))
        inputs["answers"] = fingerprint(read)
    return Subject(
        answers=read_answers(study, similar),
        drawn=drawn_of(study),
        asked=study.encoded,
        study=study,
        read=read if there else None,
        otherwise=otherwise,
        inputs=inputs,
        out=Layout(study.folder).prediction,
    )


def expect_reading(lm: LMConfig, prompts: Path, out: Path, config: AnswersConfig, *, overwrite: bool) -> None:
    """``apmae answers``; arguments and errors as for :func:`apmae.engine.answers.read_heads_of_answers`."""
    if out.suffix == ".parquet":
        raise ConfigError(f"expected a folder for the tables, which are several files, got {out}; leave the suffix out")
    expect_place(out, folder=True)
    expect_stage(out, "answers", config.model_dump(mode="json"), overwrite=overwrite)
    expect_prompts(prompts)
    expect_model(lm)
    expect_tokenizer(lm)
    expect_infill(lm)
    declared = Declared.of(lm)
    expect_window(config.context, declared.positions)
    expect_answering(declared.answers, lm.source)
    layout = Layout(out.parent)
    if out.name == layout.answers.name and manifest_path(layout.embeddings).is_file():
        _expect_of_study(read_manifest(layout.embeddings, "encode"), lm, prompts, out, config)


def _expect_of_study(encoded: Manifest, lm: LMConfig, prompts: Path, out: Path, config: AnswersConfig) -> None:
    """Refuse what ``apmae predict`` would refuse afterwards: answers in a study that are not of its prompts, model and
    windows. The tokens of the prompts are compared there.
    """
    folder = Path(path_of(lm))
    expected, found = "", ""
    context, infill = encoded.counts.get("context"), encoded.config.get("infill", "none")
    if encoded.inputs.get("prompts") != fingerprint(prompts) and (other := _other_prompts(out.parent, prompts)):
        expected, found = "the prompts of the study", f"{other} in {prompts}"
    elif folder.is_dir() and encoded.inputs.get("lm") != fingerprint(folder):
        expected, found = f"the study's model, {encoded.counts.get('lm')}", lm.source
    elif context is not None and context != config.context:
        expected, found = f"the study's windows of {context} tokens", f"{config.context}; give --set context={context}"
    elif lm.infill == "none" and infill != "none":
        expected, found = f"the study's windows, {infill}", "--infill none"
    elif (rule := encoded.config.get("outcome_rule", "text")) != lm.outcome_rule:
        expected, found = f"outcomes by the study's rule, {rule}", f"--outcome-rule {lm.outcome_rule}"
    if expected:
        raise ConfigError(
            f"expected {expected} for --out {out}, got {found}; or give another --out, to predict from that alone"
        )


def _other_prompts(study: Path, prompts: Path) -> str | None:
    """How prompts differ from a study's, by number and id; None if they do not."""
    ours = (
        read_tables(Layout(study).embeddings, "encode", "prompts", ["prompt", "id"]).sort_by("prompt")["id"].to_pylist()
    )
    theirs = [prompt.id for prompt in read_prompts(prompts)]
    if len(ours) != len(theirs):
        return f"{len(theirs):,} instead of {len(ours):,}"
    return next((f"{b} instead of {a}" for a, b in zip(ours, theirs, strict=True) if a != b), None)


def _expect_subject(folder: Path) -> None:
    """Refuse what is neither a study nor made by the answers stage, finished or not."""
    layout, manifest = Layout(folder), manifest_path(folder)
    if journal_path(folder).is_file() or any(path.is_dir() for path in (layout.embeddings, layout.atlas)):
        return
    stage = read_record(manifest).get("stage") if manifest.is_file() else None
    if stage == "answers":
        return
    found, advice = "a folder with neither", "give one of these, or run apmae encode and cluster, or apmae answers"
    if stage is not None:
        found = f"what apmae {stage} made"
        if layout.folder.name in ("embeddings", "atlas") and Layout(folder.parent).embeddings.is_dir():
            advice = f"give {folder.parent}"
    elif (folder / "config.json").is_file() or str(folder) in LANGUAGE_MODELS:
        found, advice = "a model", f"ask about one line of a file: apmae predict {folder} FILE --line N --study STUDY"
    elif not folder.is_dir():
        found = "a file" if folder.exists() else "no folder"
        advice = f"give one of these, or, if it is a model: apmae predict {folder} FILE --line N --study STUDY"
    raise ConfigError(
        "expected a study (a folder with embeddings/ and atlas/) or a folder that apmae answers made, got "
        f"{folder}, {found}; {advice}"
    )


def _made_by_answers(folder: Path) -> bool:
    """Whether a folder itself, not one inside it, was made by the answers stage."""
    if not manifest_path(folder).is_file():
        return False
    try:
        read_manifest(folder, "answers")
    except ArtifactError:
        if manifest_path(Layout(folder).embeddings).is_file():
            return False
        raise
    return True


def _expect_same(study: Study, folder: Path, read: Manifest) -> int:
    """Refuse answers to other prompts, or of another model; returns how many of them differ."""
    if read.inputs.get("lm") != study.encoded.inputs.get("lm"):
        raise ArtifactError(
            f"expected answers of the study's model, {study.encoded.counts.get('lm')}, in {folder}, they are of "
            f"{read.counts.get('lm')}; make them again with that model, or predict from {folder} alone"
        )
    ours, theirs = (
        read_tables(where, stage, "prompts", [*_SAME, "predicted", "outcome"])
        for where, stage in ((study.embeddings_folder, "encode"), (folder, "answers"))
    )
    if ours.num_rows != theirs.num_rows:
        raise _other(folder, f"{theirs.num_rows} prompts instead of {ours.num_rows}")
    for name in _SAME:
        if not ours[name].combine_chunks().equals(theirs[name].combine_chunks()):
            raise _other(folder, _difference(name, ours, theirs, study, read))
    answered = (
        zip(table["predicted"].to_pylist(), table["outcome"].to_pylist(), strict=True) for table in (ours, theirs)
    )
    otherwise = sum(one != other for one, other in zip(*answered, strict=True))
    if otherwise > _OTHERWISE * ours.num_rows:
        raise _other(folder, f"{otherwise} of {ours.num_rows} prompts answered otherwise")
    return otherwise


def _difference(name: str, ours: pa.Table, theirs: pa.Table, study: Study, read: Manifest) -> str:
    row = next(i for i, (a, b) in enumerate(zip(ours[name], theirs[name], strict=True)) if a != b)
    contexts = study.encoded.counts.get("context"), read.counts.get("context")
    if contexts[0] != contexts[1]:
        return f"windows of {contexts[1]} tokens instead of {contexts[0]}, see --set context"
    other = "other tokens" if name == "tokens" else f"another {name}"
    return f"{other} of prompt {ours['prompt'][row]}"


def _other(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"expected answers to the prompts of the study in {folder}, found {what}; make them again from the study's "
        f"prompts and settings, or predict from {folder} alone"
    )
