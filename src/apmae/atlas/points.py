"""The fitted rows that an atlas keeps, to place new patterns among them, and how far a cluster's members are apart.

Placing is a vote of the nearest points, so around each cluster members and noise have to be kept at the same rate: else
the noise that is left out has no vote. Per head, each head has points of its own, and votes alone.

Axes: n rows, d embedding, c clusters, m members of a cluster, k kept rows, u distinct rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.atlas.rows import members_of, merge_duplicates
from apmae.config import AtlasConfig
from apmae.schema import NOISE
from apmae.seeding import generator

NO_RADIUS = -1.0
"""The radius of noise."""
_NEAR = 2.0
"""Noise within so many radii of a cluster is kept at the cluster's rate: it may be among the neighbours of a pattern
that is within one radius."""
_REACH, _REACH_BY_KIND = 1.75, 2.0
"""The radius of a cluster, as a multiple of the 95th percentile of its members' nearest distances. Of 1 to 2 on
SmolLM2-135M, 1.75 keeps fresh patterns (0.924 placed, 0.928 by 2) and hardly any of permuted dimensions (0.013, 0.211).
Clusters by kind are for other models, whose patterns are further away."""
_PROBES = 200
"""For the radius of a cluster, the distance to the kept members is measured for at most this many others, drawn by the
seed."""


class Kept(NamedTuple):
    """Which rows are kept, and how far members are apart."""

    rows: Int[ndarray, " k"]
    """Ascending."""
    radii: Float[ndarray, " c1"]
    """How far from a kept member of each cluster a new one may be; the last is that of noise, label -1."""
    scale: float
    """Median distance of a member to its nearest other member."""


def distinct_rows(z: Float[ndarray, "n d"], heads: Int[ndarray, " n"]) -> tuple[Int[ndarray, " u"], Int[ndarray, " u"]]:
    """The first of each group of equal rows of one head, ascending, and the size of each group.

    Args:
        z: embeddings, rounded to fp16.
        heads: a number for the head of each row.
    """
    numbers, head = np.unique(heads, return_inverse=True)
    if len(numbers) == 1:
        first, _, counts = merge_duplicates(z)
        return first, counts
    merged = [(own, *merge_duplicates(z[own])[::2]) for own in members_of(head.ravel(), len(numbers))]
    rows = np.concatenate([own[first] for own, first, _ in merged])
    order = np.argsort(rows)
    return rows[order], np.concatenate([counts for *_, counts in merged])[order]


def kept_rows(
    z: Float[ndarray, "n d"],
    labels: Int[ndarray, " n"],
    nearest: Float[ndarray, " n"],
    heads: Int[ndarray, " n"],
    config: AtlasConfig,
    fewest: int,
) -> Kept:
    """A seeded sample: of each head at most about ``config.reference_points`` rows.

    Of each cluster it has the same share, but enough of a small one to win a vote. Noise near a cluster is kept at the
    rate of the cluster's members, and other noise at the head's share.

    Args:
        z: distinct rows, rounded to fp16.
        labels: cluster of each row, -1 for noise.
        nearest: distance of each row to the nearest other row of its label.
        heads: a number for the head of each row. A cluster is of one head.
        config: number of points, metric, seed.
        fewest: rows of a cluster that are kept at least, if it has so many.
    """
    numbers, head, sizes = np.unique(heads, return_inverse=True, return_counts=True)
    head, shares = head.ravel(), np.minimum(config.reference_points / sizes, 1.0)
    members = members_of(labels, int(labels.max(initial=NOISE)) + 1)
    kept, rates, spread = np.zeros(len(z), bool), [], []
    for number, own in enumerate(members):
        wanted = max(round(float(shares[head[own[0]]]) * len(own)), min(fewest, len(own)))
        kept[generator(config.seed, "reference", number).permutation(own)[:wanted]] = True
        rates.append(wanted / len(own))
        spread.append(_member_distances(z, own, kept[own], nearest, config, number))
    scale = float(np.median(np.concatenate(spread) if spread else nearest)) or 1.0
    reach = _REACH_BY_KIND if config.by_kind else _REACH
    radii = np.array([_radius(distances, scale, reach) for distances in spread] + [NO_RADIUS])
    drawn = generator(config.seed, "reference", len(members)).random(len(z))
    for one, noise in enumerate(members_of(np.where(labels == NOISE, head, NOISE), len(numbers))):
        own = np.flatnonzero(kept & (head == one))
        rate = np.full(len(noise), shares[one])
        if len(noise) and len(own) and shares[one] < 1:
            rate = _rates(z, own, noise, labels, radii, np.array(rates), rate, config.metric)
        kept[noise] = drawn[noise] < rate
    return Kept(np.flatnonzero(kept), radii, scale)


def _rates(
    z: Float[ndarray, "n d"],
    own: Int[ndarray, " m"],
    noise: Int[ndarray, " r"],
    labels: Int[ndarray, " n"],
    radii: Float[ndarray, " c1"],
    rates: Float[ndarray, " c"],
    share: Float[ndarray, " r"],
    metric: str,
) -> Float[ndarray, " r"]:
    """At which rate each row of noise is kept: that of the cluster that it is near to, else the given share."""
    from apmae.atlas.search import Search

    found = Search(z[own], metric, 1).nearest(z[noise])
    cluster = labels[own[found.indices[:, 0]]]
    return np.where(found.distances[:, 0] <= _NEAR * radii[cluster], rates[cluster], share)


def _radius(distances: Float[ndarray, " p"], scale: float, reach: float) -> float:
    """How far from a member a new pattern may be, given the distances between members."""
    return max(reach * float(np.quantile(distances, 0.95)), scale / 2)


def _member_distances(
    z: Float[ndarray, "n d"],
    own: Int[ndarray, " m"],
    kept: Bool[ndarray, " m"],
    nearest: Float[ndarray, " n"],
    config: AtlasConfig,
    cluster: int,
) -> Float[ndarray, " p"]:
    """Distances of members of one cluster to the nearest kept one."""
    others = generator(config.seed, "radius", cluster).permutation(own[~kept])[:_PROBES]
    if not len(others):
        return nearest[own]
    from sklearn.metrics import pairwise_distances_argmin_min

    probes, points = z[others].astype(np.float32), z[own[kept]].astype(np.float32)
    return pairwise_distances_argmin_min(probes, points, metric=config.metric)[1]
