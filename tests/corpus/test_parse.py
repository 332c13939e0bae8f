import os
from pathlib import Path

import pytest

from apmae import bundled
from apmae.corpus.archive import ArchiveSource
from apmae.corpus.local import FileSource, FolderSource
from apmae.corpus.parse import parse_source
from apmae.errors import SourceError


def test_what_a_user_writes_decides_the_kind_of_source(folder, tmp_path, monkeypatch, make_archive):
    make_archive(folder, tmp_path / "a.tar.gz")
    (tmp_path / "link").symlink_to(tmp_path / "a.tar.gz")
    (tmp_path / "folder.zip").mkdir()
    kinds = {
        folder: FolderSource,
        tmp_path / "folder.zip": FolderSource,
        tmp_path / "a.tar.gz": ArchiveSource,
        tmp_path / "link": ArchiveSource,
        folder / "readme.md": FileSource,
    }
    for path, kind in kinds.items():
        assert type(parse_source(path)) is type(parse_source(str(path))) is kind
    java = parse_source("bundled")
    assert java.name == "java"
    assert java.fingerprint() == parse_source(bundled.java()).fingerprint()
    (tmp_path / "bundled").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_source("bundled").name == "java"
    assert parse_source(Path("bundled")).name == parse_source("./bundled").name == "bundled"


def test_anything_else_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceError, match=r"expected a folder, file or archive at .*pipe, found neither"):
        parse_source(tmp_path / "pipe")
    for name in ("nowhere", "loop"):
        with pytest.raises(SourceError, match=rf"expected source files at .*{name}, found nothing there"):
            parse_source(tmp_path / name)
