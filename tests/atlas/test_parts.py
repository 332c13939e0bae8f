import numpy as np
import pytest
from scipy.spatial.distance import cdist

from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import kinds_of, measured_names
from apmae.atlas.names import Measured
from apmae.atlas.parts import Parts, parts_of
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
from apmae.schema import KINDS, SCORES


def scores_of(leading):
    """One pattern for each score that leads it."""
    values = np.full((len(leading), len(SCORES)), 0.05, np.float32)
    values[:, SCORES.index("uniform")] = 0.3
    values[np.arange(len(leading)), [SCORES.index(name) for name in leading]] = 0.9
    kinds = np.zeros((len(leading), len(KINDS)), np.float32)
    return Measured(values, kinds, kinds)


@pytest.mark.parametrize("metric", ["manhattan", "euclidean"])
def test_members_that_do_different_things_are_parts(metric):
    draw = np.random.default_rng(0)
    z = draw.normal(size=(60, 6))
    z[1] = z[0]  # a copy
    labels = np.repeat([0, 1, -1], [40, 15, 5])
    kinds = np.zeros(60, np.int64)
    kinds[25:37], kinds[37:40] = 2, 1  # 25, 12 and 3 of the first cluster; the second is whole
    fitted = Parts(
        labels, z[:, :2], np.full(60, 9.0), np.ones(2), np.array([0.8, 0.6]), np.array([0.9, 0.5]), {"wide": 1}
    )
    found = parts_of(fitted, z, kinds, metric)
    expected = np.repeat([0, 2, -1, 1, -1], [25, 12, 3, 15, 5])
    assert found.labels_.tolist() == expected.tolist(), "three are too few; the largest comes first"
    assert found.stability_.tolist() == [0.8, 0.6, 0.8] and found.seed_stability_.tolist() == [0.9, 0.5, 0.9]
    assert found.dropped_ == {"wide": 1, "small parts": 1}
    for part in range(3):
        own = np.flatnonzero(expected == part)
        apart = cdist(z[own], z[own], {"manhattan": "cityblock"}.get(metric, metric))
        np.testing.assert_allclose(
            found.nearest_distances_[own], np.where(apart > 0, apart, np.inf).min(1), rtol=1e-3, atol=2e-3
        )  # rows are merged in fp16
        spread = np.linalg.norm(z[own, :2] - z[own, :2].mean(0), axis=1).mean()
        assert found.mean_distances_[part] == pytest.approx(spread)
    assert (found.nearest_distances_[expected == -1] == 9).all()


def test_equal_rows_of_a_part_are_no_distance_apart():
    fitted = Parts(np.zeros(8, np.int64), np.zeros((8, 2)), np.ones(8), np.zeros(1), np.ones(1), np.ones(1), {})
    found = parts_of(fitted, np.ones((8, 3)), np.zeros(8, np.int64), "manhattan")
    assert found.labels_.tolist() == [0] * 8 and found.nearest_distances_.tolist() == [0] * 8


def test_equal_rows_are_in_one_part():
    z = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 2, 0)
    fitted = Parts(np.zeros(20, np.int64), z[:, :2], np.ones(20), np.zeros(1), np.ones(1), np.ones(1), {})
    found = parts_of(fitted, z, np.arange(20) % 2, "manhattan")
    assert found.labels_.tolist() == [0] * 20, "the first of each pair says what it is"


@pytest.fixture(scope="module")
def halved(plant):
    """Five blobs; members of the first lead with two kinds, by turns, those of the others with one each."""
    z, truth, _ = plant()
    names = np.array(["first_token", "previous", "columns", "self", "duplicate"], object)[truth]
    names[np.flatnonzero(truth == 0)[::2]] = "induction"
    return z, names, scores_of(names)


@pytest.mark.parametrize("fit_points", [20_000, 150])
def test_an_atlas_by_kind_has_clusters_of_a_single_kind(halved, fit_points):
    z, names, measured = halved
    whole = Atlas.fit(z, seed=0, measured=measured)
    assert len(whole.clusters) == 5
    found = Atlas.fit(z, measured=measured, config=AtlasConfig(by_kind=True, fit_points=fit_points))
    assert len(found.clusters) == 6
    own = np.array([kinds_of(name)[0] for name in measured_names(measured.values, measured.key_kinds)])
    inside = found.labels_ >= 0
    assert inside.mean() > 0.97
    said = np.array([kinds_of(found.names[int(label)])[0] for label in found.labels_])
    assert (said == own)[inside].all()


def test_what_the_clusters_left_out_joins_the_nearest_of_its_kind_or_is_forgotten(halved):
    z, names, measured = halved
    draw = np.random.default_rng(5)
    between = z[names == "self"][:3] + 0.45 * draw.normal(size=(3, z.shape[1]))
    far = 40 + draw.normal(size=(3, z.shape[1]))
    extra = scores_of(["self", "self", "first_token", "self", "self", "self"])
    both = Measured(*(np.concatenate(parts) for parts in zip(measured, extra, strict=True)))
    found = Atlas.fit(np.concatenate([z, between, far]), measured=both, config=AtlasConfig(by_kind=True))
    selves = found.labels_[: len(z)][names == "self"][0]
    assert set(found.labels_[-6:-4].tolist()) <= {selves, -1}
    assert found.labels_[-4] in (-1, *found.labels_[: len(z)][names == "first_token"].tolist())
    assert (found.labels_[-3:] == -1).all()
    assert (found._reference.labels >= 0).all(), "nobody votes for nothing"


def test_kinds_need_scores(halved):
    with pytest.raises(ConfigError, match="expected measured scores to split clusters by kind, got none"):
        Atlas.fit(halved[0], config=AtlasConfig(by_kind=True))
