"""Source files from folders, single files, zips and tars: listed first, then read one at a time. Torch-free.

Listing is cheap and in a fixed order; memory stays flat whatever the size of the source. Whatever cannot be used is
counted by its reason, never silently lost.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from apmae.errors import SourceError

LARGEST = 1_000_000
"""Bytes of the largest file that is read: longer ones are generated code or data."""

_ZIPS = (".zip", ".jar")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_INFLATE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((".gz", ".tgz"), gzip.open),
    **dict.fromkeys((".bz2", ".tbz2"), bz2.open),
    **dict.fromkeys((".xz", ".txz"), lzma.open),
}
# RuntimeError: an encrypted member; NotImplementedError: an unknown compression
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)
_Opener = Callable[[], IO[bytes]]
_REASONS = {
    "not_utf8": "expected UTF-8, found other bytes: convert it (iconv -t UTF-8)",
    "too_large": f"expected at most {LARGEST} bytes: split it",
    "empty": "expected source code, it is empty",
    "binary": "expected text, found NUL bytes: give a source file",
    "unreadable": "it cannot be read: check that it is whole and its permissions",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One source file. Line ends are as in the file; a byte order mark is gone."""

    path: str
    """POSIX path that starts with the name of the source, so that two sources cannot collide."""
    text: str


@dataclass(frozen=True, slots=True)
class SourceHandle:
    """A file that was listed and can be read, more than once and in any order."""

    path: str
    size: int
    """Bytes, as the folder or archive says."""
    _open: _Opener
    _explicit: bool = False
    repository: str | None = None
    """Folder of the repository that the file is in, a beginning of ``path``: the nearest that holds ``.git``, below
    the source. None where there is none: a source that is itself a repository says nothing about its files."""

    def read(self, rejected: Counter[str]) -> SourceFile | None:
        """Read the file.

        Args:
            rejected: where a file that cannot be used is counted: "not_utf8", "too_large" (over ``LARGEST`` bytes),
                "empty" (nothing but blanks), "binary" (NUL bytes) or "unreadable" (damaged, encrypted, forbidden).

        Returns:
            The file, or None if it was rejected.

        Raises:
            SourceError: if it was named by itself, not found in a folder or archive, and cannot be used.
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
        except _UNREADABLE:
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


def list_sources(paths: Sequence[str | os.PathLike[str]], *, suffixes: Sequence[str]) -> list[SourceHandle]:
    """List the source files, without reading them.

    Folders are searched to any depth (links to folders are not followed); archives are never extracted, and links,
    absolute names and names with ``..`` in them are ignored. A compressed tar is decompressed once into an anonymous
    temporary file, because its members could not be read in another order; no member becomes a file.

    Args:
        paths: folders, files, ``.zip``, ``.jar``, ``.tar`` or compressed ``.tar``; what is named twice is read once.
        suffixes: how the wanted files' names end, for instance ``(".java",)``.

    Returns:
        Handles, source by source as given, sorted by path within each.

    Raises:
        SourceError: if a path is missing, an archive cannot be read, or a source has no file of these suffixes.
    """
    handles: list[SourceHandle] = []
    labels: set[str] = set()
    seen: set[str] = set()
    for given in paths:
        path = Path(given)
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise SourceError(f"expected source files at {path}, found nothing there; check the path") from None
        if str(real) in seen:
            continue
        label = _label(real.name, labels)
        found, usable, total = _list_one(path, real, label, tuple(suffixes), seen)
        if not usable:
            wanted = " or ".join(suffixes)
            raise SourceError(
                f"expected {wanted} files under {path}, found none among {total} files; "
                "give another source or another language"
            )
        handles += sorted(found, key=lambda handle: handle.path)
        seen.add(str(real))
    return handles


def read_sources(
    paths: Sequence[str | os.PathLike[str]], *, suffixes: Sequence[str], rejected: Counter[str]
) -> Iterator[SourceFile]:
    """Read source files one at a time, in the order of :func:`list_sources`.

    Args:
        paths: as for :func:`list_sources`.
        suffixes: as for :func:`list_sources`.
        rejected: counts the files that cannot be used, by reason (:meth:`SourceHandle.read`).

    Raises:
        SourceError: as :func:`list_sources`, and if a file that was named by itself cannot be used.
    """
    for handle in list_sources(paths, suffixes=suffixes):
        file = handle.read(rejected)
        if file is not None:
            yield file


def _label(name: str, labels: set[str]) -> str:
    """One path component, unlike any other source's."""
    name = _printable(name) or "root"
    label, copy = name, 1
    while label in labels:
        copy += 1
        label = f"{name}~{copy}"
    labels.add(label)
    return label


