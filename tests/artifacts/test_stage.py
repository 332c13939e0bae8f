import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import CONFIG, INPUTS, contents, make, table

from apmae.artifacts import Stage, expect_stage, read_json, read_manifest, write_json
from apmae.errors import ArtifactError
from apmae.schema import FORMAT

SHARDS = 12

CHILD = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from apmae.artifacts import Stage
from apmae.errors import ApmaeError

out, shards = Path(sys.argv[1]), int(sys.argv[2])
try:
    with Stage.open(out, "encode", {"seed": 0, "heads": "all"}, {"lm": "a" * 64}) as stage:
        for number in range(0 if stage.finished else shards):
            name = f"rows-{number:05d}.parquet"
            if not stage.has(name):
                print(number, flush=True)
                stage.write_tables({name: pa.table({"x": np.random.default_rng(number).random(20_000)})})
        if not stage.finished:
            stage.finish({"shards": shards})
except ApmaeError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def limited(kilobytes):
    """A full disk for one process: writing a file beyond this size fails, as on a device without room."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return limit


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    result = subprocess.run([sys.executable, "-c", CHILD, out, str(SHARDS)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out


# -- reuse, refusal, replacement ---------------------------------------------------------------------------------------


def test_the_same_work_is_not_done_twice(tmp_path):
    out = tmp_path / "out"
    make(out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert make(out) == []
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("stop_after", [2, None], ids=["unfinished", "finished"])
@pytest.mark.parametrize(
    ("config", "inputs", "said"),
    [
        ({**CONFIG, "seed": 1}, INPUTS, "config.seed was 0, now 1"),
        ({**CONFIG, "new": True}, INPUTS, "config.new was None, now True"),
        (CONFIG, {"lm": "b" * 64}, "inputs.lm was 'aaaaaaaaaaaa', now 'bbbbbbbbbbbb'"),
    ],
)
def test_other_work_is_refused_with_the_difference_and_nothing_is_lost(tmp_path, stop_after, config, inputs, said):
    out = tmp_path / "out"
    make(out, stop_after=stop_after)
    before = contents(out)
    with pytest.raises(ArtifactError) as refused:
        make(out, config=config, inputs=inputs)
    assert said in str(refused.value)
    assert "pass --overwrite to replace it, or choose another --out" in str(refused.value)
    assert contents(out) == before


@pytest.mark.parametrize("stop_after", [2, None], ids=["unfinished", "finished"])
def test_overwriting_leaves_nothing_of_the_other_work(tmp_path, stop_after):
    out = tmp_path / "out"
    make(out, shards=5, stop_after=stop_after)
    assert make(out, shards=2, config={"seed": 1}, overwrite=True) == [0, 1]
    make(tmp_path / "fresh", shards=2, config={"seed": 1})
    assert contents(out) == contents(tmp_path / "fresh")


def test_overwriting_makes_an_artifact_with_a_damaged_manifest_again(tmp_path):
    out = tmp_path / "out"
    make(out)
    whole = contents(out)
    os.truncate(out / "rows-00000.parquet", 20)
    (out / "manifest.json").write_text('{"format": 1, "sta')
    with pytest.raises(ArtifactError, match="it is damaged.*pass --overwrite"):
        make(out)
    assert make(out, overwrite=True) == [0, 1, 2]
    assert contents(out) == whole


LOSSES = {
    "no files": lambda record: record.pop("files"),
    "no configuration": lambda record: record.pop("config"),
    "files in a list": lambda record: record.update(files=["rows-00000.parquet"]),
    "no hash": lambda record: record["files"]["rows-00001.parquet"].pop("sha256"),
    "no size": lambda record: record["files"]["rows-00001.parquet"].pop("bytes"),
    "no rows": lambda record: record["files"]["rows-00001.parquet"].pop("rows"),
    "a size in words": lambda record: record["files"]["rows-00001.parquet"].update(bytes="many"),
    "no record": lambda record: record["files"].update({"rows-00001.parquet": None}),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_manifest_that_lost_a_field_is_refused_by_all_that_read_it_and_made_again(tmp_path, loss):
    out = tmp_path / "out"
    make(out)
    whole = contents(out)
    record = json.loads((out / "manifest.json").read_text())
    LOSSES[loss](record)
    (out / "manifest.json").write_text(json.dumps(record))
    for refused in (
        lambda: make(out),
        lambda: make(out, config={"seed": 1}),
        lambda: expect_stage(out, "encode", CONFIG),
        lambda: read_manifest(out, "encode"),
    ):
        with pytest.raises(ArtifactError, match=r"manifest\.json, it is damaged \(it.* has no .*--overwrite"):
            refused()
    assert make(out, overwrite=True) == [0, 1, 2]
    assert contents(out) == whole


def test_an_interrupted_overwrite_resumes(tmp_path):
    out = tmp_path / "out"
    make(out, config={"seed": 1})
    assert make(out, overwrite=True, stop_after=2) == [0, 1]
    assert make(out, overwrite=True) == [2]


def test_overwriting_removes_no_file_outside_the_artifact(tmp_path):
    out, other = tmp_path / "out", tmp_path / "thesis.parquet"
    make(out)
    other.write_text("three years of work")
    record = read_json(out / "manifest.json")
    record["files"] |= {"../thesis.parquet": {}, str(other): {}}
    write_json(out / "manifest.json", record)
    make(out, config={"seed": 1}, overwrite=True)
    assert other.read_text() == "three years of work"


@pytest.mark.parametrize("foreign", ["{}\n", "Monday: slept late", "Monday\n", '{"format": 3, "mood": "fine"}\n'])
def test_somebody_elses_journal_is_left_alone(tmp_path, foreign):
    out = tmp_path / "out"
    out.mkdir()
    (out / "journal.jsonl").write_text(foreign)
    with pytest.raises(ArtifactError, match="expected no file or a journal of apmae"):
        make(out)
    assert (out / "journal.jsonl").read_text() == foreign


def test_a_stage_that_failed_before_it_wrote_anything_blocks_nobody(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="a bad line"), Stage.open(out, "encode", {"prompts": "bad"}, INPUTS):
        raise ValueError("a bad line")
    assert not out.exists()
    assert make(out) == [0, 1, 2]


def test_a_kill_before_the_first_shard_blocks_nobody(tmp_path):
    out = tmp_path / "out"
    make(out, config={"prompts": "bad"}, stop_after=0)
    assert make(out) == [0, 1, 2]


def test_a_failure_keeps_the_shards_and_other_files(tmp_path):
    with pytest.raises(ValueError, match="later"), Stage.open(tmp_path / "a", "encode", CONFIG, INPUTS) as stage:
        stage.write_tables({"rows-00000.parquet": table(0)})
        raise ValueError("later")
    assert make(tmp_path / "a") == [1, 2]
    with pytest.raises(ValueError, match="later"), Stage.open(tmp_path / "b", "train", CONFIG, INPUTS) as stage:
        write_json(tmp_path / "b" / "checkpoint.json", 5)
        raise ValueError("later")
    with Stage.open(tmp_path / "b", "train", CONFIG, INPUTS) as stage:
        assert stage.resumed
    with pytest.raises(ArtifactError, match="was begun with another"):
        Stage.open(tmp_path / "b", "train", {"seed": 9}, INPUTS)
    assert read_json(tmp_path / "b" / "checkpoint.json") == 5


def test_a_stage_knows_whether_it_resumes(tmp_path):
    with Stage.open(tmp_path / "out", "encode", CONFIG, INPUTS) as stage:
        assert not stage.resumed
        stage.write_tables({"rows-00000.parquet": table(0, rows=4), "prompts-00000.parquet": table(0, rows=9)})
        assert (stage.rows("rows"), stage.rows("prompts"), stage.rows("row")) == (4, 9, 0)
    with Stage.open(tmp_path / "out", "encode", CONFIG, INPUTS) as stage:
        assert stage.resumed
        assert stage.files == ["prompts-00000.parquet", "rows-00000.parquet"]
        assert stage.has("rows-00000.parquet")
        assert not stage.has("rows-00000.parquet", "rows-00001.parquet")


def test_two_processes_do_not_write_one_artifact(tmp_path):
    out = tmp_path / "out"
    make(out, stop_after=1)
    before = contents(out)
    with (out / "journal.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = subprocess.run([sys.executable, "-c", CHILD, out, "3"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"ArtifactError: another apmae process is writing {out}")
    assert contents(out) == before
    assert make(out) == [1, 2]


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def test_a_stage_killed_again_and_again_ends_with_the_same_bytes(tmp_path, undisturbed):
    out = tmp_path / "out"
    draw = random.Random(0)
    kills = written_last = 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", CHILD, out, str(SHARDS)], stdout=subprocess.PIPE, text=True)
        lines = [child.stdout.readline() for _ in range(2)]  # it is writing its second shard
        if lines[0]:
            assert int(lines[0]) >= written_last, "a whole shard was made again"
        if kills < 4 and lines[1]:
            written_last = int(lines[1])
            time.sleep(draw.random() * 0.004)
            child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        kills += 1
    assert kills == 4
    assert contents(out) == contents(undisturbed)


@settings(max_examples=40)
@given(cut=st.integers(0, 2000), damage=st.sampled_from(["none", "cut", "flip", "gone"]))
def test_any_cut_of_the_journal_and_any_damage_ends_with_the_same_bytes(cut, damage):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        make(out, stop_after=2)
        journal = out / "journal.jsonl"
        os.truncate(journal, min(cut, journal.stat().st_size))
        shard = out / "rows-00000.parquet"
        if damage == "cut":
            os.truncate(shard, shard.stat().st_size // 2)
        elif damage == "flip":
            data = bytearray(shard.read_bytes())
            data[len(data) // 2] ^= 1
            shard.write_bytes(data)
        elif damage == "gone":
            shard.unlink()
        (out / ".rows-00002.99999.tmp.parquet").write_bytes(b"of the killed run")
        make(out)
        make(Path(folder) / "fresh")
        assert contents(out) == contents(Path(folder) / "fresh")


@pytest.mark.parametrize("left", [5, 100, -20])
def test_lines_after_one_that_a_kill_cut_short_are_kept(tmp_path, left):
    out = tmp_path / "out"
    make(out, stop_after=1)
    journal = out / "journal.jsonl"
    os.truncate(journal, left if left > 0 else journal.stat().st_size + left)
    assert make(out, stop_after=2) == [0, 1], "the shard of the line cut short is made again"
    assert make(out) == [2], "and the lines after it count"


def test_a_kill_between_manifest_and_journal_is_a_finished_artifact(tmp_path):
    out = tmp_path / "out"
    make(out, stop_after=2)
    journal = (out / "journal.jsonl").read_bytes()
    make(out)
    finished = contents(out)
    (out / "journal.jsonl").write_bytes(journal)
    assert make(out) == []
    assert contents(out) == finished


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_message_and_keeps_what_was_written(tmp_path, undisturbed):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    # Unfinished: the first shards whole, the journal in place, and no room for another shard.
    whole = sorted(path.name for path in out.glob("rows-*"))
    for name in ["manifest.json", *whole[3:]]:
        (out / name).unlink()
    head = {"format": FORMAT, "stage": "encode", "config": CONFIG, "inputs": INPUTS}
    record = read_json(undisturbed / "manifest.json")["files"]
    lines = [head, *({"files": {name: record[name]}} for name in whole[:3])]
    (out / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = contents(out)
    command = [sys.executable, "-c", CHILD, out, str(SHARDS)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited(8))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"ArtifactError: expected room to write {out / whole[3]}, the disk is full")
    assert "run the same command again" in result.stderr
    assert contents(out) == before
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stdout.split()[0]) == (0, "3")
    assert contents(out) == contents(undisturbed)


@pytest.mark.parametrize("room", [0, 40, 150, 250])
def test_a_disk_too_full_for_the_journal_leaves_nothing_that_blocks(tmp_path, room, undisturbed):
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [sys.executable, "-c", CHILD, out, str(SHARDS)]
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "the disk is full" in result.stderr
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    assert contents(out) == contents(undisturbed)


def test_a_device_without_room_is_a_full_disk(small_disk):
    disk = small_disk("300k")
    out = disk / "out"
    command = [sys.executable, "-c", CHILD, out, "3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "the disk is full (No space left on device)" in result.stderr
    kept = {path: path.stat().st_mtime_ns for path in out.glob("rows-*")}
    assert [path.name for path in kept] == ["rows-00000.parquet"]
    subprocess.run(["mount", "-o", "remount,size=2m", disk], check=True)
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stdout.split()) == (0, ["1", "2"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
