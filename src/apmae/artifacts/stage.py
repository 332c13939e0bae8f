"""Stages: one artifact is started, resumed, reused or refused, by hash.

A stage that was killed finds its journal and resumes after the last whole shard.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path, PurePath
from typing import Any, Self

import pyarrow as pa

from apmae.artifacts.files import (
    TEMPORARY,
    expect_place,
    read_json,
    replacing,
    sha256_file,
    write_error,
    write_json,
)
from apmae.artifacts.manifest import (
    FileRecord,
    Manifest,
    Records,
    is_shard,
    journal_path,
    manifest_path,
    read_manifest,
    record_of,
    versions,
    write_tables,
)
from apmae.errors import ArtifactError
from apmae.schema import FORMAT


class Stage:
    """One stage writing one artifact.

    Use as a context manager: ``with Stage.open(...) as stage: if not stage.finished: ...; stage.finish(...)``.
    """

    def __init__(
        self,
        out: Path,
        head: dict[str, Any],
        files: Records,
        lock: FileIO | None,
        *,
        resumed: bool = False,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.out = out
        self.root = manifest_path(out).parent
        self.resumed = resumed
        """Whether an interrupted run of the same configuration is continued."""
        self._notes = notes or {}
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
        manifest, journal = manifest_path(out), journal_path(out)
        expect_place(out, folder=out.suffix != ".parquet")
        try:
            manifest.parent.mkdir(parents=True, exist_ok=True)
            lock = journal.open("a+b", buffering=0)
        except OSError as error:
            raise write_error(journal, error) from error
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
            written = [name for line in lines[1:] for name in line.get("files", {})]
            if len(lines) > 1 or _others(out):  # else the other run left nothing that could be lost
                _refuse(out, "is half-way through", lines[0], head, overwrite)
            _remove(root, written)
            lock.truncate(0)
            lines = []
        files: Records = {}
        notes: dict[str, Any] = {}
        for line in lines[1:]:
            notes |= line.get("notes", {})
            found = line.get("files", {})
            if all(_whole(root / name, file) for name, file in found.items()):
                files |= found
        for leftover in root.glob(f".{out.stem}.*" if out.suffix == ".parquet" else ".*"):
            if TEMPORARY.fullmatch(leftover.name):  # of a killed run: nobody else writes here
                leftover.unlink(missing_ok=True)
        stage = cls(out, head, files, lock, resumed=bool(lines), notes=notes)
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

    def rows(self, table: str) -> int:
        """Rows of all shards of one table."""
        return sum(file["rows"] for name, file in self._files.items() if is_shard(name, table))

    def add(self, records: Mapping[str, FileRecord]) -> None:
        """Note in the journal that files were written whole, all of them or none."""
        self._log({"files": dict(records)})
        self._files |= records

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was noted so far, by this run or an interrupted one."""
        return self._notes

    def note(self, key: str, value: Any) -> None:
        """Keep a value in the journal for a run that resumes this one; :meth:`finish` drops it.

        Args:
            key: what it is found by.
            value: JSON-serialisable.
        """
        self._log({"notes": {key: value}})
        self._notes[key] = value

    def write_tables(self, tables: Mapping[str, pa.Table]) -> None:
        """Write Parquet files that belong together, then note that they are whole."""
        self.add(write_tables(self.root, tables))

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files that belong together, then note that they are whole.

        Args:
            files: content by path in the artifact's folder.
        """
        for name, content in files.items():
            with replacing(self.root / name) as file:
                file.write(content)
        self.add_files(files)

    def add_files(self, names: Iterable[str]) -> None:
        """Note files that were written whole by other means (weights, pictures)."""
        self.add({name: record_of(self.root / name) for name in names})

    def finish(self, counts: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest, last; drop the journal."""
        manifest = Manifest(
            stage=self._head["stage"],
            config=self._head["config"],
            inputs=self._head["inputs"],
            files={name: self._files[name] for name in sorted(self._files)},
            counts=dict(counts or {}),
        )
        record = {**self._head, "files": manifest.files, "counts": manifest.counts, "versions": versions()}
        write_json(manifest_path(self.out), record)
        journal_path(self.out).unlink(missing_ok=True)
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
            raise write_error(journal_path(self.out), error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is not None and kind is not None and not (self._files or self._notes) and not _others(self.out):
            self._lock.truncate(0)  # what could not start is not half-way
        if self._lock is not None:
            _leave(self.out, self._lock)


def expect_stage(out: Path, stage: str, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Refuse what :meth:`Stage.open` would refuse, as far as it can be told before inputs are read and models loaded.

    Args:
        out: as for :meth:`Stage.open`.
        stage: the stage's name.
        config: some of what decides the bytes; keys that are left out are not compared.
        overwrite: as for :meth:`Stage.open`.

    Raises:
        ArtifactError: if something is in the way at ``out``, or it holds an artifact of another configuration.
    """
    expect_place(out, folder=out.suffix != ".parquet")
    if overwrite:
        return
    known = {"format": FORMAT, "stage": stage}, json.loads(json.dumps(config))
    manifest, journal = manifest_path(out), journal_path(out)
    if manifest.is_file():
        _expect_same(out, "was made from", _record(manifest, damaged_too=False), *known)
    elif journal.is_file():
        lines, _ = _whole_lines(journal.read_bytes())
        if any(line["files"] for line in lines[1:]) or (lines and _others(out)):
            _expect_same(out, "is half-way through", lines[0], *known)


def _expect_same(out: Path, what: str, found: dict[str, Any], head: dict[str, Any], config: dict[str, Any]) -> None:
    before = found.get("config")
    wanted = {**found, **head, "config": {**(before if isinstance(before, dict) else {}), **config}}
    if wanted != found:
        _refuse(out, what, found, wanted, overwrite=False)


def _leave(out: Path, lock: FileIO) -> None:
    """Give the lock up, and leave nothing behind where nothing was begun."""
    journal = journal_path(out)
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
    ours = journal_path(out)
    return [path for path in out.iterdir() if path != ours and not TEMPORARY.fullmatch(path.name)]


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
    lines, end = _whole_lines(content)
    begins = b'{"format": '  # as ours do, and the first line is whole unless a kill cut it
    if content and not lines and (b"\n" in content or content[: len(begins)] != begins[: len(content)]):
        raise ArtifactError(f"expected no file or a journal of apmae at {journal}, found another; choose another --out")
    lock.truncate(end)
    return lines


def _whole_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines of a journal that are whole, and where they end."""
    lines: list[dict[str, Any]] = []
    end = 0
    for text in content.splitlines(keepends=True):
        try:
            line = json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            line = None
        expected = ("files", "notes") if lines else ("stage",)
        if not isinstance(line, dict) or not any(key in line for key in expected):
            break
        lines.append(line)
        end += len(text)
    return lines, end


def _whole(path: Path, file: FileRecord) -> bool:
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
