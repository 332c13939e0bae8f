"""How arrays are written in tables: rows as lists of one length, and the patches of a pattern as bytes.

Axes: n rows, d values of a row, k patches that exist, p pixels along a patch.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Shaped
from numpy import ndarray

from apmae.errors import ArtifactError

_FP16 = np.dtype("<f2")


def fixed_list(values: Shaped[ndarray, "n d"]) -> pa.FixedSizeListArray:
    """An array as a column of lists with d values each."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def matrix(column: pa.ChunkedArray | pa.Array) -> Shaped[ndarray, "n d"]:
    """A column of lists, all of the same length, as an array; (0, 0) if it has no rows."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(array), -1 if len(array) else 0)


def pack_patches(patches: Float[ndarray, "k p p"]) -> bytes:
    """Patches as little-endian fp16, row-major."""
    return patches.astype(_FP16).tobytes()


def unpack_patches(packed: bytes, size: int, patch: int, causal: bool = True) -> Float[ndarray, "k p p"]:
    """The inverse of :func:`pack_patches`; fp16, read-only.

    Args:
        packed: the patches of a pattern.
        size: tokens along its side.
        patch: side of a patch, in tokens.
        causal: whether they are those on or below the diagonal, or those of the whole square.

    Raises:
        ArtifactError: if the number of bytes is not that of such a pattern.
    """
    grid = -(-size // patch)
    patches = grid * (grid + 1) // 2 if causal else grid * grid
    expected = _FP16.itemsize * patches * patch * patch
    if len(packed) != expected:
        kind = "causal" if causal else "square"
        raise ArtifactError(
            f"expected {expected} bytes for a {kind} pattern of {size} tokens in patches of {patch}, got "
            f"{len(packed)}; run encode again"
        )
    return np.frombuffer(packed, _FP16).reshape(-1, patch, patch)
