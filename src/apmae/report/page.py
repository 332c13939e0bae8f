"""The report of a study and the page of a tagged prompt: each is one self-contained HTML file that fetches nothing.

Tokens, paths and names come from strangers' files; autoescape and a content security policy make sure they stay text.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy import ndarray

from apmae.atlas.branches import STABLE
from apmae.report import figures, tables
from apmae.report.ablation import ablation_findings, ablation_table, head_effects_table
from apmae.report.circuits import circuit_findings, circuit_table, edges_table, recall_table
from apmae.report.claims import cluster_sections
from apmae.report.display import (
    cells_in_a_grid,
    data_uri,
    exemplar_words,
    flagged,
    grid_cell,
    listing,
    nearest_words,
    prompt_pieces,
    sink_words,
    visible,
)
from apmae.report.examples import typical_prompt
from apmae.report.locations import chance_table, findings, foreign_table
from apmae.report.palette import cluster_color
from apmae.report.pictures import Picture, pictures_of
from apmae.report.prediction import Prediction, prediction_findings, prediction_table
from apmae.report.provenance import stages_of
from apmae.report.pruning import pruning_findings, pruning_table_of
from apmae.report.summary import STEADY, Summary, summarize
from apmae.report.tables import Table, describe_heads, head_name
from apmae.report.tags_section import tags_sections
from apmae.report.thumbnails import thumbnail
from apmae.report.top_section import top_sections
from apmae.schema import NOISE
from apmae.study.circuit import Circuit
from apmae.study.reader import Place, Predicted, Study


class Report(NamedTuple):
    """A study's report, not yet written."""

    files: dict[str, bytes]
    """By path in the report's folder; the page is ``index.html``."""
    figures: int
    tables: int


def report_of(study: Study) -> Report:
    """Make a study's page, pictures and tables.

    Raises:
        ArtifactError: if the study is damaged.
    """
    made = {table.name: table for table in _tables(study)}
    pictures = pictures_of(study)
    files = {f"tables/{name}.csv": table.csv() for name, table in made.items()}
    files |= {f"figures/{picture.name}.png": figures.png(picture.figure) for picture in pictures}
    files["index.html"] = _report_page(study, made, pictures, files)
    return Report(files, len(pictures), len(made))


def tag_page(
    *,
    title: str,
    tokens: list[str],
    rows: list[dict[str, Any]],
    heads_by_layer: Sequence[int],
    predicted: str | None,
    expected: str,
    outcome: str | None,
    note: str = "",
    patterns: Mapping[Place, Float[ndarray, "t t"]] | None = None,
) -> bytes:
    """The page of one prompt: its text, and what the atlas says about every head.

    Args:
        title: heading, for instance the source file and line.
        tokens: of the prompt, as the model read them.
        rows: rows of ``schema.TAGS`` as dicts.
        heads_by_layer: heads of each layer, 0 for a layer without attention.
        predicted: the model's answer at the completion position; None if it answers nothing.
        expected: the completion.
        outcome: "correct" or "incorrect"; None if the model answers nothing.
        note: what to say first, for instance that the atlas was fitted on other models.
        patterns: log patterns of exemplars by prompt, layer and head, where there are any: they are drawn.
    """
    heads = max(heads_by_layer)
    ordered = sorted(rows, key=lambda row: (row["layer"], row["head"]))
    cells = {
        (row["layer"], row["head"]): grid_cell(
            row["cluster"],
            row["name"],
            f"{head_name(row['layer'], row['head'])}: {row['name']} (strength {row['strength']:.2f})",
            heads,
        )
        for row in ordered
    }
    listed = [
        (
            head_name(row["layer"], row["head"]),
            _known(row["cluster"]),
            flagged(row["name"], row["unstable"]),
            row["strength"],
            row["stability"],
            row["measured"],
            nearest_words(row),
            sink_words(row["sinks"], row["sink_tokens"]),
        )
        for row in ordered
    ]
    header = ("head", "cluster", "name", "strength", "stability", "measured", "nearest", "sinks")
    count: dict[tuple[int, str], list[str]] = {}
    for row in ordered:
        named = row["cluster"], flagged(row["name"], row["unstable"])
        count.setdefault(named, []).append(head_name(row["layer"], row["head"]))
    by_size = sorted(count.items(), key=lambda entry: (entry[0][0] == NOISE, -len(entry[1]), entry[0]))
    names = [(_known(cluster), name, len(places), ", ".join(places)) for (cluster, name), places in by_size]
    template = environment().get_template("tag.html.j2")
    page = template.render(
        title=title,
        heads=describe_heads(heads_by_layer),
        predicted=predicted,
        expected=expected,
        note=note,
        outcome=outcome,
        known=sum(row["cluster"] != NOISE for row in rows),
        tagged=len(rows),
        count=len(tokens),
        pieces=prompt_pieces(tokens, answered=predicted is not None),
        grid=cells_in_a_grid(cells, heads_by_layer),
        names=listing(Table(name="names", header=("cluster", "name", "heads", "where"), rows=tuple(names)), "names"),
        exemplars=_exemplars(ordered, patterns or {}),
        listing=listing(Table(name="heads", header=header, rows=tuple(listed)), "heads"),
        stable=STABLE,
        version=package_version(),
    )
    return page.encode("utf-8", "backslashreplace")


