import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.atlas.reduce import Reducer
from apmae.config import AtlasConfig


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(2, 5))
def test_few_rows_and_few_dimensions_get_coordinates_too(rows, dim, dimensions):
    z = np.random.default_rng(rows).normal(size=(rows, dim)).astype(np.float32)
    found = Reducer(AtlasConfig(dimensions=dimensions)).fit(z)
    assert found.coordinates_.shape == (rows, dimensions)
    assert np.isfinite(found.coordinates_).all()
    assert found.neighbors_.indices.shape == (rows, min(15, rows))


@pytest.mark.parametrize("rows", [5, 6])
def test_too_few_rows_for_a_layout_keep_their_distances(rows):
    z = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    found = Reducer(AtlasConfig(dimensions=4)).fit(z)
    between = np.linalg.norm(z[:, None] - z[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(found.coordinates_[:, None] - found.coordinates_[None], axis=-1), between, atol=1e-5
    )


def test_the_layout_is_a_function_of_rows_and_seed():
    draw = np.random.default_rng(0)
    z = np.concatenate([draw.normal(size=(60, 8)) * 0.2, draw.normal(size=(60, 8)) * 0.2 + 5]).astype(np.float32)
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    first = Reducer(AtlasConfig(seed=0)).fit(z).coordinates_
    np.random.seed(4)  # noqa: NPY002
    assert np.array_equal(Reducer(AtlasConfig(seed=0)).fit(z).coordinates_, first)
    assert not np.array_equal(Reducer(AtlasConfig(seed=1)).fit(z).coordinates_, first)
    between = np.linalg.norm(first[:60].mean(0) - first[60:].mean(0))
    within = max(np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (first[:60], first[60:]))
    assert between > 2 * within
