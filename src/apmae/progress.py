"""Progress of long work, on stderr: a bar in a terminal; otherwise (nohup, logs, CI) a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

_FIRST, _LONGEST = 10.0, 300.0
"""Seconds between two lines of a log, at first and at most; the wait doubles with each line."""
_SHORTEST = 1.0
"""The fewest seconds between two lines, even if each is a tenth of the work."""
_FEW = 10
"""Up to this many steps get a line each and no estimate: they are of different kinds and may take different times."""


@runtime_checkable
class Advance(Protocol):
    """What a stage calls to report progress."""

    def __call__(self, amount: int = 1, *, note: str = "", total: int | None = None) -> None:
        """Count ``amount`` steps; 0 changes only the note.

        Args:
            amount: steps that were just done.
            note: what the stage is waiting for, in a few words; empty keeps the last note.
            total: the number of steps, once it is known; None keeps the last one.
        """
        ...


def telling(advance: Advance) -> Callable[[str], None]:
    """A function to call with what is done next: what was done before counts as a step.

    Args:
        advance: of :func:`progress`. The last step is counted by the caller.
    """
    begun = 0

    def tell(what: str) -> None:
        nonlocal begun
        advance(min(begun, 1), note=what)
        begun += 1

    return tell


@contextmanager
def progress(title: str, total: int | None, *, done: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show a bar while the block runs; without a terminal, lines with the note and an estimate.

    Args:
        title: what the stage does, in a few words.
        total: the number of steps; None if unknown.
        done: steps that an interrupted run finished earlier.
        unit: what is counted, in the plural, for instance "prompts".

    Yields:
        A function ``advance(amount=1, note="", total=None)``; see :class:`Advance`.
    """
    from rich.console import Console

    console = Console(stderr=True)
    # With a variable such as FORCE_COLOR, Rich would assume a terminal; a log has no cursor to move.
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
        # Shortened first if the terminal is narrow
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
    """Print a line on stderr that is not an error."""
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Log:
    """Progress as lines: at the start, at each tenth of the work, and from time to time; few, however long it takes.

    Args:
        title: as for :func:`progress`, like the next three.
        total: the number of steps.
        done: steps that were finished earlier.
        unit: what is counted.
        clock: the time in seconds, from any starting point.
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
        """Count steps, and print a line if one is due; see :class:`Advance`."""
        self._done += amount
        self._total = self._total if total is None else total
        self._note = note or self._note
        few = self._total is not None and self._total <= _FEW
        passed = self._clock() - self._printed_at
        if self._tenths() > self._tenth and (few or passed >= _SHORTEST):
            self._print()
        elif passed >= self._wait:
            self._wait = min(2 * self._wait, _LONGEST)
            self._print()

    def close(self) -> None:
        """Print the last count, unless it was printed already."""
        if self._printed_done != self._done:
            self._print()

    def _tenths(self) -> int:
        return 10 * self._done // self._total if self._total else 0

    def _print(self) -> None:
        self._printed_at, self._printed_done, self._tenth = self._clock(), self._done, self._tenths()
        of = f" of {self._total}" if self._total is not None else ""
        count = f"{self._done}{of} {self._unit}".rstrip()
        line = f"{self._title}: {', '.join(part for part in (count, self._note, self._estimate()) if part)}"
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def _estimate(self) -> str:
        done = self._done - self._first  # without an earlier run's steps
        if self._total is None or self._total <= _FEW or done <= 0 or self._done >= self._total:
            return ""
        seconds = (self._clock() - self._started) / done * (self._total - self._done)
        return f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A duration in words, for instance "40 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
