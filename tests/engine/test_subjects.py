"""Predicting from a study with answers inside, from answers alone, and what does not belong together."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from apmae.analyze.answer_features import ATTRIBUTION, FLOW, LAPLACIAN, LAST_COPY, LAST_ROW, STATE
from apmae.analyze.prediction import added, folds
from apmae.artifacts import (
    fingerprint,
    matrix,
    read_json,
    read_manifest,
    read_table,
    read_tables,
    write_json,
    write_table,
)
from apmae.artifacts.manifest import record_of
from apmae.cli import app
from apmae.config import AnswersConfig, LMConfig, PredictConfig
from apmae.engine import subjects
from apmae.engine.answers import read_heads_of_answers
from apmae.engine.prediction import heads_of, predict
from apmae.engine.prediction_checks import expect_prediction
from apmae.engine.subjects import expect_reading, subject_of
from apmae.errors import ArtifactError, ConfigError
from apmae.prompts.files import read_prompts, write_jsonl

CONFIG = PredictConfig(folds=2, choice_folds=2, trees=(), resamples=20, bins=3, columns=12, components=2)
OURS = (LAST_ROW, LAST_COPY, FLOW, ATTRIBUTION, LAPLACIAN, STATE)


def rewritten(folder, change):
    """Change the rows of an artifact's prompts; its manifest agrees."""
    manifest = read_json(folder / "manifest.json")
    for path in sorted(folder.glob("prompts-*")):
        table = read_table(path)
        rows = [{**row, **change(row)} for row in table.to_pylist()]
        write_table(path, pa.Table.from_pylist(rows, schema=table.schema))
        manifest["files"][path.name] = record_of(path, len(rows))
    write_json(folder / "manifest.json", manifest)


def by_number(row):
    return {"outcome": "correct" if row["prompt"] % 3 else "incorrect"}


def same_inputs(study):
    """The atlas and the embeddings agree again."""
    clustered = read_json(study / "atlas" / "manifest.json")
    (own,) = (name for name in clustered["inputs"] if name != "encoder")
    clustered["inputs"][own] = fingerprint(study / "embeddings")
    write_json(study / "atlas" / "manifest.json", clustered)


@pytest.fixture(scope="module")
def study(real_study, bundled_lm, tmp_path_factory):
    """A study with outcomes to tell apart, and answers of the same prompts inside."""
    folder = tmp_path_factory.mktemp("subjects") / "study"
    shutil.copytree(real_study.folder, folder)
    config = AnswersConfig(batch=4, shard_prompts=5, eigenvalues=2)
    read_heads_of_answers(bundled_lm, folder / "prompts.parquet", folder / "answers", config)
    for artifact in ("embeddings", "answers"):
        rewritten(folder / artifact, by_number)
    same_inputs(folder)
    return folder


@pytest.fixture
def copied(study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    return tmp_path / "study"


def test_a_study_with_answers_has_both_kinds_of_sets(study):
    found = predict(study, CONFIG)
    names = found.sets["features"].to_pylist()
    assert {"head entropy", "tags", *OURS, *map(added, OURS)} < set(names)
    inputs = read_manifest(study / "predict", "predict").inputs
    assert inputs["answers"] == fingerprint(study / "answers") and set(inputs) == {"encode", "cluster", "answers"}
    assert found.counts["answered_otherwise"] == 0


def test_answers_alone_are_enough(study, tmp_path):
    shutil.copytree(study / "answers", tmp_path / "mine")
    found = predict(tmp_path / "mine", CONFIG)
    names = found.sets["features"].to_pylist()
    assert {*OURS, *map(added, OURS)} < set(names) and "tags" not in names
    alone, with_study = (
        {row["features"]: row for row in read_table(folder / "predict" / "prediction.parquet").to_pylist()}
        for folder in (tmp_path / "mine", study)
    )
    for name in OURS:  # outcomes, folds and columns are the same
        assert alone[name]["auroc"] == pytest.approx(with_study[name]["auroc"], abs=1e-6)
    assert found.counts["drawn"] == "any"
    again = predict(tmp_path / "mine", CONFIG)
    assert again.sets.equals(found.sets)


def test_sets_hold_the_columns_of_the_tables(study):
    subject = subject_of(study)
    fold = folds(subject.answers, CONFIG)
    fits = [fold != number for number in range(2)]
    sets = heads_of(subject, fits, CONFIG)
    pattern = study / "answers" / "heads-*.parquet"
    with duckdb.connect() as connection:
        for name, select in (
            (FLOW, "flow"),
            (ATTRIBUTION, "attribution"),
            (LAST_COPY, "copy_predicted, copy_after_last, copy_predicted_after_last, copy_last"),
            (LAPLACIAN, "laplacian[1], laplacian[2]"),
        ):
            query = f"select {select} from '{pattern}' order by prompt, layer, head"
            rows = np.array(connection.sql(query).fetchall(), np.float64)
            np.testing.assert_allclose(sets[name], rows.reshape(len(subject.answers.prompt), -1), atol=1e-6)
        rows = connection.sql(f"select avg(row_entropy), max(row_largest) from '{pattern}'").fetchall()[0]
    entropy_first = sets[LAST_ROW].reshape(len(subject.answers.prompt), 48, -1)
    assert (entropy_first[..., 0].mean(), entropy_first[..., 1].max()) == pytest.approx(rows, abs=1e-5)
    states = read_tables(study / "answers", "answers", "states")
    assert np.array_equal(sets[STATE], np.concatenate([matrix(states[name]) for name in ("middle", "final")], axis=1))


def test_a_few_near_ties_are_counted_and_more_are_refused(copied, monkeypatch):
    rewritten(copied / "answers", lambda row: {"predicted": "?"} if row["prompt"] == 3 else {})
    with pytest.raises(ArtifactError, match="found 1 of 12 prompts answered otherwise; make them again"):
        expect_prediction(copied, CONFIG, None, overwrite=True)
    monkeypatch.setattr(subjects, "_OTHERWISE", 0.1)  # as if there were a hundred prompts
    subject = subject_of(copied)
    assert subject.otherwise == 1
    assert "?" not in subject.answers.seen.predicted, "the study's answers are predicted"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda row: {"id": f"{row['id']}?"}, "another id of prompt 0"),
        (lambda row: {"tokens": [*row["tokens"], ";"]} if row["prompt"] == 4 else {}, "other tokens of prompt 4"),
    ],
)
def test_answers_to_other_prompts_are_refused(copied, change, why):
    rewritten(copied / "answers", change)
    with pytest.raises(ArtifactError, match=rf"in .*answers, found {why}; make them again .* or predict from .* alone"):
        predict(copied, CONFIG, overwrite=True)


