"""Names of clusters: ``kind[ + kind][ on token kind][, qualifiers]``, each true for nine in ten of the members.

A kind names a cluster if 90 % of its members satisfy the kind's definition (``atlas/kinds.py``). Where several clusters
have the same kinds, qualifiers say what separates them: ranges of measured scores, and token kinds of the queries. They
are found on the members, and each is a definition too. So a name can be checked, on the members and on new patterns.

Axes: n patterns, c clusters, s scores (``schema.SCORES``), k token kinds (``schema.KINDS``), m members.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.artifacts import read_json
from apmae.atlas.branches import STABLE
from apmae.atlas.kinds import (
    BEHAVIOURS,
    bounded_by,
    holds,
    kind_word,
    kinds_of,
    meaning,
    measured_names,
    strengths,
    token_kind,
)
from apmae.atlas.qualifiers import Features, Qualifier, ruled_out, satisfies, separate
from apmae.atlas.rows import members_of
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import CLUSTERS, KINDS, NAMES_FILE, NOISE, SCORES

TRUE_FOR = 0.9
"""Share of a cluster's members that its name has to be true for."""
UNNAMED = "unnamed"
MIXED = ("mixed",)
"""The kinds of a cluster if none holds for enough of its members; it claims nothing."""
_EITHER = ("columns", "later sink")
"""A sink is a column too: only one of the two is named."""
_NUMBERED = "cluster "
"""Clusters without measured scores are called by their number."""
_SAMPLE = 1000
"""Members whose own names decide what kinds to look at, evenly spaced; all of them are checked."""
_TELLING = 0.5
"""Qualifiers that more than this share of a like cluster's members satisfy too do not separate the two."""


class Measured(NamedTuple):
    """Hand-made scores of the fitted patterns, which give clusters their names; rows in the order of the embeddings."""

    values: Float[ndarray, "n s"]
    """Scores in the order of ``schema.SCORES``; NaN where not measured."""
    key_kinds: Float[ndarray, "n k"]
    """Attention beyond chance to keys of each of ``schema.KINDS``."""
    query_kinds: Float[ndarray, "n k"]
    """Attention beyond chance from queries of each of ``schema.KINDS``."""

    def of(self, rows: Any) -> "Measured":
        """The scores of some rows."""
        return Measured(*(values[rows] for values in self))


def measured_of_rows(measured: Any, rows: int, *, by_kind: bool = False) -> Measured | None:
    """Measured scores of the rows, checked; None if there are none.

    Args:
        measured: three arrays of one row per embedding, as in :class:`Measured`, or None.
        rows: number of embeddings.
        by_kind: whether clusters are split by kind, which needs them.

    Raises:
        ConfigError: if an array has another shape, its values are no numbers, or there are none where they are needed.
    """
    if measured is None:
        if by_kind:
            raise ConfigError(
                "expected measured scores to split clusters by kind, got none; give them or by_kind=False"
            )
        return None
    if not isinstance(measured, tuple | list) or len(measured) != len(Measured._fields):
        raise ConfigError(
            f"expected measured=Measured(values, key_kinds, query_kinds), got {type(measured).__name__}; "
            "apmae.score(patterns) has the three"
        )
    parts = [np.asarray(part) for part in measured]
    for name, part, width in zip(Measured._fields, parts, (len(SCORES), len(KINDS), len(KINDS)), strict=True):
        if part.shape != (rows, width) or part.dtype.kind != "f":
            raise ConfigError(
                f"expected measured.{name} of {width} numbers per embedding, floats of shape ({rows}, {width}), got "
                f"{part.dtype} of shape {part.shape}; measure the same patterns as the embeddings are of"
            )
    return Measured(*parts)


class Claim(NamedTuple):
    """One part of a name."""

    words: str
    """As the name says it, for instance "local band" or "width 3 to 5"."""
    meaning: str
    """What it claims of each pattern, as scores and their bounds."""
    score: str
    """The one of ``schema.SCORES`` that it bounds; "" if it bounds something else."""


class Definition(NamedTuple):
    """What a cluster's name claims, so that it can be checked."""

    kinds: tuple[str, ...]
    """The leading one first."""
    qualifiers: tuple[Qualifier, ...]

    def claims(self) -> tuple[Claim, ...]:
        """What each part of the name claims, in words that a reader can check; none without kinds."""
        kinds = [
            Claim(kind, meaning(kind, leading=number == 0), bounded_by(kind)) for number, kind in enumerate(self.kinds)
        ]
        return (*kinds, *(Claim(one.words, one.meaning, one.measured) for one in self.qualifiers))

    def kinds_hold(self, measured: Measured) -> Bool[ndarray, " n"]:
        """Which patterns satisfy every kind."""
        true = np.ones(len(measured.values), bool)
        for number, kind in enumerate(self.kinds):
            true &= holds(kind, measured.values, measured.key_kinds, leading=number == 0)
        return true

    def holds(self, measured: Measured) -> Bool[ndarray, " n"]:
        """Which patterns satisfy the whole name."""
        return self.kinds_hold(measured) & satisfies(self.qualifiers, Features.of(measured))

    def share_left(self, measured: Measured) -> float:
        """The share of patterns that the name is true for, or may be: a range of what is not measured excludes none."""
        return float((self.kinds_hold(measured) & ~ruled_out(self.qualifiers, Features.of(measured))).mean())


