"""Where the spans of the ten tasks lie in a source file. Torch-free.

Eight tasks are captures of one tree-sitter query a language (``queries/<language>.scm``); ``eol`` is found in the
text, ``random`` among tokens. All spans are in characters, not bytes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import islice
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
            pieces = _line_ends(text, _merge(found.get("_comment", none)), _merge(found.get("_text", none)))
        else:
            pieces = found.get(task, none)
        starts, ends = pieces.T
        # a MISSING node, which the parser made up, has no characters
        keep = (ends > starts) & ~_within(error, starts) & ~_within(error, ends - 1)
        spans[task] = [Span(start, end) for start, end in pieces[keep].tolist()]
    return ParsedSpans(spans, tree.root_node.has_error)


@lru_cache(maxsize=64)
def _query(language: str, tasks: frozenset[str]) -> tuple[tree_sitter.Language, tree_sitter.Query]:
    grammar = tree_sitter.Language(language_of(language).grammar())
    source = resources.files("apmae.prompts").joinpath("queries", f"{language}.scm").read_text("utf-8")
    query = tree_sitter.Query(grammar, source)
    kept = {*tasks, "_error"} | ({"_comment", "_text"} if "eol" in tasks else set())
    for pattern in range(query.pattern_count):
        text = source[query.start_byte_for_pattern(pattern) : query.end_byte_for_pattern(pattern)]
        if kept.isdisjoint(re.findall(r"@(\w+)", text)):
            query.disable_pattern(pattern)
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
    """Sorted intervals made disjoint: such nodes can hold others of their kind."""
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
    r"""The last lexeme of each line of code with the ``\n`` or ``\r\n`` behind it, shape (lines, 2).

    Not the line break alone: it follows ``;`` and ``{`` so surely that a model learns to leave it out of the middle,
    and nothing would be asked. Left out, because nothing there says that the line is over: lines that are blank, end in
    a comment or in blanks, and line ends within a text block.
    """
    # a word is tried from its start only, and whole: else a long one takes time quadratic in its length
    pairs = [match.span() for match in re.finditer(r"(?:(?<![\w$])[\w$]++|[^\w\s$])\r?\n", text)]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    # a line comment stops where the line ends, so the last character of code is asked
    code = ends[:, 1] - 2 - np.array([text[end - 2] == "\r" for end in ends[:, 1]], dtype=np.int64)
    return ends[~_within(comments, code) & ~_within(literals, code + 1)]


def random_spans(token_offsets: Sequence[tuple[int, int]], count: int, generator: np.random.Generator) -> list[Span]:
    """Draw spans of 3 to 10 consecutive tokens, no two with the same start.

    Args:
        token_offsets: first and past-the-end character of each token, in order.
        count: how many to draw; fewer come if the text has no more starts.
        generator: where the randomness comes from.

    Returns:
        Spans in the order drawn.
    """
    return list(islice(iter_random_spans(token_offsets, generator), count))


def iter_random_spans(token_offsets: Sequence[tuple[int, int]], generator: np.random.Generator) -> Iterator[Span]:
    """The spans of :func:`random_spans` one at a time, until every token but the last two has started one."""
    seen = set()
    for first in generator.permutation(max(len(token_offsets) - SHORTEST + 1, 0)).tolist():
        length = min(int(generator.integers(SHORTEST, LONGEST + 1)), len(token_offsets) - first)
        start, end = token_offsets[first][0], token_offsets[first + length - 1][1]
        if end > start and start not in seen:  # the tokens of one character's bytes share its offsets
            seen.add(start)
            yield Span(start, end)


_LEXEME = re.compile(r"\s*(?:\d[\w.]*|[\w$]+|[^\w\s])|\s+\Z")


def lexemes(text: str) -> list[tuple[int, int]]:
    """Cut a text into words, numbers and single signs: stands in for tokens where there is no tokenizer.

    Blanks belong to the lexeme behind them; together the lexemes cover the whole text.
    """
    return [match.span() for match in _LEXEME.finditer(text)]
