"""Columns of heads from the answers stage: what every head does where the model answers, and the model's state there.

Axes: n prompts, h heads, c columns, f splits, d of a state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.head_features import principal
from apmae.artifacts import matrix, read_manifest, read_table
from apmae.schema import COPIES, ROW_NUMBERS

LAST_ROW, LAST_COPY, FLOW = "last row", "last copy", "flow"
ATTRIBUTION, LAPLACIAN, STATE = "logit attribution", "Laplacian", "hidden state"

_COLUMNS = {
    LAST_ROW: tuple(f"row_{name}" for name in ROW_NUMBERS),
    LAST_COPY: tuple(f"copy_{name}" for name in COPIES),
    FLOW: ("flow",),
    ATTRIBUTION: ("attribution",),
    LAPLACIAN: ("laplacian",),
}
"""Columns of ``schema.answer_heads`` by the name of the set that they make."""


class AnswerFeatures(NamedTuple):
    """Columns by the name of their set."""

    heads: dict[str, Float[ndarray, "n c"]]
    """Of every head in the order of layer and head, the numbers of one head side by side; NaN where there are none."""
    middle: Float[ndarray, "n d"]
    """Hidden state after half of the layers."""
    final: Float[ndarray, "n d"]
    """The last hidden state."""


def read_answer_features(folder: Path, prompt: Int[ndarray, " n"]) -> AnswerFeatures:
    """What the answers stage read of every head.

    Args:
        folder: of the answers stage.
        prompt: numbers of the prompts, ascending.

    Raises:
        ArtifactError: if it is unfinished or damaged.
    """
    manifest = read_manifest(folder, "answers")
    parts: dict[str, list[Float[ndarray, "m c"]]] = {name: [] for name in _COLUMNS}
    for name in manifest.shards("heads"):
        table = _of(read_table(folder / name), prompt)
        for own, columns in _COLUMNS.items():
            values = [_numbers(table[column]) for column in columns]
            parts[own].append(np.concatenate(values, axis=1))
    states = [_of(read_table(folder / name), prompt) for name in manifest.shards("states")]
    return AnswerFeatures(
        {name: _side_by_side(np.concatenate(own), len(prompt)) for name, own in parts.items()},
        *(np.concatenate([matrix(table[name]) for table in states]).astype(np.float32) for name in ("middle", "final")),
    )


def state_components(
    features: AnswerFeatures, fits: Sequence[Bool[ndarray, " n"]], count: int
) -> list[Float[ndarray, "n c"]]:
    """Principal components of both hidden states, fitted on each split alone; a matrix per split.

    Args:
        features: from :func:`read_answer_features`.
        fits: which prompts each split is fitted on.
        count: components of both together.
    """
    each = max(1, count // 2)
    return [
        np.concatenate([principal(states, fit, each) for states in (features.middle, features.final)], axis=1)
        for fit in fits
    ]


def _of(table: pa.Table, prompt: Int[ndarray, " n"]) -> pa.Table:
    """The rows of some prompts, in the order of their numbers: shards and their rows are in it already."""
    return table.filter(pa.array(np.isin(table["prompt"].to_numpy(), prompt)))


def _numbers(column: pa.ChunkedArray) -> Float[ndarray, "m c"]:
    if pa.types.is_fixed_size_list(column.type):
        return matrix(column).reshape(len(column), column.type.list_size)
    return column.to_numpy()[:, None]


def _side_by_side(values: Float[ndarray, "m c"], prompts: int) -> Float[ndarray, "n c2"]:
    """One row per prompt and head as one row per prompt: every prompt has all heads."""
    return values.reshape(prompts, -1)
