"""Files of an artifact: whole or absent, whatever happens during the write. Nothing here knows what a table means."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from apmae.errors import ArtifactError

TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")
"""The name of a file while it is being written; a killed run leaves it on disk."""
_STREAMS = ("/dev/stdout", "/dev/stderr")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_place(path: Path, *, folder: bool = False) -> None:
    """Check that a file, or a folder of files with ``folder``, can be written at a path, before any work is done.

    Raises:
        ArtifactError: if something else is in the way, or its parent folder cannot be written.
    """
    _expect_kind(path, folder=folder)
    if _is_special(path):
        return
    above = path if folder else path.parent
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # raises if the name itself is impossible
        while not above.exists():
            above = above.parent
        with TemporaryFile(dir=above):  # only an attempt shows whether the disk is read-only or full
            pass
    except NotADirectoryError:
        raise ArtifactError(f"cannot write {path}: {above} is a file; check the folder") from None
    except OSError as error:
        raise write_error(path, error) from error


def _expect_kind(path: Path, *, folder: bool = False) -> None:
    if os.path.isdir(path) and not folder:
        raise ArtifactError(f"expected a file to write, {path} is a folder; add a file name")
    if folder and os.path.exists(path) and not os.path.isdir(path):
        raise ArtifactError(f"expected a folder to write, {path} is a file; choose another")


def _is_special(path: Path) -> bool:
    """Whether a path names a pipe or a device, such as /dev/stdout, which is written to and not replaced."""
    if not os.path.exists(path) or os.path.isdir(path):
        return False
    return not os.path.isfile(path) or str(path) in _STREAMS or path.is_relative_to("/dev/fd")


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to write; synced and renamed to it at the end, removed if anything fails."""
    _expect_kind(path)
    if _is_special(path):
        try:
            yield path
        except BrokenPipeError:  # a reader that leaves, as head does, wants no more: that is no failure
            pass
        except OSError as error:
            raise write_error(path, error) from error
        return
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    except SafetensorError as error:  # it has no errno, but its message does
        number = re.search(r"os error (\d+)", str(error))
        cause = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
        raise write_error(path, cause) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that it is either whole or absent: a temporary file beside it, synced, then renamed.

    A pipe or a device is written to as it is; what a pipe's reader does not wait for is dropped.

    Raises:
        ArtifactError: if the disk is full or the folder cannot be written; an earlier file at ``path`` is untouched.
    """
    with _renamed(path) as temporary, temporary.open("wb") as file:
        yield file


def write_through(path: Path, write: Callable[[Path], None]) -> None:
    """For libraries that write to a path themselves: let them write a temporary file beside it, then rename that.

    Raises:
        ArtifactError: as for :func:`replacing`.
    """
    with _renamed(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files readable by their owner only, whatever the umask


def write_error(path: Path, error: OSError) -> ArtifactError:
    """The error for a file that could not be written."""
    if error.errno in _FULL:
        return ArtifactError(
            f"expected room to write {path}, the disk is full ({os.strerror(error.errno or 0)}); finished work "
            "is kept: free some space and run the same command again"
        )
    return ArtifactError(f"cannot write {path}: {error.strerror or error}; check the folder and its permissions")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"expected a JSON file at {path}: {error.strerror}; was the stage finished?") from None
    except ValueError as error:
        raise ArtifactError(f"expected JSON in {path}, it is damaged ({error}); make the artifact again") from None


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically, compressed with zstd, with page checksums."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, checking its page checksums.

    Raises:
        ArtifactError: if the file is missing, cut short or damaged.
    """
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtifactError(f"expected a Parquet file at {path}, found none; was the stage finished?") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"expected a whole Parquet file, {path} is damaged ({path.stat().st_size} bytes: {reason}); "
            "if apmae made it, run that stage again as before: it makes damaged files again"
        ) from None
