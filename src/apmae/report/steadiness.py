"""What each head does over a corpus, for the terminal: heads by what they do, then the steadiest of each kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from apmae.analyze.steadiness import UNKNOWN
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.display import UNUSED, WHY_UNKNOWN
from apmae.report.tables import head_name

_HEADS = 40
"""Most heads listed one by one."""
_FEWEST = 5
"""Tags from which on something is said of a head, or of a head in a task."""
_SHORT = 0.05
"""The share of short prompts from which on they are mentioned."""
_OF_NAME = 4
"""Most heads listed by the name of what they do."""
UNKNOWNS = ("unknown throughout", "mostly unknown", "too few tags to say")
"""What heads are called that no name says much of."""
_ELSEWHERE = "summary.json has everything"


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print what each head does over a corpus.

    Args:
        summary: as in ``summary.json`` (``docs/exchange.md``).
    """
    console = open_console()
    if summary["note"]:
        console.print(summary["note"], highlight=False, markup=False)
    heads: Sequence[Mapping[str, Any]] = summary["heads"]
    ordered = by_name(heads)
    _print_names(console, ordered)
    _print_heads(console, steadiest([own for _, own in ordered], _HEADS), fewest(heads))
    tags = sum(one["tags"] for one in heads)
    known = sum(one["tags"] * one["known"] for one in heads) / max(tags, 1)
    many = "1 head" if len(heads) == 1 else f"{len(heads)} heads"
    print_point(
        console,
        f"The atlas knows {known:.1%} of {tags:,} tags of {many}, on {summary['prompts']:,} prompts. "
        "'steady' is the share of a head's tags with its most frequent name, unknown ones among them; 'own scores' is "
        "the kind that leads by a pattern's own scores, in most of the head's patterns, known or not.",
    )
    for line in cautions(summary):
        print_point(console, line)
    reasons: dict[str, float] = {}
    for one in heads:
        for entry in one["unknown"]:
            reasons[entry["reason"]] = reasons.get(entry["reason"], 0.0) + entry["share"] * one["tags"] / tags
    if reasons:
        why = sorted(reasons.items(), key=lambda entry: -entry[1])
        said = ", ".join(f"{_percent(share)} {WHY_UNKNOWN[reason]}" for reason, share in why)
        print_point(console, f"Unknown: {said}.")
    if summary["unused_files"]:
        unused = ", ".join(f"{count} {UNUSED[reason]}" for reason, count in summary["unused_files"].items())
        print_point(console, f"Files that gave no prompt: {unused}.")
    if len(heads) > _HEADS:
        print_point(
            console,
            f"The steadiest heads of each kind are listed; summary.json has the other {len(heads) - _HEADS} too.",
        )


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """What to bear in mind of the prompts and of the names, a sentence or two each.

    Args:
        summary: as in ``summary.json``.
    """
    prompts, short, said = summary["prompts"], summary["short_prompts"], []
    if prompts < _FEWEST:
        said.append(f"With {prompts} prompt{'' if prompts == 1 else 's'} little can be said of what a head does.")
    if short and short >= _SHORT * prompts:
        said.append(
            f"{short:,} of {prompts:,} prompts ({short / prompts:.0%}) have fewer than {summary['shortest']} tokens. "
            "Patterns so small are not judged by the gate and look alike: what is said of them says little of the head."
        )
    names = {mostly(one, fewest(summary["heads"])) for one in summary["heads"]}
    if any(name.startswith("some ") for name in names):
        said.append("'some' before a kind: there is some of it, and nothing clearer in nine of ten cluster members.")
    if "mixed" in names:
        said.append("'mixed': a cluster without a kind that its members share; a head's own scores say more.")
    return said


def fewest(heads: Sequence[Mapping[str, Any]]) -> int:
    """Tags that a head needs to be said to do something: five, or as many as any head has if those are fewer."""
    return min(_FEWEST, max((one["tags"] for one in heads), default=0))


def mostly(one: Mapping[str, Any], least: int) -> str:
    """What a head does mostly: its main name; or that it is unknown, if more of its tags say so than have that name.

    Args:
        one: an entry of ``heads`` in ``summary.json``.
        least: tags that it needs (:func:`fewest`).
    """
    if one["tags"] < least:
        return UNKNOWNS[2]
    if one["name"] is None:
        return UNKNOWNS[0]
    unknown = sum(entry["share"] for entry in one["names"] if entry["name"] == UNKNOWN)
    return one["name"] if one["steadiness"] >= unknown else UNKNOWNS[1]


