"""What can be said of predicted outcomes, in words; reads ``schema.PREDICTION`` and what the stage counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from apmae.analyze.answer_features import STATE
from apmae.report.tables import Table

FORMAT, VERSION = "apmae.prediction", 1
"""What the JSON says of itself."""
_FEW = 1000
"""Prompts below which a line says that they are few."""
_FEW_GROUPS = 20
"""The same of groups of files: with 20 of them 4 % of intervals lie above a known truth instead of 2.5 %, with 5 21 %
(``docs/studies/prediction.md``)."""


class Prediction(NamedTuple):
    """What the predict stage made."""

    sets: pa.Table
    """``schema.PREDICTION``."""
    tasks: pa.Table
    """``schema.PREDICTION_TASKS``."""
    counts: Mapping[str, Any]
    """Of the manifest: prompts, files, left out, how outcomes were drawn."""

    @property
    def digits(self) -> int:
        """Decimals that as many prompts are worth."""
        return 2 if self.counts["prompts"] < _FEW else 3


def prediction_findings(found: Prediction) -> list[str]:
    """What the tables allow to be said, a sentence or two each."""
    rows, digits = found.sets.to_pylist(), found.digits
    strongest = next(row for row in rows if row["features"] == "strongest baseline")
    lines = [_reference(strongest, digits)]
    lines += [_verdict(row) for row in rows if row["kind"] == "added"]
    if alone := [row["auroc"] for row in rows if row["kind"] == "heads" and row["features"] != STATE]:
        lines.append(f"Heads alone: AUROC {min(alone):.{digits}f} to {max(alone):.{digits}f}, by the set of columns.")
    return [*lines, *_about(found.counts), *_few(found.counts, strongest)]


def prediction_table(found: Prediction) -> Table:
    """How well each set of features predicts the outcome; intervals in brackets."""
    digits = found.digits

    def cell(row: Mapping[str, Any], name: str, sign: str = "", *, interval: bool = False) -> str:
        return "" if row[name] is None else figure(row, name, digits, sign, interval=interval)

    rows = [
        (
            row["features"],
            models_of(row),
            cell(row, "auroc", interval=True),
            cell(row, "within_task"),
            "not used" if row["kind"] == "added" and not row["with_heads"] else cell(row, "delta", "+", interval=True),
            "" if row["kind"] == "baseline" else f"{row['with_heads']} of {len(row['models'])}",
            cell(row, "transfer"),
            cell(row, "accuracy"),
            cell(row, "brier"),
            f"{cell(row, 'calibration_error')} ({row['calibration_error_chance']:.{digits}f})",
        )
        for row in found.sets.to_pylist()
    ]
    header = ("features", "model", "AUROC", "within task", "beyond the baseline", "folds with heads", "other tasks")
    header += ("accuracy", "Brier", "calibration error (chance)")
    natural = [cell(row, "natural_auroc") for row in found.sets.to_pylist()]
    if any(natural):
        header += ("AUROC at natural rates",)
        rows = [(*row, own) for row, own in zip(rows, natural, strict=True)]
    return Table(name="prediction", header=header, rows=tuple(rows))


def figure(row: Mapping[str, Any], name: str, digits: int, sign: str = "", *, interval: bool = True) -> str:
    """A figure of a row, with its interval."""
    value, *bounds = (
        f"{row[part]:{sign}.{digits}f}" for part in (name, f"{name}_low", f"{name}_high")[: 1 + 2 * interval]
    )
    return f"{value} [{', '.join(bounds)}]" if interval else value


def _reference(row: Mapping[str, Any], digits: int) -> str:
    return (
        f"Without attention: AUROC {figure(row, 'auroc', digits)}, calibration error {row['calibration_error']:.3f} "
        f"({row['calibration_error_chance']:.3f} if every probability were right). The strongest baseline is chosen "
        f"where models are fitted: {counted(row['chosen'])}."
    )


def _verdict(row: Mapping[str, Any]) -> str:
    name, change = row["features"].removeprefix("baseline + "), figure(row, "delta", 3, "+")
    if not row["with_heads"]:
        return f"Not used: {name}. In no fold does it help within the fitting files, beside the strongest baseline."
    if row["delta_low"] == row["delta_high"] == 0:
        return f"No change from {name}: beside the strongest baseline, prompts keep their order."
    if row["delta_low"] > 0 >= row["delta_all_low"]:
        every = f"[{row['delta_all_low']:+.3f}, {row['delta_all_high']:+.3f}]"
        return (
            f"Perhaps a gain from {name}, beside the strongest baseline: {change} of AUROC; but {every} where the "
            "intervals of all sets of heads hold at once."
        )
    if row["delta_low"] > 0:
        return f"A gain in AUROC from {name}, beside the strongest baseline: {change}."
    if row["delta_high"] < 0:
        return f"A loss in AUROC from {name}, beside the strongest baseline: {change}."
    return f"No gain can be shown from {name}, beside the strongest baseline: {change} of AUROC."


def _about(counts: Mapping[str, Any]) -> list[str]:
    lines = []
    if counts["left_out"]:
        left = ", ".join(f"{reason.replace('_', ' ')} ({count})" for reason, count in counts["left_out"].items())
        lines.append(f"Prompts left out: {left}.")
    how, natural = counts["drawn"], counts["natural_rate"]
    if how == "balanced" and natural is not None:
        lines.append(
            f"Prompts were drawn half correct, half incorrect; of all that were asked {natural:.0%} were correct. "
            "AUROC, accuracy and Brier score at the rate of each task are in prediction.parquet."
        )
    elif how == "any" and natural is not None:
        lines.append(f"Prompts are at the model's own rate, {natural:.0%} correct.")
    else:
        lines.append("How prompts were chosen by outcome cannot be told, so neither can the model's own rate.")
    return lines


def _few(counts: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    lines = []
    if counts["prompts"] < _FEW:
        half = (row["auroc_high"] - row["auroc_low"]) / 2
        lines.append(
            f"{counts['prompts']} prompts of {counts['files']} files are few: an AUROC is known to about {half:.2f}, "
            "and what one head among many adds, a few hundredths, would seldom be seen."
        )
    if counts["groups"] < _FEW_GROUPS:
        lines.append(
            f"{counts['groups']} groups of files that share nothing are so few that intervals are too narrow and "
            "figures too high."
        )
    return lines


def prediction_record(found: Prediction) -> dict[str, Any]:
    """Findings, counts and both tables, as JSON holds them; figures that do not exist are null."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "findings": prediction_findings(found),
        "counts": dict(found.counts),
        "features": found.sets.to_pylist(),
        "tasks": found.tasks.to_pylist(),
    }


def models_of(row: Mapping[str, Any]) -> str:
    """What folds took, for a table: "logistic 3, trees 2"; a name alone if all took it."""
    counts = Counter(row["models"]).most_common()
    return counts[0][0] if len(counts) == 1 else ", ".join(f"{name} {count}" for name, count in counts)


def counted(chosen: Iterable[str]) -> str:
    """What folds took, the most frequent first: "margin (3 folds); tokens (2 folds)"; a name alone if all took it."""
    counts = Counter(chosen).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return "; ".join(f"{name} ({count} fold{'' if count == 1 else 's'})" for name, count in counts)
