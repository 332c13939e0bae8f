"""When to answer and when to abstain: thresholds whose risk is bounded, however few the prompts.

Selective prediction with guaranteed risk (Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
Networks", https://arxiv.org/abs/1705.08500) bounds the risk of thresholds by the tail of the binomial distribution
(Clopper and Pearson 1934), each at a share of the level. There the thresholds are found by bisection; here they are
fixed shares of the prompts, the surest first, so that none depends on an outcome.

Prompts of one file are alike, so a count of them is worth that of fewer prompts: the tail is that of an effective
number (Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data"). Axes: n prompts, f files.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

CONFIDENCE = 0.95
"""That all bounds hold at once."""
_SHARES = 20


class Answering(NamedTuple):
    """What happens if prompts are answered from a threshold on."""

    coverage: float
    """Share of prompts that is answered."""
    threshold: float
    """The probability of correct from which it is."""
    risk: float
    """Share of the answered that is incorrect, as found."""
    bound: float
    """That share is no larger, at the confidence of all bounds together."""


class _Flags(NamedTuple):
    """A share of prompts that is to be bounded, by file."""

    prompts: Float[ndarray, " f"]
    flagged: Float[ndarray, " f"]

    @property
    def share(self) -> float:
        """Of all prompts; 0 without any."""
        return float(self.flagged.sum() / max(self.prompts.sum(), 1))

    @property
    def alike(self) -> float:
        """How many prompts a prompt finds in its file, itself included: the mean over prompts, at least 1."""
        return float((self.prompts**2).sum() / max(self.prompts.sum(), 1)) if len(self.prompts) else 1.0

    @property
    def effect(self) -> float | None:
        """How often larger the variance of the share is between files than between prompts that are independent
        (Kish's design effect); None if it cannot be told.
        """
        total, files, share = float(self.prompts.sum()), len(self.prompts), self.share
        if files < 2 or not 0 < share < 1:
            return None
        between = files / (files - 1) * ((self.flagged - share * self.prompts) ** 2).sum() / total**2
        return float(between / (share * (1 - share) / (total - 1)))


def risk_bounds(
    probability: Float[ndarray, " n"],
    correct: Bool[ndarray, " n"],
    group: Int[ndarray, " n"],
    natural: float | None,
) -> list[Answering]:
    """Risk and its upper bound if the surest twentieth is answered, the surest two, and so on.

    Files are taken as independent of one another, and of the models that speak of their prompts.

    Args:
        probability: of correct, by models that saw no prompt of the same file.
        correct: the outcome.
        group: file of each prompt, from 0.
        natural: share of prompts that is correct where the threshold will be used, if prompts were drawn by outcome.
            Then wrong and right answers that pass are bounded each by itself. None: as here.
    """
    ascending = np.sort(probability)[::-1]
    places = [max(1, round(len(ascending) * step / _SHARES)) - 1 for step in range(1, _SHARES + 1)]
    thresholds = list(dict.fromkeys(float(ascending[place]) for place in places))
    passed, level = [probability >= threshold for threshold in thresholds], (1 - CONFIDENCE) / _SHARES
    if natural is None:
        flags = [_flags(~correct[own], group[own]) for own in passed]
        risks = zip([one.share for one in flags], _uppers(flags, level), strict=True)
        covered = [float(own.mean()) for own in passed]
    else:
        wrong = [_flags(own[~correct], group[~correct]) for own in passed]
        missed = [_flags(~own[correct], group[correct]) for own in passed]
        shares = [(one.share, 1 - other.share) for one, other in zip(wrong, missed, strict=True)]
        worst = zip(_uppers(wrong, level / 2), _uppers(missed, level / 2), strict=True)
        risks = [
            (_risk(*share, natural), _risk(most, 1 - least, natural))
            for share, (most, least) in zip(shares, worst, strict=True)
        ]
        covered = [(1 - natural) * one + natural * other for one, other in shares]
    return [Answering(*own[:2], *own[2]) for own in zip(covered, thresholds, risks, strict=True)]


def threshold_for(bounds: Sequence[Answering], risk: float) -> Answering | None:
    """The threshold that answers most at a bounded risk; None if there is none.

    Args:
        bounds: from :func:`risk_bounds`.
        risk: most of the answered that may be incorrect, in (0, 1).
    """
    kept = [one for one in bounds if one.bound <= risk]
    return max(kept, key=lambda one: one.coverage) if kept else None


def upper(count: float, total: float, level: float) -> float:
    """The largest share at which ``count`` of ``total`` or fewer still have that probability (Clopper and Pearson).

    Args:
        count: of ``total``; it need not be whole where that is an effective number.
        total: prompts that are independent.
        level: that probability.
    """
    if count >= total:
        return 1.0
    from scipy.stats import beta

    return float(beta.ppf(1 - level, count + 1, total - count))


def effective(prompts: float, files: int, effect: float, level: float) -> float:
    """How many independent prompts are worth as much, at most ``prompts`` (Korn and Graubard 1998).

    Args:
        prompts: how many there are.
        files: how many they are of. The fewer, the less is known of the effect: the number shrinks by the square of
            the ratio of the quantiles of Student's t.
        effect: how often larger the variance of their share is.
        level: of the bound.
    """
    if files < 2 or prompts < 2:
        return min(prompts, 1.0)
    from scipy.stats import t

    narrower = t.ppf(1 - level, prompts - 1) / t.ppf(1 - level, files - 1)
    return float(min(prompts, prompts / effect * narrower**2))


def _flags(flag: Bool[ndarray, " n"], group: Int[ndarray, " n"]) -> _Flags:
    prompts = np.bincount(group)
    flagged = np.bincount(group, flag, len(prompts))
    return _Flags(prompts[prompts > 0].astype(np.float64), flagged[prompts > 0])


def _uppers(flags: Sequence[_Flags], level: float) -> list[float]:
    """Upper bounds of shares. A share of 0 shows nothing of how alike files' prompts are, and a small one little: the
    mean of what the others show counts too, and the larger of the two effects is taken.
    """
    shown = [max((one.effect - 1) / (one.alike - 1), 0.0) for one in flags if one.effect is not None and one.alike > 1]
    correlation = min(float(np.mean(shown)), 1.0) if shown else 0.0
    found = []
    for one in flags:
        effect = max(1.0, one.effect or 1.0, 1 + correlation * (one.alike - 1))
        worth = effective(float(one.prompts.sum()), len(one.prompts), effect, level)
        found.append(upper(one.share * worth, worth, level))
    return found


def _risk(wrong: float, right: float, natural: float) -> float:
    passed = (1 - natural) * wrong + natural * right
    return (1 - natural) * wrong / passed if passed > 0 else 1.0
