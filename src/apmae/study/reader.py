"""``Study``: a study's folder, opened for reading. Tables are read when asked for, embeddings only for a sample.

Axes: n patterns, s sampled rows, t tokens (query_pos, key_pos), r reduced dimensions.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.artifacts import fingerprint, manifest_path, matrix, read_json, read_manifest, read_table, read_tables
from apmae.atlas.names import overlay, renamed
from apmae.errors import ArtifactError
from apmae.schema import (
    ATLAS_FILE,
    CALIBRATION_FILE,
    CLUSTERS,
    CLUSTERS_FILE,
    COVERAGE_FILE,
    EXEMPLARS,
    FOREIGN_FILE,
    LOCATIONS_FILE,
    NOISE,
    POINTS_FILE,
    PREDICTION_FILE,
    PREDICTION_TASKS_FILE,
    PREDICTOR_FILES,
    RECONSTRUCTIONS,
    RECONSTRUCTIONS_FILE,
)
from apmae.seeding import generator
from apmae.study.ablation import Ablation, read_ablation
from apmae.study.circuit import Circuit, read_circuit
from apmae.study.exemplars import unpack
from apmae.study.layout import Layout
from apmae.study.placed import POINT_COLUMNS, Exemplars, Placed
from apmae.study.pruning import Pruning, read_pruning

SAMPLE_ROWS = 20_000
"""The most embeddings that a picture reads."""
_BATCH = 1 << 16


class Sample(NamedTuple):
    """A seeded sample of the study's patterns, in the order of the embeddings."""

    layer: Int[ndarray, " s"]
    head: Int[ndarray, " s"]
    cluster: Int[ndarray, " s"]
    raw: Float[ndarray, "s 2"]
    """First two dimensions of the embedding."""
    coordinates: Float[ndarray, "s 2"]
    """First two reduced coordinates."""


Place = tuple[int, int, int]
"""Prompt, layer and head of a pattern."""


class Predicted(NamedTuple):
    """What the predict stage made of a study."""

    sets: pa.Table
    """``schema.PREDICTION``."""
    tasks: pa.Table
    """``schema.PREDICTION_TASKS``."""
    calibration: pa.Table
    """``schema.CALIBRATION``."""
    coverage: pa.Table
    """``schema.COVERAGE``."""
    bounds: list[dict[str, float]]
    """Of the saved predictor: coverage, threshold, risk and its bound."""
    counts: Mapping[str, Any]
    """Of the manifest."""


