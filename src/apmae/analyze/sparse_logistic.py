"""Logistic regression with an L1 penalty.

Axes: n prompts, c columns.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.columns import Design

PENALTIES = (1.5, 5.0, 15.0, 50.0, 200.0)
"""Inverse penalties to choose from, in units of the smallest that leaves a column in."""
WEIGHTS = (0.1, 1.0)
"""Scales to choose from of the columns of heads beside baselines: 0.1 is a penalty ten times as hard."""
_EDGE = 1e-6
_STEPS = 1000


class Penalised(NamedTuple):
    """A setting of the model."""

    weight: float
    """Of the columns of heads, one of ``WEIGHTS`` beside plain ones."""
    inverse: float
    """One of ``PENALTIES``."""

    def __str__(self) -> str:
        return f"inverse penalty {self.inverse:g}" + (f", heads weigh {self.weight:g}" if self.weight != 1 else "")


class Line(NamedTuple):
    """A fitted model: log-odds are ``columns @ slope + intercept``."""

    slope: Float[ndarray, " c"]
    intercept: float

    def of(self, matrix: Float[ndarray, "n c"]) -> Float[ndarray, " n"]:
        """Log-odds."""
        return matrix @ self.slope + self.intercept


def decisions(
    design: Design, correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], settings: Sequence[Penalised] = ()
) -> dict[Penalised, Float[ndarray, " n"]]:
    """Log-odds of all prompts by setting; without settings, of all that are to choose from."""
    weights = WEIGHTS if design.beside else (1.0,)
    found = {}
    for setting in settings or [Penalised(weight, inverse) for weight in weights for inverse in PENALTIES]:
        matrix = np.concatenate([design.plain, setting.weight * design.heads], axis=1)
        found[setting] = line_of(matrix, correct, fit, setting.inverse).of(matrix)
    return found


def line_of(
    matrix: Float[ndarray, "n c"], correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], inverse: float
) -> Line:
    """Fit standardised columns; without any that goes with the outcome, the share that is correct.

    Args:
        matrix: standardised columns.
        correct: the outcome.
        fit: which prompts are fitted.
        inverse: one of ``PENALTIES``.
    """
    rate = float(correct[fit].mean())
    largest = np.abs(matrix[fit].T @ (correct[fit] - rate)).max(initial=0.0)
    if largest < 1e-9 or rate in (0, 1):
        return Line(np.zeros(matrix.shape[1]), logit(rate))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        l1_ratio=1, solver="liblinear", C=inverse / largest, intercept_scaling=10, max_iter=_STEPS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the weakest penalty; it is chosen only if it is best
        model.fit(matrix[fit], correct[fit])
    return Line(np.asarray(model.coef_[0], np.float64), float(np.ravel(model.intercept_)[0]))


def sigmoid(decision: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Probability of log-odds."""
    return 1 / (1 + np.exp(-np.clip(decision, -500, 500)))


def logit(probability: float) -> float:
    """Log-odds of a probability, which is kept off 0 and 1."""
    kept = min(max(probability, _EDGE), 1 - _EDGE)
    return float(np.log(kept / (1 - kept)))
