"""Progress on long work: one rich bar a stage, on stderr, silent when nobody watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Advance(Protocol):
    """What a stage calls as it goes on."""

    def __call__(self, amount: int = 1, *, note: str = "", total: int | None = None) -> None:
        """Go on by ``amount`` steps."""
        ...


@contextmanager
def progress(title: str, total: int | None, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar while the block runs.

    Args:
        title: what the stage does, a few words.
        total: how many steps; None when it is not known (a spinner).
        done: steps that an earlier, interrupted run finished.

    Yields:
        A function ``advance(amount=1, note="", total=None)``; ``note`` is shown behind the bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, total, done)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(amount: int = 1, *, note: str = "", total: int | None = None) -> None:
            bar.update(task, advance=amount, total=total)
            if note:
                bar.update(task, note=note)

        yield advance


def notice(text: str) -> None:
    """Say something that is no mistake, in a line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _lines(title: str, total: int | None, done: int) -> Advance:
    """Without a terminal: a line at every tenth of the work, for logs."""
    state = {"done": done, "total": total, "printed": -1}

    def advance(amount: int = 1, *, note: str = "", total: int | None = None) -> None:
        state["done"] += amount
        state["total"] = total if total is not None else state["total"]
        tenth = 10 * state["done"] // state["total"] if state["total"] else state["done"] // 1000
        if tenth > state["printed"]:
            state["printed"] = tenth
            of = f"/{state['total']}" if state["total"] else ""
            sys.stderr.write(f"{title}: {state['done']}{of} {note}".rstrip() + "\n")
            sys.stderr.flush()

    return advance
