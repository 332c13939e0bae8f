"""From embeddings to clusters: a sample is clustered, the rest is placed among it, and clusters are named."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.atlas.clusterers import PaperClusterer, StableClusterer
from apmae.atlas.heads import PerHeadClusterer, share_at_once
from apmae.atlas.names import Measured, leading_kinds, named_clusters
from apmae.atlas.parts import parts_of
from apmae.atlas.place import Reference
from apmae.atlas.rows import Where, members_of, sample_of
from apmae.config import AtlasConfig
from apmae.schema import NOISE

_BLOCK = 65_536
"""Rows placed at a time."""


class FittedRows(NamedTuple):
    """What was found among embeddings; ``Atlas`` says what the parts are."""

    labels: Int[ndarray, " n"]
    coordinates: Float[ndarray, "n r"]
    clusters: pa.Table
    reference: Reference
    dropped: dict[str, int]
    rows: int
    """How many rows clusters were looked for in; the others were placed."""


def fit_rows(
    z: Float[ndarray, "n d"],
    passing: Bool[ndarray, " n"],
    config: AtlasConfig,
    *,
    heads: Where | None,
    num_heads: int | None,
    measured: Measured | None,
    prompts: Int[ndarray, " n"] | None,
) -> FittedRows:
    """Cluster, place and name rows that were checked; arguments are those of ``Atlas.fit``.

    Args:
        z: embeddings in float16.
        passing: which rows pass the gate; the others are in no cluster.
        config: settings.
        heads: layer and head of each row; None if unknown.
        num_heads: heads of the whole language model.
        measured: scores of the rows, for names.
        prompts: the prompt of each row.
    """
    passed, single = np.flatnonzero(passing), config.clusterer == "per_head"
    at_once = share_at_once(_of(heads, passed)) if single else 1.0
    rows = sample_of(passed, config.fit_points, z.shape[1], config.seed, at_once)
    own = z if len(rows) == len(z) else z[rows]
    own = own if single else own.astype(np.float32)  # heads are made float32 one at a time
    at = _of(heads, rows)
    found = _clusterer(config, num_heads).fit(own, at, None if prompts is None else prompts[rows])
    kinds = leading_kinds(measured) if config.by_kind and measured is not None else None
    if kinds is not None:
        found = parts_of(found, own.astype(np.float32), kinds[rows], config.metric)
    reference = Reference.of(
        own,
        found.labels_,
        found.coordinates_,
        found.nearest_distances_,
        config,
        at if single else None,
        rows,
    )
    labels, coordinates = np.full(len(z), NOISE, np.int64), np.zeros((len(z), config.dimensions), np.float32)
    labels[rows], coordinates[rows] = found.labels_, found.coordinates_
    same = None
    if kinds is not None:
        of_part = np.array([kinds[rows[own[0]]] for own in members_of(found.labels_, len(found.stability_))], np.int64)
        same = kinds[:, None] == of_part
        left = rows[found.labels_ == NOISE]
        reference = reference.without_noise()
        labels[left] = reference.place(z[left], config.metric, _of(heads, left), true=same[left]).cluster
        joined = left[labels[left] != NOISE]
        to = _of(heads, joined) if single else None
        reference = reference.extended(z[joined], labels[joined], coordinates[joined], to, joined)
    others = np.setdiff1d(np.arange(len(z)), rows, assume_unique=True)
    for begin in range(0, len(others), _BLOCK):  # embeddings may lie in a file that is larger than memory
        some = others[begin : begin + _BLOCK]
        placed = reference.place(z[some], config.metric, _of(heads, some), true=None if same is None else same[some])
        labels[some] = np.where(passing[some], placed.cluster, NOISE)
        coordinates[some] = placed.coordinates  # somewhere near what they resemble, if they fail the gate
    # What was placed may have made another cluster the largest.
    order = np.argsort(-np.bincount(labels[labels != NOISE], minlength=len(found.stability_)), kind="stable")
    number = np.append(np.argsort(order), NOISE)  # last: of noise, label -1
    labels, reference = number[labels], reference._replace(labels=number[reference.labels].astype(np.int32))
    clusters = named_clusters(
        labels, found.mean_distances_[order], found.stability_[order], found.seed_stability_[order], measured
    )
    return FittedRows(labels, coordinates, clusters, reference, found.dropped_, len(rows))


def _of(heads: Where | None, rows: Int[ndarray, " k"]) -> tuple[Int[ndarray, " k"], Int[ndarray, " k"]] | None:
    """The heads of some rows."""
    return None if heads is None else (heads[0][rows], heads[1][rows])


def _clusterer(config: AtlasConfig, num_heads: int | None) -> StableClusterer | PaperClusterer | PerHeadClusterer:
    if config.clusterer == "per_head":
        return PerHeadClusterer(config)
    return PaperClusterer(config, num_heads) if config.clusterer == "paper" else StableClusterer(config)
