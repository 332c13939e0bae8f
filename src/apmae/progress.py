"""Progress on long work, on stderr: a bar in a terminal; elsewhere (nohup, logs, CI) plain lines, now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

_FIRST, _LONGEST = 10.0, 300.0
"""Seconds between two lines of a log: at first, and at most; in between the wait doubles with each line."""
_SHORTEST = 1.0
"""Seconds between two lines, even if the work is done a tenth at a time."""
_FEW = 10
"""Steps that are told one by one; they are of different kinds, so that one says nothing about the next."""


@runtime_checkable
class Advance(Protocol):
    """What a stage calls as it proceeds."""

    def __call__(self, amount: int = 1, *, note: str = "", total: int | None = None) -> None:
        """Count ``amount`` steps, 0 to change the note alone.

        Args:
            amount: steps that are done.
            note: what is being waited for, a few words; empty leaves the last one.
            total: how many steps there are, once it is known; None leaves it.
        """
        ...


@contextmanager
def progress(title: str, total: int | None, *, done: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show a bar while the block runs; without a terminal, lines with the note and an estimate.

    Args:
        title: what the stage does, a few words.
        total: how many steps; None when it is not known.
        done: steps that an earlier, interrupted run finished.
        unit: what a step is, in the plural, for instance "prompts".

    Yields:
        A function ``advance(amount=1, note="", total=None)``, see :class:`Advance`.
    """
    from rich.console import Console

    console = Console(stderr=True)
    # Rich takes a variable such as FORCE_COLOR for a terminal; a log has no cursor to move.
    if not (sys.stderr is not None and sys.stderr.isatty() and console.is_interactive):
        log = Log(title, total, done, unit)
        yield log.advance
        log.close()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=min(28, console.width // 5)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn(unit, table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        # The one that gives way where a terminal is narrow
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(amount: int = 1, *, note: str = "", total: int | None = None) -> None:
            bar.update(task, advance=amount, total=total)
            if note:
                bar.update(task, note=note)

        yield advance


def notice(text: str) -> None:
    """Say something that is no mistake, in a line on stderr."""
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Log:
    """Progress as lines: at the start, at each tenth of the work, and as time passes; few, however long it takes.

    Args:
        title: as for :func:`progress`, and so are the next three.
        total: how many steps.
        done: steps that were done before.
        unit: what a step is.
        clock: seconds, from anywhere.
    """

    def __init__(
        self, title: str, total: int | None, done: int, unit: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._done = self._first = done
        self._note = ""
        self._started = clock()
        self._wait = _FIRST
        self._tenth = self._tenths()
        self._print()

    def advance(self, amount: int = 1, *, note: str = "", total: int | None = None) -> None:
        """Count, and print a line if one is due; see :class:`Advance`."""
        self._done += amount
        self._total = self._total if total is None else total
        self._note = note or self._note
        few = self._total is not None and self._total <= _FEW
        passed = self._clock() - self._printed
        if self._tenths() > self._tenth and (few or passed >= _SHORTEST):
            self._print()
        elif passed >= self._wait:
            self._wait = min(2 * self._wait, _LONGEST)
            self._print()

    def close(self) -> None:
        """Print the last count, unless it was printed."""
        if self._said != self._done:
            self._print()

    def _tenths(self) -> int:
        return 10 * self._done // self._total if self._total else 0

    def _print(self) -> None:
        self._printed, self._said, self._tenth = self._clock(), self._done, self._tenths()
        of = f" of {self._total}" if self._total is not None else ""
        count = f"{self._done}{of} {self._unit}".rstrip()
        line = f"{self._title}: {', '.join(part for part in (count, self._note, self._estimate()) if part)}"
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def _estimate(self) -> str:
        here = self._done - self._first
        if self._total is None or self._total <= _FEW or here <= 0 or self._done >= self._total:
            return ""
        seconds = (self._clock() - self._started) / here * (self._total - self._done)
        return f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A time to wait in words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
