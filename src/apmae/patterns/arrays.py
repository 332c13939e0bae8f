"""Named arrays: all captured heads of one prompt, by layer, head, query_pos and key_pos. ``Patterns`` hands them over.

A head that occurs twice in a prompt is refused: there is one place for it.

Axes: n patterns, each of another head; r rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.errors import CaptureError, DependencyError


def by_head(
    probabilities: Float[ndarray, "n r r"], layer: Int[ndarray, " n"], head: Int[ndarray, " n"]
) -> Float[ndarray, "layers heads r r"]:
    """The layers and heads that occur, ascending, on axes of their own; NaN where one does not occur."""
    (layers, row), (heads, column) = (np.unique(numbers, return_inverse=True) for numbers in (layer, head))
    array = np.full((len(layers), len(heads), *probabilities.shape[1:]), np.nan, np.float32)
    array[row, column] = probabilities
    return array


def named(
    array: Float[ndarray, "layers heads r r"],
    layer: Int[ndarray, " n"],
    head: Int[ndarray, " n"],
    labels: Sequence[str],
    dims: Sequence[str],
) -> Any:
    """An ``xarray.DataArray`` of what :func:`by_head` made.

    Args:
        array: probabilities.
        layer: which layer made each pattern.
        head: which head of the layer.
        labels: (r,) what the rows are called.
        dims: what the axes are called.

    Raises:
        DependencyError: if xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise DependencyError(
            "expected xarray for named arrays, it is not installed; run: pip install 'apmae[arrays]'"
        ) from None
    positions = np.arange(len(labels))
    coordinates = {
        "layer": np.unique(layer),
        "head": np.unique(head),
        "query_pos": positions,
        "key_pos": positions,
        "query_token": ("query_pos", labels),
        "key_token": ("key_pos", labels),
    }
    return xarray.DataArray(array, coordinates, dims, name="attention")


def check_heads(layer: Int[ndarray, " n"], head: Int[ndarray, " n"], prompt: int) -> None:
    """Refuse a head that occurs twice.

    Raises:
        CaptureError: naming it.
    """
    places, counts = np.unique(np.stack([layer, head]), axis=1, return_counts=True)
    if counts.max() > 1:
        layer, head = places[:, counts.argmax()]
        raise CaptureError(
            f"expected each head once, got {layer}.{head} of prompt {prompt} {counts.max()} times; "
            "choose among them by slicing"
        )
