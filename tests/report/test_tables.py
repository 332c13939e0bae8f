"""Tables against the same numbers counted by DuckDB and by hand."""

import csv
import io

import duckdb
import pyarrow as pa
import pytest

from apmae.report import tables
from apmae.report.tables import Table, describe_heads
from apmae.study.reader import Study


@pytest.fixture(scope="module")
def db(folder):
    connection = duckdb.connect()
    connection.execute(f"create view points as from read_parquet('{folder}/atlas/points.parquet')")
    connection.execute(f"create view clusters as from read_parquet('{folder}/atlas/clusters.parquet')")
    connection.execute(f"create view prompts as from read_parquet('{folder}/embeddings/prompts-*.parquet')")
    yield connection
    connection.close()


def test_table_4(study, db):
    query = """select count(distinct cluster) filter (cluster >= 0), count(*) filter (cluster >= 0), count(*),
               100.0 * count(*) filter (cluster >= 0) / count(*) from points"""
    assert tables.clustering_table(study).rows[0] == pytest.approx(db.execute(query).fetchone())


def test_table_5(study, db):
    query = """
    with places as (select distinct task, cluster, layer, head from points where cluster >= 0),
    own as (select cluster, layer, head, min(task) as task from places group by all having count(distinct task) = 1),
    sides as (select own.task, bool_or(outcome = 'correct') as r, bool_or(outcome <> 'correct') as w
              from own join points using (cluster, layer, head) group by own.task, cluster, layer, head)
    select task, (select count(*) from places p where p.task = t.task),
           (select count(*) from sides s where s.task = t.task),
           (select count(*) from sides s where s.task = t.task and r and not w),
           (select count(*) from sides s where s.task = t.task and w and not r),
           (select count(*) from sides s where s.task = t.task and r and w)
    from (select distinct task from points) t"""
    expected = {row[0]: row[1:] for row in db.execute(query).fetchall()}
    found = tables.locations_table(study)
    assert found.header == ("count", "closing_bracket", "eol", "identifier", "random")  # the paper's order
    assert found.column("count") == ["total", "unique", "correct", "incorrect", "overlap"]
    for task in found.header[1:]:
        assert tuple(found.column(task)) == expected[task]


def test_table_5_by_hand(tmp_path, write_study):

    study = Study(write_study(tmp_path, prompts=8, layers=1, heads=2))
    rows = [
        # task, outcome, cluster, layer, head
        ("eol", "correct", 0, 0, 0),
        ("eol", "incorrect", 0, 0, 0),  # overlap
        ("eol", "correct", 1, 0, 0),
        ("eol", "incorrect", 1, 0, 1),
        ("eol", "correct", 2, 0, 0),  # shared with random
        ("random", "correct", 2, 0, 0),
        ("random", "correct", -1, 0, 1),  # noise is no location
    ]
    columns = dict(zip(("task", "outcome", "cluster", "layer", "head"), zip(*rows, strict=True), strict=True))
    study.__dict__["points"] = pa.table({**{k: list(v) for k, v in columns.items()}, "prompt": list(range(7))})
    found = tables.locations_table(study)
    assert found.column("eol") == [4, 3, 1, 1, 1]
    assert found.column("random") == [1, 0, 0, 0, 0]


def test_cluster_table(study, db):
    query = """select c.cluster, c.name, count(*), count(*) / (select count(*) from points)
               from clusters c join points using (cluster) group by all order by c.cluster"""
    found = tables.clusters_table(study)
    assert [row[:4] for row in found.rows] == [pytest.approx(row) for row in db.execute(query).fetchall()]
    assert found.column("size") == sorted(found.column("size"), reverse=True)
    places = """select layer || '.' || head || ' (' || cast(round(100.0 * count(*) / (select count(*) from points
                where cluster = ?)) as int) || '%)' from points where cluster = ? group by layer, head
                having count(*) >= 0.01 * (select count(*) from points where cluster = ?)
                order by count(*) desc, layer, head limit 3"""
    for cluster, where in zip(found.column("cluster"), found.column("where"), strict=True):
        assert where == ", ".join(row[0] for row in db.execute(places, [cluster] * 3).fetchall())


