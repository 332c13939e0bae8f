"""Sources are real folders, zips and tars made in tmp_path."""

import io
import os
import tarfile
import zipfile
from collections import Counter

import pytest

from apmae.corpus.sources import LARGEST, SourceFile, list_sources, read_sources
from apmae.errors import SourceError

FILES = {
    "app/B.java": "class B {}\n",
    "app/A.java": 'class A { String s = "日本"; }\r\n',
    "lib/deep/er/C.java": "class C {}",
    "readme.md": "# nothing\n",
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "src"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    return root


def read(*paths, suffixes=(".java",)):
    rejected = Counter()
    return list(read_sources(paths, suffixes=suffixes, rejected=rejected)), rejected


def make_tar(path, mode, members):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def make_archive(folder, path):
    members = [(name, (folder / name).read_bytes()) for name in FILES]
    if path.suffix in (".zip", ".jar"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
    else:
        packing = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz", ".tar": ""}[path.suffix]
        make_tar(path, f"w:{packing}", members)


def test_a_folder_is_read_recursively_and_in_order(folder):
    files, rejected = read(folder)
    assert files == [
        SourceFile("src/app/A.java", FILES["app/A.java"]),
        SourceFile("src/app/B.java", FILES["app/B.java"]),
        SourceFile("src/lib/deep/er/C.java", FILES["lib/deep/er/C.java"]),
    ]
    assert not rejected


@pytest.mark.parametrize("name", ["a.zip", "a.jar", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_an_archive_gives_what_its_folder_gives_and_leaves_nothing_on_disk(folder, tmp_path, name):
    make_archive(folder, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    files, _ = read(tmp_path / name)
    expected, _ = read(folder)
    assert files == [SourceFile(file.path.replace("src/", f"{name}/", 1), file.text) for file in expected]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_members_of_an_archive_are_read_in_any_order_and_again(folder, tmp_path, name):
    make_archive(folder, tmp_path / name)
    handles = list_sources([tmp_path / name], suffixes=(".java",))
    rejected = Counter()
    forth = [handle.read(rejected) for handle in handles]
    back = [handle.read(rejected) for handle in reversed(handles)]
    assert len(forth) == 3
    assert forth == back[::-1]


def test_line_ends_stay_and_the_byte_order_mark_goes(tmp_path):
    (tmp_path / "A.java").write_bytes(b"\xef\xbb\xbfclass A {\r\n}\r\n")
    files, _ = read(tmp_path / "A.java")
    assert files == [SourceFile("A.java", "class A {\r\n}\r\n")]


def test_sources_of_one_name_do_not_collide(tmp_path):
    for parent in ("one", "two"):
        (tmp_path / parent / "src").mkdir(parents=True)
        (tmp_path / parent / "src" / "A.java").write_text(f"class {parent} {{}}")
    files, _ = read(tmp_path / "one/src", tmp_path / "two/src")
    assert [(file.path, file.text) for file in files] == [
        ("src/A.java", "class one {}"),
        ("src~2/A.java", "class two {}"),
    ]


def test_a_source_named_twice_or_within_another_is_read_once(folder):
    files, _ = read(folder, folder / "..", folder / "app", folder)
    assert [file.path for file in files] == ["src/app/A.java", "src/app/B.java", "src/lib/deep/er/C.java"]


def test_an_archive_or_file_named_twice_is_read_once(folder, tmp_path):
    make_archive(folder, tmp_path / "a.zip")
    files, _ = read(tmp_path / "a.zip", folder / "app/A.java", tmp_path / "a.zip", folder / "app/A.java")
    assert [file.path for file in files] == [
        "a.zip/app/A.java",
        "a.zip/app/B.java",
        "a.zip/lib/deep/er/C.java",
        "A.java",
    ]


def test_unusable_files_are_counted_by_reason(tmp_path):
    contents = {
        "latin": "class Ä {}".encode("latin-1"),
        "large": b"x" * (LARGEST + 1),
        "empty": b"",
        "blank": b" \n\t\r\n",
        "binary": b"class A\0{}",
        "fine": b"class A {}",
        "largest": b"/" * LARGEST,
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.java").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(f"{name}.java", data)
    for source in (tmp_path, tmp_path / "all.zip"):
        files, rejected = read(source)
        assert [file.path.rsplit("/")[-1] for file in files] == ["fine.java", "largest.java"]
        assert rejected == {"not_utf8": 1, "too_large": 1, "empty": 2, "binary": 1}


def test_a_damaged_member_is_counted_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("A.java", "class A { int first; }")
        archive.writestr("B.java", "class B {}")
    path.write_bytes(path.read_bytes().replace(b"int first", b"int burst"))  # its checksum does not fit any more
    files, rejected = read(path)
    assert [file.path for file in files] == ["a.zip/B.java"]
    assert rejected == {"unreadable": 1}


def test_a_zip_that_lies_about_a_size_is_not_inflated(tmp_path):
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


def test_links_and_names_that_leave_the_archive_are_ignored(tmp_path):
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


def test_a_loop_of_links_and_a_pipe_do_not_hang(folder):
    (folder / "app" / "loop").symlink_to(folder)
    (folder / "app" / "dead.java").symlink_to(folder / "gone.java")
    os.mkfifo(folder / "app" / "pipe.java")
    files, _ = read(folder)
    assert len(files) == 3


def test_a_file_name_that_is_not_utf8_becomes_a_path_that_is(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff.java")).write_text("class A {}")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    files, _ = read(tmp_path)
    assert files[0].path.encode().endswith(b"/\\xff.java")


def test_reading_is_lazy(folder):
    files = read_sources([folder], suffixes=(".java",), rejected=Counter())
    assert next(files).path == "src/app/A.java"
    (folder / "app" / "B.java").write_text("class Changed {}")
    assert next(files).text == "class Changed {}"


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"expected source files at .*nowhere.*; check the path"):
        read(tmp_path / "nowhere")


def test_a_source_without_the_language_is_refused(folder):
    with pytest.raises(SourceError, match=r"expected \.py files under .*src, found none among 4 files"):
        read(folder, suffixes=(".py",))
    with pytest.raises(SourceError, match=r"expected \.java files under .*readme\.md, found none among 1 files"):
        read(folder, folder / "readme.md")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_an_unreadable_archive_is_refused_in_one_line(folder, tmp_path, name, damage):
    path = tmp_path / name
    make_archive(folder, path)
    data = path.read_bytes()
    path.write_bytes(data[: 700 if name == "a.tar" else len(data) // 2] if damage == "cut" else b"not an archive")
    with pytest.raises(SourceError, match="expected a whole (zip|tar) archive") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("class Ä {}".encode("latin-1"), "expected UTF-8"),
        (b"x" * (LARGEST + 1), "expected at most"),
        (b"", "empty"),
        (b"a\0b", "NUL"),
    ],
)
def test_a_file_named_by_itself_must_be_usable(tmp_path, data, message):
    (tmp_path / "A.java").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "A.java")


def test_an_unreadable_folder_is_refused(folder):
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
