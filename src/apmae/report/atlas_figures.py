"""Figures 6, 8, 9 and 10 of the paper, of any atlas: from a table of its points and the names of its clusters.

A study's report shows the same figures of the patterns that the study kept (``pictures.py``). A table of points has one
row per pattern, with some columns of ``schema.POINTS``. It is ``points.parquet`` of a cluster stage, or, after a fit::

    points = pa.table({"prompt": patterns.prompt, "layer": patterns.layer, "head": patterns.head,
                       "cluster": atlas.labels_, "coordinates": list(atlas.coordinates_)})
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from numpy import ndarray

from apmae.analyze.locations import head_grid, prompt_grid
from apmae.artifacts import matrix
from apmae.atlas.members import hull, medoids
from apmae.errors import ConfigError
from apmae.report import figures
from apmae.report.examples import Example, typical_prompt
from apmae.report.palette import NO_HEAD
from apmae.seeding import generator
from apmae.study.exemplars import dense
from apmae.study.reader import SAMPLE_ROWS, Sample, plane


class LogPatterns(Protocol):
    """What the figures read of patterns; an ``apmae.Patterns`` has it."""

    log_patches: Any
    """(n, k, p, p) tensor of log probabilities."""
    size: int
    causal: bool

    def __len__(self) -> int: ...


def draw_map(points: pa.Table, z: Any, heads_by_layer: Sequence[int], seed: int = 0) -> Figure:
    """From raw embeddings to clusters in four panels (paper Figure 6).

    Args:
        points: columns layer, head, cluster, coordinates.
        z: (n, d) embeddings of the same rows.
        heads_by_layer: heads of each layer of the language model, ``lm.heads_by_layer``.
        seed: decides which 20 000 rows are drawn if there are more.

    Raises:
        ConfigError: if a column is missing, or there are not as many embeddings as points.
    """
    _expect_columns(points, "layer", "head", "cluster", "coordinates")
    _expect_rows("embeddings", len(z), points)
    total = points.num_rows
    shown = np.arange(total)
    if total > SAMPLE_ROWS:
        shown = np.sort(generator(seed, "map").choice(total, SAMPLE_ROWS, replace=False, shuffle=False))
    table = points.take(pa.array(shown))
    layer, head, cluster = (_integers(table, name) for name in ("layer", "head", "cluster"))
    raw = np.asarray(z)[shown]
    sample = Sample(layer, head, cluster, plane(raw), plane(matrix(table["coordinates"])))
    return figures.embedding_steps(sample, len(heads_by_layer), max(heads_by_layer, default=0))


def draw_clusters(points: pa.Table, names: Mapping[int, str], patterns: LogPatterns, count: int = 9) -> Figure:
    """The medoid of each of the largest clusters (paper Figure 8).

    Args:
        points: columns prompt, layer, head, cluster, coordinates.
        names: cluster -> its name, ``Atlas.names``.
        patterns: of the same rows.
        count: most clusters, at least 1.

    Raises:
        ConfigError: if a column is missing, there are not as many patterns as points, or ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"expected a count of at least 1, got {count}")
    rows = medoids(*_places(points, patterns))
    return figures.pattern_examples(_examples(points, names, patterns, list(rows.values())[:count]), columns=3)


def draw_hull(
    points: pa.Table, names: Mapping[int, str], patterns: LogPatterns, cluster: int = 0, count: int = 6
) -> Figure:
    """The most distant points on the convex hull of one cluster (paper Figure 9).

    Args:
        points: columns prompt, layer, head, cluster, coordinates.
        names: cluster -> its name, ``Atlas.names``.
        patterns: of the same rows.
        cluster: which one; 0 is the largest.
        count: most patterns, at least 1.

    Raises:
        ConfigError: if a column is missing, there are not as many patterns as points, there is no row of this cluster,
            or ``count`` is below 1.
    """
    rows = hull(*_places(points, patterns), cluster, count)
    return figures.cluster_variation(_examples(points, names, patterns, rows.tolist()))


def draw_heads(
    points: pa.Table, names: Mapping[int, str], heads_by_layer: Sequence[int], prompt: int | None = None
) -> Figure:
    """Where patterns occur: in one prompt, and over all of them (paper Figure 10).

    Args:
        points: columns prompt, layer, head, cluster.
        names: cluster -> its name, ``Atlas.names``.
        heads_by_layer: heads of each layer of the language model, ``lm.heads_by_layer``.
        prompt: number of the prompt in panel A; None: the one with the median share of clustered heads.

    Raises:
        ConfigError: if a column is missing, or no point is of this prompt.
    """
    _expect_columns(points, "prompt", "layer", "head", "cluster")
    if not points.num_rows:
        return figures.statement("No heads to show: there are no patterns")
    if prompt is None:
        prompt = typical_prompt(points)
    known = points["prompt"].to_numpy()
    if prompt not in known:
        raise ConfigError(f"expected a prompt in {known.min()}-{known.max()} that has points, got {prompt}")
    layers, heads = len(heads_by_layer), max(heads_by_layer)
    single = prompt_grid(points, prompt, layers, heads)
    single[np.arange(heads) >= np.array(heads_by_layer)[:, None]] = NO_HEAD
    return figures.head_maps(prompt, single, head_grid(points, layers, heads), names)


def _places(points: pa.Table, patterns: LogPatterns) -> tuple[Float[ndarray, "n r"], Int[ndarray, " n"]]:
    _expect_columns(points, "prompt", "layer", "head", "cluster", "coordinates")
    _expect_rows("patterns", len(patterns), points)
    return matrix(points["coordinates"]), _integers(points, "cluster")


def _examples(points: pa.Table, names: Mapping[int, str], patterns: LogPatterns, rows: Sequence[int]) -> list[Example]:
    found = []
    for row, at in zip(rows, points.take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
        patches = np.asarray(patterns.log_patches[row].float().cpu())
        log_pattern = dense(patches, patterns.size, -np.inf, patterns.causal)
        place = at["prompt"], at["layer"], at["head"]
        found.append(Example(at["cluster"], names.get(at["cluster"], ""), *place, log_pattern))
    return found


def _integers(table: pa.Table, name: str) -> Int[ndarray, " n"]:
    return table[name].to_numpy().astype(np.int64)


def _expect_columns(points: pa.Table, *names: str) -> None:
    missing = [name for name in names if name not in points.column_names]
    if missing:
        raise ConfigError(
            f"expected a table of points with {', '.join(names)}, {', '.join(missing)} missing; "
            "read points.parquet of an atlas, or make one from a fitted atlas"
        )


def _expect_rows(what: str, found: int, points: pa.Table) -> None:
    if found != points.num_rows:
        raise ConfigError(f"expected {what} of the {points.num_rows} points, one each in their order, got {found}")
