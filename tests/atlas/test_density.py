import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from apmae.atlas.density import FilteredHDBSCAN, floor_of, smallest_cluster
from apmae.config import AtlasConfig
from apmae.schema import NOISE

PLAIN = AtlasConfig(min_cluster_size=5)


def blobs(*sizes, spread=0.05, gap=10.0, seed=0):
    draw = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.arange(len(sizes))[:, None] * gap * np.ones(4)
    return (centres[truth] + spread * draw.normal(size=(len(truth), 4))).astype(np.float32), truth


def cluster(coordinates, counts, config, num_heads=None, nearest=None):
    return FilteredHDBSCAN(config, num_heads).fit(coordinates, counts, nearest)


def ones(coordinates):
    return np.ones(len(coordinates), np.int64)


@pytest.mark.parametrize(("heads", "floor"), [(720, 100), (1152, 160), (1920, 267), (48, 7), (6, 5), (None, 5)])
def test_the_floor_is_the_papers_for_its_models_and_scaled_elsewhere(heads, floor):
    assert floor_of(AtlasConfig(), heads) == floor


@given(st.integers(1, 5000), st.integers(1, 10**8))
def test_the_smallest_cluster_is_never_below_the_floor_nor_without_bound(heads, rows):
    smallest = smallest_cluster(AtlasConfig(), heads, rows)
    assert smallest >= floor_of(AtlasConfig(), heads)
    assert smallest <= max(50, floor_of(AtlasConfig(), heads))
    assert smallest_cluster(AtlasConfig(min_cluster_size=3), heads, rows) == 3


@pytest.mark.parametrize(("rows", "smallest"), [(100, 5), (900, 10), (9600, 32), (10**6, 50)])
def test_the_smallest_cluster_is_a_third_of_the_root_of_the_rows(rows, smallest):
    assert smallest_cluster(AtlasConfig(), None, rows) == smallest


@pytest.mark.parametrize(("smallest", "samples"), [(12, 10), (7, 7)])
def test_density_is_over_as_many_rows_as_the_smallest_cluster_has_but_at_most_ten(smallest, samples):
    coordinates = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    coordinates[:150] += 3

    def persistence(min_samples):
        config = AtlasConfig(min_cluster_size=smallest, min_samples=min_samples, epsilon=0, max_mean_distance=100)
        return cluster(coordinates, ones(coordinates), config).persistence_.tolist()

    assert persistence(None) == persistence(samples) != persistence(samples - 1)


def test_planted_blobs_are_found():
    coordinates, truth = blobs(40, 25, 60, 30)
    found = cluster(coordinates, ones(coordinates), PLAIN)
    assert adjusted_rand_score(truth, found.labels_) == 1
    assert found.sizes_.tolist() == [60, 40, 30, 25], "the largest first"
    assert np.bincount(found.labels_).tolist() == found.sizes_.tolist()
    assert found.dropped_ == {"wide": 0, "small": 0}


@pytest.mark.parametrize("seed", range(8))
def test_the_partition_is_scikit_learns(seed):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(7, 4)) * 1.5
    spread = draw.uniform(0.02, 0.4, size=(7, 1))
    which = draw.integers(7, size=400)
    coordinates = (centres[which] + spread[which] * draw.normal(size=(400, 4))).astype(np.float32)
    coordinates = np.concatenate([coordinates, draw.uniform(-4, 4, size=(60, 4)).astype(np.float32)])
    config = AtlasConfig(min_cluster_size=12, min_samples=6, epsilon=0, max_mean_distance=100)
    ours = cluster(coordinates, ones(coordinates), config)
    theirs = sklearn.cluster.HDBSCAN(
        min_cluster_size=12,
        min_samples=7,  # there a point is its own first neighbour
        copy=True,
    ).fit_predict(coordinates.astype(np.float64))
    assert len(ours.sizes_) > 2
    # Edges of equal length may be processed in another order, which moves rows at the border of a cluster.
    assert ((ours.labels_ == NOISE) != (theirs == NOISE)).sum() <= 2
    assert adjusted_rand_score(theirs, ours.labels_) > 0.99


