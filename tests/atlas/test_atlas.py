import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from apmae.artifacts import read_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
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
    config = AtlasConfig(clusterer="paper", min_cluster_size=5)
    found = Atlas.fit(z, seed=0, num_heads=250, config=config)  # a floor of 35 members
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


# -- the gate ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(blobs):
    """Rows of the blobs with others between them that fail the gate: z, which pass, and the rows of each kind."""
    own = blobs[0]
    passing = np.ones(len(own) + 40, bool)
    passing[np.random.default_rng(3).permutation(len(passing))[:40]] = False
    z = np.empty((len(passing), DIM))
    z[passing] = own
    z[~passing] = own[:40] + 0.1 * np.random.default_rng(4).normal(size=(40, DIM))  # in the middle of a cluster
    return z, passing


def test_rows_that_fail_the_gate_are_in_no_cluster_and_the_fit_does_not_see_them(atlas, mixed):
    z, passing = mixed
    found = Atlas.fit(z, seed=0, structured=passing)
    assert (found.labels_[~passing] == -1).all()
    assert np.array_equal(found.labels_[passing], atlas.labels_)
    assert np.array_equal(found.coordinates_[passing], atlas.coordinates_)
    assert found.clusters.equals(atlas.clusters), "sizes and distances are of rows that pass"
    assert (found.unstructured_, atlas.unstructured_) == (40, 0)
    assert np.array_equal(found.coordinates_[~passing], atlas.place(z[~passing]).coordinates), "near what is like them"
    for ours, theirs in zip(found.place(z), atlas.place(z), strict=True):
        assert np.array_equal(ours, theirs), "they are not in the reference either"


def test_names_come_from_rows_that_pass(blobs, mixed):
    (_, truth, _), (z, passing) = blobs, mixed
    behaviours = ["first_token", "previous", "columns", "self", "duplicate"]
    own = measured(truth, behaviours)
    misleading = Measured(*(np.full((len(z), part.shape[1]), 0.99, np.float32) for part in own))
    for whole, part in zip(misleading, own, strict=True):
        whole[passing] = part
    found = Atlas.fit(z, seed=0, measured=misleading, structured=passing)
    assert found.clusters.equals(Atlas.fit(z[passing], seed=0, measured=own).clusters)


def test_how_many_rows_failed_is_saved(mixed, tmp_path):
    z, passing = mixed
    Atlas.fit(z, seed=0, structured=torch.from_numpy(passing)).save(tmp_path)
    assert read_json(tmp_path / "atlas.json")["unstructured"] == 40
    assert Atlas.load(tmp_path).unstructured_ == 40


@pytest.mark.parametrize(
    ("structured", "found"),
    [
        (np.ones(249, bool), r"\(250\), got bool of shape \(249,\)"),
        (np.ones((250, 1), bool), r"got bool of shape \(250, 1\)"),
        (np.ones(250, int), r"got int64 of shape \(250,\)"),
        (np.full(250, 9.5), r"got float64 of shape \(250,\)"),
        (True, r"got bool of shape \(\)"),
    ],
)
def test_what_passes_is_one_boolean_per_row(atlas, blobs, structured, found):
    said = f"expected structured to hold one boolean per embedding.*{found}"
    with pytest.raises(ConfigError, match=said):
        Atlas.fit(blobs[0], seed=0, structured=structured)
    with pytest.raises(ConfigError, match=said):
        atlas.place(blobs[0], structured=structured)


@pytest.mark.parametrize("passing", [0, 1, 2])
def test_two_rows_must_pass(passing):
    z, structured = np.random.default_rng(0).normal(size=(30, DIM)), np.arange(30) < passing
    if passing < 2:
        with pytest.raises(ConfigError, match=f"at least 2 patterns with structure .* got {passing} of 30"):
            Atlas.fit(z, seed=0, structured=structured)
    else:
        assert Atlas.fit(z, seed=0, structured=structured).unstructured_ == 28


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
    assert (row["name"], row["kinds"]) == ("mixed", ["mixed"]), "neither is true for nine in ten"
    assert (row["true_share"], row["confidence"]) == (1, 1), "it claims nothing"
