"""Where which cluster occurs: pattern locations counted in DuckDB, straight from Parquet.

A location is a (cluster, layer, head) (paper section 6.2). It occurs in a prompt if that head's pattern of the prompt
is in that cluster; noise is no location. Patterns stay on disk; what comes into memory is one row per location and
task, or per location, task and file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int
from numpy import ndarray

from apmae.analyze.database import columns_of, over

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOCATION = "(cluster::BIGINT << 32) | (layer::BIGINT << 16) | head::BIGINT"
"""A location as one number."""


class Prompts(NamedTuple):
    """The prompts of a study, in the order of their numbers; p prompts."""

    number: Int[ndarray, " p"]
    task: Int[ndarray, " p"]
    """Number of the task of each, in ``tasks``."""
    correct: Bool[ndarray, " p"]
    """False if no outcome is known."""
    file: Int[ndarray, " p"]
    """Number of the source file of each, from 0; if files are not known, each prompt has its own."""
    tasks: tuple[str, ...]
    """In the order in which they occur."""
    asked: bool
    """Whether any outcome is known."""


class Occurrences(NamedTuple):
    """How often each location occurs in each task; p pairs of a task and a location, l locations."""

    tasks: tuple[str, ...]
    task: Int[ndarray, " p"]
    """Number of the task of each pair."""
    location: Int[ndarray, " p"]
    """Number of the location of each pair, in ``places``."""
    seen: Int[ndarray, " p"]
    """In how many prompts of the task the location occurs."""
    correct: Int[ndarray, " p"]
    """In how many correct ones; 0 if no outcome is known."""
    places: Int[ndarray, "l 3"]
    """Cluster, layer and head of each location, ascending."""
    heads: int
    """Heads that have patterns, of all layers."""

    @property
    def unique(self) -> Bool[ndarray, " p"]:
        """Whether the location of each pair occurs in no other task."""
        return np.bincount(self.location, minlength=len(self.places))[self.location] == 1


@contextmanager
def opened(
    points: Path | list[Path] | pa.Table, prompts: list[Path] | pa.Table | None = None
) -> Iterator["DuckDBPyConnection"]:
    """DuckDB over a study's points, with the views ``points``, ``known`` (points in a cluster) and ``prompts``.

    Args:
        points: the file of ``schema.POINTS`` or a table of it, or files of ``schema.CORPUS_TAGS``.
        prompts: files or a table of ``schema.ENCODED_PROMPTS``; None: there is no such view.
    """
    views: dict[str, Sequence[Path] | pa.Table] = {"points": [points] if isinstance(points, Path) else points}
    if prompts is not None:
        views["prompts"] = prompts
    with over(**views) as found:
        found.execute(f"CREATE VIEW known AS SELECT *, {LOCATION} AS location FROM points WHERE cluster >= 0")
        yield found


def prompts_of(found: "DuckDBPyConnection", *, files: bool) -> Prompts:
    """The prompts that have patterns.

    Args:
        found: from :func:`opened`.
        files: whether the view ``prompts`` says which file each is of.
    """
    rows = columns_of(
        found,
        """SELECT prompt::BIGINT AS prompt, any_value(task) AS task, coalesce(any_value(outcome = 'correct'), false)
                  AS correct, count(outcome) > 0 AS asked FROM points GROUP BY prompt ORDER BY prompt""",
    )
    number = rows["prompt"]
    names = columns_of(found, "SELECT task FROM points GROUP BY task ORDER BY min(prompt), task")["task"].tolist()
    place = {name: at for at, name in enumerate(names)}
    tasks, task = tuple(names), np.array([place[name] for name in rows["task"].tolist()], np.int64)
    file = np.arange(len(number))
    if files:
        paths = columns_of(found, "SELECT prompt::BIGINT AS prompt, path FROM prompts ORDER BY prompt")
        file = _numbered(paths["path"][np.searchsorted(paths["prompt"], number)])[1]
    return Prompts(number, task, rows["correct"].astype(bool), file, tasks, bool(rows["asked"].any()))


def occurrences(found: "DuckDBPyConnection", tasks: tuple[str, ...]) -> Occurrences:
    """Count in how many prompts of each task each location occurs.

    Args:
        found: from :func:`opened`.
        tasks: their names, in order.
    """
    rows = columns_of(
        found,
        """SELECT location, task, count(*) AS seen, count(*) FILTER (outcome = 'correct') AS correct
           FROM known GROUP BY location, task ORDER BY location, task""",
    )
    codes, location = np.unique(rows["location"], return_inverse=True)
    ((heads,),) = found.execute("SELECT count(DISTINCT layer::INT * 65536 + head) FROM points").fetchall()
    number = {name: place for place, name in enumerate(tasks)}
    return Occurrences(
        tasks,
        np.array([number[name] for name in rows["task"]], np.int64),
        location.astype(np.int64),
        rows["seen"],
        rows["correct"],
        np.stack([codes >> 32, (codes >> 16) & 0xFFFF, codes & 0xFFFF], axis=1),
        int(heads),
    )


def files_of(
    found: "DuckDBPyConnection", counted: Occurrences, prompts: Prompts
) -> tuple[Int[ndarray, " m"], Int[ndarray, " m"]]:
    """In which files each pair of a task and a location occurs: numbers of files and of pairs.

    Args:
        found: from :func:`opened`.
        counted: the pairs.
        prompts: the file of each prompt.
    """
    with _registered(found, {"prompt": prompts.number, "file": prompts.file, "number": prompts.task}):
        rows = columns_of(
            found, "SELECT location, number, file FROM known JOIN given USING (prompt) GROUP BY location, number, file"
        )
    return rows["file"], _pairs(counted, rows["location"], rows["number"])


def prompts_with(
    found: "DuckDBPyConnection", counted: Occurrences, prompts: Prompts, chosen: Bool[ndarray, " p"]
) -> tuple[Int[ndarray, " m"], Int[ndarray, " m"]]:
    """In which prompts some pairs of a task and a location occur: numbers of pairs, and places in ``prompts``.

    Args:
        found: from :func:`opened`.
        counted: the pairs.
        prompts: of the study.
        chosen: which pairs.
    """
    codes = _codes(counted.places[counted.location[chosen]])
    task = counted.task[chosen]
    with _registered(found, {"location": codes, "number": task, "task": np.array(counted.tasks, object)[task]}):
        rows = columns_of(found, "SELECT location, number, prompt FROM known JOIN given USING (location, task)")
    return _pairs(counted, rows["location"], rows["number"]), np.searchsorted(prompts.number, rows["prompt"])


@contextmanager
def _registered(found: "DuckDBPyConnection", columns: dict[str, ndarray]) -> Iterator[None]:
    """The view ``given`` of some columns."""
    found.register("given", pa.table(columns))
    try:
        yield
    finally:
        found.unregister("given")


def _codes(places: Int[ndarray, "n 3"]) -> Int[ndarray, " n"]:
    return (places[:, 0] << 32) | (places[:, 1] << 16) | places[:, 2]


def _pairs(counted: Occurrences, location: ndarray, task: ndarray) -> Int[ndarray, " m"]:
    """Numbers of pairs, by the location's code and the task."""
    tasks = len(counted.tasks)
    place = np.searchsorted(_codes(counted.places), location)
    own = counted.location * tasks + counted.task
    order = np.argsort(own)
    return order[np.searchsorted(own, place * tasks + task, sorter=order)]


def _numbered(values: ndarray) -> tuple[tuple[str, ...], Int[ndarray, " n"]]:
    """Distinct values in the order of their first occurrence, and the number of each."""
    names, first, inverse = np.unique(values.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return tuple(names[order].tolist()), rank[inverse.ravel()].astype(np.int64)
