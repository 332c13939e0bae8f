"""Arrays with named axes: all captured heads of one prompt, by layer, head, query_pos and key_pos. For ``Patterns``.

A head that occurs twice in a prompt is refused, because the array has one place per head.

Axes: n patterns, each of a different head; r rows.
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
    """Separate axes for the layers and heads that occur, ascending; NaN where a layer does not have a head."""
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
        layer: the layer of each pattern.
        head: the head within the layer.
        labels: (r,) names of the rows.
        dims: names of the axes.

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
        CaptureError: with its name.
    """
    places, counts = np.unique(np.stack([layer, head]), axis=1, return_counts=True)
    if counts.max() > 1:
        layer, head = places[:, counts.argmax()]
        raise CaptureError(
            f"expected each head once, got {layer}.{head} of prompt {prompt} {counts.max()} times; "
            "choose one of them by slicing"
        )