def cluster_names(clusters: pa.Table) -> dict[int, str]:
    """Name of each cluster of a table (``schema.CLUSTERS``); -1 is "unknown"."""
    found = dict(zip(clusters["cluster"].to_pylist(), clusters["name"].to_pylist(), strict=True))
    return {**found, NOISE: "unknown"}


def renamed(clusters: pa.Table, names: dict[int, str]) -> pa.Table:
    """A table of clusters with names that somebody gave; what a name claimed is kept as it was found.

    Raises:
        ConfigError: if there is no such cluster, or two clusters would have the same name.
    """
    if not names:
        return clusters
    found = cluster_names(clusters)
    missing = sorted(set(names) - set(found) | ({NOISE} & set(names)))
    if missing:
        there = f"names of clusters 0-{len(clusters) - 1}" if len(clusters) else "no names, there is no cluster"
        raise ConfigError(f"expected {there}, got one of {missing[0]}")
    found |= names
    column = [found[number] for number in clusters["cluster"].to_pylist()]
    twice = sorted({name for name in column if column.count(name) > 1 or not name.strip()})
    if twice:
        raise ConfigError(f"expected a name of its own for each cluster, got {twice[0]!r} for several or an empty one")
    return clusters.set_column(
        clusters.schema.get_field_index("name"), CLUSTERS.field("name"), pa.array(column, pa.string())
    )


def overlay(folder: Path) -> dict[int, str]:
    """Names that somebody wrote beside an atlas, in ``names.json``: {"3": "my name"}; none if there is no such file.

    Raises:
        ArtifactError: if the file is no such object.
    """
    path = folder / NAMES_FILE
    if not path.exists():
        return {}
    record = read_json(path)
    try:
        if not all(isinstance(name, str) for name in record.values()):
            raise ValueError
        return {int(number): name for number, name in record.items()}
    except (AttributeError, ValueError):  # a list, or another key or name than text
        raise ArtifactError(
            f'expected {path} to give names by the clusters\' numbers, {{"3": "my name"}}; mend or remove it'
        ) from None


def definitions(clusters: pa.Table) -> list[Definition]:
    """What each cluster's name claims, in the order of the table."""
    return [
        Definition(tuple(row["kinds"]), tuple(Qualifier(**one) for one in row["qualifiers"]))
        for row in clusters.select(["kinds", "qualifiers"]).to_pylist()
    ]


def agreeing(clusters: list[Definition], measured: Measured, *, leading: bool) -> Bool[ndarray, "n c"]:
    """Which clusters' names are true of each pattern, by its own scores.

    Args:
        clusters: what their names claim.
        measured: scores of the patterns.
        leading: whether the cluster's leading kind has to lead the pattern's own name too. Mixed clusters then suit
            only patterns whose own name is mixed.
    """
    names = measured_names(measured.values, measured.key_kinds) if leading else []
    own = np.array([kinds_of(name)[0] for name in names], object)
    found = np.ones((len(measured.values), len(clusters)), bool)
    true: dict[tuple[str, ...], Bool[ndarray, " n"]] = {}  # many clusters claim the same kinds
    for number, one in enumerate(clusters):
        if not one.kinds:  # it is called by its number
            continue
        if one.kinds not in true:
            true[one.kinds] = one.kinds_hold(measured)
            if leading:
                true[one.kinds] &= own == kinds_of(one.kinds[0])[0]
        found[:, number] = true[one.kinds]
    return found


def behaviours_of(clusters: pa.Table) -> Int[ndarray, " c"]:
    """The leading behaviour of each cluster, as a number; clusters that do nothing known have their own."""
    leading = [
        f"cluster {number}" if one.kinds in ((), MIXED) else kinds_of(one.kinds[0])[0]
        for number, one in enumerate(definitions(clusters))
    ]
    return np.unique(leading, return_inverse=True)[1].astype(np.int64)


def names_in(clusters: pa.Table, of: Int[ndarray, " n"], measured: Measured) -> list[str]:
    """The name of each pattern's cluster, without qualifiers that are not true of the pattern.

    Args:
        clusters: ``schema.CLUSTERS``.
        of: the cluster of each pattern; -1 is "unknown".
        measured: scores of the same patterns.
    """
    known = cluster_names(clusters)
    names = [known[int(number)] for number in of]
    features = Features.of(measured)
    for number, one in enumerate(definitions(clusters)):
        rows = np.flatnonzero(of == number)
        for qualifier in one.qualifiers if len(rows) else ():
            false = rows[~satisfies((qualifier,), features._replace(values=features.values[rows]))]
            for row in false.tolist():
                names[row] = ", ".join(part for part in names[row].split(", ") if part != qualifier.words)
    return names


def leading_kinds(measured: Measured) -> Int[ndarray, " n"]:
    """A number from 0 for the kind that leads each pattern's own name."""
    names = measured_names(measured.values, measured.key_kinds)
    return np.unique([kinds_of(name)[0] for name in names], return_inverse=True)[1].astype(np.int64)