@pytest.mark.parametrize(("gap", "clusters"), [(0.15, 2), (0.4, 3)])
def test_blobs_nearer_than_the_papers_separation_are_one(gap, clusters):
    # In 4 dimensions the centres are 2 * gap apart, their nearest points about 0.1 less.
    coordinates, truth = blobs(50, 50, spread=0.02, gap=gap)
    far, _ = blobs(50, spread=0.02)
    coordinates = np.concatenate([coordinates, far + 50]).astype(np.float32)
    found = cluster(coordinates, ones(coordinates), PLAIN)
    assert len(found.sizes_) == clusters
    wanted = truth if clusters == 3 else 0 * truth
    assert adjusted_rand_score([*wanted, *[9] * 50], found.labels_) > 0.95


def test_the_mean_distance_is_to_the_centre_with_copies_counted():
    coordinates, truth = blobs(20, 20)
    counts = np.where(np.arange(40) % 2, 3, 1)
    found = cluster(coordinates, counts, PLAIN)
    for number in range(2):
        members = np.repeat(coordinates[found.labels_ == number], counts[found.labels_ == number], axis=0)
        by_hand = np.linalg.norm(members - members.mean(0), axis=1).mean()
        assert found.mean_distances_[number] == pytest.approx(by_hand, rel=1e-5)
        assert found.sizes_[number] == len(members) == 40
    assert set(truth) == {0, 1}


def test_a_wide_cluster_is_dropped_at_the_papers_limit():
    tight, _ = blobs(30)
    draw = np.random.default_rng(0)
    direction = draw.normal(size=(40, 4))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # Pairs of opposite points at one radius: the centre is the origin, every distance is the radius.
    shell = np.concatenate([direction, -direction])
    for radius, dropped in ((0.98, 0), (1.02, 1)):
        coordinates = np.concatenate([tight + 100, radius * shell]).astype(np.float32)
        found = cluster(coordinates, ones(coordinates), AtlasConfig(epsilon=3))
        assert found.dropped_ == {"wide": dropped, "small": 0}
        assert (found.labels_[30:] == NOISE).all() == bool(dropped)
        assert (found.labels_[:30] >= 0).all()


def test_a_cluster_that_is_wide_and_small_is_counted_once():
    coordinates, truth = blobs(30, 10)
    coordinates[truth == 1] += 0.9 * np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32) + 20
    config = AtlasConfig(min_cluster_size=5, epsilon=10)
    assert cluster(coordinates, ones(coordinates), config, 80).dropped_ == {"wide": 1, "small": 0}
    assert cluster(
        coordinates, ones(coordinates), config.model_copy(update={"max_mean_distance": 9.0}), 80
    ).dropped_ == {
        "wide": 0,
        "small": 1,
    }


def test_a_small_cluster_is_dropped_below_the_floor_and_kept_at_it():
    for heads, floor in ((200, 28), (210, 29)):
        assert floor_of(AtlasConfig(), heads) == floor
        coordinates, truth = blobs(28, 100)
        found = cluster(coordinates, ones(coordinates), PLAIN, heads)
        assert found.dropped_ == {"wide": 0, "small": int(floor == 29)}
        assert (found.labels_[truth == 0] == NOISE).all() == (floor == 29)


def test_copies_count_as_members():
    coordinates, truth = blobs(10, 100)
    counts = np.where(truth == 0, 5, 1)
    found = cluster(coordinates, counts, PLAIN, 210)
    assert sorted(found.sizes_.tolist()) == [50, 100]


