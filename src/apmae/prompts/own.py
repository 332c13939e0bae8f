"""A user's own prompts, one JSON object per line: fields, their schema, and the mistakes in a line. Torch-free."""

import json
from collections import Counter
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from apmae.prompts.prompt import Prompt, split_of


def _characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which is not a character
        raise PydanticCustomError("surrogate", "half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_characters)]
Count = Annotated[int, Field(lt=2**31)]

_ALIKE = 0.85
"""Similarity (0 to 1) to an absent field from which an unknown one counts as a typing mistake."""


class OwnPrompt(BaseModel):
    """One line of a JSONL file of prompts. Other fields are ignored."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    prompt: Text
    """Text before the completion position."""
    completion: Annotated[Text, Field(min_length=1)]
    """The text expected there; its first token is what the model is asked for."""
    suffix: Text | None = None
    """Text after the completion; null or absent: no right context. Models that cannot infill do not see it."""
    task: Text = "custom"
    """The kind of span, by which results are broken down."""
    id: Text | None = None
    """Unique in the file; by default "line-N"."""
    group: Text | None = None
    """Shared by prompts that belong together, such as those of one template."""
    counterfactual: Text | None = None
    """A text to put in place of `prompt`, after which another completion is right."""
    accepted: list[Text] = []
    """Other completions that are right."""
    wrong: list[Text] = []
    """Wrong completions that compete with the right ones; if there is a counterfactual, the first is right for it."""
    language: Text = "unknown"
    """Programming or natural language."""
    path: Text | None = None
    """The source file; prompts of one file share a split, and analyses keep them together. By default "FILE:GROUP", or
    "FILE:N" without a group."""
    repository: Text | None = None
    """The repository of the source file; prompts of one repository share a split."""
    split: Literal["train", "atlas", "held_out"] | None = None
    """By default decided by a hash of the repository, or else of the path, or else of the group."""
    line: Annotated[Count, Field(ge=1)] | None = None
    """Line of the completion's first character in its file, from 1; by default that in `prompt`."""
    start: Annotated[Count, Field(ge=0)] | None = None
    """The completion's first character in its file, from 0; by default the length of `prompt`."""
    outcome: Literal["correct", "incorrect"] | None = None
    """Whether a model completed it correctly; null or absent: no model was asked."""


_WANTED = {
    "completion": "text",
    "split": "train, atlas or held_out",
    "outcome": "correct or incorrect",
    "accepted": "a list of strings",
    "wrong": "a list of strings",
    "line": "a count from 1",
    "start": "a count from 0",
}
"""What a field holds, if it is not simply a string."""


def schema() -> dict[str, Any]:
    """The JSON Schema of one line."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **OwnPrompt.model_json_schema()}


def parse_line(line: bytes, number: int, source: str) -> tuple[Prompt | None, list[str]]:
    """Read one line.

    Args:
        line: of a file.
        number: of the line, from 1.
        source: the file's name.

    Returns:
        The prompt and no mistakes; or None and what is wrong, each naming the line, and the field where there is one.
    """
    where = f"line {number}"
    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text, object_pairs_hook=_Fields)
    except UnicodeDecodeError as error:
        return None, [f"{where}: expected UTF-8, found another byte at {error.start}; convert the file"]
    except (ValueError, RecursionError) as error:
        return None, [f"{where}: expected a JSON object, found none ({error}); write one prompt per line"]
    if not isinstance(row, _Fields):
        return None, [f"{where}: expected a JSON object, got {text.strip()[:40]!r}; write one prompt per line"]
    mistakes = [f"{where}: {mistake}" for mistake in (*_misspelt(row), *_repeated(row))]
    try:
        own = OwnPrompt.model_validate(row)
    except ValidationError as error:
        found = [f"{where}: {_mistake(str(item['loc'][0]), item['type'], item['input'])}" for item in error.errors()]
        return None, [*found, *mistakes]
    if mistakes:
        return None, mistakes
    # prompts of one group, such as a template's, count as one file: they are no independent evidence
    origin = own.path if own.path is not None else f"{source}:{number if own.group is None else own.group}"
    return Prompt(
        id=own.id if own.id is not None else f"line-{number}",
        task=own.task,
        language=own.language,
        path=origin,
        repository=own.repository,
        split=own.split or split_of(own.repository or own.path or own.group or origin),
        line=own.line if own.line is not None else own.prompt.count("\n") + 1,
        start=own.start if own.start is not None else len(own.prompt),
        prefix=own.prompt,
        completion=own.completion,
        suffix=own.suffix,
        outcome=own.outcome,
        group=own.group,
        counterfactual=own.counterfactual,
        accepted=tuple(own.accepted),
        wrong=tuple(own.wrong),
    ), []


class _Fields(dict[str, Any]):
    """A JSON object that remembers which of its fields were given more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _mistake(field: str, kind: str, value: Any) -> str:
    wanted = _WANTED.get(field, "a string")
    if kind == "missing":
        found = "it is missing"
    elif kind == "surrogate":
        wanted, found = "Unicode text", "found half a surrogate pair"
    else:
        found = "it is empty" if value == "" else f"got {value!r}"[:80]
    return f"expected {wanted} in field {field!r}, {found}; give one"


def _misspelt(row: dict[str, Any]) -> list[str]:
    """Unknown fields that look like an absent one: ignoring them would silently lose what was meant."""
    absent = [name for name in OwnPrompt.model_fields if name not in row]
    mistakes = []
    for name in row.keys() - OwnPrompt.model_fields.keys():
        if alike := get_close_matches(name, absent, n=1, cutoff=_ALIKE):
            mistakes.append(f"expected a known field, got {name!r}; is it {alike[0]!r}?")
    return sorted(mistakes)


def _repeated(row: _Fields) -> list[str]:
    """Fields given more than once: JSON silently keeps the last."""
    more = sorted(name for name, count in Counter(row.names).items() if count > 1)
    return [f"expected field {name!r} once, it is there {row.names.count(name)} times; keep one" for name in more]
