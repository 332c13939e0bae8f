"""The circuit stage: which heads carry each task, by attribution, exact patching of a shortlist, and clean patterns."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.circuit_exports import exports
from apmae.analyze.circuits import (
    Head,
    Measured,
    circuit_table,
    edge_table,
    ranked,
    ranking_of,
    recall_table,
    shortlist_size,
    task_row,
)
from apmae.artifacts import Stage, cut, fingerprint, is_shard, missing, read_table, run_shards, write_json
from apmae.atlas.atlas import Atlas
from apmae.circuit import Clock, TagChanges, edges_shard, effects_shard, heads_of, scores_shard
from apmae.config import CaptureConfig, LMConfig, PatchingConfig
from apmae.engine.circuit_checks import expect_decoder, expect_tags
from apmae.engine.prompts import load_prompts
from apmae.engine.stages import decisive, opened
from apmae.engine.tag import is_unseen, open_pair, tag_batch
from apmae.engine.tags import atlas_inputs
from apmae.lm.declared import expect_window
from apmae.lm.language_model import LM
from apmae.lm.pairs import pairs_of
from apmae.lm.patching import RUNS, edges_among, forwards_of
from apmae.lm.restart import Restart
from apmae.lm.selection import expect_head
from apmae.lm.stream import capture_batch
from apmae.model.folder import expect_shape
from apmae.model.mae import APMAE
from apmae.progress import progress
from apmae.prompts.pairs import REASONS, Pair
from apmae.report import circuits as report
from apmae.report.circuit_figures import circuit_figure
from apmae.report.figures import png
from apmae.schema import (
    CIRCUIT,
    CIRCUIT_EDGES,
    CIRCUIT_PICTURE,
    CIRCUIT_RECALL,
    CIRCUIT_TASKS,
    CONNECTED,
    FILTERED,
    FILTERS,
    PATCHED,
)
from apmae.study.circuit import TABLES, Circuit, read_circuit


def find_circuit(
    lm: LM | LMConfig,
    prompts_path: Path,
    out: Path,
    config: PatchingConfig | None = None,
    *,
    tags: tuple[str, str] | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> Circuit:
    """Find which heads carry the tasks of some prompts, by prompts and their counterfactuals.

    Every filter scores all heads; those that the chosen one ranks first, or all, are patched one by one. Writes
    ``schema.CIRCUIT`` and the other tables of ``docs/artifacts.md``, and a picture. A run that was killed resumes after
    its last shard.

    Args:
        lm: the language model, a decoder.
        prompts_path: prompts with counterfactuals and wrong completions, Parquet or JSONL.
        out: the folder for the tables.
        config: direction, filter, shortlist, edges.
        tags: an encoder and an atlas fitted with it, folders or "bundled", for the filter by clusters.
        overwrite: replace an artifact made from something else.
        json: where to write the tables as JSON too.

    Raises:
        CaptureError: if the model has no positions for the window, or its heads cannot be recorded or edited.
        ConfigError: if the filter is "tags" and none are given, or encoder and atlas do not belong together.
        ModelError: if the model is an encoder.
        SourceError: if no prompt has a counterfactual of as many tokens.
    """
    config = config or PatchingConfig()
    expect_tags(config, tags)
    prompts = load_prompts(prompts_path)
    lm = opened(lm)
    expect_decoder(lm.causal, lm.source)
    expect_window(config.context, lm.max_length)
    for layer, head in () if isinstance(config.exact, str) else config.exact:
        expect_head(lm.heads, layer, head)
    inputs = {"lm": lm.fingerprint, "prompts": fingerprint(prompts_path)}
    changes = None
    if tags is not None:
        mae, places = open_pair(*tags)
        expect_shape(causal=mae.config.causal, found=lm.causal)
        inputs |= {"encoder": mae.fingerprint, **atlas_inputs(tags[1])}
        changes = partial(_tag_changes, lm=lm, mae=mae.to(lm.device), atlas=places, config=config)
    with Stage.open(out, "circuit", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            pairs, left_out = pairs_of(lm, prompts, config.context)
            _make(stage, lm, pairs, dict(left_out), config, changes)
    found = read_circuit(out)
    if json:
        write_json(json, report.circuit_record(found))
    return found


def print_circuit(found: Circuit, out: Path) -> None:
    """Print the circuit of each task, and how far it can be trusted."""
    report.print_circuit(found, out)


def _make(
    stage: Stage,
    lm: LM,
    pairs: Sequence[Pair],
    left_out: dict[str, int],
    config: PatchingConfig,
    tags: TagChanges | None,
) -> None:
    """Make the files that the stage does not have: scores, effects, edges, then the tables of all pairs."""
    clock, heads = Clock(), heads_of(lm)
    shards = cut(len(pairs), config.shard_pairs, FILTERED)
    done = len(pairs) - sum(map(len, missing(stage, shards)))
    work = partial(scores_shard, lm=lm, pairs=pairs, config=config, root=stage.staging, clock=clock)
    with progress("circuit: filters", len(pairs), done=done, unit="pairs") as advance:
        run_shards(stage, shards, partial(work, tag_changes=tags, advance=advance))
    tasks = dict.fromkeys(pair.prompt.task for pair in pairs)
    rows = {task: [at for at, pair in enumerate(pairs) if pair.prompt.task == task] for task in tasks}
    filters = [name for name in FILTERS if name not in ("random", "tags") or (name == "tags" and tags is not None)]
    scores = _scores(stage, len(pairs), len(heads))
    size = shortlist_size(config.share, len(heads))
    shortlists = {
        task: ranking_of(config.filter, {name: scores[name][own] for name in filters}, len(heads), config.seed, task)[
            :size
        ]
        for task, own in rows.items()
    }
    chosen = {task: _chosen(heads, own, config) for task, own in shortlists.items()}
    shards = cut(len(pairs), config.shard_pairs, PATCHED)
    total = sum(len(chosen[pair.prompt.task]) for pair in pairs)
    done = stage.rows("effects")
    restart = Restart(lm)
    work = partial(
        effects_shard,
        lm=lm,
        pairs=pairs,
        chosen=chosen,
        config=config,
        root=stage.staging,
        restart=restart,
        clock=clock,
    )
    with progress("circuit: patching", total, done=done, unit="forwards") as advance:
        run_shards(stage, shards, partial(work, advance=advance))
    effects = _effects(stage, len(pairs), heads)
    measured = {
        task: Measured(
            heads,
            [pairs[at].group for at in own],
            *_differences(stage, own),
            {name: scores[name][own] for name in FILTERS if name != "random"},
            effects[own],
        )
        for task, own in rows.items()
    }
    senders = _edge_heads(measured, config)
    edges = _edges(stage, lm, pairs, senders, rows, config, restart)
    if not stage.has(*TABLES):
        _write_tables(stage, measured, shortlists, edges, config)
    cost, inner = forwards_of(config.filter, config.steps), lm.model.config.get_text_config()
    counts = {
        "pairs": {task: len(own) for task, own in rows.items()},
        "left_out": {REASONS[reason]: count for reason, count in left_out.items()},
        "lm": lm.name,
        "heads": len(heads),
        "heads_by_layer": list(lm.heads_by_layer),
        "width": inner.hidden_size,
        "parallel": bool(getattr(inner, "use_parallel_residual", getattr(inner, "parallel_attn", False))),
        "shortlist": size,
        "patched": len(next(iter(chosen.values()))),
        "direction": config.direction,
        "filter": config.filter,
        "forwards": cost + RUNS + size,
        "forwards_all": RUNS + len(heads),
        "seconds": clock.per_unit,
    }
    tables = [read_table(stage.root / name) for name in TABLES]
    found = Circuit(tables[0], tables[1], tables[2], tables[3], counts)
    files = exports(found)
    if not stage.has(CIRCUIT_PICTURE, *files):
        stage.write_files({CIRCUIT_PICTURE: png(circuit_figure(found)), **files})
    stage.finish(counts)


def _chosen(heads: list[Head], shortlist: ndarray, config: PatchingConfig) -> list[Head]:
    """The heads of a task that are patched."""
    if config.exact == "all":
        return heads
    if config.exact == "shortlist":
        return [heads[at] for at in sorted(shortlist.tolist())]
    return sorted(set(config.exact))


def _write_tables(
    stage: Stage,
    measured: Mapping[str, Measured],
    shortlists: Mapping[str, ndarray],
    edges: pa.Table,
    config: PatchingConfig,
) -> None:
    """The tables over all pairs."""
    draws, seed = config.resamples, config.seed
    cost = {name: forwards_of(name, config.steps) for name in FILTERS}
    heads = [circuit_table(task, own, shortlists[task], draws, seed) for task, own in measured.items()]
    recall = [recall_table(task, own, cost, RUNS, seed) for task, own in measured.items() if own.patched.all()]
    rows = [task_row(task, own, draws, seed) for task, own in measured.items()]
    made = (
        pa.concat_tables([CIRCUIT.empty_table(), *heads]),
        pa.concat_tables([CIRCUIT_RECALL.empty_table(), *recall]),
        pa.concat_tables([CIRCUIT_TASKS.empty_table(), *rows]),
        edges,
    )
    stage.write_tables(dict(zip(TABLES, made, strict=True)))


def _edge_heads(measured: Mapping[str, Measured], config: PatchingConfig) -> dict[str, list[Head]]:
    """The heads of each task with the largest effects, in order of layer."""
    chosen = {}
    for task, own in measured.items():
        effect = np.where(own.patched, np.nan_to_num(own.effects).mean(0), np.nan)
        best = ranked(effect, config.seed, "exact", task)[: min(config.edge_heads, int(own.patched.sum()))]
        chosen[task] = sorted(own.heads[at] for at in best)
    return chosen


def _edges(
    stage: Stage,
    lm: LM,
    pairs: Sequence[Pair],
    chosen: Mapping[str, list[Head]],
    rows: Mapping[str, list[int]],
    config: PatchingConfig,
    restart: Restart,
) -> pa.Table:
    """``schema.CIRCUIT_EDGES`` of all tasks; without rows if none are asked for."""
    nothing = CIRCUIT_EDGES.empty_table()
    if not config.edge_heads:
        return nothing
    shards = cut(len(pairs), config.shard_pairs, CONNECTED)
    done = len(pairs) - sum(map(len, missing(stage, shards)))
    with progress("circuit: edges", len(pairs), done=done, unit="pairs") as advance:
        work = partial(
            edges_shard, lm=lm, pairs=pairs, chosen=chosen, config=config, root=stage.staging, restart=restart
        )
        run_shards(stage, shards, partial(work, advance=advance))
    links = _table(stage, "links")
    number, effect = links["pair"].to_numpy(), links["effect"].to_numpy()
    tables = []
    for task, own in rows.items():
        edges = edges_among(chosen[task])
        values = effect[np.isin(number, own)].reshape(len(own), len(edges))
        groups = [pairs[at].group for at in own]
        tables.append(edge_table(task, edges, values, groups, config.resamples, config.seed))
    return pa.concat_tables([nothing, *tables])


def _table(stage: Stage, table: str) -> pa.Table:
    return pa.concat_tables([read_table(stage.root / name) for name in stage.files if is_shard(name, table)])


def _scores(stage: Stage, pairs: int, heads: int) -> dict[str, Float[ndarray, "p h"]]:
    """Scores by filter; NaN for tags that were not asked for."""
    table = _table(stage, "scores")
    return {
        name: table[name].to_numpy(zero_copy_only=False).astype(np.float64).reshape(pairs, heads)
        for name in FILTERS
        if name != "random"
    }


def _effects(stage: Stage, pairs: int, heads: Sequence[Head]) -> Float[ndarray, "p h"]:
    """Effects; NaN where a head was not patched."""
    table, column = _table(stage, "effects"), {head: at for at, head in enumerate(heads)}
    effects = np.full((pairs, len(heads)), np.nan)
    places = zip(table["layer"].to_pylist(), table["head"].to_pylist(), strict=True)
    effects[table["pair"].to_numpy(), [column[place] for place in places]] = table["effect"].to_numpy()
    return effects


def _differences(stage: Stage, rows: list[int]) -> tuple[Float[ndarray, " p"], Float[ndarray, " p"]]:
    table = _table(stage, "pairs")
    return table["clean"].to_numpy()[rows], table["counterfactual"].to_numpy()[rows]


def _tag_changes(
    pairs: Sequence[Pair], *, lm: LM, mae: APMAE, atlas: Atlas, config: PatchingConfig
) -> Bool[ndarray, "b h"]:
    """Which heads are in another cluster on the counterfactual; in none on both sides is no change."""
    capture = CaptureConfig(batch=config.batch, context=config.context)
    clusters = []
    for side in ("clean", "other"):
        windows = [getattr(pair, side) for pair in pairs]
        captured = capture_batch(lm, [pair.prompt for pair in pairs], windows, capture, size=mae.config.pattern_size)
        placed = tag_batch(captured, mae=mae, atlas=atlas, unseen=is_unseen(atlas, lm.name)).placed
        clusters.append(placed.cluster.reshape(len(pairs), -1))
    return clusters[0] != clusters[1]