def test_outcome_table(study, db):
    query = """select task, count(*), count(*) filter (outcome = 'correct'), count(*) filter (outcome <> 'correct'),
               avg((outcome = 'correct')::int), avg(max_probability) from prompts group by task"""
    expected = {row[0]: row for row in db.execute(query).fetchall()}
    found = tables.outcomes_table(study)
    for row in found.rows[:-1]:
        assert row == pytest.approx(expected[row[0]])
    assert len(found.rows) == len(expected) + 1
    everything = db.execute(query.replace("task,", "'all',").replace("group by task", "")).fetchone()
    assert found.rows[-1] == pytest.approx(everything)


def test_what_an_encoder_does_not_answer_is_empty(encoder_study):
    outcomes, locations = tables.outcomes_table(encoder_study), tables.locations_table(encoder_study)
    assert [row[1:] for row in outcomes.rows] == [(10, None, None, None, None)] * 4 + [(40, None, None, None, None)]
    for task in locations.header[1:]:
        total, unique, *by_outcome = locations.column(task)
        assert total >= unique >= 0
        assert by_outcome == [None] * 3


def test_head_table(study, db):
    query = """
    with counted as (select layer, head, cluster, count(*) as n from points group by all),
    ranked as (select *, row_number() over (partition by layer, head order by n desc, cluster) as place,
               sum(n) over (partition by layer, head) as total from counted)
    select layer, head, total, nullif(cluster, -1), coalesce(name, 'unknown'), n / total,
           (select coalesce(sum(n), 0) from counted c where c.layer = r.layer and c.head = r.head and c.cluster >= 0)
               / total,
           (select count(*) from counted c where c.layer = r.layer and c.head = r.head and c.cluster >= 0),
           case unstable when true then 'no' when false then 'yes' else '' end
    from ranked r left join clusters using (cluster) where place = 1 order by layer, head"""
    expected = db.execute(query).fetchall()
    found = tables.heads_table(study)
    assert len(found.rows) == len(expected) == 8
    for row, wanted in zip(found.rows, expected, strict=True):
        assert (row[3:5], row[8]) == (wanted[3:5], wanted[8])
        assert [*row[:3], *row[5:8]] == pytest.approx([*wanted[:3], *wanted[5:8]])
    assert found.rows[-1][3:6] == (None, "unknown", 1.0)
    assert {row[8] for row in found.rows} == {"yes", "no", ""}


def test_names_of_several_clusters_are_taken_together():
    rows = ((0, "sink", 0.2), (1, "self", 0.3), (2, "sink", 0.15))
    clusters = Table(name="clusters", header=("cluster", "name", "share"), rows=rows)
    assert tables.shares_of_names(clusters) == [("sink", 2, pytest.approx(0.35)), ("self", 1, 0.3)]


def typed(text, kinds):
    """A cell of a CSV in the type of its column; an empty one is None, unless the column is text."""
    (kind,) = kinds
    return None if text == "" and kind is not str else kind(text)


def test_csv_comes_back(study, tmp_path):
    for table in (tables.clusters_table(study), tables.heads_table(study), tables.outcomes_table(study)):
        table.write_csv(tmp_path / f"{table.name}.csv")
        with (tmp_path / f"{table.name}.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert tuple(header) == table.header
        kinds = [{type(cell) for cell in column} - {type(None)} for column in zip(*table.rows, strict=True)]
        back = [tuple(map(typed, row, kinds)) for row in rows]
        assert back == list(table.rows)


def test_csv_keeps_any_text():
    nasty = 'a,"b"\nc;\t\u2603'
    table = Table(name="x", header=("text", "empty"), rows=((nasty, None),))
    assert list(csv.reader(io.StringIO(table.csv().decode(), newline=""))) == [["text", "empty"], [nasty, ""]]
    assert Table(name="x", header=("text",), rows=(("\ud800",),)).csv() == b"text\n\\ud800\n"


def test_duckdb_reads_the_csv_with_its_types(report, db):
    # The quoting is given: a cluster named "columns on ';'" makes the sniffer guess wrong.
    source = f"""read_csv('{report.parent}/tables/clusters.csv', header=true, delim=',', quote='"', escape='"')"""
    found = db.execute(f"select sum(size), avg(share) from {source}").fetchone()
    assert found == pytest.approx(db.execute("select sum(size), avg(size) / 320 from clusters").fetchone())


def test_how_many_heads_in_words():
    assert describe_heads([8] * 6) == "6 \u00d7 8 heads"
    assert describe_heads([0, 4, 0, 4]) == "8 heads in 2 of 4 layers"
    assert describe_heads([4, 2]) == "6 heads in 2 layers"
    assert describe_heads([0, 4, 2]) == "6 heads in 2 of 3 layers"
