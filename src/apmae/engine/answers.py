"""The answers stage: what every head does where the model answers, on many prompts."""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from apmae.analyze.answers import drawn_from
from apmae.answers import answers_shard
from apmae.artifacts import Stage, cut, fingerprint, is_shard, missing, read_manifest, read_table, run_shards
from apmae.config import AnswersConfig, LMConfig
from apmae.engine.prompts import load_prompts
from apmae.engine.stages import decisive, opened
from apmae.lm.declared import expect_answering, expect_window
from apmae.lm.language_model import LM
from apmae.lm.readout import Readout
from apmae.lm.tracing import find_readout
from apmae.progress import progress
from apmae.schema import ANSWERED


def read_heads_of_answers(
    lm: LM | LMConfig, prompts_path: Path, out: Path, config: AnswersConfig | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Read every head of a model where it answers, on many prompts.

    Writes ``heads-NNNNN.parquet`` (``schema.answer_heads``), ``prompts-NNNNN.parquet`` (``schema.ENCODED_PROMPTS``) and
    ``states-NNNNN.parquet`` (``schema.answer_states``). Each prompt takes two forwards.

    Args:
        lm: the language model.
        prompts_path: prompts, Parquet or JSONL.
        out: the folder for the tables.
        config: window, batch, shards.
        overwrite: replace an artifact made from something else.

    Returns:
        The manifest's counts. ``attribution`` is how many heads have a logit attribution, ``without`` why others have
        none, by layer; or under "all" if it is the whole model.

    Raises:
        CaptureError: if the model has no positions for the window.
        ModelError: if the model answers nothing.
        SourceError: if there are no prompts, or a file of them cannot be read.
    """
    config = config or AnswersConfig()
    prompts = load_prompts(prompts_path)
    lm = opened(lm)
    expect_answering(lm.answers, lm.source)
    expect_window(config.context, lm.max_length)
    inputs = {"lm": lm.fingerprint, "prompts": fingerprint(prompts_path)}
    with Stage.open(out, "answers", decisive(config, lm), inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return read_manifest(out, "answers").counts
        found = find_readout(lm)
        readout = found if isinstance(found, Readout) else None
        shards = cut(len(prompts), config.shard_prompts, ANSWERED)
        done = len(prompts) - sum(map(len, missing(stage, shards)))
        with progress("answers", len(prompts), done=done, unit="prompts") as advance, torch.no_grad():
            work = partial(
                answers_shard,
                lm=lm,
                readout=readout,
                prompts=prompts,
                config=config,
                root=stage.staging,
                advance=advance,
            )
            run_shards(stage, shards, work)
        outcomes = [outcome for name in stage.files if is_shard(name, "prompts") for outcome in _outcomes(stage, name)]
        drawn = drawn_from(prompts_path, inputs["prompts"])
        counts = {
            "prompts": len(prompts),
            "heads_read": stage.rows("heads"),
            "correct": outcomes.count("correct"),
            "layers": lm.num_layers,
            "heads": lm.num_heads,
            "heads_by_layer": list(lm.heads_by_layer),
            "context": config.context,
            "lm": lm.name,
            "attribution": sum(lm.heads[layer] for layer in readout.projections) if readout else 0,
            "without": {str(layer): why for layer, why in readout.reasons.items()} if readout else {"all": found},
            "drawn": drawn.how,
            "natural_rate": drawn.natural,
            "natural_by_task": dict(drawn.by_task),
        }
        return stage.finish(counts).counts


def _outcomes(stage: Stage, name: str) -> list[str]:
    table: pa.Table = read_table(stage.root / name, ["outcome"])
    return table["outcome"].to_pylist()
