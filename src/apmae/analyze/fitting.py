"""Models fitted on some prompts to predict the others: setting, model and correction are chosen there.

Axes: n prompts, m fitting prompts, v other prompts, c columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze import boosting, sparse_logistic
from apmae.analyze.columns import Columns, Design, design
from apmae.analyze.forest import Forest
from apmae.analyze.recalibration import Recalibration, recalibration_of
from apmae.analyze.sparse_logistic import Line, sigmoid

LOGISTIC = "logistic"
TREES = {"histogram": "trees", "catboost": "CatBoost"}
"""Names of the models; those of ``PredictConfig.trees`` by what they are called there."""

CORE = (LOGISTIC, TREES["histogram"])
"""Models that need no extra, and can be saved as plain arrays."""

_MODELS: dict[str, Callable[..., Mapping[Any, Float[ndarray, " n"]]]] = {
    LOGISTIC: sparse_logistic.decisions,
    TREES["histogram"]: boosting.histogram,
    TREES["catboost"]: boosting.catboost,
}


class Choice(NamedTuple):
    """The setting of a model that is best within the fitting split."""

    model: str
    setting: Any
    loss: float
    """Mean log loss within the fitting split, out of fold."""
    recalibration: Recalibration


class Fitted(NamedTuple):
    """What a model says of prompts that it was not fitted on."""

    decision: Float[ndarray, " v"]
    """Log-odds of correct."""
    probability: Float[ndarray, " v"]
    recalibrated: Float[ndarray, " v"]


def choose(
    models: Sequence[str],
    columns: Callable[[Bool[ndarray, " n"]], Columns],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    part: Int[ndarray, " n"],
    most: int,
    recalibration: str,
) -> list[Choice]:
    """Choose a setting of each model on the fitting split.

    Args:
        models: names, such as ``LOGISTIC``.
        columns: of the models, by which prompts are fitted.
        correct: the outcome.
        fit: which prompts are fitted.
        part: parts of the fitting split among which the setting is chosen.
        most: columns of heads to pick.
        recalibration: "platt" or "isotonic".
    """
    inner: dict[str, dict[Any, Float[ndarray, " n"]]] = {model: {} for model in models}
    for number in np.unique(part[fit]):
        own = fit & (part != number)
        made: Design = design(columns(own), correct, own, most)
        left = fit & ~own
        for model, found in inner.items():
            for setting, decision in _MODELS[model](made, correct, own).items():
                found.setdefault(setting, np.zeros(len(correct)))[left] = decision[left]
    chosen = []
    for model, found in inner.items():
        losses = {setting: _log_loss(decision[fit], correct[fit]) for setting, decision in found.items()}
        best = min(losses, key=lambda setting, losses=losses: (losses[setting], setting))
        chosen.append(
            Choice(model, best, losses[best], recalibration_of(found[best][fit], correct[fit], recalibration))
        )
    return chosen


def stronger(choices: Sequence[Choice]) -> Choice:
    """The choice with the lowest loss; of equal ones the first."""
    return min(choices, key=lambda choice: choice.loss)


def fit_chosen(
    choice: Choice,
    columns: Callable[[Bool[ndarray, " n"]], Columns],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
) -> Fitted:
    """Fit the whole split at what was chosen, and predict all other prompts; arguments as for :func:`choose`."""
    decision = fit_at(choice, columns, correct, fit, most)[~fit]
    return Fitted(decision, sigmoid(decision), choice.recalibration.of(decision))


def fit_at(
    choice: Choice,
    columns: Callable[[Bool[ndarray, " n"]], Columns],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
) -> Float[ndarray, " n"]:
    """Log-odds of all prompts by a model of some at what was chosen; arguments as for :func:`choose`."""
    made = design(columns(fit), correct, fit, most)
    return _MODELS[choice.model](made, correct, fit, [choice.setting])[choice.setting]


def model_at(
    choice: Choice, matrix: Float[ndarray, "n c"], correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"]
) -> Line | Forest:
    """A model of ``CORE`` fitted at what was chosen.

    Args:
        choice: of columns that are all plain ones.
        matrix: those columns, standardised.
        correct: the outcome.
        fit: which prompts are fitted.
    """
    if choice.model == LOGISTIC:
        return sparse_logistic.line_of(matrix, correct, fit, choice.setting.inverse)
    return boosting.forest_at(matrix, correct, fit, choice.setting)


def _log_loss(decision: Float[ndarray, " m"], correct: Bool[ndarray, " m"]) -> float:
    return float(np.logaddexp(0, np.where(correct, -decision, decision)).mean())
