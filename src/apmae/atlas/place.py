"""Placing new patterns among fitted ones, by their nearest neighbours in embedding space.

Neighbours are found among at most 20 000 fitted points (``search.Search``), in a time that is linear in the number
of new patterns. The radius of a cluster follows from its members' nearest distances (``points.kept_rows``).

Axes: n rows, d embedding, r reduced dimensions, k neighbours, m members of a cluster, p points of the reference.
"""

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from apmae.atlas.points import NO_RADIUS, distinct_rows, kept_rows
from apmae.atlas.rows import HEADS, Where, head_numbers
from apmae.atlas.vote import VOTERS, weights_of, winner_of
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
from apmae.schema import NOISE

if TYPE_CHECKING:
    from apmae.atlas.search import Search

_ASKED = 60
"""Points asked if some may not vote: the nearest of clusters whose names are true may be behind those of others."""
_MIN_STRENGTH = 0.5
_UNSEEN_STRENGTH = 0.7
"""The same for patterns of models that were not fitted, if their own scores do not confirm the vote. Of 0.5 to 0.8 the
first with which, for each of eight models, nine in ten of the kinds that win among the other seven models' patterns
are the pattern's own (``tools/make_bundled.py strengths``)."""
_SHOWN = 3
_BLOCK = 4096
"""Rows placed at a time."""
_REASON = "<U9"
"""Holds every reason."""
_FORMS = {
    "embeddings": (2, "f"),
    "labels": (1, "i"),
    "counts": (1, "i"),
    "coordinates": (2, "f"),
    "radii": (1, "f"),
    "heads": (1, "i"),
    "scale": (1, "f"),
}
"""Axes of each array of a reference that is saved, and the kind of its numbers."""


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
    exemplars: Int[ndarray, "n c"]
    """Up to three members that resemble the pattern most: of its cluster, or of any if it is in none. Rows of
    ``Atlas.origins``; -1 after the last, for a pattern that fails the gate, and if the atlas does not know its rows."""
    exemplar_clusters: Int[ndarray, "n c"]
    """The cluster of each; -1 after the last."""
    exemplar_distances: Float[ndarray, "n c"]
    """How far each is, in radii of its cluster, the nearest first. Infinite after the last."""
    reason: Shaped[ndarray, " n"]
    """Why a pattern is in no cluster; "" if it is in one. "structure": it fails the gate. "head": no pattern of its
    head was fitted (clusters per head). "vote": noise wins the vote of the nearest points, or no behaviour wins enough
    of it. "far": it is further from the winner than the winner's members are from one another; a wider cluster that
    lost the vote may be nearer in radii. "name": by its nearest points it would be in a cluster, but the name is not
    true of its own scores, and there is no other near enough."""


class _Points(NamedTuple):
    """The arrays that placing needs."""

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
    origin: Int[ndarray, " p"]
    """The row of ``Atlas.origins`` that each point is; -1 if unknown."""
    scale: Float[ndarray, " 1"]
    """Median distance of a member to its nearest other member: what counts as near."""


