import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from apmae.artifacts import read_json, write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import CLUSTERS, KINDS, SCORES

SIZES = (70, 60, 50, 40, 30)
DIM = 24


# -- fitting -----------------------------------------------------------------------------------------------------------


def test_planted_blobs_are_the_clusters(atlas, blobs):
    z, truth, _ = blobs
    assert adjusted_rand_score(truth, atlas.labels_) == 1
    assert atlas.labels_.shape == (len(z),)
    assert atlas.coordinates_.shape == (len(z), 4)
    assert atlas.clusters.schema.equals(CLUSTERS)
    assert atlas.clusters["size"].to_pylist() == sorted(SIZES, reverse=True)
    assert atlas.clusters["cluster"].to_pylist() == list(range(5))
    assert atlas.clusters["name"].to_pylist() == [f"cluster {number}" for number in range(5)]
    assert atlas.names[-1] == "unknown"


def test_the_same_seed_gives_the_same_atlas_and_rows_may_come_in_any_form(atlas, blobs):
    z = blobs[0]
    for same in (z, torch.from_numpy(z), z.astype(np.float32).tolist(), np.asfortranarray(z)):
        again = Atlas.fit(same, seed=0)
        assert np.array_equal(again.labels_, atlas.labels_)
        assert np.array_equal(again.coordinates_, atlas.coordinates_)
        assert again.clusters.equals(atlas.clusters)


def test_another_seed_moves_points_but_not_the_partition_and_is_kept(atlas, blobs):
    other = Atlas.fit(blobs[0], seed=np.int64(1))
    assert not np.array_equal(other.coordinates_, atlas.coordinates_)
    assert adjusted_rand_score(other.labels_, atlas.labels_) == 1
    assert (atlas.config.seed, other.config.seed) == (0, 1)
    assert Atlas.fit(blobs[0], config=AtlasConfig(seed=7)).config.seed == 7


def test_the_order_of_rows_does_not_change_what_belongs_together(atlas, blobs):
    order = np.random.default_rng(5).permutation(len(blobs[0]))
    assert adjusted_rand_score(Atlas.fit(blobs[0][order], seed=0).labels_, atlas.labels_[order]) == 1


def test_small_clusters_are_dropped_by_the_models_heads(blobs):
    z, truth, _ = blobs
    found = Atlas.fit(z, seed=0, num_heads=250, config=AtlasConfig(min_cluster_size=5))  # a floor of 35 members
    assert found.dropped == {"wide": 0, "small": 1}
    assert found.clusters["size"].to_pylist() == [70, 60, 50, 40]
    assert (found.labels_[truth == 4] == -1).all()


@pytest.mark.parametrize("copies", [20, 1000])
def test_equal_rows_are_one_cluster(copies):
    alone = Atlas.fit(np.ones((copies, DIM)), seed=0)
    assert alone.clusters["size"].to_pylist() == [copies]
    assert (alone.labels_ == 0).all()
    assert alone.clusters["mean_distance"].to_pylist() == [0.0]
    assert alone.place(np.ones((1, DIM))).cluster.tolist() == [0]
    assert alone.place(3 * np.ones((1, DIM))).cluster.tolist() == [-1]


def test_equal_rows_among_others_stay_together_and_come_back(blobs):
    z, truth, _ = blobs
    copies = np.tile(np.full(DIM, 30.0), (1000, 1))
    found = Atlas.fit(np.concatenate([z, copies]), seed=0)
    assert len(set(found.labels_[len(z) :].tolist())) == 1
    assert found.labels_[-1] == 0, "the largest"
    assert found.clusters["size"].to_pylist() == [1000, *SIZES]
    assert adjusted_rand_score(truth, found.labels_[: len(z)]) == 1
    assert np.array_equal(found.coordinates_[len(z)], found.coordinates_[-1])
    placed = found.place(copies[:1])
    assert (placed.cluster.tolist(), placed.strength.tolist()) == ([0], [1.0])
    assert found.place(copies[:1] + 1).cluster.tolist() == [-1]


def test_rows_that_differ_below_fp16_are_equal(blobs):
    z = blobs[0].astype(np.float16).astype(np.float64)
    assert np.array_equal(Atlas.fit(z, seed=0).labels_, Atlas.fit(z * (1 + 1e-7), seed=0).labels_)