def _exemplars(
    rows: Sequence[Mapping[str, Any]], patterns: Mapping[Place, Float[ndarray, "t t"]]
) -> list[dict[str, Any]]:
    """Heads with their exemplars, in words, and with a picture of those whose pattern is known; drawn once each."""
    pictures: dict[Place, str] = {}
    found = []
    for row in rows:
        shown = []
        for exemplar in row["exemplars"]:
            place = exemplar["prompt"], exemplar["layer"], exemplar["head"]
            if place in patterns and place not in pictures:
                pictures[place] = data_uri(thumbnail(patterns[place]))
            shown.append({"picture": pictures.get(place), "words": exemplar_words(exemplar)})
        if shown:
            name = flagged(row["name"], row["unstable"])
            found.append({"head": head_name(row["layer"], row["head"]), "name": name, "shown": shown})
    return found


def _tables(study: Study) -> list[Table]:
    located = study.located
    return [
        tables.clustering_table(study),
        tables.locations_table(study),
        tables.clusters_table(study),
        tables.heads_table(study),
        tables.outcomes_table(study),
        *([] if located is None else [chance_table(located[0]), foreign_table(located[1])]),
        *([] if study.predicted is None else [prediction_table(_prediction(study.predicted))]),
        *([] if study.circuit is None else _circuit_tables(study.circuit)),
        *([] if study.ablated is None else [ablation_table(study.ablated), head_effects_table(study.ablated)]),
        *([] if study.pruned is None else [pruning_table_of(study.pruned)]),
    ]


def _measured_on(found: Circuit) -> str:
    return f"Measured on {found.counts['lm']}, by {found.counts['direction']}."


def _circuit_tables(found: Circuit) -> list[Table]:
    return [table for table in (circuit_table(found), recall_table(found), edges_table(found)) if table.rows]


def _prediction(found: Predicted) -> Prediction:
    return Prediction(found.sets, found.tasks, found.counts)