def by_name(heads: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Heads by what they do mostly: what most heads do first, and of each the steadiest head first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    least = fewest(heads)
    for one in sorted(heads, key=lambda one: (-one["steadiness"], one["layer"], one["head"])):
        groups.setdefault(mostly(one, least), []).append(one)
    return sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))


def steadiest_words(heads: Sequence[Mapping[str, Any]]) -> str:
    """The first few heads with their steadiness, such as "3.5 (92%), 4.0 (90%)"."""
    return ", ".join(f"{head_name(one['layer'], one['head'])} ({one['steadiness']:.0%})" for one in heads[:_OF_NAME])


def leading(one: Mapping[str, Any]) -> str:
    """What leads most of a head's patterns by their own scores, and how many."""
    first = one["measured"][0]
    return f"{first['kind']} ({first['share']:.0%})"


def exceptions_of(one: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Tasks in which a head does mostly something else than over all: more than half of its tags there have another
    main name, and there are enough of them to tell.
    """
    return {
        task: habit
        for task, habit in one["tasks"].items()
        if habit["name"] not in (None, one["name"]) and habit["tags"] >= _FEWEST and habit["steadiness"] > 0.5
    }


def share_of(one: Mapping[str, Any], name: str) -> float:
    """The share of a head's tags that have a name."""
    return next((entry["share"] for entry in one["names"] if entry["name"] == name), 0.0)


def names_words(one: Mapping[str, Any], least: int) -> str:
    """A head's names with their shares; those of a tag or two are counted together.

    Args:
        one: an entry of ``heads`` in ``summary.json``.
        least: tags that a name needs to be shown, unless it is the most frequent one.
    """
    first, *more = one["names"]
    often = [first, *(entry for entry in more if round(entry["share"] * one["tags"]) >= least)]
    rest = one["names"][len(often) :]  # the largest share first
    said = [f"{entry['name']} {entry['share']:.0%}" for entry in often]
    if rest:
        share = sum(entry["share"] for entry in rest)
        said.append(f"{len(rest)} other{'' if len(rest) == 1 else 's'} {_percent(share)}")
    return "; ".join(said)


def steadiest(groups: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """The first of each group, then the second of each, and so on up to ``count`` in all; in the order of the groups.

    Args:
        groups: heads that do the same, the steadiest first.
        count: how many to choose at most.
    """
    places = [(rank, number) for number, own in enumerate(groups) for rank in range(len(own))]
    chosen = sorted(sorted(places)[:count], key=lambda place: (place[1], place[0]))
    return [groups[number][rank] for rank, number in chosen]


def _print_names(console: Console, ordered: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """One row per thing that heads do mostly."""
    columns = (
        Column(header="mostly", cells=[name for name, _ in ordered], min_width=24),
        Column(header="heads", cells=[str(len(own)) for _, own in ordered]),
        Column(
            header="steadiest",
            cells=[steadiest_words(own) for _, own in ordered],
            min_width=20,
        ),
    )
    print_table(console, columns, _ELSEWHERE)


def _print_heads(console: Console, heads: Sequence[Mapping[str, Any]], least: int) -> None:
    """One row per head."""
    columns = (
        Column(header="head", cells=[head_name(one["layer"], one["head"]) for one in heads]),
        Column(header="mostly", cells=[mostly(one, least) for one in heads], min_width=20),
        Column(header="steady", cells=[f"{one['steadiness']:.0%}" for one in heads]),
        Column(header="known", cells=[f"{one['known']:.0%}" for one in heads], priority=3),
        Column(header="own scores", cells=[leading(one) for one in heads], priority=1, min_width=12),
        Column(header="otherwise", cells=[_exceptions(one) for one in heads], priority=2, min_width=14),
    )
    print_table(console, columns, _ELSEWHERE)


def _exceptions(one: Mapping[str, Any]) -> str:
    """What a head does in most of the tasks where it does mostly something else, and in how many."""
    others: dict[str, list[str]] = {}
    for task, habit in exceptions_of(one).items():
        others.setdefault(habit["name"], []).append(task.replace("_", " "))
    if not others:
        return "-"
    name, tasks = min(others.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return f"{name} in {tasks[0] if len(tasks) == 1 else f'{len(tasks)} tasks'}"


def _percent(share: float) -> str:
    return "under 0.1%" if share < 0.001 else f"{share:.1%}"
