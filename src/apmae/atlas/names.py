"""Names of clusters, from the measured scores of their members. The same rules name a single pattern.

A behaviour that is not clear is called weak rather than left out. The thresholds were chosen by judgement.

Axes: n patterns, c clusters, s scores (``schema.SCORES``), k token kinds (``schema.KINDS``).
"""

from collections.abc import Mapping
from math import isnan
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.rows import members_of
from apmae.schema import CLUSTERS, KINDS, NOISE, SCORES

_BEHAVIOURS = (
    # Score, the name it gives, the score of a uniform causal pattern of 256 tokens, and the threshold for naming, as a
    # share of the range above that. It is lower for bands: those wider than the score's window cannot reach 1.
    ("first_token", "first-token sink", 0.02, 0.35),
    ("previous", "previous token", 0.02, 0.35),
    ("self", "self", 0.02, 0.35),
    ("induction", "induction", 0.03, 0.35),
    ("duplicate", "duplicate token", 0.03, 0.35),
    ("local", "local band", 0.10, 0.25),
    ("columns", "columns", 0.05, 0.35),
    ("blocks", "blocks", 0.0, 0.3),
    ("later_sink", "later sink", 0.0, 0.35),
)
_ON_KINDS = ("columns", "later sink")
"""Names that also say which kind of token the keys are."""
_NUMBERED = "cluster "
"""Clusters without measured scores are called by their number."""
_WITH_KINDS = ("columns", "later sink", "looks at", "retrieval")
"""Names that a token kind follows."""
_SINK_OF_COLUMNS = 2 / 3
"""Columns are called a later sink if sinks draw at least this share of their attention."""
_CLEAR_IF_EVEN = 0.5
"""The threshold for diffuse patterns: with few tokens, even attention alone scores high."""
_SECOND = 0.25
_WEAK = 0.15
"""From this share on, a behaviour that is not clear is still named, as weak."""
_KIND = 0.12
"""Attention beyond chance that a token kind needs to be named."""
_RETRIEVAL = 0.6
"""Mass on distant keys that a pattern needs to be named by it, if it is not diffuse and no other name fits: a uniform
causal pattern of 256 tokens has 0.7 there, and columns and induction attend to distant keys too."""
_UNIFORM = 0.88
_DIFFUSE = 0.75
_KIND_WORDS = {
    "sentinel": "sentinels",
    "word": "words",
    "keyword": "keywords",
    "number": "numbers",
    "string": "quotes",
    "operator": "operators",
    "open_bracket": "opening brackets",
    "close_bracket": "closing brackets",
    "semicolon": "';'",
    "separator": "separators",
    "newline": "newlines",
    "space": "spaces",
    "other": "other tokens",
}


class Measured(NamedTuple):
    """Hand-made scores of the fitted patterns, which give clusters their names; rows in the order of the embeddings."""

    values: Float[ndarray, "n s"]
    """Scores in the order of ``schema.SCORES``; NaN where not measured."""
    key_kinds: Float[ndarray, "n k"]
    """Attention beyond chance to keys of each of ``schema.KINDS``."""
    query_kinds: Float[ndarray, "n k"]
    """Attention beyond chance from queries of each of ``schema.KINDS``."""


def kind_word(excess: Mapping[str, float]) -> str:
    """The name of the token kind that stands out most; "" if none does.

    Args:
        excess: attention beyond chance by kind (``Scores.key_kinds`` or ``query_kinds``).
    """
    kind = max(KINDS, key=lambda name: excess.get(name, 0.0))
    return _KIND_WORDS[kind] if excess.get(kind, 0.0) >= _KIND else ""


