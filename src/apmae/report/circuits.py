"""Circuits in words and tables; reads ``schema.CIRCUIT`` and the tables beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apmae.analyze.circuits import FEWEST_GROUPS
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.tables import Table, head_name
from apmae.schema import FILTERS
from apmae.study.circuit import Circuit

_SHOWN = 10
"""Heads of each task that are listed, and edges."""
WORDS = {
    "attribution": "attribution",
    "flow": "flow",
    "last_row": "last row",
    "tags": "tags differ",
    "random": "random",
}
"""What filters are called."""


def circuit_table(found: Circuit, shown: int | None = None) -> Table:
    """Heads by effect, the largest first; with the score of each filter.

    Args:
        found: the circuits.
        shown: heads of each task, at most; None for all that were patched.
    """
    names = [name for name in FILTERS if name != "random" and found.heads[name].null_count < found.heads.num_rows]
    share = "share of all effects" if found.recall.num_rows else "share of those patched"
    header = ("task", "head", "effect", "95% interval", share, *(WORDS[name] for name in names))
    rows = [
        (
            row["task"],
            head_name(row["layer"], row["head"]),
            f"{row['effect']:+.2f}",
            interval(row),
            f"{row['share']:.0%}",
            *(f"{row[name]:.3f}" for name in names),
        )
        for row in _ranked(found)
        if shown is None or row["rank"] <= shown
    ]
    return Table(name="circuit", header=header, rows=tuple(rows))


def recall_table(found: Circuit) -> Table:
    """What each filter's shortlist has, at its size, a third and half of the heads, beside chance and the halves.

    It is of the true top five and ten, and of all effects; forwards per pair stand beside their share of exact's.
    """
    sizes = {found.counts["shortlist"], *(_size(share, found.counts["heads"]) for share in (1 / 3, 0.5))}
    header = ("task", "filter", "heads", "top 5", "top 10", "effects", "forwards", "cost")
    rows: list[tuple[Any, ...]] = []
    for row in found.recall.to_pylist():
        if row["heads"] in sizes:
            cost = row["forwards"] / found.counts["forwards_all"]
            rows.append(
                (
                    row["task"],
                    WORDS[row["filter"]],
                    row["heads"],
                    *(percent(row[name]) for name in ("recall_5", "recall_10", "share")),
                    round(row["forwards"]),
                    f"{cost:.0%}",
                )
            )
    for row in found.tasks.to_pylist():
        if row["halves_share"] is not None:
            own = (percent(row[name]) for name in ("halves_5", "halves_10", "halves_share"))
            rows.append((row["task"], "exact, other half", _SHOWN, *own, "", ""))
    return Table(name="circuit_recall", header=header, rows=tuple(rows))


def edges_table(found: Circuit, shown: int | None = None) -> Table:
    """Edges by effect, the largest first."""
    header = ("task", "from", "to", "effect", "95% interval")
    rows, seen = [], dict[str, int]()
    for row in found.edges.to_pylist():
        seen[row["task"]] = seen.get(row["task"], 0) + 1
        if shown is None or seen[row["task"]] <= shown:
            ends = head_name(row["layer"], row["head"]), head_name(row["to_layer"], row["to_head"])
            rows.append((row["task"], *ends, f"{row['effect']:+.2f}", interval(row)))
    return Table(name="circuit_edges", header=header, rows=tuple(rows))


def circuit_findings(found: Circuit) -> list[str]:
    """What can be said of each task's circuit, and what was left out."""
    lines = []
    for row in found.tasks.to_pylist():
        lines.append(_task(row))
        lines += [line for line in (_sure(found, row), _filter(found, row)) if line]
    counts = found.counts
    lines += [f"Left out: {count} prompts {why}." for why, count in counts["left_out"].items()]
    if not found.recall.num_rows:
        lines.append(
            f"{counts['patched']} of {counts['heads']} heads were patched; what the others do was not measured "
            "(--exact all measures it, and how good the filters are)."
        )
    return lines


def circuit_record(found: Circuit) -> dict[str, Any]:
    """Everything as JSON."""
    return {
        "format": "apmae.circuit",
        "version": 1,
        "counts": dict(found.counts),
        **{name: getattr(found, name).to_pylist() for name in ("tasks", "heads", "recall", "edges")},
        "findings": circuit_findings(found),
    }


