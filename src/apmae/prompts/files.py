"""Prompts on disk: Parquet with the columns of ``schema.PROMPTS``, or anyone's own as JSONL. Torch-free."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from apmae.artifacts import read_table, replacing
from apmae.errors import SourceError
from apmae.prompts.sampling import Prompt, split_of
from apmae.schema import PROMPTS

_NAMES = tuple(field.name for field in fields(Prompt))
_CHOICES = {"split": ("train", "held_out"), "outcome": ("correct", "incorrect")}


def to_table(prompts: Iterable[Prompt]) -> pa.Table:
    """Prompts as a table with the columns of ``schema.PROMPTS``."""
    return pa.Table.from_pylist([{name: getattr(prompt, name) for name in _NAMES} for prompt in prompts], PROMPTS)


def from_table(table: pa.Table) -> list[Prompt]:
    """Prompts from a table; columns beyond those of ``schema.PROMPTS`` are left out.

    Raises:
        SourceError: if a column is missing, of another type or has nulls where it may not, or ids repeat.
    """
    missing = [name for name in _NAMES if name not in table.column_names]
    if missing:
        raise SourceError(
            f"expected the columns {', '.join(_NAMES)}, missing {', '.join(missing)}; make the table with apmae prompts"
        )
    for field in PROMPTS:
        if not field.nullable and table[field.name].null_count:
            raise SourceError(f"expected a value in every row of column {field.name}, found nulls; fill them")
    try:
        rows = table.select(list(_NAMES)).cast(PROMPTS).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SourceError(f"expected the column types of apmae prompts, found others ({reason}); convert") from None
    prompts = [Prompt(**row) for row in rows]
    seen: dict[str, str] = {}
    for row, prompt in enumerate(prompts):
        if not prompt.completion:
            raise SourceError(f"row {row}: expected a completion, it is empty; give the text that was taken out")
        _check_id(prompt.id, f"row {row}", seen)
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from ``.parquet`` or ``.jsonl``.

    A line of JSONL holds ``prompt`` and ``completion``, and may hold ``suffix``, ``task`` (else "custom"), ``id`` (else
    "line-N") and the other fields that :func:`write_jsonl` writes; fields beyond those are left out. A prompt without
    ``path`` is a source file of its own.

    Raises:
        SourceError: if the file is missing or empty, or a row is not a prompt; says which row and field.
        ArtifactError: if a Parquet file is damaged.
    """
    if path.suffix not in (".parquet", ".jsonl"):
        raise SourceError(f"expected prompts in a .parquet or .jsonl file, got {path}; convert it to one of them")
    if not path.is_file():
        raise SourceError(f"expected a file of prompts at {path}, found none; check the path")
    try:
        prompts = _read_jsonl(path) if path.suffix == ".jsonl" else from_table(read_table(path))
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    if not prompts:
        raise SourceError(f"{path}: expected at least one prompt, found none; give a file with prompts")
    return prompts


def write_jsonl(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts one a line, atomically; :func:`read_prompts` reads them back as they were.

    Raises:
        ArtifactError: if the file cannot be written.
    """
    with replacing(path) as file:
        for prompt in prompts:
            row = {"prompt" if name == "prefix" else name: value for name, value in asdict(prompt).items()}
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _read_jsonl(path: Path) -> list[Prompt]:
    prompts = []
    seen: dict[str, str] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                prompt = _from_line(line, number, path.name)
                _check_id(prompt.id, f"line {number}", seen)
                prompts.append(prompt)
    return prompts


def _from_line(line: bytes, number: int, source: str) -> Prompt:
    where = f"line {number}"
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: expected UTF-8, found another byte at {error.start}; convert the file") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: expected a JSON object, found none ({error}); one prompt a line") from None
    if not isinstance(row, dict):
        raise SourceError(f"{where}: expected a JSON object, got {line[:40]!r}; one prompt a line")
    prefix, completion = _string(row, "prompt", where), _string(row, "completion", where)
    if not completion:
        raise SourceError(f"{where}: expected text in field 'completion', it is empty; give the text that is expected")
    identity = _string(row, "id", where, f"line-{number}")
    origin = _string(row, "path", where, f"{source}:{number}")
    return Prompt(
        id=identity,
        task=_string(row, "task", where, "custom"),
        language=_string(row, "language", where, "unknown"),
        path=origin,
        split=_string(row, "split", where, split_of(origin, 0)),
        line=_count(row, "line", where, prefix.count("\n") + 1),
        start=_count(row, "start", where, len(prefix)),
        prefix=prefix,
        completion=completion,
        suffix=None if row.get("suffix") is None else _string(row, "suffix", where),
        outcome=None if row.get("outcome") is None else _string(row, "outcome", where),
    )


def _string(row: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        found = f"got {value!r}"[:80] if name in row else "it is missing"
        raise SourceError(f"{where}: expected a string in field {name!r}, {found}; give one")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which is no character
        raise SourceError(f"{where}: expected Unicode text in field {name!r}, found half a surrogate pair") from None
    if name in _CHOICES and value not in _CHOICES[name]:
        choices = " or ".join(_CHOICES[name])
        raise SourceError(f"{where}: expected {choices} in field {name!r}, got {value[:40]!r}; give one of them")
    return value


def _count(row: dict[str, Any], name: str, where: str, default: int) -> int:
    value = row.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise SourceError(f"{where}: expected a count in field {name!r}, got {value!r}; give one"[:200])
    return value


def _check_id(identity: str, where: str, seen: dict[str, str]) -> None:
    if identity in seen:
        raise SourceError(f"{where}: expected an id of its own, {identity!r} is that of {seen[identity]}; rename one")
    seen[identity] = where
