"""Branches of the density tree, and the choice of those that are clusters.

HDBSCAN builds a tree: with growing density, groups of rows split off and vanish. It then chooses branches by how long
they last, on a scale of densities that a layout stretches at will. Here the tree is HDBSCAN's, and the choice is by how
well a branch is found again in other fits (``atlas/stability.py``).

Axes: b branches, n rows, r reduced dimensions.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

DISSOLVED = 0.5
"""A cluster with a Jaccard index below this was not found again (Hennig 2007, "Cluster-wise assessment of cluster
stability", calls it dissolved)."""
STABLE = 0.75
"""From this Jaccard index on a cluster is stable (Hennig 2007); those below are flagged wherever they are shown."""
_FREE = 0.3
"""Stability up to which a branch is worth nothing. If it is larger, wide and certain branches win over their parts;
chosen among 0.2 to 0.5 on SmolLM2-135M and the bundled model (``docs/studies/atlas.md``)."""


class Branches(NamedTuple):
    """Nested groups of rows; the first holds all rows, and parents come before their children."""

    members: Bool[ndarray, "b n"]
    parent: Int[ndarray, " b"]
    """Number of the branch that each is a part of; -1 for the first."""


def branches_of(coordinates: Float[ndarray, "n r"], smallest: int, min_samples: int) -> Branches:
    """The condensed tree of HDBSCAN (Campello et al. 2013).

    Args:
        coordinates: reduced embeddings of distinct rows.
        smallest: fewest rows of a branch.
        min_samples: neighbours that say how dense it is around a row.
    """
    rows = len(coordinates)
    if rows < max(2 * smallest, 3):  # nothing can split
        return Branches(np.ones((1, rows), bool), np.full(1, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between hdbscan and its own dependencies
        from hdbscan import HDBSCAN

        model = HDBSCAN(
            min_cluster_size=smallest,
            min_samples=min(min_samples, rows - 1),
            approx_min_span_tree=False,  # the approximate tree is no faster and mislabels a few percent of the rows
            core_dist_n_jobs=1,
        ).fit(coordinates.astype(np.float64))
        edges = model.condensed_tree_.to_numpy()
    inner = edges[edges["child_size"] > 1]
    outer = edges[edges["child_size"] == 1]
    count = 1 + len(inner)  # numbers of branches are consecutive, from that of all rows
    parent = np.full(count, -1)
    parent[inner["child"] - rows] = inner["parent"] - rows
    members = np.zeros((count, rows), bool)
    members[outer["parent"] - rows, outer["child"]] = True
    for branch in range(count - 1, 0, -1):
        members[parent[branch]] |= members[branch]
    return Branches(members, parent)


def choose(
    branches: Branches, stability: Float[ndarray, " b"], counts: Int[ndarray, " n"], free: float = _FREE
) -> Int[ndarray, " c"]:
    """The branches that are clusters: none inside another, and together worth most.

    A branch that holds a share p of the rows is worth ``p * -log(p) * (stability - free)``: what knowing it tells of a
    row (in nats), times how far it can be trusted. So a branch gives way to its parts if they are as stable, and stays
    whole if they are found again less well. All rows together, and dissolved branches, are worth nothing. A branch of
    many rows overlaps with any other, so it is dissolved by what its stability is above that of two random sets of its
    size, ``p / (2 - p)``, as a share of the range above that.

    Args:
        branches: nested groups.
        stability: of each, in [0, 1].
        counts: how often each row occurs.
        free: stability that earns nothing, in [0, 1].

    Returns:
        Numbers of branches, those with most rows first.
    """
    share = branches.members @ counts / counts.sum()
    worth = share * -np.log(np.maximum(share, np.finfo(float).tiny)) * (stability - free)
    chance = share / (2 - share)
    worth[(stability < chance + DISSOLVED * (1 - chance)) | (branches.parent < 0)] = 0
    below = np.zeros(len(worth))
    for branch in range(len(worth) - 1, 0, -1):
        below[branches.parent[branch]] += max(worth[branch], below[branch])
    chosen, inside = [], np.zeros(len(worth), bool)
    for branch in range(1, len(worth)):
        inside[branch] |= inside[branches.parent[branch]]
        if not inside[branch] and worth[branch] > 0 and worth[branch] >= below[branch]:
            chosen.append(branch)
            inside[branch] = True
    return np.array(sorted(chosen, key=lambda branch: -share[branch]), dtype=np.int64)
