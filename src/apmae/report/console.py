"""Tables for a terminal or a log: no text is cut. Long ones are wrapped, and columns that do not fit are left out."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

WIDTH = 80
"""Characters per line without a terminal and without COLUMNS."""
_HEIGHT = 25
"""Lines of a screen; nothing printed here depends on them."""
_TOGETHER = re.compile(r"\s+(?![%(])")
"""Where a text may be broken: not before a unit or a bracket."""
_FEWEST = 2
"""Characters that a line needs for any text: a wide one takes two."""
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
    """Characters per line that its texts may be wrapped to before columns are left out; None: never wrapped."""
    styles: Sequence[str] = ()
    """One style per cell, or none."""

    @property
    def width(self) -> int:
        """Characters of its longest text."""
        return max(map(cell_len, (self.header, *self.cells)))

    @property
    def narrowest(self) -> int:
        """Fewest characters that it should take."""
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
        grid.add_column(_lines(column.header, width), width=width, no_wrap=True)
    for row in range(len(shown[0].cells)):
        grid.add_row(
            *(
                _lines(column.cells[row], width, column.styles[row] if column.styles else "")
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

    Texts are wrapped first; if that is not enough, columns are left out.
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
        if max(room) <= 0:  # nothing more can be left out
            room = [0 if column.min_width is None else own - _FEWEST for own, column in zip(widths, shown, strict=True)]
        if max(room) <= 0:
            break
        place = room.index(max(room))
        widths[place] -= 1
    return shown, widths


def wrapped(text: str, width: int) -> list[str]:
    """A text as lines of at most ``width`` characters, broken between words.

    A unit or a bracket stays with the word before it, as in "40 %" and "3.4 (20%)", if a line has room for both. Words
    longer than a line are broken anywhere.
    """
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in _TOGETHER.split(text.strip()):
        for part in [word] if cell_len(word) <= width else word.split():
            if lines[-1] and cell_len(f"{lines[-1]} {part}") <= width:
                lines[-1] += f" {part}"
            else:
                lines += chop_cells(part, width)
    return [line for line in lines if line]


def _lines(text: str, width: int, style: str = "") -> Text:
    return Text("\n".join(wrapped(text, width)), style=style)


def _line(widths: Sequence[int]) -> int:
    return sum(widths) + _PER_COLUMN * len(widths) + _EDGE
