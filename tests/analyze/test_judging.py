"""AUROC against scikit-learn and against pairs counted one by one; the other figures by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from apmae.analyze.judging import (
    accuracy,
    brier,
    calibration,
    chance_error,
    coverage,
    file_weights,
    interval,
    refitting,
    stratified_auroc,
    widened,
)


def pairs_by_loops(score, correct, stratum, weight):
    ordered = every = 0.0
    for i in range(len(score)):
        for j in range(len(score)):
            if correct[i] and not correct[j] and stratum[i] == stratum[j]:
                every += weight[i] * weight[j]
                ordered += weight[i] * weight[j] * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    return ordered / every if every else np.nan


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_auroc_is_that_of_scikit_learn(seed, count):
    draw = np.random.default_rng(seed)
    score, correct = draw.integers(6, size=count) / 3, draw.random(count) < 0.5
    correct[:2] = [True, False]
    found = stratified_auroc(score, correct, np.zeros(count, np.int64))
    assert found[0] == pytest.approx(roc_auc_score(correct, score))


@given(st.integers(0, 10_000), st.integers(1, 25))
def test_auroc_counts_pairs_of_one_stratum_as_often_as_both_were_drawn(seed, count):
    draw = np.random.default_rng(seed)
    score, correct = draw.integers(5, size=count).astype(float), draw.random(count) < 0.6
    stratum, weights = draw.integers(3, size=count), draw.integers(4, size=(count, 3)).astype(float)
    found = stratified_auroc(score, correct, stratum, weights)
    expected = [pairs_by_loops(score, correct, stratum, weights[:, column]) for column in range(3)]
    np.testing.assert_allclose(found, expected)


def test_files_are_drawn_whole_and_as_many_as_there_are():
    group = np.array([0, 0, 1, 2, 2, 2])
    weights = file_weights(group, 50, seed=3)
    assert weights.shape == (6, 50)
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[3], weights[5])
    np.testing.assert_array_equal(weights[[0, 2, 3]].sum(0), 3)
    assert len(np.unique(weights, axis=1).T) > 5
    np.testing.assert_array_equal(weights, file_weights(group, 50, seed=3))


def test_the_interval_is_of_the_resamples_that_have_the_figure():
    low, high = interval(np.r_[np.arange(101.0), np.nan])
    assert (low, high) == (2.5, 97.5)
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_brier_and_accuracy():
    draw = np.random.default_rng(0)
    p, correct, weights = draw.random(50), draw.random(50) < 0.4, draw.random(50)
    assert brier(p, correct) == pytest.approx(brier_score_loss(correct, p))
    assert brier(p, correct, weights) == pytest.approx(brier_score_loss(correct, p, sample_weight=weights))
    assert accuracy(np.array([0.9, 0.2, 0.5, 0.6]), np.array([True, False, True, False])) == 2.5 / 4
    assert accuracy(np.array([0.9, 0.2]), np.array([True, True]), np.array([3.0, 1.0])) == 0.75


def test_the_calibration_curve_by_hand():
    p = np.array([0.8, 0.1, 0.9, 0.2])
    curve = calibration(p, np.array([True, False, False, True]), 2)
    np.testing.assert_array_equal(curve.prompts, [2, 2])
    np.testing.assert_allclose(curve.probability, [0.15, 0.85])
    np.testing.assert_allclose(curve.correct, [0.5, 0.5])
    assert curve.error == pytest.approx(0.35)


def test_prompts_of_one_probability_share_a_bin():
    curve = calibration(np.full(10, 0.25), np.arange(10) < 5, 5)
    assert curve.prompts.tolist() == [10] and curve.error == pytest.approx(0.25)
    curve = calibration(np.array([0.1, 0.5, 0.5, 0.5, 0.9, 0.9]), np.ones(6, bool), 3)
    assert curve.prompts.sum() == 6 and len(np.unique(curve.probability.round(6))) == len(curve.probability)


def test_the_calibration_error_of_true_probabilities_is_that_of_chance():
    draw = np.random.default_rng(5)
    p = draw.random(400)
    errors = [calibration(p, draw.random(400) < p, 10).error for _ in range(100)]
    assert chance_error(p, 10, seed=0) == pytest.approx(np.mean(errors), rel=0.1)


def test_risk_by_coverage_by_loops():
    draw = np.random.default_rng(1)
    p, correct = draw.integers(30, size=100) / 30, draw.random(100) < 0.5
    for covered, threshold, risk in coverage(p, correct):
        answered = [right for right, own in zip(correct, p, strict=True) if own >= threshold]
        assert covered == pytest.approx(len(answered) / 100)
        assert risk == pytest.approx(answered.count(False) / len(answered))
    assert coverage(p, correct)[-1][0] == 1.0


def test_an_interval_is_widened_around_the_figure_and_stays_within_its_range():
    draws = np.concatenate([[0.6], np.linspace(0.5, 0.8, 1001)])
    low, high = interval(draws[1:])
    assert widened(draws, 1.0) == (low, high)
    assert widened(draws, 1.5) == pytest.approx((0.6 - 1.5 * (0.6 - low), 0.6 + 1.5 * (high - 0.6)))
    assert widened(draws, 10) == (0.0, 1.0)
    assert all(map(np.isnan, widened(np.full(5, np.nan), 1.5)))


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_models_vary_as_much_as_the_share_of_files_tested_says(folds):
    tested, fitted = 1 / folds, 1 - 1 / folds
    assert refitting(folds) ** 2 == pytest.approx((1 / folds + tested / fitted) / (1 / folds))
