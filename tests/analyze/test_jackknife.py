"""The jackknife against loops that leave out one file at a time, and its intervals against known truths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.analyze.jackknife import Estimates, Weighting, beyond, weighted, with_draws


def mean_by_loops(values, stratum, share):
    """A weighted mean, stratum by stratum; strata without a value are left out."""
    total = weight = 0.0
    for number, part in enumerate(share):
        own = [value for value, s in zip(values, stratum, strict=True) if s == number and np.isfinite(value)]
        if own:
            total, weight = total + part * sum(own) / len(own), weight + part
    return total / weight if weight else np.nan


def error_by_loops(values, group, stratum, share):
    """Efron and Stein's standard error; a stratum that a group has alone keeps its prompts."""
    found = []
    for left in sorted(set(group)):
        total = weight = 0.0
        for number, part in enumerate(share):
            inside = [i for i in range(len(values)) if stratum[i] == number and np.isfinite(values[i])]
            kept = [i for i in inside if group[i] != left] or inside
            if kept:
                total, weight = total + part * sum(values[i] for i in kept) / len(kept), weight + part
        found.append(total / weight if weight else np.nan)
    mean = sum(found) / len(found)
    return ((len(found) - 1) / len(found) * sum((one - mean) ** 2 for one in found)) ** 0.5


@given(st.integers(0, 10_000), st.integers(2, 25))
def test_means_and_errors_are_those_of_loops(seed, count):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, 3))
    values[draw.random((count, 3)) < 0.2] = np.nan
    group = draw.integers(5, size=count) * 7
    group[:2] = [0, 7]
    stratum, share = draw.integers(4, size=count), draw.random(4)
    found = weighted(values, group, Weighting(stratum, share))
    for column in range(3):
        assert found.value[column] == pytest.approx(mean_by_loops(values[:, column], stratum, share), nan_ok=True)
        error = error_by_loops(values[:, column], group, stratum, share)
        assert found.error[column] == pytest.approx(error if error > 1e-9 else np.nan, nan_ok=True)
    plain, one = weighted(values, group), np.zeros(count, int)
    assert plain.value == pytest.approx([mean_by_loops(values[:, k], one, [1.0]) for k in range(3)], nan_ok=True)


def test_the_difference_of_two_weightings_has_the_error_of_the_difference():
    draw = np.random.default_rng(1)
    values, group, stratum = draw.normal(size=(60, 1)), draw.integers(12, size=60), draw.integers(2, size=60)
    one, other = Weighting(stratum, np.array([0.5, 0.5])), Weighting(stratum, np.array([0.2, 0.8]))
    found = weighted(values, group, one, less=other, compared=True)
    assert found.value[0] == pytest.approx(
        weighted(values, group, one).value[0] - weighted(values, group, other).value[0]
    )
    without = [
        mean_by_loops(values[group != left, 0], stratum[group != left], [0.5, 0.5])
        - mean_by_loops(values[group != left, 0], stratum[group != left], [0.2, 0.8])
        for left in range(12)
    ]
    assert found.error[0] == pytest.approx(np.sqrt(11 * np.var(without)))


def files_of(draw, files):
    """Prompts of files that differ in size, in what removing does to them, and in how many are correct."""
    sizes = draw.integers(1, 6, size=files)
    group = np.repeat(np.arange(files), sizes)
    correct = draw.random(len(group)) < np.clip(draw.normal(0.6, 0.2, files), 0.05, 0.95)[group]
    lost = draw.random(len(group)) < np.clip(draw.normal(0.2, 0.15, files), 0, 1)[group]
    gained = draw.random(len(group)) < np.clip(draw.normal(0.15, 0.1, files), 0, 1)[group]
    return group, correct, np.where(correct, -1.0 * lost, 1.0 * gained)


@pytest.mark.parametrize(("files", "least"), [(12, 0.92), (40, 0.93), (150, 0.93)])
@pytest.mark.parametrize("how", ["drawn", "balanced", "reweighting"])
def test_intervals_hold_the_truth_as_often_as_they_say(files, least, how):
    """Changes of accuracy with prompts that resemble each other inside files: 95 % of intervals should hold it."""
    draw, shares = np.random.default_rng(files), np.array([0.5, 0.5])

    def estimate(group, correct, values):
        balanced = Weighting(correct.astype(int), shares)
        how_ = {
            "drawn": {},
            "balanced": {"weighting": balanced},
            "reweighting": {"weighting": balanced, "compared": True},
        }[how]
        return weighted(values[:, None], group, **how_)

    truth = estimate(*files_of(np.random.default_rng(0), 200_000)).value[0]
    held = []
    for _ in range(400):
        low, high = estimate(*files_of(draw, files)).bounds()
        held.append(low[0] <= truth <= high[0])
    assert least <= np.mean(held) <= 0.985


def test_errors_of_prompts_alone_would_be_too_small():
    """What files are for: with whole files alike, prompts taken for independent give half of the true error."""
    draw = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 8)
    by_file, by_prompt, found = [], [], []
    for _ in range(200):
        values = draw.normal(size=40)[group] + 0.5 * draw.normal(size=320)
        by_file.append(weighted(values[:, None], group).error[0])
        by_prompt.append(weighted(values[:, None], np.arange(320)).error[0])
        found.append(values.mean())
    assert np.mean(by_file) == pytest.approx(np.std(found), rel=0.15)
    assert np.mean(by_prompt) < 0.6 * np.std(found)


@pytest.mark.parametrize("draws", [2, 3, 8])
def test_intervals_of_a_mean_over_draws_hold_the_mean_of_all_draws(draws):
    """Sets are drawn too: with few draws the interval is as wide as that deserves."""
    draw, held, files_alone = np.random.default_rng(draws), [], []
    group = np.repeat(np.arange(30), 3)
    for _ in range(500):
        sets = draw.normal(scale=0.5, size=draws)
        values = sets + draw.normal(scale=0.3, size=30)[group][:, None] + draw.normal(size=(90, draws))
        found = weighted(values.mean(1, keepdims=True), group)
        low, high = with_draws(found, values.mean(0)[:, None]).bounds()
        held.append(low[0] <= 0 <= high[0])
        low, high = found.bounds()
        files_alone.append(low[0] <= 0 <= high[0])
    assert np.mean(held) >= 0.92, np.mean(held)
    assert np.mean(files_alone) < np.mean(held)


def test_what_cannot_be_told_has_no_interval():
    one_file = weighted(np.array([[1.0], [0.0]]), np.zeros(2, int))
    nothing_moved = weighted(np.zeros((9, 1)), np.arange(9))
    for found in (one_file, nothing_moved, with_draws(one_file, np.array([[1.0], [0.0]]))):
        assert np.isnan(found.bounds()).all() and not beyond(found, 1)[0] and not beyond(found, -1)[0]
    assert np.isnan(weighted(np.full((4, 1), np.nan), np.arange(4)).value[0])
    alone = with_draws(weighted(np.arange(4.0)[:, None], np.arange(4)), np.array([[1.5]]))
    assert alone == weighted(np.arange(4.0)[:, None], np.arange(4))


def test_together_widens_and_beyond_reads_the_interval():
    found = Estimates(np.array([3.0, -3.0, 2.1]), np.ones(3), np.full(3, 50.0))
    assert beyond(found, 1).tolist() == [True, False, True] and beyond(found, -1).tolist() == [False, True, False]
    assert beyond(found, 1, together=20).tolist() == [False, False, False]
    assert (found.bounds(20)[1] > found.bounds()[1]).all()
