"""The stream LM -> heads where it answers -> Parquet: last rows, flow, eigenvalues, logit attribution, hidden states.

A shard is some consecutive prompts and depends only on them, so a killed run ends with the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from apmae.artifacts import Records, Shard, fixed_list, write_tables
from apmae.config import AnswersConfig
from apmae.encode import prompt_rows
from apmae.lm.language_model import LM
from apmae.lm.outcome import window_of
from apmae.lm.reading import Read, read_batch
from apmae.lm.readout import Readout
from apmae.patterns.answer_row import describe_rows
from apmae.progress import Advance
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Prompt
from apmae.schema import COPIES, ROW_NUMBERS, answer_heads, answer_states

_LARGEST = float(np.finfo(np.float16).max)


def answers_shard(
    shard: Shard,
    *,
    lm: LM,
    readout: Readout | None,
    prompts: Sequence[Prompt],
    config: AnswersConfig,
    root: Path,
    advance: Advance | None = None,
) -> Records:
    """Read every head on the prompts of one shard.

    Args:
        shard: which prompts; its files are those of ``schema.ANSWERED``.
        lm: a language model that answers.
        readout: how its logits depend on its heads; None if that cannot be told.
        prompts: all prompts of the stage, in the order that numbers them.
        config: window, batch, eigenvalues.
        root: the folder for the files.
        advance: called with the prompts of each batch.

    Returns:
        The records of the files.

    Raises:
        CaptureError: if the model has no positions for the window.
    """
    batches: list[tuple[pa.Table, ...]] = []
    for first in range(shard.first, shard.stop, config.batch):
        some = prompts[first : min(first + config.batch, shard.stop)]
        windows = [window_of(lm, prompt, config.context) for prompt in some]
        read = read_batch(lm, windows, readout, eigenvalues=config.eigenvalues)
        batches.append(
            (
                _heads(lm, first, windows, read, config.eigenvalues),
                prompt_rows(first, some, windows, read.answers),
                _states(first, read),
            )
        )
        if advance:
            advance(len(some), note=f"{sum(lm.heads.values())} heads per prompt")
    tables = (pa.concat_tables(parts) for parts in zip(*batches, strict=True))
    return write_tables(root, dict(zip(shard.files, tables, strict=True)))


def _heads(lm: LM, first: int, windows: Sequence[Window], read: Read, eigenvalues: int) -> pa.Table:
    """``schema.answer_heads`` of one batch."""
    layer = np.repeat(list(lm.heads), list(lm.heads.values()))
    head = np.concatenate([np.arange(count) for count in lm.heads.values()])
    numbers: dict[str, list[Float[ndarray, " h"]]] = {}
    for window, rows, answer in zip(windows, read.rows, read.answers, strict=True):
        assert answer.predicted_id is not None, "the model was just asked"
        for name, values in describe_rows(rows, window, answer.predicted_id).items():
            numbers.setdefault(name, []).append(values)
    columns = {
        "prompt": pa.array(np.repeat(np.arange(first, first + len(windows), dtype=np.int32), len(layer))),
        "layer": pa.array(np.tile(layer.astype(np.int16), len(windows))),
        "head": pa.array(np.tile(head.astype(np.int16), len(windows))),
        **{name: pa.array(np.concatenate(numbers[name])) for name in _NUMBERS},
        "flow": pa.array(read.flow.flatten().numpy()),
        "attribution": pa.array(read.attribution.flatten().numpy()),
        "laplacian": fixed_list(read.eigenvalues.flatten(0, 1).numpy()),
    }
    return pa.table(columns, schema=answer_heads(eigenvalues))


_NUMBERS = [*(f"row_{name}" for name in ROW_NUMBERS), *(f"copy_{name}" for name in COPIES)]


def _states(first: int, read: Read) -> pa.Table:
    """``schema.answer_states`` of one batch."""
    prompt = pa.array(np.arange(first, first + len(read.answers), dtype=np.int32))
    columns = {"prompt": prompt, "middle": _half(read.middle), "final": _half(read.final)}
    return pa.table(columns, schema=answer_states(read.final.shape[1]))


def _half(states: Float[Tensor, "b d"]) -> pa.FixedSizeListArray:
    return fixed_list(states.clamp(-_LARGEST, _LARGEST).half().numpy())
