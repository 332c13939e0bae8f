import io
import tarfile
import zipfile
from collections import Counter

import pytest

from apmae.corpus.archive import ArchiveSource
from apmae.corpus.source import LARGEST, SourceFile
from apmae.errors import SourceError


@pytest.mark.parametrize("name", ["a.zip", "a.jar", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_gives_the_same_as_its_folder_and_leaves_nothing_on_disk(folder, tmp_path, name, read, make_archive):
    make_archive(folder, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    files, _ = read(tmp_path / name)
    expected, _ = read(folder)
    assert files == [SourceFile(file.path.replace("src/", f"{name}/", 1), file.text) for file in expected]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_members_of_an_archive_can_be_read_in_any_order_and_again(folder, tmp_path, name, make_archive):
    make_archive(folder, tmp_path / name)
    handles = ArchiveSource(tmp_path / name).handles((".java",))
    rejected = Counter()
    forth = [handle.read(rejected) for handle in handles]
    back = [handle.read(rejected) for handle in reversed(handles)]
    assert len(forth) == 3
    assert forth == back[::-1]


def test_a_damaged_member_is_counted_and_the_others_are_read(tmp_path, read):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("A.java", "class A { int first; }")
        archive.writestr("B.java", "class B {}")
    path.write_bytes(path.read_bytes().replace(b"int first", b"int burst"))  # its checksum is now wrong
    files, rejected = read(path)
    assert [file.path for file in files] == ["a.zip/B.java"]
    assert rejected == {"unreadable": 1}


def test_a_zip_that_lies_about_a_size_is_not_inflated(tmp_path, read):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("A.java", b"x" * (50 * LARGEST))
        archive.writestr("B.java", b"class B {}")
    size = (50 * LARGEST).to_bytes(4, "little")
    assert path.read_bytes().count(size) == 2
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    files, rejected = read(path)
    assert [file.path for file in files] == ["bomb.zip/B.java"]
    assert sum(rejected.values()) == 1


def test_links_and_names_that_leave_the_archive_are_ignored(tmp_path, read):
    secret = tmp_path / "secret.java"
    secret.write_text("class Secret {}")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link.java")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for name in ("../up.java", "/abs.java", "a/../../up.java", "good.java"):
            info = tarfile.TarInfo(name)
            info.size = 10
            archive.addfile(info, io.BytesIO(b"class A {}"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.java")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(secret))
        for name in ("../up.java", "/abs.java", "C:\\abs.java", "good.java"):
            archive.writestr(name, "class A {}")
    for name in ("a.tar", "a.zip"):
        files, _ = read(tmp_path / name)
        assert [file.path for file in files] == [f"{name}/good.java"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_an_unreadable_archive_is_refused_in_one_line(folder, tmp_path, name, damage, read, make_archive):
    path = tmp_path / name
    make_archive(folder, path)
    data = path.read_bytes()
    path.write_bytes(data[: 700 if name == "a.tar" else len(data) // 2] if damage == "cut" else b"not an archive")
    with pytest.raises(SourceError, match="expected a whole (zip|tar) archive") as caught:
        read(path)
    assert "\n" not in str(caught.value)
