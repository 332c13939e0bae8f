"""Tags of other prompts in a study's report: what heads do there, and which do no longer what they do in the study."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from apmae.analyze.locations import clustering
from apmae.analyze.steadiness import UNKNOWN
from apmae.report.steadiness import by_name, cautions, fewest, mostly, share_of, steadiest_words
from apmae.report.tables import Table, head_name
from apmae.study.layout import Layout
from apmae.study.reader import Study
from apmae.study.tags import Tags, tags_of

_MOST = 0.5
"""A head does what it does on more than this share of its patterns."""
_NAMES = 8
"""Most names listed."""
_HEADS = 12
"""Most heads listed that do it on fewer prompts."""


_CHANGED = ("head", "in the study", "share", "here", "mostly", "steady")


class TagsSection(NamedTuple):
    """What the report shows of one folder of tags."""

    name: str
    link: str
    """Of the folder's own page."""
    opening: str
    cautions: list[str]
    names: Table
    """What heads do mostly, and how many."""
    changed: Table
    """Heads that do on fewer prompts what they do in the study."""
    finding: str
    """How many these are, of how many."""


def tags_sections(study: Study) -> list[TagsSection]:
    """What the report shows of each folder in ``tags/`` that was tagged with this study's atlas.

    Raises:
        ArtifactError: if one is damaged.
    """
    found = tags_of(study)
    habits = _habits(study) if found else {}
    return [_section(study, name, tags, habits) for name, tags in found.items()]


def _section(study: Study, name: str, tags: Tags, habits: Mapping[tuple[int, int], tuple[str, float]]) -> TagsSection:
    summary = tags.summary
    heads: Sequence[Mapping[str, Any]] = summary["heads"]
    every = sum(one["tags"] for one in heads)
    known = sum(one["tags"] * one["known"] for one in heads) / max(every, 1)
    clustered = clustering(study.points).share
    right = ""
    if summary["correct"] is not None:
        right = f", {summary['correct'] / max(summary['prompts'], 1):.0%} of them answered correctly"
    opening = (
        f"{summary['prompts']:,} prompts{right}. {known:.0%} of {every:,} tags are in a cluster, of the study's own "
        f"patterns {clustered:.0%}."
    )
    groups = by_name(heads)
    shown = tuple(
        (what, len(own), sum(one["steadiness"] for one in own) / len(own), steadiest_words(own))
        for what, own in groups[:_NAMES]
    )
    changed, every_head = _changed(heads, habits)
    listed = tuple(
        (head_name(one["layer"], one["head"]), before, share, kept, mostly(one, fewest(heads)), one["steadiness"])
        for one, before, share, kept in changed[:_HEADS]
    )
    where = tags.folder.relative_to(Layout(study.folder).folder).as_posix()
    more = f" Those that lost most are listed, {_HEADS} of them." if len(changed) > _HEADS else ""
    return TagsSection(
        name,
        f"../{quote(where)}/index.html",
        opening,
        cautions(summary),
        Table(name=f"tags_{name}", header=("mostly", "heads", "steady", "steadiest"), rows=shown),
        Table(name=f"changed_{name}", header=_CHANGED, rows=listed),
        f"Of {every_head} heads with one name on most of the study's patterns, {len(changed)} "
        f"{'has' if len(changed) == 1 else 'have'} it on half of these prompts or fewer.{more}",
    )


def _changed(
    heads: Sequence[Mapping[str, Any]], habits: Mapping[tuple[int, int], tuple[str, float]]
) -> tuple[list[tuple[Mapping[str, Any], str, float, float]], int]:
    """Heads with a name on more than half of the study's patterns and on no more than half of their tags.

    Args:
        heads: as in ``summary.json``.
        habits: name and share in the study, by layer and head.

    Returns:
        These with their name, its share in the study and its share here, those that lost most first; and how many
        heads have a name on more than half of the study's patterns.
    """
    changed, every, least = [], 0, fewest(heads)
    for one in heads:
        name, share = habits.get((one["layer"], one["head"]), ("", 0.0))
        if one["tags"] < least or share <= _MOST:
            continue
        every += 1
        kept = share_of(one, name)
        if kept <= _MOST:
            changed.append((one, name, share, kept))
    changed.sort(key=lambda row: (row[3] - row[2], row[0]["layer"], row[0]["head"]))
    return changed, every


def _habits(study: Study) -> dict[tuple[int, int], tuple[str, float]]:
    """The most frequent name of each head in the study, without qualifiers, and the share of its patterns with it."""
    counts: dict[tuple[int, int], Counter[str]] = {}
    names = {number: name.split(", ")[0] for number, name in study.names.items()}
    grouped = study.points.group_by(["layer", "head", "cluster"]).aggregate([([], "count_all")]).to_pylist()
    for row in grouped:
        counts.setdefault((row["layer"], row["head"]), Counter())[names[row["cluster"]]] += row["count_all"]
    found = {}
    for place, own in counts.items():
        name = min((name for name in own if name != UNKNOWN), key=lambda name: (-own[name], name), default=None)
        if name is not None:
            found[place] = name, own[name] / own.total()
    return found
