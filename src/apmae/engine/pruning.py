"""The prune stage: heads ranked on half of the files and removed together on the other half, beside random heads."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from apmae.ablation import Windows, removals_of, removed_shard, unedited_shard
from apmae.analyze.answers import Drawn
from apmae.analyze.effects import Head, Measured, Prompts, expect_both_outcomes
from apmae.analyze.pruning import (
    mean_readings,
    most_pruned,
    plan_pruning,
    pruned_heads,
    pruning_table,
    rank_table,
    unknown_shares,
)
from apmae.artifacts import (
    Shard,
    Stage,
    cut,
    fingerprint,
    missing,
    read_table,
    run_shards,
    write_json,
)
from apmae.config import HEAD_RANKINGS, LMConfig, PruneConfig
from apmae.engine.ablation import drawn_for, halved, measurable, measured_of, read_means, removed_of
from apmae.engine.ablation_checks import with_context
from apmae.engine.stages import decisive
from apmae.errors import CaptureError, ConfigError
from apmae.lm.importance import weight_norms
from apmae.lm.language_model import LM
from apmae.lm.removal import Removal, replies_under
from apmae.lm.tracing import find_projections
from apmae.progress import duration, notice, progress
from apmae.pruning import readings_shard
from apmae.report import pruning_terminal
from apmae.report.pruning import pruning_record
from apmae.schema import (
    ABLATED,
    ALONE_REMOVED,
    MEANS_FILE,
    PRUNED_SETS_FILE,
    PRUNING_FILE,
    RANKED_FILE,
    READINGS,
    SETS_REMOVED,
)
from apmae.study.pruning import Pruning, read_pruning
from apmae.study.reader import Study

_PATTERNS = ("flow", "first_token")
_READ = ("gradient", "attribution", *_PATTERNS)


class Given(NamedTuple):
    """What heads are removed of, opened."""

    windows: Windows
    prompts: Prompts
    heads: list[Head]
    drawn: Drawn
    config: PruneConfig
    study: Study | None


def prune(
    lm: LM | LMConfig,
    prompts_path: Path,
    out: Path,
    config: PruneConfig | None = None,
    *,
    study: Path | None = None,
    study_lm: str | None = None,
    study_lm_name: str | None = None,
    overwrite: bool = False,
    json: Path | None = None,
) -> Pruning:
    """Rank heads on half of the files, remove the first of each ranking on the other half, and say what is left.

    The halves are those of the ablate stage with the same seed. A run that was killed resumes after the last whole
    shard. :func:`apmae.engine.pruned.save_pruned` writes a model without heads.

    Args:
        lm: the language model.
        prompts_path: prompts, Parquet or JSONL, with both correct and incorrect answers.
        out: the folder for the tables.
        config: mode, rankings, doses, window.
        study: a study of this model and these prompts, whose atlas says which heads it does not know.
        study_lm: fingerprint of the model of the study that the prompts are from; another model gets a line that says
            what transfers.
        study_lm_name: its name.
        overwrite: replace an artifact made from something else.
        json: where to write findings and tables as JSON too.

    Returns:
        The tables and the manifest's counts.

    Raises:
        CaptureError: if the model has no positions for the window, or its heads cannot be edited.
        ConfigError: if a ranking that is asked for cannot be made, a prompt has no completion, all answers are correct
            or all incorrect, or all prompts are of one file, or of files with nearly the same windows.
        ModelError: if the model answers nothing.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    config = with_context(config or PruneConfig(), None)
    lm, prompts, inputs, transfers = measurable(lm, prompts_path, config.context, study_lm, study_lm_name)
    wanted = "unknown" in (config.rankings or HEAD_RANKINGS)
    tags = _atlas_of(study, inputs) if study is not None and wanted else None
    if tags is not None:
        inputs["cluster"] = fingerprint(tags.atlas_folder)
    with Stage.open(out, "prune", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            windows, split = halved(lm, prompts, config)
            heads = [(layer, head) for layer, count in lm.heads.items() for head in range(count)]
            with torch.no_grad():
                _make(stage, Given(windows, split, heads, drawn_for(prompts_path, inputs), config, tags), transfers)
    made = read_pruning(out)
    if json:
        write_json(json, pruning_record(made))
    return made


def _atlas_of(study: Path, inputs: Mapping[str, str]) -> Study:
    """The study, if it is of this model and these prompts."""
    found = Study(study)
    other = [name for name in ("lm", "prompts") if found.encoded.inputs.get(name) != inputs[name]]
    if other:
        raise ConfigError(
            f"expected a study of this model and these prompts, {study} has another {' and other '.join(other)}; "
            "its atlas says nothing of these heads"
        )
    return found


def _make(stage: Stage, given: Given, transfers: str) -> None:
    """Make the files that the stage does not have."""
    windows, prompts, heads, drawn, config, _ = given
    count, removing = len(windows.prompts), config.removing()
    ranking, measuring = np.flatnonzero(prompts.ranks).tolist(), prompts.measuring.tolist()
    common: dict[str, Any] = {"windows": windows, "root": stage.staging}
    plain = cut(count, config.shard_prompts, ABLATED)
    with _forwards("no head", stage, plain, 1) as advance:
        run_shards(stage, plain, partial(unedited_shard, **common, config=removing, advance=advance))
    before = measured_of(stage, plain)
    expect_both_outcomes(before.correct)
    removals = {config.mode: _removal(stage, given, ranking)}
    scores, left_out = _scores(stage, given, before, removals, ranking)
    if not stage.has(RANKED_FILE):
        ranked = rank_table(scores, heads, config.seed)
        tables = {RANKED_FILE: ranked, PRUNED_SETS_FILE: plan_pruning(ranked, heads, config)}
        stage.write_tables(tables)
    sets = read_table(stage.root / PRUNED_SETS_FILE)
    distinct = pruned_heads(sets)
    later = cut(len(measuring), config.shard_prompts, SETS_REMOVED)
    modes = [(config.mode, own) for own in distinct]
    with _forwards("sets", stage, later, len(distinct)) as advance:
        work = partial(removed_shard, **common, measuring=measuring, removals=removals, sets=modes, config=removing)
        run_shards(stage, later, partial(work, advance=advance))
    removed = removed_of(stage, len(distinct), measuring)
    if not stage.has(PRUNING_FILE):
        stage.write_tables({PRUNING_FILE: pruning_table(prompts, before, sets, removed, drawn)})
    elsewhere = before.elsewhere[measuring]
    stage.finish(
        {
            "prompts": count,
            "files": prompts.files,
            "ranking": len(ranking),
            "measuring": len(measuring),
            "measuring_groups": len(set(prompts.group[measuring].tolist())),
            "correct": int(before.correct.sum()),
            "measuring_correct": int(before.correct[measuring].sum()),
            "log_probability": float(before.log_probability[measuring].mean()),
            "elsewhere": float(np.nanmean(elsewhere)) if np.isfinite(elsewhere).any() else None,
            "heads": len(heads),
            "sets": len(distinct),
            "left_out": left_out,
            "heads_by_layer": list(windows.lm.heads_by_layer),
            "mode": config.mode,
            "context": windows.context,
            "lm": windows.lm.name,
            "whole_forwards": windows.restart.reason,
            "transfers": transfers,
            "drawn": drawn.how,
            "natural_rate": drawn.natural,
        }
    )


def _removal(stage: Stage, given: Given, ranking: list[int]) -> Removal:
    """What stands in place of heads; means are kept in the artifact, for whoever saves a model without them."""
    known = read_means(stage.root / MEANS_FILE) if stage.has(MEANS_FILE) else None
    removal = removals_of(given.windows, ranking, given.config.removing(), known)[given.config.mode]
    if removal.means and known is None:
        means = {f"{layer}.{head}": mean.values for (layer, head), mean in removal.means.items()}
        stage.write_files({MEANS_FILE: save(means)})
    return removal


def _scores(
    stage: Stage, given: Given, before: Measured, removals: Mapping[str, Removal], ranking: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Scores of all heads by ranking, and why rankings are left out."""
    windows, _, heads, _, config, study = given
    asked = config.rankings or HEAD_RANKINGS
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    shards = cut(len(ranking), config.shard_prompts, READINGS)
    alone = cut(len(ranking), config.shard_prompts, ALONE_REMOVED) if "exact" in asked else []
    common: dict[str, Any] = {"windows": windows, "root": stage.staging}
    _say_cost(stage, given, alone, len(asked))
    if any(name in asked for name in _READ):
        patterns = any(name in asked for name in _PATTERNS)
        work = partial(
            readings_shard,
            **common,
            ranking=ranking,
            means=removals[config.mode].means or None,
            patterns=patterns,
            config=config,
        )
        with _forwards("readings", stage, shards, 1, "prompts") as advance:
            run_shards(stage, shards, partial(work, advance=advance))
        readings = pa.concat_tables(read_table(stage.root / shard.files[0]) for shard in shards)
        found |= {name: score for name, score in mean_readings(readings, heads).items() if name in asked}
    if alone:
        sets = [(config.mode, (head,)) for head in heads]
        work = partial(
            removed_shard, **common, measuring=ranking, removals=removals, sets=sets, config=config.removing()
        )
        with _forwards("each head", stage, alone, len(heads)) as advance:
            run_shards(stage, alone, partial(work, advance=advance))
        after = removed_of(stage, len(heads), ranking, ALONE_REMOVED[0])
        found["exact"] = -(after.log_probability - before.log_probability[ranking][:, None]).mean(0)
    if "unknown" in asked:
        if study is None:
            left_out["unknown"] = "no study of this model gives tags"
        else:
            found["unknown"] = unknown_shares(study, ranking, heads)
    if "weight" in asked:
        try:
            norms = weight_norms(find_projections(windows.lm), windows.lm.heads)
            found["weight"] = np.array([norms[head] for head in heads])
        except CaptureError as error:
            left_out["weight"] = str(error)
    for name, score in list(found.items()):
        if not np.isfinite(score).any():
            left_out[name] = "no head has a score"
            del found[name]
    lacking = [f"{name} ({reason})" for name, reason in left_out.items() if config.rankings]
    if lacking or not found:
        raise ConfigError(f"expected rankings that can be made, {', '.join(lacking)} cannot; leave them out")
    return found, left_out


def _say_cost(stage: Stage, given: Given, alone: list[Shard], rankings: int) -> None:
    """Say how many forwards there are, and about how long they take, after one that is timed."""
    windows, prompts, heads, _, config, _ = given
    sets, measuring = most_pruned(len(heads), rankings, config), len(prompts.measuring)
    total = sum(map(len, missing(stage, alone))) * len(heads) + measuring * sets
    seen = windows.of(range(min(config.batch, len(windows.prompts))))
    begun = time.monotonic()
    replies_under(windows.lm, seen, every=config.every)
    seconds = (time.monotonic() - begun) / len(seen) * total
    each = f"{len(heads)} forwards for each of {int(prompts.ranks.sum())} prompts that rank heads, " if alone else ""
    notice(
        f"prune: {each}at most {sets} for each of {measuring} that measure ({sets} sets): at most about "
        f"{duration(seconds)}"
    )


def _forwards(name: str, stage: Stage, shards: list[Shard], each: int, unit: str = "forwards") -> Any:
    """A progress bar over forwards of one prompt."""
    every, left = sum(map(len, shards)), sum(map(len, missing(stage, shards)))
    return progress(f"prune {name}", every * each, done=(every - left) * each, unit=unit)


def print_pruning(found: Pruning) -> None:
    """Print what is left without heads, by ranking and dose, and what that says."""
    pruning_terminal.print_pruning(found)
