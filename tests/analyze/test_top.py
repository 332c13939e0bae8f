"""Top prompts against plain loops over the same files, on the real study and on tables of values made by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apmae.analyze.top import decile_of, drawn_ranks, prompts_of, top_prompts, values_of
from apmae.artifacts import read_table, read_tables
from apmae.config import TopConfig
from apmae.errors import ConfigError
from apmae.schema import POINTS_FILE, TOP, TOP_HEADS
from apmae.study.reader import Study


@pytest.fixture(scope="module")
def study(real_study):
    return Study(real_study.folder)


@pytest.fixture(scope="module")
def points(study):
    return read_table(study.atlas_folder / POINTS_FILE).to_pylist()


@pytest.fixture(scope="module")
def encoded(study):
    columns = ["prompt", "layer", "head", "sinks", "score_induction", "score_later_sink"]
    return read_tables(study.embeddings_folder, "encode", "embeddings", columns).to_pylist()


def by_head(values):
    """Prompts of each head, those with the largest value first."""
    found = {}
    for (prompt, layer, head), value in values.items():
        if value is not None and np.isfinite(value):
            found.setdefault((layer, head), []).append((-value, prompt))
    return {place: [(prompt, -value) for value, prompt in sorted(own)] for place, own in found.items()}


def strengths(points):
    """By the definition: a mean, distances to it, and their mean."""
    members, found = {}, {}
    for row in points:
        members.setdefault(row["cluster"], []).append(row)
    for cluster, rows in members.items():
        places = np.array([row["coordinates"] for row in rows], np.float64)
        far = np.linalg.norm(places - places.mean(0), axis=1)
        for row, d in zip(rows, far, strict=True):
            key = row["prompt"], row["layer"], row["head"]
            found[key] = None if cluster < 0 else far.mean() / (far.mean() + d)
    return found


def scored(encoded, name):
    return {(row["prompt"], row["layer"], row["head"]): row[f"score_{name}"] for row in encoded}


@pytest.mark.parametrize("by", ["induction", "later_sink", "strength"])
def test_rows_are_those_of_plain_loops(study, points, encoded, by):
    values = strengths(points) if by == "strength" else scored(encoded, by)
    config = TopConfig(by=by, count=3, per_decile=1, seed=5)
    chosen = top_prompts(study, config)
    assert chosen.rows.schema.equals(TOP) and chosen.heads.schema.equals(TOP_HEADS)
    ordered, every = by_head(values), [v for v in values.values() if v is not None and np.isfinite(v)]
    place = {(row["prompt"], row["layer"], row["head"]): row for row in points}
    sinks = {(row["prompt"], row["layer"], row["head"]): row["sinks"] for row in encoded}
    rows = chosen.rows.to_pylist()
    assert {(row["layer"], row["head"]) for row in rows} == ordered.keys()
    for row in rows:
        own = ordered[row["layer"], row["head"]]
        key = row["prompt"], row["layer"], row["head"]
        assert row["value"] == pytest.approx(values[key], abs=2e-5)
        larger = sum(value > row["value"] + 2e-5 for _, value in own)
        assert larger < row["rank"] <= sum(value >= row["value"] - 2e-5 for _, value in own)
        assert row["top"] == (row["rank"] <= 3) and (row["top"] or row["drawn"])
        assert (row["decile"] - 1) * len(own) <= 10 * (len(own) - row["rank"]) < row["decile"] * len(own)
        least, most = (np.mean([value >= row["value"] + slack for value in every]) for slack in (2e-5, -2e-5))
        assert least - 1e-6 <= row["share"] <= most + 1e-6
        assert all(row[name] == place[key][name] for name in ("task", "outcome", "cluster"))
        assert row["sinks"] == sinks[key]
    for own in ordered:
        mine = [row for row in rows if (row["layer"], row["head"]) == own]
        assert [row["rank"] for row in mine] == sorted({row["rank"] for row in mine})
        assert sum(row["top"] for row in mine) == min(3, len(ordered[own]))
        tenths = {10 * (len(ordered[own]) - rank) // len(ordered[own]) for rank in range(1, len(ordered[own]) + 1)}
        assert sorted(row["decile"] - 1 for row in mine if row["drawn"]) == sorted(tenths)
    assert prompts_of(chosen.rows) == sorted({row["prompt"] for row in rows})


def test_the_distribution_is_that_of_numpy(study, encoded):
    values = scored(encoded, "induction")
    every, *heads = top_prompts(study, TopConfig(by="induction")).heads.to_pylist()
    names = {"smallest": 0, "q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9, "largest": 1}
    medians = {}
    for row in [every, *heads]:
        own = [v for (_, *at), v in values.items() if row["layer"] is None or at == [row["layer"], row["head"]]]
        known = [value for value in own if np.isfinite(value)]
        assert (row["patterns"], row["measured"]) == (len(own), len(known))
        for name, share in names.items():
            assert row[name] == pytest.approx(np.quantile(known, share), rel=1e-5)
        medians[row["layer"], row["head"]] = np.quantile(known, 0.5)
    assert every["above"] is None and len(heads) == 48
    for row in heads:
        others = [value for at, value in medians.items() if at not in ((None, None), (row["layer"], row["head"]))]
        assert row["above"] == pytest.approx(np.mean([medians[row["layer"], row["head"]] > value for value in others]))


def table_of(points, value):
    """A table of values: of each pattern for which ``value`` returns one."""
    rows = [{name: row[name] for name in ("prompt", "layer", "head")} | {"effect": value(row)} for row in points]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_table_of_ones_own_orders_prompts_too(study, points, tmp_path, on_disk):
    table = table_of(points, lambda row: float(-row["prompt"]) if row["layer"] == 2 else None)
    if on_disk:
        pq.write_table(table, tmp_path / "effects.parquet")
        table = tmp_path / "effects.parquet"
    chosen = top_prompts(study, TopConfig(by="effect", count=2, per_decile=0), table)
    rows = chosen.rows.to_pylist()
    assert [(row["layer"], row["head"], row["prompt"]) for row in rows] == [
        (2, head, prompt) for head in range(8) for prompt in (0, 1)
    ]
    silent = [row for row in chosen.heads.to_pylist() if row["layer"] not in (None, 2)]
    assert len(silent) == 40 and all(row["measured"] == 0 and row["median"] is row["above"] is None for row in silent)


def test_chosen_heads_are_set_against_all(study):
    every = top_prompts(study, TopConfig(by="induction"))
    some = top_prompts(study, TopConfig(by="induction", heads=((3, 5), (0, 1))))
    keep = [(row["layer"], row["head"]) in ((3, 5), (0, 1)) for row in every.rows.to_pylist()]
    assert some.heads.equals(every.heads) and some.rows.equals(every.rows.filter(pa.array(keep)))


def test_equal_values_are_ordered_by_prompt(study, points):
    table = table_of(points, lambda row: 1.0)
    rows = top_prompts(study, TopConfig(by="effect", count=3, per_decile=0), table).rows.to_pylist()
    assert all(row["prompt"] == row["rank"] - 1 and row["share"] == 1 for row in rows)


@pytest.mark.parametrize("measured", [0, 1, 7, 10, 23])
def test_each_tenth_is_drawn_from(measured):
    drawn = [decile_of(rank, measured) for rank in drawn_ranks(measured, 2, (0, "decile", 1, 2))]
    sizes = {tenth: 0 for tenth in range(1, 11)}
    for rank in range(1, measured + 1):
        sizes[decile_of(rank, measured)] += 1
    assert all(drawn.count(tenth) == min(2, size) for tenth, size in sizes.items())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert drawn_ranks(measured, 2, (0, "decile", 1, 2)) == drawn_ranks(measured, 2, (0, "decile", 1, 2))
    if measured == 23:
        assert len({tuple(drawn_ranks(23, 2, (seed, "decile", 1, 2))) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("by", "value", "said"),
    [
        ("loudness", None, "expected strength or a score, one of first_token, .*, got 'loudness'"),
        ("other", lambda row: 1.0, "columns prompt, layer, head and other in the table of values, other is missing"),
        ("effect", lambda row: "high", "expected a Parquet table with numbers in column effect"),
        ("effect", lambda row: float("nan"), "expected effect of any head on at least one prompt"),
    ],
)
def test_values_that_cannot_order_are_refused(study, points, by, value, said):
    table = None if value is None else table_of(points, value)
    with pytest.raises(ConfigError, match=said):
        top_prompts(study, TopConfig(by=by), table)


def test_values_of_other_patterns_and_several_of_one_are_refused(study, points, tmp_path):
    table = table_of(points, lambda row: 1.0)
    other = pa.table({"prompt": [0, 999], "layer": [0, 0], "head": [0, 1], "effect": [1.0, 2.0]})
    with pytest.raises(ConfigError, match=r"the table of values, 1 rows are of no pattern of .*study"):
        values_of(study, "effect", other)
    with pytest.raises(ConfigError, match=r"48 patterns have several"):
        values_of(study, "effect", pa.concat_tables([table, table.slice(0, 48)]))
    with pytest.raises(ConfigError, match=r"a Parquet table of values at .*none\.parquet, found none"):
        values_of(study, "effect", Path(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("prompt,layer\n")
    with pytest.raises(ConfigError, match=r"text\.parquet has none"):
        values_of(study, "effect", tmp_path / "text.parquet")


def test_heads_without_values_are_refused(study, points):
    table = table_of([row for row in points if row["layer"] == 1], lambda row: 1.0)
    with pytest.raises(ConfigError, match=r"8 heads have\), 0\.3 has none"):
        top_prompts(study, TopConfig(by="effect", heads=((0, 3),)), table)
    table = table_of(points, lambda row: 1.0 if row["layer"] else None)
    with pytest.raises(ConfigError, match=r"expected effect of 0\.3 on at least one prompt"):
        top_prompts(study, TopConfig(by="effect", heads=((0, 3),)), table)
