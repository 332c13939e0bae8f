"""Stages: an artifact is started, resumed, reused or refused, by comparing hashes.

A stage that was killed finds its journal and resumes after the last whole shard. If a finished artifact has damaged
files, only those are made again.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path, PurePath
from typing import Any, Self

import pyarrow as pa

from apmae.artifacts.files import TEMPORARY, expect_place, replacing, write_error, write_json
from apmae.artifacts.journal import read_journal, refuse, whole_lines
from apmae.artifacts.manifest import (
    FileRecord,
    Manifest,
    Records,
    is_shard,
    journal_path,
    manifest_path,
    read_manifest,
    read_record,
    record_damage,
    record_of,
    versions,
    write_tables,
)
from apmae.artifacts.repair import Repair, damage_of, damaged_files, files_of_wrong_size, staging_of
from apmae.errors import ArtifactError
from apmae.progress import notice
from apmae.schema import FORMAT


class Stage:
    """A stage that writes one artifact.

    Use as a context manager: ``with Stage.open(...) as stage: if not stage.finished: ...; stage.finish(...)``.

    Attributes:
        root: the artifact's folder.
        staging: where files are written: the artifact's folder, or a separate one while damaged files are made again.
        resumed: whether this continues an interrupted run with the same configuration.
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
        repair: Repair | None = None,
    ) -> None:
        self.out = out
        self.root = manifest_path(out).parent
        self.staging = repair.staging if repair else self.root
        self.resumed = resumed
        self._notes = notes or {}
        self._repair = repair
        self._head = head
        self._files = files
        self._lock = lock

    @classmethod
    def open(
        cls,
        out: Path,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        overwrite: bool = False,
        repairs: bool = True,
    ) -> Self:
        """Start, resume, reuse or repair an artifact. A finished one is checked by the hashes of its files.

        Args:
            out: the artifact's folder, or its ``.parquet`` file if it is a single file.
            stage: the stage's name.
            config: everything that decides the bytes, JSON-serialisable.
            inputs: SHA-256 of each input, by its role (:func:`fingerprint`).
            overwrite: replace an artifact that was made with other settings or inputs, instead of refusing.
            repairs: make damaged files of a finished artifact again. False refuses instead, for stages that would have
                to repeat all their work.

        Raises:
            ArtifactError: if the folder holds an artifact with another configuration or other inputs, or another
                process is writing here.
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
            shutil.rmtree(staging_of(out), ignore_errors=True)  # left by a killed run: nobody else writes here
            return cls._resume(out, head, manifest, journal, lock, overwrite=overwrite, repairs=repairs)
        except BaseException:
            _leave(out, lock)
            raise

    @classmethod
    def _resume(
        cls,
        out: Path,
        head: dict[str, Any],
        manifest: Path,
        journal: Path,
        lock: FileIO,
        *,
        overwrite: bool,
        repairs: bool,
    ) -> Self:
        root = manifest.parent
        if manifest.is_file():
            record = _record(manifest, damaged_too=overwrite)
            if all(record.get(key) == head[key] for key in head) and not overwrite:
                damaged = damaged_files(out, record["files"])
                if damaged:
                    return cls._repaired(out, head, record, damaged, lock, repairs=repairs)
                journal.unlink(missing_ok=True)
                lock.close()
                return cls(out, head, record["files"], None)
            if not overwrite:
                ours = record.get("format") == FORMAT
                refuse(out, "was made", record, head, damaged=files_of_wrong_size(out, record["files"]) if ours else ())
            manifest.unlink()
            names = record.get("files")
            _remove(root, names if isinstance(names, dict) else ())
        lines = read_journal(journal, lock)
        if lines and any(lines[0].get(key) != head[key] for key in head):
            written = [name for line in lines[1:] for name in line.get("files", {})]
            if (len(lines) > 1 or _other_files(out)) and not overwrite:  # otherwise there is nothing to lose
                refuse(out, "was begun", lines[0], head)
            _remove(root, written)
            lock.truncate(0)
            lines = []
        files: Records = {}
        notes: dict[str, Any] = {}
        for line in lines[1:]:
            notes |= line.get("notes", {})
            shard = line.get("files", {})
            if not any(damage_of(root / name, file) for name, file in shard.items()):
                files |= shard
        _remove_temporary(out)
        stage = cls(out, head, files, lock, resumed=bool(lines), notes=notes)
        if not lines:
            stage._log(head)
        return stage

    @classmethod
    def _repaired(
        cls,
        out: Path,
        head: dict[str, Any],
        record: dict[str, Any],
        damaged: dict[str, str],
        lock: FileIO,
        *,
        repairs: bool,
    ) -> Self:
        """A finished artifact in which some files have to be made again."""
        if not repairs:
            reasons = [f"{name}: {why}" for name, why in damaged.items()][:3]
            raise ArtifactError(
                f"expected the files of {out} as {head['stage']} left them, {'; '.join(reasons)}; put back a copy, or "
                f"pass --overwrite to run all of {head['stage']} again"
            )
        for name, why in damaged.items():
            notice(f"{head['stage']}: making {manifest_path(out).parent / name} again: {why}")
        _remove_temporary(out)
        whole = {name: file for name, file in record["files"].items() if name not in damaged}
        lines = read_journal(journal_path(out), lock)  # of a repair that was interrupted
        if lines and any(lines[0].get(key) != head[key] for key in head):
            lock.truncate(0)
            lines = []
        notes: dict[str, Any] = {}
        for line in lines[1:]:
            notes |= line.get("notes", {})
        repair = Repair(out, record["files"], damaged, record.get("versions"))
        stage = cls(out, head, whole, lock, notes=notes, repair=repair)
        if not lines:
            stage._log(head)
        return stage

    @property
    def finished(self) -> bool:
        """Whether the artifact was already complete, so that there is nothing to do."""
        return self._lock is None

    @property
    def files(self) -> list[str]:
        """Names of the files written whole so far, by this run or an interrupted one."""
        return sorted(self._files)

    def has(self, *names: str) -> bool:
        """Whether these files were written whole, now or by an interrupted run."""
        return all(name in self._files for name in names)

    def rows(self, table: str) -> int:
        """Number of rows in all shards of one table."""
        return sum(file["rows"] for name, file in self._files.items() if is_shard(name, table))

    def add(self, records: Mapping[str, FileRecord]) -> None:
        """Note in the journal that files were written whole, all of them or none; in a repair, move them in.

        Raises:
            ArtifactError: if a damaged file was made again with other bytes.
        """
        if self._repair is not None:
            self._files |= self._repair.put(dict(records))
            return
        self._log({"files": dict(records)})
        self._files |= records

    @property
    def notes(self) -> Mapping[str, Any]:
        """The values noted so far, by this run or an interrupted one."""
        return self._notes

    def note(self, key: str, value: Any) -> None:
        """Keep a value in the journal for a run that resumes this one; :meth:`finish` drops it.

        Args:
            key: its name among the notes.
            value: JSON-serialisable.
        """
        self._log({"notes": {key: value}})
        self._notes[key] = value

    def write_tables(self, tables: Mapping[str, pa.Table]) -> None:
        """Write Parquet files that belong together, then note that they are whole."""
        self.add(write_tables(self.staging, tables))

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files that belong together, then note that they are whole.

        Args:
            files: the content of each file, by its path in the artifact's folder.
        """
        for name, content in files.items():
            with replacing(self.staging / name) as file:
                file.write(content)
        self.add_files(files)

    def add_files(self, names: Iterable[str]) -> None:
        """Note files that were written whole to :attr:`staging` in another way (weights, pictures)."""
        self.add({name: record_of(self.staging / name) for name in names})

    def finish(self, counts: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest, last, and drop the journal. After a repair the manifest stays as it was."""
        if self._repair is not None:
            self._repair.expect_nothing_left()
            journal_path(self.out).unlink(missing_ok=True)
            return read_manifest(self.out, self._head["stage"])
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
        # a repair moves its files in at once: only its notes are not finished
        begun = self._notes or (self._repair is None and (self._files or _other_files(self.out)))
        if self._lock is not None and kind is not None and not begun:
            self._lock.truncate(0)
        if self._repair is not None:
            self._repair.close()
        if self._lock is not None:
            _leave(self.out, self._lock)


def expect_stage(out: Path, stage: str, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Refuse what :meth:`Stage.open` would refuse, as far as that is known before inputs are read and models loaded.

    Args:
        out: as for :meth:`Stage.open`.
        stage: the stage's name.
        config: part of what decides the bytes; keys that are left out are not compared.
        overwrite: as for :meth:`Stage.open`.

    Raises:
        ArtifactError: if something is in the way at ``out``, or there is an artifact with another configuration.
    """
    expect_place(out, folder=out.suffix != ".parquet")
    if overwrite:
        return
    known = {"format": FORMAT, "stage": stage}, json.loads(json.dumps(config))
    manifest, journal = manifest_path(out), journal_path(out)
    if manifest.is_file():
        _expect_same(out, "was made", _record(manifest, damaged_too=False), *known)
    elif journal.is_file():
        lines, _ = whole_lines(journal.read_bytes())
        if len(lines) > 1 or (lines and _other_files(out)):
            _expect_same(out, "was begun", lines[0], *known)


def _expect_same(out: Path, what: str, found: dict[str, Any], head: dict[str, Any], config: dict[str, Any]) -> None:
    before = found.get("config")
    wanted = {**found, **head, "config": {**(before if isinstance(before, dict) else {}), **config}}
    if wanted != found:
        refuse(out, what, found, wanted)


def _leave(out: Path, lock: FileIO) -> None:
    """Release the lock, and remove the journal and the empty folder if nothing was begun."""
    journal = journal_path(out)
    if os.fstat(lock.fileno()).st_size == 0:
        journal.unlink(missing_ok=True)
        if out.suffix != ".parquet":
            with suppress(OSError):  # not empty
                out.rmdir()
    lock.close()


def _other_files(out: Path) -> list[Path]:
    """Files in an artifact's folder other than the journal and temporary files, for instance a checkpoint."""
    if out.suffix == ".parquet":
        return []
    ours = journal_path(out)
    return [path for path in out.iterdir() if path != ours and not TEMPORARY.fullmatch(path.name)]


def _record(manifest: Path, *, damaged_too: bool) -> dict[str, Any]:
    """A manifest's fields; with ``damaged_too`` those that are left of them."""
    try:
        record = read_record(manifest)
        # Other formats may have other fields; they are refused for their format.
        damage = record_damage(record) if record.get("format") == FORMAT else None
        if damage is not None and not damaged_too:
            raise ArtifactError(f"expected a whole manifest in {manifest}, it is damaged ({damage})")
    except ArtifactError as error:
        if not damaged_too:
            raise ArtifactError(f"{error}; pass --overwrite to make the artifact again") from None
        record = {}
    return record


def _remove_temporary(out: Path) -> None:
    """Remove the temporary files that a killed run left: nobody else writes here."""
    root = manifest_path(out).parent
    for leftover in root.glob(f".{out.stem}.*" if out.suffix == ".parquet" else ".*"):
        if TEMPORARY.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def _remove(root: Path, files: Iterable[str]) -> None:
    for name in files:
        if not PurePath(name).is_absolute() and ".." not in PurePath(name).parts:  # a manifest may come from a stranger
            (root / name).unlink(missing_ok=True)
