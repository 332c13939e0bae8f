"""What a study found, for the terminal: clusters, a layers x heads grid, where to look next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from apmae.report.ablation import ablation_findings, in_order, interval
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.display import WHY_UNKNOWN, flagged, nearest_words, visible, with_place
from apmae.report.locations import OUTCOMES, findings
from apmae.report.palette import NO_HEAD_COLOR, cluster_color, ink_on
from apmae.report.prediction import Prediction, figure, models_of, prediction_findings
from apmae.report.summary import summarize
from apmae.report.tables import (
    clustering_table,
    clusters_table,
    head_name,
    heads_table,
    locations_table,
    outcomes_table,
)
from apmae.schema import NOISE
from apmae.study.ablation import Ablation
from apmae.study.reader import Study

if TYPE_CHECKING:
    import pyarrow as pa

    from apmae.report.dimensions import Dimensions
    from apmae.report.evaluation import Evaluation

_CLUSTERS = 20
_HEADS, _UNKNOWN = 60, 20
"""Most heads listed, and how many of these places are for unknown ones if there are so many."""
_SINKS = 6
"""Most tokens listed as sinks, those of most heads first."""
_GRID_MARGIN, _GRID_CELL = 6, 4
"""Characters before the first head in a line of the grid, and most characters per head."""


def print_study(study: Study, page: Path) -> None:
    """Print the clusters, the grid of heads, and where to look next.

    Args:
        study: with its report written.
        page: the report's page.
    """
    console = open_console()
    tables = {
        table.name: table
        for table in (
            make(study) for make in (clustering_table, locations_table, clusters_table, outcomes_table, heads_table)
        )
    }
    summary = summarize(study, tables)
    console.print(Text.assemble("\n", (summary.opening, "bold"), f" {summary.clusters}"))
    clusters = tables["clusters"]
    shown = [dict(zip(clusters.header, row, strict=True)) for row in clusters.rows[:_CLUSTERS]]
    _print_clusters(console, shown, len(clusters.rows))
    heads = tables["heads"]
    cells = {
        (layer, head): (NOISE if cluster is None else cluster)
        for layer, head, cluster in zip(*map(heads.column, ("layer", "head", "main cluster")), strict=True)
    }
    _print_grid(console, cells, study.heads_by_layer, "main cluster of each head (. none)")
    for line in summary.next:
        print_point(console, line)
    console.print(Text.assemble("\nReport: ", (str(page), "bold")), soft_wrap=True)


def print_tags(
    rows: Sequence[Mapping[str, Any]],
    heads_by_layer: Sequence[int],
    *,
    predicted: str | None,
    expected: str,
    outcome: str | None,
    note: str = "",
) -> None:
    """Print what each head does on one prompt.

    Args:
        rows: ``schema.TAGS``.
        heads_by_layer: heads of each layer, 0 for a layer without attention.
        predicted: the model's answer; None if it answers nothing.
        expected: the completion.
        outcome: "correct" or "incorrect"; None if the model answers nothing.
        note: a line to print first.
    """
    console = open_console()
    if note:
        console.print(note, highlight=False, markup=False)
    if predicted is None:
        answer = Text(f"Masked: {visible(expected)}. An encoder without a head for masked tokens answers nothing.")
    else:
        answer = Text.assemble(
            "The model answers ", (visible(predicted), "bold"), f", expected {visible(expected)}: {outcome}."
        )
    console.print(answer)
    known = sorted((row for row in rows if row["cluster"] != NOISE), key=lambda row: -row["strength"])
    _print_grid(
        console,
        {(row["layer"], row["head"]): row["cluster"] for row in rows},
        heads_by_layer,
        "cluster of each head (. unknown)",
    )
    unknown = [row for row in rows if row["cluster"] == NOISE]
    shown = [*known[: max(_HEADS - len(unknown), _HEADS - _UNKNOWN)], *unknown][:_HEADS]
    strengths = ["-" if row["cluster"] == NOISE else f"{row['strength']:.2f}" for row in shown]
    clusters = ["." if row["cluster"] == NOISE else str(row["cluster"]) for row in shown]
    names = [flagged(row["name"], row["unstable"]) for row in shown]
    near = [nearest_words(row) for row in shown]
    measured = [with_place(row["measured"], row["sinks"], row["sink_tokens"]) for row in shown]
    columns = (
        Column(header="head", cells=[head_name(row["layer"], row["head"]) for row in shown]),
        Column(header="cluster", cells=clusters, priority=1),
        Column(
            header="name",
            cells=[f"{name}; nearest: {other}" if other else name for name, other in zip(names, near, strict=True)],
            min_width=28,
        ),
        Column(header="strength", cells=strengths, priority=2),
        Column(header="measured", cells=measured, priority=3, min_width=16),
    )
    print_table(console, columns, "--json and --html have everything")
    said = [f"The atlas knows {len(known)} of {len(rows)} heads here; 'measured' is what a head's own scores say."]
    if unknown:
        counts = Counter(row["reason"] for row in unknown)
        why = [f"{count} {WHY_UNKNOWN[reason]}" for reason, count in counts.most_common()]
        said.append(
            f"Unknown: {', '.join(why)}. Beside each is the nearest cluster and how far it is, in that cluster's "
            "radii: 1 is as far as a member may be."
        )
    if any(row["unstable"] for row in rows):
        said.append("Unstable clusters are not found again well in other prompts.")
    console.print(" ".join(said))
    if len(rows) > len(shown):
        console.print(f"{len(rows) - len(shown)} more heads: --json or --html has them all.")
    if sinks := Counter(place for row in rows for place in zip(row["sinks"], row["sink_tokens"], strict=True)):
        most = [
            f"{position} {visible(text)} ({count} head{'' if count == 1 else 's'})"
            for (position, text), count in sinks.most_common(_SINKS)
        ]
        more = f", and {len(sinks) - _SINKS} more" if len(sinks) > _SINKS else ""
        console.print(
            "Sinks, tokens to which nearly all later ones attend: " + ", ".join(most) + more,
            highlight=False,
            markup=False,
        )


def print_locations(locations: "pa.Table", foreign: "pa.Table") -> None:
    """Print the locations of each task beside what chance gives (``schema.LOCATIONS``, ``schema.FOREIGN``)."""
    console, rows = open_console(), locations.to_pylist()

    def cells(name: str) -> list[str]:
        return ["-" if row[name] is None else f"{row[name]:,}" for row in rows]

    def against(which: str) -> list[str]:
        shown = zip(rows, cells(which), strict=True)
        return [
            count
            if row[which] is None
            else f"{count} ({row[f'{which}_null']:.1f} \u00b1 {row[f'{which}_null_sd']:.1f})"
            for row, count in shown
        ]

    columns = [
        Column(header="task", cells=[row["task"].replace("_", " ") for row in rows], min_width=19),
        Column(header="total", cells=cells("total"), priority=2),
        Column(header="unique", cells=cells("unique")),
        Column(header="once", cells=cells("unique_once"), priority=1),
        *[
            Column(header=f"{which} (chance)", cells=against(which), priority=5 - place)
            for place, which in enumerate(OUTCOMES)
        ],
    ]
    print_table(console, columns, "locations.parquet has everything")
    if others := foreign.to_pylist():
        table = [
            Column(header="other tasks' own", cells=[row["task"].replace("_", " ") for row in others], min_width=10),
            Column(header="of incorrect", cells=[f"{row['share_incorrect']:.1%}" for row in others]),
            Column(header="of correct", cells=[f"{row['share_correct']:.1%}" for row in others]),
            Column(header="p", cells=[f"{row['p']:.3f}" for row in others]),
        ]
        print_table(console, table, "foreign.parquet has everything")
    for line in findings(locations, foreign):
        print_point(console, line)


def print_prediction(found: Prediction) -> None:
    """Print how well each set of features predicts the outcome, and what that says (``schema.PREDICTION``)."""
    console, rows = open_console(), found.sets.to_pylist()

    def cells(name: str, sign: str = "", *, interval: bool = False) -> list[str]:
        return ["-" if row[name] is None else figure(row, name, found.digits, sign, interval=interval) for row in rows]

    columns = [
        Column(header="features", cells=[row["features"] for row in rows], min_width=15),
        Column(header="model", cells=[models_of(row) for row in rows], priority=0, min_width=10),
        Column(header="AUROC", cells=cells("auroc", interval=True)),
        Column(header="within task", cells=cells("within_task"), priority=3, min_width=6),
        Column(header="beyond the baseline", cells=cells("delta", "+", interval=True), priority=5),
        Column(header="other tasks", cells=cells("transfer"), priority=2, min_width=5),
        Column(header="accuracy", cells=cells("accuracy"), priority=0),
        Column(header="Brier", cells=cells("brier"), priority=1),
        Column(header="calibration error", cells=cells("calibration_error"), priority=4, min_width=11),
    ]
    print_table(console, columns, "prediction.parquet has everything")
    for line in prediction_findings(found):
        print_point(console, line)


def print_ablation(found: Ablation) -> None:
    """Print sets of removed heads by ranking and dose, beside matched controls, and what that says."""
    console = open_console()
    for mode in found.modes:
        rows = in_order(found.ranked(mode))
        if not rows:
            continue
        controls = {(row["by"], row["ranking"], row["dose"]): row for row in found.ranked(mode, control="effect")}
        beside = [controls.get((row["by"], row["ranking"], row["dose"])) for row in rows]
        columns = [
            Column(header="ranking", cells=[row["ranking"] for row in rows]),
            Column(header="by", cells=["log p" if row["by"] == "log_probability" else "accuracy" for row in rows]),
            Column(header="heads", cells=[str(row["dose"]) for row in rows]),
            Column(header=f"accuracy ({mode})", cells=[interval(row, "drawn") for row in rows]),
            Column(header="natural rate", cells=[interval(row, "natural") for row in rows], priority=2),
            Column(
                header="beyond the nearest",
                cells=["-" if row is None else interval(row, "drawn_beyond") for row in beside],
                priority=4,
            ),
            Column(header="log p", cells=[interval(row, "log_probability", 2) for row in rows], priority=3),
            Column(header="lost", cells=[f"{row['lost']:.0f}" for row in rows], priority=1),
            Column(header="gained", cells=[f"{row['gained']:.0f}" for row in rows], priority=1),
            Column(header="elsewhere", cells=[interval(row, "elsewhere", 2) for row in rows], priority=0),
        ]
        print_table(console, columns, "ablation.parquet has everything")
    for line in ablation_findings(found):
        print_point(console, line)


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print how good every encoder is on every language model's patterns (paper Table 3), and the finding."""
    console = open_console()
    columns = [Column(header="encoder", cells=evaluation.encoders, min_width=16)]
    for place, lm in enumerate(evaluation.lms):
        cells = [
            cell
            for encoder in evaluation.encoders
            for cell in evaluation.cells
            if (cell.encoder, cell.lm) == (encoder, lm)
        ]
        if evaluation.measure == "loss":
            shown = [f"{100 * cell.mean:.2f} \u00b1 {100 * cell.sd:.2f}" for cell in cells]
        else:
            shown = [f"{cell.divergence:.2f} \u00b1 {cell.divergence_sd:.2f} ({cell.uniform:.2f})" for cell in cells]
        columns.append(
            Column(
                header=lm,
                cells=shown,
                priority=len(evaluation.lms) - place,
                min_width=max(map(len, shown)),
                styles=["bold" if cell.own else "" for cell in cells],
            )
        )
    what = {
        "loss": "Masked loss \u00d7 0.01",
        "divergence": "Divergence of hidden attention, nats (in brackets: of an even prediction)",
    }
    console.print(f"\n{what[evaluation.measure]}, mean \u00b1 s.d. over patterns; each model's own encoder in bold")
    print_table(console, columns, "cross_evaluation.csv has them")
    for line in (*evaluation.finding, *evaluation.notes):
        print_point(console, line)


