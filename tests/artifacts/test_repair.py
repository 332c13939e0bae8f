"""Only the damaged files of a finished artifact are made again, and then the manifest's hashes hold."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from small_stage import CONFIG, INPUTS, contents, make, table

from apmae.artifacts import Stage, cut, read_json, read_tables, run_shards, write_json, write_tables
from apmae.artifacts import repair as repair_module
from apmae.errors import ArtifactError


def cut_off(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Flip one bit; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {"cut": cut_off, "flipped": flip, "gone": lambda path: path.unlink()}
EVERY = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def hashes_hold(out):
    for name, file in read_json(out / "manifest.json")["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == file["sha256"], name
    return True


@EVERY
@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_shard_is_made_again_alone(tmp_path, damage, number, capsys):
    out = tmp_path / "out"
    make(out)
    whole, before = contents(out), times(out)
    name = f"rows-0000{number}.parquet"
    size = (out / name).stat().st_size
    damage(out / name)
    assert make(out) == [number]
    assert contents(out) == whole and hashes_hold(out)
    assert [file for file, time in times(out).items() if time != before[file]] == [name]
    said = capsys.readouterr().err
    assert said.startswith(f"encode: making {out / name} again: it") and said.count("\n") == 1
    assert f"it has {size // 2} of {size} bytes" in said or "it is missing" in said or "its content has changed" in said
    assert make(out) == [] and capsys.readouterr().err == ""


def test_every_damaged_shard_is_made_again_and_each_is_named(tmp_path, capsys):
    out = tmp_path / "out"
    make(out, shards=5)
    whole = contents(out)
    for number, damage in zip((0, 2, 4), DAMAGE.values(), strict=True):
        damage(out / f"rows-0000{number}.parquet")
    assert make(out, shards=5) == [0, 2, 4]
    assert contents(out) == whole
    named = [line.partition(" again: ")[0] for line in capsys.readouterr().err.splitlines()]
    assert named == [f"encode: making {out / f'rows-0000{number}.parquet'}" for number in (0, 2, 4)]


def two_tables(out, asked):
    """A stage whose shards have two files each; ``asked`` gets the number of each shard that is made."""
    with Stage.open(out, "encode", CONFIG, INPUTS) as stage:
        if stage.finished:
            return
        shards = cut(6, 2, ("a", "b"))

        def work(shard):
            asked.append(shard.number)
            return write_tables(stage.staging, {name: table(shard.number, len(name)) for name in shard.files})

        run_shards(stage, shards, work)
        assert stage.rows("a") == sum(len(shard.files[0]) for shard in shards)
        stage.finish({"shards": 3})


def test_of_a_shard_with_several_files_the_whole_ones_stay(tmp_path):
    out, asked = tmp_path / "out", []
    two_tables(out, asked)
    whole, before = contents(out), times(out)
    flip(out / "b-00001.parquet")
    two_tables(out, asked)
    assert asked == [0, 1, 2, 1]
    assert contents(out) == whole
    assert [file for file, time in times(out).items() if time != before[file]] == ["b-00001.parquet"]


def single(out, content=0):
    with Stage.open(out, "prompts", CONFIG, INPUTS) as stage:
        if not stage.finished:
            stage.write_tables({out.name: table(content)})
            stage.finish()


@EVERY
def test_an_artifact_of_one_file_is_made_again_whole(tmp_path, damage):
    out = tmp_path / "prompts.parquet"
    single(out)
    (tmp_path / "other.parquet").write_text("not ours")
    whole = contents(tmp_path)
    damage(out)
    single(out)
    assert contents(tmp_path) == whole


# -- what cannot be repaired -------------------------------------------------------------------------------------------


@EVERY
def test_other_work_is_refused_with_the_difference_and_the_damage(tmp_path, damage):
    out = tmp_path / "out"
    make(out)
    damage(out / "rows-00001.parquet")
    before = contents(out)
    for config, inputs, said in (
        ({**CONFIG, "seed": 1}, INPUTS, "config.seed was 0, now 1"),
        (CONFIG, {"lm": "b" * 64}, "inputs.lm was 'aaaaaaaaaaaa', now 'bbbbbbbbbbbb'"),
    ):
        with pytest.raises(ArtifactError) as refused:
            make(out, config=config, inputs=inputs)
        assert said in str(refused.value)
        named = "rows-00001.parquet is damaged: give its original inputs" in str(refused.value)
        assert named == (damage is not flip), "no file is read to refuse"
    assert contents(out) == before


@EVERY
def test_a_file_made_again_with_other_bytes_is_refused_and_nothing_changes(tmp_path, damage):
    out = tmp_path / "prompts.parquet"
    single(out)
    damage(out)
    before = contents(tmp_path)
    with pytest.raises(ArtifactError) as refused:
        single(out, content=1)
    assert "prompts.parquet was made again, but its bytes are not those that the manifest of" in str(refused.value)
    assert "the machine, the device or the number of threads may differ" in str(refused.value)
    assert contents(tmp_path) == before
    manifest = tmp_path / "prompts.manifest.json"
    write_json(manifest, read_json(manifest) | {"versions": {"pyarrow": "1.0", "nothing": "2"}})
    with pytest.raises(ArtifactError, match=f"nothing was 2, now None; pyarrow was 1.0, now {pa.__version__}.*overwr"):
        single(out, content=1)


def test_a_file_that_the_stage_no_longer_makes_is_named(tmp_path):
    out = tmp_path / "out"
    make(out)
    record = read_json(out / "manifest.json")
    record["files"]["old.parquet"] = record["files"]["rows-00000.parquet"]
    write_json(out / "manifest.json", record)
    before = contents(out)
    with pytest.raises(ArtifactError, match="expected old.parquet of .* to be made again, this version makes no such"):
        make(out)
    assert contents(out) == before


def test_a_stage_that_would_have_to_do_everything_again_refuses(tmp_path):
    out = tmp_path / "out"
    make(out)
    cut_off(out / "rows-00001.parquet")
    before = contents(out)
    with pytest.raises(ArtifactError, match=r"rows-00001.parquet: it has \d+ of \d+ bytes; put back a copy, or pass"):
        Stage.open(out, "encode", CONFIG, INPUTS, repairs=False)
    assert contents(out) == before


def test_overwriting_makes_everything_again(tmp_path):
    out = tmp_path / "out"
    make(out)
    whole = contents(out)
    flip(out / "rows-00001.parquet")
    assert make(out, overwrite=True) == [0, 1, 2]
    assert contents(out) == whole


# -- a kill, another process, a full disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_repair_that_was_stopped_resumes(tmp_path, stop_after):
    out = tmp_path / "out"
    make(out)
    whole = contents(out)
    for path in out.glob("rows-*"):
        flip(path)
    assert make(out, stop_after=stop_after) == list(range(stop_after))
    assert make(out) == list(range(stop_after, 3))
    assert contents(out) == whole


CHILD = """
import os, signal, sys
from pathlib import Path
from small_stage import CONFIG, INPUTS, table
from apmae.artifacts import Stage, write_tables

