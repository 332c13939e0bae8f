"""The rows that an atlas is fitted on: embeddings as stored on disk, their heads, equal rows, the rows of a label.

Axes: n rows, d embedding, u distinct rows.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.errors import ConfigError

Where = tuple[Int[ndarray, " n"], Int[ndarray, " n"]]
"""Layer and head of each row."""
FP16_MAX = float(np.finfo(np.float16).max)


def finite_embeddings(z: Any) -> Float[ndarray, "n d"]:
    """Embeddings as a float32 array, checked.

    Args:
        z: (n, d) embeddings, array or CPU tensor.

    Raises:
        ConfigError: if it does not have two axes, or some rows are not finite.
    """
    array = np.ascontiguousarray(np.asarray(z), dtype=np.float32)
    if array.ndim != 2:
        raise ConfigError(f"expected embeddings of shape (n, dim), got {array.shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise ConfigError(f"expected finite embeddings, {bad} of {len(array)} rows are not; check the encoder")
    return array


def stored(z: Float[ndarray, "n d"]) -> Float[ndarray, "n d"]:
    """Embeddings as they come back from disk: rounded to fp16."""
    return np.clip(z, -FP16_MAX, FP16_MAX).astype(np.float16).astype(np.float32)


def heads_of_rows(where: Any, rows: int) -> Where | None:
    """Layer and head of each row, checked.

    Args:
        where: ``(layer, head)``, two int arrays of length ``rows``; None if unknown.
        rows: number of embeddings.

    Raises:
        ConfigError: if it is not a pair, an array has another length, or the values are not integers.
    """
    if where is None:
        return None
    if not isinstance(where, tuple | list) or len(where) != 2:
        raise ConfigError(f"expected where=(layer, head), two arrays of {rows} integers, got {type(where).__name__}")
    layer, head = (np.asarray(part) for part in where)
    for name, part in (("layer", layer), ("head", head)):
        if part.shape != (rows,):
            raise ConfigError(
                f"expected where=(layer, head), one of each per embedding ({rows}), got {name} of shape {part.shape}"
            )
        if rows and part.dtype.kind not in "iu":
            raise ConfigError(f"expected where=(layer, head) of integers, got {name} of {part.dtype}; cast it to int64")
    return layer.astype(np.int64), head.astype(np.int64)


def passing_rows(structured: Any, rows: int) -> Bool[ndarray, " n"]:
    """Which rows pass the gate, checked; None: all.

    Raises:
        ConfigError: if it does not hold one boolean per row.
    """
    if structured is None:
        return np.ones(rows, bool)
    passing = np.asarray(structured)
    if passing.shape != (rows,) or passing.dtype != bool:
        raise ConfigError(
            f"expected structured to hold one boolean per embedding ({rows}), got {passing.dtype} of shape "
            f"{passing.shape}"
        )
    return passing


def merge_duplicates(z: Float[ndarray, "n d"]) -> tuple[Int[ndarray, " u"], Int[ndarray, " n"], Int[ndarray, " u"]]:
    """Groups of rows that are equal in fp16, the precision they are stored in.

    Returns:
        The first row of each group, the group of each row, and the size of each group. Groups are in the order of
        their first rows.
    """
    rows = np.ascontiguousarray(z.astype(np.float16) + np.float16(0))  # -0 becomes 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, group, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[group.ravel()], count[order]


def members_of(labels: Int[ndarray, " n"], count: int) -> list[Int[ndarray, " _"]]:
    """The rows of each label from 0 to count - 1, ascending; one pass, however many labels there are."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(count + 1)))[1:-1]
