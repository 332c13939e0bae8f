"""The rows that an atlas is fitted on: embeddings as stored on disk, their heads, equal rows, the rows of a label.

Axes: n rows, d embedding, u distinct rows.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from apmae.atlas.memory import free_memory
from apmae.errors import ConfigError
from apmae.progress import notice
from apmae.schema import NOISE
from apmae.seeding import generator

Where = tuple[Int[ndarray, " n"], Int[ndarray, " n"]]
"""Layer and head of each row."""
HEADS = 4096
"""More heads than any layer has."""
_LAYERS = 2**31 // HEADS
"""More layers than any model has; the numbers of all heads fit int32."""
FP16_MAX = float(np.finfo(np.float16).max)
_BLOCK = 65_536
"""Rows checked at a time."""
_BYTES_PER_POINT = 25_000
"""Memory of a fit: neighbours, UMAP's graph and branches. 20 000 of SmolLM2-135M's took 20 000 bytes each, rows too."""
_LEAST_POINTS = 2_000


def finite_embeddings(z: Any) -> Float[ndarray, "n d"]:
    """Embeddings as a float32 array, checked.

    Args:
        z: (n, d) embeddings, array or CPU tensor.

    Raises:
        ConfigError: if it does not hold numbers on two axes, or some rows are not finite.
    """
    array = np.ascontiguousarray(_numbers(z), dtype=np.float32)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise ConfigError(f"expected finite embeddings, {bad} of {len(array)} rows are not; check the encoder")
    return array


def stored(z: Any, *, clip: bool = True) -> Float[ndarray, "n d"]:
    """Embeddings as they come back from disk, float16; checked, a block of rows at a time.

    Args:
        z: (n, d) embeddings, array or CPU tensor. An array of float16 is returned as it is.
        clip: whether values beyond fp16's range are cut; False refuses them.

    Raises:
        ConfigError: if it does not hold numbers on two axes, some rows are not finite, or some are beyond fp16's range.
    """
    array = _numbers(z)
    found = array if array.dtype == np.float16 else np.empty(array.shape, np.float16)
    bad, largest = 0, 0.0
    for begin in range(0, len(array), _BLOCK):
        rows = array[begin : begin + _BLOCK].astype(np.float32)
        finite = np.isfinite(rows).all(1)
        bad += int((~finite).sum())
        largest = max(largest, float(np.abs(rows[finite]).max(initial=0)))
        if found is not array:
            found[begin : begin + len(rows)] = np.clip(np.nan_to_num(rows), -FP16_MAX, FP16_MAX)
    if bad:
        raise ConfigError(f"expected finite embeddings, {bad} of {len(array)} rows are not; check the encoder")
    if largest > FP16_MAX and not clip:
        raise ConfigError(f"expected embeddings within {FP16_MAX:g}, fp16's range, got {largest:g}; scale them down")
    return found


def _numbers(z: Any) -> Shaped[ndarray, "n d"]:
    """Embeddings as an array of real numbers with two axes; of any type."""
    try:
        array = np.asarray(z)
    except (TypeError, ValueError) as error:  # rows of several lengths, a tensor that is not on the CPU
        raise ConfigError(f"expected embeddings of shape (n, dim), got {type(z).__name__}: {error}") from None
    if array.ndim != 2:
        raise ConfigError(f"expected embeddings of shape (n, dim), got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"expected embeddings of real numbers, got {array.dtype}; cast them to float32")
    return array


def sample_of(rows: Int[ndarray, " n"], points: int, width: int, seed: int, at_once: float = 1.0) -> Int[ndarray, " k"]:
    """A seeded sample of row numbers, ascending: at most ``points``, and no more than memory has room for.

    A line on stderr says if memory is what limits it.

    Args:
        rows: numbers to draw from.
        points: how many are wanted.
        width: numbers in an embedding.
        seed: for the draw.
        at_once: which share of the rows is fitted at the same time, in (0, 1]: under 1 for fits per head.
    """
    wanted = min(points, len(rows))
    points = min(
        wanted, max(int(min(free_memory() / (at_once * _BYTES_PER_POINT + 12 * width), wanted)), _LEAST_POINTS)
    )
    if points < wanted:
        notice(f"clusters are looked for in {points:,} of {len(rows):,} patterns: there is no memory for {wanted:,}")
    return rows if len(rows) <= points else np.sort(generator(seed, "fit").permutation(rows)[:points])


def heads_of_rows(where: Any, rows: int, *, needed: bool = False) -> Where | None:
    """Layer and head of each row, checked.

    Args:
        where: ``(layer, head)``, two int arrays of length ``rows``; None if unknown.
        rows: number of embeddings.
        needed: whether they have to be known.

    Raises:
        ConfigError: if it is needed and not there, it is not a pair, an array has another length, or the values are
            not integers from 0.
    """
    if where is None and needed:
        raise ConfigError("expected where=(layer, head) for an atlas of clusters per head, got none; give it")
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
        most = _LAYERS if name == "layer" else HEADS
        if rows and not 0 <= part.min() <= part.max() < most:
            raise ConfigError(
                f"expected where=(layer, head), counted from 0 and under {most}, got {name} {part.min()} to "
                f"{part.max()}; leave out rows of no head"
            )
    return layer.astype(np.int64), head.astype(np.int64)


def head_numbers(where: Where) -> Int[ndarray, " n"]:
    """One number for each layer and head, from 0."""
    return where[0].astype(np.int64) * HEADS + where[1]


def added_rows(
    labels: Any, coordinates: Any, rows: int, width: int, clusters: int
) -> tuple[Int[ndarray, " n"], Float[ndarray, "n r"]]:
    """Clusters and reduced coordinates of rows that are added to an atlas, checked.

    Args:
        labels: one integer per row, -1 for noise.
        coordinates: finite numbers, ``width`` per row.
        rows: number of embeddings.
        width: reduced dimensions of the atlas.
        clusters: how many it has.

    Raises:
        ConfigError: if they are not.
    """
    found, places = np.asarray(labels), finite_embeddings(coordinates)
    if not len(found.shape) == 1 or not rows == len(found) == len(places):
        raise ConfigError(
            f"expected as many labels and coordinates as embeddings, {rows}, got labels of shape {found.shape} and "
            f"coordinates of shape {places.shape}"
        )
    if rows and found.dtype.kind not in "iu":
        raise ConfigError(f"expected labels to be integers, got {found.dtype}; cast them to int64")
    if places.shape[1] != width:
        raise ConfigError(f"expected coordinates of {width} dimensions, as the atlas has, got {places.shape[1]}")
    if rows and not NOISE <= found.min() <= found.max() < clusters:
        raise ConfigError(f"expected clusters in -1-{clusters - 1}, got {found.min()}-{found.max()}")
    return found.astype(np.int64), places


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


def prompts_of_rows(prompts: Any, rows: int) -> Int[ndarray, " n"] | None:
    """The prompt of each row, checked; None if unknown.

    Raises:
        ConfigError: if it does not hold one integer per row.
    """
    if prompts is None:
        return None
    found = np.asarray(prompts)
    if found.shape != (rows,) or (rows and found.dtype.kind not in "iu"):
        raise ConfigError(
            f"expected prompts to hold one integer per embedding ({rows}), got {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64)


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
