"""Pattern locations (cluster, layer, head): which occur in which tasks and outcomes (paper section 6.2).

Everything is computed from ``schema.POINTS``. Axes: l layers, h heads per layer, t tasks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.analyze.foreign import foreign_of, foreign_shares, halves
from apmae.analyze.occurrence import Occurrences, Prompts, files_of, occurrences, opened, prompts_of, prompts_with
from apmae.analyze.resampling import (
    enough,
    errors_by_file,
    movable,
    null_of,
    permuted_outcomes,
    rarefied,
    unique_by_chance,
)
from apmae.config import LocationsConfig
from apmae.schema import FOREIGN, LOCATIONS, NOISE

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


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


def task_locations(points: Path | pa.Table) -> list[TaskLocations]:
    """Locations by task and outcome (Table 5), tasks in the order in which they occur.

    Args:
        points: the file of ``schema.POINTS``, or a table of it.
    """
    with opened(points) as found:
        prompts = prompts_of(found, files=False)
        return table_of(occurrences(found, prompts.tasks), asked=prompts.asked)


def table_of(found: Occurrences, *, asked: bool) -> list[TaskLocations]:
    """Table 5 of counted locations.

    Args:
        found: in how many prompts each location occurs.
        asked: whether outcomes are known.
    """
    unique, right, wrong = found.unique, found.correct > 0, found.seen > found.correct
    rows = []
    for number, name in enumerate(found.tasks):
        own = found.task == number
        only = own & unique
        by_outcome: tuple[int | None, ...] = (None, None, None)
        if asked:
            by_outcome = tuple(
                int(np.count_nonzero(only & which)) for which in (right & ~wrong, wrong & ~right, right & wrong)
            )
        rows.append(TaskLocations(name, int(own.sum()), int(only.sum()), *by_outcome))
    return rows


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


def against_chance(
    points: Path | list[Path] | pa.Table,
    prompts: list[Path] | pa.Table,
    clusters: pa.Table,
    config: LocationsConfig,
    tell: Callable[[str], None] = lambda _: None,
    *,
    per_head: bool = False,
) -> tuple[pa.Table, pa.Table]:
    """Locations of each task, and whether incorrect prompts look like another task, beside what chance would give.

    Args:
        points: the file of ``schema.POINTS`` or a table of it, or files of ``schema.CORPUS_TAGS``.
        prompts: files or a table of ``schema.ENCODED_PROMPTS``, which say what file each prompt is of.
        clusters: stability and whether unstable of each cluster, in order.
        config: permutations, seed.
        tell: called with what is done next.
        per_head: whether each cluster is of a single head.

    Returns:
        ``schema.LOCATIONS`` and ``schema.FOREIGN``.
    """
    with opened(points, prompts) as found:
        tell("count locations")
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        tell("files left out, tasks shuffled")
        files, pairs = files_of(found, counted, own)
        errors = errors_by_file(counted, own, files, pairs)
        shuffled, nulls = unique_by_chance(counted, own, files, pairs), {}
        config = config.model_copy(update={"permutations": enough(config.permutations, 2 * len(own.tasks))})
        if own.asked:
            tell("outcomes permuted")
            nulls = _outcome_nulls(found, counted, own, config)
            tell("other tasks' locations")
            half = halves(own, config.seed)
            rows = foreign_of(foreign_shares(found, own, half), own, half, config.permutations, config.seed)
        else:
            rows = []
    tasks = len(own.tasks)
    asked = np.bincount(own.task, minlength=tasks)
    fewer = [rarefied(counted, asked, drawn)[:, 1] for drawn in (asked // 2, np.full(tasks, asked.min(initial=0)))]
    cluster, unique = counted.places[counted.location, 0], counted.unique
    stability = clusters["stability"].to_numpy()[cluster]
    stable = ~clusters["unstable"].to_numpy(zero_copy_only=False).astype(bool)[cluster]
    once = counted.seen == 1
    share = movable(own)
    table = []
    for number, row in enumerate(table_of(counted, asked=own.asked)):
        only = unique & (counted.task == number)
        table.append(
            {
                **row._asdict(),
                "prompts": int(asked[number]),
                "files": len(np.unique(own.file[own.task == number])),
                "possible": len(clusters) * (1 if per_head else counted.heads),
                "total_error": _known(errors[number, 0]),
                "unique_error": _known(errors[number, 1]),
                "unique_null": shuffled[number],
                "unique_once": int((only & once).sum()),
                "unique_half": fewer[0][number],
                "unique_even": fewer[1][number],
                "unique_stable": int((only & stable).sum()),
                "unique_weighted": stability[only].sum(),
                "movable": share[number] if own.asked else None,
                **nulls.get(number, {}),
            }
        )
    found_foreign = pa.Table.from_pylist([row._asdict() for row in rows], schema=FOREIGN)
    return pa.Table.from_pylist(table, schema=LOCATIONS), found_foreign


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _outcome_nulls(
    found: "DuckDBPyConnection", counted: Occurrences, prompts: Prompts, config: LocationsConfig
) -> dict[int, dict[str, float]]:
    """For each task, unique locations by outcome if outcomes were permuted within the task."""
    from scipy.sparse import csr_matrix

    pairs, rows = prompts_with(found, counted, prompts, counted.unique)
    kept, pair = np.unique(pairs, return_inverse=True)
    seen = csr_matrix((np.ones(len(rows), np.float32), (pair, rows)), (len(kept), len(prompts.number)))
    task, count = counted.task[kept], counted.seen[kept, None]
    figures: list[Int[ndarray, "t w r"]] = []
    for right in permuted_outcomes(prompts, config.permutations, config.seed):
        correct = seen @ right.astype(np.float32)
        which = np.stack([correct == count, correct == 0, (correct > 0) & (correct < count)], 1)  # k w r
        figures.append(np.stack([which[task == number].sum(0) for number in range(len(prompts.tasks))]))
    null = np.concatenate(figures, axis=2)
    observed = dict(enumerate(table_of(counted, asked=True)))
    return {
        number: {
            f"{which}{part}": value
            for place, which in enumerate(("correct", "incorrect", "overlap"))
            for part, value in zip(
                ("_null", "_null_sd", "_p"), null_of(getattr(observed[number], which), null[number, place]), strict=True
            )
        }
        for number in observed
    }
