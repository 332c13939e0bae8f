"""Pictures of predictions show the numbers of the tables."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread
from scipy.stats import beta

from apmae.analyze.judging import calibration, coverage
from apmae.analyze.prediction import MAJORITY, STRONGEST
from apmae.analyze.risk import risk_bounds
from apmae.report.figures import png
from apmae.report.prediction_figures import calibration_figure, coverage_figure, shown_sets
from apmae.schema import CALIBRATION, COVERAGE, PREDICTION, PREDICTION_TASKS
from apmae.study.reader import Predicted

NAMES = {MAJORITY: "baseline", "max-probability": "baseline", STRONGEST: "baseline", "tags": "heads", "scores": "heads"}
NAMES |= {f"baseline + {name}": "added" for name in ("tags", "scores")}


@pytest.fixture
def found():
    draw = np.random.default_rng(0)
    p = draw.random(200)
    correct = draw.random(200) < p
    curve, covered, sets = [], [], []
    for place, (name, kind) in enumerate(NAMES.items()):
        said = np.clip(p + draw.normal(size=200) * 0.05 * place, 0, 1) if name != MAJORITY else np.full(200, 0.5)
        for recalibrated in (False, True):
            for number, (many, mean, share) in enumerate(zip(*calibration(said, correct, 5), strict=True)):
                row = (name, recalibrated, number, int(many), mean, share)
                curve.append(dict(zip(CALIBRATION.names, row, strict=True)))
        covered += [dict(zip(COVERAGE.names, (name, *row), strict=True)) for row in coverage(said, correct)]
        row = {own: 0.1 for own in PREDICTION.names} | {"features": name, "kind": kind, "models": [], "chosen": []}
        sets.append(row | {"with_heads": 1, "auroc": 0.5 + 0.05 * place})
    bounds = [one._asdict() for one in risk_bounds(p, correct, np.arange(len(p)), 0.7)]
    tables = ((sets, PREDICTION), ([], PREDICTION_TASKS), (curve, CALIBRATION), (covered, COVERAGE))
    made = [pa.Table.from_pylist(rows, schema=schema) for rows, schema in tables]
    return Predicted(*made, bounds, {"natural_rate": 0.7, "drawn": "balanced", "prompts": 200})


def test_the_best_of_heads_and_of_what_they_add_are_shown(found):
    assert shown_sets(found) == [STRONGEST, "max-probability", "baseline + scores", "scores"]
    without = found._replace(sets=found.sets.filter(pa.compute.equal(found.sets["kind"], "baseline")))
    assert shown_sets(without) == [STRONGEST, "max-probability"]


def test_calibration_is_that_of_the_table_with_intervals_by_the_beta_distribution(found):
    figure = calibration_figure(found)
    rows = [row for row in found.calibration.to_pylist() if row["features"] == STRONGEST and not row["recalibrated"]]
    bars = figure.axes[0].containers[0]
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[row["probability"], row["correct"]] for row in rows])
    for segment, row in zip(bars.lines[2][0].get_segments(), rows, strict=True):
        right = round(row["correct"] * row["prompts"])
        wrong = row["prompts"] - right
        low = beta.ppf(0.025, right, wrong + 1) if right else 0
        high = beta.ppf(0.975, right + 1, wrong) if wrong else 1
        np.testing.assert_allclose(segment[:, 1], [low, high], atol=1e-6)


def test_risk_is_that_of_the_table_and_of_the_bounds(found):
    figure = coverage_figure(found)
    left, right = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in left.lines}
    assert list(drawn) == [*shown_sets(found), MAJORITY]
    for name, points in drawn.items():
        rows = [row for row in found.coverage.to_pylist() if row["features"] == name]
        np.testing.assert_allclose(points, [[row["coverage"], row["risk"]] for row in rows])
    bound, risk = (line.get_ydata() for line in right.lines)
    np.testing.assert_allclose(bound, [one["bound"] for one in found.bounds])
    assert (bound >= risk).all() and right.get_title() == "saved predictor, if 70% are correct"


def test_pictures_are_not_blank_and_the_same_twice(found):
    for draw in (calibration_figure, coverage_figure):
        content = png(draw(found))
        assert content == png(draw(found))
        assert np.ptp(imread(io.BytesIO(content))[..., :3]) > 0.5
