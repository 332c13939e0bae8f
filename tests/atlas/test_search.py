import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from apmae.atlas.search import Search

METRICS = ["manhattan", "euclidean", "cosine"]


def clustered(points, dim, seed=0):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(40, dim)) * 3
    scales = 0.3 + draw.random(dim)
    return (centres[draw.integers(40, size=points)] + scales * draw.normal(size=(points, dim))).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("points", "dim"), [(1, 5), (20, 1), (60, 7), (256, 300)])
def test_among_few_points_the_nearest_are_exact(metric, points, dim):
    draw = np.random.default_rng(points)
    known, z = draw.normal(size=(points, dim)).astype(np.float32), draw.normal(size=(700, dim)).astype(np.float32)
    found = Search(known, metric, 15).nearest(z)
    k = min(15, points)
    assert found.indices.shape == found.distances.shape == (700, k)
    wanted, _ = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(known).kneighbors(z)
    np.testing.assert_allclose(found.distances, wanted, rtol=1e-4, atol=1e-5)
    own = pairwise_distances(z, known, metric=metric)
    np.testing.assert_allclose(np.take_along_axis(own, found.indices, 1), found.distances, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == k for row in found.indices.tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_among_many_points_distances_are_exact_and_most_of_the_nearest_are_found(metric):
    known, z = clustered(3000, 128), clustered(600, 128, seed=0)[::2] + np.float32(0.05)
    assert len(z) == 300
    indices, distances = Search(known, metric, 15).nearest(z)
    own = pairwise_distances(z, known, metric=metric)
    np.testing.assert_allclose(np.take_along_axis(own, indices, 1), distances, rtol=1e-4, atol=1e-5)
    assert (np.diff(distances, axis=1) >= 0).all(), "the nearest first"
    assert all(len(set(row)) == 15 for row in indices.tolist())
    exact = np.argsort(own, axis=1)[:, :15]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(indices.tolist(), exact.tolist(), strict=True)])
    assert recall >= 0.85
    again = Search(known, metric, 15).nearest(z)
    assert np.array_equal(again.indices, indices)
    assert np.array_equal(again.distances, distances)


@pytest.mark.parametrize("metric", METRICS)
def test_a_point_finds_itself_among_many(metric):
    known = clustered(3000, 96)
    found = Search(known, metric, 15).nearest(known[::10])
    assert found.indices[:, 0].tolist() == list(range(0, 3000, 10))
    np.testing.assert_allclose(found.distances[:, 0], 0, atol=1e-5)


def test_many_neighbours_may_be_wanted():
    known = clustered(1000, 24)
    found = Search(known, "euclidean", 100).nearest(known[:5])
    assert found.indices.shape == (5, 100)
    wanted, _ = NearestNeighbors(n_neighbors=100, algorithm="brute").fit(known).kneighbors(known[:5])
    np.testing.assert_allclose(found.distances[:, :15], wanted[:, :15], atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("points", [4, 2000])
def test_halves_zeros_and_equal_points_have_finite_distances(metric, points):
    known = np.zeros((points, 80), np.float16)
    known[::2] = 1
    found = Search(known, metric, 15).nearest(np.array([[0] * 80, [1] * 80], np.float16))
    assert np.isfinite(found.distances).all()
    ones = [bool(index % 2 == 0) for index in found.indices[1].tolist()]
    if metric != "cosine":
        assert found.distances[:, 0].tolist() == [0, 0]
        assert all(ones[: min(15, points // 2)])
    assert Search(known, metric, 15).nearest(known[:0]).indices.shape == (0, min(15, points))


def test_a_row_depends_on_itself_alone():
    known, z = clustered(2000, 64), clustered(1100, 64, seed=2)
    search = Search(known, "manhattan", 15)
    whole = search.nearest(z)
    for row in (0, 511, 512, 1099):
        alone = search.nearest(z[row : row + 1])
        assert alone.indices[0].tolist() == whole.indices[row].tolist()
        np.testing.assert_allclose(alone.distances[0], whole.distances[row], rtol=1e-5)


@pytest.mark.parametrize("points", [40, 3000])
def test_fewer_neighbours_are_the_first_of_more(points):
    draw = np.random.default_rng(0)
    known, z = draw.normal(size=(points, 80)), draw.normal(size=(70, 80))
    search = Search(known.astype(np.float16), "manhattan", 60)
    many, few = search.nearest(z), search.nearest(z, 15)
    assert many.indices.shape == (70, min(60, points)) and few.indices.shape == (70, 15)
    assert np.array_equal(few.indices, many.indices[:, :15])
    assert np.array_equal(few.distances, many.distances[:, :15])
    assert search.nearest(z, 1000).indices.shape == many.indices.shape
