"""Tables for a terminal, or a log without one: columns give way in the order of their worth, a row stays one line."""

import os
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
"""Characters of a line where there is no terminal and COLUMNS says nothing."""
_PER_COLUMN, _EDGE = 3, 1
"""What the box takes beside the cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table that is printed."""

    header: str
    cells: Sequence[str]
    worth: int | None = None
    """Of the columns that do not fit, the one of least worth is left out first; None: never left out."""
    least: int | None = None
    """Characters that its texts may be shortened to; None: not shortened."""
    styles: Sequence[str] = ()
    """A style for each cell, if any."""

    @property
    def width(self) -> int:
        """Characters of its longest text."""
        return max(map(cell_len, (self.header, *self.cells)))

    @property
    def narrowest(self) -> int:
        """Characters that it takes at least."""
        return self.width if self.least is None else min(self.least, self.width)


def open_console() -> Console:
    """Standard output: as wide as the terminal; without one as COLUMNS says, else :data:`WIDTH`."""
    piped = sys.stdout is None or not sys.stdout.isatty()
    # Rich would take the width of a terminal that reads the input or shows the errors.
    return Console(width=WIDTH) if piped and not os.environ.get("COLUMNS", "").isdecimal() else Console()


def print_table(console: Console, columns: Sequence[Column], elsewhere: str) -> None:
    """Print a table on lines that fit, and which columns did not.

    Args:
        console: where to.
        columns: with a cell for each row.
        elsewhere: what has all of them, for instance "the report has them".
    """
    kept, widths = fitted(columns, console.width)
    grid = Grid(box=SIMPLE_HEAD)
    for column, width in zip(kept, widths, strict=True):
        grid.add_column(Text(shortened(column.header, width)), width=width, no_wrap=True)
    for row in range(len(kept[0].cells)):
        grid.add_row(
            *(
                Text(shortened(column.cells[row], width), style=column.styles[row] if column.styles else "")
                for column, width in zip(kept, widths, strict=True)
            )
        )
    console.print(grid)
    left = [column.header for column in columns if column not in kept]
    if left:
        said = f"Left out to fit {console.width} characters: {', '.join(left)}; {elsewhere}."
        print_point(console, said, mark="  ")


def print_point(console: Console, text: str, *, mark: str = "  \u2192 ") -> None:
    """Print a sentence whose lines stand under one another behind a mark."""
    # Not rich's wrapping, which breaks at a space that must not break, and paths at their hyphens.
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
    """The columns that fit a line and the characters that each gets: texts are shortened, then columns left out."""
    kept = list(columns)
    while _line([column.narrowest for column in kept]) > width:
        worths = [column.worth for column in kept if column.worth is not None]
        if not worths:
            break
        kept.remove(next(column for column in reversed(kept) if column.worth == min(worths)))
    widths = [column.width for column in kept]
    while _line(widths) > width:
        room = [own - column.narrowest for own, column in zip(widths, kept, strict=True)]
        if not any(room):
            break
        # The widest gives first, so that short texts stay whole.
        place = max((place for place in range(len(kept)) if room[place]), key=lambda place: widths[place])
        widths[place] -= 1
    return kept, widths


def shortened(text: str, width: int) -> str:
    """A text of at most ``width`` characters, cut after an item or a word where that keeps half of them."""
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
