"""The study's numbers as tables: the paper's Tables 4 and 5, and tables of clusters, heads and outcomes."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apmae.analyze.locations import clustering, head_grid, task_locations
from apmae.artifacts import replacing
from apmae.config import TASKS, TEXT_TASKS
from apmae.schema import NOISE
from apmae.study.reader import Study

_WHERE = 3
"""Most heads named per cluster."""
_WHERE_SHARE = 0.01
"""Smallest share of a cluster at which a head is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A small table of plain values; shares are in [0, 1] and percentages in [0, 100], as the header says."""

    name: str
    """File name without its suffix."""
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """Cells are str, int, float or None; those of one column are of one type, or None."""

    def column(self, name: str) -> list[Any]:
        """The values of one column."""
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def csv(self) -> bytes:
        r"""UTF-8 CSV: a header, ``\n`` line ends, full precision, an empty cell for None."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return text.getvalue().encode("utf-8", "backslashreplace")

    def write_csv(self, path: Path) -> None:
        """Write :meth:`csv` atomically.

        Raises:
            ArtifactError: if the file cannot be written.
        """
        with replacing(path) as file:
            file.write(self.csv())


def clustering_table(study: Study) -> Table:
    """How many patterns belong to clusters (paper Table 4)."""
    counts = clustering(study.points)
    return Table(
        name="clustering",
        header=("clusters", "clustered patterns", "total patterns", "percentage clustered"),
        rows=((counts.clusters, counts.clustered, counts.total, 100 * counts.share),),
    )


def locations_table(study: Study) -> Table:
    """Pattern locations by task (paper Table 5): one row per count, one column per task, in the paper's order."""
    columns = sorted(task_locations(study.points), key=lambda column: _task_order(column.task))
    counts = ("total", "unique", "correct", "incorrect", "overlap")
    return Table(
        name="locations",
        header=("count", *(column.task for column in columns)),
        rows=tuple((count, *(getattr(column, count) for column in columns)) for count in counts),
    )


def clusters_table(study: Study) -> Table:
    """One row per cluster, largest first; ``where`` names the heads that make most of it, as layer.head."""
    points = study.points
    label = points["cluster"].to_numpy().astype(np.int64)
    place = points["layer"].to_numpy().astype(np.int64) * study.heads + points["head"].to_numpy()
    member = label != NOISE
    pairs, counts = np.unique(label[member] * (study.layers * study.heads) + place[member], return_counts=True)
    made: dict[int, list[tuple[int, int]]] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        cluster, head = divmod(pair, study.layers * study.heads)
        made.setdefault(cluster, []).append((count, head))
    rows = []
    for row in study.clusters.to_pylist():
        heads = sorted(made.get(row["cluster"], []), key=lambda entry: (-entry[0], entry[1]))[:_WHERE]
        named = [(head_name(*divmod(head, study.heads)), count / row["size"]) for count, head in heads]
        where = ", ".join(f"{head} ({part:.0%})" for head, part in named if part >= _WHERE_SHARE)
        share = row["size"] / max(points.num_rows, 1)
        found_again = (row["stability"], row["seed_stability"], "no" if row["unstable"] else "yes")
        claim = (row["true_share"], row["confidence"])
        looks = (row["looks_at"], row["looks_from"])
        rows.append((row["cluster"], row["name"], row["size"], share, *found_again, *claim, *looks, where))
    return Table(
        name="clusters",
        header=(
            "cluster", "name", "size", "share", "in halves", "over seeds", "stable", "true for", "confidence",
            "looks at", "looks from", "where",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def outcomes_table(study: Study) -> Table:
    """How the language model did on the study's prompts, by task; the last row is over all tasks.

    Only the numbers of prompts are there for a model that answers nothing.
    """
    prompts = study.prompts
    tasks = np.array(prompts["task"].to_pylist(), dtype=object)
    outcomes = np.array(prompts["outcome"].to_pylist(), dtype=object)
    probability = prompts["max_probability"].to_numpy().astype(np.float64)
    groups = [(task, tasks == task) for task in sorted(set(tasks.tolist()), key=_task_order)]
    rows = []
    for task, own in [*groups, ("all", np.ones(len(tasks), dtype=bool))]:
        count = int(own.sum())
        answered = [outcome for outcome in outcomes[own].tolist() if outcome is not None]
        right, share, mean = answered.count("correct"), None, None
        if answered:
            share, mean = right / len(answered), float(np.nanmean(probability[own]))
        known = (right, len(answered) - right) if answered or not count else (None, None)
        rows.append((task, count, *known, share, mean))
    return Table(
        name="outcomes",
        header=("task", "prompts", "correct", "incorrect", "accuracy", "mean max-probability"),
        rows=tuple(rows),
    )


def heads_table(study: Study) -> Table:
    """One row per captured head: what it does most, how often, and how often it does anything that the atlas knows.

    ``main cluster`` and ``stable`` are empty, and ``main name`` "unknown", where most of the head's patterns are noise.
    """
    points = study.points
    grid = head_grid(points, study.layers, study.heads)
    place = points["layer"].to_numpy().astype(np.int64) * study.heads + points["head"].to_numpy()
    total = np.bincount(place, minlength=study.layers * study.heads)
    main = grid.main_cluster.ravel()
    often = np.bincount(place, points["cluster"].to_numpy() == main[place], minlength=len(total))
    names = study.names
    unstable = dict(zip(study.clusters["cluster"].to_pylist(), study.clusters["unstable"].to_pylist(), strict=True))
    rows = []
    for number in np.flatnonzero(total).tolist():
        layer, head = divmod(number, study.heads)
        cluster, patterns = int(main[number]), int(total[number])
        known = (float(grid.clustered[layer, head]), int(grid.distinct[layer, head]))
        does = (cluster if cluster != NOISE else None, names[cluster], float(often[number]) / patterns)
        stable = "" if cluster == NOISE else "no" if unstable[cluster] else "yes"
        rows.append((layer, head, patterns, *does, *known, stable))
    return Table(
        name="heads",
        header=(
            "layer", "head", "patterns", "main cluster", "main name", "main share", "share clustered", "distinct",
            "stable",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def shares_of_names(clusters: Table) -> list[tuple[str, int, float]]:
    """Clusters of the same name together: name, how many, their share of all patterns; largest share first."""
    number: Counter[str] = Counter()
    share: dict[str, float] = {}
    for name, part in zip(clusters.column("name"), clusters.column("share"), strict=True):
        number[name] += 1
        share[name] = share.get(name, 0.0) + part
    return sorted(((name, number[name], share[name]) for name in number), key=lambda entry: (-entry[2], entry[0]))


def head_name(layer: int, head: int) -> str:
    """How a head is written in tables and titles: "3.5" is head 5 of layer 3, both counted from 0."""
    return f"{layer}.{head}"


def describe_heads(heads_by_layer: Sequence[int]) -> str:
    """How many heads a model has, in words: "6 \u00d7 8 heads", or "20 heads in 6 of 24 layers" if layers differ.

    Args:
        heads_by_layer: 0 for a layer without attention.
    """
    layers, attending = len(heads_by_layer), sum(heads > 0 for heads in heads_by_layer)
    if len(set(heads_by_layer)) == 1:
        return f"{layers} \u00d7 {heads_by_layer[0]} heads"
    where = f"{layers} layers" if attending == layers else f"{attending} of {layers} layers"
    return f"{sum(heads_by_layer)} heads in {where}"


def _task_order(task: str) -> tuple[int, str]:
    order = (*TASKS[:-1], *TEXT_TASKS)  # random, the last of both, stays last
    return (order.index(task) if task in order else len(order), task)
