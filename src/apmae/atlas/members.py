"""Members that stand for a cluster: its medoid, members from its centre to its edge, and the corners of its hull.

All of them take one row of coordinates per pattern (reduced ones, or any others), compared by Euclidean distance, and
the patterns' clusters; rows with -1 are in none. They give numbers of rows.

Axes: n rows, r coordinates, m members of a cluster, k chosen ones.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.atlas.rows import members_of
from apmae.errors import ConfigError
from apmae.schema import NOISE
from apmae.seeding import generator

EXACT_MEMBERS = 2000
"""In a larger cluster the medoid is that of a seeded sample of so many members."""
_HULL_DIMENSIONS = 4
"""The hull of 20 000 normal points has 800 facets in four dimensions; in eight, that of 2 000 has 900 000 (17 s)."""
_FLAT = 1e-5
"""An axis along which a cluster is narrower than this share of its widest has no extent: float32 is no finer."""


def medoids(places: Any, labels: Any, seed: int = 0) -> dict[int, int]:
    """The member of each cluster with the least total distance to the others; among equals the first row.

    It is exact for clusters of up to ``EXACT_MEMBERS`` (2 000) members. Of a larger one, it is the medoid of a seeded
    sample of so many.

    Args:
        places: (n, r) coordinates of each row, finite.
        labels: (n,) cluster of each row, -1 for none.
        seed: for the samples.

    Returns:
        cluster -> row, clusters ascending; a cluster without a row is left out.

    Raises:
        ConfigError: if coordinates are not finite numbers of shape (n, r), or labels not one integer per row.
    """
    places, clusters = _checked(places, labels)
    found = {}
    for cluster, own in clusters.items():
        if len(own) > EXACT_MEMBERS:
            draw = generator(seed, "medoid", cluster)
            own = np.sort(draw.choice(own, EXACT_MEMBERS, replace=False, shuffle=False))
        found[cluster] = int(own[_total_distances(places[own]).argmin()])
    return found


def exemplars(places: Any, labels: Any, count: int = 5, seed: int = 0) -> dict[int, Int[ndarray, " _"]]:
    """Members of each cluster from its centre to its edge.

    The first is the medoid. The others are sorted by their distance from it and cut into ``count - 1`` parts of equal
    size, and one member of each part is drawn.

    Args:
        places: (n, r) coordinates of each row, finite.
        labels: (n,) cluster of each row, -1 for none.
        count: members of each cluster, at least 1.
        seed: decides which member of a part.

    Returns:
        cluster -> its rows, the medoid first and the furthest last, clusters ascending. A smaller cluster gives all of
        its members.

    Raises:
        ConfigError: as for :func:`medoids`, or if ``count`` is below 1.
    """
    _expect_count(count)
    places, clusters = _checked(places, labels)
    found = {}
    for cluster, medoid in medoids(places, labels, seed).items():
        others = clusters[cluster][clusters[cluster] != medoid]
        outward = others[np.argsort(np.linalg.norm(places[others] - places[medoid], axis=1), kind="stable")]
        draw = generator(seed, "exemplars", cluster)
        parts = np.array_split(outward, min(count - 1, len(outward))) if count > 1 and len(outward) else []
        found[cluster] = np.array([medoid, *(int(draw.choice(part)) for part in parts)], dtype=np.int64)
    return found


def hull(places: Any, labels: Any, cluster: int, count: int = 6) -> Int[ndarray, " k"]:
    """The most distant points on the convex hull of a cluster (paper Figure 9).

    The first is the corner furthest from the cluster's mean; each further one is the corner furthest from those before
    it. A cluster that is flat has the hull of the plane or line in which it lies, and one of more than four dimensions
    that of its four widest axes.

    Args:
        places: (n, r) coordinates of each row, finite.
        labels: (n,) cluster of each row, -1 for none.
        cluster: which one.
        count: most rows, at least 1.

    Returns:
        Rows of the cluster; fewer than ``count`` if its hull has fewer corners: two for a line, one if all are equal.

    Raises:
        ConfigError: as for :func:`medoids`, or if there is no row of this cluster, or ``count`` is below 1.
    """
    _expect_count(count)
    places, clusters = _checked(places, labels)
    if cluster not in clusters:
        known = f"one of {min(clusters)}-{max(clusters)}" if clusters else "rows that are in a cluster"
        raise ConfigError(f"expected {known}, got cluster {cluster}, of which there is no row")
    own = clusters[cluster]
    corners = own[_corners(places[own])]
    return corners[_far_apart(places[corners], places[own].mean(0), count)]


def _corners(places: Float[ndarray, "m r"]) -> Int[ndarray, " k"]:
    """The points on the convex hull, ascending; of equal points the first."""
    first = np.sort(np.unique(places, axis=0, return_index=True)[1])
    centred = places[first].astype(np.float64) - places[first].mean(0, dtype=np.float64)
    _, widths, axes = np.linalg.svd(centred, full_matrices=False)
    rank = min(int((widths > _FLAT * widths[0]).sum()), _HULL_DIMENSIONS)
    if rank == 0:
        return first[:1]
    along = centred @ axes[:rank].T
    if rank == 1:
        return first[np.unique([along.argmin(), along.argmax()])]
    from scipy.spatial import ConvexHull

    return first[np.sort(ConvexHull(along).vertices)]


def _far_apart(corners: Float[ndarray, "m r"], centre: Float[ndarray, " r"], count: int) -> Int[ndarray, " k"]:
    """First the corner furthest from the centre, then always the one furthest from those chosen."""
    chosen = [int(np.linalg.norm(corners - centre, axis=1).argmax())]
    nearest = np.linalg.norm(corners - corners[chosen[0]], axis=1)
    while len(chosen) < min(count, len(corners)):
        nearest[chosen] = -1  # no corner is chosen twice
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(corners - corners[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)


def _total_distances(places: Float[ndarray, "m r"]) -> Float[ndarray, " m"]:
    from scipy.spatial.distance import cdist

    return cdist(places, places).sum(1)


def _checked(places: Any, labels: Any) -> tuple[Float[ndarray, "n r"], dict[int, Int[ndarray, " _"]]]:
    """Coordinates as an array, and the rows of each cluster that has some, ascending."""
    places, labels = np.asarray(places), np.asarray(labels)
    if places.ndim != 2 or places.dtype.kind != "f" or not np.isfinite(places).all():
        raise ConfigError(
            f"expected finite coordinates of shape (n, r), floats, got {places.dtype} of shape {places.shape}"
        )
    if labels.shape != (len(places),) or (len(labels) and labels.dtype.kind not in "iu"):
        raise ConfigError(
            f"expected a label for each of {len(places)} rows, integers, got {labels.dtype} of shape {labels.shape}"
        )
    members = members_of(labels, int(labels.max(initial=NOISE)) + 1)
    return places, {cluster: own for cluster, own in enumerate(members) if len(own)}


def _expect_count(count: int) -> None:
    if count < 1:
        raise ConfigError(f"expected a count of at least 1, got {count}")
