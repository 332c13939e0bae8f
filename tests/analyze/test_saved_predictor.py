"""A predictor on disk: the model that won is what is read back, and a damaged or foreign file is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from apmae.analyze.answers import Drawn, answers_of
from apmae.analyze.columns import Columns
from apmae.analyze.fitting import LOGISTIC, TREES, fit_at
from apmae.analyze.forest import Forest
from apmae.analyze.prediction import BASELINES, PREDICTOR, STRONGEST, forecast, plain_columns
from apmae.analyze.predictor import fit_predictor
from apmae.analyze.saved_predictor import Origin, predictor_files, read_predictor
from apmae.artifacts import Stage
from apmae.config import PredictConfig
from apmae.errors import ArtifactError
from apmae.schema import PREDICTOR_FILES

CONFIG = PredictConfig(folds=2, choice_folds=2)
COUNT = 400
ORIGIN = Origin("m", "f", "float32", "none", "text", 64, COUNT, COUNT // 2, "any")


@pytest.fixture(scope="module")
def answers(table_of_prompts):
    """Right where the model is half sure: a hump, which no line can tell."""
    draw = np.random.default_rng(0)
    sure = draw.random(COUNT)
    right = (abs(sure - 0.5) < 0.25) ^ (draw.random(COUNT) < 0.1)
    rows = [
        {
            "task": ("eol", "identifier")[number % 2],
            "path": f"f{number // 2}",
            "tokens": ["a", f"t{number}"],
            "predicted": "a",
            "max_probability": float(sure[number]),
            "correct": bool(right[number]),
        }
        for number in range(COUNT)
    ]
    return answers_of(table_of_prompts(rows))


@pytest.fixture(scope="module")
def fitted(answers):
    plain = plain_columns(answers, CONFIG)
    found = forecast(answers, {}, CONFIG)
    return *fit_predictor(answers, plain, found, Drawn("any", 0.5), CONFIG), plain, found


def written(folder, files):
    with Stage.open(folder, "predict", {}, {}, overwrite=True) as stage:
        stage.write_files(files)
        stage.finish({})
    return folder


@pytest.fixture(scope="module")
def files(fitted):
    return predictor_files(fitted[0], fitted[1], ORIGIN)


def test_the_model_that_won_is_saved_and_read_back(answers, fitted, files, tmp_path):
    made, choice, plain, found = fitted
    assert choice.model == TREES["histogram"] and isinstance(made.model, Forest)
    assert found.by_name[PREDICTOR] is found.by_name[STRONGEST] or np.array_equal(
        found.by_name[PREDICTOR].decision, found.by_name[STRONGEST].decision
    )
    assert set(found.by_name[PREDICTOR].models) == {TREES["histogram"]}
    again, origin = read_predictor(written(tmp_path / "predict", files))
    assert origin == ORIGIN and again.bounds == made.bounds and again.recalibration.how == "platt"
    np.testing.assert_array_equal(again.recalibration.at, choice.recalibration.at)
    np.testing.assert_array_equal(again.decisions(answers.seen), made.decisions(answers.seen))
    every = np.ones(COUNT, bool)
    own = plain.columns(BASELINES[made.features], every)
    trained = fit_at(choice, lambda _: Columns(own, None), answers.correct, every, 9)
    np.testing.assert_allclose(again.model.of(again.scale.of(own)), trained, atol=1e-9)


def test_without_trees_a_line_is_saved(answers, tmp_path):
    config = CONFIG.model_copy(update={"trees": ()})
    plain, found = plain_columns(answers, config), forecast(answers, {}, config)
    made, choice = fit_predictor(answers, plain, found, Drawn("any", 0.5), config)
    again, _ = read_predictor(written(tmp_path / "predict", predictor_files(made, choice, ORIGIN)))
    assert choice.model == LOGISTIC and type(again.model) is type(made.model)
    np.testing.assert_array_equal(again.decisions(answers.seen), made.decisions(answers.seen))


def damaged(files, *, without=(), record=None, arrays=None):
    """The files with some entries changed or left out."""
    settings, weights = (files[name] for name in PREDICTOR_FILES)
    kept = {**json.loads(settings), **(record or {})}
    parts = {**load(weights), **(arrays or {})}
    text, whole = ({name: values for name, values in own.items() if name not in without} for own in (kept, parts))
    return dict(zip(PREDICTOR_FILES, (json.dumps(text).encode(), save(whole)), strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"without": ("version", "format")}, "of format 2 in .*, it was made by an earlier version"),
        ({"record": {"version": 3}}, "it was made by a later version"),
        ({"record": {"format": "apmae.heads"}}, "expected a saved predictor in .*json, found apmae.heads"),
        ({"record": {"model": "oracle"}}, "damaged .ValueError: a model called oracle"),
        ({"record": {"features": "luck"}}, "damaged .its parts for features do not fit"),
        ({"record": {"tokens": []}}, "damaged .its parts for tokens do not fit"),
        ({"record": {"share": 0.0}}, "damaged .it has spreads or rates that cannot be"),
        ({"without": ("trees.value",)}, "damaged .KeyError"),
        ({"arrays": {"trees.threshold": np.zeros(2)}}, "damaged .its trees have arrays of different lengths"),
        ({"arrays": {"scale.mean": np.zeros(99)}}, "damaged .its parts for scale do not fit"),
        ({"arrays": {"terms.mean": np.full(4, np.nan)}}, "damaged .it has numbers that are not finite"),
        ({"arrays": {"recalibration.at": np.zeros(3)}}, "damaged .its parts for recalibration do not fit"),
    ],
)
def test_what_is_damaged_old_or_foreign_is_refused_with_what_to_do(files, tmp_path, change, words):
    folder = written(tmp_path / "predict", damaged(files, **change))
    with pytest.raises(ArtifactError, match=words + ".*; run apmae predict .* with --overwrite"):
        read_predictor(folder)


def test_columns_of_other_features_are_refused(files, tmp_path):
    wider = damaged(files, record={"features": "all baselines"})
    if json.loads(files[PREDICTOR_FILES[0]])["features"] == "all baselines":
        wider = damaged(files, record={"features": "length"})
    with pytest.raises(ArtifactError, match="damaged .(IndexError|ValueError)"):
        read_predictor(written(tmp_path / "predict", wider))