def test_one_row_with_many_copies_is_a_cluster():
    coordinates, _ = blobs(30, 30)
    coordinates = np.concatenate([coordinates, [[-50.0] * 4], [[500.0] * 4]]).astype(np.float32)
    counts = np.array([1] * 60 + [1000, 2])
    found = cluster(coordinates, counts, PLAIN)
    assert found.labels_[60] == 0
    assert (found.sizes_[0], found.mean_distances_[0], found.persistence_[0]) == (1000, 0, 1)
    assert found.labels_[61] == NOISE


def test_copies_that_the_layout_draws_into_a_cluster_stay_separate():
    coordinates, _ = blobs(30, 30)
    nearest = np.random.default_rng(0).uniform(0.8, 1.2, size=60)
    nearest[:2] = 50  # two rows that were far from everything before the reduction
    counts = ones(coordinates)
    counts[0] = counts[30] = 20
    found = cluster(coordinates, counts, PLAIN, None, nearest.astype(np.float32))
    assert found.sizes_.tolist() == [49, 29, 20]
    assert (found.labels_ == 2).nonzero()[0].tolist() == [0], "far and many"
    assert found.labels_[1] == found.labels_[2], "far, but one"
    assert found.labels_[30] == found.labels_[31], "many, but near"


@pytest.mark.parametrize(("copies", "clusters"), [(4, 1), (5, 2)])
def test_copies_are_a_cluster_from_the_floor_on(copies, clusters):
    coordinates = np.concatenate([blobs(30, 30)[0], [[-50.0] * 4]]).astype(np.float32)
    found = cluster(coordinates, np.array([1] * 60 + [copies]), PLAIN)
    assert len(found.sizes_) == clusters + 1
    assert (found.labels_[60] == NOISE) == (clusters == 1)


@pytest.mark.parametrize(("distance", "clusters"), [(3.9, 2), (4.1, 3)])
def test_an_outlier_is_twice_as_far_away_as_nineteen_of_twenty_members(distance, clusters):
    coordinates, _ = blobs(30, 30)
    nearest = np.where(np.arange(60) % 5, 1.0, 2.0)  # a fifth of each cluster at 2
    counts = ones(coordinates)
    nearest[7], counts[7] = distance, 20
    assert len(cluster(coordinates, counts, PLAIN, None, nearest.astype(np.float32)).sizes_) == clusters


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_too_few_rows_are_noise(rows):
    coordinates = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    found = cluster(coordinates, ones(coordinates), AtlasConfig())
    assert (found.labels_ == NOISE).all()
    assert len(found.sizes_) == len(found.mean_distances_) == len(found.persistence_) == 0


def test_scattered_rows_are_noise():
    coordinates = (np.random.default_rng(0).random((40, 4)) * 1000).astype(np.float32)
    found = cluster(coordinates, ones(coordinates), AtlasConfig(min_cluster_size=20))
    assert (found.labels_ == NOISE).all()
    assert found.dropped_ == {"wide": 0, "small": 0}


@given(
    st.integers(1, 60),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.01, 0.5, 2.0]),
    st.integers(0, 99),
)
def test_any_rows_give_a_consistent_answer(rows, groups, spread, seed):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(groups, 4)) * 3
    coordinates = (centres[draw.integers(groups, size=rows)] + spread * draw.normal(size=(rows, 4))).astype(np.float32)
    counts = draw.integers(1, 8, size=rows)
    config = AtlasConfig(min_cluster_size=4)
    found = cluster(coordinates, counts, config, 60)
    number = len(found.sizes_)
    assert set(found.labels_.tolist()) - {NOISE} == set(range(number))
    assert found.sizes_.tolist() == [counts[found.labels_ == label].sum() for label in range(number)]
    assert found.sizes_.tolist() == sorted(found.sizes_.tolist(), reverse=True)
    assert (found.sizes_ >= floor_of(config, 60)).all()
    assert (found.mean_distances_ <= config.max_mean_distance).all()
    assert ((found.persistence_ >= 0) & (found.persistence_ <= 1)).all()
    assert len(found.mean_distances_) == len(found.persistence_) == number
