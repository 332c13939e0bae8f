"""``Atlas``: fit clusters over embeddings, name them, place new patterns among them, save without pickle."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from apmae import bundled
from apmae.artifacts import read_json, read_table, write_json, write_table, write_through
from apmae.atlas.cluster import NOISE, Clusters, cluster, members_of
from apmae.atlas.names import kind_word, name_of
from apmae.atlas.reduce import Reduced, merge_duplicates, reduce
from apmae.config import AtlasConfig, parse
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import CLUSTERS, KINDS, SCORES
from apmae.seeding import generator

VOTERS = 15
"""Fitted points that vote on where a new pattern belongs."""
_REFERENCE = "reference.safetensors"
_PER_POINT = ("embeddings", "labels", "counts", "coordinates", "radii")
_MIN_STRENGTH = 0.5
_FP16 = float(np.finfo(np.float16).max)
_PROBES = 200
"""Members of a cluster outside the reference whose distance to it is measured."""
_NO_RADIUS = -1.0
_BLOCK = 4096
"""Rows placed at once."""


class Placement(NamedTuple):
    """Where new patterns fall in an atlas."""

    cluster: Int[ndarray, " n"]
    """-1 where the atlas does not know the pattern."""
    strength: Float[ndarray, " n"]
    """Share of the nearest fitted points, weighted by nearness, that belong to the cluster; in [0, 1]. Points that were
    merged vote each for itself."""
    coordinates: Float[ndarray, "n r"]
    """Weighted mean of those points' reduced coordinates."""


class Measured(NamedTuple):
    """Hand-made scores of the fitted patterns, from which clusters get names; rows as the embeddings'."""

    values: Float[ndarray, "n s"]
    key_kinds: Float[ndarray, "n c"]
    query_kinds: Float[ndarray, "n c"]


