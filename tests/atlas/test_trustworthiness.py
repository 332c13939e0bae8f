"""Equal to scikit-learn where that fits into memory; what the standard error says, by drawing again and again."""

import tracemalloc

import numpy as np
import pytest
from sklearn import manifold

from apmae.atlas import trustworthiness as module
from apmae.atlas.trustworthiness import trustworthiness
from apmae.errors import ConfigError


@pytest.fixture(scope="module")
def rows():
    """Rows around centres, and two of their axes with noise: some neighbours are right."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(8, 12))[draw.integers(8, size=331)] * 2 + draw.normal(size=(331, 12))
    return z.astype(np.float32), (z[:, :3] + draw.normal(size=(331, 3)) * 0.2).astype(np.float32)


@pytest.mark.parametrize("metric", ["manhattan", "euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 2, 15, 100, 165])
def test_it_is_scikit_learns(rows, k, metric, monkeypatch):
    z, reduced = rows
    monkeypatch.setattr(module, "_TILE", 100)
    found = trustworthiness(z, reduced, k, queries=None, metric=metric)
    assert found.value == pytest.approx(manifold.trustworthiness(z, reduced, n_neighbors=k, metric=metric), abs=1e-6)
    assert (found.error, found.queries) == (0, 331)


def test_a_reduction_that_changes_nothing_is_trusted_and_noise_is_not(rows):
    z, _ = rows
    assert trustworthiness(z, z * 3, 20, queries=None, metric="euclidean").value == 1
    noise = np.random.default_rng(1).normal(size=(len(z), 2))
    assert trustworthiness(z, noise, 20, queries=None).value == pytest.approx(0.5, abs=0.05)


def test_a_value_by_hand():
    """The nearest in reduced space are rows 3, 2, 1 and 0; on the line they rank 3, 2, 2 and 3."""
    z = np.array([[0.0], [1.0], [10.0], [11.0]])
    reduced = np.array([[0.0], [10.0], [11.0], [1.0]])
    assert trustworthiness(z, reduced, 1, queries=None, metric="euclidean").value == pytest.approx(
        1 - (2 + 1 + 1 + 2) * 2 / (4 * 1 * (8 - 3 - 1))
    )


def test_the_standard_error_is_the_spread_of_samples(rows):
    z, reduced = rows
    exact = trustworthiness(z, reduced, 20, queries=None).value
    found = [trustworthiness(z, reduced, 20, queries=60, seed=seed) for seed in range(200)]
    values = np.array([each.value for each in found])
    error = np.mean([each.error for each in found])
    assert values.std() == pytest.approx(error, rel=0.15)
    assert abs(values.mean() - exact) < 4 * error / np.sqrt(200)
    assert all(each.queries == 60 for each in found)
    assert trustworthiness(z, reduced, 20, queries=60, seed=3) == found[3]


def test_as_many_queries_as_rows_are_all_rows(rows):
    assert trustworthiness(*rows, 20, queries=5000) == trustworthiness(*rows, 20, queries=None)


def test_equal_reduced_rows_do_not_count_themselves():
    z = np.random.default_rng(0).normal(size=(40, 4))
    found = trustworthiness(z, np.zeros((40, 2)), 3, queries=None, metric="euclidean")
    assert 0.2 < found.value < 0.8


def test_memory_grows_with_rows_not_with_their_square():
    def peak(n):
        z = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)
        trustworthiness(z, z[:, :2], 5, queries=4)  # imports
        tracemalloc.start()
        trustworthiness(z, z[:, :2], 5, queries=128)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(16_000) < 5 * peak(4000)
    assert peak(16_000) < 16_000**2 * 8 / 50


@pytest.mark.parametrize("k", [0, 20, 1000])
def test_too_many_neighbours_are_refused(k):
    z = np.random.default_rng(0).normal(size=(40, 4))
    with pytest.raises(ConfigError, match=f"expected neighbors from 1 to 19, .*40 rows, got {k}; take fewer"):
        trustworthiness(z, z[:, :2], k)
    trustworthiness(z, z[:, :2], 19)


def test_what_does_not_fit_together_is_refused():
    z = np.random.default_rng(0).normal(size=(40, 4))
    with pytest.raises(ConfigError, match="as many reduced rows as embeddings, 40, got 39"):
        trustworthiness(z, z[1:, :2], 3)
    with pytest.raises(ConfigError, match="at least 2 queries"):
        trustworthiness(z, z[:, :2], 3, queries=1)
    with pytest.raises(ConfigError, match="1 of 40 rows are not"):
        trustworthiness(np.where(np.arange(40)[:, None] == 3, np.nan, z), z[:, :2], 3)
