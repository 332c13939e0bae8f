"""Encoding and clustering on one machine: config -> run -> artifact. Hashes decide what is reused, resumed, refused."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray

from apmae import bundled
from apmae.artifacts import (
    Stage,
    cut,
    fingerprint,
    is_shard,
    manifest_path,
    matrix,
    missing,
    read_manifest,
    read_table,
    read_tables,
    run_shards,
)
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig, Config, EncodeConfig, LMConfig
from apmae.encode import encode_shard, reconstructions, unpack_exemplars
from apmae.engine.prompts import load_prompts
from apmae.engine.stages import decisive, opened
from apmae.errors import ArtifactError
from apmae.lm.language_model import LM
from apmae.lm.stream import window_length
from apmae.model.folder import expect_shape
from apmae.model.mae import APMAE
from apmae.model.represent import width_of
from apmae.patterns.gate import has_structure
from apmae.progress import progress
from apmae.schema import ENCODED, POINTS, POINTS_FILE, RECONSTRUCTIONS_FILE, SCORES

_PER_PATTERN = [
    *("prompt", "layer", "head", "task", "outcome", "structure", "key_kinds", "query_kinds"),
    *(f"score_{name}" for name in SCORES),
]
"""What the cluster stage keeps in memory of each pattern: all but its representation, 2 KB of 2.2."""


def _asked(prompts_path: Path, lm: LM, length: int) -> bool:
    """Whether a prompts stage asked this same model, with windows of this length."""
    if prompts_path.suffix != ".parquet" or not manifest_path(prompts_path).is_file():
        return False
    manifest = read_manifest(prompts_path, "prompts")
    arranged = {**decisive(Config(), lm), "length": length}
    return manifest.inputs.get("lm") == lm.fingerprint and arranged.items() <= manifest.config.items()


def encode(
    lm: LM | LMConfig, encoder: str, prompts_path: Path, out: Path, config: EncodeConfig, *, overwrite: bool = False
) -> dict[str, Any]:
    """The encode stage: prompts to embeddings.

    Args:
        lm: the language model.
        encoder: folder or hub id of an AP-MAE, or "bundled".
        prompts_path: prompts, Parquet or JSONL.
        out: the embeddings' folder.
        config: heads, shards, exemplars.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.

    Raises:
        CaptureError: if the model has no positions for the window.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    lm = opened(lm)
    mae = APMAE.from_pretrained(encoder).to(lm.device)
    expect_shape(causal=mae.config.causal, found=lm.causal)
    inputs = {"lm": lm.fingerprint, "encoder": mae.fingerprint, "prompts": fingerprint(prompts_path)}
    if config.representation != "cls":
        inputs["constants"] = bundled.constants()
    with Stage.open(out, "encode", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "encode").counts
        prompts = load_prompts(prompts_path)
        length = window_length(lm, mae.config.pattern_size, config.capture.context)
        shards = cut(len(prompts), config.shard_prompts, ENCODED)
        done = len(prompts) - sum(map(len, missing(stage, shards)))
        with progress("encode", len(prompts), done=done, unit="prompts") as advance:
            work = partial(
                encode_shard,
                lm=lm,
                mae=mae,
                prompts=prompts,
                config=config,
                root=stage.staging,
                asked=_asked(prompts_path, lm, length),
                advance=advance,
            )
            run_shards(stage, shards, work)
        exemplars = _table(stage, "exemplars")
        if exemplars.num_rows and not stage.has(RECONSTRUCTIONS_FILE):
            table = reconstructions(mae, unpack_exemplars(exemplars), seed=config.seed)
            stage.write_tables({RECONSTRUCTIONS_FILE: table})
        counts = {
            "prompts": len(prompts),
            "patterns": stage.rows("embeddings"),
            "correct": _correct(_table(stage, "prompts", ["outcome"])["outcome"].to_pylist()),
            "layers": lm.num_layers,
            "heads": lm.num_heads,
            "heads_by_layer": list(lm.heads_by_layer),
            "representation": config.representation,
            "dim": width_of(config.representation, mae.config.encoder_dim),
            "pattern_size": mae.config.pattern_size,
            "context": length,
            "lm": lm.name,
            "encoder": Path(encoder).name,
        }
        return stage.finish(counts).counts


