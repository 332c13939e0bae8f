"""What each head does over a corpus, and how steadily: counted from tags on disk.

A head's *names* are those of its tags without qualifiers, which depend on the single prompt. Its *main name* is the
most frequent of them; "unknown" is no name. Its *steadiness* is the share of all its tags that have the main name.
Tags stay on disk; what comes into memory is one row per head, task, cluster, name and reason.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from apmae.analyze.database import over
from apmae.schema import NOISE

UNKNOWN = "unknown"
"""What a pattern is called that passes the gate and is in no cluster."""
_PLACES = 6
"""Decimal places to which strengths are summed up: exactly, so that their order does not matter."""
_TAGS = f"""
    SELECT layer, head, task, cluster, split_part(name, ', ', 1) AS name, reason, count(*)::BIGINT AS tags,
        sum(strength::DECIMAL(18, {_PLACES}))::DOUBLE AS strength
    FROM tags GROUP BY ALL ORDER BY ALL
"""
_MEASURED = """
    SELECT layer, head, regexp_replace(split_part(measured, ' + ', 1), '^some ', '') AS kind, count(*)::BIGINT AS tags
    FROM tags GROUP BY ALL ORDER BY ALL
"""

_Key = TypeVar("_Key", str, int)

Shares = tuple[tuple[str, float], ...]
"""Texts with the share of a head's tags that have each; the largest share first, equal ones by text."""


class Habit(NamedTuple):
    """What a head does mostly, over a corpus or on one of its tasks."""

    tags: int
    """One for each prompt that the head was captured on."""
    name: str | None
    """The main name; None if the head is unknown on all prompts."""
    steadiness: float
    """Share of the tags that have the main name, in [0, 1]; 0 without one."""
    known: float
    """Share of the tags in a cluster, in [0, 1]."""


class HeadSummary(NamedTuple):
    """What one head does over a corpus. Shares are of all its tags, in [0, 1]."""

    layer: int
    head: int
    habit: Habit
    strength: float | None
    """Mean strength of the tags in a cluster; None if there are none."""
    clusters: tuple[tuple[int, float], ...]
    """Clusters with the share of the tags in each, the largest first."""
    names: Shares
    """Names, "unknown" among them."""
    unknown: Shares
    """Reasons (``Placement.reason``) of the tags in no cluster."""
    measured: Shares
    """Leading kinds of the names that the head's own scores give it, whether clear or only some."""
    tasks: dict[str, Habit]
    """By task, in alphabetical order."""


def summarize_heads(tags: Sequence[Path]) -> list[HeadSummary]:
    """What each head does over a corpus.

    Args:
        tags: files of ``schema.CORPUS_TAGS``.

    Returns:
        One for each head that has tags, by layer, then head.
    """
    with over(tags=tags) as found:
        rows = found.execute(_TAGS).fetchall()
        measured = found.execute(_MEASURED).fetchall()
    own: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    for layer, head, *rest in rows:
        own.setdefault((layer, head), []).append(tuple(rest))
    kinds: dict[tuple[int, int], Counter[str]] = {}
    for layer, head, kind, count in measured:
        kinds.setdefault((layer, head), Counter())[kind] = count
    return [_summary(layer, head, counted, kinds[layer, head]) for (layer, head), counted in own.items()]


def head_records(heads: Iterable[HeadSummary]) -> list[dict[str, Any]]:
    """Heads as they stand in ``summary.json`` (``docs/exchange.md``)."""
    return [
        {
            "layer": one.layer,
            "head": one.head,
            **one.habit._asdict(),
            "strength": one.strength,
            "clusters": [{"cluster": cluster, "share": share} for cluster, share in one.clusters],
            "names": [{"name": name, "share": share} for name, share in one.names],
            "unknown": [{"reason": reason, "share": share} for reason, share in one.unknown],
            "measured": [{"kind": kind, "share": share} for kind, share in one.measured],
            "tasks": {task: habit._asdict() for task, habit in one.tasks.items()},
        }
        for one in heads
    ]


def _summary(layer: int, head: int, rows: Sequence[tuple[Any, ...]], measured: Counter[str]) -> HeadSummary:
    names: Counter[str] = Counter()
    clusters: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    by_task: dict[str, list[tuple[str, int, int]]] = {}
    strength = 0.0
    for task, cluster, name, reason, count, summed in rows:
        names[name] += count
        by_task.setdefault(task, []).append((name, cluster, count))
        if cluster == NOISE:
            reasons[reason] += count
        else:
            clusters[cluster] += count
            strength += summed
    total, known = names.total(), clusters.total()
    return HeadSummary(
        layer,
        head,
        _habit([(name, cluster, count) for _, cluster, name, _, count, _ in rows]),
        round(strength / known, _PLACES) if known else None,
        tuple((cluster, count / total) for cluster, count in _ordered(clusters)),
        tuple((name, count / total) for name, count in _ordered(names)),
        tuple((reason, count / total) for reason, count in _ordered(reasons)),
        tuple((kind, count / total) for kind, count in _ordered(measured)),
        {task: _habit(by_task[task]) for task in sorted(by_task)},
    )


def _habit(rows: Sequence[tuple[str, int, int]]) -> Habit:
    """Of rows of name, cluster and count."""
    names: Counter[str] = Counter()
    for name, _, count in rows:
        names[name] += count
    total = names.total()
    known = sum(count for _, cluster, count in rows if cluster != NOISE)
    del names[UNKNOWN]
    name, often = next(iter(_ordered(names)), (None, 0))
    return Habit(total, name, often / total, known / total)


def _ordered(counts: Counter[_Key]) -> list[tuple[_Key, int]]:
    """The most frequent first; equal ones by key."""
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