def _report_page(study: Study, made: dict[str, Table], pictures: list[Picture], files: Mapping[str, bytes]) -> bytes:
    prompt = typical_prompt(study.points)
    about = next((row for row in study.prompts.to_pylist() if row["prompt"] == prompt), None)
    summary = summarize(study, made)
    template = environment().get_template("report.html.j2")
    page = template.render(
        summary=summary,
        steady=STEADY,
        facts=_facts(study, made, summary),
        grid=_study_grid(study, made["heads"]),
        clusters=_cluster_rows(made["clusters"]),
        stable=STABLE,
        sections=cluster_sections(study, made["clusters"]),
        clustering=listing(made["clustering"], "Table 4"),
        locations=listing(made["locations"], "Table 5"),
        against=None if study.located is None else findings(*study.located),
        chance=[
            listing(made[name], label)
            for name, label in (("locations_chance", "locations by chance"), ("locations_foreign", "other tasks' own"))
            if name in made and made[name].rows
        ],
        outcomes=listing(made["outcomes"], "outcomes"),
        predictions=None if study.predicted is None else prediction_findings(_prediction(study.predicted)),
        prediction=listing(made["prediction"], "prediction") if "prediction" in made else None,
        circuit=None if study.circuit is None else [_measured_on(study.circuit), *circuit_findings(study.circuit)],
        circuits=[
            listing(made[name], label)
            for name, label in (("circuit", "heads"), ("circuit_recall", "filters"), ("circuit_edges", "edges"))
            if name in made
        ],
        ablations=None if study.ablated is None else ablation_findings(study.ablated),
        ablation=[listing(made[name], name.replace("_", " ")) for name in ("ablation", "head_effects") if name in made],
        prunings=None if study.pruned is None else pruning_findings(study.pruned),
        pruning=listing(made["pruning"], "pruning") if "pruning" in made else None,
        heads=listing(made["heads"], "heads"),
        pictures={picture.name: (picture, data_uri(files[f"figures/{picture.name}.png"])) for picture in pictures},
        about=about,
        answered=study.prompts["outcome"].null_count < study.prompts.num_rows,
        pieces=prompt_pieces(study.tokens(prompt), answered=about is not None and about["outcome"] is not None),
        sources=stages_of(study),
        tops=top_sections(study),
        corpora=[
            (
                section,
                listing(section.names, "what heads do"),
                listing(section.changed, "heads that do it less"),
            )
            for section in tags_sections(study)
        ],
        tables=sorted(made),
        version=package_version(),
    )
    return page.encode("utf-8", "backslashreplace")


def _known(cluster: int) -> int | None:
    return None if cluster == NOISE else cluster


def _facts(study: Study, made: dict[str, Table], summary: Summary) -> list[tuple[str, str]]:
    clusters, _, total, percentage = made["clustering"].rows[0]
    return [
        ("prompts", f"{study.prompts.num_rows:,}"),
        ("of the model", describe_heads(study.heads_by_layer)),
        ("patterns", f"{total:,}"),
        ("clusters", f"{clusters:,}"),
        ("in a cluster", f"{percentage:.1f}%"),
        ("steady heads", str(summary.steady_heads)),
    ]


def _study_grid(study: Study, heads: Table) -> dict[str, Any]:
    cells = {}
    for layer, head, patterns, cluster, name, main, share, distinct, stable in heads.rows:
        does = f"{head_name(layer, head)}: {flagged(name, stable == 'no')} in {main:.0%} of {patterns:,} patterns"
        title = f"{does}; {share:.0%} in any of {distinct} cluster{'' if distinct == 1 else 's'}"
        cells[layer, head] = grid_cell(NOISE if cluster is None else cluster, name, title, study.heads, link=True)
    return cells_in_a_grid(cells, study.heads_by_layer)


def _cluster_rows(clusters: Table) -> dict[str, Any]:
    """The list of clusters; the token kinds are in the sections only, so that names have room."""
    kept = [place for place, title in enumerate(clusters.header) if not title.startswith("looks ")]
    header = tuple(clusters.header[place] for place in kept)
    short = Table(
        name="clusters", header=header, rows=tuple(tuple(row[place] for place in kept) for row in clusters.rows)
    )
    listed = listing(short, "clusters")
    rows = [
        {"cluster": row[0], "cells": cells, "color": cluster_color(row[0])}
        for row, cells in zip(clusters.rows, listed["rows"], strict=True)
    ]
    return {"header": listed["header"], "rows": rows}


@cache
def environment() -> Environment:
    """Templates of all pages, with everything escaped."""
    environment = Environment(
        loader=PackageLoader("apmae.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def package_version() -> str:
    """Version of the installed package, for the foot of a page."""
    try:
        return version("apmae")
    except PackageNotFoundError:
        return "(not installed)"
