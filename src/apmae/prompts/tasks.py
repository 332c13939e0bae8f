"""Where the spans of the ten tasks lie in a source file. Torch-free.

Eight tasks are captures of one tree-sitter query a language (``queries/<language>.scm``); ``eol`` is found in the
text, ``random`` among tokens. All spans are in characters, not bytes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
import tree_sitter
import tree_sitter_java

from apmae.config import TASKS
from apmae.errors import ConfigError

SHORTEST, LONGEST = 3, 10
"""Tokens of a ``random`` span (paper section 4)."""


class Span(NamedTuple):
    """A piece of a text, in characters; ``end`` is the first character after it."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Language:
    """A programming language that prompts can be drawn from; its query is ``queries/<name>.scm``."""

    suffixes: tuple[str, ...]
    """How its files' names end."""
    grammar: Callable[[], object]
    """Makes the tree-sitter grammar."""


LANGUAGES = {"java": Language((".java",), tree_sitter_java.language)}


def language_of(name: str) -> Language:
    """Look a language up.

    Raises:
        ConfigError: if it is unknown.
    """
    try:
        return LANGUAGES[name]
    except KeyError:
        raise ConfigError(f"expected a language among {', '.join(sorted(LANGUAGES))}, got {name!r}") from None


@dataclass(frozen=True, slots=True)
class ParsedSpans:
    """The spans of one file."""

    spans: dict[str, list[Span]]
    """By task, ``random`` left out; sorted, at least one character each."""
    has_error: bool
    """Whether a part of the text does not parse; spans that touch such a part are dropped."""


def find_spans(text: str, language: str) -> dict[str, list[Span]]:
    """Find the spans of every task but ``random``.

    Args:
        text: a source file.
        language: a key of ``LANGUAGES``.

    Returns:
        Spans by task, in characters, sorted, at least one character each.

    Raises:
        ConfigError: if the language is unknown.
    """
    return parse_spans(text, language).spans


def parse_spans(text: str, language: str, tasks: Iterable[str] = TASKS) -> ParsedSpans:
    """Find spans, and say whether the file parses.

    Args:
        text: a source file.
        language: a key of ``LANGUAGES``.
        tasks: those to look for: fewer are faster.

    Raises:
        ConfigError: if the language is unknown.
    """
    wanted = frozenset(tasks) - {"random"}
    grammar, query = _query(language, wanted)
    data = text.encode()
    tree = tree_sitter.Parser(grammar).parse(data)
    captures = tree_sitter.QueryCursor(query).captures(tree.root_node)
    offsets = _char_offsets(text, data)
    # captures come in no order
    found = {name: _intervals(nodes, offsets) for name, nodes in captures.items()}
    none = np.zeros((0, 2), dtype=np.int64)
    error = _merge(found.get("_error", none))
    spans = {}
    for task in TASKS:
        if task not in wanted:
            continue
        if task == "eol":
            ends = _line_ends(text, found.get("_comment", none), found.get("_text", none))
        else:
            ends = found.get(task, none)
        keep = (ends[:, 1] > ends[:, 0]) & ~_within(error, ends[:, 0]) & ~_within(error, ends[:, 1] - 1)
        spans[task] = [Span(start, end) for start, end in ends[keep].tolist()]
    return ParsedSpans(spans, tree.root_node.has_error)


@lru_cache(maxsize=64)
def _query(language: str, tasks: frozenset[str]) -> tuple[tree_sitter.Language, tree_sitter.Query]:
    grammar = tree_sitter.Language(language_of(language).grammar())
    source = resources.files("apmae.prompts").joinpath("queries", f"{language}.scm").read_text("utf-8")
    query = tree_sitter.Query(grammar, source)
    for task in set(TASKS) - tasks - {"eol", "random"}:
        query.disable_capture(task)
    if "eol" not in tasks:
        query.disable_capture("_comment")
        query.disable_capture("_text")
    return grammar, query


def _char_offsets(text: str, data: bytes) -> np.ndarray | None:
    """Character index of each byte offset, shape (bytes + 1,); None where the two are the same."""
    if len(data) == len(text):
        return None
    first_bytes = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    offsets = np.zeros(len(data) + 1, dtype=np.int64)
    np.cumsum(first_bytes, out=offsets[1:])
    return offsets


def _intervals(nodes: Sequence[tree_sitter.Node], offsets: np.ndarray | None) -> np.ndarray:
    """Character intervals of nodes, shape (nodes, 2), sorted and each once."""
    pairs = sorted({(node.start_byte, node.end_byte) for node in nodes})
    intervals = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return intervals if offsets is None else offsets[intervals]


def _merge(intervals: np.ndarray) -> np.ndarray:
    """Sorted intervals made disjoint: an ERROR can hold another."""
    merged: list[list[int]] = []
    for start, end in intervals.tolist():
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def _within(intervals: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Whether each position lies in one of some sorted disjoint intervals ``start <= position < end``."""
    if not len(intervals):
        return np.zeros(len(positions), dtype=bool)
    index = np.searchsorted(intervals[:, 0], positions, side="right") - 1
    return (index >= 0) & (positions < intervals[np.maximum(index, 0), 1])


def _line_ends(text: str, comments: np.ndarray, literals: np.ndarray) -> np.ndarray:
    r"""The ``\n`` or ``\r\n`` that ends each line of code, shape (lines, 2).

    Left out, because nothing there says that the line is over: lines that are blank, end in a comment or in blanks, and
    line ends within a text block.
    """
    pairs = [match.span() for match in re.finditer(r"(?<=\S)\r?\n", text)]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    # a line end right behind a comment belongs to it: hence its last character is asked, not the line end's first
    last = ends[:, 0] - 1
    in_literal = _within(literals, ends[:, 0])
    return ends[~_within(comments, last) & ~in_literal]


def random_spans(
    token_offsets: Sequence[tuple[int, int]], count: int, generator: np.random.Generator
) -> list[Span]:
    """Draw spans of 3 to 10 consecutive tokens, no two with the same start.

    Args:
        token_offsets: first and past-the-end character of each token, in order.
        count: how many to draw; fewer come if the text has no more starts.
        generator: where the randomness comes from.

    Returns:
        Spans in the order drawn.
    """
    spans: dict[int, Span] = {}
    last_start = len(token_offsets) - SHORTEST
    for first in generator.permutation(max(last_start + 1, 0)).tolist():
        if len(spans) >= count:
            break
        length = min(int(generator.integers(SHORTEST, LONGEST + 1)), len(token_offsets) - first)
        start, end = token_offsets[first][0], token_offsets[first + length - 1][1]
        if end > start:  # the tokens of one character's bytes share its offsets
            spans.setdefault(start, Span(start, end))
    return list(spans.values())


_LEXEME = re.compile(r"\s*(?:\d[\w.]*|[\w$]+|[^\w\s])|\s+\Z")


def lexemes(text: str) -> list[Span]:
    """Cut a text into words, numbers and single signs: stands in for tokens where there is no tokenizer.

    Blanks belong to the lexeme behind them; together the lexemes cover the whole text.
    """
    return [Span(*match.span()) for match in _LEXEME.finditer(text)]