with Stage.open(Path(sys.argv[1]), "encode", CONFIG, INPUTS) as stage:
    for number in (0, 1, 2):
        name = f"rows-{number:05d}.parquet"
        if not stage.has(name):
            records = write_tables(stage.staging, {name: table(number)})
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            stage.add(records)
"""


def test_a_repair_that_was_killed_resumes_and_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    make(out)
    whole = contents(out)
    for path in out.glob("rows-*"):
        flip(path)
    path = os.pathsep.join([str(p) for p in sys.path])
    child = subprocess.run([sys.executable, "-c", CHILD, out], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (out / ".repair" / "rows-00001.parquet").is_file(), "made, but not yet in its place"
    assert make(out) == [1, 2], "the first is whole"
    assert contents(out) == whole


def test_only_one_process_repairs_at_a_time(tmp_path):
    out = tmp_path / "out"
    make(out)
    flip(out / "rows-00001.parquet")
    with Stage.open(out, "encode", CONFIG, INPUTS) as stage:
        assert not stage.finished
        with pytest.raises(ArtifactError, match="another apmae process is writing"):
            make(out)
        stage.write_tables({"rows-00001.parquet": table(1)})
        stage.finish()
    assert make(out) == []


def test_a_journal_that_a_kill_left_beside_the_manifest_does_no_harm(tmp_path):
    out = tmp_path / "out"
    make(out, stop_after=2)
    journal = (out / "journal.jsonl").read_bytes()
    make(out)
    whole = contents(out)
    (out / "journal.jsonl").write_bytes(journal)
    flip(out / "rows-00002.parquet")
    assert make(out) == [2]
    assert contents(out) == whole


# -- what checking costs -----------------------------------------------------------------------------------------------


def test_reading_checks_sizes_and_only_opening_the_stage_reads_everything(tmp_path, monkeypatch):
    out = tmp_path / "out"
    make(out)
    hashed = []
    original = repair_module.sha256_file
    monkeypatch.setattr(repair_module, "sha256_file", lambda path: hashed.append(path.name) or original(path))
    read_tables(out, "encode", "rows")
    assert hashed == []
    make(out)
    assert sorted(hashed) == sorted(json.loads((out / "manifest.json").read_text())["files"])
    cut_off(out / "rows-00000.parquet")
    hashed.clear()
    make(out)
    assert "rows-00000.parquet" not in hashed, "its size says enough"


def test_checking_a_large_artifact_shows_progress(tmp_path, monkeypatch, capsys):
    make(tmp_path / "out")
    monkeypatch.setattr(repair_module, "_WATCHED", 1)
    make(tmp_path / "out")
    assert "check out, MB: 3 of 3" in capsys.readouterr().err


def test_the_lock_is_given_up_after_a_refused_repair(tmp_path):
    out = tmp_path / "out"
    make(out)
    flip(out / "rows-00001.parquet")
    with pytest.raises(ArtifactError), Stage.open(out, "encode", CONFIG, INPUTS) as stage:
        stage.write_tables({"rows-00001.parquet": table(7)})
    with (out / "journal.jsonl").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (out / "journal.jsonl").unlink()
    assert make(out) == [1]
