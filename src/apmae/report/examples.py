"""Which patterns and which prompt the pictures show. Every choice follows a rule, not taste.

Patterns are chosen among the exemplars that the study kept: the medoid of each cluster (Figure 8) and corners of one
cluster's hull (Figure 9), both by ``atlas/members.py``. The prompt of Figure 10 A is the one with the median share of
clustered heads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray

from apmae.atlas.members import hull, medoids
from apmae.schema import NOISE
from apmae.study.exemplars import unpack
from apmae.study.placed import Exemplars
from apmae.study.reader import Study

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
    """For each cluster that has exemplars, their medoid; largest clusters first.

    Args:
        study: with its exemplars.
        limit: most examples; None for all.
    """
    exemplars = study.exemplars
    return _read(study, list(medoids(exemplars.coordinates, exemplars.cluster).values())[:limit])


def extremes_of_a_cluster(study: Study, count: int = VARIATION_MEMBERS) -> list[Example]:
    """The most distant exemplars on the convex hull of a cluster, in reduced coordinates (paper section 6.1).

    Args:
        study: with its exemplars.
        count: most members to show. The cluster is the largest with so many exemplars, or else the one with most.

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
    return _read(study, hull(exemplars.coordinates, exemplars.cluster, best, count).tolist())


def typical_prompt(points: pa.Table) -> int:
    """The prompt whose share of clustered heads is the median; among equals the one with the lowest number.

    Args:
        points: ``schema.POINTS``, at least one row.
    """
    prompts = points["prompt"].to_numpy()
    count = np.bincount(prompts)
    share = np.bincount(prompts, points["cluster"].to_numpy() != NOISE) / np.maximum(count, 1)
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
