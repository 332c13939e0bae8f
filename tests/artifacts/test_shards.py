"""Shards are made by workers; only the driver writes the journal."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from apmae.artifacts import Shard, Stage, cut, missing, read_tables, run_shards, write_tables
from apmae.errors import ArtifactError

DRIVERS = {"here": run_shards}
"""Every driver must pass the tests below."""


@pytest.fixture(params=DRIVERS.values(), ids=DRIVERS)
def driver(request):
    return request.param


def open_stage(out):
    return Stage.open(out, "encode", {"seed": 0}, {})


@dataclass(frozen=True)
class Numbers:
    """Writes the numbers of a shard's items to its files. Plain data, so that it can be sent to other processes."""

    root: Path
    log: Path
    """Gets one line per shard that was made."""
    failing: int | None = None
    """The shard whose worker fails after writing its files."""
    other: bool = False
    """Whether to write other files than the shard's."""

    def __call__(self, shard: Shard):
        items = pa.table({"x": list(range(shard.first, shard.stop))})
        records = write_tables(self.root, dict.fromkeys(("c.parquet",) if self.other else shard.files, items))
        with self.log.open("a") as log:
            log.write(f"{shard.number}\n")
        if shard.number == self.failing:
            raise ArtifactError("no room")
        return records

    def made(self):
        """The shards made since the last call, in order."""
        numbers = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sorted(map(int, numbers))


def test_items_are_cut_into_shards_of_one_size_but_the_last():
    shards = cut(7, 3, ("a", "b"))
    assert [(shard.first, shard.stop, len(shard)) for shard in shards] == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert shards[1].files == ("a-00001.parquet", "b-00001.parquet")
    assert cut(0, 3, ("a",)) == []
    assert [len(shard) for shard in cut(6, 3, ("a",))] == [3, 3]


def test_every_shard_is_made_once_and_in_any_order(tmp_path, driver):
    with open_stage(tmp_path / "out") as stage:
        shards, work = cut(10, 4, ("a", "b")), Numbers(stage.root, tmp_path / "log")
        driver(stage, reversed(shards), work)
        assert work.made() == [0, 1, 2]
        driver(stage, shards, work)
        assert work.made() == []
        stage.finish()
    for name in ("a", "b"):
        assert read_tables(tmp_path / "out", "encode", name)["x"].to_pylist() == list(range(10))


def test_run_shards_makes_them_in_the_order_given(tmp_path):
    made = []
    with open_stage(tmp_path / "out") as stage:
        work = Numbers(stage.root, tmp_path / "log")
        run_shards(stage, reversed(cut(10, 4, ("a",))), lambda shard: made.append(shard.number) or work(shard))
    assert made == [2, 1, 0]


def test_a_shard_whose_worker_failed_is_not_in_the_journal_and_is_made_again(tmp_path, driver):
    """Its files may be there, but the driver was not given their records. The worker's error comes out unchanged."""
    shards, work = cut(6, 2, ("a",)), Numbers(tmp_path / "out", tmp_path / "log")
    with pytest.raises(ArtifactError, match="no room"), open_stage(tmp_path / "out") as stage:
        driver(stage, shards, Numbers(stage.root, work.log, failing=1))
    assert (tmp_path / "out" / "a-00001.parquet").is_file()
    lines = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert "a-00001.parquet" not in [name for line in lines[1:] for name in line["files"]]
    work.made()
    with open_stage(tmp_path / "out") as stage:
        left = [shard.number for shard in missing(stage, shards)]
        driver(stage, shards, work)
        stage.finish()
    assert 1 in left
    assert work.made() == left
    assert read_tables(tmp_path / "out", "encode", "a")["x"].to_pylist() == list(range(6))


def test_a_run_that_is_stopped_keeps_its_earlier_shards(tmp_path):
    shards, work = cut(6, 2, ("a",)), Numbers(tmp_path / "out", tmp_path / "log")

    def stopped(shard):
        if shard.number == 1:
            raise KeyboardInterrupt
        return work(shard)

    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "out") as stage:
        run_shards(stage, shards, stopped)
    with open_stage(tmp_path / "out") as stage:
        assert [shard.number for shard in missing(stage, shards)] == [1, 2]


def test_a_worker_that_made_other_files_than_its_shards_is_a_bug(tmp_path, driver):
    with pytest.raises(AssertionError, match="shard 0 has"), open_stage(tmp_path / "out") as stage:
        driver(stage, cut(2, 2, ("a",)), Numbers(stage.root, tmp_path / "log", other=True))
