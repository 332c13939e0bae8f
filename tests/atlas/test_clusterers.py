import numpy as np
import pytest

from apmae.atlas.clusterers import Clusterer, GlobalClusterer
from apmae.atlas.density import FilteredHDBSCAN
from apmae.atlas.reduce import Reducer
from apmae.atlas.rows import stored
from apmae.config import AtlasConfig

CONFIG = AtlasConfig(min_cluster_size=5)
CLUSTERERS = {"global": lambda: GlobalClusterer(CONFIG, num_heads=40)}


@pytest.fixture(scope="module")
def rows(plant):
    """Three blobs, two of their rows twice, and scattered rows. Two heads alternate; copies are of the same head."""
    z = plant(sizes=(40, 30, 25))[0]
    far = np.random.default_rng(3).normal(size=(5, 24)) * 40
    z = stored(np.concatenate([z, z[3:5], far]).astype(np.float32))
    return z, (np.arange(len(z)) % 2, np.full(len(z), 3))


@pytest.mark.parametrize(
    ("made", "settings", "given"),
    [
        (lambda: Reducer(CONFIG), {"config": CONFIG}, ["z"]),
        (lambda: FilteredHDBSCAN(CONFIG, 40), {"config": CONFIG, "num_heads": 40}, ["coordinates", "counts"]),
        (lambda: GlobalClusterer(CONFIG, 40), {"config": CONFIG, "num_heads": 40}, ["z"]),
    ],
    ids=["reducer", "hdbscan", "global"],
)
def test_constructors_store_and_fit_computes(made, settings, given, rows):
    estimator = made()
    assert vars(estimator) == settings
    values = {"z": rows[0][:95], "coordinates": rows[0][:95, :4], "counts": np.ones(95, np.int64)}
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
    found = made().fit(z, where)
    assert vars(found).keys() >= {name for name in Clusterer.__annotations__ if name.endswith("_")}
    number = len(found.persistence_)
    sizes = np.bincount(found.labels_ + 1, minlength=number + 1)[1:]
    assert number >= 3
    assert found.labels_.shape == found.nearest_distances_.shape == (len(z),)
    assert len(found.coordinates_) == len(z)
    assert len(found.mean_distances_) == number == len(sizes)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    assert sizes.min() > 0
    assert np.isfinite(found.coordinates_).all()
    assert np.isfinite(found.nearest_distances_).all()
    assert (found.nearest_distances_ >= 0).all()
    assert ((found.persistence_ >= 0) & (found.persistence_ <= 1)).all()
    assert all(count >= 0 for count in found.dropped_.values())
    for one, other in ((3, 95), (4, 96)):
        assert found.labels_[one] == found.labels_[other]
        assert np.array_equal(found.coordinates_[one], found.coordinates_[other])
        assert found.nearest_distances_[one] == found.nearest_distances_[other]
    for cluster in range(number):
        points = found.coordinates_[found.labels_ == cluster]
        by_hand = np.linalg.norm(points - points.mean(0), axis=1).mean()
        assert found.mean_distances_[cluster] == pytest.approx(by_hand, rel=1e-4)
    again = made().fit(z, where)
    assert np.array_equal(again.labels_, found.labels_)
    assert np.array_equal(again.coordinates_, found.coordinates_)


def test_nearest_distances_are_to_the_nearest_other_row_of_the_cluster(rows):
    z, _ = rows
    found = GlobalClusterer(CONFIG).fit(z)
    for row in range(95):
        others = (found.labels_ == found.labels_[row]) & (z != z[row]).any(1)
        assert found.nearest_distances_[row] == pytest.approx(np.abs(z[others] - z[row]).sum(1).min(), rel=1e-4)


def test_all_heads_are_clustered_together(rows):
    z, where = rows
    with_heads, without = GlobalClusterer(CONFIG).fit(z, where), GlobalClusterer(CONFIG).fit(z)
    assert np.array_equal(with_heads.labels_, without.labels_)
