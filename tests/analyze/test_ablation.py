"""Sets and their figures against plain loops over prompts, and against planted truths."""

from collections import Counter

import numpy as np
import pytest

from apmae.analyze.ablation import distinct_sets, most_sets, plan_sets, set_table, task_table
from apmae.analyze.answers import Drawn
from apmae.analyze.effects import Measured, Prompts
from apmae.config import AblateConfig
from apmae.schema import ABLATION, ABLATION_TASKS, HEAD_SETS

HEADS = [(layer, head) for layer in range(2) for head in range(6)]
CONFIG = AblateConfig(draws=3, doses=(1, 4, 12), modes=("mean", "zero"))
RATES = {"eol": 0.8, "identifier": 0.6}


class Planted:
    """A model whose heads add known amounts to the log-probability; an answer is correct from -1 on."""

    def __init__(self, strength, prompts=80, files=30, seed=0, noise=0.0):
        draw = np.random.default_rng(seed)
        group = draw.integers(files, size=prompts)
        task = draw.integers(2, size=prompts)
        self.prompts = Prompts(np.arange(prompts), task, ("eol", "identifier"), group, files, group % 2 == 0)
        self.strength, self.noise, self.seed = np.asarray(strength), noise, seed
        self.logit = -1 + draw.normal(size=prompts)
        self.before = self.measured(self.logit)
        self.after = {
            mode: self.measured(np.stack([self.without([place]) for place in range(len(HEADS))], axis=1))
            for mode in CONFIG.modes
        }
        self.sets = plan_sets(self.prompts, self.before, self.after, HEADS, CONFIG)
        places = [[HEADS.index(head) for head in heads] for _, heads in distinct_sets(self.sets)]
        own = self.prompts.measuring
        self.removed = self.measured(np.stack([self.without(heads) for heads in places], axis=1)[own])

    def without(self, heads):
        draw = np.random.default_rng([self.seed, *heads])
        return self.logit - self.strength[heads].sum() + self.noise * draw.normal(size=len(self.logit))

    def measured(self, logit):
        return Measured(logit, logit > -1, 2 - 0.1 * logit)

    def table(self, drawn=None):
        drawn = drawn or Drawn("balanced", 0.7, RATES)
        return set_table(self.prompts, self.before, self.after, HEADS, self.sets, self.removed, drawn)


@pytest.fixture(scope="module")
def planted():
    return Planted(np.linspace(-0.5, 1.5, 12), noise=0.2)


def test_the_plan_has_each_choice_once_and_equal_sets_share_a_number(planted):
    sets = planted.sets
    assert sets.schema.equals(HEAD_SETS)
    rows = sets.to_pylist()
    own = [row for row in rows if not row["control"]]
    assert len(own) == len({(row["mode"], row["ranking"], row["by"], row["dose"]) for row in own}) == 2 * 3 * 2 * 3
    for one, heads in enumerate(distinct_sets(sets)):
        same = [row for row in rows if row["set"] == one]
        assert {(row["mode"], tuple(zip(row["layers"], row["heads"], strict=True))) for row in same} == {heads}
    assert len(set(distinct_sets(sets))) == len(distinct_sets(sets)), "no set is removed twice"
    assert len(distinct_sets(sets)) <= most_sets(len(HEADS), CONFIG)
    whole = {row["set"] for row in rows if row["dose"] == 12}
    assert len(whole) == 2, "all heads are one set in each mode"


def test_rankings_find_what_was_planted(planted):
    strongest = {HEADS[place] for place in np.argsort(-planted.strength)[:4]}
    weakest = {HEADS[place] for place in np.argsort(planted.strength)[:4]}
    for row in planted.sets.to_pylist():
        if row["dose"] == 4 and not row["control"] and row["by"] == "log_probability":
            heads = set(zip(row["layers"], row["heads"], strict=True))
            if row["ranking"] != "neutral":
                assert heads == (strongest if row["ranking"] == "helpful" else weakest)


