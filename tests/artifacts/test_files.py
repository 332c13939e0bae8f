import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import contents, table

import apmae
from apmae.artifacts import (
    expect_place,
    read_json,
    read_table,
    replacing,
    write_json,
    write_table,
    write_through,
)
from apmae.errors import ArtifactError


def limited(kilobytes):
    """A full disk for one process: writing a file beyond this size fails, as on a device without room."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    return limit


WRITERS = {
    "table": "write_table(path, pa.table({'x': np.random.default_rng(0).random(50_000)}))",
    "json": "write_json(path, 'x' * 50_000)",
    "weights": "write_through(path, lambda p: save_file({'w': np.zeros(50_000)}, p))",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_finds_no_room_keeps_the_earlier_file(tmp_path, writer):
    path = tmp_path / "file.bin"
    path.write_bytes(b"earlier")
    code = f"""
import sys, pathlib, numpy as np, pyarrow as pa
from safetensors.numpy import save_file
from apmae.artifacts import *
from apmae.errors import ArtifactError
path = pathlib.Path(sys.argv[1])
try:
    {WRITERS[writer]}
except ArtifactError as error:
    sys.exit(str(error))
"""
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, preexec_fn=limited(4))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"expected room to write {path}, the disk is full")
    assert contents(tmp_path) == {"file.bin": b"earlier"}


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with pytest.raises(ValueError, match="failed"), replacing(path) as file:
        file.write(b"half")
        raise ValueError("failed")
    assert contents(tmp_path) == {}
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert contents(tmp_path) == {"deep/file.txt": b"whole"}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, 1),
        lambda path: write_table(path, table(0)),
        lambda path: write_through(path, lambda p: safetensors.torch.save_file({"w": torch.zeros(2)}, p)),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, write):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(ArtifactError, match=r"cannot write \S*file/x: .*; check the folder"):
        write(tmp_path / "file" / "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=r"expected a file to write, \S*folder is a folder; add a file name"):
        write(tmp_path / "folder")
    assert sorted(contents(tmp_path)) == ["file"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
)


@given(JSON)
def test_json_comes_back_and_equal_values_are_equal_bytes(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        write_json(path, value)
        first = path.read_bytes()
        assert read_json(path) == value
        write_json(path, dict(reversed(value.items())) if isinstance(value, dict) else value)
        assert path.read_bytes() == first


def test_json_that_other_readers_would_refuse_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"score": float("nan")})
    assert contents(tmp_path) == {}


def test_damaged_json_and_missing_tables_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe not JSON")
    with pytest.raises(ArtifactError, match=r"expected JSON in \S*a.json, it is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ArtifactError, match=r"expected a JSON file at \S*b.json: No such file"):
        read_json(tmp_path / "b.json")
    with pytest.raises(ArtifactError, match="found none; was the stage finished"):
        read_table(tmp_path / "c.parquet")


@settings(max_examples=30)
@given(st.floats(0, 1, exclude_max=True))
def test_a_table_with_any_byte_changed_or_cut_is_refused_or_right(where):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        write_table(path, table(3))
        data = bytearray(path.read_bytes())
        spot = int(where * len(data))
        path.write_bytes(data[:spot])
        with pytest.raises(ArtifactError, match="is damaged"):
            read_table(path)
        data[spot] ^= 0x10
        path.write_bytes(data)
        try:
            read = read_table(path)
        except ArtifactError as error:
            assert "\n" not in str(error)
        else:  # a byte of metadata that is not read
            assert read["x"].to_pylist() == table(3)["x"].to_pylist()


def test_nothing_is_unpickled():
    source = Path(apmae.__file__).parent
    assert (source / "cli").is_dir()
    for path in source.rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


@pytest.mark.parametrize(
    ("path", "folder", "message"),
    [
        ("folder", False, "expected a file to write, .*folder is a folder; add a file name"),
        ("file", True, "expected a folder to write, .*file is a file; choose another"),
        ("file/x", False, "cannot write .*file/x: .*file is a file; check the folder"),
        ("file/x/y", True, "cannot write .*: .*file is a file"),
        ("/proc/x.json", False, "cannot write /proc/x.json"),
        ("n" * 300, False, "cannot write .*n+: File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_any_work_is_done(tmp_path, path, folder, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")
    before = contents(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        expect_place(tmp_path / path, folder=folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("path", "folder"), [("x", False), ("new/deep/x", False), ("new", True), ("folder", True)])
def test_checking_a_path_that_can_be_written_leaves_nothing(tmp_path, path, folder):
    (tmp_path / "folder").mkdir()
    expect_place(tmp_path / path, folder=folder)
    assert [found.name for found in tmp_path.rglob("*")] == ["folder"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    expect_place(pipe)
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(pipe.read_bytes)
        write_json(pipe, {"a": 1})
        assert json.loads(reader.result()) == {"a": 1}
    assert pipe.is_fifo()


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_pipe_whose_reader_has_left_takes_what_is_written(size):
    reading, writing = os.pipe()
    os.close(reading)
    write_json(Path(f"/dev/fd/{writing}"), "a" * size)
    with pytest.raises(OSError, match="Broken pipe"):  # nobody reads there
        os.write(writing, b"a")
    os.close(writing)


def test_a_device_without_room_is_named():
    with pytest.raises(ArtifactError, match=r"room to write /dev/full, the disk is full"):
        write_json(Path("/dev/full"), [1])


@pytest.mark.parametrize("redirected", [False, True])
def test_standard_output_can_be_named(tmp_path, redirected):
    code = "from pathlib import Path\nfrom apmae.artifacts import write_json\nwrite_json(Path('/dev/stdout'), [1])"
    out = (tmp_path / "out").open("w+") if redirected else subprocess.PIPE
    result = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out").read_text() if redirected else result.stdout) == [1]
    assert Path("/dev/stdout").is_symlink()
    if redirected:
        out.close()
