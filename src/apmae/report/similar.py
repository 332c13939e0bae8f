"""Similar patterns: for the terminal, as JSON, and as a picture of the query beside its nearest kept patterns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy import ndarray

from apmae.analyze.similar import Similar
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.examples import Example
from apmae.report.figures import STYLE, gallery, statement
from apmae.report.tables import head_name
from apmae.schema import NOISE
from apmae.study.exemplars import unpack
from apmae.study.placed import Placed

QUERIES = 2
"""Most queries in a picture."""
_HEADS = 10
"""Most heads in a picture."""
_FAR, _NEAR = 0.95, 0.05
"""Further than the nearest head of this share of the drawn patterns: nothing alike is there. Below: unusually near."""


def print_similar(found: Similar, labels: Sequence[str], notes: Sequence[str]) -> None:
    """Print the nearest heads, and how near they are beside what is usual.

    Args:
        found: from ``analyze.similar.find_similar``.
        labels: what each query is called.
        notes: lines to print.
    """
    console, rows, heads = open_console(), found.patterns.to_pylist(), found.heads.to_pylist()
    models = len({row["study"] for row in (*rows, *heads)}) > 1
    if len(labels) == 1:
        columns = [
            Column(header="head", cells=[head_name(row["layer"], row["head"]) for row in rows]),
            *([Column(header="study", cells=[row["study"] for row in rows], min_width=8)] if models else []),
            Column(header="prompt", cells=[str(row["prompt"]) for row in rows], priority=1),
            Column(header="distance", cells=[f"{row['distance']:.3g}" for row in rows]),
            Column(header="pairs nearer", cells=[_percent(row["pairs"]) for row in rows], priority=2, min_width=6),
            Column(header="controls nearer", cells=[_percent(row["controls"]) for row in rows], min_width=8),
            Column(header="cluster", cells=[_kinds(row) for row in rows], priority=4, min_width=16),
            Column(header="own scores", cells=[row["measured"] for row in rows], priority=3, min_width=12),
        ]
        console.print(f"\n[bold]Heads nearest to[/bold] {labels[0]}", highlight=False)
        print_table(console, columns, "--json has everything")
    else:
        columns = [
            Column(header="head", cells=[head_name(row["layer"], row["head"]) for row in heads]),
            *([Column(header="study", cells=[row["study"] for row in heads], min_width=8)] if models else []),
            Column(header="mean distance", cells=[f"{row['mean']:.3g}" for row in heads], min_width=8),
            Column(header="controls nearer", cells=[_percent(row["controls"]) for row in heads], min_width=8),
            Column(header="nearest", cells=[f"{row['nearest']:.3g}" for row in heads], priority=1),
            Column(header="mostly", cells=[_kinds(row) for row in heads], priority=3, min_width=18),
            Column(header="share", cells=[f"{row['share']:.0%}" for row in heads], priority=2),
        ]
        console.print(
            f"\n[bold]Heads nearest to {len(labels)} patterns[/bold], over all their prompts", highlight=False
        )
        print_table(console, columns, "--json has everything")
    for line in (*notes, *similar_findings(found, len(labels))):
        print_point(console, line)


def similar_findings(found: Similar, queries: int) -> list[str]:
    """How near the nearest heads are, in words."""
    several = queries > 1
    rows = (found.heads if several else found.patterns).to_pylist()
    if not rows:
        return ["There is no other head in these studies."]
    low, middle, high = found.usual_mean if several else found.usual
    share = rows[0]["controls"]
    if share >= _FAR:
        verdict = "Even the nearest head is further than is usual: nothing here is like it."
    elif share <= _NEAR:
        verdict = "The nearest head is nearer than is usual."
    else:
        verdict = "The nearest head is as near as that of patterns drawn from these studies usually is."
    what = "a mean distance of" if several else "a distance of"
    own = (
        []
        if found.itself is None
        else [f"The head's own patterns on other prompts are at {found.itself:.3g} on average."]
    )
    return [
        verdict,
        *own,
        f"A pattern drawn from these studies has its nearest other head at {what} {middle:.3g} (5 % to 95 %: {low:.3g} "
        f"to {high:.3g}). 'controls nearer' is the share of drawn patterns whose own head of the same rank is nearer.",
    ]


def similar_record(found: Similar, labels: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """What was found, as JSON; distances that were not measured are null."""
    return {
        "format": "apmae.similar",
        "version": 1,
        "queries": list(labels),
        "notes": [*notes, *similar_findings(found, len(labels))],
        "usual_distance": dict(zip(("q05", "median", "q95"), found.usual, strict=True)),
        "usual_mean_distance": dict(zip(("q05", "median", "q95"), found.usual_mean, strict=True)),
        "own_head_distance": found.itself,
        "patterns": _plain(found.patterns.to_pylist()),
        "heads": _plain(found.heads.to_pylist()),
    }


def kept_squares(study: Placed, places: Sequence[tuple[int, int, int]]) -> tuple[Float[ndarray, "t t"], ...]:
    """Log patterns of the first of some patterns that the study kept whole."""
    kept = study.exemplars
    where = zip(kept.prompt.tolist(), kept.layer.tolist(), kept.head.tolist(), strict=True)
    own = {place: number for number, place in enumerate(where)}
    numbers = [own[place] for place in places if place in own][:QUERIES]
    return tuple(unpack(row) for row in study.read_exemplars(numbers))


@rc_context(STYLE)
def draw_similar(found: Similar, squares: Sequence[Float[ndarray, "t t"]], studies: Mapping[str, Placed]) -> Figure:
    """The queries, then a kept pattern of each of the nearest heads.

    A study keeps few whole patterns. The one shown of a head is the nearest itself if it was kept, or else the first
    that was kept of the head; its title says which.

    Args:
        found: from ``analyze.similar.find_similar``.
        squares: log patterns of queries.
        studies: by name.
    """
    examples, titles = [], []
    for number, square in enumerate(squares):
        examples.append(Example(NOISE, "", 0, 0, 0, square))
        titles.append(f"query {number + 1}" if len(squares) > 1 else "query")
    several = len(set(found.patterns["query"].to_pylist())) > 1
    for row in (found.heads if several else found.patterns).to_pylist()[:_HEADS]:
        study = studies[row["study"]]
        kept = study.exemplars
        own = np.flatnonzero((kept.layer == row["layer"]) & (kept.head == row["head"]))
        if not len(own):
            continue
        same = own[:0] if several else own[kept.prompt[own] == row["prompt"]]
        (shown,) = study.read_exemplars([int(same[0] if len(same) else own[0])])
        where = f"prompt {shown['prompt']}" + ("" if several or len(same) else ", not the nearest")
        far = f"mean {row['mean']:.3g}" if several else f"{row['distance']:.3g}"
        titles.append(f"{row['model']} {head_name(row['layer'], row['head'])}, {far}\n{where}")
        examples.append(Example(row["cluster"], row["name"], shown["prompt"], row["layer"], row["head"], unpack(shown)))
    if not examples:
        return statement("No picture: of these patterns none was kept whole")
    return gallery(examples, titles, 4)


def _kinds(row: Mapping[str, Any]) -> str:
    """A cluster's name without qualifiers."""
    return str(row["name"]).split(", ")[0]


def _percent(value: float) -> str:
    return "-" if value != value else f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]