def test_no_head_is_ranked_by_the_prompts_that_measure():
    """With the measuring half replaced by nonsense, the plan is the same."""
    one, other = Planted(np.linspace(-0.5, 1.5, 12)), Planted(np.linspace(-0.5, 1.5, 12))
    own = other.prompts.measuring
    after = {
        mode: measured._replace(log_probability=measured.log_probability.copy(), correct=measured.correct.copy())
        for mode, measured in other.after.items()
    }
    for measured in after.values():
        measured.log_probability[own] = np.random.default_rng(1).normal(size=(len(own), 12))
        measured.correct[own] = False
    assert plan_sets(other.prompts, other.before, after, HEADS, CONFIG).equals(one.sets)


def rates_by_loops(planted, change, natural):
    """A change of accuracy by task and outcome, each weighed by hand."""
    total = 0.0
    own = planted.prompts.measuring
    for number, task in enumerate(planted.prompts.tasks):
        of_task = [place for place, n in enumerate(own) if planted.prompts.task[n] == number]
        rate = RATES[task] if natural else 0.5
        for right, weight in ((True, rate), (False, 1 - rate)):
            some = [change[place] for place in of_task if planted.before.correct[own[place]] == right]
            total += len(of_task) / len(own) * weight * np.mean(some)
    return total


def test_figures_are_those_of_loops(planted):
    table, own = planted.table(), planted.prompts.measuring
    assert table.schema.equals(ABLATION)
    by_choice = {}
    for row in planted.sets.to_pylist():
        key = row["mode"], row["ranking"], row["by"], row["dose"], row["control"]
        by_choice.setdefault(key, []).append(row["set"])
    assert table.num_rows == len(by_choice)
    before = planted.before
    ranks = np.flatnonzero(planted.prompts.ranks)
    for row in table.to_pylist():
        key = row["mode"], row["ranking"], row["by"], row["dose"], row["control"]
        numbers, chosen = by_choice[key], by_choice[(*key[:4], "")][0]
        per_prompt = [
            np.mean([float(planted.removed.correct[n, s]) - float(before.correct[own[n]]) for s in numbers])
            for n in range(len(own))
        ]
        assert row["drawn"] == pytest.approx(np.mean(per_prompt), abs=1e-6)
        assert row["natural"] == pytest.approx(rates_by_loops(planted, per_prompt, True), abs=1e-5)
        right = [v for v, n in zip(per_prompt, own, strict=True) if before.correct[n]]
        wrong = [v for v, n in zip(per_prompt, own, strict=True) if not before.correct[n]]
        assert row["balanced"] == pytest.approx((np.mean(right) + np.mean(wrong)) / 2, abs=1e-6)
        assert row["reweighting"] == pytest.approx(row["balanced"] - row["natural"], abs=1e-5)
        logs = [np.mean(planted.removed.log_probability[n, numbers]) - planted.logit[own[n]] for n in range(len(own))]
        assert row["log_probability"] == pytest.approx(np.mean(logs), abs=1e-5)
        assert row["elsewhere"] == pytest.approx(-0.1 * np.mean(logs), abs=1e-5)
        flips = Counter()
        for s in numbers:
            for n in range(len(own)):
                flips[int(planted.removed.correct[n, s]) - int(before.correct[own[n]])] += 1
        assert (row["lost"], row["gained"]) == pytest.approx((flips[-1] / len(numbers), flips[1] / len(numbers)))
        if row["control"]:
            ours = planted.removed.correct[:, chosen].astype(float) - before.correct[own]
            assert row["drawn_beyond"] == pytest.approx(np.mean(ours - per_prompt), abs=1e-6)
        else:
            assert row["drawn_beyond"] is None and row["shared"] == 1
        heads = [distinct_sets(planted.sets)[s][1] for s in numbers]
        mode = planted.after[row["mode"]]
        if row["by"] == "log_probability":
            change = (mode.log_probability - planted.logit[:, None])[ranks].mean(0)
        else:
            change = (mode.correct.astype(float) - before.correct[:, None])[ranks].mean(0)
        alone = [[change[HEADS.index(head)] for head in some] for some in heads]
        assert row["ranked"] == pytest.approx(np.mean(alone), abs=1e-5)