@pytest.mark.parametrize(("rows", "dim"), [(2, 8), (3, 8), (6, 8), (7, 8), (14, 8), (15, 8), (16, 8), (40, 1), (40, 3)])
def test_few_rows_or_dimensions_fit_too(rows, dim):
    z = np.random.default_rng(rows).normal(size=(rows, dim))
    found = Atlas.fit(z, seed=0)
    assert found.labels_.shape == (rows,)
    assert np.isfinite(found.coordinates_).all()
    placed = found.place(z)
    assert placed.cluster.shape == placed.strength.shape == (rows,)
    assert set(placed.cluster.tolist()) <= set(range(-1, len(found.clusters)))


def test_if_all_is_noise_everything_is_unknown(tmp_path):
    z = np.random.default_rng(0).normal(size=(4, DIM))
    noise = Atlas.fit(z, seed=0)
    assert (noise.labels_ == -1).all()
    assert len(noise.clusters) == 0
    assert (noise.place(z).cluster == -1).all()
    noise.save(tmp_path)
    assert (Atlas.load(tmp_path).place(z).cluster == -1).all()


@pytest.mark.parametrize(
    ("z", "said"),
    [
        (np.zeros((1, 4)), "expected at least 2 embeddings to fit an atlas, got 1"),
        (np.zeros((0, 4)), "got 0; encode more prompts"),
        (np.zeros(4), r"expected embeddings of shape \(n, dim\), got \(4,\)"),
        (np.zeros((3, 4, 5)), r"got \(3, 4, 5\)"),
        (np.array([[0.0, np.nan], [1, 2], [np.inf, 0]]), "2 of 3 rows are not"),
        (np.array([[0.0, 1], [1e5, 2]]), "within 65504, fp16's range, got 100000"),
    ],
)
def test_embeddings_that_cannot_be_fitted_are_refused(z, said):
    with pytest.raises(ConfigError, match=said):
        Atlas.fit(z, seed=0)


def test_heads_are_accepted_and_change_no_cluster(atlas, blobs):
    z = blobs[0]
    where = (np.arange(len(z), dtype=np.int16) % 6, np.arange(len(z), dtype=np.int16) % 8)
    found = Atlas.fit(z, seed=0, where=where)
    assert np.array_equal(found.labels_, atlas.labels_)
    assert np.array_equal(found.coordinates_, atlas.coordinates_)
    with pytest.raises(ConfigError, match=r"one of each per embedding \(250\), got head of shape \(249,\)"):
        Atlas.fit(z, seed=0, where=(where[0], where[1][1:]))
    with pytest.raises(ConfigError, match="got layer of float64"):
        Atlas.fit(z, seed=0, where=(where[0] / 2, where[1]))


# -- names -------------------------------------------------------------------------------------------------------------


def measured(truth, behaviours):
    values = np.full((len(truth), len(SCORES)), 0.01, np.float32)
    values[:, SCORES.index("induction")] = np.nan  # not measurable on these prompts
    values[:, SCORES.index("uniform")] = 0.3
    for number, behaviour in enumerate(behaviours):
        values[truth == number, SCORES.index(behaviour)] = 0.9
    values[0] = np.nan  # one pattern on which nothing could be measured
    keys = np.zeros((len(truth), len(KINDS)), np.float32)
    keys[truth == 2, KINDS.index("semicolon")] = 0.5
    queries = np.zeros_like(keys)
    queries[truth == 1, KINDS.index("newline")] = 0.5
    return Measured(values, keys, queries)


def test_clusters_get_their_names_from_their_members_scores(blobs):
    z, truth, _ = blobs
    scores = measured(truth, ["first_token", "previous", "columns", "self", "duplicate"])
    found = Atlas.fit(z, seed=0, measured=scores)
    rows = {row["name"]: row for row in found.clusters.to_pylist()}
    assert [row["name"] for row in found.clusters.to_pylist()] == [
        "first-token sink",
        "previous token",
        "columns on ';'",
        "self",
        "duplicate token",
    ]
    assert rows["columns on ';'"]["looks_at"] == "';'"
    assert rows["previous token"]["looks_from"] == "newlines"
    assert rows["self"]["looks_at"] == ""
    assert all(row["score_induction"] is None for row in rows.values())
    assert rows["first-token sink"]["score_first_token"] == pytest.approx(0.9)
    assert found.names == {**{row["cluster"]: row["name"] for row in rows.values()}, -1: "unknown"}