class Atlas:
    """Clusters over embeddings.

    Attributes:
        labels_: (n,) cluster of each fitted row, -1 noise.
        coordinates_: (n, r) reduced coordinates of each fitted row.
        clusters: a pyarrow table, ``schema.CLUSTERS``, one row a cluster, largest first.
        dropped: clusters that the filters left out, by reason.
    """

    def __init__(self, config: AtlasConfig, clusters: pa.Table, reference: dict[str, ndarray]) -> None:
        self.config = config
        self.clusters = clusters
        self._reference = reference
        self.labels_: Int[ndarray, " n"] = np.zeros(0, np.int64)
        self.coordinates_: Float[ndarray, "n r"] = np.zeros((0, config.dimensions), np.float32)
        self.dropped: dict[str, int] = {}

    @classmethod
    def fit(
        cls,
        z: Any,
        *,
        seed: int | np.integer | None = None,
        config: AtlasConfig | None = None,
        num_heads: int | None = None,
        measured: Measured | None = None,
    ) -> "Atlas":
        """Reduce, cluster, filter, name (paper section 5).

        Args:
            z: (n, d) embeddings, array or CPU tensor.
            seed: of UMAP and of the choice of reference points; None takes the configuration's.
            config: settings; the paper's by default.
            num_heads: heads of the whole language model, which scale the smallest cluster; None takes 5 members.
            measured: scores of the same rows; without them clusters are called "cluster 0", "cluster 1", ...

        Raises:
            ConfigError: if there are fewer than two rows, or some are not finite or beyond fp16's range.
        """
        config = config or AtlasConfig()
        if seed is not None:
            config = config.model_copy(update={"seed": int(seed)})
        z = _embeddings(z)
        if np.abs(z).max(initial=0) > _FP16:
            raise ConfigError(
                f"expected embeddings within {_FP16:g}, fp16's range, got {np.abs(z).max():g}; scale them"
            )
        z = _stored(z)
        if len(z) < 2:
            raise ConfigError(f"expected at least 2 embeddings to fit an atlas, got {len(z)}; encode more prompts")
        first, group, counts = merge_duplicates(z)
        reduced = reduce(z[first], config)
        found = cluster(reduced.coordinates, counts, config, num_heads, _nearest(reduced))
        names = _table(found.labels[group], found, measured)
        atlas = cls(config, names, _reference(z[first], reduced, found.labels, counts, config))
        atlas.labels_ = found.labels[group]
        atlas.coordinates_ = reduced.coordinates[group]
        atlas.dropped = found.dropped
        return atlas

    @property
    def names(self) -> dict[int, str]:
        """Name of each cluster; -1 is "unknown"."""
        found = dict(zip(self.clusters["cluster"].to_pylist(), self.clusters["name"].to_pylist(), strict=True))
        return {**found, NOISE: "unknown"}

    def place(self, z: Any) -> Placement:
        """Place new patterns by their nearest fitted points in embedding space.

        A pattern is unknown (-1) if noise or no single cluster wins half of the vote, or if it lies further from the
        winner's nearest member than that cluster's own members do from one another.

        Args:
            z: (n, d) embeddings of the same encoder.

        Raises:
            ConfigError: if d differs from the fitted rows'.
        """
        from sklearn.neighbors import NearestNeighbors

        z = _stored(_embeddings(z))
        points = self._reference["embeddings"].astype(np.float32)
        if z.shape[1] != points.shape[1]:
            raise ConfigError(
                f"expected embeddings of {points.shape[1]} dimensions, as the atlas was fitted on, got {z.shape[1]}; "
                "use the encoder of the atlas"
            )
        if not len(z):
            nowhere = np.zeros((0, self.config.dimensions), np.float32)
            return Placement(np.zeros(0, np.int64), np.zeros(0, np.float32), nowhere)
        search = NearestNeighbors(n_neighbors=min(VOTERS, len(points)), metric=self.config.metric, algorithm="brute")
        search.fit(points)
        blocks = [self._vote(*search.kneighbors(z[start : start + _BLOCK])) for start in range(0, len(z), _BLOCK)]
        return Placement(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _vote(self, distances: Float[ndarray, "n k"], nearest: Int[ndarray, "n k"]) -> Placement:
        labels, coordinates = self._reference["labels"], self._reference["coordinates"]
        copies = self._reference["counts"][nearest]
        votes = np.clip(VOTERS - (copies.cumsum(1) - copies), 0, copies)
        weights = votes / (distances + float(self._reference["scale"][0]))
        weights /= weights.sum(1, keepdims=True)
        voters = labels[nearest]
        share = (weights[:, :, None] * (voters[:, :, None] == voters[:, None, :])).sum(1)  # of each voter's cluster
        best = share.argmax(1)
        rows = np.arange(len(voters))
        winner, strength = voters[rows, best], share[rows, best]
        closest = np.where(voters == winner[:, None], distances, np.inf).argmin(1)
        radius = self._reference["radii"][nearest[rows, closest]]
        known = (strength >= _MIN_STRENGTH) & (distances[rows, closest] <= radius)
        placed = (weights[:, :, None] * coordinates[nearest]).sum(1)
        return Placement(
            np.where(known, winner, NOISE).astype(np.int64), strength.astype(np.float32), placed.astype(np.float32)
        )

    def extend(self, z: Any, labels: Int[ndarray, " n"], coordinates: Float[ndarray, "n r"]) -> None:
        """Add points whose cluster is known to those by which patterns are placed; clusters stay as they were fitted.

        For variants of fitted patterns that the encoder puts elsewhere: the first rows of a pattern are the pattern of
        a shorter prompt, and belong to the same cluster.

        Args:
            z: (n, d) embeddings of the same encoder.
            labels: (n,) their clusters; -1 noise.
            coordinates: (n, r) where they count as lying.

        Raises:
            ConfigError: if the rows differ in number, or a label is not of this atlas.
        """
        from sklearn.neighbors import NearestNeighbors

        z = _stored(_embeddings(z))
        if not len(z) == len(labels) == len(coordinates):
            raise ConfigError(f"expected as many labels and coordinates as embeddings, {len(z)}, got {len(labels)}")
        if len(labels) and not NOISE <= labels.min() <= labels.max() < len(self.clusters):
            raise ConfigError(f"expected clusters in -1-{len(self.clusters) - 1}, got {labels.min()}-{labels.max()}")
        scale = float(self._reference["scale"][0])
        radii = np.full(len(z), _NO_RADIUS, np.float32)
        for own in members_of(labels, len(self.clusters)):
            if len(own) > 1:
                search = NearestNeighbors(n_neighbors=2, metric=self.config.metric, algorithm="brute").fit(z[own])
                radii[own] = _radius(search.kneighbors(z[own])[0][:, 1], scale)
            elif len(own):
                radii[own] = scale
        added = {
            "embeddings": z.astype(np.float16),
            "labels": labels.astype(np.int32),
            "counts": np.ones(len(z), np.int64),
            "coordinates": coordinates.astype(np.float32),
            "radii": radii,
        }
        for name, values in added.items():
            self._reference[name] = np.concatenate([self._reference[name], values])

    def save(self, folder: str | Path) -> list[str]:
        """Write ``clusters.parquet``, ``reference.safetensors`` and, last, ``atlas.json``.

        Returns:
            The files' names.
        """
        folder = Path(folder)
        write_table(folder / "clusters.parquet", self.clusters)
        write_through(folder / _REFERENCE, lambda path: save_file(self._reference, path))
        write_json(folder / "atlas.json", {"config": self.config.model_dump(mode="json"), "dropped": self.dropped})
        return ["clusters.parquet", _REFERENCE, "atlas.json"]

    @classmethod
    def load(cls, folder: str | Path = "bundled") -> "Atlas":
        """Read a saved atlas; ``labels_`` and ``coordinates_`` of the fitted rows are not kept in it.

        Args:
            folder: where it was saved, or "bundled".

        Raises:
            ArtifactError: if it is missing or damaged.
        """
        folder = bundled.atlas() if str(folder) == "bundled" else Path(folder)
        record = read_json(folder / "atlas.json")
        if not isinstance(record, dict) or not {"config", "dropped"} <= record.keys():
            raise ArtifactError(f"expected an atlas in {folder}, its atlas.json is of something else; fit it again")
        try:
            reference = load_file(folder / _REFERENCE)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"expected an atlas in {folder}: {error}; fit it again") from None
        atlas = cls(
            parse(AtlasConfig, record["config"], str(folder)), read_table(folder / "clusters.parquet"), reference
        )
        rows = {len(reference[name]) for name in _PER_POINT if name in reference}
        if len(rows) != 1 or not {*_PER_POINT, "scale"} <= reference.keys():
            raise ArtifactError(
                f"expected an atlas of this version in {folder}, its points differ in number; fit it again"
            )
        atlas.dropped = record["dropped"]
        return atlas


