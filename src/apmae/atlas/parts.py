"""Clusters split by what their members do, for an atlas whose names have to hold on other models.

Where two behaviours flow into one another, a cluster may hold both, and its name can only say what is common to them.
Here the members whose own scores lead with the same kind become a cluster of their own, and what was left out joins the
nearest cluster of its kind.

Axes: n rows, d embedding, r reduced dimensions, c clusters.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.clusterers import Clusters
from apmae.atlas.density import mean_distance
from apmae.atlas.rows import members_of, merge_duplicates
from apmae.schema import NOISE

_FEWEST = 5
"""Members of a part; fewer are noise."""


class Parts(NamedTuple):
    """What a ``Clusterer`` found, split. Each part has the stability of the cluster that it is a part of."""

    labels_: Int[ndarray, " n"]
    coordinates_: Float[ndarray, "n r"]
    nearest_distances_: Float[ndarray, " n"]
    mean_distances_: Float[ndarray, " c"]
    stability_: Float[ndarray, " c"]
    seed_stability_: Float[ndarray, " c"]
    dropped_: dict[str, int]


def parts_of(fitted: Clusters, z: Float[ndarray, "n d"], kinds: Int[ndarray, " n"], metric: str) -> Parts:
    """Split clusters by the kind of their members.

    Args:
        fitted: what to split.
        z: the embeddings that it was fitted on.
        kinds: a number from 0 for each row: what its own scores lead with.
        metric: distance between embeddings.
    """
    first, group, _ = merge_duplicates(z)
    kinds = kinds[first][group]  # equal patterns of different tokens may differ in kind, but they have one place
    inside = np.flatnonzero(fitted.labels_ != NOISE)
    pairs = fitted.labels_[inside] * (int(kinds.max(initial=0)) + 1) + kinds[inside]
    _, part, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes >= _FEWEST)]
    number = np.full(len(sizes), NOISE, np.int64)
    number[order] = np.arange(len(order))
    labels = np.full(len(z), NOISE, np.int64)
    labels[inside] = number[part]
    nearest, members = fitted.nearest_distances_.copy(), members_of(labels, len(order))
    for rows in members:
        nearest[rows] = _nearest_other(z[rows], metric)
    whole = np.array([fitted.labels_[rows[0]] for rows in members], np.int64)
    spread = [mean_distance(fitted.coordinates_[rows], np.ones(len(rows), np.int64)) for rows in members]
    return Parts(
        labels,
        fitted.coordinates_,
        nearest,
        np.array(spread),
        fitted.stability_[whole],
        fitted.seed_stability_[whole],
        {**fitted.dropped_, "small parts": int(len(sizes) - len(order))},
    )


def _nearest_other(z: Float[ndarray, "m d"], metric: str) -> Float[ndarray, " m"]:
    """Distance of each row to the nearest that is not equal to it; 0 if all are equal."""
    from sklearn.neighbors import NearestNeighbors

    first, group, _ = merge_duplicates(z)
    if len(first) == 1:
        return np.zeros(len(z))
    return NearestNeighbors(n_neighbors=2, metric=metric).fit(z[first]).kneighbors(z[first])[0][:, 1][group]