def print_circuit(found: Circuit, where: Path) -> None:
    """Print the heads of each task, the quality of filters, edges, and findings.

    Args:
        found: the circuits.
        where: the stage's folder.
    """
    console = open_console()
    tables = circuit_table(found, _SHOWN), recall_table(found), edges_table(found, _SHOWN)
    for task in found.tasks["task"].to_pylist():
        console.print(f"\n{task}", highlight=False, markup=False)
        for table in tables:
            rows = [row[1:] for row in table.rows if row[0] == task]
            columns = [
                Column(
                    header=header,
                    cells=[str(cell) for cell in own],
                    priority=None if place < 4 else len(table.header) - place,
                )
                for place, (header, own) in enumerate(zip(table.header[1:], zip(*rows, strict=True), strict=False))
            ]
            if columns:
                print_table(console, columns, f"the tables in {where} have them")
    for line in circuit_findings(found):
        print_point(console, line)


def interval(row: Mapping[str, Any]) -> str:
    """A row's interval; a dash where there is none."""
    return "-" if row["low"] is None else f"[{row['low']:+.2f}, {row['high']:+.2f}]"


def percent(value: float | None) -> str:
    """A share; a dash where there is none."""
    return "-" if value is None else f"{value:.0%}"


def _ranked(found: Circuit) -> list[dict[str, Any]]:
    """The heads that were patched, task by task, the largest effect first."""
    order = {task: place for place, task in enumerate(found.tasks["task"].to_pylist())}
    rows = [row for row in found.heads.to_pylist() if row["rank"] is not None]
    return sorted(rows, key=lambda row: (order[row["task"]], row["rank"]))


def _groups(task: Mapping[str, Any]) -> str:
    return f"{task['groups']} group{'' if task['groups'] == 1 else 's'}"


def _size(share: float, heads: int) -> int:
    return -(-round(share * heads * 1000) // 1000)


def _task(row: Mapping[str, Any]) -> str:
    said = (
        f"{_words(row)}: {row['pairs']} pairs from {_groups(row)}. The right completion's logit less the wrong "
        f"one's is {row['clean']:+.2f} after prompts and {row['counterfactual']:+.2f} after counterfactuals"
    )
    if row["clean"] <= 0:
        return f"{said}: the model does not do this task, so its heads' effects say little."
    if row["fell"] < 0.9:
        return f"{said}; it falls in {row['fell']:.0%} of the pairs only."
    return f"{said}; it falls in {row['fell']:.0%} of the pairs."


def _sure(found: Circuit, task: Mapping[str, Any]) -> str:
    """How many heads have an effect that its interval tells from none."""
    if task["groups"] < FEWEST_GROUPS:
        return (
            f"{_words(task)}: no intervals, because the prompts come from {_groups(task)}; at least "
            f"{FEWEST_GROUPS} are needed."
        )
    rows = [row for row in _ranked(found) if row["task"] == task["task"]]
    sure = [row for row in rows if row["low"] is not None and (row["low"] > 0 or row["high"] < 0)]
    against = sum(row["effect"] < 0 for row in sure)
    return (
        f"{_words(task)}: {len(sure)} of {len(rows)} patched heads have an effect whose interval leaves out 0, "
        f"{against} of them against the right completion (each at 95%, not corrected for their number)."
    )


def _filter(found: Circuit, task: Mapping[str, Any]) -> str:
    """What the chosen filter's shortlist has, beside chance and the halves."""
    counts = found.counts
    name, size = counts["filter"], counts["shortlist"]
    rows = {
        row["filter"]: row for row in found.recall.to_pylist() if row["task"] == task["task"] and row["heads"] == size
    }
    if name not in rows or rows[name]["recall_5"] is None:
        return ""
    own, top = rows[name], "recall_10" if rows[name]["recall_10"] is not None else "recall_5"
    many = top.removeprefix("recall_")
    ceiling = task[f"halves_{many}"]
    halves = "" if ceiling is None else f"; one half of the groups finds {ceiling:.0%} of the other's"
    return (
        f"{_words(task)}: the first {size} heads by {WORDS[name]} have {own[top]:.0%} of the true top {many} (by "
        f"chance {size / counts['heads']:.0%}{halves}) and {own['share']:.0%} of all effects, for {counts['forwards']} "
        f"forwards per pair instead of {counts['forwards_all']} ({counts['forwards'] / counts['forwards_all']:.0%})."
    )


def _words(task: Mapping[str, Any]) -> str:
    return str(task["task"]).replace("_", " ")
