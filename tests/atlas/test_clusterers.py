import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from apmae.atlas.clusterers import Clusterer, PaperClusterer, StableClusterer, one_hot
from apmae.atlas.density import FilteredHDBSCAN
from apmae.atlas.heads import PerHeadClusterer
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import stored
from apmae.config import AtlasConfig

CONFIG = AtlasConfig(min_cluster_size=5)
CLUSTERERS = {
    "stable": lambda: StableClusterer(CONFIG),
    "paper": lambda: PaperClusterer(CONFIG, num_heads=40),
    "per_head": lambda: PerHeadClusterer(CONFIG),
}
TOGETHER = {name: CLUSTERERS[name] for name in ("stable", "paper")}


@pytest.fixture(scope="module")
def rows(plant):
    """Three blobs, two of their rows twice, and scattered rows. Two heads alternate; copies are of the same head."""
    z = plant(sizes=(40, 30, 25))[0]
    far = np.random.default_rng(3).normal(size=(5, 24)) * 40
    z = stored(np.concatenate([z, z[3:5], far]).astype(np.float32)).astype(np.float32)
    assert (z[95:97] == z[3:5]).all()
    layer = np.arange(len(z)) % 2
    layer[95:97] = layer[3:5]
    return z, (layer, np.full(len(z), 3))


@pytest.mark.parametrize(
    ("made", "settings", "given"),
    [
        (lambda: Reducer(CONFIG), {"config": CONFIG}, ["z"]),
        (lambda: FilteredHDBSCAN(CONFIG, 40), {"config": CONFIG, "num_heads": 40}, ["coordinates", "counts"]),
        (lambda: StableClusterer(CONFIG), {"config": CONFIG}, ["z"]),
        (lambda: PaperClusterer(CONFIG, 40), {"config": CONFIG, "num_heads": 40}, ["z"]),
        (lambda: PerHeadClusterer(CONFIG), {"config": CONFIG}, ["z", "where"]),
    ],
    ids=["reducer", "hdbscan", "stable", "paper", "per_head"],
)
def test_constructors_store_and_fit_computes(made, settings, given, rows):
    estimator = made()
    assert vars(estimator) == settings
    values = {"z": rows[0][:95], "coordinates": rows[0][:95, :4], "counts": np.ones(95, np.int64)}
    values["where"] = tuple(part[:95] for part in rows[1])
    assert estimator.fit(*(values[name] for name in given)) is estimator
    results = vars(estimator).keys() - settings.keys()
    assert results == {name for name in type(estimator).__annotations__ if name.endswith("_")}
    assert settings.items() <= vars(estimator).items()
    before = {name: np.copy(value) for name, value in vars(estimator).items() if isinstance(value, np.ndarray)}
    estimator.fit(*(values[name] for name in given))
    for name, value in before.items():
        assert np.array_equal(value, getattr(estimator, name)), "fitting again leaves nothing of the first fit"


@pytest.mark.parametrize("made", CLUSTERERS.values(), ids=CLUSTERERS)
def test_a_clusterer_keeps_the_contract(made, rows):
    z, where = rows
    prompts = np.arange(len(z)) % 12
    found = made().fit(z, where, prompts)
    assert vars(found).keys() >= {name for name in Clusterer.__annotations__ if name.endswith("_")}
    number = len(found.stability_)
    sizes = np.bincount(found.labels_ + 1, minlength=number + 1)[1:]
    assert number >= 3
    assert found.labels_.shape == found.nearest_distances_.shape == (len(z),)
    assert len(found.coordinates_) == len(z)
    assert len(found.mean_distances_) == len(found.seed_stability_) == number == len(sizes)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes.min() > 0
    assert np.isfinite(found.coordinates_).all()
    assert np.isfinite(found.nearest_distances_).all()
    assert (found.nearest_distances_ >= 0).all()
    for stability in (found.stability_, found.seed_stability_):
        assert ((stability >= 0) & (stability <= 1 + 1e-6)).all()
    assert all(count >= 0 for count in found.dropped_.values())
    for one, other in ((3, 95), (4, 96)):
        assert found.labels_[one] == found.labels_[other]
        assert np.array_equal(found.coordinates_[one], found.coordinates_[other])
        assert found.nearest_distances_[one] == found.nearest_distances_[other]
    for cluster in range(number):
        points = found.coordinates_[found.labels_ == cluster]
        by_hand = np.linalg.norm(points - points.mean(0), axis=1).mean()
        assert found.mean_distances_[cluster] == pytest.approx(by_hand, rel=1e-4)
    again = made().fit(z, where, prompts)
    assert np.array_equal(again.labels_, found.labels_)
    assert np.array_equal(again.coordinates_, found.coordinates_)
    assert np.array_equal(again.stability_, found.stability_)


@pytest.mark.parametrize("made", TOGETHER.values(), ids=TOGETHER)
def test_nearest_distances_are_to_the_nearest_other_row_of_the_cluster(made, rows):
    z, _ = rows
    found = made().fit(z)
    for row in range(95):
        others = (found.labels_ == found.labels_[row]) & (z != z[row]).any(1)
        assert found.nearest_distances_[row] == pytest.approx(np.abs(z[others] - z[row]).sum(1).min(), rel=1e-4)


@pytest.mark.parametrize("made", TOGETHER.values(), ids=TOGETHER)
def test_all_heads_are_clustered_together(made, rows):
    z, where = rows
    with_heads, without = made().fit(z, where), made().fit(z)
    assert np.array_equal(with_heads.labels_, without.labels_)
    assert adjusted_rand_score(np.repeat([0, 1, 2], (40, 30, 25)), without.labels_[:95]) == 1


@pytest.mark.parametrize("made", TOGETHER.values(), ids=TOGETHER)
def test_blobs_that_every_prompt_has_are_stable(made, rows):
    found = made().fit(rows[0], None, np.arange(len(rows[0])) % 12)
    assert found.stability_[:3].min() > 0.9
    assert found.seed_stability_[:3].min() > 0.9


def test_a_size_that_is_given_is_halved_with_the_prompts(plant):
    """Else a cluster of 36 rows, at least 25, could not be found again among half of the prompts."""
    z = stored(plant(sizes=(36, 36))[0]).astype(np.float32)
    given = AtlasConfig(min_cluster_size=25, min_samples=10)
    found = PaperClusterer(given).fit(z, None, np.arange(72) // 2 % 12)
    assert len(found.stability_) == 2 and found.stability_.min() > 0.9


@pytest.mark.parametrize("made", TOGETHER.values(), ids=TOGETHER)
def test_copies_of_one_row_are_a_cluster_that_is_certain(made, rows):
    z = np.concatenate([rows[0], np.full((50, 24), 90, np.float32)])
    found = made().fit(z)
    (label,) = set(found.labels_[-50:].tolist())
    assert label == 0, "the largest"
    assert (found.labels_ == 0).sum() == 50
    assert found.stability_[0] == found.seed_stability_[0] == 1
    assert found.mean_distances_[0] == 0


def test_nothing_found_is_nothing(rows):
    for made in CLUSTERERS.values():
        found = made().fit(rows[0][::30], tuple(part[::30] for part in rows[1]))
        assert (found.labels_ == -1).all()
        assert len(found.stability_) == len(found.seed_stability_) == len(found.mean_distances_) == 0


def test_one_hot_has_the_rows_of_each_label():
    assert one_hot(np.array([1, -1, 0, 1]), 3).tolist() == [
        [False, False, True, False],
        [True, False, False, True],
        [False] * 4,
    ]
