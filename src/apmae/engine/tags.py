"""The tag stage: every head of a model on many prompts, and what each head does over all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Shaped
from numpy import ndarray

from apmae import bundled
from apmae.analyze.steadiness import head_records, summarize_heads
from apmae.artifacts import (
    Records,
    Shard,
    Stage,
    cut,
    fingerprint,
    is_shard,
    missing,
    read_json,
    read_table,
    run_shards,
    write_json,
    write_tables,
)
from apmae.atlas.atlas import Atlas
from apmae.config import LMConfig, TagsConfig
from apmae.encode import embeddings_table, prompts_table
from apmae.engine.checks import expect_tags_folder
from apmae.engine.prompts import load_prompts
from apmae.engine.sources import files_to_tag
from apmae.engine.stages import decisive, opened
from apmae.engine.tag import BatchTags, is_unseen, note_of, open_pair, representation_of, tag_batch
from apmae.errors import SourceError
from apmae.lm.language_model import LM
from apmae.lm.stream import Captured, capture_prompts, window_length
from apmae.model.folder import expect_shape
from apmae.model.mae import APMAE
from apmae.patterns.gate import SHORTEST
from apmae.progress import Advance, progress
from apmae.prompts.each_file import prompts_of_files
from apmae.prompts.prompt import Prompt
from apmae.report import steadiness
from apmae.report.steadiness_page import summary_page
from apmae.schema import ATLAS_FILE, CORPUS_TAGS, NAMES_FILE, NOISE, PAGE_FILE, SUMMARY_FILE, TAGGED

_VERSION = 1
"""Of the summary (``docs/exchange.md``); raised when a field changes its meaning or goes."""


def tag_corpus(
    lm: LM | LMConfig,
    encoder: str,
    atlas: str,
    prompts_path: Path,
    out: Path,
    config: TagsConfig | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tag every head of a model on many prompts, and sum up what each head does.

    Writes ``tags-NNNNN.parquet`` (``schema.CORPUS_TAGS``), ``prompts-NNNNN.parquet`` (``schema.ENCODED_PROMPTS``,
    without scores of whole completions), ``embeddings-NNNNN.parquet`` (``schema.embeddings``, if asked for),
    ``summary.json`` (``docs/exchange.md``) and a page. Beyond the forwards of the
    prompts the model is asked nothing.

    Args:
        lm: the language model.
        encoder: folder or hub id of an AP-MAE, or "bundled".
        atlas: folder of an atlas fitted with that encoder, or "bundled".
        prompts_path: prompts, Parquet or JSONL; or source files, a folder, file, zip or tar, of each of which one
            completion is taken (``prompts/each_file.py``).
        out: the folder for the tags.
        config: heads, window, shards, whether embeddings are kept.
        overwrite: replace an artifact made from something else.

    Returns:
        The summary.

    Raises:
        CaptureError: if the model has no positions for the window, or is an encoder and the AP-MAE reads causal
            patterns.
        ConfigError: if the atlas was fitted with another encoder, or on rows of another width; if ``out`` is named like
            a file.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    config = config or TagsConfig()
    expect_tags_folder(out)
    source = files_to_tag(prompts_path)
    prompts = [] if source else load_prompts(prompts_path)
    if not prompts and not source:
        raise SourceError(f"expected prompts to tag heads on in {prompts_path}, found none; give another file")
    mae, places = open_pair(encoder, atlas)
    lm = opened(lm)
    expect_shape(causal=mae.config.causal, found=lm.causal)
    length = window_length(lm, mae.config.pattern_size, config.capture.context)  # refused before anything runs
    inputs = {"lm": lm.fingerprint, "encoder": mae.fingerprint, **atlas_inputs(atlas)}
    inputs["prompts"] = source.fingerprint() if source else fingerprint(prompts_path)
    if representation_of(places) != "cls":
        inputs["constants"] = bundled.constants()
    with Stage.open(out, "tag", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            unused = Counter[str]()
            if source:
                prompts = prompts_of_files(
                    source, lm.backend_tokenizer, length=length, seed=config.seed, rejected=unused
                )
            shards = cut(len(prompts), config.shard_prompts, TAGGED if config.embeddings else TAGGED[:2])
            done = len(prompts) - sum(map(len, missing(stage, shards)))
            with progress("tag", len(prompts), done=done, unit="prompts") as advance:
                work = partial(
                    tag_shard,
                    lm=lm,
                    mae=mae.to(lm.device),
                    atlas=places,
                    prompts=prompts,
                    config=config,
                    root=stage.staging,
                    advance=advance,
                )
                run_shards(stage, shards, work)
            if not stage.has(SUMMARY_FILE):
                write_json(stage.staging / SUMMARY_FILE, _summary(stage, lm, places, inputs, unused))
                stage.add_files([SUMMARY_FILE])
            if not stage.has(PAGE_FILE):
                page = summary_page(read_json(stage.root / SUMMARY_FILE))
                stage.write_files({PAGE_FILE: page})
            counts = {
                "prompts": stage.rows("prompts"),
                "tags": stage.rows("tags"),
                "heads_by_layer": list(lm.heads_by_layer),
                "representation": representation_of(places),
                "pattern_size": mae.config.pattern_size,
                "context": length,
                "lm": lm.name,
                "metric": places.config.metric,
                "clusterer": places.config.clusterer,
            }
            stage.finish(counts)
    return read_json(out / SUMMARY_FILE)


def tag_shard(
    shard: Shard,
    *,
    lm: LM,
    mae: APMAE,
    atlas: Atlas,
    prompts: Sequence[Prompt],
    config: TagsConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Tag every head on the prompts of one shard.

    Args:
        shard: which prompts; its files are those of ``schema.TAGGED``, without embeddings if none are kept.
        lm: the language model.
        mae: the encoder.
        atlas: fitted with it; the search that it prepares for the first prompts serves all others.
        prompts: all prompts of the stage, in the order that numbers them.
        config: heads and window, whether embeddings are kept.
        root: the folder for the files.
        advance: called with the prompts of each batch.

    Returns:
        The records of the files.
    """
    batches = []
    stream = capture_prompts(
        lm,
        prompts[shard.first : shard.stop],
        config.capture,
        size=mae.config.pattern_size,
        seed=config.seed,
        first=shard.first,
    )
    for captured in stream:
        found = tag_batch(captured, mae=mae, atlas=atlas, unseen=is_unseen(atlas, lm.name))
        made = [_tags(captured, found), prompts_table(captured, captured.answers)]
        if config.embeddings:
            made.append(embeddings_table(captured, captured.answers, found.scores, found.seen))
        batches.append(made)
        if advance:
            advance(len(captured.prompts), note=f"{len(captured.patterns) // len(captured.prompts)} heads per prompt")
    tables = {name: pa.concat_tables([made[i] for made in batches]) for i, name in enumerate(shard.files)}
    return write_tables(root, tables)


