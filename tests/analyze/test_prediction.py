"""A study-like table with planted outcomes: what tells is found, and what does not is near one half."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from apmae.analyze.answers import Drawn, answers_of
from apmae.analyze.fitting import LOGISTIC
from apmae.analyze.judging import file_weights, stratified_auroc
from apmae.analyze.prediction import (
    BASELINES,
    MAJORITY,
    PREDICTOR,
    STRONGEST,
    Forecast,
    Forecasts,
    added,
    expect_both_outcomes,
    folds,
    forecast,
    forecast_fold,
    plain_columns,
)
from apmae.analyze.prediction_tables import judge
from apmae.analyze.sparse_logistic import sigmoid
from apmae.config import PredictConfig
from apmae.errors import ConfigError
from apmae.schema import CALIBRATION, COVERAGE, FITS, FORECASTS, PREDICTION, PREDICTION_TASKS

CONFIG = PredictConfig(folds=4, choice_folds=2, columns=20, resamples=200, bins=5, trees=())
WITH_TREES = CONFIG.model_copy(update={"trees": ("histogram",)})
COUNT = 320
TASKS = ("eol", "identifier", "random")


class Planted:
    """Prompts whose outcome depends on max-probability, on the predicted token or on a head, or on nothing."""

    def __init__(self, table_of_prompts, *, p=0.0, token=0.0, head=0.0, seed=0):
        draw = np.random.default_rng(seed)
        sure, good, signal = draw.normal(size=COUNT), draw.random(COUNT) < 0.5, draw.normal(size=COUNT)
        odds = p * sure + token * (2 * good - 1) + head * signal
        self.correct = draw.random(COUNT) < sigmoid(odds)
        words = np.where(good, draw.choice(["a", "b"], COUNT), draw.choice(["c", "d"], COUNT))
        rows = [
            {
                "task": TASKS[number % 3],
                "path": f"f{number // 4}",
                "predicted": words[number],
                "max_probability": float(sigmoid(sure[number])),
                "entropy": float(draw.random()),
                "margin": float(draw.random()),
                "correct": bool(self.correct[number]),
            }
            for number in range(COUNT)
        ]
        self.answers = answers_of(table_of_prompts(rows))
        self.signal, self.sure, self.found = signal, sure, None
        noise = draw.normal(size=(COUNT, 60)).astype(np.float32)
        self.heads = {"told": np.column_stack([noise[:, :30], signal]).astype(np.float32), "noise": noise[:, 30:]}

    def judged(self, how="any", rate=0.5, config=CONFIG):
        if self.found is None:
            self.found = forecast(self.answers, self.heads, config)
        self.tables = judge(self.answers, self.found, Drawn(how, rate), config)
        return {row["features"]: row for row in self.tables.prediction.to_pylist()}


@pytest.fixture
def planted(table_of_prompts):
    return lambda **strengths: Planted(table_of_prompts, **strengths)


def test_what_a_head_tells_is_a_gain_and_noise_is_none(planted):
    one = planted(p=1.0, head=1.5)
    rows = one.judged()
    assert rows["told"]["auroc"] == pytest.approx(roc_auc_score(one.correct, one.signal), abs=0.04)
    assert rows["max-probability"]["auroc"] == pytest.approx(roc_auc_score(one.correct, one.sure), abs=0.03)
    assert rows["told"]["auroc_low"] > 0.55 and rows[added("told")]["delta_all_low"] > 0
    assert rows[added("told")]["delta_all_low"] < rows[added("told")]["delta_low"] < rows[added("told")]["delta_high"]
    assert rows["told"]["delta_all_low"] is None
    assert rows["noise"]["auroc_low"] < 0.5 < rows["noise"]["auroc_high"]
    assert rows[added("noise")]["delta_low"] <= 0 and abs(rows[added("noise")]["delta"]) < 0.04
    assert rows["max-probability"]["transfer"] == pytest.approx(rows["max-probability"]["within_task"], abs=0.01)
    assert rows["length"]["auroc"] == rows[MAJORITY]["within_task"] == rows[MAJORITY]["transfer"] == 0.5
    assert {row["kind"] for row in rows.values()} == {"baseline", "heads", "added"}
    assert rows[added("told")]["with_heads"] == rows["told"]["with_heads"] == 4 and not rows[STRONGEST]["with_heads"]


def test_what_tokens_tell_is_in_the_strongest_baseline(planted):
    rows = planted(token=1.5).judged()
    assert rows["tokens"]["auroc"] > 0.7 and rows[STRONGEST]["auroc"] > 0.7
    assert set(rows[STRONGEST]["chosen"]) <= {name for name, own in BASELINES.items() if "tokens" in own}
    assert rows[added("told")]["chosen"] == rows[STRONGEST]["chosen"] and len(rows[STRONGEST]["chosen"]) == 4
    assert rows[STRONGEST]["delta"] is None and rows["max-probability"]["delta_high"] < 0
    assert rows["max-probability"]["auroc"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_outcomes_that_depend_on_nothing_are_not_predicted(planted):
    found = [planted(seed=seed).judged() for seed in range(8)]
    for name in found[0]:
        assert np.mean([rows[name]["auroc"] for rows in found]) == pytest.approx(0.5, abs=0.05), name
        assert sum(rows[name]["auroc_low"] > 0.5 for rows in found) <= 3, name
    gains = [rows[added(name)]["delta_all_low"] > 0 for rows in found for name in ("told", "noise")]
    assert np.mean(gains) <= 0.1
    assert np.mean([rows[STRONGEST]["calibration_error"] for rows in found]) < 0.12


def test_no_outcome_of_a_fold_changes_what_is_said_of_it(planted):
    one = planted(p=1.0, token=1.0, head=1.0)
    fold = folds(one.answers, CONFIG)
    found = forecast(one.answers, one.heads, CONFIG)
    turned = one.answers._replace(correct=np.where(fold == 2, ~one.answers.correct, one.answers.correct))
    other = forecast(turned, one.heads, CONFIG)
    own = fold == 2
    for name in found.by_name:
        for ours, theirs in zip(found.by_name[name][1:5], other.by_name[name][1:5], strict=True):
            np.testing.assert_array_equal(ours[own], theirs[own])


def test_the_figures_are_those_of_the_forecasts(planted):
    one = planted(p=1.0)
    rows, tables = one.judged(), one.tables
    schemas = (PREDICTION, PREDICTION_TASKS, CALIBRATION, COVERAGE)
    assert all(table.schema.equals(schema) for table, schema in zip(tables, schemas, strict=True))
    name, correct = STRONGEST, one.correct
    own = one.found.by_name[name]
    column = {"fold": one.found.fold, "decision": own.decision, "recalibrated": own.recalibrated}
    pairs = [(column["fold"] == number) for number in range(4)]
    sizes = [correct[which].sum() * (~correct[which]).sum() for which in pairs]
    each = [roc_auc_score(correct[which], column["decision"][which]) for which in pairs]
    assert rows[name]["auroc"] == pytest.approx(np.average(each, weights=sizes), abs=1e-5)
    assert rows[name]["brier"] == pytest.approx(brier_score_loss(correct, column["recalibrated"]), abs=1e-5)
    assert rows[name]["accuracy"] == pytest.approx(((column["recalibrated"] > 0.5) == correct).mean())
    task = {row["task"]: row for row in tables.tasks.to_pylist() if row["features"] == name}
    assert rows[name]["within_task"] == pytest.approx(np.mean([row["auroc"] for row in task.values()]), abs=1e-5)
    assert sum(row["prompts"] for row in task.values()) == COUNT
    curve = [row for row in tables.calibration.to_pylist() if row["features"] == name and row["recalibrated"]]
    apart = np.average(
        [abs(row["probability"] - row["correct"]) for row in curve], weights=[r["prompts"] for r in curve]
    )
    assert rows[name]["calibration_error"] == pytest.approx(apart, abs=1e-5)
    weights = file_weights(one.answers.group, CONFIG.resamples, CONFIG.seed)
    for features, wide in ((name, 1.0), ("noise", np.sqrt(1 + 4 / 3))):  # heads alone, of four folds
        made, row = one.found.by_name[features], rows[features]
        drawn = stratified_auroc(made.decision, correct, column["fold"], weights)
        for part, bound in zip(("low", "high"), np.percentile(drawn, [2.5, 97.5]), strict=True):
            expected = row["auroc"] + wide * (bound - row["auroc"])
            assert row[f"auroc_{part}"] == pytest.approx(expected, abs=1e-5)
    whole = [row for row in tables.coverage.to_pylist() if row["features"] == name][-1]
    assert whole["coverage"] == 1 and whole["risk"] == pytest.approx(1 - correct.mean())


@pytest.mark.slow
def test_where_heads_are_of_no_use_the_baseline_is_left_as_it_is(planted):
    """A model that only does without the heads better must not look like a gain from them."""
    one = planted(p=2.0, seed=3)
    one.heads = {"noise": one.heads["noise"]}
    rows = one.judged(config=WITH_TREES)
    left = [number for number in range(4) if same_as_baseline(one.found, number)]
    assert rows[added("noise")]["with_heads"] == 4 - len(left) < 4
    taken = {model for row in rows.values() for model in row["models"]}
    assert taken == {LOGISTIC, "trees", "share of the task"}
    assert set(rows[PREDICTOR]["models"]) == {LOGISTIC}


def same_as_baseline(found, number):
    own = found.fold == number
    ours, theirs = found.by_name[added("noise")], found.by_name[STRONGEST]
    return np.array_equal(ours.decision[own], theirs.decision[own])


def test_each_fold_is_predicted_by_itself_and_says_what_it_chose(planted):
    one = planted(p=1.0, head=1.0)
    fold, plain = folds(one.answers, CONFIG), plain_columns(one.answers, CONFIG)
    whole = forecast(one.answers, one.heads, CONFIG)
    forecasts, fits = forecast_fold(one.answers, plain, one.heads, fold, 2, CONFIG)
    assert forecasts.schema.equals(FORECASTS) and fits.schema.equals(FITS)
    right = dict(zip(one.answers.prompt.tolist(), one.correct.tolist(), strict=True))
    for row in fits.to_pylist():
        own = [entry for entry in forecasts.to_pylist() if entry["features"] == row["features"]]
        assert {entry["prompt"] for entry in own} == {number for number in right if fold[number] == 2}
        decision = whole.by_name[row["features"]].decision[[entry["prompt"] for entry in own]]
        np.testing.assert_array_equal(decision, [entry["decision"] for entry in own])
        assert (row["loss"] is None) == (row["features"] == MAJORITY)
    losses = {row["features"]: row["loss"] for row in fits.to_pylist()}
    assert losses[STRONGEST] == min(losses[name] for name in BASELINES)
    assert losses[added("told")] <= losses[STRONGEST] <= losses[PREDICTOR]


def test_at_the_natural_rate_the_likelier_outcome_counts_more(planted):
    one = planted(p=1.0)
    rows = one.judged("balanced", 0.9)
    for row in rows.values():
        assert row["natural_accuracy"] > 0.8 > row["accuracy"] and row["natural_brier"] < 0.12
    rows = one.judged("any", 0.7)
    for row in rows.values():
        assert row["natural_accuracy"] == pytest.approx(row["accuracy"]), "they are at that rate already"
        assert row["natural_brier"] == pytest.approx(row["brier"], abs=1e-5)
        assert row["natural_auroc"] == row["auroc"]
    assert {row["natural_brier"] for row in one.judged("unknown", None).values()} == {None}


def test_rates_of_tasks_make_figures_those_of_a_natural_draw(table_of_prompts):
    """A forecaster that is right about the odds: judged on balanced prompts, and on a draw at the rates themselves."""
    rates = dict(zip(TASKS, (0.9, 0.7, 0.3), strict=True))
    draw = np.random.default_rng(0)

    def judged(balanced, count):
        signal, correct, task = [], [], []
        for name, rate in rates.items():
            right = np.arange(count) % 2 == 0 if balanced else draw.random(count) < rate
            signal.append(np.where(right, 1.0, -1.0) + draw.normal(size=count))  # log-odds of 2 x, plus the task's
            correct.append(right)
            task += [name] * count
        signal, correct = np.concatenate(signal), np.concatenate(correct)
        odds = 2 * signal
        if not balanced:
            odds += np.log([rates[name] / (1 - rates[name]) for name in task])
        rows = [
            {"task": name, "correct": bool(right), "path": f"f{number}"}
            for number, (name, right) in enumerate(zip(task, correct, strict=True))
        ]
        p, none = sigmoid(odds), np.full(len(odds), np.nan)
        own = Forecast("baseline", odds, p, p, none, [LOGISTIC], [], 0)
        found = Forecasts({STRONGEST: own}, np.zeros(len(odds), np.int64))
        drawn = Drawn("balanced", 0.6, rates) if balanced else Drawn("any", 0.6)
        (row,) = judge(answers_of(table_of_prompts(rows)), found, drawn, CONFIG).prediction.to_pylist()
        return row

    ours, true = judged(True, 3000), judged(False, 3000)
    assert ours["auroc"] < true["auroc"] - 0.02
    for ours_name, true_name in (
        ("natural_auroc", "auroc"),
        ("natural_accuracy", "accuracy"),
        ("natural_brier", "brier"),
    ):
        assert ours[ours_name] == pytest.approx(true[true_name], abs=0.015)


def test_files_of_one_outcome_each_cannot_be_compared(table_of_prompts):
    rows = [{"correct": number < 20, "path": f"f{number // 10}"} for number in range(40)]
    answers = answers_of(table_of_prompts(rows))
    with pytest.raises(ConfigError, match="in one of the 4 parts of the files, found none: each file has one outcome"):
        expect_both_outcomes(answers, folds(answers, CONFIG))
    expect_both_outcomes(answers, np.zeros(40, np.int64))


def test_a_token_of_one_file_is_of_no_use(table_of_prompts):
    """Within its file the token tells the outcome wholly; no model may know."""
    right = np.random.default_rng(3).random(40) < 0.5
    rows = [
        {"path": f"f{number // 4}", "predicted": f"t{number // 4}", "correct": bool(right[number // 4])}
        for number in range(160)
    ]
    answers = answers_of(table_of_prompts(rows))
    found = forecast(answers, {"h": np.random.default_rng(4).normal(size=(160, 1))}, CONFIG)
    made = judge(answers, found, Drawn("unknown", None), CONFIG)
    (auroc,) = [row["auroc"] for row in made.prediction.to_pylist() if row["features"] == "tokens"]
    assert auroc == 0.5


def test_two_files_and_few_prompts_are_enough_to_run(table_of_prompts):
    rows = [{"path": f"f{number % 2}", "correct": number % 3 > 0, "max_probability": number / 9} for number in range(8)]
    answers = answers_of(table_of_prompts(rows))
    config = CONFIG.model_copy(update={"folds": 2})
    found = forecast(answers, {"h": np.arange(8.0)[:, None]}, config)
    made = judge(answers, found, Drawn("unknown", None), config)
    assert all(np.isfinite(row["auroc"]) for row in made.prediction.to_pylist())
    assert {row["transfer"] for row in made.prediction.to_pylist()} == {None}, "one task has no other"
