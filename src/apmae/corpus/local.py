"""Sources on disk: a folder, or a single file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from apmae.artifacts import fingerprint
from apmae.corpus.source import Opener, Source, SourceHandle, nothing_found, printable
from apmae.errors import SourceError


class LocalSource(Source):
    """A source at a path.

    Args:
        path: as the user gave it.

    Raises:
        SourceError: if nothing is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise SourceError(f"expected source files at {path}, found nothing there; check the path") from None
        self.name = printable(self.real.name) or "root"
        self.identity = str(self.real)

    def fingerprint(self) -> str:
        """SHA-256 of its files, as :func:`apmae.artifacts.fingerprint` gives it."""
        return fingerprint(self.path)


class FileSource(LocalSource):
    """One source file. It is refused, not skipped, if it cannot be used: the user asked for this very file."""

    def handles(self, suffixes: Sequence[str]) -> list[SourceHandle]:
        """The file alone; its path is its name."""
        if not self.real.name.lower().endswith(tuple(suffixes)):
            raise nothing_found(self.path, suffixes, 1)
        return [
            SourceHandle(
                self.name, self.real.stat().st_size, _opener(self.identity), _explicit=True, identity=self.identity
            )
        ]


class FolderSource(LocalSource):
    """A folder, searched to any depth. Links to folders are not followed, ``.git`` is left out."""

    def handles(self, suffixes: Sequence[str]) -> list[SourceHandle]:
        """As for every source; pipes and dead links are not listed, whatever their name."""
        ends = tuple(suffixes)
        found: list[SourceHandle] = []
        total = 0
        repositories: dict[str, str] = {}
        for folder, folders, names in os.walk(self.real, onerror=_refuse_folder):
            inside = self._inside(folder)
            repository = repositories.get(os.path.dirname(folder))
            if inside != "." and (".git" in folders or ".git" in names):  # in submodules and worktrees .git is a file
                repository = f"{self.name}/{inside}"
            if repository is not None:
                repositories[folder] = repository
            folders[:] = [name for name in folders if name != ".git"]
            total += len(names)
            for name in names:
                file = os.path.join(folder, name)
                if name.endswith(ends) and os.path.isfile(file):
                    path, size = f"{self.name}/{self._inside(file)}", os.path.getsize(file)
                    found.append(SourceHandle(path, size, _opener(file), repository=repository, identity=file))
        if not found:
            raise nothing_found(self.path, suffixes, total)
        return sorted(found, key=lambda handle: handle.path)

    def _inside(self, path: str) -> str:
        return printable(os.path.relpath(path, self.real).replace(os.sep, "/"))


def _refuse_folder(error: OSError) -> NoReturn:
    raise SourceError(f"expected to list the folder {error.filename}: {error.strerror}; check permissions") from None


def _opener(file: str) -> Opener:
    return lambda: open(file, "rb")  # noqa: SIM115 - SourceHandle closes it
