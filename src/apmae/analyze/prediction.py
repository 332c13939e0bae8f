"""Will the answer be right? What heads say of it, beside and beyond what can be known without attention.

Every prompt is predicted by models of other files; settings are chosen on the files that are fitted. Axes: n prompts,
c columns.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers
from apmae.analyze.folds import folds_of
from apmae.analyze.sparse_logistic import PENALTIES, Columns, Fitted, Setting, fit_at, fit_sparse, logit, sigmoid
from apmae.analyze.surface import statistics_of, surface
from apmae.config import PredictConfig

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
MAJORITY, STRONGEST = "majority per task", "strongest baseline"
"""The share of the task that is correct; the baseline that is best within the fitting split, in every split."""
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
    chosen: list[str]
    """The baseline that each fold took; empty where there is no choice."""


class Forecasts(NamedTuple):
    """Forecasts by the name of their features, and the fold of each prompt."""

    by_name: dict[str, Forecast]
    fold: Int[ndarray, " n"]


def folds(answers: Answers, config: PredictConfig) -> Int[ndarray, " n"]:
    """The fold of each prompt, from 0; no file is in two."""
    return folds_of(answers.group, answers.task, config.folds, config.seed, "folds")


def forecast(
    answers: Answers,
    heads: Mapping[str, "HeadColumns | list[Float[ndarray, 'n c']]"],
    config: PredictConfig,
    tell: Callable[[str], None] = lambda _: None,
) -> Forecasts:
    """Predict every prompt from every set of features.

    Args:
        answers: the prompts.
        heads: columns of heads by name, one matrix for all folds or one for each of :func:`folds`, made of the others.
        config: folds, columns, recalibration, seed.
        tell: called before each fold.
    """
    fold = folds(answers, config)
    kinds = dict.fromkeys((MAJORITY, *BASELINES, STRONGEST), "baseline") | dict.fromkeys(heads, "heads")
    kinds |= {added(name): "added" for name in heads}
    made = {name: _empty(kind, len(answers.prompt)) for name, kind in kinds.items()}
    same = surface(answers)
    tokens = statistics_of(answers, config.choice_folds + 1, config.seed)

    def plain(names: tuple[str, ...], fit: Bool[ndarray, " n"]) -> Float[ndarray, "n c"]:
        return np.concatenate([tokens(fit) if name == "tokens" else same[name] for name in names], axis=1)

    for number in range(int(fold.max()) + 1):
        tell(f"fold {number + 1}")
        own = {name: found[number] if isinstance(found, list) else found for name, found in heads.items()}
        test = fold == number
        for name, (found, transferred, chosen) in _fold(answers, ~test, number, plain, own, config).items():
            made[name].decision[test] = found.decision
            made[name].probability[test] = found.probability
            made[name].recalibrated[test] = found.recalibrated
            made[name].transferred[test] = transferred[test]
            made[name].chosen.extend(chosen)
    return Forecasts(made, fold)


def added(name: str) -> str:
    """The name of the features that a set of heads makes together with the strongest baseline."""
    return f"baseline + {name}"


def _fold(
    answers: Answers,
    fit: Bool[ndarray, " n"],
    number: int,
    plain: Callable[[tuple[str, ...], Bool[ndarray, " n"]], Float[ndarray, "n c"]],
    heads: Mapping[str, "HeadColumns"],
    config: PredictConfig,
) -> dict[str, tuple[Fitted, Float[ndarray, " n"], list[str]]]:
    """By set of features: what is predicted of one fold, also from other tasks, and the baseline that it builds on."""
    part = _parts(answers, fit, config, number)

    def fitted(names: tuple[str, ...], own: "HeadColumns | None") -> tuple[Fitted, Float[ndarray, " n"]]:
        def columns(rows: Bool[ndarray, " n"]) -> Columns:
            return Columns(plain(names, rows) if names else None, own)

        found = fit_sparse(columns, answers.correct, fit, part, config.columns, config.recalibration)
        transferred = np.full(len(fit), np.nan)
        for task, others in _transfers(answers, fit):
            decision = fit_at(found.setting, columns, answers.correct, others, config.columns)
            transferred[answers.task == task] = decision[answers.task == task]
        return found, transferred

    found = {name: (*fitted(names, None), []) for name, names in BASELINES.items()}
    chosen = min(BASELINES, key=lambda name: found[name][0].loss)
    found[STRONGEST] = (*found[chosen][:2], [chosen])
    found[MAJORITY] = (*_majority(answers, fit), [])
    for name, own in heads.items():
        found[name] = (*fitted((), own), [])
        found[added(name)] = (*fitted(BASELINES[chosen], own), [chosen])
    return found


def _transfers(answers: Answers, fit: Bool[ndarray, " n"]) -> Iterator[tuple[int, Bool[ndarray, " n"]]]:
    """Tasks to leave out, each with the prompts of the others that are fitted instead, if they are enough."""
    for task in range(len(answers.tasks)):
        others = fit & (answers.task != task)
        if others.sum() >= _FEWEST and len(np.unique(answers.correct[others])) == 2:
            yield task, others


def _majority(answers: Answers, fit: Bool[ndarray, " n"]) -> tuple[Fitted, Float[ndarray, " n"]]:
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
    return Fitted(decision, p, p, np.nan, Setting(1.0, PENALTIES[0])), transferred


def _parts(answers: Answers, fit: Bool[ndarray, " n"], config: PredictConfig, number: int) -> Int[ndarray, " n"]:
    """Parts of what is fitted that share no file; if it is all one file, parts of its prompts."""
    group = answers.group if len(np.unique(answers.group[fit])) > 1 else np.arange(len(fit))
    part = np.full(len(fit), -1)
    part[fit] = folds_of(group[fit], answers.task[fit], config.choice_folds, config.seed, "choice", number)
    return part


def _empty(kind: str, count: int) -> Forecast:
    decision, probability, recalibrated, transferred = (np.full(count, np.nan) for _ in range(4))
    return Forecast(kind, decision, probability, recalibrated, transferred, [])
