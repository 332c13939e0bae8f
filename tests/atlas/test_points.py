import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances

from apmae.atlas.heads import PerHeadClusterer
from apmae.atlas.place import Reference
from apmae.atlas.points import distinct_rows, kept_rows
from apmae.config import AtlasConfig

DIM = 4


@pytest.fixture(scope="module")
def crowded():
    """Clusters found in two heads with as much noise as members, all in a cube: rows, what was found, heads."""
    draw = np.random.default_rng(0)
    axes = np.linalg.qr(draw.normal(size=(24, DIM)))[0].T
    z = []
    for _ in range(2):
        centres = draw.uniform(-1, 1, size=(6, DIM))[np.arange(250) % 6]
        z += [centres + 0.1 * draw.normal(size=(250, DIM)), draw.uniform(-1, 1, size=(250, DIM))]
    z = (np.concatenate(z) @ axes).astype(np.float16).astype(np.float32)
    where = (np.zeros(1000, np.int64), np.repeat([0, 1], 500))
    found = PerHeadClusterer(AtlasConfig(min_cluster_size=25, min_samples=10)).fit(z, where)
    return z, found, where


@pytest.mark.parametrize("points", [100, 200, 400])
def test_a_reference_smaller_than_the_fit_leaves_noise_its_vote(crowded, points):
    """Labels come back, of noise as of members, nearly as they do if all points are kept."""
    z, found, where = crowded
    labels, noise = found.labels_, found.labels_ == -1
    assert 0.2 < noise.mean() < 0.6
    for most, missed in ((500, 0.03), (points, 0.12)):
        config = AtlasConfig(clusterer="per_head", reference_points=most)
        kept = Reference.of(z, labels, found.coordinates_, found.nearest_distances_, config, where)
        placed = kept.place(z, "manhattan", where).cluster
        assert (placed[noise] >= 0).mean() < missed
        assert (placed[~noise] == labels[~noise]).mean() > 0.95
    assert len(kept.labels) < len(z) - 100, "not all are kept"


def test_noise_is_kept_at_the_rate_of_the_cluster_that_it_is_near_to():
    """One head, a small cluster that is kept whole and a large one; noise around each, and noise far from both."""
    draw = np.random.default_rng(0)
    sizes = (30, 3000, 400, 400, 3000)  # two clusters, noise around each, noise far away
    centres = np.repeat([[0.0] * DIM, [50.0] * DIM, [0.0] * DIM, [50.0] * DIM, [500.0] * DIM], sizes, axis=0)
    spread = np.repeat([1.0, 1.0, 1.1, 1.1, 30.0], sizes)[:, None]
    z = (centres + spread * draw.normal(size=centres.shape)).astype(np.float16).astype(np.float32)
    part = np.repeat(range(5), sizes)
    labels = np.where(part < 2, part, -1)
    config = AtlasConfig(reference_points=683)
    kept = kept_rows(z, labels, np.ones(len(z)), np.full(len(z), -1), config, fewest=30)
    rate = np.bincount(part[kept.rows], minlength=5) / np.bincount(part)
    assert rate[0] == 1
    assert rate[2] > 0.95
    np.testing.assert_allclose(rate[[1, 3, 4]], 0.1, atol=0.03)
    again = kept_rows(z, labels, np.ones(len(z)), np.full(len(z), -1), config, fewest=30)
    assert np.array_equal(kept.rows, again.rows)
    other = config.model_copy(update={"seed": 1})
    assert not np.array_equal(kept.rows, kept_rows(z, labels, np.ones(len(z)), part * 0, other, fewest=30).rows)


def test_each_head_has_points_of_its_own():
    """A head with few rows keeps all of them, however many others have."""
    draw = np.random.default_rng(0)
    heads = np.repeat([3, 5, 9], [2000, 100, 400])
    z = draw.normal(size=(len(heads), DIM))
    labels = np.repeat([0, 1, 2], [2000, 100, 400])
    kept = kept_rows(z, labels, np.ones(len(z)), heads, AtlasConfig(reference_points=200), fewest=30)
    assert np.bincount(heads[kept.rows])[[3, 5, 9]].tolist() == [200, 100, 200]


def test_members_are_as_far_apart_as_a_sample_of_all_is_not_the_first():
    """A cluster whose first rows lie in one point: these alone would make its radius tiny."""
    draw = np.random.default_rng(0)
    z = np.concatenate([0.01 * draw.normal(size=(1000, DIM)), 10 * draw.normal(size=(4000, DIM))])
    labels = np.zeros(5000, np.int64)
    radii = [
        kept_rows(z, labels, np.ones(5000), labels, AtlasConfig(reference_points=500, seed=seed), 30).radii[0]
        for seed in (0, 0, 1)
    ]
    assert radii[0] == radii[1] != radii[2]
    rows = kept_rows(z, labels, np.ones(5000), labels, AtlasConfig(reference_points=500), 30).rows
    others = np.setdiff1d(np.arange(5000), rows)
    truth = 2 * np.quantile(pairwise_distances(z[others], z[rows], metric="manhattan").min(1), 0.95)
    assert radii[0] == pytest.approx(truth, rel=0.3)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=30), st.booleans())
def test_equal_rows_of_one_head_are_one(pairs, half):
    heads = np.array([head for head, _ in pairs])
    z = np.array([[value, -value] for _, value in pairs], np.float16 if half else np.float32)
    first, counts = distinct_rows(z, heads)
    wanted = {}
    for row, pair in enumerate(pairs):
        wanted.setdefault(pair, []).append(row)
    assert first.tolist() == [rows[0] for rows in wanted.values()]
    assert counts.tolist() == [len(rows) for rows in wanted.values()]
