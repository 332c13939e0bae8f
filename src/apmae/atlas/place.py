"""Placing new patterns among fitted ones, by their nearest neighbours in embedding space.

Neighbours are found among at most 20 000 fitted points (``search.Search``), in a time that is linear in the number
of new patterns. The radius of a cluster is twice the 95th percentile of its members' nearest distances.

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
_ASKED = 60
"""Points asked if some may not vote: the nearest of clusters whose names are true may be behind those of others."""
_MIN_STRENGTH = 0.5
_UNSEEN_STRENGTH = 0.7
"""The same for patterns of models that were not fitted, if their own scores do not confirm the vote. Of 0.5 to 0.8 the
first with which, for each of eight models, nine in ten of the kinds that win among the other seven models' patterns
are the pattern's own (``tools/make_bundled.py strengths``)."""
_PROBES = 200
"""For the radius of a cluster, the distance to the reference is measured for at most this many other members."""
_NO_RADIUS = -1.0
_SHOWN = 3
_HEADS = 4096
"""More heads than any layer has."""
_BLOCK = 4096
"""Rows placed at a time."""
_FORMS = {
    "embeddings": (2, "f"),
    "labels": (1, "i"),
    "counts": (1, "i"),
    "coordinates": (2, "f"),
    "radii": (1, "f"),
    "heads": (1, "i"),
    "scale": (1, "f"),
}
"""Axes of each array of a reference, and the kind of its numbers."""


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
    heads: Int[ndarray, " p"]
    """The head that each point is of (``head_numbers``), if clusters are of single heads; else -1."""
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
        where: Where | None = None,
    ) -> "Reference":
        """Choose the points, merging equal rows, and measure how far members are from one another.

        Args:
            z: fitted embeddings, rounded to fp16.
            labels: from ``Clusterer``, as are the next two.
            coordinates: reduced coordinates.
            nearest: distance of each row to the nearest other row of its label.
            config: number of points, metric, seed.
            where: layer and head of each row, if clusters are of single heads.
        """
        heads = np.full(len(z), -1) if where is None else head_numbers(where)
        first, _, counts = merge_duplicates(z if where is None else np.column_stack([z, *where]))
        heads = heads[first]
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
            heads=heads[points].astype(np.int32),
            scale=np.array([scale], np.float32),
        )

    @property
    def where(self) -> Where | None:
        """Layer and head of each point, if clusters are of single heads."""
        return None if (self.heads < 0).all() else divmod(self.heads.astype(np.int64), _HEADS)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Shaped[ndarray, "..."]]) -> "Reference | None":
        """From arrays by name, as ``_asdict`` returns them; None if one is missing or they do not fit together."""
        if any(name not in tensors or tensors[name].ndim != ndim for name, (ndim, _) in _FORMS.items()):
            return None
        if any(tensors[name].dtype.kind != kind for name, (_, kind) in _FORMS.items()):
            return None
        found = cls(**{name: tensors[name] for name in cls._fields})
        return found if len({len(values) for values in found[:-1]}) == len(found.scale) == 1 else None

    def is_sound(self, clusters: int, config: AtlasConfig) -> bool:
        """Whether the arrays can be those of an atlas.

        Values are finite, each point occurred, labels are noise or those of so many clusters, each of which has points,
        members have a radius and noise has none, and coordinates and heads are as the settings say.
        """
        if not all(np.isfinite(values).all() for values in self) or self.coordinates.shape[1] != config.dimensions:
            return False
        inside = self.labels >= 0
        labelled = np.array_equal(np.unique(self.labels[inside]), np.arange(clusters)) and (self.labels >= NOISE).all()
        of_heads = (self.heads >= 0).any() == (config.clusterer == "per_head") and (self.heads >= -1).all()
        near = ((self.radii >= 0) == inside).all() and self.scale[0] > 0
        return bool(labelled and of_heads and near and (self.counts > 0).all())

    def place(
        self,
        z: Float[ndarray, "n d"],
        metric: str,
        where: Where | None = None,
        behaviours: Int[ndarray, " c"] | None = None,
        true: Bool[ndarray, "n c"] | None = None,
        *,
        unseen: bool = False,
    ) -> Placement:
        """Place new patterns by the vote of their nearest points: for a behaviour, then for a cluster that has it.

        Clusters split a behaviour by strength and width. A pattern between two of them is known all the same.

        Args:
            z: embeddings of the points' width, rounded to fp16.
            metric: distance between embeddings.
            where: layer and head of each row; used if the points' clusters are of single heads.
            behaviours: of each cluster, a number; None: every cluster has its own.
            true: which clusters' names are true of each row; points of the others have no vote. None: all.
            unseen: whether the rows are of models that were not fitted. Then all points vote, and a row is in a true
                cluster of the behaviour that wins or in none; without ``true`` that has to win 0.7 of the vote.
        """
        if behaviours is None:
            behaviours = np.arange(int(self.labels.max(initial=NOISE)) + 1)
        behaviours = np.append(behaviours, NOISE)  # last: of noise, label -1
        if where is None or (self.heads < 0).all():
            return self._place(z, metric, behaviours, true, unseen)
        placed = _nowhere(len(z), self.coordinates.shape[1])
        own = head_numbers(where)
        for head in np.unique(own):
            rows, points = np.flatnonzero(own == head), self.heads == head
            if not points.any():
                continue  # a head that was not fitted
            part = self._replace(**{name: values[points] for name, values in self._asdict().items() if name != "scale"})
            some = part._place(z[rows], metric, behaviours, None if true is None else true[rows], unseen)
            for whole, values in zip(placed, some, strict=True):
                whole[rows] = values
        return placed

    def _place(
        self,
        z: Float[ndarray, "n d"],
        metric: str,
        behaviours: Int[ndarray, " b"],
        true: Bool[ndarray, "n c"] | None,
        unseen: bool,
    ) -> Placement:
        if not len(z):
            return _nowhere(0, self.coordinates.shape[1])
        from apmae.atlas.search import Search

        search = Search(self.embeddings, metric, VOTERS if true is None or unseen else _ASKED)
        blocks = []
        for start in range(0, len(z), _BLOCK):
            found = search.nearest(z[start : start + _BLOCK])
            voting = None if true is None else true[start : start + _BLOCK]
            blocks.append(self._vote(found.distances, found.indices, behaviours, voting, unseen))
        return Placement(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _vote(
        self,
        distances: Float[ndarray, "n k"],
        nearest: Int[ndarray, "n k"],
        behaviours: Int[ndarray, " b"],
        true: Bool[ndarray, "n c"] | None,
        unseen: bool,
    ) -> Placement:
        copies = self.counts[nearest]
        voters = self.labels[nearest]
        near = _weights(copies, distances + float(self.scale[0]))
        may = np.ones(voters.shape, bool)
        if true is not None:
            may = np.take_along_axis(np.column_stack([true, np.ones(len(true), bool)]), voters, 1)  # last: noise, -1
        weights = near if unseen else _weights(copies * may, distances + float(self.scale[0]))
        does = behaviours[voters]
        share = (weights[:, :, None] * (does[:, :, None] == does[:, None, :])).sum(1)  # of each voter's behaviour
        best = share.argmax(1)
        rows = np.arange(len(voters))
        behaviour, strength = does[rows, best], share[rows, best]
        own = (weights[:, :, None] * (voters[:, :, None] == voters[:, None, :])).sum(1)  # of each voter's cluster
        able = may & (does == behaviour[:, None])
        winner = voters[rows, np.where(able, own, -1.0).argmax(1)]
        closest = np.where(voters == winner[:, None], distances, np.inf).argmin(1)
        radius = self.radii[nearest[rows, closest]]
        least = _UNSEEN_STRENGTH if unseen and true is None else _MIN_STRENGTH
        known = able.any(1) & (strength >= least) & (distances[rows, closest] <= radius)
        placed = (near[:, :, None] * self.coordinates[nearest]).sum(1)
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
            "heads": np.full(len(z), -1, np.int32),
        }
        return self._replace(**{name: np.concatenate([getattr(self, name), new]) for name, new in added.items()})


def _weights(copies: Int[ndarray, "n k"], distances: Float[ndarray, "n k"]) -> Float[ndarray, "n k"]:
    """Weights of the nearest points that vote, ``VOTERS`` in all if so many may; the nearer the more."""
    weights = np.clip(VOTERS - (copies.cumsum(1) - copies), 0, copies) / distances
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


def head_numbers(where: Where) -> Int[ndarray, " n"]:
    """One number for each layer and head."""
    return where[0].astype(np.int64) * _HEADS + where[1]


def _nowhere(rows: int, dimensions: int) -> Placement:
    """Rows of which nothing is known."""
    return Placement(
        np.full(rows, NOISE, np.int64),
        np.zeros(rows, np.float32),
        np.zeros((rows, dimensions), np.float32),
        np.full((rows, _SHOWN), NOISE, np.int64),
        np.full((rows, _SHOWN), np.inf, np.float32),
    )


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
