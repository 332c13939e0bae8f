import pyarrow as pa
import pyarrow.parquet as pq

from apmae.analyze.database import columns_of, over


def test_several_files_are_one_view_beside_a_table(tmp_path):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for number, file in enumerate(files):
        pq.write_table(pa.table({"x": [number, number + 10]}), file)
    with over(parts=files, whole=pa.table({"x": [10, 11]})) as found:
        rows = columns_of(found, "SELECT x, count(*) AS n FROM parts JOIN whole USING (x) GROUP BY x ORDER BY x")
    assert rows["x"].tolist() == [10, 11] and rows["n"].tolist() == [1, 1]


def test_a_path_is_not_a_pattern(tmp_path):
    for number, name in enumerate(("a[1]", "a1", "run*", "run1", "what?", "whats")):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"x": [number]}), tmp_path / name / "points.parquet")
    for number, name in ((0, "a[1]"), (2, "run*"), (4, "what?")):
        with over(points=[tmp_path / name / "points.parquet"]) as found:
            assert columns_of(found, "SELECT x FROM points")["x"].tolist() == [number]


def test_what_does_not_fit_into_memory_is_not_left_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with over() as found:
        found.execute("SET memory_limit = '60MB'; SET threads = 1")
        query = "SELECT count(*) AS n FROM (SELECT DISTINCT range AS r, hash(range) AS h FROM range(2000000))"
        assert columns_of(found, query)["n"].tolist() == [2_000_000]
    assert list(tmp_path.iterdir()) == []
