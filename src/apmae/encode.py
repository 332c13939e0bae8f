"""The stream LM -> tap -> encoder -> Parquet: patterns are encoded, scored and dropped, except for a seeded sample.

A shard is some consecutive prompts and depends only on them, so a killed run ends with the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from apmae.artifacts import Records, Shard, fixed_list, pack_patches, unpack_patches, write_tables
from apmae.config import EncodeConfig
from apmae.lm.language_model import LM
from apmae.lm.outcome import answer
from apmae.lm.stream import Captured, capture_prompts
from apmae.model.mae import APMAE
from apmae.model.represent import Represented, represented
from apmae.patterns.patterns import Patterns
from apmae.patterns.scores import Scores, score
from apmae.progress import Advance
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt
from apmae.schema import ENCODED_PROMPTS, EXEMPLARS, RECONSTRUCTIONS, SCORES, embeddings
from apmae.seeding import generator, unit_hash

_RECONSTRUCTIONS = 12
"""Exemplars that are masked and predicted for the report (paper Figure 3)."""


def encode_shard(
    shard: Shard,
    *,
    lm: LM,
    mae: APMAE,
    prompts: Sequence[Prompt],
    config: EncodeConfig,
    root: Path,
    asked: bool = False,
    advance: Advance | None = None,
) -> Records:
    """Encode the patterns of one shard's prompts into its files.

    Args:
        shard: which prompts; its files are those of ``schema.ENCODED``.
        lm: the language model.
        mae: the encoder; its ``pattern_size`` is the window's length unless ``config.capture.context`` says otherwise.
        prompts: all prompts of the stage, in the order that numbers them.
        config: settings of capture and exemplars.
        root: the folder for the files.
        asked: whether the answers in the prompts are those of this model for these windows. If not, the model is asked
            again, which takes a second forward.
        advance: called with the prompts of each batch.

    Returns:
        The records of the files.

    Raises:
        CaptureError: if the encoder's pattern size does not fit the model.
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
        batches.append(_tables(lm, mae, captured, config, len(prompts), asked=asked))
        if advance:
            advance(len(captured.prompts), note=f"{len(captured.patterns) // len(captured.prompts)} heads per prompt")
    tables = {name: pa.concat_tables([batch[i] for batch in batches]) for i, name in enumerate(shard.files)}
    return write_tables(root, tables)


def reconstructions(mae: APMAE, patterns: Patterns, *, seed: int = 0) -> pa.Table:
    """Mask a few patterns and predict what was hidden (paper Figure 3).

    Args:
        mae: an encoder with its decoder.
        patterns: any number; at most a dozen are used, by a seeded draw.
        seed: decides the draw and the masks.

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
        # Of scaled pixels, which the two squares hold, whatever the model minimises.
        error, real = mae.errors(patches[:, :, None], result.predicted, result.masking)
        masked = np.zeros(mae.config.num_patches, np.uint8)
        masked[hidden.cpu().numpy()] = 1
        rows.append(
            {
                "prompt": int(one.prompt[0]),
                "layer": int(one.layer[0]),
                "head": int(one.head[0]),
                "size": mae.config.pattern_size,
                "patch": mae.config.patch_size,
                "causal": one.causal,
                "original": pack_patches(patches[0].half().cpu().numpy()),
                "predicted": pack_patches(predicted.half().cpu().numpy()),
                "masked": masked.tobytes(),
                "loss": float(error[real].mean()),
            }
        )
    return pa.Table.from_pylist(rows, schema=RECONSTRUCTIONS)


def unpack_exemplars(table: pa.Table) -> Patterns:
    """Rows of ``schema.EXEMPLARS`` as patterns."""
    parts = []
    for row in table.to_pylist():
        logs = unpack_patches(row["log_pattern"], row["size"], row["patch"], row["causal"])[None]
        prompt, layer, head = (np.array([row[key]], np.int64) for key in ("prompt", "layer", "head"))
        own = torch.from_numpy(logs.copy())
        parts.append(Patterns(own, row["size"], prompt=prompt, layer=layer, head=head, causal=row["causal"]))
    return Patterns.concatenate(parts)


def _tables(lm: LM, mae: APMAE, captured: Captured, config: EncodeConfig, total: int, *, asked: bool) -> list[pa.Table]:
    """Embeddings, prompts and exemplars of one batch."""
    scores = score_batch(captured)
    seen = represented(captured.patterns, mae, config.representation)
    answers = _answers(lm, captured, asked=asked)
    return [
        embeddings_table(captured, answers, scores, seen),
        prompts_table(captured, answers),
        _exemplars(captured.patterns, config, total),
    ]


def embeddings_table(
    captured: Captured, answers: Sequence[Answer | None], scores: Scores, seen: Represented
) -> pa.Table:
    """The patterns of a batch as ``schema.embeddings``.

    Args:
        captured: the batch.
        answers: of the model to each prompt, or None.
        scores: of its patterns.
        seen: their representations.
    """
    patterns = captured.patterns
    per_prompt = len(patterns) // len(captured.prompts)
    tasks = [prompt.task for prompt in captured.prompts for _ in range(per_prompt)]
    outcomes = [reply and reply.outcome for reply in answers for _ in range(per_prompt)]
    schema = embeddings(seen.z.shape[1])
    columns = {
        "prompt": pa.array(patterns.prompt.astype(np.int32)),
        "layer": pa.array(patterns.layer.astype(np.int16)),
        "head": pa.array(patterns.head.astype(np.int16)),
        "task": pa.array(tasks),
        "outcome": pa.array(outcomes, pa.string()),
        "embedding": fixed_list(seen.z.astype(np.float16)),
        "structure": pa.array(seen.structure),
        **{f"score_{name}": pa.array(scores[name]) for name in SCORES},
        "sinks": pa.array(scores.sinks, pa.list_(pa.int32())),
        "key_kinds": fixed_list(scores.key_kinds),
        "query_kinds": fixed_list(scores.query_kinds),
    }
    return pa.table(columns, schema=schema)


def prompts_table(captured: Captured, answers: Sequence[Answer | None]) -> pa.Table:
    """The prompts of a batch, with the model's answers, as ``schema.ENCODED_PROMPTS``."""
    return prompt_rows(int(captured.patterns.prompt[0]), captured.prompts, captured.windows, answers)


