"""Manifests: what an artifact was made from and which files it has. Written last: an artifact with one is finished.

There are no time stamps, so equal inputs give equal bytes. File sizes are checked whenever an artifact is opened,
hashes when a run resumes; Parquet pages carry checksums.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from apmae.artifacts.files import read_table, sha256_file, write_table
from apmae.errors import ArtifactError
from apmae.schema import FORMAT

FileRecord = dict[str, Any]
"""``{"bytes": int, "sha256": str, "rows": int | None}`` for one file that was written whole."""
Records = dict[str, FileRecord]
"""The records of several files, by name."""
_FIELDS = {"bytes": int, "sha256": str, "rows": int | None}
"""The fields of a file's record, and their types."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an artifact was made from, and its files."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    """SHA-256 of each input, by its role."""
    files: dict[str, FileRecord]
    """The record of each file, by its name in the artifact's folder."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What the stage counted, including the reasons for what it dropped."""

    def shards(self, table: str) -> dict[str, FileRecord]:
        """The files of one table that was written in shards, in order."""
        return {name: self.files[name] for name in sorted(self.files) if is_shard(name, table)}


def manifest_path(out: Path) -> Path:
    """Where an artifact's manifest is: in its folder, or beside it if it is a single file."""
    return out.with_suffix(".manifest.json") if out.suffix == ".parquet" else out / "manifest.json"


def journal_path(out: Path) -> Path:
    """Where an unfinished artifact's journal is."""
    return out.with_suffix(".journal.jsonl") if out.suffix == ".parquet" else out / "journal.jsonl"


def read_manifest(out: Path, stage: str) -> Manifest:
    """Read an artifact's manifest and check that every file is there at its full size.

    Args:
        out: the artifact: a folder, or a single Parquet file.
        stage: the stage that should have made it.

    Raises:
        ArtifactError: if it is missing, unfinished or of another stage or format, or a file is missing or cut short.
    """
    path = manifest_path(out)
    if not path.is_file():
        unfinished = journal_path(out).is_file()
        state = "it is unfinished: run its command again to resume" if unfinished else f"found none; run {stage} first"
        raise ArtifactError(f"expected a finished {stage} artifact at {out}, {state}")
    try:
        found = read_record(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; run {stage} again with --overwrite") from None
    if found.get("format") != FORMAT or found.get("stage") != stage:
        raise ArtifactError(
            f"expected stage {stage!r} of format {FORMAT} at {out}, found stage {found.get('stage')!r} of format "
            f"{found.get('format')!r}; give the right folder or make it again with this version"
        )
    if damage := record_damage(found):
        raise ArtifactError(
            f"expected a whole manifest in {path}, it is damaged ({damage}); run {stage} again with --overwrite"
        )
    root, record = path.parent, found
    for name, file in record["files"].items():
        actual = (root / name).stat().st_size if (root / name).is_file() else None
        if actual != file["bytes"]:
            state = "it is missing" if actual is None else f"it has {actual}"
            raise ArtifactError(
                f"expected {file['bytes']} bytes in {root / name}, {state}; run {stage} again as before: "
                "it makes damaged files again"
            )
    return Manifest(**{key: record[key] for key in ("stage", "config", "inputs", "files", "counts")})


def read_record(path: Path) -> dict[str, Any]:
    """Read a manifest's fields, whatever they are; none if it is JSON of another kind.

    Raises:
        ArtifactError: if it is not JSON; the message does not say yet how to make it again.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"expected a manifest at {path}: {error.strerror}") from None
    except ValueError as error:
        raise ArtifactError(f"expected a whole manifest in {path}, it is damaged ({error})") from None
    return record if isinstance(record, dict) else {}


def record_damage(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a manifest's fields; None if all are there."""
    for key in ("config", "inputs", "files", "counts"):
        if not isinstance(record.get(key), dict):
            return f"it has no {key}"
    for name, file in record["files"].items():
        for key, kinds in _FIELDS.items():
            if not isinstance(file, dict) or not isinstance(file.get(key, ...), kinds):
                return f"its record of {name} has no {key}"
    return None


def shard_file(table: str, number: int) -> str:
    """The file name of one shard of a table, for instance ``embeddings-00003.parquet``."""
    return f"{table}-{number:05d}.parquet"


def is_shard(name: str, table: str) -> bool:
    """Whether a file is a shard of this table."""
    return name.startswith(f"{table}-") and name.endswith(".parquet")


def read_tables(out: Path, stage: str, table: str, columns: list[str] | None = None) -> pa.Table:
    """Read all shards of one table of an artifact, in order."""
    names = read_manifest(out, stage).shards(table)
    if not names:
        raise ArtifactError(f"expected files {table}-*.parquet in {out}, its manifest names none; run {stage} again")
    return pa.concat_tables([read_table(out / name, columns) for name in names])


def record_of(path: Path, rows: int | None = None) -> FileRecord:
    """The record of one whole file, as manifests hold it."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path), "rows": rows}


def write_tables(root: Path, tables: Mapping[str, pa.Table]) -> Records:
    """Write Parquet files, each atomically, and return their records.

    Args:
        root: the artifact's folder.
        tables: the tables, by file name.
    """
    for name, table in tables.items():
        write_table(root / name, table)
    return {name: record_of(root / name, table.num_rows) for name, table in tables.items()}


def fingerprint(path: Path) -> str:
    """A hash of an input's content: of an artifact's manifest, of all files in a folder, of a file's bytes.

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
    digest = sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that decide an artifact's bytes; those that are not installed are left out."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
