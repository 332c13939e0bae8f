"""Rankings, recall, intervals and halves against loops, SQL and figures that follow from how the data were made."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.circuits import (
    FEWEST_GROUPS,
    Measured,
    by_chance,
    circuit_table,
    curve,
    edge_table,
    intervals,
    ranked,
    ranking_of,
    recall_table,
    reliability,
    shortlist_size,
    task_row,
)
from apmae.schema import CIRCUIT, CIRCUIT_EDGES, CIRCUIT_RECALL, CIRCUIT_TASKS, FILTERS

HEADS = [(layer, head) for layer in range(3) for head in range(8)]


@pytest.fixture(scope="module")
def made():
    """Effects that fall off by head, 40 pairs of 20 groups, a filter that knows them and one that knows nothing."""
    draw = np.random.default_rng(0)
    true = np.array([4.0, -3.0, 2.0, 1.5, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, *np.zeros(14)])[draw.permutation(24)]
    groups = [f"file-{number // 2}" for number in range(40)]
    shared = np.repeat(draw.normal(0, 0.3, (20, 24)), 2, axis=0)
    effects = true + shared + draw.normal(0, 0.1, (40, 24))
    scores = {
        "attribution": effects + draw.normal(0, 0.05, (40, 24)),
        "flow": np.abs(true) + draw.normal(0, 0.5, (40, 24)),
        "last_row": draw.random((40, 24)),
        "tags": np.full((40, 24), np.nan),
    }
    return Measured(HEADS, groups, np.full(40, 3.0), draw.normal(-2, 1, 40), scores, effects)


@pytest.mark.parametrize(
    ("share", "heads", "size"), [(0.2, 48, 10), (0.2, 270, 54), (0.2, 5, 1), (0.1, 30, 3), (1.0, 9, 9), (0.001, 48, 1)]
)
def test_a_shortlist_is_rounded_up(share, heads, size):
    assert shortlist_size(share, heads) == size


def test_equal_heads_come_in_a_random_order_and_others_by_size():
    scores = np.array([0.0, 0, -5, 0, 3, 0, 0, np.nan])
    orders = [ranked(scores, seed, "x").tolist() for seed in range(200)]
    assert all(order[:2] == [2, 4] and order[-1] == 7 for order in orders)
    first = np.bincount([order[2] for order in orders], minlength=8)
    assert set(np.flatnonzero(first)) == {0, 1, 3, 5, 6} and first.max() < 80
    assert ranked(scores, 3, "x").tolist() == ranked(scores, 3, "x").tolist() != ranked(scores, 3, "y").tolist()


def test_recall_and_share_by_loops(made):
    table = recall_table("t", made, {"attribution": 4, "flow": 1, "last_row": 1, "tags": 2, "random": 0}, 2, 7)
    assert table.schema.equals(CIRCUIT_RECALL)
    mean = {(at // 8, at % 8): float(np.mean([row[at] for row in made.effects])) for at in range(24)}
    best = sorted(mean, key=lambda head: -abs(mean[head]))
    for name in ("attribution", "flow", "last_row"):
        score = {head: float(np.mean(made.scores[name][:, at])) for at, head in enumerate(HEADS)}
        order = sorted(score, key=lambda head: -abs(score[head]))
        rows = [row for row in table.to_pylist() if row["filter"] == name]
        assert [row["heads"] for row in rows] == list(range(1, 25))
        for row in rows:
            taken = order[: row["heads"]]
            for top in (5, 10):
                hits = sum(head in taken for head in best[:top])
                assert row[f"recall_{top}"] == pytest.approx(hits / top)
            size = sum(abs(mean[head]) for head in taken) / sum(map(abs, mean.values()))
            assert row["share"] == pytest.approx(size, rel=1e-5)
            assert row["forwards"] == {"attribution": 4, "flow": 1, "last_row": 1}[name] + 2 + row["heads"]
    assert "tags" not in table["filter"].to_pylist(), "they were not asked for"
    assert [row["recall_10"] for row in table.to_pylist() if row["filter"] == "attribution"][9] == 1


def test_chance_is_what_random_shortlists_have_on_average(made):
    best, draw = ranked(made.effects.mean(0), 0, "b"), np.random.default_rng(1)
    found = [curve(made.effects.mean(0), draw.permutation(24), best) for _ in range(3000)]
    expected = by_chance(24)
    for top in (5, 10):
        np.testing.assert_allclose(np.mean([own.recall[top] for own in found], 0), expected.recall[top], atol=0.02)
    np.testing.assert_allclose(np.mean([own.share for own in found], 0), expected.share, atol=0.02)
    assert by_chance(8).recall.keys() == {5}, "ten are no top of eight"


def test_intervals_are_over_groups(made):
    """Their standard error by the formula for means of equally large groups; twice as wide as if pairs were apart."""
    low, high = intervals(made.effects, made.groups, 4000, 0)
    means = made.effects.reshape(20, 2, 24).mean(1)
    error = means.std(0, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose((high - low) / 2, 1.96 * error * np.sqrt(19 / 20), rtol=0.12)
    apart = intervals(made.effects, [str(number) for number in range(40)], 2000, 0)
    assert ((high - low) / (apart[1] - apart[0])).mean() > 1.2
    few = intervals(made.effects[:6], made.groups[:6], 100, 0)
    assert len(set(made.groups[:6])) < FEWEST_GROUPS and np.isnan(few).all()


def test_intervals_weigh_groups_by_their_pairs():
    """A group of many pairs counts as many: all draws of it are near its own mean."""
    effects = np.array([[1.0]] * 90 + [[0.0]] * 9)
    groups = ["large"] * 90 + [f"small-{number}" for number in range(9)]
    draw, means = np.random.default_rng(5), []
    for _ in range(4000):
        rows = [row for name in draw.choice(sorted(set(groups)), 10) for row in range(99) if groups[row] == name]
        means.append(effects[rows].mean())
    low, high = intervals(effects, groups, 4000, 1)
    np.testing.assert_allclose([low[0], high[0]], np.quantile(means, [0.025, 0.975]), atol=0.02)


def test_halves_of_the_groups_by_loops():
    draw = np.random.default_rng(2)
    effects = draw.normal(np.linspace(2, 0, 12), 1.0, (12, 12))
    groups = [f"g{number % 6}" for number in range(12)]
    found = reliability(effects, groups, 200, 0)
    tops, shares = {5: [], 10: []}, []
    for _ in range(2000):
        order = draw.permutation(6)
        means = []
        for half in (order[:3], order[3:]):
            rows = [row for row in range(12) if int(groups[row][1:]) in half]
            means.append(np.abs(effects[rows].mean(0)))
        ranks = [np.argsort(-mean) for mean in means]
        for top, kept in tops.items():
            kept.append(len(set(ranks[0][:top]) & set(ranks[1][:top])) / top)
        shares.append(
            np.mean([means[0][ranks[1][:10]].sum() / means[0].sum(), means[1][ranks[0][:10]].sum() / means[1].sum()])
        )
    assert found.top_5 == pytest.approx(np.mean(tops[5]), abs=0.05)
    assert found.top_10 == pytest.approx(np.mean(tops[10]), abs=0.03)
    assert found.share == pytest.approx(np.mean(shares), abs=0.02)
    assert reliability(effects, ["a", "b", "c"] * 4, 10, 0) is None, "three groups have no halves worth comparing"


def test_the_table_of_heads_by_sql(made):
    effects = made.effects.copy()
    effects[:, 16:] = np.nan  # not patched
    some = made._replace(effects=effects)
    shortlist = np.array([0, 3, 20])
    table = circuit_table("t", some, shortlist, 200, 0)
    assert table.schema.equals(CIRCUIT)
    database = duckdb.connect()
    long = pa.table(
        {
            "layer": np.tile([layer for layer, _ in HEADS], 40),
            "head": np.tile([head for _, head in HEADS], 40),
            "effect": effects.reshape(-1),
            "flow": made.scores["flow"].reshape(-1),
        }
    )
    database.register("rows", long)
    query = """
        with means as (
            select layer, head, avg(flow) as flow, avg(effect) filter (not isnan(effect)) as effect
            from rows group by all
        )
        select layer, head, flow, effect, abs(effect) / sum(abs(effect)) over () as share,
            case when effect is not null then row_number() over (order by abs(effect) desc nulls last) end as rank
        from means order by layer, head
    """
    for row, expected in zip(table.to_pylist(), database.execute(query).fetchall(), strict=True):
        assert (row["layer"], row["head"]) == expected[:2]
        assert row["flow"] == pytest.approx(expected[2], rel=1e-5)
        for name, value in zip(("effect", "share", "rank"), expected[3:], strict=True):
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
        assert (row["low"] is None) == (row["effect"] is None) == (row["layer"] == 2)
        assert row["low"] is None or row["low"] < row["effect"] < row["high"]
    assert [at for at, row in enumerate(table.to_pylist()) if row["shortlisted"]] == shortlist.tolist()
    assert table["tags"].null_count == 24


def test_the_row_of_a_task(made):
    row = task_row("t", made, 50, 0)
    assert row.schema.equals(CIRCUIT_TASKS)
    (own,) = row.to_pylist()
    assert (own["pairs"], own["groups"], own["clean"]) == (40, 20, 3.0)
    assert own["fell"] == pytest.approx(np.mean(made.counterfactual < 3)) and 0.5 < own["halves_10"] <= 1
    some = made._replace(effects=np.where(np.arange(24) < 5, made.effects, np.nan))
    assert task_row("t", some, 50, 0).to_pylist()[0]["halves_10"] is None, "of a shortlist there is no ceiling"


def test_edges_by_size(made):
    edges = [((0, 0), (1, 0)), ((0, 0), (2, 0)), ((1, 0), (2, 0))]
    effects = np.array([[0.1, -2.0, 1.0]] * 20 + [[0.3, -1.0, 1.0]] * 20)
    table = edge_table("t", edges, effects, made.groups, 100, 0)
    assert table.schema.equals(CIRCUIT_EDGES)
    rows = table.to_pylist()
    assert [(row["layer"], row["to_layer"]) for row in rows] == [(0, 2), (1, 2), (0, 1)]
    assert rows[0]["effect"] == pytest.approx(-1.5) and rows[0]["low"] < -1.5 < rows[0]["high"]
    assert edge_table("t", [], np.zeros((40, 0)), made.groups, 100, 0).num_rows == 0


def test_filters_rank_by_the_size_of_their_mean(made):
    for name in FILTERS[:3]:
        order = ranking_of(name, made.scores, 24, 0, "t")
        mean = np.abs(made.scores[name].mean(0))[order]
        assert (np.diff(mean) <= 0).all()
    drawn = [tuple(ranking_of("random", {}, 24, seed, "t")) for seed in range(20)]
    assert len(set(drawn)) == 20 and all(sorted(order) == list(range(24)) for order in drawn)
