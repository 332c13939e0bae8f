"""Rankings, the sets that are removed, and what is left: compared with plain loops and DuckDB."""

from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.answers import Drawn
from apmae.analyze.effects import Measured, Prompts
from apmae.analyze.pruning import (
    RANDOM,
    even_choice,
    mean_readings,
    most_pruned,
    order_of,
    plan_pruning,
    pruned_heads,
    pruning_doses,
    pruning_table,
    rank_table,
    unknown_shares,
)
from apmae.config import PruneConfig
from apmae.schema import HEAD_READINGS, PRUNED_SETS, PRUNING, RANKED_HEADS

HEADS = [(layer, head) for layer in (0, 2, 3) for head in range(4)]


def readings(seed=0, prompts=5):
    draw = np.random.default_rng(seed)
    rows = [
        {"prompt": prompt, "layer": layer, "head": head, "gradient": draw.random(), "attribution": draw.normal()}
        | {"flow": None if prompt == 1 else draw.random(), "first_token": draw.random()}
        for prompt in range(prompts)
        for layer, head in HEADS
    ]
    return pa.Table.from_pylist(rows, schema=HEAD_READINGS)


def test_scores_are_means_over_prompts():
    table = readings()
    found = mean_readings(table, HEADS)
    query = """SELECT avg(gradient), avg(abs(attribution)), avg(flow), avg(first_token) FROM readings_of
               GROUP BY layer, head ORDER BY layer, head"""
    connection = duckdb.connect()
    connection.register("readings_of", table)
    expected = np.array(connection.sql(query).fetchall())
    names = ("gradient", "attribution", "flow", "first_token")
    np.testing.assert_allclose(np.stack([found[name] for name in names], 1), expected, rtol=1e-6)
    none = mean_readings(table.filter(pa.compute.equal(table["prompt"], 1)), HEADS)
    assert np.isnan(none["flow"]).all() and np.isfinite(none["gradient"]).all()


def test_the_unknown_are_counted_on_the_prompts_asked_for():
    draw = np.random.default_rng(3)
    rows = [
        {"prompt": prompt, "layer": layer, "head": head, "cluster": int(draw.integers(-1, 3))}
        for prompt in range(12)
        for layer, head in [*HEADS[:-1], (4, 0)]
    ]
    study = SimpleNamespace(points=pa.Table.from_pylist(rows))
    found = unknown_shares(study, [0, 3, 7], HEADS)
    for (layer, head), share in zip(HEADS[:-1], found, strict=False):
        own = [r["cluster"] for r in rows if (r["layer"], r["head"]) == (layer, head) and r["prompt"] in (0, 3, 7)]
        assert share == pytest.approx(own.count(-1) / 3)
    assert np.isnan(found[-1]), "the atlas has no pattern of it"


def test_the_least_go_first_but_where_the_most_do():
    score = np.array([3.0, np.nan, 1, 1, 2, 9, 8, 7, 6, 5, 4, 1])
    table = rank_table({"weight": score, "first_token": score, "gradient": score}, HEADS, seed=1)
    assert table.schema.equals(RANKED_HEADS)
    assert list(dict.fromkeys(table["ranking"].to_pylist())) == ["gradient", "first_token", "weight"]
    by = {name: [score[HEADS.index(head)] for head in order_of(table, name)] for name in ("weight", "first_token")}
    assert by["weight"][:-1] == sorted(score[np.isfinite(score)]) and np.isnan(by["weight"][-1])
    assert by["first_token"][:-1] == sorted(score[np.isfinite(score)], reverse=True)
    assert order_of(table, "flow") == []
    orders = {tuple(order_of(rank_table({"weight": score}, HEADS, seed), "weight")[:3]) for seed in range(60)}
    assert len(orders) == 6, "equals come in any order"


def test_doses_are_eighths_or_those_asked_for():
    assert pruning_doses(48, PruneConfig()) == [6, 12, 18, 24, 36]
    assert pruning_doses(4, PruneConfig()) == [1, 2, 3]
    assert pruning_doses(10, PruneConfig(doses=(3, 40))) == [3, 10]


def test_sets_nest_and_random_ones_match_by_layer():
    draw = np.random.default_rng(0)
    ranked = rank_table({"exact": draw.normal(size=12), "weight": draw.random(12)}, HEADS, seed=0)
    config = PruneConfig(doses=(2, 5, 12), draws=3)
    table = plan_pruning(ranked, HEADS, config)
    assert table.schema.equals(PRUNED_SETS)
    rows = table.to_pylist()
    heads = [tuple(zip(row["layers"], row["heads"], strict=True)) for row in rows]
    distinct = pruned_heads(table)
    assert all(distinct[row["set"]] == own for row, own in zip(rows, heads, strict=True))
    assert len(set(distinct)) == len(distinct) <= most_pruned(12, 2, config) == 2 * (2 * 4 + 3) + 1
    counts = {}
    for row, own in zip(rows, heads, strict=True):
        assert len(set(own)) == len(own) == row["dose"] and list(own) == sorted(own)
        counts.setdefault((row["ranking"], row["dose"], row["control"]), []).append((row, own))
    for ranking in ("exact", "weight"):
        order = order_of(ranked, ranking)
        for dose in (2, 5):
            ((_, chosen),) = counts[ranking, dose, ""]
            assert set(chosen) == set(order[:dose])
            layers = sorted(layer for layer, _ in chosen)
            for _, own in counts[ranking, dose, "layers"]:
                assert sorted(layer for layer, _ in own) == layers
        assert set(counts[ranking, 12, ""][0][1]) == set(HEADS)
        assert (ranking, 12, "layers") not in counts, "all heads have no control"
    assert [len(counts[RANDOM, dose, ""]) for dose in (2, 5)] == [3, 3]
    assert len({own for _, own in counts[RANDOM, 5, ""]}) == 3


