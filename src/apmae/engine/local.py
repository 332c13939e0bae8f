"""The stages on one machine: config -> run -> artifact. Each reuses, resumes or refuses by hash (``artifacts``)."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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
    write_table,
)
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig, CircuitsConfig, Config, EncodeConfig, LMConfig, PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.encode import encode_shard, reconstructions, unpack_exemplars
from apmae.engine.stages import decisive, opened
from apmae.errors import ConfigError, SourceError
from apmae.lm.language_model import LM
from apmae.lm.outcome import draw_prompts, shortfalls, with_outcomes
from apmae.lm.stream import window_length
from apmae.model.mae import APMAE
from apmae.progress import progress
from apmae.prompts.circuits import circuit_prompts
from apmae.prompts.files import from_table, read_prompts, to_table, write_jsonl
from apmae.prompts.languages import language_of
from apmae.prompts.prompt import Prompt
from apmae.prompts.sampling import build_prompts
from apmae.schema import ENCODED, POINTS, POINTS_FILE, RECONSTRUCTIONS_FILE, SCORES


def make_prompts(
    sources: Sequence[str],
    out: Path,
    config: PromptsConfig,
    *,
    lm: LM | None = None,
    ask: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The prompts stage: source files to one Parquet file.

    Args:
        sources: folders, files, zips, tars, or "bundled".
        out: a ``.parquet`` file.
        config: tasks, numbers, outcomes.
        lm: decides outcomes; without it they stay unknown.
        ask: False draws spans of the model's tokens, and leaves outcomes unknown.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.
    """
    _expect_parquet(out)
    paths = _source_paths(sources)
    inputs = {f"source-{number}": fingerprint(path) for number, path in enumerate(paths)}
    inputs |= {"lm": lm.fingerprint} if lm else {}
    settings = decisive(config, lm) | ({} if ask else {"asked": False})
    with Stage.open(out, "prompts", settings, inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "prompts").counts
        prompts, counts = _draw(paths, config, lm, ask=ask)
        counts = {**counts, "short": shortfalls(prompts, config)}
        stage.write_tables({out.name: to_table(prompts)})
        return stage.finish(counts).counts


def make_circuits(out: Path, config: CircuitsConfig, lm: LM, *, overwrite: bool = False) -> dict[str, Any]:
    """The prompts stage with classic circuits as sources.

    Args:
        out: a ``.parquet`` file.
        config: which circuits, numbers.
        lm: as for :func:`draw_circuits`.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts.
    """
    _expect_parquet(out)
    with Stage.open(out, "prompts", decisive(config, lm), {"lm": lm.fingerprint}, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "prompts").counts
        prompts = draw_circuits(config, lm)
        found = Counter((prompt.task, prompt.outcome) for prompt in prompts)
        counts = {name: {o: found[name, o] for o in ("correct", "incorrect")} for name in config.circuits}
        stage.write_tables({out.name: to_table(prompts)})
        return stage.finish({"prompts": counts}).counts


def draw_circuits(config: CircuitsConfig, lm: LM) -> list[Prompt]:
    """Prompts of classic circuits, each with what the model does with it; nothing is written.

    Args:
        config: which circuits, numbers.
        lm: whose tokens the prompts are made for; also decides outcomes.
    """
    tokenizer, room = lm.backend_tokenizer, config.length - (lm.bos is not None)
    prompts: list[Prompt] = []
    for name in config.circuits:
        prompts += circuit_prompts(name, tokenizer, count=config.per_task, seed=config.seed, length=room)
    with progress("prompts", len(prompts)) as advance:
        return with_outcomes(lm, prompts, config.length, advance=advance)


def _draw(
    paths: Sequence[Path], config: PromptsConfig, lm: LM | None, *, ask: bool = True
) -> tuple[list[Prompt], dict[str, object]]:
    if lm is None or not ask:
        return build_prompts(paths, config, tokenizer=lm.backend_tokenizer if lm else None)
    files = list_sources(paths, suffixes=language_of(config.language).suffixes)
    with progress("prompts", config.per_task * len(config.tasks)) as advance:
        return draw_prompts(lm, files, config, rejected=Counter(), advance=advance)


