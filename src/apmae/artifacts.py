"""Artifacts: what a stage leaves on disk. Shards first, ``manifest.json`` last and atomically; reused by hash.

A stage that was killed finds its journal and goes on after the last whole shard. Nothing here knows what a table means.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from apmae.errors import ArtifactError
from apmae.schema import FORMAT

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LIBRARIES = (
    "apmae",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "umap-learn",
    "hdbscan",
    "rensa",
    "tree-sitter",
)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """What an input is, by content: an artifact by its manifest, a folder by all its files, a file by its bytes.

    Raises:
        ArtifactError: if there is nothing at ``path``.
    """
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise ArtifactError(f"expected a file or folder at {path}, found none; check the path")
    manifest = path / "manifest.json"
    if manifest.is_file():
        return sha256_file(manifest)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` to write; synced and renamed to it at the end, or else removed."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    except SafetensorError as error:  # which has no errno, but says it
        number = re.search(r"os error (\d+)", str(error))
        cause = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
        raise _write_error(path, cause) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that it is either whole or not there: a temporary neighbour, synced, then renamed.

    Raises:
        ArtifactError: if the disk is full or the folder cannot be written; an earlier file at ``path`` is untouched.
    """
    with _renamed(path) as temporary, temporary.open("wb") as file:
        yield file


