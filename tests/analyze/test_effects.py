"""Changes, halves and figures of heads against plain loops; rank correlation against scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from apmae.analyze.answers import Drawn
from apmae.analyze.effects import (
    Measured,
    changes,
    expect_both_outcomes,
    halve,
    head_table,
    reliability_table,
    spearman,
    weightings,
)
from apmae.analyze.jackknife import weighted
from apmae.errors import ConfigError
from apmae.schema import HEAD_EFFECTS, RELIABILITY

HEADS = [(layer, head) for layer in range(3) for head in range(4)]


def prompts_of(count=60, files=20, seed=0):
    draw = np.random.default_rng(seed)
    tasks = [("eol", "identifier")[number] for number in draw.integers(2, size=count)]
    paths = [f"f{number}" for number in draw.integers(files, size=count)]
    return halve(tasks, paths, [f"w{number} " * 5 for number in range(count)], 0.8, seed), tasks, paths


def measured_of(count, shape=(), seed=0):
    draw = np.random.default_rng(seed)
    size = (count, *shape)
    return Measured(-draw.exponential(size=size), draw.random(size) < 0.6, draw.exponential(size=size))


def test_halves_share_no_file_and_are_alike_in_task():
    prompts, tasks, paths = prompts_of(200, 60)
    sides = [
        {path for path, ranks in zip(paths, prompts.ranks, strict=True) if ranks == side} for side in (True, False)
    ]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == prompts.files
    for name in ("eol", "identifier"):
        ours = [ranks for task, ranks in zip(tasks, prompts.ranks, strict=True) if task == name]
        assert 0.4 < np.mean(ours) < 0.6
    assert [prompts.tasks[number] for number in prompts.task] == tasks
    other, _, _ = prompts_of(200, 60, seed=1)
    assert (prompts.ranks != other.ranks).any()


def test_files_with_nearly_the_same_windows_stay_together():
    words = [f"word{number} " * 3 for number in range(80)]
    windows = ["".join(words[:60]), "".join(words[:59]) + "x", *("".join(words[60:][: 3 + n]) for n in range(3))]
    prompts = halve(["eol"] * 5, ["a", "b", "c", "d", "e"], windows, 0.8, 0)
    assert prompts.ranks[0] == prompts.ranks[1] and prompts.group[0] == prompts.group[1] and prompts.files == 5
    with pytest.raises(ConfigError, match="prompts of two files or more.*found one \\(2 files"):
        halve(["eol"] * 2, ["a", "b"], [windows[0]] * 2, 0.8, 0)


def test_one_outcome_is_refused():
    expect_both_outcomes(np.array([True, False]))
    for right, name in ((True, "correct"), (False, "incorrect")):
        with pytest.raises(ConfigError, match=f"all 3 are {name}; take more prompts"):
            expect_both_outcomes(np.full(3, right))


def test_natural_weights_give_each_outcome_its_rate_and_each_task_its_share():
    prompts, tasks, _ = prompts_of(80, 30)
    correct = np.random.default_rng(5).random(80) < 0.5
    rates = {"eol": 0.9, "identifier": 0.3}
    found = weightings(prompts, correct, Drawn("balanced", 0.6, rates))
    values = np.random.default_rng(6).normal(size=80)
    expected = 0.0
    for name, rate in rates.items():
        own = [place for place in range(80) if tasks[place] == name]
        right, wrong = ([values[place] for place in own if correct[place] == side] for side in (True, False))
        expected += len(own) / 80 * (rate * np.mean(right) + (1 - rate) * np.mean(wrong))
    assert weighted(values[:, None], prompts.group, found["natural"]).value[0] == pytest.approx(expected)
    balanced = weighted(correct[:, None].astype(float), prompts.group, found["balanced"])
    assert balanced.value[0] == pytest.approx(0.5)
    assert weightings(prompts, correct, Drawn("any", 0.6))["natural"] is None, "they are at that rate"
    assert "natural" not in weightings(prompts, correct, Drawn("unknown", None))
    assert "natural" not in weightings(prompts, correct, Drawn("correct", None))
    overall = weightings(prompts, correct, Drawn("balanced", 0.6))["natural"]
    assert overall is not None and overall.share.sum() == pytest.approx(1)


def test_figures_of_heads_are_those_of_loops():
    prompts, _, _ = prompts_of()
    before, after = measured_of(60), {"mean": measured_of(60, (12,), 1), "zero": measured_of(60, (12,), 2)}
    table = head_table(prompts, before, after, HEADS)
    assert table.schema.equals(HEAD_EFFECTS) and table.num_rows == 2 * 3 * 12
    for row in table.to_pylist():
        place, own = HEADS.index((row["layer"], row["head"])), after[row["mode"]]
        kept = [n for n in range(60) if row["half"] == "both" or prompts.ranks[n] == (row["half"] == "ranking")]
        assert row["prompts"] == len(kept)
        assert row["lost"] == sum(before.correct[n] and not own.correct[n, place] for n in kept)
        assert row["gained"] == sum(own.correct[n, place] and not before.correct[n] for n in kept)
        assert row["accuracy"] == pytest.approx((row["gained"] - row["lost"]) / len(kept), abs=1e-6)
        for name in ("log_probability", "elsewhere"):
            moved = [getattr(own, name)[n, place] - getattr(before, name)[n] for n in kept]
            assert row[name] == pytest.approx(np.mean(moved), abs=1e-5)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_an_encoder_has_nothing_elsewhere():
    prompts, _, _ = prompts_of()
    before, after = measured_of(60), measured_of(60, (12,), 1)
    nothing = [own._replace(elsewhere=np.full_like(own.elsewhere, np.nan)) for own in (before, after)]
    table = head_table(prompts, nothing[0], {"mean": nothing[1]}, HEADS)
    assert table["elsewhere"].null_count == table["elsewhere_low"].null_count == table.num_rows


def test_rank_correlation_is_that_of_scipy():
    draw = np.random.default_rng(0)
    for _ in range(20):
        one, other = draw.integers(5, size=(2, 30)).astype(float)
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert np.isnan(spearman(np.zeros(4), np.arange(4.0)))


def test_reliability_compares_halves_and_modes():
    prompts, _, _ = prompts_of(120, 40)
    strength, draw = np.linspace(-2, 2, 12), np.random.default_rng(0)
    before = measured_of(120)
    after = {
        mode: Measured(
            before.log_probability[:, None] + sign * strength + draw.normal(size=(120, 12)),
            np.repeat(before.correct[:, None], 12, axis=1),
            np.zeros((120, 12)),
        )
        for mode, sign in (("mean", 1), ("zero", -1))
    }
    table = reliability_table(prompts, before, after)
    assert table.schema.equals(RELIABILITY)
    found = {(row["what"], row["mode"], row["other"], row["by"]): row for row in table.to_pylist()}
    halves = found["halves", "mean", "mean", "log_probability"]
    moved = changes(before, after["mean"]).log_probability
    expected = spearmanr(moved[prompts.ranks].mean(0), moved[~prompts.ranks].mean(0)).statistic
    assert halves["spearman"] == pytest.approx(expected, abs=1e-6) and expected > 0.8
    assert halves["spearman_low"] < expected < halves["spearman_high"]
    assert found["modes", "mean", "zero", "log_probability"]["spearman"] < -0.8
    assert found["halves", "mean", "mean", "accuracy"]["spearman"] is None, "no answer changed"


def test_intervals_of_reliability_hold_that_of_other_files():
    """Simulated, heads the same and files drawn anew: 95 % or more of intervals hold the mean, few are far too wide."""
    strength, rows = np.linspace(-0.6, 0.6, 40), []
    for seed in range(80):
        draw, (prompts, _, _) = np.random.default_rng(seed), prompts_of(100, 50, seed)
        before = measured_of(100, seed=seed)
        moved = strength + draw.normal(size=(50, 40))[prompts.group] + draw.normal(size=(100, 40))
        after = Measured(before.log_probability[:, None] + moved, np.ones((100, 40), bool), np.zeros((100, 40)))
        rows.append(reliability_table(prompts, before, {"mean": after}).to_pylist()[0])
    found, low, high = (np.array([row[f"spearman{part}"] for row in rows]) for part in ("", "_low", "_high"))
    assert np.mean((low <= found.mean()) & (found.mean() <= high)) >= 0.95
    assert 1 < np.mean(high - low) / (3.92 * found.std()) < 2


def test_few_heads_have_no_interval():
    prompts, _, _ = prompts_of()
    table = reliability_table(prompts, measured_of(60), {"mean": measured_of(60, (5,), 1)})
    assert table["spearman"].null_count == 0 and table["spearman_low"].null_count == table.num_rows
