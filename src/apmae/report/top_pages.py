"""Pages of top prompts: an index of the heads, and for each head its prompts with attended tokens marked.

Tokens, paths and names come from strangers' files; autoescape and a content security policy keep them text.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apmae.analyze.top import DECILES, Chosen
from apmae.report.display import cells_in_a_grid, flagged, grid_cell, listing, prompt_pieces, visible
from apmae.report.page import environment, package_version
from apmae.report.tables import Table, describe_heads, head_name
from apmae.report.top import reading
from apmae.schema import NOISE
from apmae.study.placed import Placed

if TYPE_CHECKING:
    import pyarrow as pa

_LEVELS = 4
"""Shades of marked tokens."""
_LEAST = 0.2
"""A token is marked if it receives this share of what the most attended one does."""
_NOTHING = 0.05
"""Nor is it marked below so many rows' worth of attention: nothing is attended to."""
_QUANTILES = ("smallest", "q10", "q25", "median", "q75", "q90", "largest")


def top_pages(study: Placed, by: str, chosen: Chosen, attended: "pa.Table", texts: "pa.Table") -> dict[str, bytes]:
    """The pages, by path in the artifact's folder: ``index.html``, and ``heads/3.5.html`` for head 3.5.

    Args:
        study: opened.
        by: name of the value that prompts are ordered by.
        chosen: ``schema.TOP`` and ``schema.TOP_HEADS``.
        attended: ``schema.ATTENDED``.
        texts: ``schema.TOP_TEXTS``.
    """
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
    looked = {(row["layer"], row["head"], row["prompt"]): row for row in attended.to_pylist()}
    words = {row["prompt"]: row for row in texts.to_pylist()}
    for row in chosen.rows.to_pylist():
        rows.setdefault((row["layer"], row["head"]), []).append(row)
    every, *heads = chosen.heads.to_pylist()
    model = study.model
    note = reading(by, every)
    unstable = dict(zip(study.clusters["cluster"].to_pylist(), study.clusters["unstable"].to_pylist(), strict=True))
    names = {number: flagged(name, unstable.get(number, False)) for number, name in study.names.items()}
    files = {"index.html": _index(study, model, by, note, every, heads, rows)}
    template = environment().get_template("top_head.html.j2")
    for (layer, head), own in rows.items():
        of = next(row for row in heads if (row["layer"], row["head"]) == (layer, head))
        entries = [_entry(row, looked[layer, head, row["prompt"]], words[row["prompt"]], names) for row in own]
        parts = [("Largest", [entry for entry in entries if entry["top"]])]
        for decile in range(DECILES, 0, -1):
            drawn = [entry for entry in entries if entry["drawn"] and entry["decile"] == decile]
            parts.append((f"Drawn from tenth {decile}", drawn))
        page = template.render(
            title=f"Head {head_name(layer, head)} of {model} by {by}",
            by=by,
            note=note,
            above=of["above"],
            head_quantiles=_quantiles([(f"head {head_name(layer, head)}", of), ("all heads", every)]),
            parts=[(title, shown) for title, shown in parts if shown],
            version=package_version(),
        )
        files[_page(layer, head)] = page.encode("utf-8", "backslashreplace")
    return files


def page_names(rows: "pa.Table") -> list[str]:
    """The paths of the heads' pages.

    Args:
        rows: ``schema.TOP``.
    """
    places = zip(rows["layer"].to_pylist(), rows["head"].to_pylist(), strict=True)
    return [_page(layer, head) for layer, head in sorted(set(places))]


def _page(layer: int, head: int) -> str:
    return f"heads/{head_name(layer, head)}.html"


