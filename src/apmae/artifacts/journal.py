"""Reading the journal of an unfinished artifact, and the error for an artifact that belongs to another run."""

import json
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from apmae.errors import ArtifactError


def read_journal(journal: Path, lock: FileIO) -> list[dict[str, Any]]:
    """The journal's whole lines. A line that a kill cut short is removed, and its shard is made again."""
    lock.seek(0)
    content = lock.readall()
    lines, end = whole_lines(content)
    begins = b'{"format": '  # every journal of ours begins so, even if a kill cut its first line short
    if content and not lines and (b"\n" in content or content[: len(begins)] != begins[: len(content)]):
        raise ArtifactError(f"expected no file or a journal of apmae at {journal}, found another; choose another --out")
    lock.truncate(end)
    return lines


def whole_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines of a journal that are whole, and the number of bytes up to the end of the last."""
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


def refuse(
    out: Path, what: str, found: dict[str, Any], wanted: dict[str, Any], *, damaged: Sequence[str] = ()
) -> NoReturn:
    """Refuse an artifact that was made with another configuration or other inputs, and say what differs.

    Args:
        out: the artifact.
        what: the verb of the message, "was made" or "was begun".
        found: the first line of its journal, or its manifest.
        wanted: the same for this run.
        damaged: its damaged files, which this run cannot make again.

    Raises:
        ArtifactError: always.
    """
    broken = f"; {damaged[0]} is damaged: give its original inputs and settings to make it again" if damaged else ""
    differences = sorted(_differences(found, wanted), key=lambda text: not text.startswith("stage "))
    raise ArtifactError(
        f"{out} {what} with another configuration ({'; '.join(differences[:4])}"
        f"{'; ...' if len(differences) > 4 else ''}){broken}; pass --overwrite to replace it, or choose another --out"
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
