"""Intervals of mean changes over prompts, by a jackknife over files.

Prompts of one file resemble each other, so files are what was drawn. One file at a time is left out, the figure is made
again, and its spread gives the standard error (Efron and Stein 1981); the interval takes quantiles of t with as many
degrees of freedom as there are files, less one. Nothing is drawn. ``tests/analyze/test_jackknife.py`` shows by
simulation how often such intervals hold the truth.

Axes: n prompts, k figures side by side, g groups of files, s strata.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import t

LEVEL = 0.05
"""Of intervals: 95 % each."""


class Estimates(NamedTuple):
    """Figures with their standard errors and 95 % intervals."""

    value: Float[ndarray, " k"]
    error: Float[ndarray, " k"]
    """NaN where it cannot be told: there is one group only, or no two groups differ."""
    freedom: Float[ndarray, " k"]
    """Degrees of freedom of the error; 0 where there is none."""
    draws_error: Float[ndarray, " k"] | float = 0.0
    """Of a mean over random draws (:func:`with_draws`): its error if others had been drawn."""
    draws: int = 0
    """How many."""

    def bounds(self, together: int = 1) -> tuple[Float[ndarray, " k"], Float[ndarray, " k"]]:
        """Low and high ends of the interval; NaN where it cannot be told.

        Args:
            together: how many such intervals should hold at once (Bonferroni).
        """
        chance = 1 - LEVEL / 2 / together
        of_files = t.ppf(chance, np.maximum(self.freedom, 1)) * self.error
        of_draws = t.ppf(chance, self.draws - 1) * self.draws_error if self.draws > 1 else 0.0
        out = np.sqrt(of_files**2 + of_draws**2)
        return self.value - out, self.value + out


class Weighting(NamedTuple):
    """How prompts are weighed: a fixed share for each stratum, the prompts inside a stratum alike."""

    stratum: Int[ndarray, " n"]
    share: Float[ndarray, " s"]
    """Of each stratum in the figure; shares of strata that no prompt is in are spread over the others."""


def weighted(
    values: Float[ndarray, "n k"],
    group: Int[ndarray, " n"],
    weighting: Weighting | None = None,
    *,
    less: Weighting | None = None,
    compared: bool = False,
) -> Estimates:
    """Weighted means of values, with errors over groups.

    A group that is alone in a stratum cannot be left out of it: there its prompts stay, and the error is a little too
    small.

    Args:
        values: of each prompt, NaN where it has none.
        group: prompts of one number are of one file, or of files that belong together.
        weighting: None weighs all prompts alike.
        less: with ``compared``, another weighting whose means are taken away.
        compared: whether the figure is the difference between two weightings.
    """
    value, without = _left_out(values, group, weighting)
    if compared:
        other, other_without = _left_out(values, group, less)
        value, without = value - other, without - other_without
    return _spread(value, without, len(without))


def _left_out(
    values: Float[ndarray, "n k"], group: Int[ndarray, " n"], weighting: Weighting | None
) -> tuple[Float[ndarray, " k"], Float[ndarray, "g k"]]:
    """Weighted means of all prompts, and of those without each group."""
    if weighting is None:
        weighting = Weighting(np.zeros(len(values), np.int64), np.ones(1))
    _, place = np.unique(group, return_inverse=True)
    groups, strata = int(place.max(initial=-1)) + 1, len(weighting.share)
    there = np.isfinite(values)
    sums, counts = (np.zeros((groups, strata, values.shape[1])) for _ in range(2))
    np.add.at(sums, (place, weighting.stratum), np.where(there, values, 0.0))
    np.add.at(counts, (place, weighting.stratum), there)
    total, many = sums.sum(0), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weighting.share[:, None] * (many > 0)
        share = share / share.sum(0)  # NaN where no prompt has a value
        means = np.where(many > 0, total / many, 0.0)
        left = many - counts
        without = np.where(left > 0, (total - sums) / left, means)
    return (share * means).sum(0), (share * without).sum(1)


def _spread(value: Float[ndarray, " k"], without: Float[ndarray, "g k"], groups: int) -> Estimates:
    if groups < 2:
        return Estimates(value, np.full_like(value, np.nan), np.zeros(len(value)))
    apart = ((without - without.mean(0)) ** 2).sum(0)
    error = np.sqrt((groups - 1) / groups * apart)
    return Estimates(value, np.where(error > 1e-12, error, np.nan), np.full(len(value), groups - 1.0))


def with_draws(found: Estimates, draws: Float[ndarray, "d k"]) -> Estimates:
    """An estimate of a mean over random draws, its interval widened by how much draws differ.

    Half widths are added as squares, each with its own quantile of t: with three draws little is known of others, and
    the interval says so. It is rather too wide than too narrow, because draws also differ by chance of the prompts.
    With one draw nothing is known of the others and nothing is added.

    Args:
        found: the mean over draws, with its error over files.
        draws: the figure of each draw.
    """
    many = len(draws)
    return found._replace(draws_error=draws.std(0, ddof=1) / np.sqrt(many), draws=many) if many > 1 else found


def beyond(found: Estimates, sign: int, together: int = 1) -> Bool[ndarray, " k"]:
    """Which intervals lie wholly above zero (sign 1) or below it (-1); never one that cannot be told."""
    low, high = found.bounds(together)
    return (low > 0) if sign > 0 else (high < 0)


def ratio(
    values: Float[ndarray, "n k"],
    base: Float[ndarray, " n"],
    group: Int[ndarray, " n"],
    weighting: Weighting | None = None,
) -> Estimates:
    """Weighted means of values as shares of that of a base, with errors over groups; NaN if the base has none.

    Args:
        values: of each prompt.
        base: of each prompt.
        group: as for :func:`weighted`.
        weighting: of both.
    """
    over, over_without = _left_out(values, group, weighting)
    under, under_without = _left_out(base[:, None], group, weighting)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _spread(over / under, over_without / under_without, len(over_without))
