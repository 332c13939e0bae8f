import numpy as np
import pytest

from apmae.atlas.neighbors import _EXACT, Neighbors, find_neighbors


@pytest.mark.parametrize("metric", ["manhattan", "euclidean", "cosine"])
def test_neighbours_are_the_nearest_rows(metric):
    z = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    by_hand = {
        "manhattan": np.abs(z[:, None] - z[None]).sum(-1),
        "euclidean": np.sqrt(np.square(z[:, None] - z[None]).sum(-1)),
        "cosine": 1 - (z @ z.T) / np.outer(np.linalg.norm(z, axis=1), np.linalg.norm(z, axis=1)),
    }[metric]
    found = find_neighbors(z, 15, metric, 0)
    assert found.indices.shape == found.distances.shape == (60, 15)
    np.testing.assert_allclose(found.distances, np.sort(by_hand, axis=1)[:, :15], atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(by_hand, found.indices, 1), found.distances, atol=1e-3)


@pytest.mark.slow  # compiling the approximate search takes twenty seconds
def test_many_rows_are_searched_approximately_with_high_recall():
    draw = np.random.default_rng(1)
    z = (draw.normal(size=(40, 6))[draw.integers(40, size=4200)] * 3 + draw.normal(size=(4200, 6))).astype(np.float32)
    assert len(z) > _EXACT
    indices, distances = find_neighbors(z, 10, "manhattan", 0)
    rows = draw.integers(len(z), size=200)
    exact = np.argsort(np.abs(z[rows][:, None] - z[None]).sum(-1), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices[rows].tolist(), exact.tolist(), strict=True)])
    assert recall > 0.95
    again = find_neighbors(z, 10, "manhattan", 0)
    assert np.array_equal(indices, again[0])
    assert np.array_equal(distances, again[1])


def test_the_nearest_other_row_is_never_the_row_itself():
    found = Neighbors(
        np.array([[0, 1, 2], [0, 1, 3], [2, -1, -1]]), np.array([[0, 2, 5], [2, 3, 4], [0, 0, 0]], np.float32)
    )
    assert found.nearest().tolist() == [2, 2, np.inf], "the third row has no other"


def test_nearest_of_label_is_the_distance_or_the_best_bound():
    indices = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 0, 1], [4, 1, -1]])
    distances = np.array([[0, 1, 4], [0, 1, 3], [0, 3, 4], [0, 7, 8], [0, 6, 9]], np.float32)
    labels = np.array([0, 1, 0, 2, 3])
    found = Neighbors(indices, distances)
    # Rows 0 and 2 share a label. Rows 1, 3 and 4 are alone: 3 has copies, the others get their furthest neighbour.
    assert found.nearest_of_label(labels, np.array([1, 1, 1, 5, 1])).tolist() == [4, 3, 4, 0, 6]
    assert found.nearest_of_label(labels, np.array([9, 1, 1, 1, 2])).tolist() == [4, 3, 4, 8, 0]
    assert found.nearest_of_label(0 * labels - 1, np.ones(5, int)).tolist() == [1, 1, 3, 7, 6], "noise is a label too"
