"""Bounds on the risk: by the binomial tail, and that they hold as often as they say."""

import numpy as np
import pytest
from scipy.stats import binom

from apmae.analyze.risk import CONFIDENCE, risk_bounds, threshold_for, upper


@pytest.mark.parametrize(("count", "total", "level"), [(0, 10, 0.05), (3, 20, 0.01), (19, 20, 0.025), (7, 400, 0.001)])
def test_the_bound_is_where_the_tail_has_the_level(count, total, level):
    assert binom.cdf(count, total, upper(count, total, level)) == pytest.approx(level, rel=1e-6)


def test_all_wrong_is_bounded_by_one():
    assert upper(5, 5, 0.01) == 1 and upper(0, 0, 0.01) == 1


def test_risk_and_coverage_are_those_of_counting():
    draw = np.random.default_rng(0)
    p, correct = draw.random(300), draw.random(300) < 0.6
    for one in risk_bounds(p, correct, None):
        passed = [right for value, right in zip(p, correct, strict=True) if value >= one.threshold]
        assert one.coverage == pytest.approx(len(passed) / 300) and one.risk == pytest.approx(1 - np.mean(passed))
        assert binom.cdf(passed.count(False), len(passed), one.bound) == pytest.approx(0.05 / 20, rel=1e-6)
    for one in risk_bounds(p, correct, 0.8):
        wrong, right = (np.mean(p[correct == outcome] >= one.threshold) for outcome in (False, True))
        assert one.coverage == pytest.approx(0.2 * wrong + 0.8 * right)
        assert one.risk == pytest.approx(0.2 * wrong / one.coverage) and one.bound > one.risk


@pytest.mark.parametrize("balanced", [False, True])
def test_bounds_hold_as_often_as_they_say(balanced):
    """P(correct) is p itself, so the true risk beyond any threshold is known."""
    draw = np.random.default_rng(1)
    broken, kept = 0, 0
    for _ in range(150):
        p = draw.random(4000 if balanced else 300)
        correct = draw.random(len(p)) < p
        natural = None
        if balanced:  # half of each outcome; by nature half of all are correct too
            p = np.concatenate([p[correct][:100], p[~correct][:200]])
            correct, natural = np.arange(300) < 100, 0.5
        bounds = risk_bounds(p, correct, natural)
        broken += any((1 - one.threshold) / 2 > one.bound for one in bounds)
        found = threshold_for(bounds, 0.35)
        kept += found is not None and (1 - found.threshold) / 2 <= 0.35
    assert broken <= 150 * (1 - CONFIDENCE) and kept > 75


def test_the_threshold_that_answers_most_is_taken_and_few_prompts_keep_no_risk():
    draw = np.random.default_rng(2)
    p = draw.random(3000)
    correct = draw.random(3000) < p
    bounds = risk_bounds(p, correct, None)
    found = threshold_for(bounds, 0.25)
    assert found.bound <= 0.25 and all(one.bound > 0.25 for one in bounds if one.coverage > found.coverage)
    assert threshold_for(risk_bounds(p[:40], np.ones(40, bool), None), 0.1) is None, "40 right answers promise no 10 %"
    assert threshold_for((), 0.5) is None
