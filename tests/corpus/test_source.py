"""What all sources have in common, and several of them together."""

import hashlib
import io
import json
import zipfile
from collections import Counter

import pytest

from apmae.corpus.parse import parse_source
from apmae.corpus.source import LARGEST, Source, SourceFile, SourceHandle, list_sources
from apmae.errors import SourceError


def test_a_folder_is_read_recursively_and_in_order(folder, read):
    files, rejected = read(folder)
    assert files == [
        SourceFile("src/app/A.java", (folder / "app/A.java").read_bytes().decode()),
        SourceFile("src/app/B.java", (folder / "app/B.java").read_text()),
        SourceFile("src/lib/deep/er/C.java", (folder / "lib/deep/er/C.java").read_text()),
    ]
    assert not rejected


def test_line_ends_are_kept_and_the_byte_order_mark_is_removed(tmp_path, read):
    (tmp_path / "A.java").write_bytes(b"\xef\xbb\xbfclass A {\r\n}\r\n")
    files, _ = read(tmp_path / "A.java")
    assert files == [SourceFile("A.java", "class A {\r\n}\r\n")]


def test_sources_with_the_same_name_do_not_collide(tmp_path, read):
    for parent in ("one", "two"):
        (tmp_path / parent / "src").mkdir(parents=True)
        (tmp_path / parent / "src" / "A.java").write_text(f"class {parent} {{}}")
    files, _ = read(tmp_path / "one/src", tmp_path / "two/src")
    assert [(file.path, file.text) for file in files] == [
        ("src/A.java", "class one {}"),
        ("src~2/A.java", "class two {}"),
    ]


def test_a_source_named_twice_or_within_another_is_read_once(folder, read):
    files, _ = read(folder, folder / "..", folder / "app", folder)
    assert [file.path for file in files] == ["src/app/A.java", "src/app/B.java", "src/lib/deep/er/C.java"]


def test_an_archive_or_file_named_twice_is_read_once(folder, tmp_path, read, make_archive):
    make_archive(folder, tmp_path / "a.zip")
    files, _ = read(tmp_path / "a.zip", folder / "app/A.java", tmp_path / "a.zip", folder / "app/A.java")
    assert [file.path for file in files] == [
        "a.zip/app/A.java",
        "a.zip/app/B.java",
        "a.zip/lib/deep/er/C.java",
        "A.java",
    ]


def test_unusable_files_are_counted_by_reason(tmp_path, read):
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


def test_reading_is_lazy(folder):
    files = parse_source(folder).files((".java",), Counter())
    assert next(files).path == "src/app/A.java"
    (folder / "app" / "B.java").write_text("class Changed {}")
    assert next(files).text == "class Changed {}"


def test_a_missing_path_is_refused(tmp_path, read):
    with pytest.raises(SourceError, match=r"expected source files at .*nowhere.*; check the path"):
        read(tmp_path / "nowhere")


def test_a_source_without_the_language_is_refused(folder, read):
    with pytest.raises(SourceError, match=r"expected \.py files under .*src, found none among 4 files"):
        read(folder, suffixes=(".py",))
    with pytest.raises(SourceError, match=r"expected \.java files under .*readme\.md, found none among 1 files"):
        read(folder, folder / "readme.md")


def test_files_gives_the_same_as_its_handles_read_one_by_one(folder):
    (folder / "app" / "D.java").write_bytes(b"\xff")
    source = parse_source(folder)
    rejected, again = Counter(), Counter()
    files = list(source.files((".java",), rejected))
    assert files == [file for handle in source.handles((".java",)) if (file := handle.read(again))]
    assert len(files) == 3
    assert rejected == again == {"not_utf8": 1}


class Dictionary(Source):
    """A source that is neither a file nor a folder."""

    def __init__(self, name, texts):
        self.name, self.identity, self.texts = name, f"dictionary:{name}:{id(texts)}", texts

    def handles(self, suffixes):
        return [
            SourceHandle(
                f"{self.name}/{path}",
                len(text),
                lambda text=text: io.BytesIO(text.encode()),
                repository=f"{self.name}/{path.partition('/')[0]}",
                identity=f"{self.identity}/{path}",
            )
            for path, text in sorted(self.texts.items())
            if path.endswith(tuple(suffixes))
        ]

    def fingerprint(self):
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()


def test_another_kind_of_source_needs_three_methods_only(folder):
    mine = Dictionary("src", {"a/B.java": "class B {}", "c.md": ""})
    other = Dictionary("src", {"a/B.java": "class C {}"})
    handles = list_sources([parse_source(folder / "lib"), mine, mine, other], suffixes=(".java",))
    assert [(handle.path, handle.repository) for handle in handles] == [
        ("lib/deep/er/C.java", None),
        ("src/a/B.java", "src/a"),
        ("src~2/a/B.java", "src~2/a"),
    ]
    assert [file.text for file in mine.files((".java",), Counter())] == ["class B {}"]
    assert handles[2].read(Counter()).text == "class C {}"
    assert mine.fingerprint() != other.fingerprint()
