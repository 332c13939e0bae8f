"""Prompts from what a user is looking at: a bare text, or one line of a file. Torch-free."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

from apmae.config import TASKS
from apmae.errors import SourceError
from apmae.prompts.languages import LANGUAGES
from apmae.prompts.prompt import Prompt
from apmae.prompts.tasks import parse_spans

_COLUMNS = 6
"""Most columns that a message names."""


def text_prompt(prefix: str, completion: str, suffix: str | None, *, path: str = "", line: int = 1) -> Prompt:
    """A prompt from bare text."""
    return Prompt(
        id=path or "prompt",
        task="custom",
        language="text",
        path=path,
        split="all",
        line=line,
        start=len(prefix),
        prefix=prefix,
        completion=completion,
        suffix=suffix,
    )


def line_prompt(path: Path, line: int, column: int | None = None) -> Prompt:
    """The prompt for completing one line of a file. The cursor is after the indentation, or at ``column``; the rest of
    the line is the expected completion, and the lines below are the right context.

    Args:
        path: a UTF-8 source file.
        line: from 1.
        column: from 1; None takes the line's first character that is not blank.

    Raises:
        SourceError: if the file cannot be read as UTF-8 or has no such line or column, or there is nothing to complete.
    """
    text = read_source(path)
    lines = list(StringIO(text, newline=""))  # lines as editors count them: splitlines() also splits at form feeds
    if not 1 <= line <= len(lines):
        raise SourceError(f"expected a line of {path} in 1-{len(lines)}, got {line}; check --line")
    own = lines[line - 1]
    content = own.rstrip("\r\n")
    cut = len(content) - len(content.lstrip()) if column is None else column - 1
    if not 0 <= cut <= len(content):
        raise SourceError(f"expected a column of line {line} in 1-{len(content) + 1}, got {column}; check --column")
    before = "".join(lines[: line - 1]) + own[:cut]
    completion = own[cut:] if cut == len(content) or not content.strip() else content[cut:]
    if not before or not completion:
        raise SourceError(
            f"expected text before and after the cursor at {path}:{line}, found none; choose another line or --column"
        )
    after = text[len(before) + len(completion) :]
    return text_prompt(before, completion, after, path=str(path), line=line)


def task_prompt(prompt: Prompt, task: str | None = None, *, onward: bool = False) -> Prompt:
    """The prompt for completing the span that begins at the cursor, as prompts of its task are drawn.

    Args:
        prompt: from :func:`line_prompt`.
        task: of the span; None takes that of the language's spans that begin there, ``eol`` last. If none of the task
            begins there, the rest of the line stays the completion.
        onward: whether the first span of the line after the cursor will do, if none begins at it and no task is given.

    Raises:
        SourceError: if no task is given, and no span begins where it is looked for or the file's language is not known.
    """
    language = next((name for name, own in LANGUAGES.items() if prompt.path.endswith(own.suffixes)), None)
    text = f"{prompt.prefix}{prompt.completion}{prompt.suffix or ''}"
    parsed = parse_spans(text, language, path=prompt.path) if language else None
    spans = {name: dict(own.tolist()) for name, own in parsed.spans.items()} if parsed else {}
    found = {name: ends[prompt.start] for name, ends in spans.items() if prompt.start in ends}
    if task is None and not found and onward and (own := _in_line(text, prompt.start, spans)):
        start = own[0][0]
        found = {name: ends[start] for name, ends in spans.items() if start in ends}
        prompt = replace(prompt, prefix=text[:start], start=start)
    if task is None:
        task = min(found, key=lambda name: (name == "eol", TASKS.index(name) if name in TASKS else 0), default=None)
    if task is None:
        why = "no span of a task begins there" if parsed else "its language is not known, or it takes long to parse"
        raise SourceError(
            f"expected --task for the cursor at {prompt.path}:{prompt.line}, because {why}; give one such as --task "
            f"identifier{_columns(text, prompt.start, spans)}"
        )
    if task not in found:
        return replace(prompt, task=task)
    end = found[task]
    return replace(
        prompt, task=task, language=language or "text", completion=text[prompt.start : end], suffix=text[end:]
    )


def _columns(text: str, start: int, spans: dict[str, dict[int, int]]) -> str:
    """Where spans begin in the line of a place, for a message."""
    begin = text.rfind("\n", 0, start) + 1
    own = _in_line(text, begin, spans)
    shown = ", ".join(f"{place - begin + 1} ({name})" for place, name in own[:_COLUMNS])
    return f", or one of the columns where spans begin: --column {shown}" if own else ""


def _in_line(text: str, start: int, spans: dict[str, dict[int, int]]) -> list[tuple[int, str]]:
    """Places from one on, up to the end of its line, where spans begin, and their tasks."""
    end = text.find("\n", start)
    stop = len(text) if end < 0 else end
    return sorted((place, name) for name, ends in spans.items() for place in ends if start <= place < stop)


def read_source(path: Path) -> str:
    """A text file as it is, line ends kept.

    Raises:
        SourceError: if it cannot be read as UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise SourceError(f"expected a source file at {path}: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"expected UTF-8 in {path}, byte {error.start} is not; convert the file") from None
