"""The stream LM -> tap -> encoder -> Parquet: every pattern is encoded, scored and dropped; a seeded few are kept.

Shards are whole prompts. A killed run goes on after the last whole shard and ends with the same bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from apmae.artifacts import Stage, read_table
from apmae.config import EncodeConfig
from apmae.errors import CaptureError
from apmae.lm.load import LM
from apmae.lm.outcome import answer
from apmae.lm.stream import Captured, capture_prompts
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import Scores, score
from apmae.progress import progress
from apmae.prompts.prompt import Prompt
from apmae.schema import ENCODED_PROMPTS, EXEMPLARS, RECONSTRUCTIONS, SCORES, embeddings
from apmae.seeding import generator, unit_hash

_RECONSTRUCTIONS = 12
"""Exemplars whose masked patches are predicted for the report (paper Figure 3)."""


def encode_prompts(
    lm: LM, mae: APMAE, prompts: Sequence[Prompt], config: EncodeConfig, stage: Stage, *, asked: bool = False
) -> dict[str, Any]:
    """Encode the patterns of prompts into a stage's shards.

    Args:
        lm: the language model.
        mae: the encoder; its ``pattern_size`` is the window's length unless the config's ``context`` says otherwise.
        prompts: prompts, in the order that numbers them.
        config: heads, shard size, exemplars.
        stage: where the shards go; whole ones that it already has are not made again.
        asked: whether the prompts' answers are those of this very model to these very windows. Otherwise it is asked
            again, which costs a second forward.

    Returns:
        Counts for the manifest: prompts, patterns, correct, layers, heads, dim, pattern_size, context.

    Raises:
        CaptureError: if the encoder's pattern size does not fit the model.
    """
    size = mae.config.pattern_size
    length = check_length(lm, size, config.context)
    shards = range(0, len(prompts), config.shard_prompts)
    names = [f"{number:05d}.parquet" for number in range(len(shards))]
    done = sum(
        min(config.shard_prompts, len(prompts) - first)
        for first, name in zip(shards, names, strict=True)
        if stage.has(*_files(name))
    )
    with progress("encode", len(prompts), done=done) as advance:
        for first, name in zip(shards, names, strict=True):
            if stage.has(*_files(name)):
                continue
            batches = []
            stream = capture_prompts(
                lm,
                prompts[first : first + config.shard_prompts],
                length=length,
                batch=config.batch_prompts,
                size=size,
                long=config.long,
                heads=config.heads,
                seed=config.seed,
                first=first,
            )
            for captured in stream:
                batches.append(_tables(lm, mae, captured, config, len(prompts), asked=asked))
                advance(len(captured.prompts), note=f"{len(captured.patterns) // len(captured.prompts)} heads a prompt")
            stage.write_shard(
                {file: pa.concat_tables([batch[i] for batch in batches]) for i, file in enumerate(_files(name))}
            )
    answered = [read_table(stage.root / _files(name)[1], ["outcome"])["outcome"].to_pylist() for name in names]
    return {
        "prompts": len(prompts),
        "patterns": stage.rows("embeddings"),
        "correct": sum(outcomes.count("correct") for outcomes in answered),
        "layers": lm.num_layers,
        "heads": lm.num_heads,
        "dim": mae.config.encoder_dim,
        "pattern_size": size,
        "context": length,
    }


def check_length(lm: LM, size: int, context: int | None) -> int:
    """The tokens of a window.

    Args:
        lm: the language model.
        size: rows of a pattern.
        context: tokens asked for; None takes as many as rows.

    Raises:
        CaptureError: if the model has no positions for as many.
    """
    length = size if context is None else context
    if lm.max_length is not None and length > lm.max_length:
        what, instead = "an encoder with a pattern_size", "use or train an encoder with a smaller pattern_size"
        if context is not None:
            what, instead = "a context", "take a shorter one"
        raise CaptureError(
            f"expected {what} of at most {lm.max_length}, the positions of the language model, got {length}; {instead}"
        )
    return length


def reconstructions(mae: APMAE, patterns: Patterns, *, seed: int = 0) -> pa.Table:
    """Mask a few patterns and predict what was hidden (paper Figure 3).

    Args:
        mae: with its decoder.
        patterns: any number; at most a dozen are taken, by a seeded draw.
        seed: of the draw and of the masks.

    Returns:
        ``schema.RECONSTRUCTIONS``.
    """
    chosen = patterns[generator(seed, "reconstruct").permutation(len(patterns))[:_RECONSTRUCTIONS]]
    rows = []
    for index in range(len(chosen)):
        one = chosen[index]
        patches, result = mae.reconstruct(one, seed=seed + index)
        hidden = result.masking.masked[0]
        predicted = patches[0].clone()
        predicted[hidden] = result.predicted[0].unflatten(-1, predicted.shape[1:]).to(predicted.dtype)
        masked = np.zeros(mae.config.num_patches, np.uint8)
        masked[hidden.cpu().numpy()] = 1
        rows.append(
            {
                "prompt": int(one.prompt[0]),
                "layer": int(one.layer[0]),
                "head": int(one.head[0]),
                "size": mae.config.pattern_size,
                "patch": mae.config.patch_size,
                "original": patches[0].half().cpu().numpy().astype("<f2").tobytes(),
                "predicted": predicted.half().cpu().numpy().astype("<f2").tobytes(),
                "masked": masked.tobytes(),
                "loss": float(result.loss),
            }
        )
    return pa.Table.from_pylist(rows, schema=RECONSTRUCTIONS)


def unpack_exemplars(table: pa.Table) -> Patterns:
    """Rows of ``schema.EXEMPLARS`` as patterns."""
    parts = []
    for row in table.to_pylist():
        logs = np.frombuffer(row["log_pattern"], dtype="<f2").reshape(1, -1, row["patch"], row["patch"])
        prompt, layer, head = (np.array([row[key]], np.int64) for key in ("prompt", "layer", "head"))
        parts.append(Patterns(torch.from_numpy(logs.copy()), row["size"], prompt=prompt, layer=layer, head=head))
    return Patterns.concatenate(parts)


def _files(name: str) -> list[str]:
    return [f"{prefix}-{name}" for prefix in ("embeddings", "prompts", "exemplars")]


def _tables(lm: LM, mae: APMAE, captured: Captured, config: EncodeConfig, total: int, *, asked: bool) -> list[pa.Table]:
    """Embeddings, prompts and exemplars of one batch."""
    patterns = captured.patterns
    first = int(patterns.prompt[0])
    scores = score_batch(captured)
    z = mae.encode(patterns)
    per_prompt = len(patterns) // len(captured.prompts)
    answers = [prompt.answer for prompt in captured.prompts if asked and prompt.answer is not None]
    if len(answers) < len(captured.prompts):
        answers = answer(lm, captured.windows, spans=True)
    tasks = [prompt.task for prompt in captured.prompts for _ in range(per_prompt)]
    outcomes = [said.outcome for said in answers for _ in range(per_prompt)]
    schema = embeddings(z.shape[1])
    columns = {
        "prompt": pa.array(patterns.prompt.astype(np.int32)),
        "layer": pa.array(patterns.layer.astype(np.int16)),
        "head": pa.array(patterns.head.astype(np.int16)),
        "task": pa.array(tasks),
        "outcome": pa.array(outcomes),
        "embedding": fixed_list(z.astype(np.float16)),
        **{f"score_{name}": pa.array(scores[name]) for name in SCORES},
        "key_kinds": fixed_list(scores.key_kinds),
        "query_kinds": fixed_list(scores.query_kinds),
    }
    rows = [
        {
            "prompt": first + i,
            "id": prompt.id,
            "task": prompt.task,
            "path": prompt.path,
            "repository": prompt.repository,
            "split": prompt.split,
            "tokens": list(window.tokens),
            "expected": window.expected_text,
            "outcome": said.outcome,
            **{name: value for name, value in said._asdict().items() if name != "correct"},
        }
        for i, (prompt, window, said) in enumerate(zip(captured.prompts, captured.windows, answers, strict=True))
    ]
    return [
        pa.table(columns, schema=schema),
        pa.Table.from_pylist(rows, schema=ENCODED_PROMPTS),
        _exemplars(patterns, config, total),
    ]


def score_batch(captured: Captured) -> Scores:
    """Hand-made scores of a batch, each prompt over its own tokens."""
    windows = captured.windows
    return score(captured.patterns, [window.ids for window in windows], [window.tokens for window in windows])


def fixed_list(values: np.ndarray) -> pa.FixedSizeListArray:
    """A (n, d) array as a Parquet column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _exemplars(patterns: Patterns, config: EncodeConfig, total: int) -> pa.Table:
    """The patterns that the seed keeps: a draw for each by itself, so that shards do not depend on one another."""
    share = config.exemplars_per_head / max(total, 1)
    where = list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))
    kept = np.array([unit_hash(config.seed, "exemplar", *place) < share for place in where])
    chosen = patterns[kept]
    logs = chosen.log_patches.half().cpu().numpy().astype("<f2")
    rows = [
        {
            "prompt": int(chosen.prompt[i]),
            "layer": int(chosen.layer[i]),
            "head": int(chosen.head[i]),
            "size": chosen.size,
            "patch": chosen.patch,
            "log_pattern": logs[i].tobytes(),
        }
        for i in range(len(chosen))
    ]
    return pa.Table.from_pylist(rows, schema=EXEMPLARS)
