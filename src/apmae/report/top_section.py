"""Top prompts in a study's report: a map of each value over the heads, and where the strongest heads do it most."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa

from apmae.artifacts import read_manifest, read_table, read_tables
from apmae.report.display import cells_in_a_grid, flagged
from apmae.report.palette import shade_of
from apmae.report.tables import head_name
from apmae.report.top import pairs_of, reading
from apmae.schema import TOP_FILE, TOP_HEADS_FILE
from apmae.study.layout import Layout
from apmae.study.reader import Study

_HEADS = 8
"""Most heads listed of a value."""


class TopSection(NamedTuple):
    """What the report shows of one value."""

    name: str
    """Of its folder in ``top/``, which is that of the value."""
    reading: str
    """How the values are to be read."""
    grid: dict[str, Any]
    """The median of each head, linked to the head's page."""
    rows: list[dict[str, str]]
    """The heads with the largest medians, each with its strongest prompt."""


def top_sections(study: Study) -> list[TopSection]:
    """What the report shows of each value that ``apmae top`` has ordered prompts of this atlas by.

    Raises:
        ArtifactError: if one of its folders is damaged.
    """
    return [_section(study, name) for name in study.tops]


def _section(study: Study, name: str) -> TopSection:
    folder = Layout(study.folder).top / name
    by = str(read_manifest(folder, "top").config["by"])
    every, *heads = read_table(folder / TOP_HEADS_FILE).to_pylist()
    first: dict[tuple[int, int], dict[str, Any]] = {}
    for row in read_table(folder / TOP_FILE).to_pylist():
        first.setdefault((row["layer"], row["head"]), row)
    attended, texts = (read_tables(folder, "top", table) for table in ("attended", "texts"))
    link = f"../top/{quote(name)}/heads/"
    return TopSection(
        name,
        reading(by, every),
        _grid(study, heads, first, link),
        _rows(study, heads, first, attended, texts, link),
    )


def _grid(
    study: Study, heads: Sequence[Mapping[str, Any]], first: Mapping[tuple[int, int], Mapping[str, Any]], link: str
) -> dict[str, Any]:
    """The darker, the larger the median, from the smallest of all heads to the largest."""
    medians = [row["median"] for row in heads if row["median"] is not None]
    low, high = min(medians, default=0.0), max(medians, default=0.0)
    cells = {}
    for row in heads:
        place = row["layer"], row["head"]
        if row["median"] is None:
            continue
        color, ink = shade_of((row["median"] - low) / (high - low) if high > low else 0.0)
        above = "" if row["above"] is None else f", above {row['above']:.0%} of the others"
        title = f"{head_name(*place)}: median {row['median']:.3g}{above}; largest {row['largest']:.3g}"
        href = f"{link}{head_name(*place)}.html" if place in first else None
        cells[place] = {"text": f"{row['median']:.2f}", "title": title, "color": color, "ink": ink, "link": href}
    return cells_in_a_grid(cells, study.heads_by_layer) | {"style": "numbered"}


def _rows(
    study: Study,
    heads: Sequence[Mapping[str, Any]],
    first: Mapping[tuple[int, int], Mapping[str, Any]],
    attended: pa.Table,
    texts: pa.Table,
    link: str,
) -> list[dict[str, str]]:
    unstable = dict(zip(study.clusters["cluster"].to_pylist(), study.clusters["unstable"].to_pylist(), strict=True))
    about = {row["prompt"]: row for row in texts.select(["prompt", "path", "line"]).to_pylist()}
    pairs = pairs_of(attended, texts)
    chosen = [row for row in heads if (row["layer"], row["head"]) in first]
    chosen.sort(key=lambda row: (-row["median"], row["layer"], row["head"]))
    made = []
    for row in chosen[:_HEADS]:
        place = row["layer"], row["head"]
        top = first[place]
        made.append(
            {
                "head": head_name(*place),
                "link": f"{link}{head_name(*place)}.html",
                "median": f"{row['median']:.3g}",
                "above": "–" if row["above"] is None else f"{row['above']:.0%}",
                "largest": f"{top['value']:.3g}",
                "cluster": flagged(study.names[top["cluster"]], unstable.get(top["cluster"], False)),
                "task": top["task"].replace("_", " "),
                "where": f"{about[top['prompt']]['path']}:{about[top['prompt']]['line']}",
                "pair": pairs.get((*place, top["prompt"]), "–"),
            }
        )
    return made