def rows_on_disk(embeddings: Path, scratch: Path) -> Float[ndarray, "n d"]:
    """The representations of an encode stage as an array that lies in a file, of which memory holds what is being read.

    The file has no name and is gone when the array is.

    Args:
        embeddings: the encode stage's folder.
        scratch: a folder with room for all of them.
    """
    manifest = read_manifest(embeddings, "encode")
    width, count = int(manifest.counts["dim"]), 0
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=scratch) as file:
        for name in manifest.shards("embeddings"):
            part = matrix(read_table(embeddings / name, ["embedding"])["embedding"])
            file.write(np.ascontiguousarray(part, np.float16).data)  # not through the map: a full disk would kill it
            count += len(part)
        file.flush()
        return np.memmap(file, np.float16, "r", shape=(count, width)) if count else np.zeros((0, width), np.float16)


def _table(stage: Stage, table: str, columns: list[str] | None = None) -> pa.Table:
    """The shards of one table that a stage has written so far."""
    return pa.concat_tables([read_table(stage.root / name, columns) for name in stage.files if is_shard(name, table)])


def _correct(outcomes: Sequence[str | None]) -> int | None:
    """How many prompts were answered correctly; None if the model answers nothing."""
    return outcomes.count("correct") if outcomes.count(None) < len(outcomes) else None


def _origins(embeddings: Path, table: pa.Table, model: str) -> dict[str, Any]:
    """Where the patterns of an encode stage came from, as ``Atlas.fit`` asks."""
    prompts = read_tables(embeddings, "encode", "prompts", ["prompt", "path"])
    place = np.argsort(prompts["prompt"].to_numpy())
    own = place[np.searchsorted(prompts["prompt"].to_numpy(), table["prompt"].to_numpy(), sorter=place)]
    return {"model": model, "task": table["task"], "path": prompts["path"].take(pa.array(own))}


def fit_atlas(embeddings: Path, out: Path, config: AtlasConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """The cluster stage: embeddings to an atlas.

    Args:
        embeddings: the encode stage's folder.
        out: the atlas' folder.
        config: UMAP, HDBSCAN, filters.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.

    Raises:
        ArtifactError: if there are no such embeddings, they are damaged, or of another version.
    """
    manifest = read_manifest(embeddings, "encode")
    encoded, encoder = manifest.counts, manifest.inputs["encoder"]
    if "heads_by_layer" not in encoded:
        raise ArtifactError(
            f"expected a count of heads_by_layer in the manifest of {embeddings}, found none; run encode again"
        )
    inputs = {"encode": fingerprint(embeddings), "encoder": encoder}
    with Stage.open(out, "cluster", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "cluster").counts
        with progress("cluster", 3) as advance:
            table = read_tables(embeddings, "encode", "embeddings", _PER_PATTERN)
            points = min(table.num_rows, config.fit_points)
            advance(
                note=f"UMAP and tree of at most {points} patterns, four times: again by another seed and by each half"
            )
            measured = Measured(
                np.stack([table[f"score_{name}"].to_numpy() for name in SCORES], axis=1),
                matrix(table["key_kinds"]),
                matrix(table["query_kinds"]),
            )
            atlas = Atlas.fit(
                rows_on_disk(embeddings, stage.staging),
                where=(table["layer"].to_numpy(), table["head"].to_numpy()),
                config=config,
                num_heads=sum(encoded["heads_by_layer"]),
                measured=measured,
                encoder=encoder,
                representation=encoded["representation"],
                structured=has_structure(table["structure"].to_numpy()),
                prompts=table["prompt"].to_numpy(),
                origins=_origins(embeddings, table, encoded["lm"]),
            )
            advance(note=f"{len(atlas.clusters)} clusters")
            points = table.select(["prompt", "layer", "head", "task", "outcome"])
            points = points.append_column(POINTS.field("cluster"), pa.array(atlas.labels_.astype(np.int32)))
            points = points.append_column(
                POINTS.field("coordinates"), pa.array(list(atlas.coordinates_), type=POINTS.field("coordinates").type)
            )
            stage.write_tables({POINTS_FILE: points.cast(POINTS)})
            atlas.models, atlas.constants = (encoded["lm"],), manifest.inputs.get("constants")
            stage.add_files(atlas.save(stage.staging))
            advance()
        clustered = int((atlas.labels_ >= 0).sum())
        return stage.finish(
            {
                "patterns": len(atlas.labels_),
                "clusters": len(atlas.clusters),
                "clustered": clustered,
                "dropped": atlas.dropped,
                "unstable": sum(atlas.clusters["unstable"].to_pylist()),
                "unstructured": atlas.unstructured_,
                "fitted": atlas.fitted_,
                "layers": encoded["layers"],
                "heads": encoded["heads"],
                "heads_by_layer": encoded["heads_by_layer"],
            }
        ).counts
