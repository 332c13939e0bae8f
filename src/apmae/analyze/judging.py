"""How good predictions are: AUROC, Brier score, calibration, risk by coverage; with weights, for draws of files.

Axes: n prompts, r resamples (columns of weights), b bins.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.seeding import generator

_DRAWS = 200


class Bins(NamedTuple):
    """A calibration curve: bins of equally many prompts, in ascending order of probability."""

    prompts: Int[ndarray, " b"]
    probability: Float[ndarray, " b"]
    """Mean of the bin."""
    correct: Float[ndarray, " b"]
    """Share of the bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: how far the two are apart, mean over prompts, in [0, 1]."""
        apart = np.abs(self.probability - self.correct)
        return float(np.average(apart, weights=self.prompts))


def pairs(
    score: Float[ndarray, " n"], correct: Bool[ndarray, " n"], weights: Float[ndarray, "n r"]
) -> tuple[Float[ndarray, " r"], Float[ndarray, " r"]]:
    """Weighted pairs of a correct and an incorrect prompt: those in the right order (ties count half), and all.

    Their ratio is AUROC. Weights of a pair multiply, so a file drawn twice makes pairs with itself too.
    """
    _, place = np.unique(score, return_inverse=True)
    values = int(place.max(initial=-1)) + 1
    wrong = np.zeros((values, weights.shape[1]))
    np.add.at(wrong, place[~correct], weights[~correct])
    below = np.cumsum(wrong, axis=0) - wrong / 2
    right = weights[correct]
    return (right * below[place[correct]]).sum(0), right.sum(0) * wrong.sum(0)


def stratified_auroc(
    score: Float[ndarray, " n"],
    correct: Bool[ndarray, " n"],
    stratum: Int[ndarray, " n"],
    weights: Float[ndarray, "n r"] | None = None,
) -> Float[ndarray, " r"]:
    """AUROC over pairs of one stratum; NaN without any.

    Scores of different models are not on one scale: where each fold has a model of its own, the folds are strata.

    Args:
        score: larger where correct is more likely.
        correct: the outcome.
        stratum: what a pair must have in common.
        weights: of each prompt, a column per resample; None: one column of ones.
    """
    weights = np.ones((len(score), 1)) if weights is None else weights
    right, every = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for number in np.unique(stratum):
        own = stratum == number
        ordered, found = pairs(score[own], correct[own], weights[own])
        right, every = right + ordered, every + found
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(every > 0, right / every, np.nan)


def file_weights(group: Int[ndarray, " n"], resamples: int, seed: int) -> Float[ndarray, "n r"]:
    """How often each prompt is there if as many files are drawn with replacement."""
    many = int(group.max(initial=-1)) + 1
    columns = [
        np.bincount(generator(seed, "prediction", number).integers(many, size=many), minlength=many)
        for number in range(resamples)
    ]
    return np.stack(columns, axis=1)[group].astype(np.float64)


def interval(values: Float[ndarray, " r"], together: int = 1) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile over resamples; NaN if a figure is in none of them.

    Args:
        values: of each resample.
        together: how many such intervals should hold at once: the percentiles are that much further out (Bonferroni).
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    out = 2.5 / together
    low, high = np.percentile(values, [out, 100 - out])
    return float(low), float(high)


def widened(values: Float[ndarray, " r"], wide: float, lowest: float = 0.0) -> tuple[float, float]:
    """:func:`interval` of all but the first, its distances from the first multiplied, within ``lowest`` and 1.

    Args:
        values: the figure, then that of each resample.
        wide: how often wider; 1 leaves the interval as it is.
        lowest: that the figure can be.
    """
    low, high = interval(values[1:])
    if wide == 1 or not np.isfinite(values[0]):
        return low, high
    low, high = values[0] - wide * (values[0] - low), values[0] + wide * (high - values[0])
    return float(np.clip(low, lowest, 1)), float(np.clip(high, lowest, 1))


def refitting(folds: int) -> float:
    """How often wider an interval gets if models too vary with the files that they are fitted on.

    Draws of the tested files alone see a share ``1 / folds`` of a variance that is ``1 / folds + tested / fitted``,
    because folds are fitted on one another's outcomes (corrected resampled variance: Nadeau and Bengio 2003,
    "Inference for the generalization error", section 3).
    """
    return float(np.sqrt(1 + folds / (folds - 1)))


def brier(
    probability: Float[ndarray, " n"], correct: Bool[ndarray, " n"], weights: Float[ndarray, " n"] | None = None
) -> float:
    """Mean squared distance of the probability of correct from the outcome, in [0, 1]."""
    return float(np.average((probability - correct) ** 2, weights=weights))


def accuracy(
    probability: Float[ndarray, " n"], correct: Bool[ndarray, " n"], weights: Float[ndarray, " n"] | None = None
) -> float:
    """Share of prompts whose outcome is the likelier one; a probability of exactly one half counts half."""
    right = np.where(probability == 0.5, 0.5, (probability > 0.5) == correct)
    return float(np.average(right, weights=weights))


def calibration(probability: Float[ndarray, " n"], correct: Bool[ndarray, " n"], bins: int) -> Bins:
    """The calibration curve; prompts with the same probability share a bin, so there may be fewer bins."""
    order = np.argsort(probability, kind="stable")
    edges = np.unique(np.searchsorted(probability[order], probability[order][_starts(len(order), bins)]))
    parts = np.split(order, edges[1:])
    return Bins(
        np.array([len(part) for part in parts]),
        np.array([probability[part].mean() for part in parts]),
        np.array([correct[part].mean() for part in parts]),
    )


def chance_error(probability: Float[ndarray, " n"], bins: int, seed: int) -> float:
    """The calibration error to be expected if every probability were right: outcomes are drawn from them."""
    draw, many = generator(seed, "calibration"), len(probability)
    drawn = [draw.random(many) < probability for _ in range(_DRAWS)]
    return float(np.mean([calibration(probability, correct, bins).error for correct in drawn]))


def coverage(
    probability: Float[ndarray, " n"], correct: Bool[ndarray, " n"], steps: int = 20
) -> list[tuple[float, float, float]]:
    """Coverage, threshold and risk: of the surest share of prompts, how many are incorrect.

    Prompts with the same probability are answered together, so the share may be larger than asked for.
    """
    ascending = np.sort(probability)[::-1]
    found: dict[float, tuple[float, float, float]] = {}
    for step in range(1, steps + 1):
        threshold = float(ascending[max(1, round(len(ascending) * step / steps)) - 1])
        answered = probability >= threshold
        found[threshold] = (float(answered.mean()), threshold, float(1 - correct[answered].mean()))
    return list(found.values())


def _starts(count: int, bins: int) -> Int[ndarray, " b"]:
    """Where bins of equally many of ``count`` begin."""
    return np.unique(np.arange(bins) * count // bins)
