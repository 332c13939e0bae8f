"""Will the answer be right? What heads say of it, beside and beyond what can be known without attention.

Every prompt is predicted by models of other files; settings are chosen on the files that are fitted. Axes: n prompts,
f splits, r resamples.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers
from apmae.analyze.folds import folds_of
from apmae.analyze.sparse_logistic import Columns, Fitted, fit_sparse, logit, sigmoid
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
"""Prompts of other tasks that a model for a left-out task is fitted on, at least."""


class Split(NamedTuple):
    """Prompts to fit and prompts to predict; neither shares a file with the other."""

    fit: Bool[ndarray, " n"]
    test: Bool[ndarray, " n"]


class Forecast(NamedTuple):
    """What models say of every prompt, none of them fitted on its file."""

    kind: str
    """"baseline", "heads" or "added"."""
    decision: Float[ndarray, " n"]
    """Log-odds of correct; those of different folds come of different models."""
    probability: Float[ndarray, " n"]
    recalibrated: Float[ndarray, " n"]
    transferred: Float[ndarray, " n"]
    """Log-odds by models fitted on the other tasks; NaN if there are none."""
    chosen: list[str]
    """The baseline that each fold took; empty where there is no choice."""


class Forecasts(NamedTuple):
    """Forecasts by the name of their features, and the fold of each prompt."""

    by_name: dict[str, Forecast]
    fold: Int[ndarray, " n"]


def splits_of(answers: Answers, config: PredictConfig) -> tuple[list[Split], list[Split], Int[ndarray, " n"]]:
    """Splits by file; splits by task and file, in the order of the tasks; and the fold of each prompt."""
    fold = folds_of(answers.group, _stratum(answers), config.folds, config.seed, "folds")
    by_file = [Split(fold != number, fold == number) for number in range(int(fold.max()) + 1)]
    by_task = []
    for number in range(len(answers.tasks) if config.transfer else 0):
        own = answers.task == number
        by_task.append(Split(~np.isin(answers.group, answers.group[own]), own))
    return by_file, by_task, fold


def forecast(
    answers: Answers,
    heads: Mapping[str, "HeadColumns | list[Float[ndarray, 'n c']]"],
    config: PredictConfig,
    tell: Callable[[str], None] = lambda _: None,
) -> Forecasts:
    """Predict every prompt from every set of features.

    Args:
        answers: the prompts.
        heads: columns of heads by name, one matrix for all splits or one for each of :func:`splits_of`, by file first.
        config: folds, columns, recalibration, seed.
        tell: called with what is fitted next, once per split.
    """
    by_file, by_task, fold = splits_of(answers, config)
    kinds = dict.fromkeys((MAJORITY, *BASELINES, STRONGEST), "baseline") | dict.fromkeys(heads, "heads")
    kinds |= {added(name): "added" for name in heads}
    made = {name: _empty(kind, len(answers.prompt)) for name, kind in kinds.items()}
    same = surface(answers)
    tokens = statistics_of(answers, config.choice_folds + 1, config.seed)

    def plain(names: tuple[str, ...], fit: Bool[ndarray, " n"]) -> Float[ndarray, "n c"]:
        return np.concatenate([tokens(fit) if name == "tokens" else same[name] for name in names], axis=1)

    for number, split in enumerate([*by_file, *by_task]):
        transfer = number >= len(by_file)
        tell(f"without {answers.tasks[number - len(by_file)]}" if transfer else f"fold {number + 1}")
        if transfer and not _enough(split, answers.correct):
            continue
        part = _parts(answers, split.fit, config, number)
        own = {name: found[number] if isinstance(found, list) else found for name, found in heads.items()}
        fitted, chosen = _fit_all(answers, split, part, plain, own, config)
        test = split.test[~split.fit]
        for name, found in fitted.items():
            target = made[name]
            if transfer:
                target.transferred[split.test] = found.decision[test]
                continue
            target.decision[split.test] = found.decision[test]
            target.probability[split.test] = found.probability[test]
            target.recalibrated[split.test] = found.recalibrated[test]
            if name == STRONGEST or kinds[name] == "added":
                target.chosen.append(chosen)
    return Forecasts(made, fold)


def added(name: str) -> str:
    """The name of the features that a set of heads makes together with the strongest baseline."""
    return f"baseline + {name}"


def _fit_all(
    answers: Answers,
    split: Split,
    part: Int[ndarray, " n"],
    plain: Callable[[tuple[str, ...], Bool[ndarray, " n"]], Float[ndarray, "n c"]],
    heads: Mapping[str, "HeadColumns"],
    config: PredictConfig,
) -> tuple[dict[str, Fitted], str]:
    """Every set of features on one split, and the baseline that was strongest within what is fitted."""

    def fit(names: tuple[str, ...] | None, own: "HeadColumns | None") -> Fitted:
        def columns(fitted: Bool[ndarray, " n"]) -> Columns:
            return Columns(None if names is None else plain(names, fitted), own)

        return fit_sparse(columns, answers.correct, split.fit, part, config.columns, config.recalibration)

    found = {name: fit(names, None) for name, names in BASELINES.items()}
    chosen = min(BASELINES, key=lambda name: found[name].loss)
    found[MAJORITY] = _majority(answers, split)
    found[STRONGEST] = found[chosen]
    for name, own in heads.items():
        found[name] = fit(None, own)
        found[added(name)] = fit(BASELINES[chosen], own)
    return found, chosen


def _majority(answers: Answers, split: Split) -> Fitted:
    """The share correct of the task among fitted prompts; of a task that is not there, of all."""
    tasks = len(answers.tasks)
    seen = np.bincount(answers.task[split.fit], minlength=tasks)
    right = np.bincount(answers.task[split.fit], answers.correct[split.fit], tasks)
    rate = np.where(seen > 0, right / np.maximum(seen, 1), answers.correct[split.fit].mean())
    decision = np.array([logit(value) for value in rate])[answers.task[~split.fit]]
    return Fitted(decision, sigmoid(decision), sigmoid(decision), np.nan)


def _parts(answers: Answers, fit: Bool[ndarray, " n"], config: PredictConfig, number: int) -> Int[ndarray, " n"]:
    """Parts of what is fitted that share no file; if it is all one file, parts of its prompts."""
    group = answers.group if len(np.unique(answers.group[fit])) > 1 else np.arange(len(fit))
    part = np.full(len(fit), -1)
    part[fit] = folds_of(group[fit], _stratum(answers)[fit], config.choice_folds, config.seed, "choice", number)
    return part


def _stratum(answers: Answers) -> Int[ndarray, " n"]:
    return answers.task * 2 + answers.correct


def _enough(split: Split, correct: Bool[ndarray, " n"]) -> bool:
    return int(split.fit.sum()) >= _FEWEST and len(np.unique(correct[split.fit])) == 2


def _empty(kind: str, count: int) -> Forecast:
    return Forecast(kind, *(np.full(count, np.nan) for _ in range(4)), [])
