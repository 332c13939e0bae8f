"""Top prompts of heads, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from apmae.analyze.top import STRENGTH, Chosen
from apmae.report.console import Column, open_console, print_point, print_table
from apmae.report.display import visible
from apmae.report.tables import head_name
from apmae.study.placed import Placed

if TYPE_CHECKING:
    import pyarrow as pa

_HEADS = 40
"""Most heads in the table of heads."""
_DETAILED = 4
"""Most heads whose prompts are listed one by one."""
_FILE = 28
"""Most characters of a path."""
_TOKEN = 14
"""Most characters of a token in a table."""


def print_top(
    study: Placed,
    by: str,
    chosen: Chosen,
    asked: bool,
    attended: "pa.Table | None" = None,
    texts: "pa.Table | None" = None,
) -> None:
    """Print the distribution of a value in each head, and the prompts of heads that were asked for.

    Args:
        study: opened.
        by: name of the value.
        chosen: from ``analyze.top.top_prompts``.
        asked: whether heads were asked for by name.
        attended: ``schema.ATTENDED``, if the model was run.
        texts: ``schema.TOP_TEXTS``, likewise.
    """
    console = open_console()
    every, *own = chosen.heads.to_pylist()
    first: dict[tuple[int, int], Mapping[str, Any]] = {}
    rows = chosen.rows.to_pylist()
    for row in rows:
        first.setdefault((row["layer"], row["head"]), row)
    heads = [row for row in own if not asked or (row["layer"], row["head"]) in first]
    heads.sort(key=lambda row: (-(row["median"] or 0), row["layer"], row["head"]))
    elsewhere = "with --lm they are written" if attended is None else "heads.parquet and top.parquet have them"
    _print_heads(console, by, every, heads[:_HEADS], first, study.names, study.prompts.num_rows, elsewhere)
    if len(heads) > _HEADS:
        print_point(console, f"These are the {_HEADS} heads with the largest median, of {len(heads)}; {elsewhere}.")
    silent = [row for row in own if not row["measured"]]
    if silent:
        named = ", ".join(head_name(row["layer"], row["head"]) for row in silent[:8])
        print_point(console, f"No value on any prompt: {named}{' and others' if len(silent) > 8 else ''}.")
    if asked:
        pairs = pairs_of(attended, texts)
        for place in list(first)[:_DETAILED]:
            of = [row for row in rows if (row["layer"], row["head"]) == place]
            _print_prompts(console, by, study, of, pairs, elsewhere)
        if len(first) > _DETAILED:
            print_point(console, f"Prompts of the other {len(first) - _DETAILED} heads: {elsewhere}.")
    print_point(console, reading(by, every))


def reading(by: str, every: Mapping[str, Any]) -> str:
    """How the values are to be read.

    Args:
        by: name of the value.
        every: the row of ``schema.TOP_HEADS`` that is over all heads.
    """
    what = (
        "Strength is 1 at the centre of the pattern's cluster and 0.5 as far from it as the mean member. "
        if by == STRENGTH
        else ""
    )
    return (
        f"{what}Over all {every['measured']:,} patterns with a value of {by} the median is {every['median']:.3g}, and "
        f"one in ten is over {every['q90']:.3g}. The largest of many are large by selection: the drawn prompts of each "
        "tenth show what the head does on the others."
    )


def _print_heads(
    console: Console,
    by: str,
    every: Mapping[str, Any],
    heads: Sequence[Mapping[str, Any]],
    first: Mapping[tuple[int, int], Mapping[str, Any]],
    names: Mapping[int, str],
    prompts: int,
    elsewhere: str,
) -> None:
    def cells(name: str) -> list[str]:
        return ["-" if row[name] is None else f"{row[name]:.3g}" for row in [every, *heads]]

    tops = [first.get((row["layer"], row["head"])) for row in heads]
    columns = (
        Column(header="head", cells=["all", *(head_name(row["layer"], row["head"]) for row in heads)]),
        Column(header="median", cells=cells("median")),
        Column(
            header="above",
            cells=["", *("-" if row["above"] is None else f"{row['above']:.0%}" for row in heads)],
            priority=3,
        ),
        Column(header="middle half", cells=[_half(row) for row in [every, *heads]], priority=0),
        Column(header="largest", cells=cells("largest"), priority=5),
        Column(
            header="share",
            cells=["", *("-" if row is None else _share(row["share"]) for row in tops)],
            priority=4,
        ),
        Column(
            header="cluster there",
            cells=["", *("-" if row is None else names[row["cluster"]].split(", ")[0] for row in tops)],
            priority=1,
            min_width=28,
        ),
    )
    console.print(f"\n[bold]{by.capitalize()}[/bold] of each head over {prompts:,} prompts", highlight=False)
    print_table(console, columns, elsewhere)
    print_point(
        console,
        "'above' is the share of the other heads whose median is smaller, 'share' that of all patterns whose value is "
        "at least the largest of this head; the cluster is that of the largest.",
        mark="  ",
    )


def _print_prompts(
    console: Console,
    by: str,
    study: Placed,
    rows: Sequence[Mapping[str, Any]],
    pairs: Mapping[tuple[int, int, int], str],
    elsewhere: str,
) -> None:
    prompts = dict(zip(study.prompts["prompt"].to_pylist(), study.prompts["path"].to_pylist(), strict=True))
    shown = sorted(rows, key=lambda row: (not row["top"], row["rank"]))
    where = [_short(prompts[row["prompt"]]) for row in shown]
    columns = [
        Column(header="rank", cells=[str(row["rank"]) for row in shown]),
        Column(header="tenth", cells=["top" if row["top"] else str(row["decile"]) for row in shown]),
        Column(header=by, cells=[f"{row['value']:.3g}" for row in shown]),
        Column(header="share", cells=[_share(row["share"]) for row in shown], priority=5),
        Column(header="prompt", cells=[str(row["prompt"]) for row in shown], priority=2),
        Column(header="task", cells=[row["task"].replace("_", " ") for row in shown], priority=3, min_width=10),
        Column(header="outcome", cells=[row["outcome"] or "-" for row in shown], priority=1),
        Column(header="file", cells=where, priority=0, min_width=12),
    ]
    if pairs:
        cells = [pairs.get((row["layer"], row["head"], row["prompt"]), "-") for row in shown]
        columns.append(Column(header="attends to", cells=cells, min_width=18))
    name = head_name(shown[0]["layer"], shown[0]["head"])
    console.print(f"\n[bold]Head {name}[/bold]: largest {by}, then some of each tenth", highlight=False)
    print_table(console, columns, elsewhere)


def pairs_of(attended: "pa.Table | None", texts: "pa.Table | None") -> dict[tuple[int, int, int], str]:
    """The strongest pair away from sinks of each pattern (layer, head, prompt), as "query \u2192 key (weight)"."""
    if attended is None or texts is None:
        return {}
    words = dict(zip(texts["prompt"].to_pylist(), texts["texts"].to_pylist(), strict=True))
    found = {}
    for row in attended.to_pylist():
        if row["away_keys"]:
            of, query, key = words[row["prompt"]], row["away_queries"][0], row["away_keys"][0]
            pair = f"{_token(of[query])} \u2192 {_token(of[key])} ({row['away_weights'][0]:.2f})"
            found[row["layer"], row["head"], row["prompt"]] = pair
    return found


def _token(text: str) -> str:
    """A token in a table; of a long one the beginning."""
    shown = visible(text)
    return shown if len(shown) <= _TOKEN else f"{shown[: _TOKEN - 1]}\u2026"


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}" if value >= 0.001 else "<0.1%"


def _half(row: Mapping[str, Any]) -> str:
    return "-" if row["q25"] is None else f"{row['q25']:.2g} to {row['q75']:.2g}"


def _short(path: str) -> str:
    return path if len(path) <= _FILE else f"\u2026{path[1 - _FILE :]}"
