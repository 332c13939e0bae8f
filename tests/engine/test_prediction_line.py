"""One line of a file, by the predictor of a real study: what is said, of other models and tasks too, and refusals."""

import json
import shutil

import pytest
from planted_outcomes import with_outcomes

from apmae.analyze.risk import threshold_for
from apmae.analyze.saved_predictor import read_predictor
from apmae.artifacts import read_json, write_json
from apmae.config import LMConfig, PredictConfig
from apmae.engine.prediction import predict
from apmae.engine.prediction_checks import expect_line
from apmae.engine.prediction_line import predict_line, print_said
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.load import load
from apmae.lm.outcome import answer, window_of
from apmae.prompts.line import line_prompt, task_prompt

JAVA = "class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n"


@pytest.fixture(scope="module")
def study(real_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("line") / "study"
    shutil.copytree(real_study.folder, folder)
    with_outcomes(folder, lambda row: "correct" if row["prompt"] % 3 else "incorrect")
    predict(folder, PredictConfig(folds=2, choice_folds=2, resamples=20, bins=3, columns=16, components=2, trees=()))
    return folder


@pytest.fixture(scope="module")
def lm(real_study):
    return real_study.config.lm


@pytest.fixture
def java(tmp_path):
    path = tmp_path / "A.java"
    path.write_text(JAVA)
    return path


def test_the_answer_is_the_models_and_its_probability_that_of_the_predictor(study, lm, java, tmp_path):
    found = predict_line(lm, java, 3, study=study, column=18, json=tmp_path / "said.json")
    predictor, origin = read_predictor(study / "predict")
    model = load(lm)
    assert origin.fingerprint == model.fingerprint and origin.drawn == "any"
    prompt = task_prompt(line_prompt(java, 3, 18))
    window = window_of(model, prompt, origin.length)
    (asked,) = answer(model, [window])
    assert (found.answer, found.max_probability) == (asked.predicted, asked.max_probability)
    (judged,) = answer(model, [window], spans=True)
    assert (found.task, found.expected, found.outcome) == ("math_operator", "*", judged.outcome)
    assert 0 < found.probability < 1 and found.prompts == origin.prompts
    bounds = predictor.bounds if "math_operator" in predictor.tasks else predictor.other_bounds
    assert found.threshold == threshold_for(bounds, 0.1)
    record = json.loads((tmp_path / "said.json").read_text())
    assert record["probability"] == found.probability and record["answers"] == found.answers
    assert record["confidence"] == 0.95 and record["decision"].startswith(("Answer: ", "Abstain: "))


def test_few_prompts_promise_no_small_risk_and_every_risk_is_kept_by_answering(study, lm, java):
    small = predict_line(lm, java, 3, study=study, column=16, task="identifier", risk=0.01)
    assert small.threshold is None and not small.answers and small.lowest.bound > 0.01
    large = predict_line(lm, java, 3, study=study, column=16, task="identifier", risk=0.999)
    assert large.threshold is not None and large.answers == (large.probability >= large.threshold.threshold)
    assert large.probability == small.probability


def test_another_task_is_said_to_be_one(study, lm, java, capsys):
    found = predict_line(lm, java, 3, study=study, column=16, task="poem")
    assert any("poem is not one of the study's tasks" in note for note in found.notes)
    predictor, _ = read_predictor(study / "predict")
    assert found.threshold == threshold_for(predictor.other_bounds, 0.1)
    print_said(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(line.strip() for line in lines)
    assert all(note in text for note in found.notes) and "P(correct)" in text and "The file has" in text


def test_another_model_is_said_to_be_one_and_its_tokens_do_not_count(study, java, lm):
    other = LMConfig(source="bundled-medium") if lm.source != "bundled-medium" else LMConfig(source="bundled-small")
    found = predict_line(other, java, 3, study=study, column=18)
    assert found.column == 18
    assert any("Token statistics are left out" in note for note in found.notes)
    assert not found.measured and not found.answers, "no risk is promised for a model that was not measured"
    assert not any("Token statistics" in note for note in predict_line(lm, java, 3, study=study, column=18).notes)


def test_what_the_study_asked_otherwise_is_said(study, java, lm):
    plain = lm.model_copy(update={"infill": "none", "outcome_rule": "token"})
    found = predict_line(plain, java, 3, study=study, column=18)
    assert any(
        "The study asked otherwise: infill <" in note and "outcome_rule text, here token" in note
        for note in found.notes
    )


def test_a_predictor_that_is_missing_or_damaged_is_refused_before_anything_is_loaded(study, lm, java, tmp_path):
    wanted = {"column": 18, "task": None, "risk": 0.1, "json": None}
    expect_line(lm, java, 3, study=study, **wanted)
    with pytest.raises(ConfigError, match="--risk between 0 and 1"):
        expect_line(lm, java, 3, study=study, **{**wanted, "risk": 1.0})
    with pytest.raises(ArtifactError, match="expected a saved predictor in .*, found none; run apmae predict"):
        expect_line(lm, java, 3, study=tmp_path, **wanted)
    folder = tmp_path / "study"
    shutil.copytree(study / "predict", folder / "predict")
    file, manifest = folder / "predict" / "predictor.json", folder / "predict" / "manifest.json"
    record, whole = read_json(file), read_json(manifest)
    for lacking in ("tokens", "origin", "bounds"):
        write_json(file, {name: value for name, value in record.items() if not name.startswith(lacking)})
        whole["files"]["predictor.json"]["bytes"] = file.stat().st_size
        write_json(manifest, whole)
        with pytest.raises(ArtifactError, match="expected a whole predictor in .*, it is damaged .KeyError"):
            expect_line(lm, java, 3, study=folder, **wanted)
    file.write_text("{")
    with pytest.raises(ArtifactError):
        expect_line(lm, java, 3, study=folder, **wanted)
