"""The stage on a real study, with outcomes to tell apart: its tables, asking again, refusals, what is printed."""

import json
import shutil

import pyarrow as pa
import pytest

from apmae.analyze.prediction import STRONGEST
from apmae.artifacts import fingerprint, read_json, read_manifest, read_table, read_tables, write_json, write_table
from apmae.artifacts.manifest import record_of
from apmae.config import PredictConfig
from apmae.engine.checks import expect_prediction
from apmae.engine.prediction import FILES, predict, print_prediction
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import CALIBRATION, COVERAGE, FORECASTS, PREDICTION, PREDICTION_FILE, PREDICTION_TASKS

CONFIG = PredictConfig(folds=2, choice_folds=2, resamples=30, bins=3, columns=16, components=2)


def with_outcomes(folder, outcome):
    """Give a study's prompts other outcomes, by their number; the manifests agree."""
    manifest = read_json(folder / "embeddings" / "manifest.json")
    for name in read_manifest(folder / "embeddings", "encode").shards("prompts"):
        path = folder / "embeddings" / name
        rows = read_table(path).to_pylist()
        schema = read_table(path).schema
        write_table(path, pa.Table.from_pylist([{**row, "outcome": outcome(row)} for row in rows], schema=schema))
        manifest["files"][name] = record_of(path, len(rows))
    write_json(folder / "embeddings" / "manifest.json", manifest)
    clustered = read_json(folder / "atlas" / "manifest.json")
    own = [name for name, digest in clustered["inputs"].items() if name != "encoder"]
    clustered["inputs"][own[0]] = fingerprint(folder / "embeddings")
    write_json(folder / "atlas" / "manifest.json", clustered)


@pytest.fixture(scope="module")
def study(real_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prediction") / "study"
    shutil.copytree(real_study.folder, folder)
    with_outcomes(folder, lambda row: "correct" if row["prompt"] % 3 else "incorrect")
    return folder


@pytest.fixture(scope="module")
def found(study, tmp_path_factory):
    return predict(study, CONFIG, json=tmp_path_factory.mktemp("json") / "found.json")


def test_every_set_of_features_is_judged_on_every_prompt(study, found):
    prompts = read_tables(study / "embeddings", "encode", "prompts", ["prompt", "task", "outcome", "path"])
    tables = [read_table(study / "predict" / name) for name in FILES]
    schemas = (PREDICTION, PREDICTION_TASKS, CALIBRATION, COVERAGE, FORECASTS)
    assert all(table.schema.equals(schema) for table, schema in zip(tables, schemas, strict=True))
    names = found.sets["features"].to_pylist()
    assert {"head entropy", "head scores", "tags", "representations", STRONGEST} < set(names)
    forecasts = tables[-1].to_pylist()
    assert len(forecasts) == prompts.num_rows * len(names)
    path = dict(zip(prompts["prompt"].to_pylist(), prompts["path"].to_pylist(), strict=True))
    folds = {(path[row["prompt"]], row["fold"]) for row in forecasts}
    assert len(folds) == len(set(path.values())), "no file in two folds"
    assert found.counts["prompts"] == prompts.num_rows and found.counts["left_out"] == {}
    assert found.counts["correct"] == prompts["outcome"].to_pylist().count("correct")


def test_asked_again_it_is_read_and_other_settings_are_refused(study, found):
    file = study / "predict" / PREDICTION_FILE
    before = file.stat().st_mtime_ns, file.read_bytes()
    again = predict(study, CONFIG)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before and again.sets.equals(found.sets)
    other = CONFIG.model_copy(update={"folds": 3})
    with pytest.raises(ArtifactError, match="folds was 2, now 3"):
        predict(study, other)
    with pytest.raises(ArtifactError, match="folds was 2, now 3"):
        expect_prediction(study, other, None, overwrite=False)
    predict(study, CONFIG.model_copy(update={"seed": 1}), overwrite=True)
    predict(study, CONFIG, overwrite=True)
    assert file.read_bytes() == before[1], "same inputs, same bytes"


def test_it_prints_and_writes_what_it_found(study, found, tmp_path, capsys):
    predict(study, CONFIG, json=tmp_path / "found.json")
    record = json.loads((tmp_path / "found.json").read_text())
    assert [row["features"] for row in record["features"]] == found.sets["features"].to_pylist()
    assert record["counts"]["prompts"] == found.counts["prompts"] and len(record["findings"]) >= 6
    capsys.readouterr()
    print_prediction(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(line.strip() for line in lines)
    assert all(line in said for line in record["findings"])


def test_what_cannot_be_predicted_is_refused_before_anything_is_made(real_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(real_study.folder, folder)
    with_outcomes(folder, lambda row: None)
    with pytest.raises(ConfigError, match="expected prompts with outcomes in .*embeddings, found none"):
        expect_prediction(folder, CONFIG, None, overwrite=False)
    with_outcomes(folder, lambda row: "correct" if row["task"] == "identifier" else "incorrect")
    with pytest.raises(ConfigError, match="identifier: all correct"):
        predict(folder, CONFIG)
    with_outcomes(folder, lambda row: "correct" if row["prompt"] % 3 else "incorrect")
    with pytest.raises(ConfigError, match="at least as many files as folds, 99"):
        predict(folder, CONFIG.model_copy(update={"folds": 99}))
    assert not (folder / "predict").exists()
