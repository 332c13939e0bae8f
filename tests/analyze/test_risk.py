"""Bounds on the risk: by the binomial tail, and that they hold as often as they say, also where files are alike."""

import numpy as np
import pytest
from scipy.stats import binom, t

from apmae.analyze.risk import CONFIDENCE, effective, risk_bounds, threshold_for, upper
from apmae.analyze.sparse_logistic import sigmoid


@pytest.mark.parametrize(("count", "total", "level"), [(0, 10, 0.05), (3, 20, 0.01), (19, 20, 0.025), (7, 400, 0.001)])
def test_the_bound_is_where_the_tail_has_the_level(count, total, level):
    assert binom.cdf(count, total, upper(count, total, level)) == pytest.approx(level, rel=1e-6)


def test_all_wrong_is_bounded_by_one():
    assert upper(5, 5, 0.01) == 1 and upper(0, 0, 0.01) == 1


def test_prompts_of_few_files_are_worth_fewer():
    assert effective(200, 200, 1.0, 0.01) == pytest.approx(200), "each prompt of its own file"
    expected = 200 / 3 * (t.ppf(0.99, 199) / t.ppf(0.99, 9)) ** 2
    assert effective(200, 10, 3.0, 0.01) == pytest.approx(expected) and expected < 200 / 3
    assert effective(200, 1, 1.0, 0.01) == 1 and effective(0, 0, 1.0, 0.01) == 0


def counted(flag, group, level):
    """The bound of one share, whose own files alone say how alike their prompts are, by loops."""
    files = {name: [int(one) for one, own in zip(flag, group, strict=True) if own == name] for name in set(group)}
    total, share = len(flag), sum(map(sum, files.values())) / len(flag)
    spread = sum((sum(own) - share * len(own)) ** 2 for own in files.values()) * len(files) / (len(files) - 1)
    effect = spread / total**2 / (share * (1 - share) / (total - 1))
    worth = min(total, total / max(effect, 1) * (t.ppf(1 - level, total - 1) / t.ppf(1 - level, len(files) - 1)) ** 2)
    return upper(share * worth, worth, level)


def test_one_threshold_is_bounded_by_what_its_files_show():
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 5)
    correct = draw.random(200) < np.repeat(draw.random(40), 5)
    (only,) = risk_bounds(np.full(200, 0.5), correct, group, None)
    expected = counted((~correct).tolist(), group.tolist(), 0.05 / 20)
    assert only.bound == pytest.approx(expected) and only.coverage == 1
    (single,) = risk_bounds(np.full(200, 0.5), correct, np.arange(200), None)
    assert single.risk == only.risk and single.bound < only.bound - 0.03


def test_a_share_of_none_is_bounded_by_how_alike_other_prompts_of_files_are():
    """The surest tenth is right; in the others a file is all right or all wrong."""
    group = np.repeat(np.arange(100), 4)
    sure = group < 20
    correct = sure | (group % 2 == 0)
    p = np.where(sure, 0.9, 0.5)
    first, alone = (risk_bounds(p, correct, own, None)[0] for own in (group, np.arange(400)))
    assert first.risk == alone.risk == 0 and alone.bound == pytest.approx(upper(0, 80, 0.05 / 20))
    assert first.bound > upper(0, 80 / 3, 0.05 / 20)


def test_risk_and_coverage_are_those_of_counting():
    draw = np.random.default_rng(0)
    p, correct = draw.random(300), draw.random(300) < 0.6
    for one in risk_bounds(p, correct, np.arange(len(p)), None):
        passed = [right for value, right in zip(p, correct, strict=True) if value >= one.threshold]
        assert one.coverage == pytest.approx(len(passed) / 300) and one.risk == pytest.approx(1 - np.mean(passed))
        assert binom.cdf(passed.count(False), len(passed), one.bound) == pytest.approx(0.05 / 20, rel=1e-6)
    for one in risk_bounds(p, correct, np.arange(len(p)), 0.8):
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
        bounds = risk_bounds(p, correct, np.arange(300), natural)
        broken += any((1 - one.threshold) / 2 > one.bound for one in bounds)
        found = threshold_for(bounds, 0.35)
        kept += found is not None and (1 - found.threshold) / 2 <= 0.35
    assert broken <= 150 * (1 - CONFIDENCE) and kept > 75


def drawn(files, seed):
    """Prompts of files of about 20, some files right oftener than the predictor can see."""
    draw = np.random.default_rng(seed)
    group = np.repeat(np.arange(files), 1 + draw.geometric(1 / 20, size=files))
    seen = draw.normal(size=len(group)) * 1.3
    return sigmoid(seen), draw.random(len(group)) < sigmoid(seen + draw.normal(size=files)[group]), group


@pytest.mark.parametrize("natural", [None, 0.7])
def test_bounds_hold_where_prompts_of_a_file_are_alike(natural):
    """The true risk is counted in as many files as make it known to a third of a hundredth."""
    p, correct, _ = drawn(20_000, 0)
    order = np.argsort(-p)
    wrong, right = np.cumsum(~correct[order]), np.cumsum(correct[order])
    if natural is not None:
        wrong, right = (1 - natural) * wrong / wrong[-1], natural * right / right[-1]
    broken = {"files": 0, "prompts": 0}
    for seed in range(1, 101):
        own, good, group = drawn(100, seed)
        for unit, of in (("files", group), ("prompts", np.arange(len(group)))):
            bounds = risk_bounds(own, good, of, natural)
            last = np.searchsorted(-p[order], [-one.threshold for one in bounds], side="right") - 1
            true = wrong[last] / (wrong[last] + right[last])
            broken[unit] += any(risk > one.bound for risk, one in zip(true, bounds, strict=True))
    assert broken["files"] <= 100 * (1 - CONFIDENCE)
    assert natural is not None or broken["prompts"] > 100 * (1 - CONFIDENCE), "prompts taken alone promise too much"


def test_the_threshold_that_answers_most_is_taken_and_few_prompts_keep_no_risk():
    draw = np.random.default_rng(2)
    p = draw.random(3000)
    correct = draw.random(3000) < p
    bounds = risk_bounds(p, correct, np.arange(len(p)), None)
    found = threshold_for(bounds, 0.25)
    assert found.bound <= 0.25 and all(one.bound > 0.25 for one in bounds if one.coverage > found.coverage)
    assert threshold_for(risk_bounds(p[:40], np.ones(40, bool), np.arange(40), None), 0.1) is None, (
        "40 right answers promise no 10 %"
    )
    assert threshold_for((), 0.5) is None
