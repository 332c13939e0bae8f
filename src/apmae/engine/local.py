"""Encoding and clustering on one machine: config -> run -> artifact. Each reuses, resumes or refuses by hash."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from apmae import bundled
from apmae.artifacts import Stage, fingerprint, manifest_path, read_manifest, read_table, read_tables
from apmae.atlas.atlas import Atlas, Measured
from apmae.config import AtlasConfig, Config, EncodeConfig
from apmae.encode import check_length, encode_prompts, reconstructions, unpack_exemplars
from apmae.engine.decisive import decisive
from apmae.engine.prompts import load_prompts
from apmae.lm.load import LM
from apmae.model.mae import APMAE
from apmae.progress import progress
from apmae.schema import POINTS, SCORES


def _asked(prompts_path: Path, lm: LM, length: int) -> bool:
    """Whether a prompts stage asked this very model, in windows of this length."""
    if prompts_path.suffix != ".parquet" or not manifest_path(prompts_path).is_file():
        return False
    manifest = read_manifest(prompts_path, "prompts")
    arranged = {**decisive(Config(), lm), "length": length}
    return manifest.inputs.get("lm") == lm.fingerprint and arranged.items() <= manifest.config.items()


def encode(
    lm: LM, encoder: str, prompts_path: Path, out: Path, config: EncodeConfig, *, overwrite: bool = False
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
    """
    mae = APMAE.from_pretrained(encoder).to(lm.device)
    folder = bundled.encoder() if encoder == "bundled" else Path(encoder)
    inputs = {
        "lm": lm.fingerprint,
        "encoder": fingerprint(folder) if folder.is_dir() else encoder,
        "prompts": fingerprint(prompts_path),
    }
    with Stage.open(out, "encode", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "encode").counts
        prompts = load_prompts(prompts_path)
        asked = _asked(prompts_path, lm, check_length(lm, mae.config.pattern_size, config.context))
        counts = encode_prompts(lm, mae, prompts, config, stage, asked=asked)
        exemplars = pa.concat_tables(
            [read_table(out / name) for name in sorted(stage.files) if name.startswith("exemplars-")]
        )
        if exemplars.num_rows:
            table = reconstructions(mae, unpack_exemplars(exemplars), seed=config.seed)
            stage.write_shard({"reconstructions.parquet": table})
        return stage.finish({**counts, "lm": bundled.name_of(lm.source), "encoder": Path(encoder).name}).counts


def fit_atlas(embeddings: Path, out: Path, config: AtlasConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """The cluster stage: embeddings to an atlas.

    Args:
        embeddings: the encode stage's folder.
        out: the atlas' folder.
        config: UMAP, HDBSCAN, filters.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.
    """
    encoded = read_manifest(embeddings, "encode").counts
    inputs = {"encode": fingerprint(embeddings)}
    with Stage.open(out, "cluster", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "cluster").counts
        with progress("cluster", 3) as advance:
            table = read_tables(embeddings, "encode", "embeddings")
            advance(note=f"UMAP of {table.num_rows} patterns")
            measured = Measured(
                np.stack([table[f"score_{name}"].to_numpy() for name in SCORES], axis=1),
                matrix(table["key_kinds"]),
                matrix(table["query_kinds"]),
            )
            atlas = Atlas.fit(
                matrix(table["embedding"]),
                config=config,
                num_heads=encoded["layers"] * encoded["heads"],
                measured=measured,
            )
            advance(note=f"{len(atlas.clusters)} clusters")
            points = table.select(["prompt", "layer", "head", "task", "outcome"])
            points = points.append_column(POINTS.field("cluster"), pa.array(atlas.labels_.astype(np.int32)))
            points = points.append_column(
                POINTS.field("coordinates"), pa.array(list(atlas.coordinates_), type=POINTS.field("coordinates").type)
            )
            stage.write_shard({"points.parquet": points.cast(POINTS)})
            stage.add_files(atlas.save(out))
            advance()
        clustered = int((atlas.labels_ >= 0).sum())
        return stage.finish(
            {
                "patterns": len(atlas.labels_),
                "clusters": len(atlas.clusters),
                "clustered": clustered,
                "dropped": atlas.dropped,
                "layers": encoded["layers"],
                "heads": encoded["heads"],
            }
        ).counts


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists as a (n, d) array."""
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