def print_dimensions(found: "Dimensions") -> None:
    """Print trustworthiness by number of dimensions (paper Figure 7), and which is the fewest that will do."""
    console = open_console()
    seeds = f"{found.seeds} seed{'' if found.seeds == 1 else 's'}"
    console.print(
        f"\nTrustworthiness of UMAP: {found.neighbors:,} neighbours of {found.queries:,} of {found.points:,} patterns, "
        f"{seeds}",
        highlight=False,
    )
    fewest = [row == found.fewest for row in found.rows]
    columns = (
        Column(
            header="dimensions",
            cells=[str(row.dimensions) for row in found.rows],
            styles=["bold" if chosen else "" for chosen in fewest],
        ),
        Column(header="trustworthiness", cells=[f"{row.mean:.4f}" for row in found.rows]),
        Column(
            header="per dimension",
            cells=["-" if row.gain is None else f"{row.gain:+.4f}" for row in found.rows],
            priority=3,
        ),
        Column(
            header="s.d. (seeds)",
            cells=["-" if row.sd is None else f"{row.sd:.4f}" for row in found.rows],
            priority=2,
        ),
        Column(header="s.e. (sample)", cells=[f"{row.error:.4f}" for row in found.rows], priority=1),
    )
    print_table(console, columns, "the Parquet file has everything")
    print_point(console, found.finding)