def test_each_copy_counts_with_its_own_scores():
    z = np.concatenate([np.zeros((30, DIM)), np.ones((30, DIM))])
    truth = np.repeat([0, 1], 30)
    values = np.full((60, len(SCORES)), 0.01, np.float32)
    values[:14, SCORES.index("self")] = 0.95
    values[14:30, SCORES.index("previous")] = 0.95
    values[30:, SCORES.index("first_token")] = 0.9
    none = np.zeros((60, len(KINDS)), np.float32)
    found = Atlas.fit(z, seed=0, measured=Measured(values, none, none))
    assert adjusted_rand_score(truth, found.labels_) == 1
    row = found.clusters.to_pylist()[int(found.labels_[0])]
    assert row["score_self"] == pytest.approx((14 * 0.95 + 16 * 0.01) / 30, rel=1e-4)
    assert row["name"] == "previous token + self"


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_a_loaded_atlas_places_as_the_saved_one(atlas, blobs, tmp_path):
    draw = np.random.default_rng(2)
    z = np.concatenate([blobs[0], blobs[0] + draw.normal(size=blobs[0].shape)])
    names = atlas.save(tmp_path / "atlas")
    assert sorted(names) == sorted(path.name for path in (tmp_path / "atlas").iterdir())
    loaded = Atlas.load(tmp_path / "atlas")
    for ours, theirs in zip(loaded.place(z), atlas.place(z), strict=True):
        assert np.array_equal(ours, theirs)
    assert loaded.clusters.equals(atlas.clusters)
    assert (loaded.config, loaded.names, loaded.dropped) == (atlas.config, atlas.names, atlas.dropped)


def test_a_saved_atlas_is_the_same_bytes_twice_and_without_pickle(atlas, tmp_path):
    for name in atlas.save(tmp_path / "a") and atlas.save(tmp_path / "b"):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert data[:1] != b"\x80", "the first byte of every pickle since protocol 2"
    code = """
import pickle, sys
def refuse(*_, **__): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from apmae.atlas.atlas import Atlas
print(len(Atlas.load(sys.argv[1]).clusters), "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
    assert result.stdout.split() == ["5", "False"], result.stderr


@pytest.mark.parametrize("name", ["atlas.json", "clusters.parquet", "reference.safetensors"])
def test_a_damaged_or_missing_atlas_is_refused(atlas, tmp_path, name):
    with pytest.raises(ArtifactError, match="expected a JSON file"):
        Atlas.load(tmp_path / "nothing")
    atlas.save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError) as refused:
        Atlas.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
    path.unlink()
    with pytest.raises(ArtifactError):
        Atlas.load(tmp_path)


def test_an_atlas_of_another_version_is_refused(atlas, tmp_path):
    atlas.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    record["config"]["colour"] = "red"
    write_json(tmp_path / "atlas.json", record)
    with pytest.raises((ConfigError, ArtifactError), match="colour"):
        Atlas.load(tmp_path)
    (tmp_path / "atlas.json").write_text(json.dumps(["no", "atlas"]))
    with pytest.raises(ArtifactError):
        Atlas.load(tmp_path)


def test_an_atlas_from_before_encoders_were_noted_is_made_again(atlas, tmp_path):
    atlas.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    assert record.pop("encoder") is None, "bare arrays: the encoder was not given"
    write_json(tmp_path / "atlas.json", record)
    with pytest.raises(ArtifactError, match="an earlier version made this one; make it again .apmae cluster"):
        Atlas.load(tmp_path)


def test_an_encoder_is_known_by_its_fingerprint(blobs, tmp_path):
    fitted = Atlas.fit(blobs[0], seed=0, encoder="a" * 64)
    fitted.save(tmp_path)
    loaded = Atlas.load(tmp_path)
    loaded.expect_encoder("a" * 64)
    with pytest.raises(ConfigError, match=r"\(aaaaaaaaaaaa\), got another \(bbbbbbbbbbbb\)"):
        loaded.place(blobs[0], encoder="b" * 64)
    assert np.array_equal(loaded.place(blobs[0], encoder="a" * 64).cluster, fitted.place(blobs[0]).cluster)


def test_the_bundled_atlas_knows_named_clusters():
    bundled = Atlas.load()
    assert len(bundled.clusters) > 3
    assert isinstance(bundled.clusters, pa.Table)
    assert not any(name.startswith("cluster ") for name in bundled.clusters["name"].to_pylist())