def _source_paths(sources: Sequence[str]) -> list[Path]:
    if not sources:
        raise ConfigError("expected source files, got none; give folders, files, zips or tars, or 'bundled'")
    circuits = [source for source in sources if source.startswith("circuit:")]
    if circuits:
        raise ConfigError(
            f"expected source files, got {circuits[0]}: make its prompts with apmae prompts {circuits[0]} --lm MODEL "
            "--out circuit.parquet, and give that file as the only source"
        )
    paths = [bundled.java() if source == "bundled" else Path(source) for source in sources]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise SourceError(f"expected source files at {missing[0]}, found nothing there; check the path")
    return paths


def preview_prompts(sources: Sequence[str], config: PromptsConfig, *, lm: LM | None = None) -> list[Prompt]:
    """Prompts drawn as :func:`make_prompts` draws them, to look at; nothing is written."""
    return _draw(_source_paths(sources), config, lm)[0]


def convert_prompts(path: Path, out: Path) -> list[Prompt]:
    """Read a prompts file, JSONL or Parquet, and write it as the other or as the same.

    Raises:
        MalformedError: if it is not prompts.
        ConfigError: if ``out`` is neither.
    """
    prompts = load_prompts(path)
    if out.suffix == ".jsonl":
        write_jsonl(out, prompts)
    elif out.suffix == ".parquet":
        write_table(out, to_table(prompts))
    else:
        raise ConfigError(f"expected --out to name a .parquet or .jsonl file, got {out}; for instance prompts.parquet")
    return prompts


def load_prompts(path: Path) -> list[Prompt]:
    """Prompts of a stage (its manifest checked where there is one), or of anyone's JSONL or Parquet."""
    if path.suffix == ".parquet" and manifest_path(path).is_file():
        read_manifest(path, "prompts")
        return from_table(read_table(path))
    return read_prompts(path)


def _asked(prompts_path: Path, lm: LM, length: int) -> bool:
    """Whether a prompts stage asked this very model, in windows of this length."""
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
    """
    lm = opened(lm)
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
        length = window_length(lm, mae.config.pattern_size, config.capture.context)
        shards = cut(len(prompts), config.shard_prompts, ENCODED)
        done = len(prompts) - sum(map(len, missing(stage, shards)))
        with progress("encode", len(prompts), done=done) as advance:
            work = partial(
                encode_shard,
                lm=lm,
                mae=mae,
                prompts=prompts,
                config=config,
                root=stage.root,
                asked=_asked(prompts_path, lm, length),
                advance=advance,
            )
            run_shards(stage, shards, work)
        exemplars = _table(stage, "exemplars")
        if exemplars.num_rows:
            table = reconstructions(mae, unpack_exemplars(exemplars), seed=config.seed)
            stage.write_tables({RECONSTRUCTIONS_FILE: table})
        counts = {
            "prompts": len(prompts),
            "patterns": stage.rows("embeddings"),
            "correct": _table(stage, "prompts", ["outcome"])["outcome"].to_pylist().count("correct"),
            "layers": lm.num_layers,
            "heads": lm.num_heads,
            "dim": mae.config.encoder_dim,
            "pattern_size": mae.config.pattern_size,
            "context": length,
            "lm": lm.name,
            "encoder": Path(encoder).name,
        }
        return stage.finish(counts).counts


def _table(stage: Stage, table: str, columns: list[str] | None = None) -> pa.Table:
    """The shards of one table that a stage has written so far."""
    return pa.concat_tables([read_table(stage.root / name, columns) for name in stage.files if is_shard(name, table)])


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
                where=(table["layer"].to_numpy(), table["head"].to_numpy()),
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
            stage.write_tables({POINTS_FILE: points.cast(POINTS)})
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


def _expect_parquet(out: Path) -> None:
    if out.suffix != ".parquet":
        raise ConfigError(f"expected --out to name a .parquet file, got {out}; for instance prompts.parquet")
