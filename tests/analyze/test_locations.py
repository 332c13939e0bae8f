import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.analyze.locations import clustering, head_grid, prompt_grid, task_locations
from apmae.artifacts import read_manifest, read_table
from apmae.schema import POINTS

LAYERS, HEADS = 3, 4
ROWS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, LAYERS - 1),
        st.integers(0, HEADS - 1),
        st.sampled_from(["eol", "identifier", "random"]),
        st.sampled_from(["correct", "incorrect"]),
        st.integers(-1, 3),
    ),
    max_size=40,
)


def table(rows):
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 6
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, POINTS, strict=False)]
    coordinates = pa.array([[0.0] * 4] * len(rows), POINTS.field("coordinates").type)
    return pa.Table.from_arrays([*arrays, coordinates], schema=POINTS)


@pytest.fixture(scope="module")
def real_points(real_study):
    return read_table(real_study.folder / "atlas" / "points.parquet")


@pytest.fixture(params=["real", "scattered"])
def points(request, real_points):
    if request.param == "real":
        return real_points
    draw = np.random.default_rng(0)
    shuffled = pa.array(draw.integers(-1, 6, size=real_points.num_rows).astype(np.int32))
    return real_points.set_column(5, POINTS.field("cluster"), shuffled)


def by_sets(points):
    """Table 5 in sets of plain Python."""
    seen = {}
    for row in points.select(["task", "outcome", "cluster", "layer", "head"]).to_pylist():
        outcomes = seen.setdefault(row["task"], {})
        if row["cluster"] >= 0:
            outcomes.setdefault((row["cluster"], row["layer"], row["head"]), set()).add(row["outcome"])
    found = {}
    for task, own in seen.items():
        only = set(own).difference(*(set(others) for name, others in seen.items() if name != task))
        kinds = [own[place] for place in only]
        found[task] = (
            len(own),
            len(only),
            *map(kinds.count, ({"correct"}, {"incorrect"}, {"correct", "incorrect"})),
        )
    return found


def test_locations_are_what_sets_of_them_count(points):
    found = {row.task: tuple(row[1:]) for row in task_locations(points)}
    counted = by_sets(points)
    assert any(counts[0] for counts in counted.values())
    assert found == counted


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_any_points_are_counted_as_sets_do_and_the_shares_add_up(rows):
    rows = list({(row[0], row[1], row[2]): row for row in rows}.values())  # a head has one pattern per prompt
    asked = {row[0]: row[3:5] for row in rows}
    rows = [(*row[:3], *asked[row[0]], row[5]) for row in rows]  # and a prompt has one task and outcome
    points = table(rows)
    found = task_locations(points)
    assert [row.task for row in found] == list(dict.fromkeys(row[3] for row in sorted(rows, key=lambda row: row[0])))
    counted = by_sets(points)
    for row in found:
        assert tuple(row[1:]) == counted[row.task]
        assert row.correct + row.incorrect + row.overlap == row.unique <= row.total


def test_without_outcomes_locations_are_not_split_by_them():
    rows = [(0, 0, 1, "eol", None, 2), (1, 0, 1, "random", None, 2), (1, 1, 3, "random", None, 0)]
    assert [counts[1:] for counts in task_locations(table(rows))] == [
        (1, 0, None, None, None),
        (2, 1, None, None, None),
    ]


def test_a_location_is_a_cluster_layer_and_head():
    rows = [
        (0, 0, 1, "eol", "correct", 2),
        (1, 0, 1, "eol", "incorrect", 2),  # the same place: overlap
        (0, 1, 0, "eol", "correct", 2),  # layer and head swapped
        (1, 0, 2, "eol", "incorrect", 1),  # another cluster
        (0, 2, 2, "eol", "correct", 3),
        (2, 2, 2, "random", "correct", 3),  # in two tasks: unique in neither
        (2, 2, 3, "random", "correct", -1),  # noise is not a location
    ]
    eol, random = task_locations(table(rows))
    assert eol == ("eol", 4, 3, 1, 1, 1)
    assert random == ("random", 1, 0, 0, 0, 0)


def test_chunks_do_not_matter(real_points):
    pieces = pa.concat_tables([real_points.slice(start, 100) for start in range(0, real_points.num_rows, 100)])
    assert task_locations(pieces) == task_locations(real_points.combine_chunks())
    for ours, theirs in zip(head_grid(pieces, 6, 8), head_grid(real_points, 6, 8), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clusters_and_their_share_are_counted(points):
    with duckdb.connect() as database:
        database.register("points", points)
        clusters, clustered, total = database.execute(
            "SELECT count(DISTINCT cluster) FILTER (cluster >= 0), count(*) FILTER (cluster >= 0), count(*) FROM points"
        ).fetchone()
    found = clustering(points)
    assert (found.clusters, found.clustered, found.total) == (clusters, clustered, total)
    assert found.share == clustered / total
    assert clustering(table([])) == (0, 0, 0)
    assert clustering(table([])).share == 0


def test_the_grid_of_heads_is_what_sql_counts(points, real_study):
    counts = read_manifest(real_study.folder / "atlas", "cluster").counts
    grid = head_grid(points, counts["layers"], counts["heads"])
    with duckdb.connect() as database:
        database.register("points", points)
        rows = database.execute(
            "SELECT layer, head, avg((cluster >= 0)::INT), count(DISTINCT cluster) FILTER (cluster >= 0) "
            "FROM points GROUP BY ALL"
        ).fetchall()
    assert len(rows) == grid.clustered.size
    for layer, head, share, distinct in rows:
        assert grid.clustered[layer, head] == pytest.approx(share)
        assert grid.distinct[layer, head] == distinct
        own = np.array([r["cluster"] for r in points.to_pylist() if (r["layer"], r["head"]) == (layer, head)])
        values, often = np.unique(own, return_counts=True)
        assert often[values == grid.main_cluster[layer, head]] == often.max()


def test_a_head_that_was_never_captured_has_no_values():
    grid = head_grid(table([(0, 1, 2, "eol", "correct", 3), (1, 1, 2, "eol", "correct", -1)]), LAYERS, HEADS)
    assert grid.clustered[1, 2] == 0.5
    assert (grid.distinct[1, 2], grid.distinct.sum()) == (1, 1)
    assert np.isnan(grid.clustered).sum() == LAYERS * HEADS - 1
    assert (np.delete(grid.main_cluster.ravel(), HEADS + 2) == -1).all()


@given(ROWS)
def test_the_grid_of_a_prompt_holds_its_points(rows):
    unique = {row[:3]: row for row in rows}
    points = table(list(unique.values()))
    for prompt in {row[0] for row in rows} | {99}:
        grid = prompt_grid(points, prompt, LAYERS, HEADS)
        for layer in range(LAYERS):
            for head in range(HEADS):
                row = unique.get((prompt, layer, head))
                assert grid[layer, head] == (row[5] if row else -2)
