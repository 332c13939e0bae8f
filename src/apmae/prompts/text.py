"""Finds the spans of the tasks in plain text. Torch-free.

A span includes the single space before it: byte-level tokenizers make it part of the word's first token, and after a
lone space no model expects a word. ``random`` spans are found among tokens, as in code (``prompts/tasks.py``).
"""

import re
from collections.abc import Iterable

from apmae.prompts.spans import Span

NEAR = 1000
"""Characters within which a ``repeated_word`` must have occurred before: about a window of 256 tokens."""

_ABBREVIATIONS = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "rev", "hon", "st", "jr", "sr", "gen", "col", "lt", "sgt", "capt", "mt"]
    + ["inc", "ltd", "co", "corp", "dept", "ed", "eds", "vol", "pp", "ch", "sec", "fig", "figs", "eq", "no", "nos"]
    + ["vs", "cf", "al", "ca", "approx", "est", "op"]
    + ["jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"]
)
"""Words (lower case) after which a full stop seldom ends a sentence."""

_LETTER = r"[^\W\d_]"
_WORD = re.compile(rf"{_LETTER}++(?:['\u2019-]{_LETTER}++)*+")
# a mark before a blank or the end of the text; closing quotes and brackets may come between
_STOP = re.compile(r"(?<![.!?\u2026\s])[.!?](?=[\"'\u201d\u2019)\]]{0,3}(?:\s|\Z))|[\u3002\uff01\uff1f]")
_CONTINUATION = re.compile(r"[\"'\u201d\u2019)\]]{0,3}[ \t]*(?:\r?\n)?[ \t]*([^\W\d_])?")
_NUMBER = re.compile(r"(?<![\w.,])\d++(?:[.,]\d++)*+(?!\w)")
_QUOTE = re.compile(r"(?<![^\s(\[\u2014])\"(?=\S)[^\"\n]{1,400}+(?<=\S)\"(?!\w)|\u201c[^\u201c\u201d\n]{1,400}+\u201d")
_LAST_WORD = re.compile(r"([\w.]*)\Z")


def find_text_spans(text: str, tasks: Iterable[str]) -> dict[str, list[Span]]:
    """Find the spans of the tasks of plain text, ``random`` left out.

    Args:
        text: prose.
        tasks: those to look for, among ``config.TEXT_TASKS``.

    Returns:
        Spans by task, in characters, sorted.
    """
    finders = {
        "sentence_end": _sentence_ends,
        "number": lambda text: [match.span() for match in _NUMBER.finditer(text)],
        "capitalised_name": _names,
        "quote": lambda text: [match.span() for match in _QUOTE.finditer(text)],
        "repeated_word": _repeated,
    }
    return {
        task: [Span(start - _spaced(text, start), end) for start, end in finders[task](text)]
        for task in tasks
        if task in finders
    }


def _spaced(text: str, start: int) -> bool:
    """Whether a single space comes before, and no other blank before that."""
    return start > 1 and text[start - 1] == " " and not text[start - 2].isspace()


def _sentence_ends(text: str) -> list[tuple[int, int]]:
    found = []
    for match in _STOP.finditer(text):
        start, end = match.span()
        after = _CONTINUATION.match(text, end)
        if after is not None and after[1] is not None and after[1].islower():
            continue
        if match[0] == ".":
            word = _LAST_WORD.search(text, max(start - 20, 0), start)
            last = "" if word is None else word[1].rpartition(".")[2].lower()
            initial = len(last) == 1 and last.isalpha() and text[start - 1].isupper()
            if last in _ABBREVIATIONS or initial:
                continue
        found.append((start, end))
    return found


def _names(text: str) -> list[tuple[int, int]]:
    """Runs of capitalised words, one space apart, without a first word that begins a sentence or line."""
    runs: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        if not text[start].isupper() or not any(letter.islower() for letter in match[0]):
            continue
        if _begins(text, start) or match[0].lower() in _ABBREVIATIONS:
            continue
        if runs and runs[-1][1] == start - 1 and text[start - 1] == " ":
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


def _begins(text: str, start: int) -> bool:
    """Whether a sentence, a line or a quote begins at a word, where a capital says nothing."""
    before = text[max(start - 8, 0) : start].rstrip(" \t")
    return not before or before[-1] in ".!?:\n\r\"'\u201c\u2018([*#_>-\u2022\u2013\u2014\u3002"


def _repeated(text: str) -> list[tuple[int, int]]:
    """Words of at least five letters that occurred, spelled the same, within the last NEAR characters."""
    last: dict[str, int] = {}
    found = []
    for match in _WORD.finditer(text):
        word = match[0]
        if len(word) < 5:
            continue
        if match.start() - last.get(word, -NEAR - 1) <= NEAR:
            found.append(match.span())
        last[word] = match.start()
    return found
