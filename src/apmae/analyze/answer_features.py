"""Columns of heads from the answers stage: what every head does where the model answers, and the model's state there.

Axes: n prompts, m rows of a shard, c columns.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

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


def read_answer_sets(folder: Path, prompt: Int[ndarray, " n"]) -> dict[str, Float[ndarray, "n c"]]:
    """What the answers stage read, as columns by the name of their set.

    Columns of heads are in the order of layer and head, the numbers of one head side by side; NaN where there are none.
    Those of the hidden state are after half of the layers, then the last. They are not reduced: standardised principal
    components predicted worse the more there were (200 prompts of each of two models).

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
    # one row per prompt and head becomes one row per prompt: every prompt has all heads
    found = {name: np.concatenate(own).reshape(len(prompt), -1) for name, own in parts.items()}
    both = [np.concatenate([matrix(table[name]) for table in states if len(table)]) for name in ("middle", "final")]
    found[STATE] = np.concatenate(both, axis=1).astype(np.float32)
    return found


def _of(table: pa.Table, prompt: Int[ndarray, " n"]) -> pa.Table:
    """The rows of some prompts, in the order of their numbers: shards and their rows are in it already."""
    return table.filter(pa.array(np.isin(table["prompt"].to_numpy(), prompt)))


def _numbers(column: pa.ChunkedArray) -> Float[ndarray, "m c"]:
    if pa.types.is_fixed_size_list(column.type):
        return matrix(column).reshape(len(column), column.type.list_size)
    return column.to_numpy()[:, None]
