import os

import pytest

from apmae.artifacts import fingerprint
from apmae.corpus.local import FileSource, FolderSource
from apmae.corpus.source import LARGEST
from apmae.errors import SourceError


def test_a_loop_of_links_and_a_pipe_do_not_hang(folder, read):
    (folder / "app" / "loop").symlink_to(folder)
    (folder / "app" / "dead.java").symlink_to(folder / "gone.java")
    os.mkfifo(folder / "app" / "pipe.java")
    files, _ = read(folder)
    assert len(files) == 3


def test_a_file_name_that_is_not_utf8_becomes_a_path_that_is(tmp_path, read):
    try:
        (tmp_path / os.fsdecode(b"\xff.java")).write_text("class A {}")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    files, _ = read(tmp_path)
    assert files[0].path.encode().endswith(b"/\\xff.java")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("class Ä {}".encode("latin-1"), "expected UTF-8"),
        (b"x" * (LARGEST + 1), "expected at most"),
        (b"", "empty"),
        (b"a\0b", "NUL"),
    ],
)
def test_a_single_file_must_be_usable(tmp_path, data, message, read):
    (tmp_path / "A.java").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "A.java")


def test_an_unreadable_folder_is_refused(folder, read):
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(SourceError, match="check its permissions"):
            read(folder)
    finally:
        locked.chmod(0o755)


def test_a_fingerprint_is_the_one_in_manifests(folder):
    assert FolderSource(folder).fingerprint() == fingerprint(folder)
    file = FileSource(folder / "app" / "A.java")
    before = file.fingerprint()
    assert before == fingerprint(folder / "app" / "A.java")
    (folder / "app" / "A.java").write_text("class Changed {}")
    assert file.fingerprint() != before
    assert FolderSource(folder).fingerprint() == fingerprint(folder)