class Reference(_Points):
    """What placing needs: a seeded sample of the fitted rows, and how far members of a cluster are from one another.

    It does not change. The search that it prepares for a first placement serves all later ones.
    """

    @classmethod
    def of(
        cls,
        z: Float[ndarray, "n d"],
        labels: Int[ndarray, " n"],
        coordinates: Float[ndarray, "n r"],
        nearest: Float[ndarray, " n"],
        config: AtlasConfig,
        where: Where | None = None,
        origin: Int[ndarray, " n"] | None = None,
    ) -> "Reference":
        """Choose the points, merging equal rows, and measure how far members are from one another.

        Args:
            z: fitted embeddings, rounded to fp16.
            labels: from ``Clusterer``, as are the next two.
            coordinates: reduced coordinates.
            nearest: distance of each row to the nearest other row of its label.
            config: number of points, metric, seed.
            where: layer and head of each row, if clusters are of single heads.
            origin: a number for each row, by which it is known later; None: its own.
        """
        heads = np.full(len(z), -1) if where is None else head_numbers(where)
        origin = np.arange(len(z)) if origin is None else origin
        first, counts = distinct_rows(z, heads)
        own = z if len(first) == len(z) else z[first]
        kept = kept_rows(own, labels[first], nearest[first], heads[first], config, fewest=2 * VOTERS)
        points = first[kept.rows]
        return cls(
            embeddings=z[points].astype(np.float16),
            labels=labels[points].astype(np.int32),
            counts=counts[kept.rows].astype(np.int64),
            coordinates=coordinates[points].astype(np.float32),
            radii=kept.radii[labels[points]].astype(np.float32),
            heads=heads[points].astype(np.int32),
            origin=origin[points].astype(np.int64),
            scale=np.array([kept.scale], np.float32),
        )

    @property
    def where(self) -> Where | None:
        """Layer and head of each point, if clusters are of single heads."""
        return None if len(self.heads) and (self.heads < 0).all() else divmod(self.heads.astype(np.int64), HEADS)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Shaped[ndarray, "..."]]) -> "Reference | None":
        """From what :meth:`tensors` returns, origins unknown; None if one is missing or they do not fit together."""
        if any(name not in tensors or tensors[name].ndim != ndim for name, (ndim, _) in _FORMS.items()):
            return None
        if any(tensors[name].dtype.kind != kind for name, (_, kind) in _FORMS.items()):
            return None
        unknown = np.full(len(tensors["labels"]), -1, np.int64)
        found = cls(**{name: tensors[name] for name in _FORMS}, origin=unknown)
        return found if len({len(values) for values in found[:-1]}) == len(found.scale) == 1 else None

    def tensors(self) -> dict[str, Shaped[ndarray, "..."]]:
        """The arrays by name, as they are saved: without ``origin``, because origins are saved point by point."""
        return {name: values for name, values in self._asdict().items() if name in _FORMS}

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
        placed = _nowhere(len(z), self.coordinates.shape[1], "head")
        own = head_numbers(where)
        for head in np.unique(own).tolist():
            rows = np.flatnonzero(own == head)
            part = self._of_head(head)
            if not len(part.labels):
                continue  # a head that was not fitted
            some = part._place(z[rows], metric, behaviours, None if true is None else true[rows], unseen)
            for whole, values in zip(placed, some, strict=True):
                whole[rows] = values
        return placed

    @cached_property
    def _heads(self) -> "dict[int, Reference]":
        return {}

    @cached_property
    def _searches(self) -> "dict[str, Search]":
        return {}

    def _of_head(self, head: int) -> "Reference":
        """The points of one head."""
        if head not in self._heads:
            self._heads[head] = self._of_points(np.flatnonzero(self.heads == head))
        return self._heads[head]

    def _of_points(self, points: Int[ndarray, " k"]) -> "Reference":
        return self._replace(**{name: values[points] for name, values in self._asdict().items() if name != "scale"})

    def _search(self, metric: str) -> "Search":
        from apmae.atlas.search import Search

        if metric not in self._searches:
            self._searches[metric] = Search(self.embeddings, metric, _ASKED)
        return self._searches[metric]

    def _place(
        self,
        z: Float[ndarray, "n d"],
        metric: str,
        behaviours: Int[ndarray, " b"],
        true: Bool[ndarray, "n c"] | None,
        unseen: bool,
    ) -> Placement:
        if not len(z) or not len(self.labels):
            return _nowhere(len(z), self.coordinates.shape[1], "vote")
        search, asked = self._search(metric), VOTERS if true is None or unseen else _ASKED
        blocks = []
        for start in range(0, len(z), _BLOCK):
            found = search.nearest(z[start : start + _BLOCK], asked)
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
        copies, voters, radii = self.counts[nearest], self.labels[nearest], self.radii[nearest]
        does, apart = behaviours[voters], distances + float(self.scale[0])
        near = weights_of(copies, apart)
        weights, may = near, np.ones(voters.shape, bool)
        if true is not None:
            may = np.take_along_axis(np.column_stack([true, np.ones(len(true), bool)]), voters, 1)  # last: noise, -1
            weights = near if unseen else weights_of(copies * may, apart)
        least = _UNSEEN_STRENGTH if unseen and true is None else _MIN_STRENGTH
        winner, strength, within = winner_of(weights, may, voters, does, distances, radii)
        won = (winner != NOISE) & (strength >= least)
        known = won & within
        if true is not None:  # what the nearest points alone would have said of the others
            rest, given = ~known, (near, np.ones(voters.shape, bool), voters, does, distances, radii)
            other, share, within[rest] = winner_of(*(values[rest] for values in given))
            won[rest] = (other != NOISE) & (share >= least)
        reason = np.select([known, ~won, ~within], ["", "vote", "far"], "name").astype(_REASON)
        placed = (near[:, :, None] * self.coordinates[nearest]).sum(1)
        return Placement(
            np.where(known, winner, NOISE).astype(np.int64),
            strength.astype(np.float32),
            placed.astype(np.float32),
            *self._nearest(distances, nearest),
            *self._exemplars(distances, nearest, np.where(known, winner, NOISE)),
            reason,
        )

    def _exemplars(
        self, distances: Float[ndarray, "n k"], nearest: Int[ndarray, "n k"], cluster: Int[ndarray, " n"]
    ) -> tuple[Int[ndarray, "n c"], Int[ndarray, "n c"], Float[ndarray, "n c"]]:
        """The nearest members of each row's cluster; of any cluster if it is in none."""
        labels, origin = self.labels[nearest], self.origin[nearest]
        own = (labels == cluster[:, None]) | ((cluster == NOISE)[:, None] & (labels != NOISE))
        apart = np.where(own & (origin >= 0), distances / np.maximum(self.radii[nearest], 1e-9), np.inf)
        order = np.argsort(apart, axis=1, kind="stable")[:, :_SHOWN]
        missing = ((0, 0), (0, _SHOWN - order.shape[1]))  # where there are fewer points
        far = np.pad(np.take_along_axis(apart, order, 1), missing, constant_values=np.inf).astype(np.float32)
        found, of = (np.pad(np.take_along_axis(x, order, 1), missing, constant_values=-1) for x in (origin, labels))
        return np.where(np.isfinite(far), found, -1), np.where(np.isfinite(far), of, NOISE).astype(np.int64), far

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
        return self._of_points(np.flatnonzero(self.labels != NOISE))

    def extended(
        self,
        z: Float[ndarray, "n d"],
        labels: Int[ndarray, " n"],
        coordinates: Float[ndarray, "n r"],
        where: Where | None = None,
        origin: Int[ndarray, " n"] | None = None,
    ) -> "Reference":
        """A reference with more points of the same clusters.

        Args:
            z: embeddings, rounded to fp16.
            labels: their clusters, -1 for noise.
            coordinates: their reduced coordinates.
            where: layer and head of each, if clusters are of single heads.
            origin: the row of ``Atlas.origins`` that each is; None: unknown.

        Raises:
            ConfigError: if a row is in a cluster of another head.
        """
        # A cluster's radius stays that of its fitted members: variants lie apart and would make it several times wider.
        last = max(int(self.labels.max(initial=NOISE)), int(labels.max(initial=NOISE)))
        fitted, head_of = np.full(last + 2, NO_RADIUS), np.full(last + 2, -1)
        np.maximum.at(fitted, self.labels, self.radii)
        head_of[self.labels] = self.heads
        fitted[NOISE], head_of[NOISE] = NO_RADIUS, -1
        heads = np.full(len(z), -1) if where is None else head_numbers(where)
        wrong = np.flatnonzero((head_of[labels] >= 0) & (head_of[labels] != heads))
        if len(wrong):
            one = wrong[0]
            numbers = int(head_of[labels[one]]), int(heads[one])
            expected, got = ("{}.{}".format(*divmod(number, HEADS)) for number in numbers)
            raise ConfigError(
                f"expected rows of cluster {labels[one]} to be of its head, {expected}, got one of {got}; give each "
                "row a cluster of its own head"
            )
        added = {
            "embeddings": z.astype(np.float16),
            "labels": labels.astype(np.int32),
            "counts": np.ones(len(z), np.int64),
            "coordinates": coordinates.astype(np.float32),
            "radii": fitted[labels].astype(np.float32),
            "heads": heads.astype(np.int32),
            "origin": np.full(len(z), -1, np.int64) if origin is None else origin.astype(np.int64),
        }
        return self._replace(**{name: np.concatenate([getattr(self, name), new]) for name, new in added.items()})


def _nowhere(rows: int, dimensions: int, reason: str) -> Placement:
    """Rows of which nothing is known."""
    return Placement(
        np.full(rows, NOISE, np.int64),
        np.zeros(rows, np.float32),
        np.zeros((rows, dimensions), np.float32),
        np.full((rows, _SHOWN), NOISE, np.int64),
        np.full((rows, _SHOWN), np.inf, np.float32),
        np.full((rows, _SHOWN), -1, np.int64),
        np.full((rows, _SHOWN), NOISE, np.int64),
        np.full((rows, _SHOWN), np.inf, np.float32),
        np.full(rows, reason, _REASON),
    )
