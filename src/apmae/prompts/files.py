"""Prompts on disk: Parquet with the columns of ``schema.PROMPTS``, or a user's own as JSONL. Torch-free."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from apmae.artifacts import read_table, replacing
from apmae.errors import MalformedError, SourceError
from apmae.prompts.own import parse_line
from apmae.prompts.prompt import Answer, Prompt
from apmae.schema import PROMPTS

_ANSWER = tuple(name for name in Answer._fields if name in PROMPTS.names)  # the column ``outcome`` says "correct"
_NAMES = tuple(name for field in fields(Prompt) for name in ((field.name,) if field.name != "answer" else _ANSWER))
_OPTIONAL = ("repository", *_ANSWER, "group", "counterfactual", "accepted", "wrong")
"""Columns that a user's table may lack."""

SUFFIXES = (".parquet", ".jsonl")
"""How the name of a prompts file ends."""

MISTAKES = 20
"""Mistakes after which reading a JSONL file stops."""


def to_table(prompts: Iterable[Prompt]) -> pa.Table:
    """Prompts as a table with the columns of ``schema.PROMPTS``."""
    return pa.Table.from_pylist([_row(prompt) for prompt in prompts], PROMPTS)


def _row(prompt: Prompt) -> dict[str, Any]:
    answer = {} if prompt.answer is None else prompt.answer._asdict()
    return {name: answer.get(name) if name in _ANSWER else getattr(prompt, name) for name in _NAMES}


def _prompt(row: dict[str, Any]) -> Prompt:
    values = {name: row.pop(name) for name in _ANSWER}
    answer = None
    if all(values[name] is not None for name in _ANSWER if name not in Answer._field_defaults):
        answer = Answer(**values, correct=row["outcome"] == "correct")
    return Prompt(**{**row, "accepted": tuple(row["accepted"]), "wrong": tuple(row["wrong"]), "answer": answer})


def from_table(table: pa.Table) -> list[Prompt]:
    """Prompts from a table; columns beyond those of ``schema.PROMPTS`` are ignored.

    Raises:
        SourceError: if a column is missing, of another type or has nulls where it may not, or ids repeat.
    """
    for name in _OPTIONAL:
        if name not in table.column_names:
            field = PROMPTS.field(name)
            empty = pa.nulls(len(table), field.type) if field.nullable else pa.array([[]] * len(table), field.type)
            table = table.append_column(field, empty)
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
    if any(None in row[name] for row in rows for name in ("accepted", "wrong")):
        raise SourceError("expected strings in columns accepted and wrong, found nulls; leave them out")
    prompts = [_prompt(row) for row in rows]
    seen: dict[str, str] = {}
    for row, prompt in enumerate(prompts):
        if not prompt.completion:
            raise SourceError(f"row {row}: expected a completion, it is empty; give the text that was taken out")
        if repeated := _repeated(prompt.id, f"row {row}", seen):
            raise SourceError(repeated[0])
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from ``.parquet`` or ``.jsonl``.

    A line of JSONL is an :class:`apmae.prompts.own.OwnPrompt`.

    Raises:
        MalformedError: if lines of JSONL are not prompts; names line and field of up to :data:`MISTAKES` mistakes.
        SourceError: if the file is missing or empty, or a row of a table is not a prompt; says which row and column.
        ArtifactError: if a Parquet file is damaged.
    """
    if path.suffix not in SUFFIXES:
        raise SourceError(f"expected prompts in a .parquet or .jsonl file, got {path}; convert it to one of them")
    if not path.is_file():
        raise SourceError(f"expected a file of prompts at {path}, found none; check the path")
    try:
        prompts = _read_jsonl(path) if path.suffix == ".jsonl" else from_table(read_table(path))
    except MalformedError:
        raise
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    if not prompts:
        raise SourceError(f"{path}: expected at least one prompt, found none; give a file with prompts")
    return prompts


def write_jsonl(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts, one JSON object per line, atomically. :func:`read_prompts` reads them back unchanged except for
    ``answer``: only the outcome of a model's answer is written.

    Raises:
        ArtifactError: if the file cannot be written.
    """
    with replacing(path) as file:
        for prompt in prompts:
            row = {"prompt" if name == "prefix" else name: value for name, value in asdict(prompt).items()}
            del row["answer"]
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def _read_jsonl(path: Path) -> list[Prompt]:
    prompts: list[Prompt] = []
    mistakes: list[str] = []
    seen: dict[str, str] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            prompt, wrong = parse_line(line, number, path.name)
            if prompt is not None:
                wrong = _repeated(prompt.id, f"line {number}", seen)
                prompts.append(prompt)
            mistakes += wrong
            if len(mistakes) >= MISTAKES:
                break
    if mistakes:
        raise MalformedError(str(path), mistakes[:MISTAKES], more=len(mistakes) >= MISTAKES)
    return prompts


def _repeated(identity: str, where: str, seen: dict[str, str]) -> list[str]:
    if identity in seen:
        return [f"{where}: expected a unique id, {identity!r} is also that of {seen[identity]}; rename one"]
    seen[identity] = where
    return []
