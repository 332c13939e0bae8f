"""Placing new patterns among fitted ones, by their nearest neighbours in embedding space.

Neighbours are found by brute force among at most 20 000 fitted points: exact, without compilation, and linear in the
number of new patterns. The radius of a cluster is twice the 95th percentile of its members' nearest distances.

Axes: n rows, d embedding, r reduced dimensions, k neighbours, m members of a cluster, p points of the reference.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from apmae.atlas.rows import Where, members_of, merge_duplicates
from apmae.config import AtlasConfig
from apmae.schema import NOISE
from apmae.seeding import generator

VOTERS = 15
"""Fitted points that vote for the cluster of a new pattern."""
_MIN_STRENGTH = 0.5
_PROBES = 200
"""For the radius of a cluster, the distance to the reference is measured for at most this many other members."""
_NO_RADIUS = -1.0
_SHOWN = 3
_BLOCK = 4096
"""Rows placed at a time."""


class Placement(NamedTuple):
    """Where new patterns belong in an atlas."""

    cluster: Int[ndarray, " n"]
    """-1 where the atlas does not know the pattern."""
    strength: Float[ndarray, " n"]
    """Share of the nearest fitted points, weighted by nearness, that belong to the cluster or to others of its
    behaviour; in [0, 1]. Merged points have one vote each."""
    coordinates: Float[ndarray, "n r"]
    """Weighted mean of those points' reduced coordinates."""
    nearest: Int[ndarray, "n c"]
    """Up to three clusters among those points, whether the pattern is in one or not, the nearest first in the measure
    of ``distances``; -1 after the last."""
    distances: Float[ndarray, "n c"]
    """How far the nearest point of each is, in radii of the cluster: a pattern further than 1 is not in it. Infinite
    after the last."""


