"""Each cluster's own section of the report: what its name claims, for how many members it is true, how stable it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from apmae.atlas.branches import STABLE
from apmae.atlas.names import MIXED, Claim, definitions, overlay
from apmae.report.display import data_uri, flagged
from apmae.report.examples import one_per_cluster
from apmae.report.palette import cluster_color
from apmae.report.tables import Table, head_name
from apmae.report.thumbnails import thumbnail
from apmae.study.reader import Study

_NOTHING = "\u2013"
_MOST_LIKE = 12
"""Clusters of the same kinds that are listed."""


def cluster_sections(study: Study, clusters: Table) -> list[dict[str, Any]]:
    """What the page says of each cluster, in the order of the table.

    Args:
        study: with its clusters.
        clusters: from ``tables.clusters_table``.

    Raises:
        ArtifactError: if the study is damaged.
    """
    where = dict(zip(clusters.column("cluster"), clusters.column("where"), strict=True))
    share = dict(zip(clusters.column("cluster"), clusters.column("share"), strict=True))
    medoids = {example.cluster: example for example in one_per_cluster(study)}
    given = overlay(study.atlas_folder)
    rows = study.clusters.to_pylist()
    sections = []
    for row, definition in zip(rows, definitions(study.clusters), strict=True):
        number = row["cluster"]
        claims = definition.claims()
        like = [one["cluster"] for one in rows if one["cluster"] != number and one["kinds"] == row["kinds"]]
        picture, of = None, ""
        if number in medoids:
            medoid = medoids[number]
            picture = data_uri(thumbnail(medoid.log_pattern))
            of = f"head {head_name(medoid.layer, medoid.head)}, prompt {medoid.prompt}"
        sections.append(
            {
                "cluster": number,
                "name": flagged(row["name"], row["unstable"]),
                "color": cluster_color(number),
                "picture": picture,
                "medoid": of,
                "claims": [(one.words, one.meaning, _mean(row, one)) for one in claims],
                "like": like[:_MOST_LIKE] if claims else [],
                "more": len(like[_MOST_LIKE:]) if claims else 0,
                "true": _truth(row, claims, like, given=number in given),
                "facts": _facts(row, share[number], where[number]),
            }
        )
    return sections


def _mean(row: Mapping[str, Any], claim: Claim) -> str:
    """The members' mean of the score that a claim bounds."""
    value = row[f"score_{claim.score}"] if claim.score else None
    if value is None:
        return _NOTHING
    return f"{value:.1f}" if claim.score == "local_width" else f"{value:.2f}"


def _truth(row: Mapping[str, Any], claims: Sequence[Claim], like: Sequence[int], *, given: bool) -> list[str]:
    """How far the name is true, in sentences."""
    if not claims:
        called = "The name was given by hand" if given else "It is called by its number"
        return [f"{called}: its patterns have no scores, so there is nothing to check."]
    said = []
    if given:
        said.append("The name was given by hand; what is checked is what was found of the cluster, above.")
    if tuple(row["kinds"]) == MIXED and not row["qualifiers"]:
        said.append("So it is true of any pattern.")
    elif row["true_share"] is not None:
        together = "All parts hold together" if len(claims) > 1 else "It holds"
        alone = ", so each part alone for at least as many" if len(claims) > 1 else ""
        said.append(f"{together} for {row['true_share']:.1%} of the {row['size']:,} members{alone}.")
    if not like:
        said.append("No other cluster has the same kinds.")
    elif not row["qualifiers"]:  # clusters of the same kinds have qualifiers, unless none tells them apart
        said.append("Unnamed: nothing that is measured separates it from another cluster of the same kinds.")
    if like and row["like_share"] is not None:
        said.append(
            f"Of another cluster of the same kinds, at most {row['like_share']:.1%} of the members satisfy it too."
        )
    if row["confidence"] is not None:
        said.append(f"Confidence {row['confidence']:.2f}.")
    return said


def _facts(row: Mapping[str, Any], share: float, where: str) -> list[tuple[str, str]]:
    found = f"{row['stability']:.2f} in halves of the prompts, {row['seed_stability']:.2f} over seeds"
    steady = f"unstable: under {STABLE:g}" if row["unstable"] else "stable"
    return [
        ("members", f"{row['size']:,}, {share:.1%} of all patterns"),
        ("mostly in heads", where or _NOTHING),
        ("looks at (keys)", row["looks_at"] or "no token kind stands out"),
        ("looks from (queries)", row["looks_from"] or "no token kind stands out"),
        ("found again", f"{found} ({steady})"),
    ]
