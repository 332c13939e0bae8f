"""Turns what a user writes, a path or a name, into a source of files. Each kind of source has a line here."""

import os
from pathlib import Path

from apmae import bundled
from apmae.corpus.archive import ArchiveSource, is_archive
from apmae.corpus.local import FileSource, FolderSource
from apmae.corpus.source import Source
from apmae.errors import SourceError


def parse_source(given: str | os.PathLike[str]) -> Source:
    """The source that a user means.

    Args:
        given: a folder, a file, a ``.zip``, ``.jar``, ``.tar`` or compressed ``.tar``; or "bundled", the Java of the
            package. A path object is always a path.

    Raises:
        SourceError: if nothing is at the path, or it is neither a folder nor a file.
    """
    if given == "bundled":
        return FolderSource(bundled.java())
    path = Path(given)
    if os.path.isdir(path):
        return FolderSource(path)
    file = FileSource(path)
    if not os.path.isfile(file.real):
        raise SourceError(f"expected a folder, file or archive at {path}, found neither; check the path")
    return ArchiveSource(path) if is_archive(file.real) else file
