"""What can be said of removed heads, in words; reads the tables of the ablate stage and what it counted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apmae.analyze.rankings import RANKINGS
from apmae.report.tables import Table, head_name
from apmae.study.ablation import Ablation

_FEW = 200
"""Measuring prompts below which a line says that they are few: accuracy is then known to about .05 at best."""
_FEW_GROUPS = 12
"""The same of groups of files: with fewer, intervals rest on almost nothing (``tests/analyze/test_jackknife.py``)."""
_TAIL = 0.025
"""Share of heads without effect whose interval lies above zero by chance, and as many below."""
_MEASURES = {"log_probability": "log-probability", "accuracy": "accuracy"}
_CONTROLS = {
    "size": "random heads",
    "layers": "random heads of the same layers",
    "effect": "the other heads nearest in effect",
}
_CHOSEN = {
    "unknown": "How the prompts were chosen by outcome is not known",
    "by another model": "The answers of another model decided which prompts were drawn",
    "correct": "Only prompts that were answered correctly were drawn",
    "balanced": "Prompts were drawn half correct, half incorrect, and how many were asked is not noted",
}
_ALIKE = 2.0
"""Controls are nearest in effect, but no comparison, if the ranked heads' mean change is more than so often theirs."""


def ablation_findings(found: Ablation) -> list[str]:
    """What the tables allow to be said, a sentence or two each."""
    lines = [found.counts["transfers"]] if found.counts["transfers"] else []
    for mode in found.modes:
        lines += [_heads(found, mode), _reliable(found, mode)]
        if found.ranked(mode):
            lines += [_selective(found, mode), *_helpful(found, mode), _reweighted(found, mode)]
    lines.append(_modes(found))
    return [line for line in [*lines, _elsewhere(found), *_about(found.counts), *_untold(found)] if line]


