"""The dimensions stage: how far UMAP can be trusted, by its number of dimensions (paper Figure 7).

Every measurement, one per number of dimensions and seed, is noted in the journal: a killed run resumes after the last.
The picture is always made again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.artifacts import Manifest, Stage, fingerprint, matrix, read_manifest, read_table, replacing
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import finite_embeddings, merge_duplicates
from apmae.atlas.trustworthiness import trustworthiness
from apmae.config import DimensionsConfig
from apmae.engine.checks import expect_dimensions, measurements_file
from apmae.errors import ConfigError
from apmae.patterns.gate import has_structure
from apmae.progress import notice, progress
from apmae.report import terminal
from apmae.report.dimensions import Dimensions, summarize_dimensions, trustworthiness_figure
from apmae.report.figures import png
from apmae.schema import DIMENSIONS
from apmae.seeding import generator


def measure_dimensions(embeddings: Path, out: Path, config: DimensionsConfig, *, overwrite: bool = False) -> Dimensions:
    """Reduce a sample of patterns to several numbers of dimensions, and measure how far each can be trusted.

    Args:
        embeddings: the encode stage's folder.
        out: the picture, PNG; the measurements go into a Parquet file of the same name beside it.
        config: dimensions, neighbours, points, seeds.
        overwrite: replace measurements made from something else.

    Raises:
        ArtifactError: if there are no such embeddings, they are damaged, or of another version.
        ConfigError: if ``out`` is not a PNG, there are fewer patterns with structure than a reduction needs, embeddings
            have fewer dimensions, or cuML is asked for and not there.
    """
    expect_dimensions(embeddings, out, config, overwrite=overwrite)
    table_file, manifest = measurements_file(out), read_manifest(embeddings, "encode")
    inputs = {"encode": fingerprint(embeddings)}
    with Stage.open(
        table_file, "dimensions", config.model_dump(mode="json"), inputs, overwrite=overwrite, repairs=False
    ) as stage:
        if not stage.finished:
            rows = _measure(embeddings, manifest, config, stage)
            stage.write_tables({table_file.name: pa.Table.from_pylist(rows, DIMENSIONS)})
            stage.finish({"measurements": len(rows)})
    found = summarize_dimensions(read_table(table_file))
    with replacing(out) as file:
        file.write(png(trustworthiness_figure(found)))
    return found


def print_dimensions(found: Dimensions) -> None:
    """Print trustworthiness by number of dimensions, and what follows."""
    terminal.print_dimensions(found)


def _measure(embeddings: Path, manifest: Manifest, config: DimensionsConfig, stage: Stage) -> list[dict[str, Any]]:
    """``schema.DIMENSIONS``, by seed within dimensions."""
    seeds = range(config.seed, config.seed + config.seeds)
    fits = [(dimensions, seed) for seed in seeds for dimensions in sorted(config.dimensions)]
    done = sum(_key(*fit) in stage.notes for fit in fits)
    with progress("dimensions", len(fits), done=done, unit="fits") as advance:
        if done < len(fits):
            advance(0, note="read embeddings")
            samples = _samples(embeddings, manifest, config)
            smallest = min(map(len, samples.values()))
            k = min(config.neighbors, (smallest - 1) // 2)
            if k < config.neighbors:
                notice(
                    f"dimensions: {k:,} neighbours instead of {config.neighbors:,}, fewer than half of the "
                    f"{smallest:,} different patterns that are reduced"
                )
            finished = 0  # counted together with the note of what comes next
            for dimensions, seed in fits:
                if _key(dimensions, seed) in stage.notes:
                    continue
                z = samples[seed]
                advance(finished, note=f"UMAP of {len(z):,} patterns to {dimensions} dimensions, seed {seed}")
                settings = config.atlas.model_copy(update={"dimensions": dimensions, "seed": seed})
                coordinates = Reducer(settings).fit(z).coordinates_
                advance(0, note=f"{k:,} neighbours in {dimensions} dimensions, seed {seed}")
                found = trustworthiness(
                    z, coordinates, k, queries=config.queries, metric=config.atlas.metric, seed=seed
                )
                measured = {
                    "trustworthiness": found.value,
                    "error": found.error,
                    "neighbors": k,
                    "points": len(z),
                    "queries": found.queries,
                }
                stage.note(_key(dimensions, seed), measured)
                finished = 1
            advance(finished, note="picture")
    return [
        {"dimensions": dimensions, "seed": seed, **stage.notes[_key(dimensions, seed)]}
        for dimensions, seed in sorted(fits)
    ]


def _key(dimensions: int, seed: int) -> str:
    return f"{dimensions} dimensions, seed {seed}"


def _samples(embeddings: Path, manifest: Manifest, config: DimensionsConfig) -> Mapping[int, Float[ndarray, "n d"]]:
    """For each seed some different embeddings that pass the gate. Only those that are drawn are held in memory."""
    shards = manifest.shards("embeddings")
    passing = [
        np.flatnonzero(has_structure(read_table(embeddings / name, ["structure"])["structure"].to_numpy()))
        for name in shards
    ]
    total = sum(map(len, passing))
    _expect_enough(total, config)
    drawn = {}
    for seed in range(config.seed, config.seed + config.seeds):
        draw = generator(seed, "dimensions")
        drawn[seed] = np.sort(draw.choice(total, min(config.points, total), replace=False))
    wanted = np.unique(np.concatenate(list(drawn.values())))
    parts = [*_chosen(embeddings, shards, passing, wanted)]
    z = finite_embeddings(np.concatenate(parts))
    samples = {}
    for seed, rows in drawn.items():
        own = z[np.searchsorted(wanted, rows)]
        samples[seed] = own[merge_duplicates(own)[0]]
    _expect_enough(min(map(len, samples.values())), config)
    return samples


def _expect_enough(patterns: int, config: DimensionsConfig) -> None:
    most = max(config.dimensions)
    if patterns < most + 3:  # the Reducer gives fewer rows their principal axes
        raise ConfigError(
            f"expected at least {most + 3} different patterns with structure to reduce to {most} dimensions, found "
            f"{patterns}; encode more prompts"
        )


def _chosen(
    embeddings: Path,
    shards: Mapping[str, Any],
    passing: list[Int[ndarray, " _"]],
    wanted: Int[ndarray, " _"],
) -> Iterator[Float[ndarray, "_ d"]]:
    """The embeddings of some patterns, shard by shard; they are numbered among those that pass the gate."""
    first = 0
    for name, rows in zip(shards, passing, strict=True):
        own = wanted[(wanted >= first) & (wanted < first + len(rows))] - first
        first += len(rows)
        if len(own):
            yield matrix(read_table(embeddings / name, ["embedding"])["embedding"].take(pa.array(rows[own])))
