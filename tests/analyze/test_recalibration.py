"""Corrected probabilities: by scikit-learn, and by counting."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from apmae.analyze.recalibration import at_rate, recalibration_of
from apmae.analyze.sparse_logistic import sigmoid


def recalibrate(decision, correct, new, how):
    return recalibration_of(decision, correct, how).of(new)


def test_platt_undoes_a_line_and_isotonic_is_that_of_scikit_learn():
    draw = np.random.default_rng(1)
    true = draw.normal(size=20_000)
    correct = draw.random(20_000) < sigmoid(true)
    new = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(recalibrate(5 * true + 2, correct, 5 * new + 2, "platt"), sigmoid(new), atol=0.02)
    found = recalibrate(true, correct, new, "isotonic")
    np.testing.assert_allclose(found, IsotonicRegression(out_of_bounds="clip").fit(true, correct).predict(new))
    falling = recalibrate(-true, correct, new, "platt")
    np.testing.assert_allclose(falling, correct.mean()), "what goes the wrong way is not turned around"


def test_probabilities_at_another_rate_are_those_of_weighted_counts():
    draw = np.random.default_rng(2)
    p = np.repeat([0.2, 0.5, 0.9], 40_000)
    correct = draw.random(len(p)) < p
    share, rate = correct.mean(), 0.8
    weights = np.where(correct, rate / share, (1 - rate) / (1 - share))
    for value in (0.2, 0.5, 0.9):
        own = p == value
        expected = np.average(correct[own], weights=weights[own])
        assert at_rate(np.array([value]), share, rate)[0] == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(at_rate(p[::9999], 0.4, 0.4), p[::9999], atol=1e-9)