@pytest.fixture(scope="module")
def measured():
    """Twelve files of four prompts, ten of them measuring, balanced; removal loses answers in some files."""
    draw = np.random.default_rng(5)
    many = 48
    group = np.repeat(np.arange(12), 4)
    prompts = Prompts(np.arange(many), np.arange(many) % 2, ("a", "b"), group, 12, group < 2)
    before = Measured(-draw.random(many), draw.random(many) < 0.6, draw.random(many))
    ranked = rank_table({"exact": draw.normal(size=12)}, HEADS, seed=0)
    sets = plan_pruning(ranked, HEADS, PruneConfig(doses=(2, 5), draws=2))
    own = prompts.measuring
    count = len(pruned_heads(sets))
    correct = before.correct[own][:, None] & (draw.random((len(own), count)) < 0.8)
    after = Measured(-draw.random((len(own), count)), correct, draw.random((len(own), count)))
    return prompts, before, sets, after


def by_leaving_out(figure, group):
    """A figure of rows with its jackknife error over groups, by plain loops."""
    names = sorted(set(group.tolist()))
    without = np.array([figure(group != name) for name in names])
    return figure(group == group), np.sqrt((len(names) - 1) / len(names) * ((without - without.mean()) ** 2).sum())


def test_what_is_kept_is_a_ratio_with_errors_over_files(measured):
    prompts, before, sets, after = measured
    table = pruning_table(prompts, before, sets, after, Drawn("any", 0.6))
    assert table.schema.equals(PRUNING)
    own = prompts.measuring
    base, group = before.correct[own], prompts.group[own]
    row = next(r for r in table.to_pylist() if (r["ranking"], r["dose"], r["control"]) == ("exact", 2, ""))
    number = next(r["set"] for r in sets.to_pylist() if (r["ranking"], r["dose"], r["control"]) == ("exact", 2, ""))
    kept, error = by_leaving_out(lambda rows: after.correct[rows, number].mean() / base[rows].mean(), group)
    assert row["kept"] == pytest.approx(kept) == row["kept_natural"]
    from scipy.stats import t

    quantile = t.ppf(0.975, len(set(group)) - 1)
    assert row["kept_high"] - row["kept"] == pytest.approx(quantile * error, rel=1e-5)
    assert row["kept_all_low"] < row["kept_low"] < row["kept_high"] < row["kept_all_high"]
    level, error = by_leaving_out(lambda rows: after.correct[rows, number].mean(), group)
    assert (row["drawn"], row["drawn"] - row["drawn_low"]) == pytest.approx((level, quantile * error), rel=1e-5)
    change = (after.log_probability[:, number] - before.log_probability[own]).mean()
    assert row["log_probability"] == pytest.approx(change, rel=1e-5)


def test_controls_are_means_of_draws_and_differences_from_the_ranked(measured):
    prompts, before, sets, after = measured
    drawn = Drawn("balanced", 0.8, {"a": 0.9, "b": 0.7})
    rows = pruning_table(prompts, before, sets, after, drawn).to_pylist()
    listed = sets.to_pylist()
    own = prompts.measuring
    base, task = before.correct[own], prompts.task[own]

    def numbers(control):
        return [r["set"] for r in listed if (r["ranking"], r["dose"], r["control"]) == ("exact", 5, control)]

    row = next(r for r in rows if (r["ranking"], r["dose"], r["control"]) == ("exact", 5, "layers"))
    draws = after.correct[:, numbers("layers")].mean(1)
    assert row["sets"] == 2 and row["drawn"] == pytest.approx(draws.mean())
    chosen = after.correct[:, numbers("")[0]]
    assert row["drawn_beyond"] == pytest.approx((chosen - draws).mean())
    natural, total = 0.0, 0.0
    for place, rate in enumerate((0.9, 0.7)):
        for outcome, weight in ((True, rate), (False, 1 - rate)):
            rows_of = (task == place) & (base == outcome)
            natural += (task == place).mean() * weight * draws[rows_of].mean()
            total += (task == place).mean() * weight * outcome
    assert row["natural"] == pytest.approx(natural)
    assert row["kept_natural"] == pytest.approx(natural / total)
    balanced = (draws[base].mean() + draws[~base].mean()) / 2
    assert row["balanced"] == pytest.approx(balanced)
    random = next(r for r in rows if (r["ranking"], r["dose"]) == (RANDOM, 5))
    assert random["sets"] == 2 and random["drawn_beyond"] is None
    unknown = pruning_table(prompts, before, sets, after, Drawn("unknown", None)).to_pylist()
    assert all(r["natural"] is None and r["kept_natural"] is None for r in unknown)


def test_an_even_choice_is_whole_groups_alike_in_each_layer():
    draw = np.random.default_rng(2)
    order = [HEADS[place] for place in draw.permutation(12)]
    counts, groups = dict.fromkeys((0, 2, 3), 4), dict.fromkeys((0, 2, 3), 2)
    less, more = even_choice(order, counts, groups, 7)
    assert len(less) == 6 and more == []
    for layer in counts:
        pairs = [[(layer, 0), (layer, 1)], [(layer, 2), (layer, 3)]]
        first = min(pairs, key=lambda pair: sum(order.index(head) for head in pair))
        assert [head for head in less if head[0] == layer] == first
    assert even_choice(order, counts, groups, 6) == (less, less)
    assert even_choice(order, counts, groups, 2) == ([], less)
    each, _ = even_choice(order, counts, dict.fromkeys(counts, 1), 3)
    assert sorted(each) == sorted(min((h for h in HEADS if h[0] == layer), key=order.index) for layer in counts)
