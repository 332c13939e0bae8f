"""Probabilities corrected by what was correct where they were said.

Axes: m prompts, v others, k numbers of a correction.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.sparse_logistic import logit, sigmoid


class Recalibration(NamedTuple):
    """How log-odds become probabilities. It never falls."""

    how: str
    """"platt" (a line through the log-odds; Platt 1999) or "isotonic" (straight pieces between points)."""
    at: Float[ndarray, " k"]
    """Slope and intercept of the line; or log-odds of the points."""
    probability: Float[ndarray, " k"]
    """At those points; none for a line."""

    def of(self, decision: Float[ndarray, " v"]) -> Float[ndarray, " v"]:
        """Probabilities of correct."""
        if self.how == "isotonic":
            return np.interp(decision, self.at, self.probability)
        return sigmoid(self.at[0] * decision + self.at[1])


def recalibration_of(decision: Float[ndarray, " m"], correct: Bool[ndarray, " m"], how: str) -> Recalibration:
    """Correct log-odds by outcomes of prompts that are not of the model's own fit.

    Args:
        decision: log-odds that other models of the fitting split gave.
        correct: the outcomes.
        how: "platt" or "isotonic".
    """
    if how == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        made = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(decision, correct.astype(float))
        return Recalibration(how, np.asarray(made.X_thresholds_), np.asarray(made.y_thresholds_))
    from sklearn.linear_model import LogisticRegression

    rate, line = float(correct.mean()), np.zeros(2)
    line[1] = logit(rate)
    if decision.std() > 1e-9 and 0 < rate < 1:
        model = LogisticRegression(C=1e3).fit(decision[:, None], correct)
        if model.coef_[0, 0] > 0:
            line = np.array([model.coef_[0, 0], model.intercept_[0]], np.float64)
    return Recalibration("platt", line, np.zeros(0))


def at_rate(
    probability: Float[ndarray, " v"], share: float | Float[ndarray, " v"], rate: float | Float[ndarray, " v"]
) -> Float[ndarray, " v"]:
    """Probabilities of correct where another share of prompts is: log-odds move by as much as the share's.

    Args:
        probability: where ``share`` is correct.
        share: of the prompts that models were fitted on, in (0, 1); one for all, or one for each.
        rate: of the others, in (0, 1), likewise.
    """
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return sigmoid(np.log(p / (1 - p)) + np.log(rate / (1 - rate)) - np.log(share / (1 - share)))