def _print_clusters(console: Console, clusters: Sequence[Mapping[str, Any]], total: int) -> None:
    numbers = [int(row["cluster"]) for row in clusters]
    colors = [cluster_color(number) for number in numbers]
    columns = (
        Column(
            header="cluster",
            cells=[f" {number} " for number in numbers],
            styles=[f"{ink_on(color)} on {color}" for color in colors],
        ),
        Column(
            header="name",
            cells=[flagged(str(row["name"]), row["stable"] == "no") for row in clusters],
            min_width=30,
        ),
        Column(
            header="stable",
            cells=[f"{min(row['in halves'], row['over seeds']):.2f}" for row in clusters],
            priority=5,
        ),
        Column(header="patterns", cells=[f"{row['size']:,}" for row in clusters], priority=1),
        Column(header="share", cells=[f"{row['share']:.1%}" for row in clusters], priority=3),
        Column(header="looks at", cells=[str(row["looks at"] or "") for row in clusters], priority=2),
        Column(
            header="mostly in heads",
            cells=[", ".join(str(row["where"]).split(", ")[:2]) for row in clusters],
            priority=4,
            min_width=15,
        ),
    )
    print_table(console, columns, "the report has them")
    if total > len(clusters):
        console.print(f"  and {total - len(clusters)} more clusters in the report")


def _print_grid(
    console: Console, cells: Mapping[tuple[int, int], int], heads_by_layer: Sequence[int], title: str
) -> None:
    heads = max(heads_by_layer)
    longest = max((len(str(number)) for number in (heads - 1, *cells.values())), default=1)
    room = (console.width - _GRID_MARGIN) // max(heads, 1)
    width = min(_GRID_CELL, room)
    console.print(f"[bold]layers \u00d7 heads[/bold]: {title}", highlight=False)
    if width <= longest:
        needs = heads * (longest + 1) + _GRID_MARGIN
        console.print(f"  not shown: it needs lines of {needs} characters, and there are {console.width}")
        return
    margin = " " * _GRID_MARGIN
    console.print(Text(margin + "".join(f"{head:>{width}}" for head in range(heads))))
    for layer, own in enumerate(heads_by_layer):
        line = Text(f"  {layer:>3} ")
        if not own:
            line.append("   no attention", style=NO_HEAD_COLOR)
        for head in range(own):
            cluster = cells.get((layer, head), NOISE)
            color = cluster_color(cluster)
            style = "" if cluster == NOISE else f"{ink_on(color)} on {color}"
            line.append(f"{'.' if cluster == NOISE else cluster:>{width}}", style=style)
        console.print(line)
