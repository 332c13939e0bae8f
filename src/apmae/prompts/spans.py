"""A piece of a text."""

from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a text, in characters; ``end`` is the first character after it."""

    start: int
    end: int
