"""Prompts on disk: Parquet with the columns of ``schema.PROMPTS``, or anyone's own as JSONL. Torch-free."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from apmae.artifacts import read_table, replacing
from apmae.errors import SourceError
from apmae.prompts.sampling import Prompt, split_of
from apmae.schema import PROMPTS

_NAMES = tuple(field.name for field in fields(Prompt))
_STRINGS = ("prompt", "completion", "suffix", "task", "id", "language", "path", "split", "outcome")
_NUMBERS = ("line", "start")
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
    table = table.select(_NAMES)
    for field in PROMPTS:
        if not field.nullable and table[field.name].null_count:
            raise SourceError(f"expected a value in every row of column {field.name}, found nulls; fill them")
    try:
        rows = table.cast(PROMPTS).to_pylist()
    except pa.ArrowException as error:
        raise SourceError(f"expected the column types of apmae prompts, found others ({error}); convert them") from None
    prompts = [Prompt(**row) for row in rows]
    for row, prompt in enumerate(prompts):
        if not prompt.completion:
            raise SourceError(f"expected a completion in row {row}, it is empty; give the text that was taken out")
    _refuse_repeats((f"row {row}", prompt.id) for row, prompt in enumerate(prompts))
    return prompts


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from ``.parquet`` or ``.jsonl``.

    A line of JSONL holds ``prompt`` and ``completion``, and may hold ``suffix``, ``task`` (else "custom"), ``id`` (else
    "line-N") and the other fields that :func:`write_jsonl` writes. Without ``path`` a prompt is a source of its own: its
    path is the file's name, its line the line in that file, and it gets a split by its id. Other fields are left out.

    Raises:
        SourceError: if the file is missing or empty, or a row is not a prompt; says which row and field.
        ArtifactError: if a Parquet file is damaged.
    """
    if path.suffix not in (".parquet", ".jsonl"):
        raise SourceError(f"expected prompts in a .parquet or .jsonl file, got {path}; convert it to one of them")
    if not path.is_file():
        raise SourceError(f"expected a file of prompts at {path}, found none; check the path")
    try:
        prompts = list(_from_jsonl(path)) if path.suffix == ".jsonl" else from_table(read_table(path))
        _refuse_repeats((prompt.id, prompt.id) for prompt in ())
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    if not prompts:
        raise SourceError(f"{path}: expected at least one prompt, found none")
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
