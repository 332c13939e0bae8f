"""What a study found, for the terminal: clusters, a layers x heads grid, where to look next."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from apmae.report.display import visible
from apmae.report.evaluation import Evaluation
from apmae.report.palette import NO_HEAD_COLOR, cluster_color, ink_on
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
from apmae.study.reader import Study

_CLUSTERS = 20
_WIDEST = 24
"""Heads a layer that fit a terminal; more are left to the page."""
_HEADS = 60


def print_study(study: Study, page: Path) -> None:
    """Print the clusters, the grid of heads, and where to look next.

    Args:
        study: with its report written.
        page: the report's page.
    """
    console = Console()
    tables = {
        table.name: table
        for table in (
            make(study) for make in (clustering_table, locations_table, clusters_table, outcomes_table, heads_table)
        )
    }
    summary = summarize(study, tables)
    console.print(f"\n[bold]{summary.opening}[/bold] {summary.clusters}")
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
        console.print(f"  \u2192 {line}", highlight=False)
    console.print(f"\nReport: [bold]{page}[/bold]", soft_wrap=True)


def print_tags(
    rows: Sequence[Mapping[str, Any]], heads_by_layer: Sequence[int], *, predicted: str, expected: str
) -> None:
    """Print what each head does on one prompt.

    Args:
        rows: ``schema.TAGS``.
        heads_by_layer: of the model, 0 for a layer without attention.
        predicted: the model's answer.
        expected: the completion's first token.
    """
    console = Console()
    verdict = "correct" if predicted == expected else "incorrect"
    answer = Text.assemble(
        "The model answers ", (visible(predicted), "bold"), f", expected {visible(expected)}: {verdict}."
    )
    console.print(answer)
    known = sorted((row for row in rows if row["cluster"] != NOISE), key=lambda row: -row["strength"])
    _print_grid(
        console,
        {(row["layer"], row["head"]): row["cluster"] for row in rows},
        heads_by_layer,
        "cluster of each head (. unknown)",
    )
    table = Grid("head", "cluster", "name", "strength", "measured", box=SIMPLE_HEAD)
    unknown = [row for row in rows if row["cluster"] == NOISE]
    shown = [*known, *unknown][:_HEADS]
    for row in shown:
        place = head_name(row["layer"], row["head"])
        known_here = row["cluster"] != NOISE
        cluster, strength = (str(row["cluster"]), f"{row['strength']:.2f}") if known_here else (".", "-")
        table.add_row(place, cluster, row["name"], strength, row["measured"])
    console.print(table)
    console.print(
        f"The atlas knows {len(known)} of {len(rows)} heads here; 'measured' is what a head's own scores say."
    )
    if len(rows) > len(shown):
        console.print(f"{len(rows) - len(shown)} more heads: --json or --html has them all.")


def print_evaluation(found: Evaluation) -> None:
    """Print how good every encoder is on every language model's patterns (paper Table 3), and what follows.

    Args:
        found: an evaluation.
    """
    console = Console()
    table = Grid("encoder", *found.lms, box=SIMPLE_HEAD)
    cells = {(cell.encoder, cell.lm): cell for cell in found.cells}
    for encoder in found.encoders:
        row = [cells[encoder, lm] for lm in found.lms]
        if found.measure == "loss":
            shown = [f"{100 * cell.mean:.2f} \u00b1 {100 * cell.sd:.2f}" for cell in row]
        else:
            shown = [f"{cell.divergence:.2f} \u00b1 {cell.divergence_sd:.2f} ({cell.uniform:.2f})" for cell in row]
        styles = ["bold" if cell.own else "" for cell in row]
        table.add_row(encoder, *(Text(text, style=style) for text, style in zip(shown, styles, strict=True)))
    what = {
        "loss": "Masked loss \u00d7 0.01",
        "divergence": "Divergence of hidden attention, nats (in brackets: of an even prediction)",
    }
    console.print(f"\n{what[found.measure]}, mean \u00b1 s.d. over patterns; each model's own encoder in bold")
    console.print(table)
    for line in (*found.finding, *found.notes):
        console.print(f"  \u2192 {line}", highlight=False, markup=False)


def _print_clusters(console: Console, clusters: Sequence[Mapping[str, Any]], total: int) -> None:
    table = Grid("cluster", "name", "patterns", "share", "looks at", "mostly in heads", box=SIMPLE_HEAD)
    for row in clusters:
        number = int(row["cluster"])
        table.add_row(
            Text(f" {number} ", style=f"{ink_on(cluster_color(number))} on {cluster_color(number)}"),
            str(row["name"]),
            f"{row['size']:,}",
            f"{row['share']:.1%}",
            str(row["looks at"] or ""),
            ", ".join(str(row["where"]).split(", ")[:2]),
        )
    console.print(table)
    if total > len(clusters):
        console.print(f"  and {total - len(clusters)} more clusters in the report")


def _print_grid(
    console: Console, cells: Mapping[tuple[int, int], int], heads_by_layer: Sequence[int], title: str
) -> None:
    heads = max(heads_by_layer)
    if heads > _WIDEST:
        return
    console.print(f"[bold]layers \u00d7 heads[/bold]: {title}", highlight=False)
    console.print(Text("      " + "".join(f"{head:>4}" for head in range(heads))))
    for layer, own in enumerate(heads_by_layer):
        line = Text(f"  {layer:>3} ")
        if not own:
            line.append("   no attention", style=NO_HEAD_COLOR)
        for head in range(own):
            cluster = cells.get((layer, head), NOISE)
            if cluster == NOISE:
                line.append("   .")
            else:
                line.append(f"{cluster:>4}", style=f"{ink_on(cluster_color(cluster))} on {cluster_color(cluster)}")
        console.print(line)
