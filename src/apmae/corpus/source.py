"""What a source is: it lists its files first, then reads them one at a time. Torch-free.

Listing is cheap and in a fixed order; memory stays flat whatever the size of the source. Files that cannot be used are
counted by reason, never silently lost.

A source has two strings. The paths of its files begin with its ``name``; its ``identity`` makes sure that a source or
file that is given twice is read once. If two sources have the same name, :func:`list_sources` renames the second
(``src~2``).
"""

import lzma
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

from apmae.errors import SourceError

LARGEST = 1_000_000
"""Bytes of the largest file that is read: longer ones are generated code or data."""

# RuntimeError: an encrypted member; NotImplementedError: an unknown compression
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)
"""What opening or reading a damaged, encrypted or forbidden file raises."""

Opener = Callable[[], IO[bytes]]
"""Opens the file; may be called more than once."""

_REASONS = {
    "not_utf8": "expected UTF-8, found other bytes: convert it (iconv -t UTF-8)",
    "too_large": f"expected at most {LARGEST} bytes: split it",
    "empty": "expected source code, it is empty",
    "binary": "expected text, found NUL bytes: give a source file",
    "unreadable": "it cannot be read: check that it is complete, and check its permissions",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One source file. Line ends are kept as they are; a byte order mark is removed."""

    path: str
    """POSIX path that starts with the name of the source, so that two sources cannot collide."""
    text: str


@dataclass(frozen=True, slots=True)
class SourceHandle:
    """A listed file. It can be read more than once, and in any order."""

    path: str
    size: int
    """In bytes, according to the folder or archive."""
    _open: Opener
    _explicit: bool = False
    repository: str | None = None
    """Folder of the repository that the file is in: the nearest folder below the source that holds ``.git``, as the
    beginning of ``path``. None where there is none; a source that is itself a repository does not count."""
    identity: str | None = None
    """Equal for the same file in another source, so that it is read once; None where no other source can hold it."""

    def read(self, rejected: Counter[str]) -> SourceFile | None:
        """Read the file.

        Args:
            rejected: counts a file that cannot be used, by reason: "not_utf8", "too_large" (over ``LARGEST`` bytes),
                "empty" (nothing but blanks), "binary" (NUL bytes) or "unreadable" (damaged, encrypted, forbidden).

        Returns:
            The file, or None if it was rejected.

        Raises:
            SourceError: if it cannot be used and the user named it directly, not its folder or archive.
        """
        text, reason = self._load()
        if reason is None:
            return SourceFile(self.path, text)
        if self._explicit:
            raise SourceError(f"cannot use {self.path}: {_REASONS[reason]}")
        rejected[reason] += 1
        return None

    def _load(self) -> tuple[str, str | None]:
        if self.size > LARGEST:
            return "", "too_large"
        try:
            with self._open() as file:
                data = file.read(LARGEST + 1)  # it may have grown since it was listed
        except UNREADABLE:
            return "", "unreadable"
        if len(data) > LARGEST:
            return "", "too_large"
        if b"\0" in data:
            return "", "binary"
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return "", "not_utf8"
        return text, None if text.strip() else "empty"


class Source(ABC):
    """Where source files come from; ``parse_source`` makes one from what a user writes."""

    name: str
    """What its files' paths begin with: one path component, valid UTF-8."""
    identity: str
    """Equal for a source that is given twice, and for a file and the same file in a folder."""

    @abstractmethod
    def handles(self, suffixes: Sequence[str]) -> list[SourceHandle]:
        """List its files, without reading them.

        Args:
            suffixes: how the wanted files' names end, for instance ``(".java",)``.

        Returns:
            Handles, at least one, sorted by path.

        Raises:
            SourceError: if it cannot be read, or has no file of these suffixes (:func:`nothing_found`).
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of its content, equal as long as no file changes. It decides whether stages are reused."""

    def files(self, suffixes: Sequence[str], rejected: Counter[str]) -> Iterator[SourceFile]:
        """Read its files one at a time, in the order of :meth:`handles`.

        Args:
            suffixes: as for :meth:`handles`.
            rejected: counts the files that cannot be used, by reason (:meth:`SourceHandle.read`).

        Raises:
            SourceError: as :meth:`handles`, and if a file that the user named directly cannot be used.
        """
        for handle in self.handles(suffixes):
            file = handle.read(rejected)
            if file is not None:
                yield file


def list_sources(sources: Iterable[Source], *, suffixes: Sequence[str]) -> list[SourceHandle]:
    """List the files of several sources, without reading them. A file that is in two of them is listed once.

    Args:
        sources: any; if two have the same name, paths of the second begin with ``name~2``.
        suffixes: how the wanted files' names end.

    Returns:
        Handles, source by source as given, sorted by path within each.

    Raises:
        SourceError: as :meth:`Source.handles`.
    """
    handles: list[SourceHandle] = []
    labels: set[str] = set()
    seen: set[str] = set()
    for source in sources:
        if source.identity in seen:
            continue
        label = _label(source.name, labels)
        found = [handle for handle in source.handles(suffixes) if handle.identity not in seen]
        handles += found if label == source.name else [_renamed(handle, source.name, label) for handle in found]
        seen |= {source.identity, *(handle.identity for handle in found if handle.identity is not None)}
    return handles


def _label(name: str, labels: set[str]) -> str:
    """A path component that no other source has."""
    label, copy = name, 1
    while label in labels:
        copy += 1
        label = f"{name}~{copy}"
    labels.add(label)
    return label


def _renamed(handle: SourceHandle, name: str, label: str) -> SourceHandle:
    repository = handle.repository and label + handle.repository.removeprefix(name)
    return replace(handle, path=label + handle.path.removeprefix(name), repository=repository)


def nothing_found(where: object, suffixes: Sequence[str], total: int) -> SourceError:
    """The error for a source that has no file with these suffixes.

    Args:
        where: the source as the user gave it.
        suffixes: the suffixes that were wanted.
        total: how many files it has, of any name.
    """
    return SourceError(
        f"expected {' or '.join(suffixes)} files under {where}, found none among {total} files; "
        "give another source or another language"
    )


def printable(name: str) -> str:
    """A file name as valid UTF-8: file names need not be, but table columns must."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