class Study(Placed):
    """A finished study: its embeddings and the atlas over them.

    Attributes:
        atlas_folder: the artifact of the cluster stage.
        clustered: its manifest.
    """

    def __init__(self, folder: str | Path) -> None:
        """Check both artifacts; nothing else is read at first.

        Raises:
            ArtifactError: if one is missing, unfinished or damaged, or the atlas was made from other embeddings.
        """
        layout = Layout(Path(folder))
        encoded, clustered = read_manifest(layout.embeddings, "encode"), read_manifest(layout.atlas, "cluster")
        if fingerprint(layout.embeddings) not in clustered.inputs.values():
            raise ArtifactError(
                f"expected an atlas of {layout.embeddings}, {layout.atlas} was made from other embeddings; "
                "run cluster again"
            )
        made, found = encoded.inputs.get("encoder"), read_json(layout.atlas / ATLAS_FILE).get("encoder")
        if made != found:
            raise ArtifactError(
                f"expected an atlas fitted with the encoder of {layout.embeddings}, {str(made)[:12]}, "
                f"{layout.atlas} names {str(found)[:12]}; run cluster again"
            )
        super().__init__(layout.folder, layout.embeddings, encoded)
        self.atlas_folder, self.clustered = layout.atlas, clustered

    @property
    def point_files(self) -> list[Path]:
        """The file of ``schema.POINTS``."""
        return [self.atlas_folder / POINTS_FILE]

    @property
    def metric(self) -> str:
        """The metric of the atlas."""
        return str(self.clustered.config.get("metric"))

    @property
    def per_head(self) -> bool:
        """Whether each cluster is of a single head."""
        return self.clustered.config.get("clusterer") == "per_head"

    @property
    def made_from(self) -> dict[str, str]:
        """SHA-256 of both manifests."""
        return {"encode": fingerprint(self.embeddings_folder), "cluster": fingerprint(self.atlas_folder)}

    @cached_property
    def points(self) -> pa.Table:
        """``schema.POINTS`` without the coordinates, one row per pattern."""
        table = read_table(self.atlas_folder / POINTS_FILE, POINT_COLUMNS)
        encoded = sum(file["rows"] for file in self.encoded.shards("embeddings").values())
        if table.num_rows != encoded:
            raise ArtifactError(
                f"expected {encoded} points in {self.atlas_folder}, one per embedding, found {table.num_rows}; "
                "run cluster again"
            )
        return table

    @cached_property
    def clusters(self) -> pa.Table:
        """``schema.CLUSTERS``, largest first."""
        table = read_table(self.atlas_folder / CLUSTERS_FILE)
        if not table.schema.equals(CLUSTERS):
            raise ArtifactError(
                f"expected the clusters of this version in {self.atlas_folder}, another version made these; "
                "cluster again (apmae cluster EMBEDDINGS --out ATLAS --overwrite)"
            )
        return renamed(table, overlay(self.atlas_folder))

    @cached_property
    def located(self) -> tuple[pa.Table, pa.Table] | None:
        """``schema.LOCATIONS`` and ``schema.FOREIGN``, if ``apmae locations`` made them of this atlas; else None."""
        folder = Layout(self.folder).locations
        if not manifest_path(folder).is_file():
            return None
        manifest = read_manifest(folder, "locations")
        if manifest.inputs.get("cluster") != fingerprint(self.atlas_folder):
            return None
        return read_table(folder / LOCATIONS_FILE), read_table(folder / FOREIGN_FILE)

    @property
    def tops(self) -> list[str]:
        """Values by which ``apmae top`` has ordered prompts of this atlas; their folders in ``top/`` are finished."""
        folder, own = Layout(self.folder).top, fingerprint(self.atlas_folder)
        names = [path.parent.name for path in sorted(folder.glob("*/manifest.json"))]
        return [name for name in names if read_manifest(folder / name, "top").inputs.get("cluster") == own]

    @cached_property
    def predicted(self) -> Predicted | None:
        """What ``apmae predict`` made of this atlas; None if it did not."""
        folder = Layout(self.folder).prediction
        if not manifest_path(folder).is_file():
            return None
        manifest = read_manifest(folder, "predict")
        if manifest.inputs.get("cluster") != fingerprint(self.atlas_folder) or PREDICTOR_FILES[0] not in manifest.files:
            return None
        files = (PREDICTION_FILE, PREDICTION_TASKS_FILE, CALIBRATION_FILE, COVERAGE_FILE)
        sets, tasks, calibration, coverage = (read_table(folder / name) for name in files)
        bounds = read_json(folder / PREDICTOR_FILES[0])["bounds"]
        return Predicted(sets, tasks, calibration, coverage, bounds, manifest.counts)

    @cached_property
    def circuit(self) -> Circuit | None:
        """What ``apmae circuit`` found, of whichever model (``counts["lm"]``); None if it did not run to its end."""
        folder = Layout(self.folder).circuit
        return read_circuit(folder) if manifest_path(folder).is_file() else None

    @cached_property
    def ablated(self) -> Ablation | None:
        """What ``apmae ablate`` made of the study's model and prompts; None if it did not."""
        folder = Layout(self.folder).ablation
        if not manifest_path(folder).is_file():
            return None
        inputs = read_manifest(folder, "ablate").inputs
        if any(inputs.get(name) != self.encoded.inputs.get(name) for name in ("lm", "prompts")):
            return None
        return read_ablation(folder)

    @cached_property
    def pruned(self) -> Pruning | None:
        """What ``apmae prune`` made of the study's model and prompts; None if it did not."""
        folder = Layout(self.folder).pruning
        if not manifest_path(folder).is_file():
            return None
        inputs = read_manifest(folder, "prune").inputs
        if any(inputs.get(name) != self.encoded.inputs.get(name) for name in ("lm", "prompts")):
            return None
        return read_pruning(folder)

    @cached_property
    def reconstructions(self) -> list[dict[str, Any]]:
        """Rows of ``schema.RECONSTRUCTIONS``; none if the encoder has no decoder."""
        if RECONSTRUCTIONS_FILE not in self.encoded.files:
            return []
        columns = list(RECONSTRUCTIONS.names)
        return read_table(self.embeddings_folder / RECONSTRUCTIONS_FILE, columns).to_pylist()

    @cached_property
    def exemplars(self) -> Exemplars:
        """Every exemplar's place in the atlas, in the order of the shards; see :meth:`read_exemplars`.

        Raises:
            ArtifactError: if an exemplar has no point in the atlas.
        """
        table = read_tables(self.embeddings_folder, "encode", "exemplars", ["prompt", "layer", "head"])
        prompt, layer, head = (table[name].to_numpy().astype(np.int64) for name in ("prompt", "layer", "head"))
        wanted = _key(prompt, layer, head)
        order = np.argsort(wanted)
        cluster, places = np.full(len(wanted), NOISE - 1, dtype=np.int64), np.zeros((len(wanted), 0), dtype=np.float32)
        for batch in self._point_batches(["prompt", "layer", "head", "cluster", "coordinates"]) if len(wanted) else ():
            found = _key(*(batch[name].to_numpy().astype(np.int64) for name in ("prompt", "layer", "head")))
            rank = np.minimum(np.searchsorted(wanted, found, sorter=order), len(wanted) - 1)
            own = np.flatnonzero(wanted[order[rank]] == found)
            coordinates = matrix(batch["coordinates"].take(pa.array(own)))
            if not places.shape[1] and len(own):
                places = np.zeros((len(wanted), coordinates.shape[1]), dtype=np.float32)
            target = order[rank[own]]
            cluster[target] = batch["cluster"].to_numpy()[own]
            if len(own):
                places[target] = coordinates
        if (cluster < NOISE).any():
            raise ArtifactError(
                f"expected a point for each exemplar in {self.atlas_folder}, {(cluster < NOISE).sum()} of "
                f"{len(cluster)} have none; run cluster again"
            )
        return Exemplars(prompt, layer, head, cluster, places)

    def read_exemplars(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of ``schema.EXEMPLARS``; each shard is read once.

        Args:
            numbers: rows of :attr:`exemplars`, in any order; the result has the same order.
        """
        found: dict[int, dict[str, Any]] = {}
        first = 0
        for name, file in self.encoded.shards("exemplars").items():
            own = sorted({number for number in numbers if first <= number < first + file["rows"]})
            if own:
                table = read_table(self.embeddings_folder / name, list(EXEMPLARS.names))
                rows = table.take(pa.array([number - first for number in own])).to_pylist()
                found |= zip(own, rows, strict=True)
            first += file["rows"]
        return [found[number] for number in numbers]

    def patterns_at(self, places: Collection[Place]) -> dict[Place, Float[ndarray, "t t"]]:
        """The log patterns of those places whose whole pattern was kept.

        Args:
            places: prompt, layer and head of patterns.
        """
        table = read_tables(self.embeddings_folder, "encode", "exemplars", ["prompt", "layer", "head"])
        kept = zip(*(table[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True)
        wanted = set(places)
        found = {place: number for number, place in enumerate(kept) if place in wanted}
        rows = self.read_exemplars(list(found.values()))
        return {place: unpack(row) for place, row in zip(found, rows, strict=True)}

    def sample(self, rows: int = SAMPLE_ROWS, seed: int = 0) -> Sample:
        """Some of the patterns, with what a scatter plot needs; shards are read one at a time.

        Args:
            rows: how many, at most.
            seed: decides which.
        """
        total = self.points.num_rows
        draw = generator(seed, "report", "sample")
        picked = np.sort(draw.choice(total, min(rows, total), replace=False, shuffle=False))
        table = self.points.select(["layer", "head", "cluster"]).take(pa.array(picked))
        layer, head, cluster = (table[name].to_numpy().astype(np.int64) for name in table.column_names)
        return Sample(layer, head, cluster, self._raw(picked), self._coordinates(picked))

    def _raw(self, picked: Int[ndarray, " s"]) -> Float[ndarray, "s 2"]:
        parts, first = [np.zeros((0, 2), np.float32)], 0
        for name, file in self.encoded.shards("embeddings").items():
            own = picked[(picked >= first) & (picked < first + file["rows"])] - first
            if len(own):
                column = read_table(self.embeddings_folder / name, ["embedding"])["embedding"]
                parts.append(plane(matrix(column.take(pa.array(own)))))
            first += file["rows"]
        return np.concatenate(parts)

    def _coordinates(self, picked: Int[ndarray, " s"]) -> Float[ndarray, "s 2"]:
        parts, first = [np.zeros((0, 2), np.float32)], 0
        for batch in self._point_batches(["coordinates"]):
            own = picked[(picked >= first) & (picked < first + batch.num_rows)] - first
            if len(own):
                parts.append(plane(matrix(batch["coordinates"].take(pa.array(own)))))
            first += batch.num_rows
        return np.concatenate(parts)

    def _point_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Points in batches: the coordinates of a whole study need not fit in memory."""
        path = self.atlas_folder / POINTS_FILE
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                yield from file.iter_batches(batch_size=_BATCH, columns=columns)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"expected points in {path}, it is damaged ({reason}); run cluster again") from None


def _key(prompt: ndarray, layer: ndarray, head: ndarray) -> Int[ndarray, " n"]:
    return (prompt << 32) | (layer << 16) | head


def plane(values: Float[ndarray, "n d"]) -> Float[ndarray, "n 2"]:
    """The first two columns; a missing second one is 0."""
    return np.pad(values[:, :2].astype(np.float32), ((0, 0), (0, max(0, 2 - values.shape[1]))))
