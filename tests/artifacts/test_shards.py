"""Shards are made by workers and journalled by the driver alone."""

import json

import pyarrow as pa
import pytest

from apmae.artifacts import Stage, cut, missing, read_tables, run_shards, write_tables


def open_stage(out):
    return Stage.open(out, "encode", {"seed": 0}, {})


def work_in(root, made=None):
    """Writes the numbers of a shard's items into its files."""

    def work(shard):
        if made is not None:
            made.append(shard.number)
        items = pa.table({"x": list(range(shard.first, shard.stop))})
        return write_tables(root, dict.fromkeys(shard.files, items))

    return work


def test_items_are_cut_into_shards_of_one_size_but_the_last():
    shards = cut(7, 3, ("a", "b"))
    assert [(shard.first, shard.stop, len(shard)) for shard in shards] == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert shards[1].files == ("a-00001.parquet", "b-00001.parquet")
    assert cut(0, 3, ("a",)) == []
    assert [len(shard) for shard in cut(6, 3, ("a",))] == [3, 3]


def test_every_shard_is_made_once_and_in_any_order(tmp_path):
    made = []
    with open_stage(tmp_path / "out") as stage:
        shards = cut(10, 4, ("a", "b"))
        run_shards(stage, reversed(shards), work_in(stage.root, made))
        assert made == [2, 1, 0]
        run_shards(stage, shards, work_in(stage.root, made))
        assert made == [2, 1, 0]
        stage.finish()
    for name in ("a", "b"):
        assert read_tables(tmp_path / "out", "encode", name)["x"].to_pylist() == list(range(10))


def test_a_worker_that_was_stopped_leaves_no_line_in_the_journal(tmp_path):
    """Files that are there but of which the driver was told nothing are made again."""
    shards = cut(6, 2, ("a",))

    def stopped(shard):
        records = work_in(tmp_path / "out")(shard)
        if shard.number == 1:
            raise KeyboardInterrupt
        return records

    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "out") as stage:
        run_shards(stage, shards, stopped)
    assert (tmp_path / "out" / "a-00001.parquet").is_file()
    lines = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert [list(line["files"]) for line in lines[1:]] == [["a-00000.parquet"]]
    with open_stage(tmp_path / "out") as stage:
        assert [shard.number for shard in missing(stage, shards)] == [1, 2]


def test_a_worker_that_made_other_files_than_its_shards_is_a_bug(tmp_path):
    with pytest.raises(AssertionError, match="shard 0 is"), open_stage(tmp_path / "out") as stage:
        run_shards(
            stage, cut(2, 2, ("a",)), lambda shard: write_tables(stage.root, {"c.parquet": pa.table({"x": [1]})})
        )
