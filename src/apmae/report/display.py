"""Values as pages show them: table cells, the layers x heads grid, a prompt's tokens, pictures as data URIs."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from apmae.patterns.tokens import token_kind
from apmae.report.palette import NO_HEAD_COLOR, cluster_color, ink_on
from apmae.report.tables import Table
from apmae.schema import NOISE

_SHARES = {
    "share",
    "steady",
    "here",
    "known",
    "share of prompts",
    "main share",
    "share clustered",
    "accuracy",
    "strength",
    "true for",
    "of correct",
    "of incorrect",
}
_INDICES = {"stability", "in halves", "over seeds", "confidence"}
"""Numbers in [0, 1] that are no shares; they have two places."""
_TEXTS = {
    "name",
    "looks at",
    "looks from",
    "where",
    "task",
    "count",
    "main name",
    "measured",
    "nearest",
    "exemplars",
    "sinks",
    "mostly",
    "steadiest",
    "in the study",
    "own scores",
    "otherwise",
    "names",
    "unknown",
    "features",
    "model",
}
WHY_UNKNOWN = {
    "structure": "without structure",
    "head": "not among the heads that were fitted",
    "vote": "between clusters",
    "far": "too far from the cluster that wins",
    "name": "near clusters that do something else",
}
"""Why heads are in no cluster, by ``Placement.reason``; a count goes before it."""
UNUSED = {
    "not_utf8": "not UTF-8",
    "too_large": "too large",
    "empty": "empty",
    "binary": "binary",
    "unreadable": "unreadable",
    "too_slow": "too slow to parse",
    "too_much_memory": "too large to parse",
    "crashed": "ended the parser",
    "sentinel_in_text": "with a sentinel of the model in the text",
    "no_span": "with nothing to complete",
}
"""Why a source file gave no prompt, by reason (``prompts/each_file.py``); a count goes before it."""
_NAMED_CELLS = 8
"""Most heads per layer at which a grid's cells show names; wider grids show cluster numbers."""
_DENSE = 30
"""Most heads per layer at which cells have their full size."""
_SUFFIX, _PREFIX = ("suf", "hole"), ("pre", "begin")
"""Parts of the names of the sentinels before the right and the left context (``prompts/sentinels.py``)."""
_MASKS = ("[mask]", "<mask>")
"""Masks of encoders, in lower case."""
_LONGEST = 40
"""Most characters of a token in running text."""
_SIGNS = str.maketrans({" ": "\u2423", "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"})


def grid_cell(cluster: int, name: str, title: str, heads: int, *, link: bool = False) -> dict[str, Any]:
    """What the page shows of one head.

    Args:
        cluster: decides the colour, -1 for noise.
        name: of the cluster.
        title: text shown on hovering.
        heads: heads per layer: a narrow grid shows names, without qualifiers, a wide one numbers.
        link: link the cell to the cluster's row.
    """
    color = cluster_color(cluster)
    kinds = name.split(", ")[0]  # qualifiers do not fit, and the title has them
    text = kinds if heads <= _NAMED_CELLS else ("" if cluster == NOISE else str(cluster))
    href = f"#cluster-{cluster}" if link and cluster != NOISE else None
    return {"text": text, "title": title, "color": color, "ink": ink_on(color), "link": href}


def cells_in_a_grid(cells: Mapping[tuple[int, int], dict[str, Any]], heads_by_layer: Sequence[int]) -> dict[str, Any]:
    """Cells by (layer, head) as rows of a grid; missing ones were not captured, or the model has no such head.

    Args:
        cells: from :func:`grid_cell`.
        heads_by_layer: heads of each layer, 0 for a layer without attention.
    """
    empty = {"text": "", "title": "not captured", "color": None, "ink": None, "link": None}
    heads = max(heads_by_layer)
    rows = [
        [cells.get((layer, head), empty) if head < count else _no_head(layer, count) for head in range(heads)]
        for layer, count in enumerate(heads_by_layer)
    ]
    style = "named" if heads <= _NAMED_CELLS else "numbered" if heads <= _DENSE else "dense"
    return {"rows": rows, "heads": heads, "style": style, "gaps": min(heads_by_layer) < heads}


def _no_head(layer: int, count: int) -> dict[str, Any]:
    title = f"layer {layer} has {count} heads" if count else f"layer {layer} has no attention"
    return {"text": "", "title": title, "color": NO_HEAD_COLOR, "ink": None, "link": None}