def prompt_rows(
    first: int, prompts: Sequence[Prompt], windows: Sequence[Window], answers: Sequence[Answer | None]
) -> pa.Table:
    """Prompts with the model's answers as ``schema.ENCODED_PROMPTS``; ``first`` is the number of the first."""
    rows = [
        {
            "prompt": first + i,
            "id": prompt.id,
            "task": prompt.task,
            "path": prompt.path,
            "repository": prompt.repository,
            "split": prompt.split,
            "tokens": list(window.tokens),
            "expected": window.text,
            "outcome": reply and reply.outcome,
            **{name: value for name, value in (reply._asdict() if reply else {}).items() if name != "correct"},
        }
        for i, (prompt, window, reply) in enumerate(zip(prompts, windows, answers, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=ENCODED_PROMPTS)


def _answers(lm: LM, captured: Captured, *, asked: bool) -> Sequence[Answer | None]:
    """The model's answers with whole completions scored; None for each prompt if it answers nothing."""
    known = [prompt.answer for prompt in captured.prompts if asked and prompt.answer is not None]
    if len(known) == len(captured.prompts):
        return known
    if lm.causal:  # the capture saw the windows alone
        return answer(lm, captured.windows, spans=True)
    return captured.answers


def score_batch(captured: Captured) -> Scores:
    """Hand-made scores of a batch; each prompt is scored over its own tokens."""
    windows = captured.windows
    return score(captured.patterns, [window.ids for window in windows], [window.tokens for window in windows])


def _exemplars(patterns: Patterns, config: EncodeConfig, total: int) -> pa.Table:
    """The patterns that the seed keeps: each is drawn separately, so that shards do not depend on one another."""
    share = config.exemplars_per_head / max(total, 1)
    where = list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))
    drawn = np.array([unit_hash(config.seed, "exemplar", *place) < share for place in where])
    chosen = patterns[drawn]
    logs = chosen.log_patches.half().cpu().numpy()
    rows = [
        {
            "prompt": int(chosen.prompt[i]),
            "layer": int(chosen.layer[i]),
            "head": int(chosen.head[i]),
            "size": chosen.size,
            "patch": chosen.patch,
            "causal": chosen.causal,
            "log_pattern": pack_patches(logs[i]),
        }
        for i in range(len(chosen))
    ]
    return pa.Table.from_pylist(rows, schema=EXEMPLARS)
