"""What each head does over a corpus, as a page: maps of layers by heads, heads that change with the task, all heads."""

from collections.abc import Mapping, Sequence
from typing import Any

from apmae.report.display import UNUSED, WHY_UNKNOWN, cells_in_a_grid, grid_cell, listing
from apmae.report.page import environment, package_version
from apmae.report.palette import cluster_color, shade_of
from apmae.report.steadiness import (
    UNKNOWNS,
    by_name,
    cautions,
    exceptions_of,
    fewest,
    leading,
    mostly,
    names_words,
    share_of,
    steadiest_words,
)
from apmae.report.tables import Table, describe_heads, head_name
from apmae.schema import NOISE


def summary_page(summary: Mapping[str, Any]) -> bytes:
    """The page of a summary, one file of HTML that fetches nothing.

    Args:
        summary: as in ``summary.json`` (``docs/exchange.md``).
    """
    heads: Sequence[Mapping[str, Any]] = summary["heads"]
    groups = by_name(heads)
    named = [name for name, _ in groups if name not in UNKNOWNS]
    rank = {name: named.index(name) if name in named else NOISE for name, _ in groups}
    tags = sum(one["tags"] for one in heads)
    known = sum(one["tags"] * one["known"] for one in heads) / max(tags, 1)
    facts = [
        ("prompts", f"{summary['prompts']:,}"),
        ("heads", f"{len(heads):,}"),
        ("tags in a cluster", f"{known:.0%}"),
    ]
    if summary["correct"] is not None:
        facts.append(("answered correctly", f"{summary['correct'] / max(summary['prompts'], 1):.0%}"))
    page = (
        environment()
        .get_template("heads.html.j2")
        .render(
            title=f"What the heads of {summary['model']} do",
            heads=describe_heads(summary["heads_by_layer"]),
            note=summary["note"],
            facts=facts,
            tasks=[(task.replace("_", " "), count) for task, count in summary["tasks"].items()],
            cautions=cautions(summary),
            unused=[f"{count} {UNUSED[reason]}" for reason, count in summary["unused_files"].items()],
            names=_names_grid(heads, rank, summary["heads_by_layer"]),
            steadiness=_steadiness_grid(heads, summary["heads_by_layer"]),
            groups=[
                {
                    "color": cluster_color(rank[name]),
                    "number": "" if rank[name] == NOISE else rank[name],
                    "name": name,
                    "heads": len(own),
                    "steady": f"{sum(one['steadiness'] for one in own) / len(own):.0%}",
                    "steadiest": steadiest_words(own),
                }
                for name, own in groups
            ],
            changing=_changing(heads),
            listing=listing(_all_heads(heads), "heads"),
            version=package_version(),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def _names_grid(
    heads: Sequence[Mapping[str, Any]], rank: Mapping[str, int], heads_by_layer: Sequence[int]
) -> dict[str, Any]:
    """The main name of each head; a wide grid shows the number of the name in the list below it."""
    cells, least = {}, fewest(heads)
    for one in heads:
        name, where = mostly(one, least), head_name(one["layer"], one["head"])
        title = (
            f"{where}: {name}; {one['name'] or 'no name'} on {one['steadiness']:.0%} of {one['tags']:,} prompts; "
            f"{one['known']:.0%} in a cluster"
        )
        cells[one["layer"], one["head"]] = grid_cell(rank[name], name, title, max(heads_by_layer))
    return cells_in_a_grid(cells, heads_by_layer)


def _steadiness_grid(heads: Sequence[Mapping[str, Any]], heads_by_layer: Sequence[int]) -> dict[str, Any]:
    """The share of each head's tags with its main name, in per cent; the darker, the steadier."""
    cells = {}
    for one in heads:
        share = one["steadiness"]
        color, ink = shade_of(share)
        title = f"{head_name(one['layer'], one['head'])}: {one['name'] or 'no name'} on {share:.0%} of its prompts"
        cell = {"text": f"{100 * share:.0f}", "title": title, "color": color, "ink": ink, "link": None}
        cells[one["layer"], one["head"]] = cell
    return cells_in_a_grid(cells, heads_by_layer) | {"style": "numbered"}


def _changing(heads: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Heads with tasks in which they do mostly something else, and in which tasks; None if there are none."""
    rows, least = [], fewest(heads)
    for one in heads:
        others = exceptions_of(one)
        if others:
            said = "; ".join(
                f"{habit['name']} in {task.replace('_', ' ')} ({habit['steadiness']:.0%} of {habit['tags']}, of all "
                f"{share_of(one, habit['name']):.0%})"
                for task, habit in others.items()
            )
            moved = sum(habit["tags"] for habit in others.values()) / one["tags"]
            rows.append((head_name(one["layer"], one["head"]), mostly(one, least), one["steadiness"], moved, said))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[3])
    header = ("head", "mostly", "steady", "share of prompts", "otherwise")
    return listing(Table(name="changing", header=header, rows=tuple(rows)), "heads that change with the task")


def _all_heads(heads: Sequence[Mapping[str, Any]]) -> Table:
    rows, least = [], fewest(heads)
    for one in heads:
        names = names_words(one, least)
        why = "; ".join(f"{entry['share']:.0%} {WHY_UNKNOWN[entry['reason']]}" for entry in one["unknown"])
        where = head_name(one["layer"], one["head"])
        strength = one["strength"]
        rows.append((where, mostly(one, least), one["steadiness"], one["known"], strength, leading(one), names, why))
    header = ("head", "mostly", "steady", "known", "strength", "own scores", "names", "unknown")
    return Table(name="heads", header=header, rows=tuple(rows))