def test_intervals_hold_at_once_only_if_they_are_wider(planted):
    seen = 0
    for row in planted.table().to_pylist():
        if row["drawn_low"] is not None:
            assert row["drawn_all_low"] < row["drawn_low"] <= row["drawn"] <= row["drawn_high"] < row["drawn_all_high"]
            seen += 1
    assert seen > 20


def test_natural_figures_need_a_rate(planted):
    unknown = planted.table(Drawn("unknown", None)).to_pylist()
    assert all(row["natural"] is None and row["reweighting"] is None for row in unknown)
    as_they_are = planted.table(Drawn("any", 0.6)).to_pylist()
    assert all(row["natural"] == row["drawn"] for row in as_they_are)


def test_a_choice_is_beyond_its_controls_only_where_choosing_helps():
    """Heads that differ: the strongest cost more than random ones. Heads that are all alike: no ranking is beyond."""
    different = [
        row
        for row in Planted(np.linspace(-0.5, 1.5, 12), 400, 120, noise=0.2).table().to_pylist()
        if row["control"] == "size" and row["ranking"] == "helpful" and row["dose"] == 4
    ]
    assert all(row["log_probability_beyond_high"] < 0 for row in different)
    alike = [
        row
        for row in Planted(np.full(12, 0.3), 400, 120, noise=0.5).table().to_pylist()
        if row["control"] and row["dose"] == 4 and row["drawn_beyond_low"] is not None
    ]
    outside = [row for row in alike if row["drawn_beyond_low"] > 0 or row["drawn_beyond_high"] < 0]
    assert len(alike) > 20 and len(outside) <= 0.15 * len(alike)


def test_no_doses_make_no_sets(planted):
    config = AblateConfig(doses=(), modes=CONFIG.modes)
    sets = plan_sets(planted.prompts, planted.before, planted.after, HEADS, config)
    assert sets.num_rows == 0 and distinct_sets(sets) == [] and most_sets(12, config) == 0
    nothing = Measured(*(np.zeros((len(planted.prompts.measuring), 0)) for _ in range(3)))
    table = set_table(planted.prompts, planted.before, planted.after, HEADS, sets, nothing, Drawn("any", 0.5))
    assert table.num_rows == 0 and table.schema.equals(ABLATION)


def test_tasks_are_counted_one_by_one(planted):
    table = task_table(planted.prompts, planted.before, planted.sets, planted.removed, Drawn("balanced", 0.7, RATES))
    assert table.schema.equals(ABLATION_TASKS) and table.num_rows == 36 * 2
    own, sets = planted.prompts.measuring, planted.sets.to_pylist()
    for row in table.to_pylist():
        number = next(
            one["set"]
            for one in sets
            if not one["control"] and all(one[name] == row[name] for name in ("mode", "ranking", "by", "dose"))
        )
        places = [n for n in range(len(own)) if planted.prompts.tasks[planted.prompts.task[own[n]]] == row["task"]]
        change = {n: float(planted.removed.correct[n, number]) - float(planted.before.correct[own[n]]) for n in places}
        assert (row["prompts"], row["files"]) == (len(places), len({planted.prompts.group[own[n]] for n in places}))
        assert row["drawn"] == pytest.approx(np.mean(list(change.values())), abs=1e-6)
        assert row["unedited"] == pytest.approx(np.mean([planted.before.correct[own[n]] for n in places]))
        natural = sum(
            weight * np.mean([value for n, value in change.items() if planted.before.correct[own[n]] == right])
            for right, weight in ((True, RATES[row["task"]]), (False, 1 - RATES[row["task"]]))
        )
        assert row["natural"] == pytest.approx(natural, abs=1e-6)