def print_summary(summary: dict[str, Any]) -> None:
    """Print what each head does over a corpus."""
    steadiness.print_summary(summary)


def _tags(captured: Captured, found: BatchTags) -> pa.Table:
    """The tags of one batch."""
    patterns = captured.patterns
    placed, each = found.placed, len(patterns) // len(captured.prompts)
    width = placed.coordinates.shape[1]
    columns = {
        "prompt": pa.array(patterns.prompt.astype(np.int32)),
        "layer": pa.array(patterns.layer.astype(np.int16)),
        "head": pa.array(patterns.head.astype(np.int16)),
        "task": pa.array([prompt.task for prompt in captured.prompts for _ in range(each)]),
        "outcome": pa.array([reply and reply.outcome for reply in captured.answers for _ in range(each)], pa.string()),
        "cluster": pa.array(placed.cluster.astype(np.int32)),
        "name": pa.array(found.names),
        "strength": pa.array(placed.strength),
        "reason": pa.array(placed.reason.tolist()),
        "stability": pa.array(found.stability, mask=np.isnan(found.stability)),
        "unstable": pa.array(found.unstable),
        "structure": pa.array(found.seen.structure),
        "measured": pa.array(found.measured),
        "nearest": _lists(placed.nearest, placed.nearest != NOISE, pa.int32()),
        "distances": _lists(placed.distances, placed.nearest != NOISE, pa.float32()),
        "exemplars": _lists(placed.exemplars, placed.exemplars >= 0, pa.int32()),
        "exemplar_distances": _lists(placed.exemplar_distances, placed.exemplars >= 0, pa.float32()),
        "coordinates": pa.ListArray.from_arrays(
            np.arange(len(patterns) + 1, dtype=np.int32) * width, placed.coordinates.reshape(-1)
        ),
    }
    return pa.table(columns, schema=CORPUS_TAGS)


def _lists(values: Shaped[ndarray, "n c"], shown: Bool[ndarray, "n c"], kind: pa.DataType) -> pa.ListArray:
    """The values of each row that are shown."""
    offsets = np.concatenate([[0], shown.sum(1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values[shown]).cast(kind))


def atlas_inputs(source: str) -> dict[str, str]:
    """SHA-256 of an atlas's record, which has those of its other files, and of its own names, if there are any."""
    folder = bundled.atlas() if source == "bundled" else Path(source)
    names = {"names": fingerprint(folder / NAMES_FILE)} if (folder / NAMES_FILE).is_file() else {}
    return {"atlas": fingerprint(folder / ATLAS_FILE), **names}


def _summary(stage: Stage, lm: LM, atlas: Atlas, inputs: dict[str, str], unused: Mapping[str, int]) -> dict[str, Any]:
    """The content of ``summary.json`` (``docs/exchange.md``)."""
    tags = [stage.root / name for name in stage.files if is_shard(name, "tags")]
    shown = (name for name in stage.files if is_shard(name, "prompts"))
    asked = pa.concat_tables([read_table(stage.root / name, ["task", "outcome", "tokens"]) for name in shown])
    short = sum(len(tokens) < SHORTEST for tokens in asked["tokens"].to_pylist())
    tasks, outcomes = asked["task"].to_pylist(), asked["outcome"].to_pylist()
    of = atlas.clusters
    stability = np.minimum(of["stability"].to_numpy(), of["seed_stability"].to_numpy()).tolist()
    clusters = zip(
        of["cluster"].to_pylist(), of["name"].to_pylist(), stability, of["unstable"].to_pylist(), strict=True
    )
    return {
        "format": "apmae.heads",
        "version": _VERSION,
        "model": lm.name,
        "inputs": inputs,
        "atlas_models": list(atlas.models),
        "note": note_of(atlas, lm.name),
        "heads_by_layer": list(lm.heads_by_layer),
        "prompts": len(tasks),
        "short_prompts": short,
        "shortest": SHORTEST,
        "correct": None if None in outcomes else outcomes.count("correct"),
        "tasks": {task: tasks.count(task) for task in sorted(set(tasks))},
        "unused_files": dict(sorted(unused.items())),
        "clusters": [dict(zip(("cluster", "name", "stability", "unstable"), row, strict=True)) for row in clusters],
        "heads": head_records(summarize_heads(tags)),
    }