def interval(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """A change with its interval; "no interval" where it cannot be told, "-" where there is no figure."""
    if row[name] is None:
        return "-"
    if row[f"{name}_low"] is None:
        return f"{row[name]:+.{digits}f} (no interval)"
    return f"{row[name]:+.{digits}f} [{row[f'{name}_low']:+.{digits}f}, {row[f'{name}_high']:+.{digits}f}]"


def _heads(found: Ablation, mode: str) -> str:
    halves: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for row in found.heads.to_pylist():
        if row["mode"] == mode:
            halves.setdefault(row["half"], {})[row["layer"], row["head"]] = row
    signs = {
        half: {head: effect_sign(row, "log_probability") for head, row in rows.items()} for half, rows in halves.items()
    }
    many = len(halves["both"])
    counts = []
    for name, sign in (("helpful", -1), ("harmful", 1)):
        sides = [{head for head, own in signs[half].items() if own == sign} for half in ("ranking", "measuring")]
        counts.append(f"{len(sides[0] & sides[1])} {name} (ranking {len(sides[0])}, measuring {len(sides[1])})")
    largest = sorted(halves["both"].items(), key=lambda item: -abs(item[1]["log_probability"]))[:4]
    shown = ", ".join(f"{head_name(*head)} {row['log_probability']:+.2f}" for head, row in largest)
    return (
        f"Heads removed alone ({mode}): of {many}, beyond their 95% interval by log-probability in both halves are "
        f"{' and '.join(counts)}; by chance {_TAIL * many:.2f} of each in one half, {_TAIL**2 * many:.3f} in both. "
        f"Largest: {shown} nats."
    )


def effect_sign(row: Mapping[str, Any], name: str) -> int:
    """1 if a change's interval lies above zero, -1 below it, else 0."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return 0 if low is None else (low > 0) - (high < 0)


def _reliable(found: Ablation, mode: str) -> str:
    parts = []
    for row in found.reliability.to_pylist():
        if row["what"] == "halves" and row["mode"] == mode:
            parts.append(f"{'cannot be told' if row['spearman'] is None else _plain(row)} by {_MEASURES[row['by']]}")
    return f"Rank correlation of heads between the halves ({mode}): {', '.join(parts)}."


def _plain(row: Mapping[str, Any]) -> str:
    ends = "" if row["spearman_low"] is None else f" [{row['spearman_low']:.2f}, {row['spearman_high']:.2f}]"
    return f"{row['spearman']:.2f}{ends}"


def _selective(found: Ablation, mode: str) -> str:
    """The published claim: accuracy rises if heads that harm are removed selectively."""
    rows = [row for row in found.ranked(mode, ranking="harmful") if row["drawn"] is not None]
    best = max(rows, key=lambda row: (row["drawn_low"] is not None, _first(row["drawn_low"], row["drawn"])))
    what = f"{_heads_words(best['dose'])} ranked most harmful by {_MEASURES[best['by']]} ({mode})"
    change = f"{interval(best, 'drawn')} of accuracy"
    if effect_sign(best, "drawn") <= 0:
        top = max(row["drawn"] for row in rows)
        return (
            f"No gain in accuracy can be shown from removing heads that harm ({mode}): of {len(rows)} sets the largest "
            f"change is {top:+.3f}; the best by its interval is {change}, {what}."
        )
    if not (best["drawn_all_low"] or 0) > 0:
        every = f"[{best['drawn_all_low']:+.3f}, {best['drawn_all_high']:+.3f}]"
        return f"Perhaps a gain from removing {what}: {change}; but {every} where intervals of all sets hold at once."
    if best["natural"] is not None and effect_sign(best, "natural") <= 0:
        return (
            f"No gain at natural rates can be shown from removing {what}: {interval(best, 'natural')}. On the prompts "
            f"as drawn it is {change}, part of which is reweighting."
        )
    beyond, short = [], []
    for control, row in _controls(found, mode, best):
        if not _too_weak(control, row, best):
            (beyond if effect_sign(row, "drawn_beyond") > 0 else short).append(_against(control, row, best))
    natural = f" At natural rates: {interval(best, 'natural')}."
    if best["natural"] is None:
        drawn = found.counts["drawn"] == "any"
        natural = "" if drawn else " The natural rate is not known, so part of it may be reweighting."
    than = f", more than {' and '.join(beyond)}" if beyond else ""
    but = f"; no more can be shown than {' and '.join(short)}" if short else ""
    return f"A gain from removing {what}: {change}{than}{but}.{natural}"


def _first(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _controls(found: Ablation, mode: str, ranked: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The controls of some ranked heads, by kind."""
    same = {"ranking": ranked["ranking"], "by": ranked["by"]}
    rows = ((control, row) for control in _CONTROLS for row in found.ranked(mode, control=control, **same))
    return [(control, row) for control, row in rows if row["dose"] == ranked["dose"]]


def _too_weak(control: str, row: Mapping[str, Any], ranked: Mapping[str, Any]) -> bool:
    """Whether a control is no comparison, because its heads do much less."""
    return control == "effect" and abs(ranked["ranked"]) > _ALIKE * abs(row["ranked"])


def _against(control: str, row: Mapping[str, Any], ranked: Mapping[str, Any]) -> str:
    """A control with the difference from it; or that it is no comparison."""
    if control == "effect":
        alone = f"{row['ranked']:+.3f} each alone, against {ranked['ranked']:+.3f}"
        if _too_weak(control, row, ranked):
            return f"{_CONTROLS[control]} are too weak to compare with ({alone})"
        return f"{_CONTROLS[control]} ({interval(row, 'drawn_beyond')}; {alone})"
    share = f"; {row['shared']:.0%} of the heads are the same" if row["shared"] >= 0.05 else ""
    return f"{_CONTROLS[control]} ({interval(row, 'drawn_beyond')}{share})"


def _heads_words(dose: int) -> str:
    return "the head" if dose == 1 else f"the {dose} heads"


def _helpful(found: Ablation, mode: str) -> list[str]:
    """The smallest dose of helpful heads that costs accuracy, and whether choosing them is what does it."""
    lines = []
    for by, words in _MEASURES.items():
        rows = sorted(found.ranked(mode, ranking="helpful", by=by), key=lambda row: row["dose"])
        costs = next((row for row in rows if effect_sign(row, "drawn") < 0), None)
        if costs is None:
            why = "" if any(row["drawn_low"] is not None for row in rows) else ", because no set has an interval"
            lines.append(
                f"No loss in accuracy can be shown from removing heads ranked helpful by {words} ({mode}){why}."
            )
            continue
        beside_it = _controls(found, mode, costs)
        parts = [_against(*one, costs) for one in beside_it if not _too_weak(*one, costs)]
        weak = [_against(*one, costs) for one in beside_it if _too_weak(*one, costs)]
        beside = f"; beyond {', '.join(parts)}" if parts else ""
        lines.append(
            f"Removing {_heads_words(costs['dose'])} ranked most helpful by {words} ({mode}) changes accuracy by "
            f"{interval(costs, 'drawn')}{beside}{''.join('; ' + part for part in weak)}."
        )
    return lines


def _reweighted(found: Ablation, mode: str) -> str:
    """What half correct instead of the natural rate does to sets of little effect."""
    rows = [row for row in found.ranked(mode, ranking="neutral", by="log_probability") if row["natural"] is not None]
    rows = [row for row in rows if abs(row["balanced"]) < 0.1]
    if not rows:
        return ""
    most = max(rows, key=lambda row: abs(row["reweighting"]))
    return (
        f"Reweighting alone: removing {_heads_words(most['dose'])} ranked neutral by log-probability ({mode}) changes "
        f"accuracy by {interval(most, 'balanced')} if half of the answers are correct, by {interval(most, 'natural')} "
        f"at the natural rate; the difference, {interval(most, 'reweighting')}, is no effect of the heads."
    )


def _modes(found: Ablation) -> str:
    rows = [row for row in found.reliability.to_pylist() if row["what"] == "modes" and row["by"] == "log_probability"]
    parts = [f"{row['mode']} and {row['other']} {_plain(row)}" for row in rows if row["spearman"] is not None]
    return (
        f"Rank correlation between modes by log-probability, on the same prompts: {', '.join(parts)}." if parts else ""
    )


def _elsewhere(found: Ablation) -> str:
    if found.counts["elsewhere"] is None:
        return "Perplexity elsewhere cannot be told: the model sees the tokens that it would be asked for."
    mode = found.modes[0]
    rows = [row for row in found.ranked(mode, ranking="helpful", by="log_probability") if row["dose"] > 1]
    first = min(rows, key=lambda row: row["dose"], default=None)
    if first is None or first["elsewhere"] is None:
        return ""
    return (
        f"Elsewhere in the prompts the model's perplexity is {np.exp(found.counts['elsewhere']):.2f}; without "
        f"{_heads_words(first['dose'])} ranked most helpful ({mode}) it is "
        f"{np.exp(found.counts['elsewhere'] + first['elsewhere']):.2f}: {interval(first, 'elsewhere')} nats per token."
    )


def _about(counts: Mapping[str, Any]) -> list[str]:
    how, natural = counts["drawn"], counts["natural_rate"]
    rate = counts["measuring_correct"] / counts["measuring"]
    lines = [
        f"{counts['ranking']} prompts rank heads, {counts['measuring']} prompts of "
        f"{groups_of_files(counts['measuring_groups'], 'other ')} measure sets; {rate:.0%} of these are correct with "
        "all heads."
    ]
    if how == "balanced" and natural is not None:
        lines.append(
            f"Prompts were drawn half correct, half incorrect; of all that were asked {natural:.0%} were correct."
        )
    elif how == "any":
        lines.append("Prompts were drawn whatever their outcome, so they are at the model's own rate.")
    else:
        lines.append(unknown_rate(how))
    if counts["measuring"] < _FEW:
        half = 1.96 * (rate * (1 - rate) / counts["measuring"]) ** 0.5
        lines.append(
            f"{counts['measuring']} measuring prompts are few: an accuracy is known to about {half:.2f}, and changes "
            "of a few hundredths would seldom be seen."
        )
    if counts["measuring_groups"] < _FEW_GROUPS:
        lines.append(f"{groups_of_files(counts['measuring_groups'])}: too few for intervals that can be relied on.")
    return lines


def unknown_rate(how: str) -> str:
    """A line that the model's own rate of correct answers is not known, by how prompts were drawn (``Drawn.how``)."""
    return f"{_CHOSEN.get(how, _CHOSEN['unknown'])}, so the model's own rate of correct answers is not known."


def groups_of_files(count: int, other: str = "") -> str:
    """So many groups of files, in words."""
    return f"{count} {other}group{'' if count == 1 else 's'} of files"


def _untold(found: Ablation) -> list[str]:
    """Say how many figures have no interval, and why."""
    rows = [row for row in found.sets.to_pylist() if not row["control"]]
    without = [row for row in rows if row["drawn_low"] is None]
    if not without:
        return []
    groups = found.counts["measuring_groups"]
    if groups < 2:
        return ["No change has an interval: all measuring prompts are of one group of files."]
    still = sum(not (row["lost"] or row["gained"]) for row in without)
    lines = []
    if still:
        lines.append(
            f"{still} of {len(rows)} sets change no answer, so their change of accuracy has no interval. Of {groups} "
            f"groups of files without a change, at most {min(3 / groups, 1):.1%} would show one (95%)."
        )
    if still < len(without):
        lines.append(
            f"{len(without) - still} of {len(rows)} sets have no interval for their change of accuracy, because it is "
            "the same in every group of files."
        )
    return lines


def ablation_table(found: Ablation) -> Table:
    """Sets of heads and their controls, one row each; intervals in brackets."""
    header = ("mode", "ranking", "by", "heads", "control", "accuracy", "at natural rates", "log-probability", "lost")
    header += ("gained", "elsewhere", "ranked beyond control", "alone, where ranked", "shared")
    rows = [
        (
            row["mode"],
            row["ranking"],
            _MEASURES[row["by"]],
            row["dose"],
            _CONTROLS.get(row["control"], ""),
            *(interval(row, name) for name in ("drawn", "natural", "log_probability")),
            f"{row['lost']:.1f}",
            f"{row['gained']:.1f}",
            interval(row, "elsewhere"),
            interval(row, "drawn_beyond"),
            f"{row['ranked']:+.3f}",
            f"{row['shared']:.2f}",
        )
        for row in found.sets.to_pylist()
    ]
    return Table(name="ablation", header=header, rows=tuple(rows))


def head_effects_table(found: Ablation) -> Table:
    """What each head does when it is removed alone, over both halves; the largest change of log-probability first."""
    rows = [row for row in found.heads.to_pylist() if row["half"] == "both"]
    rows.sort(key=lambda row: (found.modes.index(row["mode"]), -abs(row["log_probability"])))
    header = ("mode", "head", "log-probability", "accuracy", "lost", "gained", "elsewhere")
    cells = tuple(
        (
            row["mode"],
            head_name(row["layer"], row["head"]),
            *(interval(row, name) for name in ("log_probability", "accuracy")),
            row["lost"],
            row["gained"],
            interval(row, "elsewhere"),
        )
        for row in rows
    )
    return Table(name="head_effects", header=header, rows=cells)


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of sets by ranking and dose."""
    return sorted(rows, key=lambda row: (row["by"] != "log_probability", RANKINGS.index(row["ranking"]), row["dose"]))


def ablation_record(found: Ablation) -> dict[str, Any]:
    """Findings, counts and tables, as JSON holds them; figures that do not exist are null."""
    return {
        "findings": ablation_findings(found),
        "counts": dict(found.counts),
        "heads": found.heads.to_pylist(),
        "reliability": found.reliability.to_pylist(),
        "sets": found.sets.to_pylist(),
        "tasks": found.tasks.to_pylist(),
    }