def _embeddings(z: Any) -> Float[ndarray, "n d"]:
    array = np.ascontiguousarray(np.asarray(z), dtype=np.float32)
    if array.ndim != 2:
        raise ConfigError(f"expected embeddings of shape (n, dim), got {array.shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise ConfigError(f"expected finite embeddings, {bad} of {len(array)} rows are not; check the encoder")
    return array


def _stored(z: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """As they come back from disk: rounded to fp16."""
    return np.clip(z, -_FP16, _FP16).astype(np.float16).astype(np.float32)


def _table(labels: Int[ndarray, " n"], found: Clusters, measured: Measured | None) -> pa.Table:
    rows = []
    for number, members in enumerate(members_of(labels, len(found.sizes))):
        row: dict[str, Any] = {
            "cluster": number,
            "name": f"cluster {number}",
            "size": int(found.sizes[number]),
            "mean_distance": float(found.mean_distances[number]),
            "persistence": float(found.persistence[number]),
            "looks_at": "",
            "looks_from": "",
        }
        if measured is not None:
            with np.errstate(invalid="ignore"):
                values = measured.values[members]
                measurable = ~np.isnan(values)
                means = np.where(measurable, values, 0).sum(0) / measurable.sum(0)
            scores: dict[str, float] = dict(zip(SCORES, means.tolist(), strict=True))
            looks_at = kind_word(dict(zip(KINDS, measured.key_kinds[members].mean(0).tolist(), strict=True)))
            row |= {
                "name": name_of(scores, looks_at),
                "looks_at": looks_at,
                "looks_from": kind_word(dict(zip(KINDS, measured.query_kinds[members].mean(0).tolist(), strict=True))),
                **{f"score_{score}": value for score, value in scores.items() if value == value},
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=CLUSTERS)


def _reference(
    z: Float[ndarray, "n d"],
    reduced: Reduced,
    labels: Int[ndarray, " n"],
    counts: Int[ndarray, " n"],
    config: AtlasConfig,
) -> dict[str, ndarray]:
    """What placing needs: a seeded sample of the fitted rows, and how far apart the members of each cluster lie."""
    members = members_of(labels, int(labels.max()) + 1)
    kept = _kept(labels, members, config)
    apart = _apart(reduced, labels, counts)
    chosen = np.zeros(len(z), dtype=bool)
    chosen[kept] = True
    within = [_within(z, own, chosen[own], apart, config) for own in members]
    scale = float(np.median(np.concatenate(within) if within else apart)) or 1.0
    radii = np.array([_radius(distances, scale) for distances in within] + [_NO_RADIUS])  # last: noise, label -1
    return {
        "embeddings": z[kept].astype(np.float16),
        "labels": labels[kept].astype(np.int32),
        "counts": counts[kept].astype(np.int64),
        "coordinates": reduced.coordinates[kept].astype(np.float32),
        "radii": radii[labels[kept]].astype(np.float32),
        "scale": np.array([scale], np.float32),
    }


def _radius(distances: Float[ndarray, " p"], scale: float) -> float:
    """How far from a member a new one may lie, given how far apart members lie."""
    return max(2 * float(np.quantile(distances, 0.95)), scale / 2)


def _kept(labels: Int[ndarray, " n"], members: list[Int[ndarray, " _"]], config: AtlasConfig) -> Int[ndarray, " k"]:
    """A seeded sample, the same share of each cluster, but enough of a small one to win a vote."""
    if len(labels) <= config.reference_points:
        return np.arange(len(labels))
    share = config.reference_points / len(labels)
    kept = []
    for number, own in enumerate([*members, np.flatnonzero(labels == NOISE)]):
        wanted = max(round(share * len(own)), min(2 * VOTERS, len(own)))
        kept.append(generator(config.seed, "reference", number).permutation(own)[:wanted])
    return np.sort(np.concatenate(kept))


def _others(reduced: Reduced) -> Bool[ndarray, "n k"]:
    """Which of the neighbours are other rows."""
    return (reduced.neighbors >= 0) & (reduced.neighbors != np.arange(len(reduced.neighbors))[:, None])


def _nearest(reduced: Reduced) -> Float[ndarray, " n"]:
    """Distance of each row to its nearest other."""
    return np.where(_others(reduced), reduced.distances, np.inf).min(1)


def _apart(reduced: Reduced, labels: Int[ndarray, " n"], counts: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Distance of each row to its nearest other of the same label."""
    other = _others(reduced)
    same = other & (labels[reduced.neighbors] == labels[:, None])
    apart = np.where(same, reduced.distances, np.inf).min(1)
    # Where none is among the neighbours: a merged row has its own copies, another's is further than all neighbours.
    furthest = np.where(other, reduced.distances, 0).max(1)
    return np.where(np.isfinite(apart), apart, np.where(counts > 1, 0, furthest))


def _within(
    z: Float[ndarray, "n d"],
    own: Int[ndarray, " m"],
    inside: Bool[ndarray, " m"],
    apart: Float[ndarray, " n"],
    config: AtlasConfig,
) -> Float[ndarray, " p"]:
    """How far members of one cluster lie from its nearest point of the reference."""
    outside = own[~inside][:_PROBES]
    if not len(outside):
        return apart[own]
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(z[outside], z[own[inside]], metric=config.metric)[1]
