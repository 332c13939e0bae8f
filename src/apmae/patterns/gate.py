"""The gate: does a pattern have structure, or could its rows have been shuffled?

A permutation test in closed form. If the keys of each row were permuted at random, the sum of products of root p of two
rows over m shared keys would have the mean ``sum a * sum b / m`` and the variance ``Sa Sb / (m - 1)``, with Sa the sum
of squared deviations of a (moments of a linear permutation statistic: Hoeffding 1951, theorem 2). The statistic is the
sum over pairs of rows of what the products exceed that by, over the s.d. of that sum; the largest of six, for rows
1, 4 and 16 apart, by key and by lag (``patterns/overlap.py``).

What a row gives to no key (sinks outside the softmax) does not count. A first-token sink is structure, and so is a
sliding window: in a pattern whose rows see few keys the window itself is a band.

Axes: n patterns, t tokens, d distances, a alignments.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from apmae.patterns.overlap import Overlaps

STRUCTURED = 4.5
"""Smallest statistic of a pattern with structure, in s.d. of shuffled rows (``docs/studies/embedding.md``)."""
SHORTEST = 32
"""Patterns with fewer rows are not judged: many real ones could not be told from shuffled ones."""
EVEN = 0.97
"""From this ``uniform`` score on, a pattern without structure is called uniform."""
_LEAST = 1e-6
_FIRST_ROW = 4
"""Rows before this have too few keys to shuffle."""


def structure(found: Overlaps) -> Float[Tensor, " n"]:
    """The statistic, which is standard normal in each of the six comparisons if rows are shuffled; 0 if all are equal.

    NaN for patterns with fewer than 32 rows.
    """
    first, second = (
        (mass - total.square() / found.shared.clamp(min=1)).clamp(min=0)
        for total, mass in zip(found.sums, found.masses, strict=True)
    )
    usual = found.sums[0] * found.sums[1] / found.shared.clamp(min=1)
    variance = first * second / (found.shared - 1).clamp(min=1)
    late = torch.arange(found.product.shape[-1], device=found.product.device) >= _FIRST_ROW
    late = late & (found.shared > 1)
    excess = ((found.product - usual) * late).sum(-1)
    spread = (variance * late).sum(-1).sqrt()
    largest = torch.where(spread > _LEAST, excess / spread.clamp(min=_LEAST), 0.0).flatten(1).amax(1).clamp(min=0)
    rows = (found.shared[:, 0, 0] > 0).sum(1) + 1
    return torch.where(rows >= SHORTEST, largest, torch.nan)


def has_structure(statistic: Float[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Whether patterns pass; those that are not judged do."""
    return ~(np.asarray(statistic) < STRUCTURED)


def unstructured_name(uniform: float) -> str:
    """What a pattern that fails is called: "uniform" or "unstructured".

    Args:
        uniform: its score of that name; NaN where not measured.
    """
    return "uniform" if uniform >= EVEN else "unstructured"
