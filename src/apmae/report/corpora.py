"""Locations of several corpora side by side, in words and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from apmae.analyze.corpora import Tables
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.locations import OUTCOMES, significant

_ALL = "all tasks"


def print_corpora(found: Tables) -> None:
    """Print Table 5 of each corpus, what is unique to a corpus, and whether incorrect prompts look like another one."""
    console = open_console()
    _print_locations(console, found.locations.to_pylist())
    _print_unique(console, found.corpora.to_pylist())
    _print_foreign(console, found.foreign.to_pylist())
    for line in corpora_findings(found):
        print_point(console, line)


def corpora_findings(found: Tables) -> list[str]:
    """What can be said of corpora side by side, a sentence or two each; Holm's correction at 0.05 in each kind."""
    unique, foreign = found.corpora.to_pylist(), found.foreign.to_pylist()
    said = []
    whole, tasks = ([row for row in unique if (row["task"] is None) == every] for every in (True, False))
    for row, stands in zip(whole, significant([row["unique_p"] for row in whole]), strict=True):
        beyond = (
            ("more" if row["unique"] > row["unique_null"] else "fewer") + " than" if stands else "no more or fewer than"
        )
        said.append(
            f"{row['corpus']}: {row['unique']:,} of {row['total']:,} locations occur in no other corpus, {beyond} with "
            f"its files shuffled among corpora ({row['unique_null']:.1f} \u00b1 {row['unique_null_sd']:.1f}, p "
            f"{row['unique_p']:.3f}); {row['unique_once']:,} of them were seen in one prompt only."
        )
    beyond = [
        f"{row['corpus']}, {_task(row)} ({row['unique']:,}, by chance {row['unique_null']:.1f})"
        for row, stands in zip(tasks, significant([row["unique_p"] for row in tasks]), strict=True)
        if stands
    ]
    if beyond:
        said.append(f"Within a task, corpora differ from shuffled ones in: {'; '.join(beyond)}.")
    else:
        said.append("Within no task has a corpus more locations to itself, or fewer, than shuffled corpora give.")
    if foreign:
        beyond = [
            f"{row['corpus']}, {_task(row)} ({row['share_incorrect']:.1%} against {row['share_correct']:.1%})"
            for row, stands in zip(foreign, significant([row["p"] for row in foreign]), strict=True)
            if stands
        ]
        said.append(
            f"Incorrect prompts differ from correct ones in how much is another corpus's own: {'; '.join(beyond)}."
            if beyond
            else "Incorrect prompts have no more of another corpus's own locations than correct ones, beyond chance."
        )
    return said


def _print_locations(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [
        Column(header="corpus", cells=_once(rows), min_width=8),
        Column(header="task", cells=[_task(row) for row in rows], min_width=10),
        Column(header="prompts", cells=[f"{row['prompts']:,}" for row in rows], priority=1),
        Column(header="total", cells=[f"{row['total']:,}" for row in rows]),
        Column(header="unique", cells=[f"{row['unique']:,}" for row in rows]),
        Column(header="once", cells=[f"{row['unique_once']:,}" for row in rows], priority=2),
        *[
            Column(
                header=f"{which} (chance)",
                cells=["-" if row[which] is None else f"{row[which]:,} ({row[f'{which}_null']:.1f})" for row in rows],
                priority=5 - place,
                min_width=10,
            )
            for place, which in enumerate(OUTCOMES)
        ],
    ]
    console.print("\n[bold]Table 5 of each corpus[/bold]: its own tasks compared", highlight=False)
    print_table(console, columns, "locations.parquet has everything")


def _print_unique(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [
        Column(header="corpus", cells=_once(rows), min_width=8),
        Column(header="task", cells=[_task(row) for row in rows], min_width=10),
        Column(header="files", cells=[f"{row['files']:,}" for row in rows], priority=1),
        Column(header="total", cells=[f"{row['total']:,}" for row in rows], priority=3),
        Column(header="unique", cells=[f"{row['unique']:,}" for row in rows]),
        Column(header="once", cells=[f"{row['unique_once']:,}" for row in rows], priority=2),
        Column(
            header="by chance", cells=[f"{row['unique_null']:.1f} \u00b1 {row['unique_null_sd']:.1f}" for row in rows]
        ),
        Column(header="p", cells=[f"{row['unique_p']:.3f}" for row in rows]),
    ]
    console.print("\n[bold]Locations in no other corpus[/bold]", highlight=False)
    print_table(console, columns, "corpora.parquet has everything")


def _print_foreign(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    columns = [
        Column(header="corpus", cells=_once(rows), min_width=8),
        Column(header="task", cells=[_task(row) for row in rows], min_width=10),
        Column(header="of incorrect", cells=[f"{row['share_incorrect']:.1%}" for row in rows]),
        Column(header="of correct", cells=[f"{row['share_correct']:.1%}" for row in rows]),
        Column(
            header="difference by chance",
            cells=[f"{row['null']:+.1%} \u00b1 {row['null_sd']:.1%}" for row in rows],
            priority=1,
            min_width=13,
        ),
        Column(header="p", cells=[f"{row['p']:.3f}" for row in rows]),
    ]
    console.print("\n[bold]How much of a prompt's locations is another corpus's own[/bold]", highlight=False)
    print_table(console, columns, "foreign.parquet has everything")


def _once(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The corpus of each row; blank where it is that of the row before."""
    names = [row["corpus"] for row in rows]
    return [name if not place or names[place - 1] != name else "" for place, name in enumerate(names)]


def _task(row: Mapping[str, Any]) -> str:
    return _ALL if row["task"] is None else row["task"].replace("_", " ")
