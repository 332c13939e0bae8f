"""Tables for a terminal or a log: a row is always one line, and columns that do not fit are left out by priority."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

WIDTH = 80
"""Characters per line without a terminal and without COLUMNS."""
_HEIGHT = 25
"""Lines of a screen; nothing printed here depends on them."""
_PER_COLUMN, _EDGE = 3, 1
"""Characters that the box takes besides the cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a printed table."""

    header: str
    cells: Sequence[str]
    priority: int | None = None
    """If columns do not fit, that with the lowest is left out first; None: never left out."""
    min_width: int | None = None
    """Characters that its texts may be shortened to; None: never shortened."""
    styles: Sequence[str] = ()
    """One style per cell, or none."""

    @property
    def width(self) -> int:
        """Characters of its longest text."""
        return max(map(cell_len, (self.header, *self.cells)))

    @property
    def narrowest(self) -> int:
        """Fewest characters that it can take."""
        return self.width if self.min_width is None else min(self.min_width, self.width)


def open_console() -> Console:
    """Standard output: as wide as COLUMNS says, or else as the terminal; without either, :data:`WIDTH`.

    A COLUMNS of 0, or one that is no number, counts as unset.
    """
    given = os.environ.get("COLUMNS", "")
    width = int(given) if re.fullmatch(r"\d{1,5}", given, re.ASCII) else 0
    if not width and sys.stdout is not None and sys.stdout.isatty():
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    # Rich itself would take 0, or the width of a terminal at standard input or standard error; without a height it
    # would read COLUMNS after all, and fail at digits that are not ASCII.
    return Console(width=width or WIDTH, height=_HEIGHT)


def print_table(console: Console, columns: Sequence[Column], elsewhere: str) -> None:
    """Print a table whose lines fit, and say which columns were left out.

    Args:
        console: where to print.
        columns: with one cell per row.
        elsewhere: where all columns are, for instance "the report has them".
    """
    shown, widths = fitted(columns, console.width)
    grid = Grid(box=SIMPLE_HEAD)
    for column, width in zip(shown, widths, strict=True):
        grid.add_column(Text(shortened(column.header, width)), width=width, no_wrap=True)
    for row in range(len(shown[0].cells)):
        grid.add_row(
            *(
                Text(shortened(column.cells[row], width), style=column.styles[row] if column.styles else "")
                for column, width in zip(shown, widths, strict=True)
            )
        )
    console.print(grid)
    left_out = [column.header for column in columns if column not in shown]
    if left_out:
        note = f"Left out to fit {console.width} characters: {', '.join(left_out)}; {elsewhere}."
        print_point(console, note, mark="  ")


def print_point(console: Console, text: str, *, mark: str = "  \u2192 ") -> None:
    """Print a sentence after a mark, with its lines indented alike."""
    # Rich's own wrapping would break at spaces that must not break, and paths at their hyphens.
    lines = fill(
        text,
        console.width,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print(Text(lines), soft_wrap=True)


def fitted(columns: Sequence[Column], width: int) -> tuple[list[Column], list[int]]:
    """The columns that fit on a line, and the characters of each.

    Texts are shortened first; if that is not enough, columns are left out.
    """
    shown = list(columns)
    while _line([column.narrowest for column in shown]) > width:
        priorities = [column.priority for column in shown if column.priority is not None]
        if not priorities:
            break
        shown.remove(next(column for column in reversed(shown) if column.priority == min(priorities)))
    widths = [column.width for column in shown]
    while _line(widths) > width:
        room = [own - column.narrowest for own, column in zip(widths, shown, strict=True)]
        if not any(room):
            break
        # The widest column is shortened first, so that short texts stay whole.
        place = max((place for place in range(len(shown)) if room[place]), key=lambda place: widths[place])
        widths[place] -= 1
    return shown, widths


def shortened(text: str, width: int) -> str:
    """A text of at most ``width`` characters, cut after an item or a word if that keeps half of them."""
    if cell_len(text) <= width:
        return text
    cut = set_cell_size(text, max(width - 1, 0))
    for border in (", ", " "):
        place = f"{cut}{text[len(cut)]}".rfind(border)
        if place >= width // 2:
            cut = cut[:place]
            break
    return f"{cut.rstrip(' ,+')}\u2026"


def _line(widths: Sequence[int]) -> int:
    return sum(widths) + _PER_COLUMN * len(widths) + _EDGE
