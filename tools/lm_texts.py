"""The texts that tiny language models are trained on, and those held out from training.

    python tools/lm_texts.py SOURCE --texts prose --out FOLDER

writes held-out texts as files, to make prompts from. There are Java code and the prose of its Javadoc, both from the
``src.zip`` of a JDK, and Python code from a folder. ``train_lm.py`` reads the same texts and writes none.
"""

import argparse
import hashlib
import html
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from apmae.seeding import generator, unit_hash

Sides = tuple[list[str], list[str]]
"""The texts for training and those held out."""

OMITTED_MODULES = {"jdk.localedata", "jdk.charsets"}  # generated tables
OMITTED_FILES = {"module-info.java", "package-info.java"}
OMITTED_FOLDERS = {"site-packages", "dist-packages", "encodings", "pydoc_data"}  # not the library's own, or tables
HEADER = re.compile(r"\A(?:\s*/\*.*?\*/)+\s*", re.DOTALL)
BLOCK_COMMENT = re.compile(
    r'("""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*)|/\*.*?\*/', re.DOTALL
)
LINK = re.compile(r"\{@link(?:plain)?\s+[\w.#$]+(?:\([^)]*\))?\s+([^{}]+)\}")  # one that has a label
INLINE = re.compile(r"\{@\w+\s*([^{}]*)\}")


def _held_out(name: str, one_in: int) -> bool:
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % one_in == 0


def clean(text: str, *, keep_comments: bool) -> str:
    """The text without its licence header and, unless kept, without block comments and the empty lines they leave."""
    text = HEADER.sub("", text)
    if keep_comments:
        return text
    text = BLOCK_COMMENT.sub(lambda found: found[1] or "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).lstrip("\n")


def prose(text: str) -> str:
    """The descriptions in the Javadoc of a Java file, without stars, tags, examples of code and markup.

    What follows the first block tag, such as ``@param``, is left out: it is lists, not prose. What is said several
    times is kept once.
    """
    parts: list[str] = []
    for found in BLOCK_COMMENT.finditer(HEADER.sub("", text)):
        if not found[0].startswith("/**"):
            continue
        part = re.sub(r"(?m)^[ \t]*\*?[ \t]?", "", found[0][3:-2])
        part = re.split(r"(?m)^\s*@\w", part, maxsplit=1)[0]
        part = re.sub(r"(?is)<(pre|table|script)\b.*?</\1>|\{@(snippet|inheritDoc)\b.*?\}", "", part)
        part = LINK.sub(r"\1", part)
        while (plain := INLINE.sub(r"\1", part)) != part:  # one may hold another
            part = plain
        part = re.sub(r"(?i)<(?:p|li|dt|dd|h\d|br)\b[^>]*>", "\n\n", part)
        part = html.unescape(re.sub(r"(?s)</?[A-Za-z][^<>]*>", "", part))
        parts.append(re.sub(r" {2,}", " ", re.sub(r"[ \t]*\n[ \t]*", "\n", part)).strip())
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(filter(None, dict.fromkeys(parts))))


def _java_files(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and content of each file of a JDK's ``src.zip`` that was written by hand."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            file = name.rpartition("/")[2]
            wanted = file.endswith(".java") and file not in OMITTED_FILES and name.split("/")[0] not in OMITTED_MODULES
            if wanted and opened.getinfo(name).file_size <= 300_000:
                yield name, opened.read(name).decode("utf-8", errors="replace")


def _sides(texts: Iterator[tuple[str, str]], one_in: int, source: Path, wanted: str) -> Sides:
    """Long enough texts in ASCII for the most part, split by the MD5 of the given name of each.

    Raises:
        ValueError: one side is empty.
    """
    sides: Sides = ([], [])
    for name, text in texts:
        if len(text) >= 400 and len(text.encode("ascii", "ignore")) > len(text) / 2:
            sides[_held_out(name, one_in)].append(text)
    if not all(sides):
        raise ValueError(f"expected {wanted}, got {source} with {len(sides[0])} + {len(sides[1])} files")
    return sides


def read_java(archive: Path, seed: int) -> Sides:
    """The Java code of a JDK's ``src.zip``; whole packages are held out, one in 33.

    Javadoc is a large share of a JDK: with all of it, a small model would mostly learn English. A quarter keep theirs.
    """
    texts = (
        (name.rpartition("/")[0], clean(text, keep_comments=unit_hash(seed, "comments", name) >= 0.75))
        for name, text in _java_files(archive)
    )
    return _sides(texts, 33, archive, "the src.zip of a JDK")


def read_prose(archive: Path, seed: int) -> Sides:
    """The :func:`prose` of a JDK's ``src.zip``, one text per file; whole packages are held out, one in ten."""
    del seed  # all of it is taken
    texts = ((name.rpartition("/")[0], prose(text)) for name, text in _java_files(archive))
    return _sides(texts, 10, archive, "the src.zip of a JDK")


def read_python(folder: Path, seed: int) -> Sides:
    """The ``.py`` files under a folder, such as Python's standard library; one file in five is held out."""
    del seed  # all of it is taken
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    texts = (
        (name.as_posix(), (folder / name).read_text(encoding="utf-8", errors="replace"))
        for name in names
        if OMITTED_FOLDERS.isdisjoint(name.parts) and (folder / name).stat().st_size <= 300_000
    )
    return _sides(texts, 5, folder, "a folder of .py files")


TEXTS: dict[str, Callable[[Path, int], Sides]] = {"java": read_java, "prose": read_prose, "python": read_python}
SUFFIXES = {"java": ".java", "prose": ".txt", "python": ".py"}


def sha256(source: Path) -> str:
    """The hash of an archive, or of the names and contents of the ``.py`` files under a folder."""
    if source.is_file():
        return hashlib.sha256(source.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        for part in (path.relative_to(source).as_posix().encode(), path.read_bytes()):
            whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def write_held_out(texts: list[str], suffix: str, out: Path, count: int, seed: int) -> int:
    """Write up to ``count`` texts of 2 to 20 thousand characters as ``000.txt`` and so on; how many there were."""
    fitting = [text for text in texts if 2_000 <= len(text) <= 20_000]
    chosen = generator(seed, "held-out files").permutation(len(fitting))[:count]
    out.mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(sorted(chosen)):
        (out / f"{number:03}{suffix}").write_text(fitting[index], encoding="utf-8")
    return len(chosen)


def main() -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description="Write texts that no training saw as files, to make prompts from.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="src.zip of a JDK, or a folder of .py files")
    parser.add_argument("--texts", choices=TEXTS, default="java", help="what to take; default %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--files", type=int, default=150, metavar="N", help="how many at most; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the training; default %(default)s")
    flags = parser.parse_args()
    try:
        _, held_out = TEXTS[flags.texts](flags.source, flags.seed)
    except (ValueError, OSError, zipfile.BadZipFile) as problem:
        sys.exit(f"lm_texts.py: {problem}")
    count = write_held_out(held_out, SUFFIXES[flags.texts], flags.out, flags.files, flags.seed)
    sys.stdout.write(f"{count} of {len(held_out)} held-out texts in {flags.out}\n")


if __name__ == "__main__":
    main()