def test_answers_with_other_windows_or_of_another_model_are_refused(copied, bundled_lm):
    config = AnswersConfig(context=64, batch=4)
    read_heads_of_answers(bundled_lm, copied / "prompts.parquet", copied / "answers", config, overwrite=True)
    with pytest.raises(ArtifactError, match="windows of 64 tokens instead of 256, see --set context"):
        expect_prediction(copied, CONFIG, None, overwrite=True)
    manifest = read_json(copied / "answers" / "manifest.json")
    manifest["inputs"]["lm"], manifest["counts"]["lm"] = "other", "mine"
    write_json(copied / "answers" / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="answers of the study's model, bundled, in .*answers, they are of mine"):
        expect_prediction(copied, CONFIG, None, overwrite=True)


def test_answers_that_are_not_finished_are_refused_not_left_out(copied, tmp_path):
    (copied / "answers" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="expected a finished answers artifact"):
        predict(copied, CONFIG, overwrite=True)


def test_answers_without_both_outcomes_are_refused(study, tmp_path):
    shutil.copytree(study / "answers", tmp_path / "mine")
    rewritten(tmp_path / "mine", lambda row: {"outcome": "correct"})
    with pytest.raises(ConfigError, match="expected a task with correct and incorrect prompts in .*mine"):
        expect_prediction(tmp_path / "mine", CONFIG, None, overwrite=False)


@pytest.mark.parametrize(
    ("lm", "prompts", "context", "words"),
    [
        ({}, "study", 256, None),
        ({}, "rewritten", 256, None),
        ({}, "fewer", 256, "the prompts of the study for --out .*answers, got 11 instead of 12 in .*fewer.jsonl"),
        ({}, "renamed", 256, "the prompts of the study for --out .*answers, got .*another instead of "),
        ({}, "study", 64, "the study's windows of 256 tokens for --out .*, got 64; give --set context=256"),
        ({"source": "bundled-small"}, "study", 256, "the study's model, bundled for --out .*, got bundled-small"),
        ({"infill": "none"}, "study", 256, "the study's windows, <fim_prefix>.*, got --infill none"),
        (
            {"outcome_rule": "token"},
            "study",
            256,
            "outcomes by the study's rule, text for .*, got --outcome-rule token",
        ),
    ],
)
def test_answers_of_a_study_are_of_its_prompts_model_and_windows_before_the_model_runs(
    study, tmp_path, lm, prompts, context, words
):
    path = study / "prompts.parquet"
    if prompts != "study":
        rows = read_prompts(path)
        if prompts == "renamed":
            rows[3] = replace(rows[3], id="another")
        path = tmp_path / f"{prompts}.jsonl"
        write_jsonl(path, rows[1:] if prompts == "fewer" else rows)
    given = LMConfig(**{"source": "bundled", **lm}), path
    config = AnswersConfig(context=context, batch=4, shard_prompts=5, eigenvalues=2)
    if words is None:
        expect_reading(*given, study / "answers", config, overwrite=True)
        return
    with pytest.raises(ConfigError, match=f"expected {words}.*; or give another --out, to predict from that alone"):
        expect_reading(*given, study / "answers", config, overwrite=True)
    expect_reading(*given, tmp_path / "answers", config, overwrite=True)


def test_what_is_no_subject_is_refused_with_what_it_is(study, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    for given, words in (
        (
            "nosuch",
            "got nosuch, no folder; give one of these, or, if it is a model: apmae predict nosuch FILE --line N",
        ),
        ("bundled", "got bundled, a model; ask about one line of a file: apmae predict bundled FILE --line N --study"),
        (tmp_path / "empty", "empty, a folder with neither; give one of these, or run"),
        (tmp_path / "a.txt", "a.txt, a file; give one of these"),
        (study / "atlas", f"atlas, what apmae cluster made; give {study}$"),
    ):
        with pytest.raises(ConfigError, match=rf"expected a study \(a folder .* that apmae answers made, .*{words}"):
            subject_of(Path(given))


def test_a_command_opens_its_study_once(study, monkeypatch):
    opened = []
    subject = subjects.answers_of, subjects.read_answers
    for name, function in zip(("answers_of", "read_answers"), subject, strict=True):
        monkeypatch.setattr(
            subjects, name, lambda *some, function=function, name=name: opened.append(name) or function(*some)
        )
    settings = [f"--set={name}={value}" for name, value in CONFIG.model_dump(mode="json").items() if name != "trees"]
    result = CliRunner().invoke(app, ["predict", str(study), "--overwrite", "--set=trees=[]", *settings])
    assert result.exit_code == 0, result.output
    assert opened == ["read_answers"]
