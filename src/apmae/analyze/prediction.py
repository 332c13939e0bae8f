"""Will the answer be right? What heads say of it, beside and beyond what can be known without attention.

Every prompt is predicted by models of other files; settings are chosen on the files that are fitted. Axes: n prompts,
c columns.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers
from apmae.analyze.columns import Columns
from apmae.analyze.fitting import CORE, LOGISTIC, TREES, Choice, Fitted, choose, fit_at, fit_chosen, stronger
from apmae.analyze.folds import folds_of
from apmae.analyze.sparse_logistic import logit, sigmoid
from apmae.analyze.surface import Plain
from apmae.config import PredictConfig
from apmae.errors import ConfigError
from apmae.schema import FITS, FORECASTS

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

    HeadColumns = Float[ndarray, "n c"] | csc_matrix

BASELINES: dict[str, tuple[str, ...]] = {
    "max-probability": ("max_probability",),
    "entropy": ("entropy",),
    "margin": ("margin",),
    "length": ("length",),
    "tokens": ("tokens",),
    "context": ("context",),
    "probabilities": ("probabilities",),
    "probabilities, tokens": ("probabilities", "tokens"),
    "all baselines": ("probabilities", "length", "tokens", "context"),
}
"""Sets of features without attention, by name; "probabilities" are with the task and its interactions."""
MAJORITY, STRONGEST, PREDICTOR = "majority per task", "strongest baseline", "saved predictor"
"""The share of the task that is correct; the baseline that is best within the fitting split, in every split; the same
without CatBoost, which is what is saved."""
SHARE = "share of the task"
"""The model of the majority."""
_FEWEST = 10
"""Prompts of other tasks that a model for a left-out task needs."""


class Forecast(NamedTuple):
    """What models say of every prompt, none of them fitted on its file."""

    kind: str
    """"baseline", "heads" or "added"."""
    decision: Float[ndarray, " n"]
    """Log-odds of correct; those of different folds come of different models."""
    probability: Float[ndarray, " n"]
    recalibrated: Float[ndarray, " n"]
    transferred: Float[ndarray, " n"]
    """Log-odds by models fitted on the other tasks of other files; NaN if these have too few prompts."""
    models: list[str]
    """The model that each fold took."""
    chosen: list[str]
    """The baseline that each fold took; empty where there is no choice."""
    with_heads: int
    """Folds whose model has columns of heads; beside a baseline they are left out where they are of no use."""


class Forecasts(NamedTuple):
    """Forecasts by the name of their features, and the fold of each prompt."""

    by_name: dict[str, Forecast]
    fold: Int[ndarray, " n"]


class _Made(NamedTuple):
    """What is said of one fold from one set of features."""

    fitted: Fitted
    transferred: Float[ndarray, " n"]
    choice: Choice | None
    """None: there is nothing to choose."""
    baseline: str | None
    """That it builds on; None if it is none of a choice."""
    heads: bool
    """Whether columns of heads are in."""


def folds(answers: Answers, config: PredictConfig) -> Int[ndarray, " n"]:
    """The fold of each prompt, from 0; no file is in two."""
    return folds_of(answers.group, answers.task, config.folds, config.seed, "folds")


def expect_both_outcomes(answers: Answers, fold: Int[ndarray, " n"]) -> None:
    """Refuse prompts of which no fold has a correct and an incorrect one, so that nothing can be compared.

    Raises:
        ConfigError: if that is so.
    """
    both = np.intersect1d(fold[answers.correct], fold[~answers.correct])
    if not len(both):
        raise ConfigError(
            f"expected correct and incorrect prompts in one of the {int(fold.max()) + 1} parts of the files, found "
            "none: each file has one outcome alone; take fewer folds, or encode more prompts per file"
        )


def plain_columns(answers: Answers, config: PredictConfig) -> Plain:
    """The columns without attention; token statistics have one part more than choices."""
    return Plain(answers, config.choice_folds + 1, config.seed)


def forecast(
    answers: Answers, heads: Mapping[str, "HeadColumns | list[Float[ndarray, 'n c']]"], config: PredictConfig
) -> Forecasts:
    """Predict every prompt from every set of features.

    Args:
        answers: the prompts.
        heads: columns of heads by name, one matrix for all folds or one for each of :func:`folds`, made of the others.
        config: folds, columns, trees, recalibration, seed.
    """
    plain, fold = plain_columns(answers, config), folds(answers, config)
    made = []
    for number in range(int(fold.max()) + 1):
        own = {name: found[number] if isinstance(found, list) else found for name, found in heads.items()}
        made.append(forecast_fold(answers, plain, own, fold, number, config))
    forecasts, fits = (pa.concat_tables(tables) for tables in zip(*made, strict=True))
    return assemble(answers, forecasts, fits)


def forecast_fold(
    answers: Answers,
    plain: Plain,
    heads: Mapping[str, "HeadColumns"],
    fold: Int[ndarray, " n"],
    number: int,
    config: PredictConfig,
) -> tuple[pa.Table, pa.Table]:
    """Predict the prompts of one fold from every set of features.

    Args:
        answers: the prompts.
        plain: their columns without attention.
        heads: columns of heads by name; where they depend on what is fitted, those of this fold.
        fold: of each prompt.
        number: of the fold.
        config: columns, trees, recalibration, seed.

    Returns:
        ``schema.FORECASTS`` and ``schema.FITS`` of the fold.
    """
    test = fold == number
    kinds = dict.fromkeys(heads, "heads") | {added(name): "added" for name in heads}
    forecasts: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    for name, made in _fold(answers, ~test, number, plain, heads, config).items():
        columns = (*made.fitted, made.transferred[test])
        for prompt, *values in zip(answers.prompt[test].tolist(), *(own.tolist() for own in columns), strict=True):
            row = (name, prompt, number, *(value if np.isfinite(value) else None for value in values))
            forecasts.append(dict(zip(FORECASTS.names, row, strict=True)))
        choice, kind = made.choice, kinds.get(name, "baseline")
        fits.append(
            {
                "features": name,
                "fold": number,
                "kind": kind,
                "model": SHARE if choice is None else choice.model,
                "setting": "" if choice is None else str(choice.setting),
                "loss": None if choice is None else choice.loss,
                "baseline": made.baseline,
                "heads": made.heads,
            }
        )
    return pa.Table.from_pylist(forecasts, schema=FORECASTS), pa.Table.from_pylist(fits, schema=FITS)


def assemble(answers: Answers, forecasts: pa.Table, fits: pa.Table) -> Forecasts:
    """What was said of each fold, put together.

    Args:
        answers: the prompts.
        forecasts: of all folds, in their order.
        fits: likewise.
    """
    by_name: dict[str, Forecast] = {}
    fold = np.zeros(len(answers.prompt), np.int64)
    names = np.array(forecasts["features"].to_pylist(), dtype=object)
    for name in dict.fromkeys(names.tolist()):
        own = forecasts.filter(pa.array(names == name))
        row = np.searchsorted(answers.prompt, own["prompt"].to_numpy())
        decision, probability, recalibrated, transferred = np.full((4, len(answers.prompt)), np.nan)
        for part, column in (
            ("decision", decision),
            ("probability", probability),
            ("recalibrated", recalibrated),
            ("transferred", transferred),
        ):
            column[row] = own[part].to_numpy()
        fold[row] = own["fold"].to_numpy()
        took = [entry for entry in fits.to_pylist() if entry["features"] == name]
        chosen = [entry["baseline"] for entry in took if entry["baseline"] is not None]
        models, with_heads = [entry["model"] for entry in took], sum(entry["heads"] for entry in took)
        by_name[name] = Forecast(
            took[0]["kind"], decision, probability, recalibrated, transferred, models, chosen, with_heads
        )
    return Forecasts(by_name, fold)


def added(name: str) -> str:
    """The name of the features that a set of heads makes together with the strongest baseline."""
    return f"baseline + {name}"


def parts_of(answers: Answers, fit: Bool[ndarray, " n"], config: PredictConfig, name: object) -> Int[ndarray, " n"]:
    """Parts of what is fitted that share no file; if it is all one file, parts of its prompts.

    Args:
        answers: the prompts.
        fit: which are fitted.
        config: parts, seed.
        name: of what is fitted, for the draw.
    """
    group = answers.group if len(np.unique(answers.group[fit])) > 1 else np.arange(len(fit))
    part = np.full(len(fit), -1)
    part[fit] = folds_of(group[fit], answers.task[fit], config.choice_folds, config.seed, "choice", name)
    return part


def _fold(
    answers: Answers,
    fit: Bool[ndarray, " n"],
    number: int,
    plain: Plain,
    heads: Mapping[str, "HeadColumns"],
    config: PredictConfig,
) -> dict[str, _Made]:
    """What is predicted of one fold by each set of features, also from other tasks."""
    part, models = parts_of(answers, fit, config, number), (LOGISTIC, *(TREES[name] for name in config.trees))

    def columns(names: tuple[str, ...], own: "HeadColumns | None") -> Callable[[Bool[ndarray, " n"]], Columns]:
        return lambda rows: Columns(plain.columns(names, rows) if names else None, own)

    def chosen(names: tuple[str, ...], own: "HeadColumns | None") -> list[Choice]:
        made = columns(names, own)
        return choose(models, made, answers.correct, fit, part, config.columns, config.recalibration)

    def made(names: tuple[str, ...], own: "HeadColumns | None", choice: Choice, baseline: str | None = None) -> _Made:
        given = columns(names, own)
        fitted = fit_chosen(choice, given, answers.correct, fit, config.columns)
        transferred = np.full(len(fit), np.nan)
        for task, others in _transfers(answers, fit):
            decision = fit_at(choice, given, answers.correct, others, config.columns)
            transferred[answers.task == task] = decision[answers.task == task]
        return _Made(fitted, transferred, choice, baseline, own is not None)

    choices = {name: chosen(names, None) for name, names in BASELINES.items()}
    found = {MAJORITY: _majority(answers, fit)}
    found |= {name: made(names, None, stronger(choices[name])) for name, names in BASELINES.items()}
    best = min(BASELINES, key=lambda name: stronger(choices[name]).loss)
    found[STRONGEST] = found[best]._replace(baseline=best)
    core = {name: stronger([one for one in own if one.model in CORE]) for name, own in choices.items()}
    saved = min(BASELINES, key=lambda name: core[name].loss)
    found[PREDICTOR] = found[STRONGEST]
    if core[saved] is not stronger(choices[best]):
        found[PREDICTOR] = made(BASELINES[saved], None, core[saved], saved)
    found |= {name: made((), own, stronger(chosen((), own))) for name, own in heads.items()}
    bare = stronger(choices[best])
    for name, own in heads.items():
        with_heads = stronger(chosen(BASELINES[best], own))
        # else a model that only leaves the heads out better would look like a gain from them
        taken = with_heads.loss < bare.loss
        found[added(name)] = made(BASELINES[best], own, with_heads, best) if taken else found[STRONGEST]
    return found


def _transfers(answers: Answers, fit: Bool[ndarray, " n"]) -> Iterator[tuple[int, Bool[ndarray, " n"]]]:
    """Tasks to leave out, each with the prompts of the others that are fitted instead, if they are enough."""
    for task in range(len(answers.tasks)):
        others = fit & (answers.task != task)
        if others.sum() >= _FEWEST and len(np.unique(answers.correct[others])) == 2:
            yield task, others


def _majority(answers: Answers, fit: Bool[ndarray, " n"]) -> _Made:
    """The share correct of the task among fitted prompts; of a task that is not there, of all."""
    tasks = len(answers.tasks)
    seen = np.bincount(answers.task[fit], minlength=tasks)
    right = np.bincount(answers.task[fit], answers.correct[fit], tasks)
    rate = np.where(seen > 0, right / np.maximum(seen, 1), answers.correct[fit].mean())
    decision = np.array([logit(value) for value in rate])[answers.task[~fit]]
    transferred = np.full(len(fit), np.nan)
    for task, others in _transfers(answers, fit):
        transferred[answers.task == task] = logit(float(answers.correct[others].mean()))
    p = sigmoid(decision)
    return _Made(Fitted(decision, p, p), transferred, None, None, False)
