"""What is known of every head on every prompt: hand-made scores, clusters, principal components of representations.

Axes: n prompts, h heads, s scores, d of a representation, k components, f splits, c columns.
"""

from collections.abc import Sequence
from itertools import pairwise
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.artifacts import matrix, read_table, read_tables
from apmae.schema import SCORES
from apmae.study.reader import Study

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

_ABSENT = -2


class HeadFeatures(NamedTuple):
    """Of every head that has patterns, in the order of layer and head."""

    place: Int[ndarray, "h 2"]
    """Layer and head."""
    scores: Float[ndarray, "n h s"]
    """In the order of ``schema.SCORES``; NaN where not measured or not captured."""
    cluster: Int[ndarray, "n h"]
    """-1: in none; -2: not captured."""


def read_heads(study: Study, prompt: Int[ndarray, " n"]) -> HeadFeatures:
    """Scores and clusters of a study's heads.

    Args:
        study: finished.
        prompt: numbers of the prompts, ascending.
    """
    names = ["prompt", "layer", "head", *(f"score_{name}" for name in SCORES)]
    table = read_tables(study.embeddings_folder, "encode", "embeddings", names)
    place, row, column, kept = _places(table, prompt)
    scores = np.full((len(prompt), len(place), len(SCORES)), np.nan, np.float32)
    scores[row, column] = np.stack([table[name].to_numpy()[kept] for name in names[3:]], axis=1)
    cluster = np.full(scores.shape[:2], _ABSENT, np.int64)
    _, row, column, kept = _places(study.points, prompt)
    cluster[row, column] = study.points["cluster"].to_numpy()[kept]
    return HeadFeatures(place, scores, cluster)


def one_hot(cluster: Int[ndarray, "n h"]) -> "csc_matrix":
    """Which cluster each head's pattern is in, noise among them: one column per head and cluster that occurs."""
    from scipy.sparse import csc_matrix

    rows, heads = np.nonzero(cluster != _ABSENT)
    codes = heads * (int(cluster.max(initial=0)) + 2) + cluster[rows, heads] + 1
    found, column = np.unique(codes, return_inverse=True)
    return csc_matrix((np.ones(len(rows), np.float32), (rows, column)), (len(cluster), len(found)))


def components(
    study: Study,
    heads: HeadFeatures,
    prompt: Int[ndarray, " n"],
    fits: Sequence[Bool[ndarray, " n"]],
    count: int,
) -> list[Float[ndarray, "n c"]]:
    """Principal components of each head's representations, fitted on each split alone; a matrix per split.

    Representations are read once, and sorted by head in a file that is gone afterwards.

    Args:
        study: finished.
        heads: from :func:`read_heads`.
        prompt: numbers of the prompts, ascending.
        fits: which prompts each split is fitted on.
        count: components per head.
    """
    many, width = len(heads.place), int(study.encoded.counts["dim"])
    found = [np.zeros((len(prompt), many, count), np.float32) for _ in fits]
    there = np.zeros((many, len(prompt)), bool)
    with TemporaryFile() as file:
        file.truncate(2 * width * there.size)
        for name in study.encoded.shards("embeddings"):
            table = read_table(study.embeddings_folder / name, ["prompt", "layer", "head", "embedding"])
            row, column, kept = _rows(table, prompt, heads.place)
            order = np.lexsort((row, column))
            rows = matrix(table["embedding"].take(pa.array(kept[order])))
            places = column[order] * len(prompt) + row[order]
            there.reshape(-1)[places] = True
            begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # what is beside each other is written at once
            for begin, end in pairwise([*begins.tolist(), len(places)]):
                file.seek(2 * width * int(places[begin]))
                file.write(np.ascontiguousarray(rows[begin:end], np.float16).data)
        file.seek(0)
        for number, own in enumerate(there):
            stored = np.frombuffer(file.read(2 * width * len(prompt)), np.float16).reshape(-1, width)
            values = np.where(own[:, None], stored.astype(np.float32), np.nan)
            for made, fit in zip(found, fits, strict=True):
                made[:, number] = principal(values, fit, count)
    return [made.reshape(len(prompt), -1) for made in found]


def principal(values: Float[ndarray, "n d"], fit: Bool[ndarray, " n"], count: int) -> Float[ndarray, "n k"]:
    """Projections on the first principal components of the fitting rows; 0 where values are missing.

    Args:
        values: rows of NaN are missing.
        fit: rows that decide mean and components.
        count: components; those that do not exist are 0.
    """
    there = np.isfinite(values).all(1)
    found = np.zeros((len(values), count), np.float32)
    own = values[there & fit].astype(np.float64)
    if len(own) < 2:
        return found
    mean = own.mean(0)
    own = own - mean
    few = len(own) < own.shape[1]
    size, vectors = np.linalg.eigh(own @ own.T if few else own.T @ own)
    last = np.flatnonzero(size > 1e-9 * max(size[-1], 1e-300))[::-1][:count]
    axes = own.T @ vectors[:, last] / np.sqrt(size[last]) if few else vectors[:, last]
    found[there, : len(last)] = (values[there] - mean) @ axes
    return found


def _places(
    table: pa.Table, prompt: Int[ndarray, " n"]
) -> tuple[Int[ndarray, "h 2"], Int[ndarray, " m"], Int[ndarray, " m"], Int[ndarray, " m"]]:
    codes = np.unique(_codes(table))
    place = np.stack([codes >> 16, codes & 0xFFFF], axis=1)
    return place, *_rows(table, prompt, place)


def _rows(
    table: pa.Table, prompt: Int[ndarray, " n"], place: Int[ndarray, "h 2"]
) -> tuple[Int[ndarray, " m"], Int[ndarray, " m"], Int[ndarray, " m"]]:
    """Place of the prompt, place of the head and row in the table, of patterns of the prompts wanted."""
    own = table["prompt"].to_numpy()
    row = np.minimum(np.searchsorted(prompt, own), len(prompt) - 1)
    kept = np.flatnonzero(prompt[row] == own)
    column = np.searchsorted((place[:, 0] << 16) | place[:, 1], _codes(table)[kept])
    return row[kept], column, kept


def _codes(table: pa.Table) -> Int[ndarray, " m"]:
    return (table["layer"].to_numpy().astype(np.int64) << 16) | table["head"].to_numpy()
