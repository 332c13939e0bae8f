"""Pattern locations (cluster, layer, head): which occur in which tasks and outcomes (paper section 6.2).

Everything is computed from ``schema.POINTS``. Axes: l layers, h heads per layer.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.schema import NOISE


class Clustering(NamedTuple):
    """The paper's Table 4."""

    clusters: int
    clustered: int
    """Patterns in some cluster."""
    total: int
    """All patterns."""

    @property
    def share(self) -> float:
        """Clustered over total, in [0, 1]."""
        return self.clustered / max(self.total, 1)


class TaskLocations(NamedTuple):
    """One column of the paper's Table 5. ``correct + incorrect + overlap == unique``, as in the paper's figures."""

    task: str
    total: int
    """Locations that occur in the task."""
    unique: int
    """Locations that occur in no other task."""
    correct: int | None
    """Unique locations that occur in correct prompts only; None, like the two below, if no outcome is known."""
    incorrect: int | None
    """Unique locations that occur in incorrect prompts only."""
    overlap: int | None
    """Unique locations that occur in both."""


class HeadGrid(NamedTuple):
    """What each head does over all prompts (paper Figure 10 B and C); NaN, 0 and -1 if it was never captured."""

    clustered: Float[ndarray, "l h"]
    """Share of the head's patterns that belong to any cluster, in [0, 1]."""
    distinct: Int[ndarray, "l h"]
    """How many different clusters its patterns belong to."""
    main_cluster: Int[ndarray, "l h"]
    """The cluster of most of its patterns; -1 if most are noise."""


def clustering(points: pa.Table) -> Clustering:
    """Clusters and how many patterns they hold (Table 4)."""
    labels = points["cluster"].to_numpy()
    return Clustering(len(np.unique(labels[labels != NOISE])), int((labels != NOISE).sum()), len(labels))


def task_locations(points: pa.Table) -> list[TaskLocations]:
    """Locations by task and outcome (Table 5), tasks in the order in which they occur."""
    labels = points["cluster"].to_numpy()
    known = labels != NOISE
    layer, head = points["layer"].to_numpy()[known].astype(np.int64), points["head"].to_numpy()[known].astype(np.int64)
    location = (labels[known].astype(np.int64) << 32) | (layer << 16) | head
    task, asked = _codes(points["task"], known), points["outcome"].null_count < len(points)
    correct = _codes(points["outcome"], known, "correct") if asked else np.zeros(len(task), dtype=bool)
    names = points["task"].unique().to_pylist()
    seen = [set(location[task == number].tolist()) for number in range(len(names))]
    rows = []
    for number, name in enumerate(names):
        others = set().union(*(seen[i] for i in range(len(names)) if i != number))
        unique = seen[number] - others
        right = unique & set(location[(task == number) & correct].tolist())
        wrong = unique & set(location[(task == number) & ~correct].tolist())
        both = len(right & wrong)
        by_outcome = (len(right) - both, len(wrong) - both, both) if asked else (None, None, None)
        rows.append(TaskLocations(name, len(seen[number]), len(unique), *by_outcome))
    return rows


def _codes(column: pa.ChunkedArray, kept: ndarray, equals: str | None = None) -> ndarray:
    """A text column's values as numbers, in order of first occurrence; with ``equals``, whether each is that value."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)[kept]
    if equals is None:
        return codes
    values = encoded.dictionary.to_pylist()
    return codes == values.index(equals) if equals in values else np.zeros(len(codes), dtype=bool)


def head_grid(points: pa.Table, layers: int, heads: int) -> HeadGrid:
    """Summary of every head over all prompts (Figure 10 B, C).

    Args:
        points: ``schema.POINTS``.
        layers: layers of the language model.
        heads: query heads per layer.
    """
    labels = points["cluster"].to_numpy().astype(np.int64)
    place = points["layer"].to_numpy().astype(np.int64) * heads + points["head"].to_numpy()
    counts = np.zeros((layers * heads, int(labels.max(initial=NOISE)) + 2), dtype=np.int64)
    np.add.at(counts, (place, labels + 1), 1)
    total = counts.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        clustered = 1 - counts[:, 0] / total
    distinct = (counts[:, 1:] > 0).sum(1)
    main = np.where(total > 0, counts.argmax(1) - 1, NOISE)
    return HeadGrid(*(grid.reshape(layers, heads) for grid in (clustered, distinct, main)))


def prompt_grid(points: pa.Table, prompt: int, layers: int, heads: int) -> Int[ndarray, "l h"]:
    """The cluster of every head on one prompt (Figure 10 A); -1 for noise, -2 if not captured."""
    grid = np.full((layers, heads), -2, dtype=np.int64)
    own = points["prompt"].to_numpy() == prompt
    grid[points["layer"].to_numpy()[own], points["head"].to_numpy()[own]] = points["cluster"].to_numpy()[own]
    return grid
