"""The ablate stage: what each head does for a model's answers, and what sets of heads do, beside matched controls."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file, save

from apmae.ablation import Windows, effects_shard, removals_of, removed_shard, unedited_shard
from apmae.analyze.ablation import distinct_sets, most_sets, plan_sets, set_table, task_table
from apmae.analyze.answers import Drawn, drawn_from
from apmae.analyze.effects import (
    Head,
    Measured,
    Prompts,
    expect_both_outcomes,
    halve,
    head_table,
    reliability_table,
)
from apmae.artifacts import (
    Shard,
    Stage,
    cut,
    fingerprint,
    manifest_path,
    missing,
    read_manifest,
    read_table,
    run_shards,
    write_json,
)
from apmae.config import AblateConfig, LMConfig, PruneConfig
from apmae.engine.ablation_checks import CONTEXT, expect_measurable, with_context
from apmae.engine.prompts import load_prompts
from apmae.engine.stages import decisive, opened
from apmae.errors import ArtifactError
from apmae.lm.changes import Mean
from apmae.lm.declared import expect_answering, expect_window
from apmae.lm.language_model import LM
from apmae.lm.removal import Removal, replies_under
from apmae.lm.selection import expect_head
from apmae.progress import duration, notice, progress
from apmae.prompts.prompt import Prompt
from apmae.report import terminal
from apmae.report.ablation import ablation_record
from apmae.schema import (
    ABLATED,
    HEAD_SETS_FILE,
    HEADS_REMOVED,
    MEANS_FILE,
    SETS_REMOVED,
)
from apmae.study.ablation import ABLATION_RESULTS, Ablation, read_ablation

_RESULTS = tuple(name for name in ABLATION_RESULTS if name != HEAD_SETS_FILE)


class Given(NamedTuple):
    """What heads are removed of, opened."""

    windows: Windows
    prompts: Prompts
    heads: list[Head]
    drawn: Drawn
    config: AblateConfig


def ablate(
    lm: LM | LMConfig,
    prompts_path: Path,
    out: Path,
    config: AblateConfig | None = None,
    *,
    study_lm: str | None = None,
    study_lm_name: str | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> Ablation:
    """Remove each head alone, then ranked sets of heads and their controls, and measure what that does.

    Files are split in two. Each head is removed alone on all prompts, in each mode; on the ranking half that orders the
    heads, and the sets are removed on the measuring half. A run that was killed resumes after the last whole shard.

    Args:
        lm: the language model.
        prompts_path: prompts, Parquet or JSONL, with both correct and incorrect answers.
        out: the folder for the tables.
        config: modes, heads, doses, window.
        study_lm: fingerprint of the model of the study that the prompts are from; another model gets a line that says
            what transfers.
        study_lm_name: its name.
        overwrite: replace an artifact made from something else.
        json: where to write findings and tables as JSON too.

    Returns:
        The tables and the manifest's counts.

    Raises:
        CaptureError: if there is no such head, the model has no positions for the window, or its heads cannot be
            edited.
        ConfigError: if a prompt has no completion, all answers are correct or all incorrect, or all prompts are of one
            file, or of files with nearly the same windows.
        ModelError: if the model answers nothing.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    config = with_context(config or AblateConfig(), None)
    lm, prompts, inputs, transfers = measurable(lm, prompts_path, config.context, study_lm, study_lm_name)
    heads = heads_of(lm, config)
    with Stage.open(out, "ablate", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            windows, split = halved(lm, prompts, config)
            drawn = drawn_for(prompts_path, inputs)
            with torch.no_grad():
                _make(stage, Given(windows, split, heads, drawn, config), transfers)
    made = read_ablation(out)
    if json:
        write_json(json, ablation_record(made))
    return made


def measurable(
    lm: LM | LMConfig, prompts_path: Path, context: int | None, study_lm: str | None, study_lm_name: str | None
) -> tuple[LM, list[Prompt], dict[str, str], str]:
    """The model opened, the prompts, their fingerprints, and a line for a model that is not the study's, which is said.

    Args:
        lm: the language model.
        prompts_path: prompts, Parquet or JSONL.
        context: tokens of a window.
        study_lm: fingerprint of the study's model; None without a study.
        study_lm_name: its name.

    Raises:
        CaptureError: if the model has no positions for the window.
        ConfigError: if nothing could be measured on the prompts.
        ModelError: if the model answers nothing.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    prompts = load_prompts(prompts_path)
    expect_measurable(prompts)
    lm = opened(lm)
    expect_answering(lm.answers, lm.source)
    expect_window(context or CONTEXT, lm.max_length)
    transfers = transfer_line(lm, study_lm, study_lm_name)
    if transfers:
        notice(transfers)
    return lm, prompts, {"lm": lm.fingerprint, "prompts": fingerprint(prompts_path)}, transfers


def halved(lm: LM, prompts: Sequence[Prompt], config: AblateConfig | PruneConfig) -> tuple[Windows, Prompts]:
    """The prompts' windows, and the halves that rank and measure."""
    windows = Windows(lm, prompts, (), config.context or CONTEXT)
    texts = ["".join(window.tokens) for window in windows.of(range(len(prompts)))]
    tasks, paths = [prompt.task for prompt in prompts], [prompt.path for prompt in prompts]
    split = halve(tasks, paths, texts, config.similar, config.seed)
    windows.groups = split.group.tolist()
    return windows, split


def heads_of(lm: LM, config: AblateConfig) -> list[Head]:
    """The heads that are removed, by layer and head.

    Raises:
        CaptureError: if the model has no such head.
    """
    if config.heads == "all":
        return [(layer, head) for layer, count in lm.heads.items() for head in range(count)]
    for layer, head in config.heads:
        expect_head(lm.heads, layer, head)
    return sorted(config.heads)


def _make(stage: Stage, given: Given, transfers: str) -> None:
    """Make the files that the stage does not have."""
    windows, prompts, heads, drawn, config = given
    count, measuring = len(windows.prompts), prompts.measuring.tolist()
    plain, shards = (cut(count, config.shard_prompts, tables) for tables in (ABLATED, HEADS_REMOVED))
    later = cut(len(measuring), config.shard_prompts, SETS_REMOVED)
    common: dict[str, Any] = {"windows": windows, "config": config, "root": stage.staging}
    with _forwards(stage, "no head", plain, 1) as advance:
        run_shards(stage, plain, partial(unedited_shard, **common, advance=advance))
    before = measured_of(stage, plain)
    expect_both_outcomes(before.correct)
    common["removals"] = removals = _removals(stage, given)
    _say_cost(stage, given, shards, later)
    with _forwards(stage, "each head", shards, len(heads) * len(config.modes)) as advance:
        run_shards(stage, shards, partial(effects_shard, **common, heads=heads, advance=advance))
    effects = pa.concat_tables(read_table(stage.root / shard.files[0]) for shard in shards)
    after = {mode: effects_of(effects, mode, heads, count) for mode in removals}
    if not stage.has(HEAD_SETS_FILE):
        stage.write_tables({HEAD_SETS_FILE: plan_sets(prompts, before, after, heads, config)})
    sets = read_table(stage.root / HEAD_SETS_FILE)
    distinct = distinct_sets(sets)
    with _forwards(stage, "sets", later, len(distinct)) as advance:
        run_shards(stage, later, partial(removed_shard, **common, measuring=measuring, sets=distinct, advance=advance))
    removed = removed_of(stage, len(distinct), measuring)
    if not stage.has(*_RESULTS):
        tables = (
            head_table(prompts, before, after, heads),
            reliability_table(prompts, before, after),
            set_table(prompts, before, after, heads, sets, removed, drawn),
            task_table(prompts, before, sets, removed, drawn),
        )
        stage.write_tables(dict(zip(_RESULTS, tables, strict=True)))
    own = prompts.measuring
    stage.finish(
        {
            "prompts": count,
            "files": prompts.files,
            "groups": len(set(prompts.group.tolist())),
            "ranking": int(prompts.ranks.sum()),
            "measuring": len(own),
            "measuring_groups": len(set(prompts.group[own].tolist())),
            "correct": int(before.correct.sum()),
            "measuring_correct": int(before.correct[own].sum()),
            "log_probability": float(before.log_probability[own].mean()),
            "elsewhere": float(np.nanmean(before.elsewhere[own])) if np.isfinite(before.elsewhere[own]).any() else None,
            "heads_removed": len(heads),
            "sets": len(distinct),
            "heads_by_layer": list(windows.lm.heads_by_layer),
            "context": windows.context,
            "lm": windows.lm.name,
            "whole_forwards": windows.restart.reason,
            "transfers": transfers,
            "drawn": drawn.how,
            "natural_rate": drawn.natural,
            "natural_by_task": dict(drawn.by_task),
        }
    )


def _removals(stage: Stage, given: Given) -> dict[str, Removal]:
    """What stands in place of heads; means are kept in the artifact, for whoever removes the same heads later."""
    known = read_means(stage.root / MEANS_FILE) if stage.has(MEANS_FILE) else None
    ranking = np.flatnonzero(given.prompts.ranks).tolist()
    removals = removals_of(given.windows, ranking, given.config, known)
    if "mean" in removals and known is None:
        means = {f"{layer}.{head}": mean.values for (layer, head), mean in removals["mean"].means.items()}
        stage.write_files({MEANS_FILE: save(means)})
    return removals


def read_means(path: Path) -> dict[Head, Mean]:
    """Mean outputs of heads, as edits, from ``means.safetensors`` of an ablate artifact."""
    found = {}
    for name, values in load_file(path).items():
        layer, head = name.split(".")
        found[int(layer), int(head)] = Mean(values)
    return found


def _say_cost(stage: Stage, given: Given, shards: list[Shard], later: list[Shard]) -> None:
    """Say how many forwards are left, and about how long they take, after one that is timed."""
    windows, _, heads, _, config = given
    alone, each = sum(map(len, missing(stage, shards))), len(heads) * len(config.modes)
    sets = most_sets(len(heads), config)
    together = sum(map(len, missing(stage, later))) if sets else 0
    total = alone * (each + 1) + together * (sets + 1)
    if not total:
        return
    seen = windows.of(range(min(config.batch, len(windows.prompts))))
    begun = time.monotonic()
    replies_under(windows.lm, seen, every=config.every)
    seconds = (time.monotonic() - begun) / len(seen) * total
    start = "" if windows.restart.reason else ", less for heads of later layers"
    notice(
        f"ablate: {each} forwards for each of {alone} prompts ({len(heads)} heads, {' and '.join(config.modes)}), then "
        f"{f'at most {sets} for each of {together} ({sets} sets)' if sets else 'no sets'}: about {duration(seconds)}"
        f"{start}"
    )


def _forwards(stage: Stage, name: str, shards: list[Shard], each: int) -> Any:
    """A progress bar over forwards of one prompt."""
    every, left = sum(map(len, shards)), sum(map(len, missing(stage, shards)))
    return progress(f"ablate {name}", every * each, done=(every - left) * each, unit="forwards")


def measured_of(stage: Stage, shards: Sequence[Shard]) -> Measured:
    """The model as it is, of all prompts (``schema.UNEDITED``)."""
    return Measured(*_columns(pa.concat_tables(read_table(stage.root / shard.files[0]) for shard in shards)))


def effects_of(effects: pa.Table, mode: str, heads: Sequence[Head], prompts: int) -> Measured:
    """Each head removed alone, (prompts, heads), from ``schema.EFFECTS``."""
    own = effects.filter(pc.field("mode") == mode)
    place = {head: number for number, head in enumerate(heads)}
    column = [place[head] for head in zip(own["layer"].to_pylist(), own["head"].to_pylist(), strict=True)]
    return _arranged(own, own["prompt"].to_numpy(), np.array(column), (prompts, len(heads)))


def removed_of(stage: Stage, sets: int, measuring: Sequence[int], name: str = SETS_REMOVED[0]) -> Measured:
    """Sets removed, (measuring prompts, sets), from the shards of a table of ``schema.REMOVED``."""
    names = [file for file in stage.files if file.startswith(f"{name}-")]
    rows = pa.concat_tables([read_table(stage.root / name) for name in names])
    return _arranged(
        rows, np.searchsorted(measuring, rows["prompt"].to_numpy()), rows["set"].to_numpy(), (len(measuring), sets)
    )


def _arranged(table: pa.Table, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> Measured:
    found = []
    for values in _columns(table):
        whole = np.zeros(shape, values.dtype)
        whole[row, column] = values
        found.append(whole)
    return Measured(*found)


def _columns(table: pa.Table) -> list[np.ndarray]:
    return [
        table["log_probability"].to_numpy().astype(np.float64),
        table["correct"].to_numpy(),
        table["elsewhere"].to_numpy().astype(np.float64),
    ]


def drawn_for(path: Path, inputs: Mapping[str, str]) -> Drawn:
    """How prompts were chosen by outcome; of another model's outcomes no rate is this one's.

    Args:
        path: the prompts.
        inputs: hashes of the model ("lm") and of the prompts ("prompts").
    """
    drawn = drawn_from(path, inputs["prompts"])
    if drawn.how == "any" or not manifest_path(path).is_file():
        return drawn
    try:
        own = read_manifest(path, "prompts").inputs.get("lm") == inputs["lm"]
    except ArtifactError:
        return drawn
    return drawn if own else Drawn("by another model", None)


def transfer_line(lm: LM, study_lm: str | None, name: str | None) -> str:
    """One line, if the model is not the study's."""
    if study_lm is None or lm.fingerprint == study_lm:
        return ""
    return (
        f"{lm.name} is not the study's model, {name}: prompts and their windows transfer, answers are {lm.name}'s own; "
        f"clusters and tags of {name}'s heads say nothing of heads with the same numbers here."
    )


def print_ablation(found: Ablation) -> None:
    """Print what heads do, sets beside their controls, and what that says."""
    terminal.print_ablation(found)