def write_through(path: Path, write: Callable[[Path], None]) -> None:
    """For libraries that write to a path by themselves: let them write a neighbour, then rename it.

    Raises:
        ArtifactError: as :func:`replacing`.
    """
    with _renamed(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors lets nobody but the owner read, whatever the umask says


def _write_error(path: Path, error: OSError) -> ArtifactError:
    if error.errno in _FULL:
        return ArtifactError(
            f"expected room to write {path}, the disk is full ({os.strerror(error.errno or 0)}); what was finished is "
            "kept: free some space and run the same command again"
        )
    return ArtifactError(f"cannot write {path}: {error.strerror or error}; check the folder and its permissions")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values are equal bytes."""
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
    """Write a Parquet file atomically, zstd, with page checksums."""
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
            "delete it with its manifest and run the stage again"
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an artifact is made of."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    """SHA-256 of each input, by its role."""
    files: dict[str, dict[str, Any]]
    """``{name: {"bytes": int, "sha256": str, "rows": int | None}}``"""
    counts: dict[str, Any] = field(default_factory=dict)
    """What the stage counted, reasons of drops included."""


def manifest_path(out: Path) -> Path:
    """Where an artifact's manifest is: inside its folder, or beside its one file."""
    return out.with_suffix(".manifest.json") if out.suffix == ".parquet" else out / "manifest.json"


def read_manifest(out: Path, stage: str) -> Manifest:
    """Read an artifact's manifest and check that every file is there at its full size.

    Args:
        out: the artifact: a folder, or one Parquet file.
        stage: the stage that should have made it.

    Raises:
        ArtifactError: if it is missing, unfinished, of another stage or format, or a file is missing or cut short.
    """
    path = manifest_path(out)
    if not path.is_file():
        unfinished = _journal_path(out).is_file()
        state = "it is unfinished: run its command again to go on" if unfinished else f"found none; run {stage} first"
        raise ArtifactError(f"expected a finished {stage} artifact at {out}, {state}")
    record = read_json(path)
    found = record if isinstance(record, dict) else {}
    if found.get("format") != FORMAT or found.get("stage") != stage:
        raise ArtifactError(
            f"expected stage {stage!r} of format {FORMAT} at {out}, found stage {found.get('stage')!r} of format "
            f"{found.get('format')!r}; give the right folder or make it again with this version"
        )
    root = path.parent
    for name, file in record["files"].items():
        actual = (root / name).stat().st_size if (root / name).is_file() else None
        if actual != file["bytes"]:
            found = "it is missing" if actual is None else f"it has {actual}"
            raise ArtifactError(
                f"expected {file['bytes']} bytes in {root / name}, {found}; run {stage} again with --overwrite"
            )
    return Manifest(**{key: record[key] for key in ("stage", "config", "inputs", "files", "counts")})


def read_tables(out: Path, stage: str, prefix: str, columns: list[str] | None = None) -> pa.Table:
    """Read all shards of one table of an artifact, in order."""
    names = sorted(name for name in read_manifest(out, stage).files if name.startswith(f"{prefix}-"))
    if not names:
        raise ArtifactError(f"expected files {prefix}-*.parquet in {out}, its manifest names none; run {stage} again")
    return pa.concat_tables([read_table(out / name, columns) for name in names])


def _journal_path(out: Path) -> Path:
    return out.with_suffix(".journal.jsonl") if out.suffix == ".parquet" else out / "journal.jsonl"


class Stage:
    """One stage writing one artifact.

    Use as a context manager: ``with Stage.open(...) as stage: if not stage.finished: ...; stage.finish(...)``.
    """

    def __init__(
        self,
        out: Path,
        head: dict[str, Any],
        files: dict[str, dict[str, Any]],
        lock: FileIO | None,
        *,
        resumed: bool = False,
    ) -> None:
        self.out = out
        self.root = manifest_path(out).parent
        self.resumed = resumed
        """Whether an interrupted run of the same configuration is continued."""
        self._head = head
        self._files = files
        self._lock = lock

    @classmethod
    def open(
        cls, out: Path, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str], *, overwrite: bool = False
    ) -> Self:
        """Start, continue or reuse an artifact.

        Args:
            out: the artifact's folder, or its one ``.parquet`` file.
            stage: the stage's name.
            config: everything that decides the bytes, JSON-serialisable.
            inputs: SHA-256 of each input by role (:func:`fingerprint`).
            overwrite: replace an artifact that was made from something else, instead of refusing.

        Raises:
            ArtifactError: if the folder holds an artifact of another configuration or inputs, or another process
                writes here.
        """
        head = {"format": FORMAT, "stage": stage, "config": json.loads(json.dumps(config)), "inputs": dict(inputs)}
        manifest, journal = manifest_path(out), _journal_path(out)
        try:
            manifest.parent.mkdir(parents=True, exist_ok=True)
            lock = journal.open("a+b", buffering=0)
        except OSError as error:
            raise _write_error(journal, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ArtifactError(
                f"another apmae process is writing {out}; wait for it or choose another --out"
            ) from None
        try:
            return cls._resume(out, head, manifest, journal, lock, overwrite)
        except BaseException:
            _leave(out, lock)
            raise

    @classmethod
    def _resume(
        cls, out: Path, head: dict[str, Any], manifest: Path, journal: Path, lock: FileIO, overwrite: bool
    ) -> Self:
        root = manifest.parent
        if manifest.is_file():
            record = _record(manifest, damaged_too=overwrite)
            if all(record.get(key) == head[key] for key in head) and not overwrite:
                read_manifest(out, head["stage"])
                journal.unlink(missing_ok=True)
                lock.close()
                return cls(out, head, record["files"], None)
            _refuse(out, "was made from", record, head, overwrite)
            manifest.unlink()
            _remove(root, record.get("files", {}))
        lines = _journal_lines(journal, lock)
        if lines and any(lines[0].get(key) != head[key] for key in head):
            written = [name for line in lines[1:] for name in line["files"]]
            if written or _others(out):  # else the other run left nothing that could be lost
                _refuse(out, "is half-way through", lines[0], head, overwrite)
            _remove(root, written)
            lock.truncate(0)
            lines = []
        files: dict[str, dict[str, Any]] = {}
        for line in lines[1:]:
            if all(_whole(root / name, file) for name, file in line["files"].items()):
                files |= line["files"]
        for leftover in root.glob(f".{out.stem}.*" if out.suffix == ".parquet" else ".*"):
            if _TEMPORARY.fullmatch(leftover.name):  # of a killed run: nobody else writes here
                leftover.unlink(missing_ok=True)
        stage = cls(out, head, files, lock, resumed=bool(lines))
        if not lines:
            stage._log(head)
        return stage

    @property
    def finished(self) -> bool:
        """Whether the artifact was already complete: there is nothing to do."""
        return self._lock is None

    @property
    def files(self) -> list[str]:
        """Files written whole so far, by this run or an interrupted one."""
        return sorted(self._files)

    def has(self, *names: str) -> bool:
        """Whether these files were written whole, now or by an interrupted run."""
        return all(name in self._files for name in names)

    def rows(self, prefix: str) -> int:
        """Rows of all shards of one table."""
        return sum(file["rows"] for name, file in self._files.items() if name.startswith(f"{prefix}-"))

    def write_shard(self, tables: Mapping[str, pa.Table]) -> None:
        """Write the files of one shard, then note in the journal that they are whole."""
        for name, table in tables.items():
            write_table(self.root / name, table)
        self.add_files(tables, rows={name: table.num_rows for name, table in tables.items()})

    def add_files(self, names: Iterable[str], rows: Mapping[str, int] | None = None) -> None:
        """Note files that were written whole by other means (weights, pictures)."""
        record = {}
        for name in names:
            path = self.root / name
            record[name] = {
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "rows": rows.get(name) if rows else None,
            }
        self._log({"files": record})
        self._files |= record

    def finish(self, counts: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest, last; drop the journal."""
        manifest = Manifest(
            stage=self._head["stage"],
            config=self._head["config"],
            inputs=self._head["inputs"],
            files={name: self._files[name] for name in sorted(self._files)},
            counts=dict(counts or {}),
        )
        record = {**self._head, "files": manifest.files, "counts": manifest.counts, "versions": _versions()}
        write_json(manifest_path(self.out), record)
        _journal_path(self.out).unlink(missing_ok=True)
        return manifest

    def _log(self, line: dict[str, Any]) -> None:
        assert self._lock is not None, "a finished stage writes nothing"
        size = self._lock.seek(0, os.SEEK_END)
        left = json.dumps(line).encode() + b"\n"
        try:
            while left:
                left = left[self._lock.write(left) :]
            os.fsync(self._lock.fileno())
        except OSError as error:
            self._lock.truncate(size)
            raise _write_error(_journal_path(self.out), error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is not None and kind is not None and not self._files and not _others(self.out):
            self._lock.truncate(0)  # what could not start is not half-way
        if self._lock is not None:
            _leave(self.out, self._lock)


def _leave(out: Path, lock: FileIO) -> None:
    """Give the lock up, and leave nothing behind where nothing was begun."""
    journal = _journal_path(out)
    if os.fstat(lock.fileno()).st_size == 0:
        journal.unlink(missing_ok=True)
        if out.suffix != ".parquet":
            with suppress(OSError):  # not empty
                out.rmdir()
    lock.close()


def _others(out: Path) -> list[Path]:
    """What an artifact's folder holds beside journal and leftovers, for instance a checkpoint."""
    if out.suffix == ".parquet":
        return []
    ours = _journal_path(out)
    return [path for path in out.iterdir() if path != ours and not _TEMPORARY.fullmatch(path.name)]


def _record(manifest: Path, *, damaged_too: bool) -> dict[str, Any]:
    try:
        record = read_json(manifest)
    except ArtifactError:
        if not damaged_too:
            raise
        record = {}
    return record if isinstance(record, dict) else {}


def _journal_lines(journal: Path, lock: FileIO) -> list[dict[str, Any]]:
    """The journal's whole lines; a line that a kill cut short is cut off, and its shard is made again."""
    lock.seek(0)
    content = lock.readall()
    lines: list[dict[str, Any]] = []
    end = 0
    for text in content.splitlines(keepends=True):
        try:
            line = json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            line = None
        if not isinstance(line, dict) or ("files" if lines else "stage") not in line:
            break
        lines.append(line)
        end += len(text)
    begins = b'{"format": '  # as ours do, and the first line is whole unless a kill cut it
    if content and not lines and (b"\n" in content or content[: len(begins)] != begins[: len(content)]):
        raise ArtifactError(f"expected no file or a journal of apmae at {journal}, found another; choose another --out")
    lock.truncate(end)
    return lines


def _whole(path: Path, file: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == file["bytes"] and sha256_file(path) == file["sha256"]


def _remove(root: Path, files: Iterable[str]) -> None:
    for name in files:
        if not PurePath(name).is_absolute() and ".." not in PurePath(name).parts:  # a manifest may be a stranger's
            (root / name).unlink(missing_ok=True)


def _refuse(out: Path, what: str, found: dict[str, Any], wanted: dict[str, Any], overwrite: bool) -> None:
    if overwrite:
        return
    differences = list(_differences(found, wanted))
    raise ArtifactError(
        f"{out} {what} another configuration ({'; '.join(differences[:4])}"
        f"{'; ...' if len(differences) > 4 else ''}); choose another --out, or pass --overwrite to replace it"
    )


def _differences(found: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = wanted if not where else sorted({*found, *wanted})
        for key in keys:
            yield from _differences(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif found != wanted:
        short = [
            value[:12] if where.startswith("inputs.") and isinstance(value, str) else value for value in (found, wanted)
        ]
        yield f"{where} was {short[0]!r}, now {short[1]!r}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