class Reference(NamedTuple):
    """What placing needs: a seeded sample of the fitted rows, and how far members of a cluster are from one another."""

    embeddings: Float[ndarray, "p d"]
    """float16."""
    labels: Int[ndarray, " p"]
    """Cluster of each point, -1 for noise."""
    counts: Int[ndarray, " p"]
    """How often each point occurred among the fitted rows."""
    coordinates: Float[ndarray, "p r"]
    radii: Float[ndarray, " p"]
    """How far from each point a new pattern of its cluster may be; below 0 for noise."""
    scale: Float[ndarray, " 1"]
    """Median distance of a member to its nearest other member: what counts as near."""

    @classmethod
    def of(
        cls,
        z: Float[ndarray, "n d"],
        labels: Int[ndarray, " n"],
        coordinates: Float[ndarray, "n r"],
        nearest: Float[ndarray, " n"],
        config: AtlasConfig,
    ) -> "Reference":
        """Choose the points, merging equal rows, and measure how far members are from one another.

        Args:
            z: fitted embeddings, rounded to fp16.
            labels: from ``Clusterer``, as are the next two.
            coordinates: reduced coordinates.
            nearest: distance of each row to the nearest other row of its label.
            config: number of points, metric, seed.
        """
        first, _, counts = merge_duplicates(z)
        z, labels, coordinates, nearest = z[first], labels[first], coordinates[first], nearest[first]
        members = members_of(labels, int(labels.max()) + 1)
        points = _sample(labels, members, config)
        chosen = np.zeros(len(z), dtype=bool)
        chosen[points] = True
        spread = [_member_distances(z, own, chosen[own], nearest, config) for own in members]
        scale = float(np.median(np.concatenate(spread) if spread else nearest)) or 1.0
        radii = np.array([_radius(distances, scale) for distances in spread] + [_NO_RADIUS])  # last: noise, label -1
        return cls(
            embeddings=z[points].astype(np.float16),
            labels=labels[points].astype(np.int32),
            counts=counts[points].astype(np.int64),
            coordinates=coordinates[points].astype(np.float32),
            radii=radii[labels[points]].astype(np.float32),
            scale=np.array([scale], np.float32),
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, Shaped[ndarray, "..."]]) -> "Reference | None":
        """From arrays by name, as ``_asdict`` returns them; None if one is missing or their lengths differ."""
        if not set(cls._fields) <= tensors.keys():
            return None
        found = cls(**{name: tensors[name] for name in cls._fields})
        return found if len({len(values) for values in found[:-1]}) == 1 else None

    def place(
        self,
        z: Float[ndarray, "n d"],
        metric: str,
        where: Where | None = None,
        behaviours: Int[ndarray, " c"] | None = None,
    ) -> Placement:
        """Place new patterns by the vote of their nearest points: for a behaviour, then for a cluster that has it.

        Clusters split a behaviour by strength and width. A pattern between two of them is known all the same.

        Args:
            z: embeddings of the points' width, rounded to fp16.
            metric: distance between embeddings.
            where: layer and head of each row; not used if the points are of all heads.
            behaviours: of each cluster, a number; None: every cluster has its own.
        """
        from sklearn.neighbors import NearestNeighbors

        points = self.embeddings.astype(np.float32)
        if not len(z):
            nowhere, none = np.zeros((0, self.coordinates.shape[1]), np.float32), np.zeros((0, _SHOWN), np.float32)
            return Placement(np.zeros(0, np.int64), np.zeros(0, np.float32), nowhere, none.astype(np.int64), none)
        search = NearestNeighbors(n_neighbors=min(VOTERS, len(points)), metric=metric, algorithm="brute")
        search.fit(points)
        if behaviours is None:
            behaviours = np.arange(int(self.labels.max(initial=NOISE)) + 1)
        behaviours = np.append(behaviours, NOISE)  # last: of noise, label -1
        blocks = []
        for start in range(0, len(z), _BLOCK):
            distances, nearest = search.kneighbors(z[start : start + _BLOCK])
            blocks.append(self._vote(distances, nearest, behaviours))
        return Placement(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _vote(
        self, distances: Float[ndarray, "n k"], nearest: Int[ndarray, "n k"], behaviours: Int[ndarray, " c"]
    ) -> Placement:
        copies = self.counts[nearest]
        votes = np.clip(VOTERS - (copies.cumsum(1) - copies), 0, copies)
        weights = votes / (distances + float(self.scale[0]))
        weights /= weights.sum(1, keepdims=True)
        voters = self.labels[nearest]
        does = behaviours[voters]
        share = (weights[:, :, None] * (does[:, :, None] == does[:, None, :])).sum(1)  # of each voter's behaviour
        best = share.argmax(1)
        rows = np.arange(len(voters))
        behaviour, strength = does[rows, best], share[rows, best]
        own = (weights[:, :, None] * (voters[:, :, None] == voters[:, None, :])).sum(1)  # of each voter's cluster
        winner = voters[rows, np.where(does == behaviour[:, None], own, -1.0).argmax(1)]
        closest = np.where(voters == winner[:, None], distances, np.inf).argmin(1)
        radius = self.radii[nearest[rows, closest]]
        known = (strength >= _MIN_STRENGTH) & (distances[rows, closest] <= radius)
        placed = (weights[:, :, None] * self.coordinates[nearest]).sum(1)
        return Placement(
            np.where(known, winner, NOISE).astype(np.int64),
            strength.astype(np.float32),
            placed.astype(np.float32),
            *self._nearest(distances, nearest),
        )

    def _nearest(
        self, distances: Float[ndarray, "n k"], nearest: Int[ndarray, "n k"]
    ) -> tuple[Int[ndarray, "n c"], Float[ndarray, "n c"]]:
        """The nearest clusters among the voters, and how far they are in radii."""
        labels, radii = self.labels[nearest].astype(np.int64), self.radii[nearest]
        relative = np.where(labels == NOISE, np.inf, distances / np.maximum(radii, 1e-9))
        clusters = np.full((len(labels), _SHOWN), NOISE, np.int64)
        far = np.full((len(labels), _SHOWN), np.inf, np.float32)
        rows = np.arange(len(labels))
        for place in range(_SHOWN):
            best = relative.argmin(1)
            found = np.isfinite(relative[rows, best])
            clusters[found, place] = labels[rows, best][found]
            far[found, place] = relative[rows, best][found]
            relative = np.where(labels == labels[rows, best][:, None], np.inf, relative)
        return clusters, far

    def without_noise(self) -> "Reference":
        """The points that are in a cluster."""
        kept = self.labels != NOISE
        points = {name: values[kept] for name, values in self._asdict().items() if name != "scale"}
        return self._replace(**points)

    def extended(
        self, z: Float[ndarray, "n d"], labels: Int[ndarray, " n"], coordinates: Float[ndarray, "n r"]
    ) -> "Reference":
        """A reference with more points of the same clusters.

        Args:
            z: embeddings, rounded to fp16.
            labels: their clusters, -1 for noise.
            coordinates: their reduced coordinates.
        """
        # A cluster's radius stays that of its fitted members: variants lie apart and would make it several times wider.
        last = max(int(self.labels.max(initial=NOISE)), int(labels.max(initial=NOISE)))
        fitted = np.full(last + 2, _NO_RADIUS)
        np.maximum.at(fitted, self.labels, self.radii)
        fitted[NOISE] = _NO_RADIUS
        radii = fitted[labels].astype(np.float32)
        added = {
            "embeddings": z.astype(np.float16),
            "labels": labels.astype(np.int32),
            "counts": np.ones(len(z), np.int64),
            "coordinates": coordinates.astype(np.float32),
            "radii": radii,
        }
        return self._replace(**{name: np.concatenate([getattr(self, name), new]) for name, new in added.items()})


def _radius(distances: Float[ndarray, " p"], scale: float) -> float:
    """How far from a member a new pattern may be, given the distances between members."""
    return max(2 * float(np.quantile(distances, 0.95)), scale / 2)


def _sample(labels: Int[ndarray, " n"], members: list[Int[ndarray, " _"]], config: AtlasConfig) -> Int[ndarray, " k"]:
    """Numbers of a seeded sample: the same share of each cluster, but enough of a small one to win a vote."""
    if len(labels) <= config.reference_points:
        return np.arange(len(labels))
    share = config.reference_points / len(labels)
    chosen = []
    for number, own in enumerate([*members, np.flatnonzero(labels == NOISE)]):
        wanted = max(round(share * len(own)), min(2 * VOTERS, len(own)))
        chosen.append(generator(config.seed, "reference", number).permutation(own)[:wanted])
    return np.sort(np.concatenate(chosen))


def _member_distances(
    z: Float[ndarray, "n d"],
    own: Int[ndarray, " m"],
    inside: Bool[ndarray, " m"],
    nearest: Float[ndarray, " n"],
    config: AtlasConfig,
) -> Float[ndarray, " p"]:
    """Distances of members of one cluster to the nearest point of the reference that is in it."""
    outside = own[~inside][:_PROBES]
    if not len(outside):
        return nearest[own]
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(z[outside], z[own[inside]], metric=config.metric)[1]
