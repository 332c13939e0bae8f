"""What pattern locations say against chance, in words; reads ``schema.LOCATIONS`` and ``schema.FOREIGN``."""

from typing import Any

import pyarrow as pa

from apmae.analyze.resampling import LEVEL
from apmae.report.tables import Table

_MOVABLE = 0.5
"""A task of which less can be shuffled is not tested: its null is what was found."""
OUTCOMES = ("correct", "incorrect", "overlap")


def significant(p: list[float], level: float = LEVEL) -> list[bool]:
    """Which tests stand after Holm's correction (Holm 1979), in the order given.

    Args:
        p: of each test.
        level: chance of one or more false among all.
    """
    stands, order = [False] * len(p), sorted(range(len(p)), key=p.__getitem__)
    for place, number in enumerate(order):
        if p[number] > level / (len(p) - place):
            break
        stands[number] = True
    return stands


def chance_table(locations: pa.Table) -> Table:
    """Unique locations of each task, and of those by outcome, beside what chance gives (mean and s.d., and p)."""
    rows = locations.to_pylist()
    names = (
        "task",
        "prompts",
        "files",
        "total",
        "unique",
        "unique_null",
        "unique_once",
        "unique_half",
        "unique_stable",
    )
    header = ["task", "prompts", "files", "total", "unique", "if tasks were shuffled", "seen once"]
    header += ["with half of the prompts", "stable"]
    cells = [[row[name] for name in names] for row in rows]
    if any(row["correct"] is not None for row in rows):
        header.append("can be shuffled")
        for own, row in zip(cells, rows, strict=True):
            own.append(row["movable"])
    for which in OUTCOMES if any(row["correct"] is not None for row in rows) else ():
        header += [f"{which} only" if which != "overlap" else which, f"{which} by chance", f"{which} p"]
        for own, row in zip(cells, rows, strict=True):
            own += [row[which], f"{row[f'{which}_null']:.1f} \u00b1 {row[f'{which}_null_sd']:.1f}", row[f"{which}_p"]]
    return Table(name="locations_chance", header=tuple(header), rows=tuple(map(tuple, cells)))


def foreign_table(foreign: pa.Table) -> Table:
    """How much of correct and of incorrect prompts is other tasks' own."""
    names = ("task", "correct", "incorrect", "share_correct", "share_incorrect", "null", "null_sd", "p")
    header = ("task", "correct", "incorrect", "of correct", "of incorrect", "difference by chance", "its s.d.", "p")
    rows = tuple(tuple(row[name] for name in names) for row in foreign.to_pylist())
    return Table(name="locations_foreign", header=header, rows=rows)


def findings(locations: pa.Table, foreign: pa.Table) -> list[str]:
    """What can be said of a study's locations, a sentence or two each."""
    rows = locations.to_pylist()
    return [line for line in (_uniqueness(rows), _by_outcome(rows), _foreign(foreign.to_pylist())) if line]


def _uniqueness(rows: list[dict[str, Any]]) -> str:
    unique, once = (sum(row[name] for row in rows) for name in ("unique", "unique_once"))
    if not unique:
        return "No location occurs in a single task only."
    half, shuffled = (sum(row[name] for row in rows) for name in ("unique_half", "unique_null"))
    return (
        f"{unique:,} locations are unique to a task; if files were given tasks at random, {shuffled:,.0f} would be. "
        f"{once:,} ({once / unique:.0%}) were seen in one prompt only, and with half of the prompts {half:,.0f} would "
        "be unique."
    )


def _by_outcome(rows: list[dict[str, Any]]) -> str:
    asked = [row for row in rows if row["correct_p"] is not None]
    if not asked:
        return "No outcome is known, so nothing can be said of correct and incorrect prompts."
    fixed = [row["task"].replace("_", " ") for row in asked if row["movable"] < _MOVABLE]
    untested = (
        f" Not tested, because most of their outcomes cannot be shuffled (each file has another number of prompts): "
        f"{', '.join(fixed)}."
        if fixed
        else ""
    )
    tests = [(row, which) for row in asked for which in OUTCOMES[:2] if row["movable"] >= _MOVABLE]
    if not tests:
        return untested.strip()
    stands = significant([row[f"{which}_p"] for row, which in tests])
    beyond = [
        f"{row['task'].replace('_', ' ')} ({row[which]} {which} only, by chance {row[f'{which}_null']:.1f})"
        for (row, which), stand in zip(tests, stands, strict=True)
        if stand
    ]
    if not beyond:
        return (
            "No task stands out against shuffled outcomes in what only correct or only incorrect prompts have "
            f"(tests: {len(tests)}, Holm's level {LEVEL:g}).{untested}"
        )
    return f"Against shuffled outcomes, tasks with locations that go with the outcome: {', '.join(beyond)}.{untested}"


def _foreign(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    stands = significant([row["p"] for row in rows])
    beyond = [
        f"{row['task'].replace('_', ' ')} ({row['share_incorrect']:.1%} against {row['share_correct']:.1%})"
        for row, stand in zip(rows, stands, strict=True)
        if stand
    ]
    if not beyond:
        return (
            "No task stands out against shuffled outcomes in how much of its incorrect prompts is other tasks' own "
            f"(tests: {len(rows)}, Holm's level {LEVEL:g})."
        )
    return f"Incorrect prompts differ from correct ones in how much is other tasks' own: {', '.join(beyond)}."
