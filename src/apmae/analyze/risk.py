"""When to answer and when to abstain: thresholds whose risk is bounded, however few the prompts.

Selective prediction with guaranteed risk (Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
Networks", https://arxiv.org/abs/1705.08500) bounds the risk of thresholds by the tail of the binomial distribution
(Clopper and Pearson 1934), each at a share of the level. There the thresholds are found by bisection; here they are
fixed shares of the prompts, the surest first, so that none depends on an outcome. Axes: n prompts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
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


def risk_bounds(
    probability: Float[ndarray, " n"], correct: Bool[ndarray, " n"], natural: float | None
) -> list[Answering]:
    """Risk and its upper bound if the surest twentieth is answered, the surest two, and so on.

    Prompts are taken as independent of one another, and of the models that speak of them.

    Args:
        probability: of correct, by models that saw no prompt of the same file.
        correct: the outcome.
        natural: share of prompts that is correct where the threshold will be used, if prompts were drawn by outcome.
            Then wrong and right answers that pass are bounded each by itself. None: as here.
    """
    ascending = np.sort(probability)[::-1]
    level = (1 - CONFIDENCE) / _SHARES
    found: dict[float, Answering] = {}
    for step in range(1, _SHARES + 1):
        threshold = float(ascending[max(1, round(len(ascending) * step / _SHARES)) - 1])
        passed = probability >= threshold
        wrong, right = int((passed & ~correct).sum()), int((passed & correct).sum())
        if natural is None:
            made = wrong / (wrong + right), upper(wrong, wrong + right, level)
            found[threshold] = Answering(float(passed.mean()), threshold, *made)
            continue
        all_wrong, all_right = int((~correct).sum()), int(correct.sum())
        shares = wrong / max(all_wrong, 1), right / max(all_right, 1)
        worst = upper(wrong, all_wrong, level / 2), 1 - upper(all_right - right, all_right, level / 2)
        coverage = (1 - natural) * shares[0] + natural * shares[1]
        found[threshold] = Answering(coverage, threshold, _risk(*shares, natural), _risk(*worst, natural))
    return list(found.values())


def threshold_for(bounds: Sequence[Answering], risk: float) -> Answering | None:
    """The threshold that answers most at a bounded risk; None if there is none.

    Args:
        bounds: from :func:`risk_bounds`.
        risk: most of the answered that may be incorrect, in (0, 1).
    """
    kept = [one for one in bounds if one.bound <= risk]
    return max(kept, key=lambda one: one.coverage) if kept else None


def upper(count: int, total: int, level: float) -> float:
    """The largest share at which ``count`` of ``total`` or fewer still have that probability (Clopper and Pearson)."""
    if count >= total:
        return 1.0
    from scipy.stats import beta

    return float(beta.ppf(1 - level, count + 1, total - count))


def _risk(wrong: float, right: float, natural: float) -> float:
    passed = (1 - natural) * wrong + natural * right
    return (1 - natural) * wrong / passed if passed > 0 else 1.0