def name_of(scores: Mapping[str, float], looks_at: str = "") -> str:
    """The name that scores give, for instance "previous token" or "first-token sink + columns on ';'".

    Args:
        scores: by the names in ``schema.SCORES``; NaN or missing where not measured.
        looks_at: the token kind that stands out among the keys, from :func:`kind_word`.
    """
    uniform = scores.get("uniform", float("nan"))
    columns = scores.get("columns", float("nan"))
    sink = scores.get("later_sink", float("nan")) >= _SINK_OF_COLUMNS * (0.0 if isnan(columns) else columns)
    hidden = "columns" if sink else "later sink"  # a sink is a column too: only one of the two is named
    shown = []
    for score, name, chance, clear in _BEHAVIOURS:
        value = scores.get(score, float("nan"))
        if not isnan(value) and name != hidden:
            shown.append(((value - chance) / (1 - chance), name, _CLEAR_IF_EVEN if uniform >= _DIFFUSE else clear))
    shown.sort(key=lambda entry: -entry[0])
    words = [name for strength, name, clear in shown if strength >= clear][:1]
    if words:
        second = max(_SECOND, 0.5 * shown[0][0])
        words += [name for strength, name, _ in shown[:2] if name not in words and strength >= second]
    if words and not uniform >= _UNIFORM:
        return " + ".join(f"{word} on {looks_at}" if word in _ON_KINDS and looks_at else word for word in words)
    if scores.get("retrieval", 0.0) >= _RETRIEVAL and uniform < _DIFFUSE:
        return f"retrieval of {looks_at}" if looks_at else "retrieval"
    if looks_at:
        return f"looks at {looks_at}"
    if uniform >= _UNIFORM:
        return "uniform"
    if uniform >= _DIFFUSE:
        return "diffuse"
    return f"weak {shown[0][1]}" if shown and shown[0][0] >= _WEAK else "mixed"


def kinds_of(name: str) -> tuple[str, ...]:
    """The behaviours that a name is made of, the leading one first, without the token kinds and "weak".

    For instance ("columns", "local band") of "columns on ';' + local band", and ("looks at",) of "looks at newlines".
    """
    found = []
    for part in name.split(" + "):
        plain = part.removeprefix("weak ")
        found.append(next((stem for stem in _WITH_KINDS if plain.startswith(f"{stem} ")), plain))
    return tuple(found)


def contradicts(name: str, measured: str) -> bool:
    """Whether a cluster's name and the name that a pattern's own scores give have no behaviour in common.

    Clusters that are called by their number contradict nothing.
    """
    return not _numbered(name) and not set(kinds_of(name)) & set(kinds_of(measured))


def _numbered(name: str) -> bool:
    return name.startswith(_NUMBERED)


def measured_names(values: Float[ndarray, "n s"], key_kinds: Float[ndarray, "n k"]) -> list[str]:
    """The name that its own scores give each pattern.

    Args:
        values: in the order of ``schema.SCORES``; NaN where not measured.
        key_kinds: attention beyond chance to each of ``schema.KINDS``.
    """
    return [_name(scores, kinds) for scores, kinds in zip(values.tolist(), key_kinds.tolist(), strict=True)]


def cluster_names(clusters: pa.Table) -> dict[int, str]:
    """Name of each cluster of a table (``schema.CLUSTERS``); -1 is "unknown"."""
    found = dict(zip(clusters["cluster"].to_pylist(), clusters["name"].to_pylist(), strict=True))
    return {**found, NOISE: "unknown"}


def named_clusters(
    labels: Int[ndarray, " n"],
    mean_distances: Float[ndarray, " c"],
    persistence: Float[ndarray, " c"],
    measured: Measured | None,
) -> pa.Table:
    """The table of clusters, ``schema.CLUSTERS``.

    Args:
        labels: cluster of each row, -1 for noise.
        mean_distances: of each cluster, from ``Clusterer``.
        persistence: of each cluster, from ``Clusterer``.
        measured: scores of the same rows; without them clusters are called "cluster 0", "cluster 1", ...
    """
    rows = []
    for number, members in enumerate(members_of(labels, len(persistence))):
        row: dict[str, Any] = {
            "cluster": number,
            "name": f"{_NUMBERED}{number}",
            "size": len(members),
            "mean_distance": float(mean_distances[number]),
            "persistence": float(persistence[number]),
            "looks_at": "",
            "looks_from": "",
        }
        if measured is not None:
            scores = _means(measured.values[members])
            keys, queries = (kinds[members].mean(0).tolist() for kinds in (measured.key_kinds, measured.query_kinds))
            row |= {
                "name": _name(scores, keys),
                "looks_at": _kind(keys),
                "looks_from": _kind(queries),
                **{f"score_{score}": value for score, value in zip(SCORES, scores, strict=True) if not isnan(value)},
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=CLUSTERS)


def _means(values: Float[ndarray, "m s"]) -> list[float]:
    """The mean of each score over the rows on which it was measured; NaN if on none."""
    measurable = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (np.where(measurable, values, 0).sum(0) / measurable.sum(0)).tolist()


def _name(scores: list[float], key_kinds: list[float]) -> str:
    return name_of(dict(zip(SCORES, scores, strict=True)), _kind(key_kinds))


def _kind(excess: list[float]) -> str:
    return kind_word(dict(zip(KINDS, excess, strict=True)))
