"""What can be said of a model without some of its heads, in words; reads the tables of the prune stage."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from apmae.analyze.pruning import RANDOM
from apmae.report.ablation import effect_sign, groups_of_files, interval, unknown_rate
from apmae.report.tables import Table
from apmae.study.pruning import Pruning

KEEPS = 0.95
"""Share of the accuracy that a line asks about."""
_FEW_GROUPS = 12
"""Groups of files below which intervals rest on almost nothing."""
RANKING_WORDS = {
    "exact": "exact effect",
    "gradient": "gradient",
    "attribution": "attribution",
    "unknown": "unknown to the atlas first",
    "flow": "flow",
    "first_token": "first-token mass",
    "weight": "weight norm",
    RANDOM: "random",
}
"""Rankings as they are called in tables."""


def pruning_findings(found: Pruning) -> list[str]:
    """What the tables allow to be said, a sentence or two each."""
    counts = found.counts
    lines = [counts["transfers"], _unpruned(counts), *_doses(found), _kept(found), _beyond(found), _elsewhere(found)]
    lines += [f"Left out: {name} ({reason})." for name, reason in counts["left_out"].items()]
    return [line for line in [*lines, *_about(counts)] if line]


def share(row: Mapping[str, Any], name: str, ends: str | None = None) -> str:
    """A share in percent with its interval, or that of ``ends``; "no interval" where it cannot be told."""
    if row[name] is None:
        return "-"
    low, high = (row[f"{ends or name}_{part}"] for part in ("low", "high"))
    return f"{row[name]:.0%} " + ("(no interval)" if low is None else f"[{low:.0%}, {high:.0%}]")


def _unpruned(counts: Mapping[str, Any]) -> str:
    right, many = counts["measuring_correct"], counts["measuring"]
    return f"With all {counts['heads']} heads {right / many:.1%} of {many} measuring prompts are correct."


def _doses(found: Pruning) -> list[str]:
    lines = []
    doses = sorted({row["dose"] for row in found.curves.to_pylist()})
    for part in (0.25, 0.5):
        dose = min(doses, key=lambda own: abs(own / found.counts["heads"] - part))
        rows = found.rows(dose=dose)
        rows.sort(key=lambda row: -(row["kept"] or 0))
        kept = ", ".join(f"{RANKING_WORDS[row['ranking']]} {share(row, 'kept')}" for row in rows)
        line = f"Accuracy kept without {dose} of {found.counts['heads']} heads ({found.counts['mode']}): {kept}."
        lines += [] if line in lines else [line]
    return lines


def _kept(found: Pruning) -> str:
    """How many heads can go, as far as intervals that hold for all rankings and doses say."""
    every = [row for row in found.rows() if row["ranking"] != RANDOM]
    kept = "kept" if all(row["kept_natural"] is None for row in every) else "kept_natural"
    rows = [row for row in every if row[kept] is not None]
    if not rows:
        return "How much of the accuracy is kept cannot be told: no measuring prompt is correct with all heads."
    where = " at natural rates" if kept == "kept_natural" else ""
    shown = [row for row in rows if row["kept_all_low"] is not None and row["kept_all_low"] >= KEEPS]
    open_ = [row for row in rows if row[kept] >= KEEPS]
    if shown:
        most = max(shown, key=lambda row: (row["dose"], row[kept]))
        return (
            f"{most['dose']} heads, ranked by {RANKING_WORDS[most['ranking']]}, can go with at least {KEEPS:.0%} of "
            f"the accuracy kept{where}: {share(most, kept, 'kept_all')}, where all intervals hold at once."
        )
    none = f"For no ranking and dose can it be shown that {KEEPS:.0%} of the accuracy is kept{where} where all "
    if not open_:
        return f"{none}intervals hold; none keeps as much here."
    most = max(open_, key=lambda row: (row["dose"], row[kept]))
    return (
        f"{none}intervals hold. The largest number removed that still keeps it here is {most['dose']}, by "
        f"{RANKING_WORDS[most['ranking']]}: {share(most, kept, 'kept_all')}."
    )


def _beyond(found: Pruning) -> str:
    """Whether the choice of heads matters, beside random heads of the same layers."""
    doses = sorted({row["dose"] for row in found.rows(control="layers")})
    if not doses:
        return ""
    dose = min(doses, key=lambda own: abs(own / found.counts["heads"] - 0.25))
    better, worse, same = [], [], []
    for row in found.rows(control="layers", dose=dose):
        own = "" if (row["shared"] or 0) < 0.05 else f", {row['shared']:.0%} of the heads the same"
        words = f"{RANKING_WORDS[row['ranking']]} {interval(row, 'drawn_beyond')}{own}"
        {1: better, -1: worse, 0: same}[effect_sign(row, "drawn_beyond")].append(words)
    parts = [("better than", better), ("worse than", worse), ("not distinguishable from", same)]
    said = "; ".join(f"{words} them: {', '.join(rows)}" for words, rows in parts if rows)
    return f"Beside random heads of the same layers, {dose} removed, in accuracy, each at 95%: {said}."


def _elsewhere(found: Pruning) -> str:
    plain = found.counts["elsewhere"]
    if plain is None:
        return "Perplexity elsewhere cannot be told: the model sees the tokens that it would be asked for."
    dose = min({row["dose"] for row in found.rows()}, key=lambda own: abs(own / found.counts["heads"] - 0.25))
    rows = [row for row in found.rows(dose=dose) if row["elsewhere"] is not None]
    parts = [f"{RANKING_WORDS[row['ranking']]} {np.exp(plain + row['elsewhere']):.2f}" for row in rows]
    return f"Perplexity of the prompts' other tokens: {np.exp(plain):.2f}; without {dose} heads {', '.join(parts)}."


def _about(counts: Mapping[str, Any]) -> list[str]:
    how, natural = counts["drawn"], counts["natural_rate"]
    lines = [
        f"{counts['ranking']} prompts rank heads; {counts['measuring']} prompts of "
        f"{groups_of_files(counts['measuring_groups'], 'other ')} measure."
    ]
    if how == "balanced" and natural is not None:
        lines.append(
            f"Prompts were drawn half correct, half incorrect; of all that were asked {natural:.0%} were correct. "
            "Removing anything makes some of the incorrect ones correct: look at the figures at the natural rate too."
        )
    elif how != "any":
        lines.append(unknown_rate(how))
    if counts["measuring_groups"] < _FEW_GROUPS:
        lines.append(f"{groups_of_files(counts['measuring_groups'])}: too few for intervals that can be relied on.")
    return lines


def level(row: Mapping[str, Any], name: str) -> str:
    """An accuracy with its interval; "-" where there is none."""
    if row[name] is None:
        return "-"
    if row[f"{name}_low"] is None:
        return f"{row[name]:.3f} (no interval)"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def pruning_table_of(found: Pruning) -> Table:
    """Rankings, doses and controls, one row each; intervals in brackets."""
    header = ("ranking", "heads", "control", "accuracy", "kept", "balanced", "at natural rates", "kept there")
    header += ("log-probability", "elsewhere", "ranked beyond control")
    rows = [
        (
            RANKING_WORDS[row["ranking"]],
            row["dose"],
            "random heads of the same layers" if row["control"] else "",
            level(row, "drawn"),
            share(row, "kept"),
            level(row, "balanced"),
            level(row, "natural"),
            share(row, "kept_natural"),
            interval(row, "log_probability"),
            interval(row, "elsewhere"),
            interval(row, "drawn_beyond"),
        )
        for row in found.curves.to_pylist()
    ]
    return Table(name="pruning", header=header, rows=tuple(rows))


def pruning_record(found: Pruning) -> dict[str, Any]:
    """Findings, counts and tables, as JSON holds them; figures that do not exist are null."""
    return {
        "findings": pruning_findings(found),
        "counts": dict(found.counts),
        "curves": found.curves.to_pylist(),
        "rankings": found.ranked.to_pylist(),
        "sets": found.removed.to_pylist(),
    }
