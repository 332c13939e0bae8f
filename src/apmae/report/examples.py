"""Which patterns and which prompt the pictures show. Every choice follows a rule, not taste.

The members of a cluster that are furthest apart (Figure 9) are found by farthest-point selection among the kept
exemplars. The paper takes points of the convex hull, which is costly in four dimensions. The prompt of Figure 10 A is
the one with the median share of clustered heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.schema import NOISE
from apmae.study.exemplars import unpack
from apmae.study.reader import Exemplars, Study

VARIATION_MEMBERS = 6
"""Members shown of the cluster in Figure 9."""


class Example(NamedTuple):
    """A whole pattern with its place."""

    cluster: int
    name: str
    prompt: int
    layer: int
    head: int
    log_pattern: Float[ndarray, "t t"]


def one_per_cluster(study: Study, limit: int | None = None) -> list[Example]:
    """For each cluster that has exemplars, the one nearest to their centre; largest clusters first.

    Args:
        study: with its exemplars.
        limit: most examples; None for all.
    """
    exemplars = study.exemplars
    chosen = []
    for cluster in study.clusters["cluster"].to_pylist():
        own = np.flatnonzero(exemplars.cluster == cluster)
        if len(own) and (limit is None or len(chosen) < limit):
            places = exemplars.coordinates[own]
            chosen.append(int(own[np.linalg.norm(places - places.mean(0), axis=1).argmin()]))
    return _read(study, chosen)


def extremes_of_a_cluster(study: Study, count: int = VARIATION_MEMBERS) -> list[Example]:
    """The members of a cluster that are furthest apart in reduced coordinates.

    The paper takes the most distant points on the cluster's convex hull (section 6.1). Here they come from
    farthest-point selection among the members whose pattern was kept, which needs no hull in four dimensions and finds
    the same corners.

    Args:
        study: with its exemplars.
        count: members to show. The cluster is the largest with so many exemplars, or else the one with most exemplars.

    Returns:
        An empty list if no cluster has two exemplars.
    """
    exemplars = study.exemplars
    clusters = study.clusters["cluster"].to_pylist()
    number = {cluster: int((exemplars.cluster == cluster).sum()) for cluster in clusters}
    enough = [cluster for cluster in clusters if number[cluster] >= count]
    best = enough[0] if enough else max(clusters, key=lambda cluster: number[cluster], default=NOISE)
    if number.get(best, 0) < 2:
        return []
    own = np.flatnonzero(exemplars.cluster == best)
    return _read(study, own[farthest_points(exemplars.coordinates[own], count)].tolist())


def farthest_points(places: Float[ndarray, "n r"], count: int) -> Int[ndarray, " c"]:
    """Rows that are far apart: first the one furthest from the centre, then always the one furthest from those chosen.

    Args:
        places: at least one point.
        count: most rows.
    """
    distance = np.linalg.norm(places - places.mean(0), axis=1)
    chosen = [int(distance.argmax())]
    nearest = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < min(count, len(places)):
        nearest[chosen] = -1  # no point is chosen twice
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.array(chosen)


def typical_prompt(study: Study) -> int:
    """The prompt whose share of clustered heads is the median; among equals the one with the lowest number."""
    prompts = study.points["prompt"].to_numpy()
    count = np.bincount(prompts)
    share = np.bincount(prompts, study.points["cluster"].to_numpy() != NOISE) / np.maximum(count, 1)
    known = np.sort(share[count > 0])
    return int(np.flatnonzero((share == known[(len(known) - 1) // 2]) & (count > 0))[0])


def attended(log_pattern: Float[ndarray, "t t"]) -> int:
    """Tokens of the prompt; if it is short, the pattern's last rows are empty."""
    rows = np.flatnonzero(np.isfinite(log_pattern).any(1))
    return int(rows[-1]) + 1 if len(rows) else len(log_pattern)


def _read(study: Study, numbers: Sequence[int]) -> list[Example]:
    exemplars: Exemplars = study.exemplars
    names = study.names
    return [
        Example(
            int(exemplars.cluster[number]),
            names[int(exemplars.cluster[number])],
            row["prompt"],
            row["layer"],
            row["head"],
            unpack(row),
        )
        for number, row in zip(numbers, study.read_exemplars(numbers), strict=True)
    ]
