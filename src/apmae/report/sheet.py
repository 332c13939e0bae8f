"""``Sheet``: the patterns of some heads on one prompt, as input of pictures and pages. Plain arrays, no torch.

Axes: t rows of a pattern (tokens; in a long prompt blocks of tokens), query_pos first, key_pos second.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.errors import ConfigError

SCALES = ("log", "linear")
"""Ways to turn a probability into a colour."""
DECADES = 4
"""Decades of the log scale: from 1 down to 1e-4, half of what an even row of the longest patterns gives to a key."""
MOST_LARGE = 12
"""Most heads that one picture shows large."""
LABEL = 14
"""Most characters of a token on an axis."""
_SIGNS = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}


class HeadPattern(NamedTuple):
    """One head on the sheet's prompt."""

    layer: int
    head: int
    name: str
    """The name that its own scores give; "" if they were not measured."""
    probabilities: Float[ndarray, "t t"]
    """float32 in [0, 1]; exactly 0 where the query cannot see the key."""


class Sheet(NamedTuple):
    """Heads of one model on one prompt."""

    model: str
    tokens: tuple[str, ...]
    """(t,) one per row: the token as decoded, or a label for a block of tokens; strangers' text."""
    heads: tuple[HeadPattern, ...]
    causal: bool
    """Whether entries above the diagonal are all 0."""
    reach: str = "whole"
    """How rows represent the prompt's tokens (``Patterns.reach``)."""
    length: int | None = None
    """Tokens of the prompt; None if there is a row for each."""
    heads_by_layer: tuple[int, ...] = ()
    """Heads of each layer of the model, 0 without attention; empty unless the sheet shows the whole model."""

    @property
    def size(self) -> str:
        """How long the prompt is, and how much of it the rows show."""
        rows = len(self.tokens)
        if self.length is None or self.length == rows:
            return f"{rows} token{'' if rows == 1 else 's'}"
        shown = f"pooled to {rows} blocks" if self.reach == "pool" else f"the last {rows} shown"
        return f"{self.length:,} tokens, {shown}"

    @property
    def texts(self) -> tuple[str, ...]:
        """The rows as running text; blocks are separated."""
        pooled = self.reach == "pool" and self.length not in (None, len(self.tokens))
        return tuple(printable(token) + " \u00b7 " * pooled for token in self.tokens)

    @property
    def bands(self) -> list[tuple[int, int]]:
        """Rows of a contact sheet, as first and last layer: a layer with heads has its own row, neighbouring layers
        without attention have one together.
        """
        if not self.heads_by_layer:
            return [(layer, layer) for layer in sorted({entry.layer for entry in self.heads})]
        bands: list[tuple[int, int]] = []
        for layer, heads in enumerate(self.heads_by_layer):
            if not heads and layer and not self.heads_by_layer[layer - 1]:
                bands[-1] = (bands[-1][0], layer)
            else:
                bands.append((layer, layer))
        return bands

    def attends(self, layer: int) -> bool:
        """Whether a layer of the sheet has heads."""
        return not self.heads_by_layer or self.heads_by_layer[layer] > 0

    @property
    def columns(self) -> list[int]:
        """Numbers of the heads of a contact sheet, ascending."""
        return sorted({entry.head for entry in self.heads})

    @property
    def excerpt(self) -> str:
        """The beginning of the prompt on one line, at most 90 characters."""
        text = "".join(self.texts[:90])
        return shortened(" ".join(text.split()), 90)


def shade(probabilities: Float[ndarray, "t t"], scale: str) -> Float[ndarray, "t t"]:
    """The place of each entry on the colour scale, in [0, 1]; NaN for probability 0.

    ``linear`` is the probability itself, ``log`` is ``1 + log10(p) / DECADES``, clipped at 0. Both are the same for all
    heads, so that pictures can be compared.
    """
    seen = probabilities > 0
    if scale == "linear":
        return np.where(seen, np.minimum(probabilities, 1), np.nan)
    logs = np.log10(probabilities, where=seen, out=np.full(probabilities.shape, np.nan, np.float32))
    return np.clip(1 + logs / DECADES, 0, 1)


def label(token: str) -> str:
    """A token on an axis: in one piece, visible, and short."""
    signs = "".join(_SIGNS.get(character) or escaped(character) for character in token)
    return shortened(signs, LABEL) or "(nothing)"


def printable(token: str) -> str:
    """A token in running text: line breaks stay, with a sign to point at; unprintable characters are escaped."""
    return "".join(
        "\u21b5\n" if character == "\n" else character if character in " \t" else escaped(character)
        for character in token
    )


def escaped(character: str) -> str:
    """A character if it is printable, else its code point as Python escapes it."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def expect_scale(scale: str) -> None:
    """Refuse a colour scale that does not exist.

    Raises:
        ConfigError: if it is none of :data:`SCALES`.
    """
    if scale not in SCALES:
        raise ConfigError(f"expected a scale, one of {', '.join(SCALES)}, got {scale!r}")


def expect_few(heads: int) -> None:
    """Refuse more heads than one picture shows large.

    Raises:
        ConfigError: if there are more than :data:`MOST_LARGE`.
    """
    if heads > MOST_LARGE:
        raise ConfigError(
            f"expected at most {MOST_LARGE} heads in one PNG, got {heads}; write .html, or leave --head out "
            "for a contact sheet"
        )