def marked(
    texts: Sequence[str], received: Sequence[float], sinks: Sequence[int], *, hole: str | None
) -> tuple[list[dict[str, Any]], float]:
    """A prompt's text in pieces, with attended tokens marked, and how much attention the most attended one receives.

    Args:
        texts: of each row of the pattern.
        received: attention that each row receives, in rows' worth.
        sinks: positions of the pattern's sinks; these and the first token are marked as such and set no scale.
        hole: what to show at the completion position; None: nothing.

    Returns:
        Pieces with ``text``, ``kind`` ("text", "sentinel", "hole" or "sink"), ``level`` (0: not marked) and ``title``;
        neighbours without a mark are joined.
    """
    drawn = {0, *sinks}
    most = max((value for place, value in enumerate(received) if place not in drawn), default=0.0)
    pieces: list[dict[str, Any]] = []
    given = prompt_pieces(texts, answered=hole is not None)
    masked = len(given) == len(texts)  # an encoder's mask stands where the answer does
    place = 0
    for piece in given:
        if piece["kind"] == "hole":
            pieces.append({"text": visible(hole or ""), "kind": "hole", "level": 0, "title": "the completion position"})
            place += masked
            continue
        value, kind = float(received[place]), "sink" if place in sinks else piece["kind"]
        share = value / most if most >= _NOTHING and place not in drawn else 0.0
        level = min(int(share * (_LEVELS + 1)), _LEVELS) if share >= _LEAST else 0
        place += 1
        if not level and kind == "text" and pieces and pieces[-1]["kind"] == "text" and not pieces[-1]["level"]:
            pieces[-1]["text"] += piece["text"]
            continue
        title = f"receives {value:.2f}" + (", a sink" if kind == "sink" else "")
        pieces.append({"text": piece["text"], "kind": kind, "level": level, "title": title})
    return pieces, most


def _index(
    study: Placed,
    model: str,
    by: str,
    note: str,
    every: Mapping[str, Any],
    heads: Sequence[Mapping[str, Any]],
    rows: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]],
) -> bytes:
    cells = {}
    for of in heads:
        place = of["layer"], of["head"]
        own = rows.get(place)
        cluster, name = (NOISE, "no value") if not own else (own[0]["cluster"], study.names[own[0]["cluster"]])
        said = "no value" if of["median"] is None else f"median {of['median']:.3g}, largest {of['largest']:.3g}"
        cell = grid_cell(cluster, name, f"{head_name(*place)}: {said}; {name} where it is largest", study.heads)
        cells[place] = cell | {"link": _page(*place) if own else None}
    ordered = sorted(heads, key=lambda row: (-(row["median"] or 0), row["layer"], row["head"]))
    listed = [(head_name(row["layer"], row["head"]), row) for row in ordered]
    page = (
        environment()
        .get_template("top.html.j2")
        .render(
            title=f"Top prompts of {model} by {by}",
            heads=describe_heads(study.heads_by_layer),
            prompts=study.prompts.num_rows,
            shown=len(rows),
            note=note,
            grid=cells_in_a_grid(cells, study.heads_by_layer),
            quantiles=_quantiles([("all", every), *listed]),
            links={head_name(*place) for place in rows},
            version=package_version(),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def _quantiles(named: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    header = ("head", "patterns", "with a value", *_QUANTILES, "above")
    rows = tuple(
        (name, row["patterns"], row["measured"], *(row[part] for part in _QUANTILES), row["above"])
        for name, row in named
    )
    return listing(Table(name="heads", header=header, rows=rows), "quantiles of the value")


def _entry(
    row: Mapping[str, Any], looked: Mapping[str, Any], words: Mapping[str, Any], names: Mapping[int, str]
) -> dict[str, Any]:
    """One prompt as the page shows it."""
    texts, received = words["texts"], looked["received"]
    pieces, most = marked(texts, received, row["sinks"], hole=words["predicted"])
    drawn = sum(received[place] for place in {0, *row["sinks"]} if place < len(received)) / max(len(received), 1)
    pairs = [
        [
            (visible(texts[query]), visible(texts[key]), query, key, f"{weight:.2f}")
            for query, key, weight in zip(
                *(looked[which + part] for part in ("queries", "keys", "weights")), strict=True
            )
        ]
        for which in ("away_", "")
    ]
    return {
        **{name: row[name] for name in ("rank", "decile", "top", "drawn", "value", "share", "task", "outcome")},
        "cluster": names[row["cluster"]],
        "where": f"{words['path']}:{words['line']}",
        "prompt": row["prompt"],
        "rows": len(texts),
        "expected": words["expected"],
        "predicted": words["predicted"],
        "pieces": pieces,
        "most": most,
        "to_sinks": drawn,
        "away": pairs[0],
        "every": pairs[1],
    }