def _printable(name: str) -> str:
    # a file name need not be UTF-8, a column of a table must be
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _list_one(
    path: Path, real: Path, label: str, suffixes: tuple[str, ...], seen: set[str]
) -> tuple[list[SourceHandle], int, int]:
    """One source: its handles, how many files have a wanted suffix, how many files there are."""
    if real.is_dir():
        return _list_folder(real, label, suffixes, seen)
    if not real.is_file():
        raise SourceError(f"expected a folder, file or archive at {path}, found neither; check the path")
    name = real.name.lower()
    if name.endswith(_ZIPS):
        members = _zip_members(path, real)
    elif name.endswith(_TARS):
        members = _tar_members(path, real)
    elif name.endswith(suffixes):
        return [SourceHandle(label, real.stat().st_size, _opener(str(real)), _explicit=True)], 1, 1
    else:
        return [], 0, 1
    total = 0
    found: dict[str, SourceHandle] = {}
    repositories: set[str] = set()
    for member, size, opener in members:
        total += 1
        before, git, _ = f"/{member}".partition("/.git/")
        if git:
            repositories.add(f"{label}{_printable(before)}")
        elif member.endswith(suffixes):  # of two members of one name the later counts, as for unzip and tar
            member_path = f"{label}/{_printable(str(PurePosixPath(member)))}"
            found[member_path] = SourceHandle(member_path, size, opener)
    handles = list(found.values())
    if repositories:
        handles = [replace(handle, repository=_nearest(handle.path, label, repositories)) for handle in handles]
    return handles, len(found), total


def _nearest(path: str, label: str, repositories: set[str]) -> str | None:
    """The deepest folder above a file that is a repository, the source itself left out."""
    folder = path.rpartition("/")[0]
    while folder not in repositories and folder != label:
        folder = folder.rpartition("/")[0]
    return folder if folder != label else None


def _list_folder(
    real: Path, label: str, suffixes: tuple[str, ...], seen: set[str]
) -> tuple[list[SourceHandle], int, int]:
    found = []
    wanted = total = 0
    repositories: dict[str, str] = {}
    for folder, folders, names in os.walk(real, onerror=_refuse_folder):
        inside = _printable(os.path.relpath(folder, real).replace(os.sep, "/"))
        repository = repositories.get(os.path.dirname(folder))
        if inside != "." and (".git" in folders or ".git" in names):  # a file in submodules and worktrees
            repository = f"{label}/{inside}"
        if repository is not None:
            repositories[folder] = repository
        folders[:] = [name for name in folders if name != ".git"]
        for name in names:
            total += 1
            file = os.path.join(folder, name)
            if not name.endswith(suffixes) or not os.path.isfile(file):  # a pipe or a dead link cannot be read
                continue
            wanted += 1
            if file not in seen:
                seen.add(file)
                relative = _printable(os.path.relpath(file, real).replace(os.sep, "/"))
                size = os.path.getsize(file)
                found.append(SourceHandle(f"{label}/{relative}", size, _opener(file), repository=repository))
    return found, wanted, total


def _refuse_folder(error: OSError) -> NoReturn:
    raise SourceError(f"expected to list the folder {error.filename}: {error.strerror}; check permissions") from None


def _opener(file: str) -> _Opener:
    return lambda: open(file, "rb")  # noqa: SIM115 - SourceHandle closes it


def _safe(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not path.parts[0].endswith(":")


def _zip_members(path: Path, real: Path) -> Iterator[tuple[str, int, _Opener]]:
    try:
        archive = zipfile.ZipFile(real)  # noqa: SIM115 - open as long as its handles
    except _UNREADABLE as error:
        raise _damaged(path, "zip", error) from None
    for info in archive.infolist():
        link = info.external_attr >> 28 == 0xA  # the Unix file type of a symbolic link
        if not info.is_dir() and not link and _safe(info.filename):
            yield info.filename, info.file_size, lambda info=info: archive.open(info)


def _tar_members(path: Path, real: Path) -> Iterator[tuple[str, int, _Opener]]:
    file = _random_access(path, real)
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - open as long as its handles
        members = archive.getmembers()
    except _UNREADABLE as error:
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
    """A tar's plain bytes."""
    inflate = _INFLATE.get(real.suffix.lower())
    if inflate is None:
        return real.open("rb")
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the archive
    try:
        with inflate(real, "rb") as packed:
            shutil.copyfileobj(packed, plain)
    except _UNREADABLE as error:
        plain.close()
        raise _damaged(path, "tar", error) from None
    plain.seek(0)
    return plain


def _damaged(path: Path, kind: str, error: Exception) -> SourceError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SourceError(f"expected a whole {kind} archive at {path}, it cannot be read ({reason}); get it again")