def listing(table: Table, label: str) -> dict[str, Any]:
    """A table as the page shows it: texts, and which columns are numbers."""
    styles = [".1%" if name in _SHARES else ".2f" if name in _INDICES else "" for name in table.header]
    header = [(name.replace("_", " "), name not in _TEXTS) for name in table.header]
    rows = [[_display(*entry) for entry in zip(row, styles, strict=True)] for row in table.rows]
    return {"label": label, "header": header, "rows": rows}


def _display(cell: Any, style: str) -> str:
    if cell is None or cell == "":
        return "\u2013"
    if isinstance(cell, float):
        return f"{cell:{style or ('.3g' if abs(cell) < 1 else '.2f')}}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def prompt_pieces(tokens: Sequence[str], *, answered: bool = True) -> list[dict[str, str]]:
    """A prompt's tokens with the completion position among them: an encoder's first mask, or after the left context.

    Args:
        tokens: as the model read them.
        answered: whether there is an answer to show at that position.
    """
    kinds = ["sentinel" if token_kind(token) == "sentinel" else "text" for token in tokens]
    pieces = [{"kind": kind, "text": token} for kind, token in zip(kinds, tokens, strict=True)]
    if answered:
        hole = {"kind": "hole", "text": ""}
        masks = [place for place, token in enumerate(tokens) if token.strip().lower() in _MASKS]
        if masks:
            pieces[masks[0]] = hole
        else:
            pieces.insert(_hole(kinds, tokens), hole)
    return pieces


def _hole(kinds: Sequence[str], tokens: Sequence[str]) -> int:
    marks = [place for place, kind in enumerate(kinds) if kind == "sentinel"]
    suffixes = [place for place in marks if any(name in tokens[place].lower() for name in _SUFFIX)]
    prefixes = [place for place in marks if any(name in tokens[place].lower() for name in _PREFIX)]
    end = len(tokens)
    if not suffixes or marks[-1] != end - 1:  # the left context alone, or last
        return end
    return end - 1 if prefixes and prefixes[0] > suffixes[0] else suffixes[0] + 1


def visible(text: str) -> str:
    """A token or a completion in running text: blanks become signs, so that they can be seen; long texts are cut."""
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"
    return cut.translate(_SIGNS) or "(nothing)"


def sink_words(positions: Sequence[int], texts: Sequence[str]) -> str:
    """Positions of sinks with their tokens, such as "54 \u2423the, 0 package"; "" without any."""
    return ", ".join(f"{position} {visible(text)}" for position, text in zip(positions, texts, strict=True))


def flagged(name: str, unstable: bool) -> str:
    """A cluster's name, with a word if the cluster is not found again well enough (``atlas/stability.py``)."""
    return f"{name} (unstable)" if unstable else name


def nearest_words(row: Mapping[str, Any]) -> str:
    """For a head that the atlas does not know, the nearest cluster and how far it is in radii; "" for others."""
    if row["cluster"] != NOISE or not row["nearest"]:
        return ""
    return f"{row['nearest'][0]} ({row['distances'][0]:.1f} radii)"


def exemplar_words(exemplar: Mapping[str, Any]) -> str:
    """A member of the atlas, such as "opt 3.5, prompt 12 of src/A.java (0.4 radii)"; what is unknown is left out."""
    head = None if exemplar["layer"] is None else f"{exemplar['layer']}.{exemplar['head']}"
    model = " ".join(part for part in (exemplar["model"], head) if part)
    prompt = None if exemplar["prompt"] is None else f"prompt {exemplar['prompt']}"
    where = " of ".join(part for part in (prompt, exemplar["path"]) if part)
    said = ", ".join(part for part in (model, where, exemplar["variant"]) if part)
    return f"{said or 'a pattern'} ({exemplar['distance']:.1f} radii)"


def with_place(name: str, positions: Sequence[int], texts: Sequence[str]) -> str:
    """A name in which a later sink has the place of the strongest one, such as "later sink on words at 54 \u2423the".

    Args:
        name: from ``atlas.names``.
        positions: of the pattern's sinks, the strongest first.
        texts: of the tokens at these positions.
    """
    later = [place for place in zip(positions, texts, strict=True) if place[0]]
    if not later:
        return name
    position, text = later[0]
    parts = name.split(" + ")
    return " + ".join(f"{part} at {position} {visible(text)}" if "later sink" in part else part for part in parts)


def data_uri(picture: bytes) -> str:
    """A PNG as a data URI, to embed it in a page."""
    return f"data:image/png;base64,{b64encode(picture).decode()}"
