"""The languages that prompts can be drawn from: file names, tree-sitter grammars, queries. Torch-free.

A grammar is imported when its language is first used: each comes in a separate wheel.

TypeScript's ``.tsx`` has a separate grammar under the same language: ``<T>x`` is a cast in ``.ts`` and an element in
``.tsx``.
"""

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import tree_sitter

from apmae.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Grammar:
    """A tree-sitter grammar and the queries that find the tasks' spans in its trees."""

    package: str
    """Name of its wheel."""
    queries: tuple[str, ...]
    """Files ``queries/<name>.scm``, read one after the other."""
    function: str = "language"
    """The function of the wheel's module that returns it."""


@dataclass(frozen=True, slots=True)
class Language:
    """How the files of a language are named, and how each is parsed."""

    grammars: dict[str, Grammar | None]
    """By how a file's name ends; None is plain text, which is not parsed."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How its files' names end."""
        return tuple(self.grammars)

    def grammar(self, path: str) -> Grammar | None:
        """The grammar of a file, by the end of its name; for any other name, that of the language's usual files."""
        for suffix, grammar in self.grammars.items():
            if path.endswith(suffix):
                return grammar
        return next(iter(self.grammars.values()))


_JAVASCRIPT = Grammar("tree-sitter-javascript", ("javascript", "jsx"))
_TYPESCRIPT = Grammar("tree-sitter-typescript", ("typescript",), "language_typescript")
_TSX = Grammar("tree-sitter-typescript", ("typescript", "jsx"), "language_tsx")
_CPP = Grammar("tree-sitter-cpp", ("cpp",))

LANGUAGES = {
    "java": Language({".java": Grammar("tree-sitter-java", ("java",))}),
    "python": Language(dict.fromkeys((".py", ".pyi"), Grammar("tree-sitter-python", ("python",)))),
    "cpp": Language(
        dict.fromkeys((".cpp", ".cc", ".cxx", ".c++", ".hpp", ".hh", ".hxx", ".h++", ".h", ".ipp", ".tpp"), _CPP)
    ),
    "javascript": Language(dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), _JAVASCRIPT)),
    "typescript": Language({**dict.fromkeys((".ts", ".mts", ".cts"), _TYPESCRIPT), ".tsx": _TSX}),
    "go": Language({".go": Grammar("tree-sitter-go", ("go",))}),
    "rust": Language({".rs": Grammar("tree-sitter-rust", ("rust",))}),
    "text": Language(dict.fromkeys((".txt", ".text", ".md", ".rst"))),
}


def language_of(name: str) -> Language:
    """Look a language up.

    Raises:
        ConfigError: if it is unknown.
    """
    try:
        return LANGUAGES[name]
    except KeyError:
        raise ConfigError(f"expected a language among {', '.join(sorted(LANGUAGES))}, got {name!r}") from None


@lru_cache
def load_grammar(grammar: Grammar) -> tree_sitter.Language:
    """Import a grammar.

    Raises:
        ConfigError: if its wheel is not installed; names it.
    """
    try:
        module = importlib.import_module(grammar.package.replace("-", "_"))
    except ImportError:
        raise ConfigError(
            f"expected the grammar {grammar.package}, it is not installed; pip install {grammar.package}"
        ) from None
    return tree_sitter.Language(getattr(module, grammar.function)())


@lru_cache(maxsize=64)
def load_query(grammar: Grammar, captures: frozenset[str]) -> tree_sitter.Query:
    """A grammar's queries as one, reduced to the patterns that have one of the given captures.

    Args:
        grammar: the grammar whose queries are wanted.
        captures: their names, without the ``@``.

    Raises:
        ConfigError: as :func:`load_grammar`.
    """
    folder = resources.files("apmae.prompts").joinpath("queries")
    source = "\n".join(folder.joinpath(f"{name}.scm").read_text("utf-8") for name in grammar.queries)
    query = tree_sitter.Query(load_grammar(grammar), source)
    for pattern in range(query.pattern_count):
        text = source[query.start_byte_for_pattern(pattern) : query.end_byte_for_pattern(pattern)]
        if captures.isdisjoint(_captures(text)):
            query.disable_pattern(pattern)
    return query


def _captures(pattern: str) -> Iterable[str]:
    # a predicate names a capture again, which changes nothing
    return re.findall(r"@(\w+)", re.sub(r";.*", "", pattern))
