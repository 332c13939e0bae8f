import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from apmae.artifacts import read_json, write_json
from apmae.atlas import heads
from apmae.atlas.atlas import Atlas
from apmae.atlas.clusterers import PaperClusterer
from apmae.atlas.heads import _FEW, PerHeadClusterer, share_at_once
from apmae.atlas.names import Measured
from apmae.config import PRESETS, AtlasConfig
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import KINDS, SCORES

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


SCRIPT = """
import os
import sys
import numpy as np

os.sched_getaffinity = lambda _: {0, 1}
sys.path.insert(0, TESTS)
import test_heads
from apmae.atlas import clusterers
from apmae.atlas.heads import PerHeadClusterer

z, where, kind, head = test_heads.study(test_heads._FEW)
clusterers.PaperClusterer.fit = None  # this process fits nothing
found = PerHeadClusterer(test_heads.CONFIG).fit(z, where)
print("clusters", len(found.stability_))
"""


@pytest.mark.slow  # starting processes takes twenty seconds
@pytest.mark.parametrize("way", ["file", "standard input"])
def test_a_plain_script_fits_in_processes(tmp_path, way):
    """Without ``if __name__ == "__main__"``, from a file or from standard input."""
    path, text = tmp_path / "script.py", SCRIPT.replace("TESTS", repr(str(Path(__file__).parent)))
    path.write_text(text)
    command = [sys.executable, *(["-W", "error", str(path)] if way == "file" else ["-"])]
    done = subprocess.run(command, input=text if way != "file" else None, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["clusters", str(2 * _FEW)]


def test_a_process_that_may_start_no_others_fits_by_itself(monkeypatch):
    assert heads._workers() >= 1
    monkeypatch.setattr(heads, "current_process", lambda: SimpleNamespace(daemon=True))
    assert heads._workers() == 1


def test_heads_take_memory_one_at_a_time(monkeypatch):
    where = (np.zeros(1000, np.int64), np.repeat([0, 1, 2], [100, 300, 600]))
    monkeypatch.setattr(heads, "_workers", lambda: 1)
    assert share_at_once(where) == pytest.approx(0.6)
    monkeypatch.setattr(heads, "_workers", lambda: 8)
    assert share_at_once(where) == 1
    assert share_at_once(None) == 1


def test_an_extended_atlas_knows_variants_of_a_head_in_that_head_alone(few):
    z, where, kind, head = few
    found = Atlas.fit(z, seed=0, where=where, config=CONFIG)
    own = np.flatnonzero((head == 1) & (kind == 0))
    cluster, variants = found.labels_[own], z[own] + 30
    with pytest.raises(ConfigError, match=r"expected where=\(layer, head\) for an atlas of clusters per head"):
        found.extend(variants, cluster, found.coordinates_[own])
    other = (where[0][own], where[1][own] + 1)
    with pytest.raises(ConfigError, match=rf"rows of cluster {cluster[0]} to be of its head, 0.1, got one of 0.2"):
        found.extend(variants, cluster, found.coordinates_[own], where=other)
    there = tuple(part[own] for part in where)
    assert (found.place(variants, where=there).cluster == -1).all()
    found.extend(variants, cluster, found.coordinates_[own], where=there)
    assert (found.place(variants, where=there).cluster == cluster).all()
    assert (found.place(variants, where=other).cluster == -1).all()
    assert np.array_equal(found.place(z, where=where).cluster, found.labels_)


def test_clusters_per_head_compare_with_such_head_by_head(few, fitted, blobs, tmp_path):
    z, where, _, head = few
    turned = (head + 1) % 6
    again = Atlas.fit(z, seed=1, where=(turned // 4, turned % 4), config=CONFIG)
    found = fitted.compare(again)
    assert (found.table["overlap"].to_numpy() > 0.9).all(), "blobs of all heads are alike"
    heads_of = [{int(labels): int(of) for labels, of in zip(one.labels_, at, strict=True)}
                for one, at in ((fitted, head), (again, turned))]  # fmt: skip
    for cluster, match in zip(found.table["cluster"].to_pylist(), found.table["match"].to_pylist(), strict=True):
        assert heads_of[0][cluster] == heads_of[1][match]
    together = Atlas.fit(z, seed=0)
    for one, other, said in ((fitted, together, "per_head and stable"), (together, fitted, "stable and per_head")):
        with pytest.raises(ConfigError, match=f"per head or two of all heads together, got {said}; fit both in the s"):
            one.compare(other)
    empty = Atlas.load(fitted.save(tmp_path) and tmp_path)
    empty._reference = empty._reference._of_points(np.arange(0))
    assert (empty.compare(fitted).overlap == 0).all()


def test_clusters_of_heads_can_be_split_by_kind():
    """What is left out joins a cluster of its own head: another head's is nearer."""
    draw = np.random.default_rng(0)
    z, where, kind, head = study(2)
    values = np.zeros((len(z), len(SCORES)), np.float32)
    values[:, 0] = 1
    measured = Measured(values, *np.zeros((2, len(z), len(KINDS)), np.float32))
    z = z + np.where(head == 1, 3, 0)[:, None]
    far = draw.choice(np.flatnonzero(head == 0), 5, replace=False)
    z[far] = z[np.flatnonzero(head == 1)[:5]]
    config = CONFIG.model_copy(update={"by_kind": True})
    found = Atlas.fit(z, seed=0, where=where, config=config, measured=measured)
    for cluster in range(len(found.clusters)):
        assert len(set(head[found.labels_ == cluster].tolist())) == 1
    assert np.array_equal(found.place(z, where=where).cluster >= 0, found.labels_ >= 0)


def test_a_head_that_was_not_fitted_is_unknown(few, fitted):
    z = few[0][:9]
    placed = fitted.place(z, where=(np.full(9, 7), np.zeros(9, int)))
    assert (placed.cluster == -1).all()
    assert (placed.reason == "head").all()
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