def named_clusters(
    labels: Int[ndarray, " n"],
    mean_distances: Float[ndarray, " c"],
    stability: Float[ndarray, " c"],
    seed_stability: Float[ndarray, " c"],
    measured: Measured | None,
) -> pa.Table:
    """The table of clusters, ``schema.CLUSTERS``.

    Args:
        labels: cluster of each row, -1 for noise.
        mean_distances: of each cluster, from ``Clusterer``, as are the next two.
        stability: Jaccard index over halves of the prompts.
        seed_stability: Jaccard index over seeds.
        measured: scores of the same rows; without them clusters are called "cluster 0", "cluster 1", ...
    """
    members = members_of(labels, len(stability))
    names: list[dict[str, Any]] = [
        {"name": f"{_NUMBERED}{number}", "kinds": [], "qualifiers": [], "looks_at": "", "looks_from": ""}
        for number in range(len(members))
    ]
    if measured is not None:
        names = _names([measured.of(rows) for rows in members])
    rows = [
        {
            "cluster": number,
            "size": len(members[number]),
            "mean_distance": float(mean_distances[number]),
            "stability": float(stability[number]),
            "seed_stability": float(seed_stability[number]),
            "unstable": bool(min(stability[number], seed_stability[number]) < STABLE),
            **names[number],
        }
        for number in range(len(members))
    ]
    return pa.Table.from_pylist(rows, schema=CLUSTERS)


def _names(clusters: list[Measured]) -> list[dict[str, Any]]:
    """The columns of ``schema.CLUSTERS`` that say what the members do."""
    kinds = [_kinds(own) for own in clusters]
    features = [Features.of(own) for own in clusters]
    rows: list[dict[str, Any]] = []
    unnamed: Counter[tuple[str, ...]] = Counter()
    for number, own in enumerate(clusters):
        others = [other for other in range(len(clusters)) if other != number and kinds[other] == kinds[number]]
        true = Definition(kinds[number], ()).kinds_hold(own)
        like = [features[other] for other in others]
        qualifiers, left = separate(features[number], like, kinds[number], true, TRUE_FOR)
        if left > _TELLING:
            unnamed[kinds[number]] += 1
            words, qualifiers = [" + ".join(kinds[number]), f"{UNNAMED} {unnamed[kinds[number]]}"], ()
        else:
            words = [" + ".join(kinds[number]), *(one.words for one in qualifiers)]
        claim = Definition(kinds[number], qualifiers)
        share = float(claim.holds(own).mean())
        shared = max((claim.share_left(clusters[other]) for other in others), default=0.0)
        keys, queries = own.key_kinds.mean(0), own.query_kinds.mean(0)
        rows.append(
            {
                "name": ", ".join(words),
                "kinds": list(kinds[number]),
                "qualifiers": [one._asdict() for one in qualifiers],
                "true_share": share,
                "like_share": shared,
                "confidence": share * (1 - shared),
                "looks_at": kind_word(dict(zip(KINDS, keys.tolist(), strict=True))),
                "looks_from": kind_word(dict(zip(KINDS, queries.tolist(), strict=True))),
                **{f"score_{score}": value for score, value in _means(own.values).items() if value == value},
            }
        )
    return rows


def _kinds(own: Measured) -> tuple[str, ...]:
    """The kinds that nine in ten members satisfy together: what most are named by first, and one more behaviour."""
    some = own.of(slice(None, None, max(len(own.values) // _SAMPLE, 1)))
    names = measured_names(some.values, some.key_kinds)
    leading = [name.split(" + ")[0] for name in names]
    strength = {
        name: float(np.nanmean(of)) if np.isfinite(of).any() else -1.0 for name, of in strengths(own.values).items()
    }
    candidates = sorted(set(leading), key=lambda name: (-leading.count(name), name))
    # A name with a token kind is true without it too. "Some" of a behaviour counts only if nothing is clear.
    candidates += [token_kind(name)[0] for name in candidates if token_kind(name)[1]]
    candidates = [name for name in candidates if name not in ("mixed", "looks at")]  # these say nothing
    candidates += [f"some {name}" for name in sorted(strength, key=lambda name: -strength[name])]
    for first in candidates:
        if holds(first, own.values, own.key_kinds).mean() < TRUE_FOR:
            continue
        said = _EITHER if token_kind(first)[0].removeprefix("some ") in _EITHER else (first,)
        others = (name for name in BEHAVIOURS if name not in first and name not in said)
        second = max(others, key=lambda name: strength[name])
        both = Definition((first, second), ())
        enough = strength[second] >= 0.5 * strength.get(token_kind(first)[0], 2.0)
        if enough and both.kinds_hold(own).mean() >= TRUE_FOR:
            return both.kinds
        return (first,)
    return MIXED


def _means(values: Float[ndarray, "m s"]) -> dict[str, float]:
    """The mean of each score over the rows on which it was measured; NaN if on none."""
    measurable = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(measurable, values, 0).sum(0) / measurable.sum(0)
    return dict(zip(SCORES, means.tolist(), strict=True))
