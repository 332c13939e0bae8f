"""Which clusters of one atlas are found again in another: of other models, sizes, languages, training steps or prompts.

Each atlas keeps some of its fitted patterns, and the other says which of its clusters they fall in. Nothing has to be
encoded again, and the two atlases need have no pattern in common. Atlases of clusters per head are matched head by head
of the same layer and number, as patterns of a head are placed among those of that head alone.

Axes: c clusters of the first atlas, e clusters of the second, p and q points that they keep.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from apmae.atlas.names import cluster_names
from apmae.errors import ConfigError
from apmae.schema import NOISE

COMPARED = pa.schema(
    [
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("match", pa.int32()),
        pa.field("match_name", pa.string()),
        pa.field("overlap", pa.float32(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("share_back", pa.float32(), nullable=False),
        pa.field("mutual", pa.bool_(), nullable=False),
        pa.field("partner", pa.int32()),
        pa.field("partner_overlap", pa.float32(), nullable=False),
        pa.field("parts", pa.list_(pa.int32()), nullable=False),
    ]
)
"""One row per cluster of the first atlas. ``match`` is the cluster of the second with the largest ``overlap``; if there
is none, it is null and all numbers are 0. ``mutual``: it is also the largest the other way round. ``partner`` is the
cluster that the one-to-one matching of largest total overlap gives. ``parts`` are the clusters of the second that this
one is split into; fewer than two if it is not split."""
FOUND_AGAIN = 0.5
"""A cluster with more than this overlap is found again. At most one cluster can have it, and it is then mutual."""
_PART = 0.5
_SMALLEST_PART = 0.1


class Fitted(NamedTuple):
    """One atlas's side of a comparison."""

    clusters: pa.Table
    """``schema.CLUSTERS``."""
    labels: Int[ndarray, " p"]
    """Its own cluster of each point that it keeps, -1 for noise."""
    counts: Int[ndarray, " p"]
    """How many fitted patterns each point stands for."""
    placed: Int[ndarray, " p"]
    """The other atlas's cluster of each point, -1 where that does not know it."""


class Comparison(NamedTuple):
    """How alike the clusters of two atlases are.

    With a the share of A's patterns that fall in B, and b the share of B's that fall in A, their overlap is
    ``1 / (1/a + 1/b - 1)``, in [0, 1]; 0 if a or b is. If both shares are of the same patterns, that is the Jaccard
    index of A and B.
    """

    table: pa.Table
    """``COMPARED``, one row per cluster of the first atlas, largest first."""
    overlap: Float[ndarray, "c e"]
    """Of each cluster of the first atlas with each of the second."""
    share: Float[ndarray, "c e"]
    """Share of the first atlas's cluster that falls in the second's, in [0, 1]."""
    share_back: Float[ndarray, "c e"]
    """Share of the second atlas's cluster that falls in the first's, in [0, 1]."""

    @property
    def mean_overlap(self) -> float:
        """Mean overlap of the first atlas's clusters with their best matches, in [0, 1]; 0 if it has none."""
        return _mean(self.table["overlap"].to_numpy())

    @property
    def mean_partner_overlap(self) -> float:
        """The same with the one-to-one matching, in which no cluster counts twice; never more than ``mean_overlap``."""
        return _mean(self.table["partner_overlap"].to_numpy())

    @property
    def matched_share(self) -> float:
        """Share of the first atlas's clustered patterns whose cluster is found again (overlap over ``FOUND_AGAIN``)."""
        sizes = self.table["size"].to_numpy()
        return float(sizes[self.table["overlap"].to_numpy() > FOUND_AGAIN].sum() / max(sizes.sum(), 1))

    @property
    def splits(self) -> dict[int, list[int]]:
        """Clusters of the first atlas that are two or more in the second, and which ones.

        A part is a cluster of the second with over half of its patterns in the split one, and with at least a tenth of
        the split one's. For clusters that are merged, compare the other way round.
        """
        rows = zip(self.table["cluster"].to_pylist(), self.table["parts"].to_pylist(), strict=True)
        return {cluster: parts for cluster, parts in rows if len(parts) > 1}


def expect_alike(clusterers: tuple[str, str], constants: tuple[str | None, str | None]) -> None:
    """Refuse two atlases that cannot be compared.

    Args:
        clusterers: of the first and of the second; clusters per head compare only with such.
        constants: fingerprints of the descriptor's; None if unknown.

    Raises:
        ConfigError: if they differ in one of these.
    """
    if "per_head" in clusterers and clusterers[0] != clusterers[1]:
        raise ConfigError(
            f"expected two atlases of clusters per head or two of all heads together, got {' and '.join(clusterers)}; "
            "fit both in the same way (AtlasConfig.clusterer)"
        )
    if None not in constants and constants[0] != constants[1]:
        raise ConfigError(
            f"expected an atlas of descriptors with the same constants ({str(constants[0])[:12]}), got one with "
            f"others ({str(constants[1])[:12]}); encode and cluster both with this version"
        )


def compared(first: Fitted, second: Fitted) -> Comparison:
    """Match the clusters of two atlases.

    Args:
        first: the atlas whose clusters are looked for.
        second: the atlas in which they are.
    """
    sizes = len(first.clusters), len(second.clusters)
    share, back = _shares(first, *sizes), _shares(second, *reversed(sizes)).T
    both = (share > 0) & (back > 0)
    overlap = np.where(both, share * back / np.where(both, share + back - share * back, 1), 0)
    names = cluster_names(second.clusters)
    partners = dict(zip(*(side.tolist() for side in linear_sum_assignment(overlap, maximize=True)), strict=True))
    best = overlap.argmax(1) if sizes[1] else np.full(sizes[0], NOISE)
    best_back = overlap.argmax(0) if sizes[0] else np.full(sizes[1], NOISE)
    rows = []
    for cluster, (name, size) in enumerate(
        zip(first.clusters["name"].to_pylist(), first.clusters["size"].to_pylist(), strict=True)
    ):
        match, partner = int(best[cluster]), partners.get(cluster, NOISE)
        found = match != NOISE and overlap[cluster, match] > 0
        paired = partner != NOISE and overlap[cluster, partner] > 0
        rows.append(
            {
                "cluster": cluster,
                "name": name,
                "size": size,
                "match": match if found else None,
                "match_name": names[match] if found else None,
                "overlap": overlap[cluster, match] if found else 0.0,
                "share": share[cluster, match] if found else 0.0,
                "share_back": back[cluster, match] if found else 0.0,
                "mutual": bool(found and best_back[match] == cluster),
                "partner": partner if paired else None,
                "partner_overlap": overlap[cluster, partner] if paired else 0.0,
                "parts": np.flatnonzero((back[cluster] > _PART) & (share[cluster] >= _SMALLEST_PART)).tolist(),
            }
        )
    return Comparison(pa.Table.from_pylist(rows, schema=COMPARED), overlap, share, back)


def _shares(side: Fitted, own: int, other: int) -> Float[ndarray, "{own} {other}"]:
    """Which share of each own cluster's patterns falls in each cluster of the other atlas."""
    counted = np.zeros((own, other + 1))
    members = side.labels != NOISE
    np.add.at(counted, (side.labels[members], side.placed[members] + 1), side.counts[members])
    return counted[:, 1:] / np.maximum(counted.sum(1, keepdims=True), 1)


def _mean(overlap: Float[ndarray, " c"]) -> float:
    return float(overlap.mean()) if len(overlap) else 0.0
