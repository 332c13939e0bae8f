"""The stage on a real study, with outcomes to tell apart: its tables, asking again, refusals, what is printed."""

import csv
import json
import shutil
from html import escape

import pytest
from planted_outcomes import with_outcomes

from apmae.analyze.prediction import STRONGEST
from apmae.artifacts import read_json, read_table, read_tables, write_json
from apmae.config import PredictConfig
from apmae.engine import prediction
from apmae.engine.prediction import FILES, predict, print_prediction
from apmae.engine.prediction_checks import expect_prediction
from apmae.engine.report import write_report
from apmae.errors import ArtifactError, ConfigError
from apmae.report.prediction import prediction_findings
from apmae.schema import (
    CALIBRATION,
    COVERAGE,
    FITS,
    FORECASTS,
    PREDICTION,
    PREDICTION_FILE,
    PREDICTION_TASKS,
    PREDICTOR_FILES,
)
from apmae.study.reader import Study

CONFIG = PredictConfig(folds=2, choice_folds=2, resamples=30, bins=3, columns=16, components=2, trees=())


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
    tables += [read_tables(study / "predict", "predict", name) for name in ("fits", "forecasts")]
    schemas = (PREDICTION, PREDICTION_TASKS, CALIBRATION, COVERAGE, FITS, FORECASTS)
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


def test_a_run_that_was_killed_loses_one_fold_and_ends_with_the_same_bytes(study, found, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("predict"))
    whole = {path.name: path.read_bytes() for path in (study / "predict").iterdir() if path.name != "manifest.json"}
    made, fold = [], prediction.forecast_fold

    def until(last):
        def work(answers, plain, heads, folds, number, config):
            if number > last:
                raise KeyboardInterrupt
            made.append(number)
            return fold(answers, plain, heads, folds, number, config)

        return work

    for last in (-1, 0):
        monkeypatch.setattr(prediction, "forecast_fold", until(last))
        with pytest.raises(KeyboardInterrupt):
            predict(folder, CONFIG)
    monkeypatch.setattr(prediction, "forecast_fold", until(1))
    monkeypatch.setattr(prediction, "fit_predictor", until(-1))
    with pytest.raises(TypeError):  # killed after the folds
        predict(folder, CONFIG)
    monkeypatch.undo()
    assert made == [0, 1], "each fold once"
    predict(folder, CONFIG)
    assert {name: (folder / "predict" / name).read_bytes() for name in whole} == whole
    assert set(PREDICTOR_FILES) < set(whole) and "forecasts-00001.parquet" in whole
    (folder / "predict" / "fits-00001.parquet").write_bytes(b"damaged")
    predict(folder, CONFIG)
    assert (folder / "predict" / "fits-00001.parquet").read_bytes() == whole["fits-00001.parquet"]


def test_an_atlas_of_another_encoder_is_refused(study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("predict"))
    record = read_json(folder / "atlas" / "atlas.json")
    write_json(folder / "atlas" / "atlas.json", {**record, "encoder": "f" * 64})
    for refuse in (lambda: expect_prediction(folder, CONFIG, None, overwrite=False), lambda: predict(folder, CONFIG)):
        with pytest.raises(ArtifactError, match="atlas"):
            refuse()
    assert not (folder / "predict").exists()


def test_catboost_that_is_not_installed_is_refused_before_anything_is_made(study, tmp_path, monkeypatch):
    monkeypatch.setattr("apmae.analyze.boosting.find_spec", lambda _: None)
    folder = tmp_path / "study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("predict"))
    with pytest.raises(ConfigError, match="apmae.catboost."):
        predict(folder, CONFIG.model_copy(update={"trees": ("catboost",)}))
    assert not (folder / "predict").exists()


def test_the_report_shows_what_was_predicted_of_this_atlas(study, found, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    own = Study(folder).predicted
    assert own.sets.equals(found.sets) and own.counts["prompts"] == found.counts["prompts"]
    page = write_report(folder).read_text()
    assert all(escape(line, quote=False).replace("'", "&#39;") in page for line in prediction_findings(found))
    names = {path.name for part in ("figures", "tables") for path in (folder / "report" / part).iterdir()}
    assert {"calibration.png", "risk_coverage.png", "prediction.csv"} < names
    with (folder / "report" / "tables" / "prediction.csv").open(newline="") as file:
        assert [row["features"] for row in csv.DictReader(file)] == found.sets["features"].to_pylist()
    manifest = read_json(folder / "predict" / "manifest.json")
    manifest["inputs"]["cluster"] = "0" * 64
    write_json(folder / "predict" / "manifest.json", manifest)
    assert Study(folder).predicted is None, "of another atlas"
    page = write_report(folder).read_text()
    assert "<code>apmae predict</code> on the study" in page and "risk_coverage" not in page


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
