"""Source files in zips, jars and tars. Archives are never extracted: no member becomes a file on disk."""

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from apmae.corpus.local import LocalSource
from apmae.corpus.source import UNREADABLE, Opener, SourceHandle, nothing_found, printable
from apmae.errors import SourceError

_ZIPS = (".zip", ".jar")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_INFLATE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((".gz", ".tgz"), gzip.open),
    **dict.fromkeys((".bz2", ".tbz2"), bz2.open),
    **dict.fromkeys((".xz", ".txz"), lzma.open),
}
_Member = tuple[str, int, Opener]
"""Name, size in bytes according to the archive, and how to open it."""


def is_archive(path: Path) -> bool:
    """Whether a file has the name of an archive."""
    return path.name.lower().endswith((*_ZIPS, *_TARS))


class ArchiveSource(LocalSource):
    """A ``.zip``, ``.jar``, ``.tar`` or compressed ``.tar``.

    Links, absolute names and names with ``..`` in them are ignored. A compressed tar is decompressed once into an
    anonymous temporary file, because its members could otherwise only be read in order.
    """

    def handles(self, suffixes: Sequence[str]) -> list[SourceHandle]:
        """As for every source. Of two members with the same name the later counts, as for unzip and tar."""
        members = _zip_members if self.real.name.lower().endswith(_ZIPS) else _tar_members
        ends = tuple(suffixes)
        total = 0
        found: dict[str, SourceHandle] = {}
        repositories: set[str] = set()
        for member, size, opener in members(self.path, self.real):
            total += 1
            before, git, _ = f"/{member}".partition("/.git/")
            if git:
                repositories.add(f"{self.name}{printable(before)}")
            elif member.endswith(ends):
                path = f"{self.name}/{printable(str(PurePosixPath(member)))}"
                found[path] = SourceHandle(path, size, opener)
        if not found:
            raise nothing_found(self.path, suffixes, total)
        handles = [found[path] for path in sorted(found)]
        if repositories:
            handles = [replace(one, repository=_nearest(one.path, self.name, repositories)) for one in handles]
        return handles


def _nearest(path: str, name: str, repositories: set[str]) -> str | None:
    """The nearest folder above a file that is a repository; the source itself does not count."""
    folder = path.rpartition("/")[0]
    while folder not in repositories and folder != name:
        folder = folder.rpartition("/")[0]
    return folder if folder != name else None


def _safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not path.parts[0].endswith(":")


def _zip_members(path: Path, real: Path) -> Iterator[_Member]:
    try:
        archive = zipfile.ZipFile(real)  # noqa: SIM115 - stays open for its handles
    except UNREADABLE as error:
        raise _damaged(path, "zip", error) from None
    for info in archive.infolist():
        link = info.external_attr >> 28 == 0xA  # the Unix file type of a symbolic link
        if not info.is_dir() and not link and _safe(info.filename):
            yield info.filename, info.file_size, lambda info=info: archive.open(info)


def _tar_members(path: Path, real: Path) -> Iterator[_Member]:
    file = _random_access(path, real)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - stays open for its handles
        members = archive.getmembers()
    except UNREADABLE as error:
        file.close()
        raise _damaged(path, "tar", error) from None
    weakref.finalize(archive, file.close)  # tarfile does not close a file that it did not open
    for member in members:
        if member.isreg() and _safe(member.name):
            yield member.name, member.size, lambda member=member: _open_member(archive, member)


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, "only regular members are listed"
    return file


def _random_access(path: Path, real: Path) -> IO[bytes]:
    """A tar's uncompressed bytes, readable at any place."""
    inflate = _INFLATE.get(real.suffix.lower())
    if inflate is None:
        return real.open("rb")
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the archive
    try:
        with inflate(real, "rb") as packed:
            shutil.copyfileobj(packed, plain)
    except UNREADABLE as error:
        plain.close()
        raise _damaged(path, "tar", error) from None
    plain.seek(0)
    return plain


def _damaged(path: Path, kind: str, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(f"expected a whole {kind} archive at {path}, it cannot be read ({reason}); get it again")
