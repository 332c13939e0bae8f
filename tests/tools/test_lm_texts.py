"""What tiny language models read: each kind of text on small sources, and held-out files that no training saw."""

import zipfile

import pytest
from lm_texts import TEXTS, prose, read_java, read_prose, read_python, sha256, write_held_out

JAVADOC = """/*
 * Copyright: not prose.
 */
package p;

/**
 * Counts {@code words} &amp; lines, see {@link java.util.Map#get(Object) the map}
 * or {@link List}.
 * <p>
 * A <em>second</em> paragraph; {@literal {@code nested}} too.
 * <pre>{@code
 * not(prose);
 * }</pre>
 *
 * @param <T> not prose
 * @since 1.0
 */
class Counter<T> {
    String text = "/** a string, not prose */";
    /* a comment, not prose */
    /** Returns the <b>count</b>. */
    int count() { return 0; }
    /** Returns the <b>count</b>. */
    int again() { return 0; }
}
"""


def test_prose_is_what_javadoc_describes():
    assert prose(JAVADOC) == (
        "Counts words & lines, see the map\nor List.\n\nA second paragraph; nested too.\n\nReturns the count."
    )


@pytest.fixture
def archive(tmp_path):
    """A src.zip of 100 packages of two files, whose code and whose Javadoc name the package, and what is not wanted."""
    path = tmp_path / "src.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for number in range(100):
            text = f"class A {{}}\n/** {f'In package{number}. ' * 40}*/\n" + f"int package{number};\n" * 30
            for file in ("A.java", "B.java"):
                opened.writestr(f"java.base/p{number}/{file}", text)
        opened.writestr("java.base/p0/module-info.java", "module m {}" * 100)
        opened.writestr("jdk.charsets/p/Table.java", "class Table {}" * 100)
        opened.writestr("java.base/short/A.java", "class A {}")
    return path


@pytest.mark.parametrize("kind", ["java", "prose"])
def test_a_package_is_on_one_side(archive, kind):
    sides = TEXTS[kind](archive, 0)
    named = [[text.split("package", 1)[1].split(maxsplit=1)[0].rstrip(".;") for text in side] for side in sides]
    assert sorted(named[0] + named[1]) == sorted([str(number) for number in range(100)] * 2)
    assert set(named[0]).isdisjoint(named[1])
    assert 0 < len(named[1]) < 50
    assert all(("class" in text) == (kind == "java") for side in sides for text in side)


def test_a_source_without_texts_is_refused(tmp_path):
    for read in (read_java, read_prose):
        with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
            pass
        with pytest.raises(ValueError, match=r"expected the src\.zip of a JDK, got .*0 \+ 0"):
            read(tmp_path / "empty.zip", 0)
    with pytest.raises(ValueError, match=r"expected a folder of \.py files, got .*0 \+ 0"):
        read_python(tmp_path, 0)


@pytest.fixture
def library(tmp_path):
    """A folder of 60 Python files, and what is no part of a library."""
    for name in [f"a/m{number}.py" for number in range(60)] + ["site-packages/other.py", "encodings/table.py"]:
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {name}\n" * 300)
    return tmp_path / "library"


def test_python_is_the_library_itself(library):
    training, held_out = read_python(library, 0)
    assert sorted(training + held_out) == sorted(f"# a/m{number}.py\n" * 300 for number in range(60))
    assert 3 <= len(held_out) <= 25


def test_the_hash_of_a_folder_is_that_of_names_and_contents(library):
    before = sha256(library)
    assert sha256(library) == before
    (library / "a/m0.py").rename(library / "a/n0.py")
    renamed = sha256(library)
    (library / "a/n0.py").write_text("pass")
    assert len({before, renamed, sha256(library)}) == 3


def test_held_out_files_are_of_a_few_thousand_characters(tmp_path):
    texts = ["a" * 1_999, "b" * 2_000, "c" * 20_000, "d" * 20_001, "e" * 3_000]
    assert write_held_out(texts, ".txt", tmp_path / "all", 5, seed=0) == 3
    assert [path.read_text()[0] for path in sorted((tmp_path / "all").iterdir())] == ["b", "c", "e"]
    assert write_held_out(texts, ".txt", tmp_path / "two", 2, seed=0) == 2
