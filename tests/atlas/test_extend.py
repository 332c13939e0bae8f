"""``Atlas.extend``: points with known clusters are added to those among which patterns are placed."""

import numpy as np
import pytest

from apmae.atlas.atlas import Atlas
from apmae.errors import ConfigError

SIZES = (70, 60, 50, 40, 30)
DIM = 24


def test_an_extended_atlas_knows_the_variants_and_places_all_others_as_before(blobs, tmp_path):
    z, truth, _ = blobs
    found = Atlas.fit(z, seed=0)
    shift = np.zeros(DIM)
    shift[::2] = 30
    variants, before, radii = z[::2] + shift, found.place(z), set(found._reference.radii.tolist())
    assert (found.place(variants).cluster == -1).all()
    found.extend(variants, found.labels_[::2], found.coordinates_[::2])
    assert set(found._reference.radii.tolist()) == radii, "variants do not make a cluster wider"
    assert (found.place(variants).cluster == found.labels_[::2]).all()
    assert (found.place(z[1::2] + shift).cluster == found.labels_[1::2]).mean() > 0.9
    assert (found.place(z - shift).cluster == -1).all()
    for ours, theirs in zip(found.place(z), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.clusters["size"].to_pylist() == list(SIZES), "clusters stay as they were fitted"
    found.save(tmp_path)
    np.testing.assert_array_equal(Atlas.load(tmp_path).place(variants).cluster, found.labels_[::2])


def test_an_extension_by_noise_makes_nothing_known(blobs):
    z = blobs[0]
    found = Atlas.fit(z, seed=0)
    noise = np.random.default_rng(0).normal(size=(40, DIM)) * 30
    found.extend(noise, np.full(40, -1), np.zeros((40, 4)))
    assert (found.place(noise).cluster == -1).all()
    assert (found.place(z).cluster == found.labels_).all()


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (3, [0, 1], "as many labels and coordinates as embeddings, 3"),
        (2, [[0], [1]], r"got labels of shape \(2, 1\)"),
        (2, [0, 5], "clusters in -1-4, got 0-5"),
        (2, [-2, 0], "clusters in -1-4, got -2-0"),
        (2, [0.0, 1.0], "expected labels to be integers, got float64"),
        (2, ["a", "b"], "expected labels to be integers"),
    ],
)
def test_an_extension_that_does_not_fit_is_refused(blobs, rows, labels, said):
    found = Atlas.fit(blobs[0], seed=0)
    for numbers in (np.array(labels), labels):
        with pytest.raises(ConfigError, match=said):
            found.extend(np.zeros((rows, DIM)), numbers, np.zeros((len(labels), 4)))
    assert (found.place(blobs[0]).cluster == found.labels_).all()


@pytest.mark.parametrize(
    ("z", "coordinates", "said"),
    [
        (np.zeros((2, DIM + 1)), np.zeros((2, 4)), f"expected embeddings of {DIM} dimensions, .* got {DIM + 1}"),
        (np.zeros((2, DIM)), np.zeros((2, 3)), "expected coordinates of 4 dimensions, as the atlas has, got 3"),
        (np.zeros((2, DIM)), np.full((2, 4), np.nan), "2 of 2 rows are not"),
        (np.zeros((2, DIM)), np.zeros((3, 4)), r"coordinates of shape \(3, 4\)"),
    ],
)
def test_an_extension_of_another_width_is_refused(atlas, z, coordinates, said):
    before = atlas._reference
    with pytest.raises(ConfigError, match=said):
        atlas.extend(z, [0, 0], coordinates)
    assert atlas._reference is before


def test_lists_extend_an_atlas_as_arrays_do(blobs):
    found = Atlas.fit(blobs[0], seed=0)
    found.extend([[-40.0] * DIM], [2], [[0.0] * 4], where=([3], [5]))
    assert found.place(np.full((1, DIM), -40.0)).cluster.tolist() == [2], "without where, as it is over all heads"


def test_a_lone_added_point_is_known_within_its_clusters_radius(blobs):
    found = Atlas.fit(blobs[0], seed=0)
    found.extend(np.full((1, DIM), -90.0), np.array([3]), np.zeros((1, 4)))
    step = np.zeros((1, DIM))
    for share, cluster in ((0.9, 3), (1.1, -1)):
        step[0, 0] = share * float(found._reference.radii[found._reference.labels == 3].max())
        assert found.place(-90 + step).cluster.tolist() == [cluster]
