"""Forecasts judged: the tables of the predict stage, from what models said and what was correct.

Axes: n prompts, r resamples.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray

from apmae.analyze.answers import Answers, Drawn
from apmae.analyze.judging import (
    accuracy,
    brier,
    calibration,
    chance_error,
    coverage,
    file_weights,
    interval,
    refitting,
    stratified_auroc,
    widened,
)
from apmae.analyze.prediction import STRONGEST, Forecast, Forecasts
from apmae.analyze.recalibration import at_rate
from apmae.config import PredictConfig
from apmae.schema import CALIBRATION, COVERAGE, PREDICTION, PREDICTION_TASKS


class Judged(NamedTuple):
    """The tables of ``schema`` of the same names."""

    prediction: pa.Table
    tasks: pa.Table
    calibration: pa.Table
    coverage: pa.Table


class _Figures(NamedTuple):
    """AUROC over pairs of a fold, within each task, and of left-out tasks; the first column as found, others drawn."""

    pooled: Float[ndarray, " r"]
    task: Float[ndarray, "t r"]
    transfer: Float[ndarray, "t r"]


def judge(answers: Answers, found: Forecasts, drawn: Drawn, config: PredictConfig) -> Judged:
    """Tables of how good forecasts are.

    Args:
        answers: the prompts.
        found: what models said of them.
        drawn: how prompts were chosen by outcome, for figures at the natural rate.
        config: resamples, bins, seed.
    """
    weights = np.column_stack(
        [np.ones(len(answers.prompt)), file_weights(answers.group, config.resamples, config.seed)]
    )
    figures = {name: _figures(answers, found, own, weights) for name, own in found.by_name.items()}
    reference, added = figures[STRONGEST], sum(own.kind == "added" for own in found.by_name.values())
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in Judged._fields}
    for name, own in found.by_name.items():
        rows["prediction"].append(_row(name, own, found, figures[name], reference, added, answers, drawn, config))
        rows["tasks"] += _task_rows(name, figures[name], reference, answers, _wide(own, found))
        for recalibrated, values in ((False, own.probability), (True, own.recalibrated)):
            curve = calibration(values, answers.correct, config.bins)
            rows["calibration"] += [
                {
                    "features": name,
                    "recalibrated": recalibrated,
                    "bin": number,
                    "prompts": int(prompts),
                    "probability": mean,
                    "correct": share,
                }
                for number, (prompts, mean, share) in enumerate(zip(*curve, strict=True))
            ]
        rows["coverage"] += [
            dict(zip(COVERAGE.names, (name, *values), strict=True))
            for values in coverage(own.recalibrated, answers.correct)
        ]
    schemas = (PREDICTION, PREDICTION_TASKS, CALIBRATION, COVERAGE)
    return Judged(
        *(pa.Table.from_pylist(own, schema=schema) for own, schema in zip(rows.values(), schemas, strict=True))
    )


def _figures(answers: Answers, found: Forecasts, own: Forecast, weights: Float[ndarray, "n r"]) -> _Figures:
    pooled = stratified_auroc(own.decision, answers.correct, found.fold, weights)
    task, transfer = [], []
    for number in range(len(answers.tasks)):
        rows = answers.task == number
        task.append(stratified_auroc(own.decision[rows], answers.correct[rows], found.fold[rows], weights[rows]))
        rows &= np.isfinite(own.transferred)
        transfer.append(stratified_auroc(own.transferred[rows], answers.correct[rows], found.fold[rows], weights[rows]))
    return _Figures(pooled, np.stack(task), np.stack(transfer))


def _row(
    name: str,
    own: Forecast,
    found: Forecasts,
    figures: _Figures,
    reference: _Figures,
    added: int,
    answers: Answers,
    drawn: Drawn,
    config: PredictConfig,
) -> dict[str, Any]:
    correct = answers.correct
    low, high = (None, None)
    if own.kind == "added":
        low, high = map(_plain, interval((figures.pooled - reference.pooled)[1:], added))
    wide = _wide(own, found)
    delta = figures.pooled - reference.pooled
    return {
        "features": name,
        "kind": own.kind,
        "models": own.models,
        **_with_interval("auroc", figures.pooled, wide),
        **_with_interval("within_task", _mean(figures.task), wide),
        **(_none("delta") if name == STRONGEST else _with_interval("delta", delta, wide, -1)),
        "delta_all_low": low,
        "delta_all_high": high,
        **_with_interval("transfer", _mean(figures.transfer), wide),
        "accuracy": accuracy(own.recalibrated, correct),
        "brier": brier(own.recalibrated, correct),
        "brier_raw": brier(own.probability, correct),
        "calibration_error": calibration(own.recalibrated, correct, config.bins).error,
        "calibration_error_raw": calibration(own.probability, correct, config.bins).error,
        "calibration_error_chance": chance_error(own.recalibrated, config.bins, config.seed),
        **_natural(own, found, answers, drawn),
        "chosen": own.chosen,
        "with_heads": own.with_heads,
    }


def _natural(own: Forecast, found: Forecasts, answers: Answers, drawn: Drawn) -> dict[str, float | None]:
    """AUROC, accuracy and Brier score if the prompts of each task were correct as often as when the model was asked.

    Correct and incorrect prompts are weighted, and log-odds move by as much as the rate's. Tasks keep their shares. If
    the rates of single tasks are not known, that of all is taken for each.
    """
    correct, tasks = answers.correct, len(answers.tasks)
    if drawn.natural is None or not 0 < drawn.natural < 1:
        return dict.fromkeys(("natural_auroc", "natural_accuracy", "natural_brier"))
    asked = np.maximum(np.bincount(answers.task, minlength=tasks), 1)
    share = (np.bincount(answers.task, correct, tasks) / asked)[answers.task]
    rate = share
    if drawn.how == "balanced":
        rate = np.array([drawn.by_task.get(task, drawn.natural) for task in answers.tasks])[answers.task]
    moved = at_rate(own.recalibrated, share, rate)
    weights = np.where(correct, rate / share, (1 - rate) / (1 - share))
    move = np.log(rate / (1 - rate)) - np.log(share / (1 - share))
    decision = own.decision + move  # in one step: rounding would break ties
    auroc = stratified_auroc(decision, correct, found.fold, weights[:, None])
    return {
        "natural_auroc": _plain(float(auroc[0])),
        "natural_accuracy": accuracy(moved, correct, weights),
        "natural_brier": brier(moved, correct, weights),
    }


def _wide(own: Forecast, found: Forecasts) -> float:
    """How often wider intervals are. Of heads alone, models have many columns and vary with the files that they are
    fitted on; those without attention vary little, and beside a baseline heads that are of no use are left out.
    """
    return refitting(int(found.fold.max()) + 1) if own.kind == "heads" else 1.0


def _task_rows(
    name: str, figures: _Figures, reference: _Figures, answers: Answers, wide: float
) -> list[dict[str, Any]]:
    rows = []
    for number, task in enumerate(answers.tasks):
        own = answers.task == number
        delta = _none("delta")
        if name != STRONGEST:
            delta = _with_interval("delta", figures.task[number] - reference.task[number], wide, -1)
        rows.append(
            {
                "features": name,
                "task": task,
                "prompts": int(own.sum()),
                "files": len(np.unique(answers.group[own])),
                "correct": int(answers.correct[own].sum()),
                **_with_interval("auroc", figures.task[number], wide),
                **delta,
                **_with_interval("transfer", figures.transfer[number], wide),
            }
        )
    return rows


def _mean(figures: Float[ndarray, "t r"]) -> Float[ndarray, " r"]:
    """Mean over tasks that have the figure; NaN if none has it."""
    there = np.isfinite(figures)
    many = there.sum(0)
    return np.where(many > 0, np.where(there, figures, 0).sum(0) / np.maximum(many, 1), np.nan)


def _with_interval(
    name: str, values: Float[ndarray, " r"], wide: float = 1.0, lowest: float = 0.0
) -> dict[str, float | None]:
    low, high = widened(values, wide, lowest=lowest)
    return {name: _plain(float(values[0])), f"{name}_low": _plain(low), f"{name}_high": _plain(high)}


def _none(name: str) -> dict[str, float | None]:
    return dict.fromkeys((name, f"{name}_low", f"{name}_high"))


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
