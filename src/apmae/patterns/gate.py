"""The gate: does a pattern have structure, or could its rows have been shuffled?

A permutation test in closed form. If the keys of each row were permuted at random, the sum of products of root p of two
rows over m shared keys would have the mean ``sum a * sum b / m`` and the variance ``Sa Sb / (m - 1)``, with Sa the sum
of squared deviations of a (moments of a linear permutation statistic: Hoeffding 1951, theorem 2). The statistic is the
sum over pairs of rows of what the products exceed that by, over the s.d. of that sum; the largest of six, for rows
1, 4 and 16 apart, by key and by lag (``patterns/overlap.py``).

Axes: n patterns, t tokens, d distances, a alignments.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.patterns.overlap import Overlaps

STRUCTURED = 6.0
"""Smallest statistic of a pattern with structure, in s.d. of shuffled rows."""
EVEN = 0.97
"""Median entropy over log of the row's length from which on a pattern without structure is called uniform."""
_FIRST_ROW = 16
"""Rows before this have too few keys to be told from shuffled ones."""


def structure(found: Overlaps) -> Float[Tensor, " n"]:
    """The statistic: standard normal in each of the six comparisons if rows are shuffled; 0 if none can be made."""
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
    return torch.where(spread > 1e-6, excess / spread.clamp(min=1e-6), 0.0).flatten(1).amax(1).clamp(min=0)
