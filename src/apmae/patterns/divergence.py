"""How far a prediction of hidden pixels is from true attention, on one scale for encoders of all scalings.

Losses are in the square of the scaling's unit and cannot be compared between scalings. Here predicted pixels are turned
back into log probabilities (``scaling.INVERSES``), and each query row's prediction becomes a distribution over its
hidden keys. The measure is the Kullback-Leibler divergence of the truth from it: the mean of -log of the predicted
probability over true hidden mass, in nats, minus the entropy of the truth. 0 is perfect.

A prediction is scaled to the row's true hidden mass, because the visible entries of the row give that away.

Axes: n patterns, k patches, p pixels along a patch.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from apmae.patterns import geometry
from apmae.patterns.marginals import by_query, layout

SMALLEST = 1e-6
"""Predicted probabilities count as at least this, which adds up to 2.6e-4 over a row of 256 keys. Raw predictions of
rare keys are noise about 0; where they are 0 or negative they have no finite log."""


def divergence(
    logs: Float[Tensor, "n k p p"],
    predicted: Float[Tensor, "n k p p"],
    hidden: Bool[Tensor, "n k"],
    causal: bool = True,
) -> Float64[Tensor, " n"]:
    """Divergence of true from predicted attention to hidden keys, in nats per unit of hidden mass; NaN without any.

    A row's prediction is scaled to the row's true hidden mass. That is no extra help: rows sum to 1, so the visible
    entries give the mass away. The scaled row is a whole distribution, and its divergence from the true row is that of
    the hidden part. Each row weighs as much as its hidden mass. Keys that cannot be attended to (after the query,
    outside a sliding window, padding) follow from the language model and the prompt and do not count.

    Args:
        logs: true log probabilities, -inf where nothing can be attended to.
        predicted: log probabilities, clamped to [log(:data:`SMALLEST`), 0]; only those in hidden patches are used.
        hidden: which patches are hidden.
        causal: whether the patches are those on or below the diagonal, or those of the whole square.
    """
    grid, patch = math.isqrt(logs.shape[1] * (2 if causal else 1)), logs.shape[-1]
    where = layout(grid, patch, causal, logs.device)
    counted = hidden[:, :, None, None] & geometry.real_pixels(grid, patch, causal).to(logs.device) & logs.isfinite()
    logs = logs.double().masked_fill(~counted, -torch.inf)
    guess = predicted.double().clamp(math.log(SMALLEST), 0.0).masked_fill(~counted, -torch.inf)
    truth = logs.exp()
    mass = by_query(truth.sum(-1), where)
    guessed = by_query(guess.exp().sum(-1), where).log().masked_fill(mass == 0, 0.0)
    surprise = (truth * (logs - guess).masked_fill(~counted, 0.0)).sum((1, 2, 3))
    of_rows = (torch.xlogy(mass, mass) - mass * guessed).sum(1)
    total = mass.sum(1)
    # Rounding can make a perfect prediction slightly negative.
    return ((surprise - of_rows) / total).clamp(min=0.0)


def uniform_divergence(
    logs: Float[Tensor, "n k p p"], hidden: Bool[Tensor, "n k"], causal: bool = True
) -> Float64[Tensor, " n"]:
    """The divergence of a prediction that knows nothing: all hidden keys of a row are equally probable.

    Args:
        logs: as for :func:`divergence`.
        hidden: as for :func:`divergence`.
        causal: as for :func:`divergence`.
    """
    return divergence(logs, torch.zeros_like(logs), hidden, causal)
