"""How far a prediction of hidden pixels is from true attention: one scale for encoders of all scalings.

Losses are in the square of the scaling's unit and cannot be compared between scalings. Here predicted pixels become log
probabilities again (``scaling.INVERSES``), each query row's prediction a distribution over its hidden keys, and the
measure is the Kullback-Leibler divergence of the truth from it: the mean of -log of the predicted probability over true
hidden mass, in nats, less the truth's own entropy. 0 is perfect.

A prediction is scaled to the row's true hidden mass, because the visible entries of a row give that away.

Axes: n patterns, k patches, p pixels along a patch.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from apmae.patterns import geometry
from apmae.patterns.marginals import by_query, layout

SMALLEST = 1e-6
"""Predicted probabilities are taken as at least this: 2.6e-4 over a row of 256 keys. Raw predictions of rare keys are
noise about 0, negative ones among them, whose log is no finite number."""


def divergence(
    logs: Float[Tensor, "n k p p"], predicted: Float[Tensor, "n k p p"], hidden: Bool[Tensor, "n k"]
) -> Float64[Tensor, " n"]:
    """Divergence of true from predicted attention to hidden keys, in nats a unit of hidden mass; NaN without any.

    A row's prediction is scaled to the row's true hidden mass. That mass is no help: rows sum to 1, so the visible
    entries give it away, and with it the row is a whole distribution whose divergence from the true row is that of its
    hidden part. Rows weigh as much as they have hidden mass. Keys that cannot be attended to (after the query, outside
    a sliding window, padding) follow from the language model and the prompt and are not asked for.

    Args:
        logs: true log probabilities of causal patterns, -inf where nothing can be attended to.
        predicted: log probabilities, taken into [log(:data:`SMALLEST`), 0]; read in hidden patches only.
        hidden: which patches.
    """
    grid, patch = math.isqrt(2 * logs.shape[1]), logs.shape[-1]
    where = layout(grid, patch, True, logs.device)
    asked = hidden[:, :, None, None] & geometry.real_pixels(grid, patch).to(logs.device) & logs.isfinite()
    logs = logs.double().masked_fill(~asked, -torch.inf)
    guess = predicted.double().clamp(math.log(SMALLEST), 0.0).masked_fill(~asked, -torch.inf)
    truth = logs.exp()
    mass = by_query(truth.sum(-1), where)
    guessed = by_query(guess.exp().sum(-1), where).log().masked_fill(mass == 0, 0.0)
    surprise = (truth * (logs - guess).masked_fill(~asked, 0.0)).sum((1, 2, 3))
    of_rows = (torch.xlogy(mass, mass) - mass * guessed).sum(1)
    total = mass.sum(1)
    # Rounding can leave less than nothing of a perfect prediction.
    return ((surprise - of_rows) / total).clamp(min=0.0)


def uniform_divergence(logs: Float[Tensor, "n k p p"], hidden: Bool[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    """What knows nothing gets: every hidden key of a row as probable as every other.

    Args:
        logs: as for :func:`divergence`.
        hidden: as for :func:`divergence`.
    """
    return divergence(logs, torch.zeros_like(logs), hidden)
