import struct

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import fixed_list, matrix, pack_patches, read_table, unpack_patches, write_table
from apmae.errors import ArtifactError


def test_fixed_lists_keep_rows():
    values = np.arange(12, dtype=np.float16).reshape(4, 3)
    assert fixed_list(values[::2]).to_pylist() == values[::2].tolist()
    both = matrix(pa.chunked_array([fixed_list(values), fixed_list(values + 1)]))
    assert both.dtype == np.float16
    assert both.tolist() == [*values.tolist(), *(values + 1).tolist()]


@pytest.mark.parametrize("kind", ["lists of one length", "lists"])
def test_rows_come_back_from_disk_and_from_a_slice(tmp_path, kind):
    values = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    column = fixed_list(values) if kind == "lists of one length" else pa.array(values.tolist(), pa.list_(pa.float32()))
    write_table(tmp_path / "a.parquet", pa.table({"x": column}))
    back = read_table(tmp_path / "a.parquet")["x"]
    assert np.array_equal(matrix(back), values)
    assert np.array_equal(matrix(back.slice(2, 3)), values[2:5])
    assert np.array_equal(matrix(column.slice(2, 3)), values[2:5])
    assert matrix(back.slice(0, 0)).shape == (0, 0)


def test_patches_are_little_endian_halves_in_row_major_order():
    patches = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2) / 4
    packed = pack_patches(patches)
    assert packed == struct.pack("<12e", *(number / 4 for number in range(12)))
    back = unpack_patches(packed, 3, 2)  # three tokens in patches of two: three patches on or below the diagonal
    assert back.dtype == np.float16
    assert np.array_equal(back, patches)


@pytest.mark.parametrize("size", [2, 5])
def test_bytes_of_another_size_are_refused(size):
    expected = {2: 1, 5: 6}[size] * 2 * 2 * 2
    with pytest.raises(ArtifactError, match=f"expected {expected} bytes .* got 24; run encode again"):
        unpack_patches(pack_patches(np.zeros((3, 2, 2))), size, 2)
