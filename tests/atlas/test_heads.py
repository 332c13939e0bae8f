import os

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from apmae.artifacts import read_json, write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.clusterers import PaperClusterer
from apmae.atlas.heads import _FEW, PerHeadClusterer
from apmae.config import PRESETS, AtlasConfig
from apmae.errors import ArtifactError, ConfigError

DIM = 24
CONFIG = AtlasConfig(clusterer="per_head", min_cluster_size=8, min_samples=3)
SIZES = (30, 24)


def study(heads, seed=0):
    """Rows in random order of some heads, two blobs each; where they are, and the blob of each row. All heads' blobs
    are around the same two centres, so only the head tells them apart."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(2, DIM)) * 4
    kind = np.tile(np.repeat([0, 1], SIZES), heads)
    head = np.repeat(np.arange(heads), sum(SIZES))
    z = (centres[kind] + 0.2 * draw.normal(size=(len(kind), DIM))).astype(np.float32)
    order = draw.permutation(len(kind))
    return z[order], (head[order] // 4, head[order] % 4), kind[order], head[order]


@pytest.fixture(scope="module")
def few():
    return study(6)


@pytest.fixture(scope="module")
def fitted(few):
    z, where, _, _ = few
    return Atlas.fit(z, seed=0, where=where, config=CONFIG, prompts=np.arange(len(z)) % 10)


def test_heads_never_share_a_cluster(few, fitted):
    _, _, kind, head = few
    assert adjusted_rand_score(2 * head + kind, fitted.labels_) == 1
    for cluster in range(len(fitted.clusters)):
        assert len(set(head[fitted.labels_ == cluster].tolist())) == 1
    assert fitted.clusters["size"].to_pylist() == [30] * 6 + [24] * 6
    assert min(fitted.clusters["stability"].to_pylist()) > 0.9


def test_each_head_is_clustered_as_if_it_were_alone(few):
    z, where, _, head = few
    z = z.astype(np.float16).astype(np.float32)
    prompts = np.arange(len(z)) % 10
    found = PerHeadClusterer(CONFIG).fit(z, where, prompts)
    for one in range(6):
        rows = np.flatnonzero(head == one)
        alone = PaperClusterer(CONFIG).fit(z[rows], None, prompts[rows])
        assert adjusted_rand_score(alone.labels_, found.labels_[rows]) == 1
        assert np.array_equal(alone.labels_ == -1, found.labels_[rows] == -1)
        assert np.array_equal(alone.coordinates_, found.coordinates_[rows])
        assert np.array_equal(alone.nearest_distances_, found.nearest_distances_[rows])
        for label in set(alone.labels_.tolist()) - {-1}:
            (number,) = set(found.labels_[rows[alone.labels_ == label]].tolist())
            for name in ("stability_", "seed_stability_", "mean_distances_"):
                assert getattr(found, name)[number] == getattr(alone, name)[label], name


@pytest.mark.slow  # starting processes takes twenty seconds
def test_a_pool_gives_what_one_process_gives(monkeypatch):
    z, where, kind, head = study(_FEW)
    config = CONFIG.model_copy(update={"min_dist": 0.3})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    serial = PerHeadClusterer(config).fit(z, where)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    pool = PerHeadClusterer(config).fit(z, where)
    assert np.array_equal(pool.labels_, serial.labels_)
    assert adjusted_rand_score(2 * head + kind, pool.labels_) == 1
    assert np.array_equal(pool.nearest_distances_, serial.nearest_distances_)
    np.testing.assert_allclose(pool.stability_, serial.stability_)
    assert pool.dropped_ == serial.dropped_


def test_patterns_are_placed_in_clusters_of_their_own_head(few, fitted, tmp_path):
    z, where, kind, head = few
    placed = fitted.place(z, where=where)
    assert np.array_equal(placed.cluster, fitted.labels_)
    draw = np.random.default_rng(5)
    new = z + 0.05 * draw.normal(size=z.shape)
    other = (head + 1) % 6  # the same rows, said to be of the next head
    moved = fitted.place(new, where=(other // 4, other % 4))
    cluster = {(int(h), int(k)): int(c) for h, k, c in zip(head, kind, fitted.labels_, strict=True)}
    wanted = np.array([cluster[int(h), int(k)] for h, k in zip(other, kind, strict=True)])
    assert (moved.cluster == wanted).mean() > 0.95
    assert set(moved.cluster[moved.cluster != wanted].tolist()) <= {-1}
    for row in moved.nearest.tolist():
        assert len(set(row) - {-1}) <= 2, "a head has two clusters"
    fitted.save(tmp_path)
    assert np.array_equal(Atlas.load(tmp_path).place(z, where=where).cluster, placed.cluster)


def test_a_head_that_was_not_fitted_is_unknown(few, fitted):
    z = few[0][:9]
    placed = fitted.place(z, where=(np.full(9, 7), np.zeros(9, int)))
    assert (placed.cluster == -1).all()
    assert (placed.strength == 0).all()
    assert (placed.nearest == -1).all()
    assert np.isinf(placed.distances).all()
    both = fitted.place(np.concatenate([z, z]), where=tuple(np.append(part[:9], [9] * 9) for part in few[1]))
    assert np.array_equal(both.cluster[:9], fitted.labels_[:9])
    assert (both.cluster[9:] == -1).all()
    assert fitted.place(z[:0], where=([], [])).cluster.shape == (0,)


def test_heads_must_be_known(few, fitted, tmp_path):
    z, where, _, _ = few
    with pytest.raises(ConfigError, match=r"expected where=\(layer, head\) of each embedding .* got none; give it"):
        Atlas.fit(z, seed=0, config=CONFIG)
    with pytest.raises(ConfigError, match=r"expected where=\(layer, head\) for an atlas of clusters per head"):
        fitted.place(z)
    fitted.save(tmp_path)
    with pytest.raises(ConfigError, match="got none; give it"):
        Atlas.load(tmp_path).place(z)
    assert where[0].shape == (len(z),)


def test_a_head_with_few_rows_has_no_clusters_and_harms_no_other(few):
    z, where, kind, head = few
    rows = np.flatnonzero((head != 2) | (np.cumsum(head == 2) == 1))  # one row of head 2
    found = PerHeadClusterer(CONFIG).fit(z[rows], tuple(part[rows] for part in where))
    own = head[rows] != 2
    assert (found.labels_[~own] == -1).all()
    assert (~own).sum() == 1
    assert adjusted_rand_score((2 * head + kind)[rows][own], found.labels_[own]) == 1


def test_equal_rows_of_two_heads_are_in_two_clusters():
    z, where = np.ones((40, DIM)), (np.zeros(40, int), np.repeat([0, 1], 20))
    found = Atlas.fit(z, seed=0, where=where, config=CONFIG)
    assert sorted(found.clusters["size"].to_pylist()) == [20, 20]
    assert len(set(found.labels_[:20].tolist())) == len(set(found.labels_[20:].tolist())) == 1
    assert np.array_equal(found.place(z, where=where).cluster, found.labels_)


def test_a_study_larger_than_the_fit_is_placed_by_head(few):
    z, where, kind, head = few
    config = CONFIG.model_copy(update={"fit_points": 200, "min_cluster_size": 5})
    found = Atlas.fit(z, seed=0, where=where, config=config)
    assert found.fitted_ == 200
    known = found.labels_ >= 0
    assert known.mean() > 0.9
    assert adjusted_rand_score((2 * head + kind)[known], found.labels_[known]) == 1


def test_the_preset_is_the_published_notebooks(few):
    config = AtlasConfig(**PRESETS["per_head"])
    assert (config.dimensions, config.metric, config.neighbors, config.min_dist) == (8, "cosine", 20, 0.05)
    assert (config.min_samples, config.min_cluster_size) == (20, 25)
    z, where, _, head = few
    one = head == 0
    found = Atlas.fit(z[one], seed=0, where=tuple(part[one] for part in where), config=config)
    assert found.coordinates_.shape == (one.sum(), 8)


def test_heads_of_a_saved_atlas_that_do_not_fit_are_refused(fitted, tmp_path):
    from safetensors.numpy import load_file, save_file

    fitted.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    write_json(tmp_path / "atlas.json", {key: value for key, value in record.items() if key != "files"})
    tensors = load_file(tmp_path / "reference.safetensors")
    save_file({**tensors, "heads": tensors["heads"] * 0 - 1}, tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match="that fit its settings, .* is damaged; fit it again"):
        Atlas.load(tmp_path)
    save_file({**tensors, "heads": tensors["heads"][1:]}, tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match="its arrays or columns are of another; fit it again"):
        Atlas.load(tmp_path)
