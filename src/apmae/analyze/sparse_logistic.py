"""Logistic regression with an L1 penalty, its settings chosen and its probabilities corrected on the fitting split.

Axes: n prompts, c columns, m fitting prompts, v other prompts.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

PENALTIES = (1.5, 5.0, 15.0, 50.0, 200.0)
"""Inverse penalties to choose from, in units of the smallest that leaves a column in."""
WEIGHTS = (0.1, 1.0)
"""Scales to choose from of the columns of heads beside baselines: 0.1 is a penalty ten times as hard."""
_EDGE = 1e-6
_STEPS = 1000


class Columns(NamedTuple):
    """The columns of a model, for all prompts. They may depend on what is fitted."""

    plain: Float[ndarray, "n c"] | None
    """Columns that are always in."""
    heads: "Float[ndarray, 'n c'] | csc_matrix | None"
    """Columns of which some are picked where the model is fitted."""


class Fitted(NamedTuple):
    """What a model says of prompts that it was not fitted on."""

    decision: Float[ndarray, " v"]
    """Log-odds of correct."""
    probability: Float[ndarray, " v"]
    recalibrated: Float[ndarray, " v"]
    loss: float
    """Mean log loss within the fitting split, out of fold, at the setting chosen."""
    setting: "Setting"


class Setting(NamedTuple):
    """What is chosen on the fitting split."""

    weight: float
    """Of the columns of heads, one of ``WEIGHTS`` beside plain ones."""
    penalty: float
    """One of ``PENALTIES``."""


def fit_sparse(
    columns: Callable[[Bool[ndarray, " n"]], Columns],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    part: Int[ndarray, " n"],
    most: int,
    recalibration: str,
) -> Fitted:
    """Choose a setting on the fitting split, fit there, and predict all other prompts.

    Args:
        columns: of the model, by which prompts are fitted.
        correct: the outcome.
        fit: which prompts are fitted.
        part: parts of the fitting split among which the setting is chosen.
        most: columns of heads to pick.
        recalibration: "platt" or "isotonic".
    """
    inner: dict[Setting, Float[ndarray, " n"]] = {}
    for number in np.unique(part[fit]):
        own = fit & (part != number)
        for setting, decision in _decisions(columns(own), correct, own, most).items():
            inner.setdefault(setting, np.zeros(len(correct)))[fit & ~own] = decision[fit & ~own]
    losses = {setting: _log_loss(decision[fit], correct[fit]) for setting, decision in inner.items()}
    best = min(losses, key=lambda setting: (losses[setting], setting))
    decision = fit_at(best, columns, correct, fit, most)[~fit]
    corrected = recalibrate(inner[best][fit], correct[fit], decision, recalibration)
    return Fitted(decision, sigmoid(decision), corrected, losses[best], best)


def fit_at(
    setting: Setting,
    columns: Callable[[Bool[ndarray, " n"]], Columns],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
) -> Float[ndarray, " n"]:
    """Log-odds of all prompts by a model of some at a setting; arguments as for :func:`fit_sparse`."""
    return _decisions(columns(fit), correct, fit, most, [setting])[setting]


def recalibrate(
    decision: Float[ndarray, " m"], correct: Bool[ndarray, " m"], new: Float[ndarray, " v"], how: str
) -> Float[ndarray, " v"]:
    """Probabilities for new log-odds, from what was correct at others that are not of the model's own fit.

    Args:
        decision: log-odds that other models of the fitting split gave.
        correct: the outcomes.
        new: log-odds.
        how: "platt" (a line through the log-odds; Platt 1999) or "isotonic" (steps). Neither falls.
    """
    if how == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        made = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(decision, correct.astype(float))
        return np.asarray(made.predict(new))
    from sklearn.linear_model import LogisticRegression

    rate = float(correct.mean())
    if decision.std() > 1e-9 and 0 < rate < 1:
        line = LogisticRegression(C=1e3).fit(decision[:, None], correct)
        if line.coef_[0, 0] > 0:
            return np.asarray(line.predict_proba(new[:, None]))[:, 1]
    return np.full(len(new), rate)


def sigmoid(decision: Float[ndarray, " v"]) -> Float[ndarray, " v"]:
    """Probability of log-odds."""
    return 1 / (1 + np.exp(-np.clip(decision, -500, 500)))


def logit(probability: float) -> float:
    """Log-odds of a probability, which is kept off 0 and 1."""
    kept = min(max(probability, _EDGE), 1 - _EDGE)
    return float(np.log(kept / (1 - kept)))


def _decisions(
    columns: Columns,
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
    settings: Sequence[Setting] = (),
) -> dict[Setting, Float[ndarray, " n"]]:
    """Log-odds of all prompts by setting; without settings, of all that are to choose from."""
    plain = np.zeros((len(correct), 0)) if columns.plain is None else _standard(columns.plain, fit)
    heads = plain[:, :0] if columns.heads is None else _picked(columns.heads, plain, correct, fit, most)
    if not settings:
        weights = WEIGHTS if columns.plain is not None and columns.heads is not None else (1.0,)
        settings = [Setting(weight, penalty) for weight in weights for penalty in PENALTIES]
    rate = float(correct[fit].mean())
    found = {}
    for setting in settings:
        matrix = np.concatenate([plain, setting.weight * heads], axis=1)
        largest = np.abs(matrix[fit].T @ (correct[fit] - rate)).max(initial=0.0)
        if largest < 1e-9 or rate in (0, 1):
            found[setting] = np.full(len(correct), logit(rate))
        else:
            found[setting] = _logistic(matrix, correct, fit, setting.penalty / largest)
    return found


def _logistic(
    matrix: Float[ndarray, "n c"], correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], inverse: float
) -> Float[ndarray, " n"]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        l1_ratio=1, solver="liblinear", C=inverse, intercept_scaling=10, max_iter=_STEPS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the weakest penalty; it is chosen only if it is best
        model.fit(matrix[fit], correct[fit])
    return np.asarray(model.decision_function(matrix))


def _picked(
    heads: "Float[ndarray, 'n c'] | csc_matrix",
    plain: Float[ndarray, "n b"],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
) -> Float[ndarray, "n c2"]:
    """The columns that go most with what the plain ones leave of the outcome, standardised (Fan and Lv 2008)."""
    left = correct[fit] - correct[fit].mean()
    if plain.shape[1]:
        left = left - plain[fit] @ np.linalg.lstsq(plain[fit], left, rcond=None)[0]
        left = left - left.mean()
    if isinstance(heads, ndarray):
        matrix = _standard(heads, fit)
        return matrix[:, _largest(np.abs(matrix[fit].T @ left), most)]
    own = heads[fit]
    mean = np.asarray(own.mean(0), np.float64).ravel()
    spread = np.sqrt(np.maximum(mean * (1 - mean), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        together = np.where(spread > 1e-6, np.abs(np.asarray(own.T @ left).ravel()) / spread, 0.0)
    return _standard(np.asarray(heads[:, _largest(together, most)].todense(), np.float64), fit)


def _largest(values: Float[ndarray, " c"], most: int) -> Int[ndarray, " k"]:
    return np.sort(np.argsort(-values, kind="stable")[:most])


def _standard(values: Float[ndarray, "n c"], fit: Bool[ndarray, " n"]) -> Float[ndarray, "n c2"]:
    """Columns with the fitting prompts' mean 0 and s.d. 1; missing values are the mean, constant columns left out."""
    own = values[fit]
    there = np.isfinite(own)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, own, 0).sum(0, dtype=np.float64) / count
    spread = np.sqrt(np.where(there, (own - mean) ** 2, 0).sum(0, dtype=np.float64) / count)
    kept = spread > 1e-9 * np.maximum(np.abs(mean), 1)
    made = (values[:, kept] - mean[kept]) / spread[kept]
    return np.clip(np.where(np.isfinite(made), made, 0.0), -10, 10)


def _log_loss(decision: Float[ndarray, " m"], correct: Bool[ndarray, " m"]) -> float:
    return float(np.logaddexp(0, np.where(correct, -decision, decision)).mean())
