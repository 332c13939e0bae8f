"""Finds the spans of the tasks in a source file. Torch-free.

Eight of the ten tasks of code are captures of a language's tree-sitter query (``queries/<language>.scm``); ``eol`` is
found in the text, ``random`` among tokens. Plain text has other tasks (``prompts/text.py``). What counts as a
span of each task is in ``docs/tasks.md``. All spans are in characters, not bytes.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import tree_sitter

from apmae.config import tasks_of
from apmae.prompts.languages import Grammar, language_of, load_grammar, load_query
from apmae.prompts.spans import Span
from apmae.prompts.text import find_text_spans

SHORTEST, LONGEST = 3, 10
"""Tokens of a ``random`` span (paper section 4)."""

DEEPEST = 100
"""Levels of the syntax tree that are searched for spans. Code written by hand has a few dozen; in a generated table
that is one expression of thousands of operators, a query takes time cubic in the depth."""

PARSE_SECONDS = 5.0
"""Seconds of processor time for parsing a file. A megabyte of code takes 0.1 to 0.5 s; in broken text the parser's
search for a way to recover can take hours."""

OPERATORS = {
    "boolean_operator": frozenset(
        ["&&", "||", "??", "!", "and", "or", "not", "not_eq", "in", "not in", "is", "is not"]
        + ["==", "!=", "===", "!==", "<", "<=", ">", ">=", "<=>", "<>"]
    ),
    "math_operator": frozenset(
        ["+", "-", "*", "/", "//", "%", "**", "@", "++", "--"]
        + ["&", "|", "^", "~", "&^", "<<", ">>", ">>>", "bitand", "bitor", "xor", "compl"]
    ),
}
"""The texts of the two operator tasks. Comparisons yield a boolean, so they are boolean operators; bitwise operators
are math operators, even between booleans, which the syntax does not show."""


@dataclass(frozen=True, slots=True)
class ParsedSpans:
    """The spans of one file."""

    spans: dict[str, np.ndarray]
    """By task, ``random`` left out: int64 (n, 2), first and past-the-end character, sorted, at least one character."""
    has_error: bool
    """Whether a part of the text does not parse; spans that touch such a part are dropped."""


def find_spans(text: str, language: str) -> dict[str, list[Span]]:
    """Find the spans of every task of a language except ``random``.

    Args:
        text: a source file.
        language: a key of ``LANGUAGES``.

    Returns:
        Spans by task, in characters, sorted, at least one character each; none if the file takes too long to parse.

    Raises:
        ConfigError: if the language is unknown, or its grammar is not installed.
    """
    parsed = parse_spans(text, language)
    if parsed is None:
        return {task: [] for task in tasks_of(language) if task != "random"}
    return {task: [Span(start, end) for start, end in spans.tolist()] for task, spans in parsed.spans.items()}


def parse_spans(
    text: str, language: str, tasks: Iterable[str] | None = None, *, path: str = "", seconds: float = PARSE_SECONDS
) -> ParsedSpans | None:
    """Find spans, and say whether the file parses.

    Args:
        text: a source file.
        language: a key of ``LANGUAGES``.
        tasks: those to look for, by default all of the language: fewer are faster.
        path: the file's name, where a language has several grammars (``.ts`` and ``.tsx``).
        seconds: of processor time that parsing may take.

    Returns:
        The spans, or None if the file takes longer to parse.

    Raises:
        ConfigError: if the language is unknown, or its grammar is not installed.
    """
    grammar = language_of(language).grammar(path)
    wanted = frozenset(tasks_of(language) if tasks is None else tasks) - {"random"}
    if grammar is None:
        found = find_text_spans(text, wanted)
        spans = {task: np.array(pieces, dtype=np.int64).reshape(-1, 2) for task, pieces in found.items()}
        return ParsedSpans(_in_order(spans, language), has_error=False)
    data = text.encode()
    tree = _parse(data, grammar, seconds)
    if tree is None:
        return None
    offsets = _char_offsets(text, data)
    names = {"operator" if task in OPERATORS else task for task in wanted} | {"_never", "_error", "_signed"}
    found = _captures(tree.root_node, grammar, frozenset(names), offsets, deepest=DEEPEST)
    none = np.zeros((0, 2), dtype=np.int64)
    if "eol" in wanted:
        # at any depth: every line end in a comment must be recognised
        guards = _captures(tree.root_node, grammar, frozenset({"_comment", "_text"}), offsets)
        comments, literals = (_merge(guards.get(name, none)) for name in ("_comment", "_text"))
        # with \r\n the blanks between two elements of JSX are a node
        literals = literals[[not text[start:end].isspace() for start, end in literals.tolist()]]
        found["eol"] = _line_ends(text, comments, literals)
    _split_signs(text, found)
    error, never = _merge(found.get("_error", none)), _packed(found.get("_never", none))
    spans = {}
    for task in wanted:
        pieces = found.get(task, none)
        starts, ends = pieces.T
        # a MISSING node, which the parser made up, has no characters
        kept = (ends > starts) & ~_within(error, starts) & ~_within(error, ends - 1)
        if len(never) and task != "eol":
            kept &= ~np.isin(_packed(pieces), never)
        spans[task] = pieces[kept]
    return ParsedSpans(_in_order(spans, language), tree.root_node.has_error)


def _in_order(spans: dict[str, np.ndarray], language: str) -> dict[str, np.ndarray]:
    return {task: spans[task] for task in tasks_of(language) if task in spans}


def _parse(data: bytes, grammar: Grammar, seconds: float) -> tree_sitter.Tree | None:
    """The tree, whose nodes have no text; None if it took too long."""
    parser = tree_sitter.Parser(load_grammar(grammar))
    deadline = time.process_time() + seconds
    given: list[bytearray] = []

    def read(offset: int, point: object) -> bytearray:
        given.append(bytearray(data) if offset == 0 else bytearray(data[offset:]))
        return given[-1]

    def late(offset: int, has_error: bool) -> bool:
        return time.process_time() > deadline

    try:
        return parser.parse(read, encoding="utf8", progress_callback=late)
    except ValueError:  # a parse that was stopped
        return None
    finally:
        for piece in given:  # tree-sitter 0.26 never releases what it read: every file would stay in memory
            piece.clear()


def _captures(
    root: tree_sitter.Node,
    grammar: Grammar,
    names: frozenset[str],
    offsets: np.ndarray | None,
    *,
    deepest: int | None = None,
) -> dict[str, np.ndarray]:
    """Character intervals by capture name, shape (nodes, 2), sorted, without repeats."""
    cursor = tree_sitter.QueryCursor(load_query(grammar, names))
    if deepest is not None:
        cursor.set_max_start_depth(deepest)
    captured = {name: nodes for name, nodes in cursor.captures(root).items() if name in names}
    operators = captured.pop("operator", [])
    for task, texts in OPERATORS.items():
        captured[task] = [node for node in operators if node.type in texts]  # an operator's type is its text
    return {name: _intervals(nodes, offsets) for name, nodes in captured.items()}


def _char_offsets(text: str, data: bytes) -> np.ndarray | None:
    """Character index of each byte offset, shape (bytes + 1,); None where the two are the same."""
    if len(data) == len(text):
        return None
    first_bytes = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    offsets = np.zeros(len(data) + 1, dtype=np.int64)
    np.cumsum(first_bytes, out=offsets[1:])
    return offsets


def _intervals(nodes: Sequence[tree_sitter.Node], offsets: np.ndarray | None) -> np.ndarray:
    """Character intervals of nodes, which come in any order: shape (nodes, 2), sorted, without repeats."""
    flat = np.fromiter(chain.from_iterable([node.byte_range for node in nodes]), np.int64, 2 * len(nodes))
    packed = np.unique(_packed(flat.reshape(-1, 2)))
    intervals = np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)
    return intervals if offsets is None else offsets[intervals]


def _split_signs(text: str, found: dict[str, np.ndarray]) -> None:
    """Turn a sign that a grammar includes in a number into an operator, as in other languages; changes ``found``."""
    signed = found.get("_signed")
    if signed is None:
        return
    signs = signed[[text[start] in "+-" for start in signed[:, 0].tolist()]]
    if "numeric_literal" in found:
        found["numeric_literal"][np.isin(_packed(found["numeric_literal"]), _packed(signs)), 0] += 1
    signs[:, 1] = signs[:, 0] + 1
    operators = np.concatenate([found["math_operator"], signs])
    found["math_operator"] = operators[np.argsort(operators[:, 0])]


def _packed(intervals: np.ndarray) -> np.ndarray:
    """Each interval as one number, which sorts like the interval. No file has 2**31 bytes."""
    return intervals[:, 0] << 32 | intervals[:, 1]


def _merge(intervals: np.ndarray) -> np.ndarray:
    """Sorted intervals made disjoint: a node can contain others of its kind."""
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
    r"""The last lexeme of each line of code with the ``\n`` or ``\r\n`` after it, shape (lines, 2).

    Not the line break alone: after ``;`` and ``{`` it is so certain that a model learns to leave it out of the middle,
    and the prompt would ask nothing. Some line ends are left out, because nothing there says that the line is over:
    those of blank lines, of lines that end in a comment, in blanks or in a backslash, and those within a text block.
    """
    pairs = [match.span() for match in _LINE_END.finditer(text)]
    breaks = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    # a line comment ends where the line does, so the line's last character tells
    breaks = breaks[~_within(comments, breaks[:, 0]) & ~_within(literals, breaks[:, 1] - 1)]
    reverse = text[::-1]
    ends = []
    for last, end in breaks.tolist():
        word = _WORD.match(reverse, len(text) - 1 - last)
        ends.append((last + 1 - len(word[0]) if word else last, end))
    return np.array(ends, dtype=np.int64).reshape(-1, 2)


_LINE_END = re.compile(r"[^\s\\]\r?\n")  # after a backslash a line continues
_WORD = re.compile(r"[\w$]+")


def random_spans(token_offsets: Sequence[tuple[int, int]], count: int, generator: np.random.Generator) -> list[Span]:
    """Draw spans of 3 to 10 consecutive tokens, no two with the same start.

    Args:
        token_offsets: first and past-the-end character of each token, in order.
        count: how many to draw; there are fewer if the text has no more starts.
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
    """Cut a text into words, numbers and single signs, in place of tokens where there is no tokenizer.

    Blanks belong to the lexeme after them; together the lexemes cover the whole text.
    """
    return [match.span() for match in _LEXEME.finditer(text)]
