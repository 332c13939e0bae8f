"""The vote of a pattern's nearest points: their weights, and what wins.

Axes: n rows, k neighbours.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.schema import NOISE

VOTERS = 15
"""Fitted points that vote for the cluster of a new pattern."""


def weights_of(copies: Int[ndarray, "n k"], distances: Float[ndarray, "n k"]) -> Float[ndarray, "n k"]:
    """Weights of the nearest points that vote, ``VOTERS`` in all if so many may; the nearer the more."""
    weights = np.clip(VOTERS - (copies.cumsum(1) - copies), 0, copies) / distances
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


def winner_of(
    weights: Float[ndarray, "n k"],
    may: Bool[ndarray, "n k"],
    voters: Int[ndarray, "n k"],
    does: Int[ndarray, "n k"],
    distances: Float[ndarray, "n k"],
    radii: Float[ndarray, "n k"],
) -> tuple[Int[ndarray, " n"], Float[ndarray, " n"], Bool[ndarray, " n"]]:
    """The cluster that wins among those of the behaviour that wins, which share that behaviour has, and whether the row
    is within the cluster's radius.

    Args:
        weights: of each voter.
        may: which voters' clusters a row may be in; -1 wins if none has the behaviour that wins.
        voters: their clusters.
        does: their behaviours.
        distances: to each.
        radii: of their clusters.
    """
    rows = np.arange(len(voters))
    share = (weights[:, :, None] * (does[:, :, None] == does[:, None, :])).sum(1)  # of each voter's behaviour
    best = share.argmax(1)
    own = (weights[:, :, None] * (voters[:, :, None] == voters[:, None, :])).sum(1)  # of each voter's cluster
    able = may & (does == does[rows, best][:, None])
    winner = np.where(able.any(1), voters[rows, np.where(able, own, -1.0).argmax(1)], NOISE)
    closest = np.where(voters == winner[:, None], distances, np.inf).argmin(1)
    return winner, share[rows, best], distances[rows, closest] <= radii[rows, closest]
