import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from apmae.atlas.atlas import Atlas
from apmae.atlas.place import Reference
from apmae.atlas.search import Search
from apmae.atlas.vote import VOTERS
from apmae.config import AtlasConfig
from apmae.errors import ConfigError

SIZES = (70, 60, 50, 40, 30)
DIM = 24


def test_members_come_back_to_their_cluster(atlas, blobs):
    placed = atlas.place(blobs[0])
    assert np.array_equal(placed.cluster, atlas.labels_)
    assert (placed.strength > 0.5).all()
    assert (placed.strength <= 1 + 1e-6).all()
    spread = np.linalg.norm(atlas.coordinates_ - atlas.coordinates_.mean(0), axis=1).mean()
    assert np.linalg.norm(placed.coordinates - atlas.coordinates_, axis=1).max() < spread


def test_new_patterns_of_a_cluster_are_placed_in_it(atlas, blobs):
    _, _, centres = blobs
    draw = np.random.default_rng(9)
    for number, centre in enumerate(centres):
        new = centre + 0.2 * draw.normal(size=(100, DIM))
        assert (atlas.place(new).cluster == number).mean() > 0.95


def test_far_patterns_are_unknown(atlas, blobs):
    _, _, centres = blobs
    draw = np.random.default_rng(9)
    far = centres[draw.integers(5, size=50)] + 3 * draw.normal(size=(50, DIM))
    assert (atlas.place(far).cluster == -1).all()
    between = (centres[:1] + centres[1:2]) / 2
    assert (atlas.place(between).cluster == -1).all()
    assert (atlas.place(np.full((2, DIM), 1e30)).cluster == -1).all(), "beyond fp16"


def test_a_place_depends_on_the_pattern_alone(atlas, blobs):
    z = blobs[0][::7]
    together = atlas.place(z)
    for row in range(len(z)):
        alone = atlas.place(z[row : row + 1])
        assert alone.cluster[0] == together.cluster[row]
        np.testing.assert_allclose(alone.strength[0], together.strength[row], rtol=1e-5)
    many = atlas.place(np.tile(z, (200, 1)))
    assert np.array_equal(many.cluster, np.tile(together.cluster, 200))


def test_nothing_to_place_is_placed_nowhere(atlas):
    placed = atlas.place(np.zeros((0, DIM)))
    assert [part.shape for part in placed] == [(0,), (0,), (0, 4), *[(0, 3)] * 5, (0,)]


@pytest.mark.parametrize(
    ("z", "said"),
    [
        (np.zeros((2, DIM - 1)), f"expected embeddings of {DIM} dimensions, .* got {DIM - 1}; use its encoder"),
        (np.full((2, DIM), np.nan), "2 of 2 rows are not"),
        (np.zeros(DIM), r"expected embeddings of shape \(n, dim\)"),
    ],
)
def test_embeddings_that_cannot_be_placed_are_refused(atlas, z, said):
    with pytest.raises(ConfigError, match=said):
        atlas.place(z)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 20))
def test_any_placement_is_a_known_cluster_with_a_share(atlas, seed, scale):
    z = scale * np.random.default_rng(seed).normal(size=(9, DIM))
    placed = atlas.place(z)
    assert set(placed.cluster.tolist()) <= set(range(-1, len(atlas.clusters)))
    assert ((placed.strength > 0) & (placed.strength <= 1 + 1e-6)).all()
    assert (placed.strength[placed.cluster >= 0] >= 0.5).all()
    low, high = atlas.coordinates_.min(0), atlas.coordinates_.max(0)
    assert ((placed.coordinates >= low - 1e-4) & (placed.coordinates <= high + 1e-4)).all(), "a mean of fitted points"


@pytest.mark.parametrize("metric", ["manhattan", "euclidean", "cosine"])
def test_a_study_larger_than_the_reference_places_its_members_too(plant, metric):
    z, truth, _ = plant(sizes=(500, 400, 60))
    config = AtlasConfig(reference_points=150, metric=metric)
    found = Atlas.fit(z, config=config, seed=0)
    assert adjusted_rand_score(truth, found.labels_) == 1
    kept = found._reference.labels
    assert 150 <= len(kept) <= 150 + 3 * 2 * VOTERS
    assert np.bincount(kept).min() >= VOTERS, "a small cluster keeps enough to win a vote"
    assert (found.place(z).cluster == found.labels_).mean() > 0.95
    assert (found.place(z + 10 * np.random.default_rng(0).normal(size=z.shape)).cluster == -1).mean() > 0.95


def test_a_sparse_reference_still_knows_the_members_it_leaves_out():
    # Two sheets. One in 16 points is kept, so the nearest kept point is four times as far away as the nearest point.
    draw = np.random.default_rng(0)
    axes = np.linalg.qr(draw.normal(size=(DIM, 2)))[0].T
    sheet = draw.uniform(-1, 1, size=(1600, 2)) @ axes
    sheet[800:] += 20
    # By the paper's clusterer: a uniform sheet may be cut anywhere, and the stable one does where both halves agree.
    config = AtlasConfig(clusterer="paper", reference_points=100, max_mean_distance=100)
    found = Atlas.fit(sheet, config=config, seed=0)
    assert adjusted_rand_score(np.repeat([0, 1], 800), found.labels_) == 1
    assert len(found._reference.labels) < 200
    assert (found.place(sheet).cluster == found.labels_).mean() > 0.9
    assert (found.place(sheet + 5).cluster == -1).all()


def test_a_pattern_is_unknown_if_no_cluster_wins_however_near(blobs):
    z = blobs[0]
    found = Atlas.fit(z, seed=0)
    place = np.full(DIM, -40.0)
    three = np.repeat([0, 1, 2], 5)
    found.extend(place + 0.01 * np.random.default_rng(0).normal(size=(15, DIM)), three, np.zeros((15, 4)))
    placed = found.place(place[None])
    assert placed.strength[0] == pytest.approx(1 / 3, abs=0.05)
    assert placed.cluster.tolist() == [-1]
    found.extend(place + 0.01 * np.random.default_rng(1).normal(size=(15, DIM)), three * 0 + 2, np.zeros((15, 4)))
    assert found.place(place[None]).cluster.tolist() == [2]


def test_heads_are_accepted_and_change_no_place(atlas, blobs):
    z = blobs[0]
    where = (np.arange(len(z)) % 6, np.arange(len(z)) % 8)
    for ours, theirs in zip(atlas.place(z, where=where), atlas.place(z), strict=True):
        assert np.array_equal(ours, theirs)
    assert atlas.place(np.zeros((0, DIM)), where=([], [])).cluster.shape == (0,)
    with pytest.raises(ConfigError, match=r"one of each per embedding \(3\), got layer of shape \(2,\)"):
        atlas.place(z[:3], where=([0, 1], [0, 1]))
    with pytest.raises(ConfigError, match="got head of float64"):
        atlas.place(z[:2], where=([0, 1], [0.0, 1.0]))


def test_copies_are_known_within_half_the_usual_distance(blobs):
    z, _, _ = blobs
    found = Atlas.fit(np.concatenate([z, np.tile(np.full(DIM, 30.0), (1000, 1))]), seed=0)
    step = np.zeros((1, DIM))
    for share, cluster in ((0.45, 0), (0.55, -1)):  # in Manhattan distance
        step[0, 0] = share * float(found._reference.scale[0])
        assert found.place(30 + step).cluster.tolist() == [cluster]


def test_without_noise_clusters_alone_vote_and_radii_decide(blobs):
    z = blobs[0]
    found = Atlas.fit(z, seed=0)
    near = z[:1] + 0.3
    found.extend(np.repeat(near, 20, 0) + 0.001 * np.random.default_rng(0).normal(size=(20, DIM)),
                 np.full(20, -1), np.zeros((20, 4)))  # fmt: skip
    assert found.place(near).cluster.tolist() == [-1]
    found._reference = found._reference.without_noise()
    assert found.place(near).cluster.tolist() == found.labels_[:1].tolist()
    assert found.place(near + 1000).cluster.tolist() == [-1]


def reference(embeddings, labels, radii):
    points = np.array(embeddings, np.float16)
    return Reference(
        embeddings=points,
        labels=np.array(labels, np.int32),
        counts=np.ones(len(points), np.int64),
        coordinates=np.zeros((len(points), 4), np.float32),
        radii=np.array(radii, np.float32),
        heads=np.full(len(points), -1, np.int32),
        origin=np.arange(len(points)),
        scale=np.ones(1, np.float32),
    )


def test_the_distance_that_counts_is_to_the_cluster_that_wins():
    near, rest = [1.0, 0.0], [[2.0, 0.1 * i] for i in range(5)]
    for radius, cluster in ((0.5, -1), (2.5, 0)):
        points = reference([near, *rest], [1] + [0] * 5, [100] + [radius] * 5)
        placed = points.place(np.zeros((1, 2), np.float32), "euclidean")
        assert placed.cluster.tolist() == [cluster]
        assert placed.strength[0] == pytest.approx(0.76, abs=0.02)


def test_the_points_that_are_kept_follow_from_the_seed():
    z = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float16).astype(np.float32)
    given = (z, np.arange(300) % 3, np.zeros((300, 4), np.float32), np.ones(300))
    kept = [Reference.of(*given, AtlasConfig(reference_points=100, seed=seed)).embeddings for seed in (0, 0, 1)]
    assert np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


# -- the nearest clusters ----------------------------------------------------------------------------------------------


def nearest_by_loops(points, row, metric):
    """The clusters among the 15 points nearest to a row and how many of their radii away they are, nearest first."""
    measure = {
        "manhattan": lambda gap: float(np.abs(gap).sum()),
        "euclidean": lambda gap: float(np.sqrt((gap**2).sum())),
    }
    apart = [measure[metric](row - point) for point in points.embeddings.astype(np.float64)]
    found = {}
    for number in sorted(range(len(apart)), key=lambda number: apart[number])[:15]:
        label = int(points.labels[number])
        if label != -1:
            found.setdefault(label, apart[number] / float(points.radii[number]))
    return sorted(found.items(), key=lambda pair: pair[1])[:3]


@pytest.mark.parametrize("metric", ["manhattan", "euclidean"])
@pytest.mark.parametrize("clusters", [0, 1, 2, 3, 6])
def test_the_nearest_clusters_are_those_of_plain_loops(metric, clusters):
    draw = np.random.default_rng(clusters)
    labels = draw.integers(-1, clusters, size=60)
    radii = np.append(draw.uniform(0.2, 3, size=clusters), -1.0)[labels]  # the last is that of noise
    points = reference(draw.normal(size=(60, 3)), labels, radii)
    z = draw.normal(size=(80, 3)).astype(np.float16).astype(np.float32)
    placed = points.place(z, metric)
    counts = set()
    for row, (nearest, distances) in enumerate(zip(placed.nearest, placed.distances, strict=True)):
        wanted = nearest_by_loops(points, z[row].astype(np.float64), metric)
        counts.add(len(wanted))
        rest = 3 - len(wanted)
        assert nearest.tolist() == [label for label, _ in wanted] + [-1] * rest
        np.testing.assert_allclose(distances, [far for _, far in wanted] + [np.inf] * rest, rtol=1e-5)
    assert max(counts) == min(clusters, 3)


def test_near_means_in_radii_of_the_cluster():
    points = reference([[1.0, 0], [2.0, 0], [0, 9.0]], [0, 1, -1], [0.5, 4.0, -1.0])
    placed = points.place(np.zeros((1, 2), np.float32), "manhattan")
    assert placed.nearest.tolist() == [[1, 0, -1]]
    assert placed.distances.tolist() == [[0.5, 2.0, np.inf]]


def test_what_is_in_a_cluster_is_within_its_radius(atlas, blobs):
    z = blobs[0] + np.random.default_rng(1).normal(size=blobs[0].shape) * np.linspace(0, 1.5, len(blobs[0]))[:, None]
    placed = atlas.place(z)
    known = placed.cluster >= 0
    assert 50 < known.sum() < 200
    assert np.array_equal(placed.nearest[known, 0], placed.cluster[known])
    assert (placed.distances[known, 0] <= 1).all()
    alone = (placed.nearest[:, 1] == -1) & ~known  # all 15 points are of one cluster, which wins: too far from it
    assert alone.any() and (placed.distances[alone, 0] > 1).all()


def test_what_fails_the_gate_is_never_placed(atlas, blobs):
    z, passing = blobs[0], np.arange(len(blobs[0])) % 3 > 0
    whole, gated = atlas.place(z), atlas.place(z, structured=passing)
    assert (whole.cluster >= 0).all()
    assert np.array_equal(gated.cluster, np.where(passing, whole.cluster, -1))
    for name in ("strength", "coordinates", "nearest", "distances"):
        assert np.array_equal(getattr(gated, name), getattr(whole, name)), "what it resembles is still said"


def test_for_unseen_models_all_points_vote_and_a_true_cluster_has_to_be_of_the_winner():
    """Twenty points, 9 of cluster 0 and 11 of cluster 1; 15 vote."""
    z = np.zeros((20, 20), np.float16)
    np.fill_diagonal(z, 1)
    reference = Reference(
        embeddings=z,
        labels=np.repeat([0, 1], [9, 11]).astype(np.int32),
        counts=np.ones(20, np.int64),
        coordinates=np.zeros((20, 2), np.float32),
        radii=np.full(20, 9, np.float32),
        heads=np.full(20, -1, np.int32),
        origin=np.arange(20),
        scale=np.ones(1, np.float32),
    )
    only = {number: np.arange(2)[None] == number for number in (0, 1)}
    row = np.zeros((1, 20), np.float16)
    row[0, 10:19] = 0.1  # nearer to nine points of cluster 1: it wins 9 of 15 votes or a little more
    share = float(reference.place(row, "manhattan").strength[0])
    assert 0.6 < share < 0.7
    assert reference.place(row, "manhattan").cluster.tolist() == [1]
    assert reference.place(row, "manhattan", unseen=True).cluster.tolist() == [-1], "under 0.7"
    assert reference.place(row, "manhattan", true=only[1], unseen=True).cluster.tolist() == [1], "its scores agree"
    assert reference.place(row, "manhattan", true=only[0], unseen=True).cluster.tolist() == [-1], "they do not"
    assert reference.place(row, "manhattan", true=only[0]).cluster.tolist() == [0], "cluster 1 has no vote"
    alike = np.zeros(2, np.int64)  # two clusters of one behaviour: the true one of the two
    assert reference.place(row, "manhattan", None, alike, only[0], unseen=True).cluster.tolist() == [0]


def test_an_atlas_without_points_knows_nothing(blobs, tmp_path):
    z = blobs[0][:20]
    found = Atlas.fit(np.random.default_rng(0).normal(size=(40, DIM)), seed=0)
    found._reference = found._reference._of_points(np.arange(0))
    found.save(tmp_path)
    for empty in (found, Atlas.load(tmp_path)):
        placed = empty.place(z)
        assert (placed.cluster == -1).all() and (placed.reason == "vote").all()
        assert (placed.nearest == -1).all() and (placed.strength == 0).all()
        assert len(empty.compare(empty).table) == len(empty.clusters)


def test_the_search_is_prepared_once_and_again_after_an_extension(blobs, monkeypatch):
    found, z = Atlas.fit(blobs[0], seed=0), blobs[0][:9]
    made, prepare = [], Search.__init__
    monkeypatch.setattr(Search, "__init__", lambda *given: made.append(1) or prepare(*given))
    first = found.place(z)
    for ours, theirs in zip(found.place(z), first, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(made) == 1
    found.extend(np.full((20, DIM), -40.0), [1] * 20, np.zeros((20, 4)))
    assert found.place(np.full((1, DIM), -40.0)).cluster.tolist() == [1]
    assert len(made) == 2


# -- why a pattern is in no cluster ------------------------------------------------------------------------------------


def test_each_reason_is_what_keeps_a_row_out():
    """Two clusters and noise on a line, and rows for which it is plain what happens."""
    points = reference([[x] for x in (*range(20), *range(100, 120), *range(200, 220))], np.repeat([0, 1, -1], 20),
                       np.repeat([5.0, 5.0, -1.0], 20))  # fmt: skip
    z = np.array([[10], [-9], [110], [210], [60]], np.float32)
    placed = points.place(z, "manhattan")
    assert placed.cluster.tolist() == [0, -1, 1, -1, -1]
    assert placed.reason.tolist() == ["", "far", "", "vote", "far"], "half way the vote of 0 or 1 wins by a hair"
    only = np.tile([True, False], (5, 1))
    for unseen in (False, True):
        placed = points.place(z, "manhattan", true=only, unseen=unseen)
        assert placed.cluster.tolist() == [0, -1, -1, -1, -1]
        assert placed.reason.tolist() == ["", "far", "name", "vote", "far"], "its nearest points alone say 1 of 110"
        placed = points.place(z, "manhattan", true=np.zeros((5, 2), bool), unseen=unseen)
        assert placed.reason.tolist() == ["name", "far", "name", "vote", "far"]


def test_reasons_go_with_clusters(atlas, blobs):
    z = blobs[0] + np.random.default_rng(1).normal(size=blobs[0].shape) * np.linspace(0, 3, len(blobs[0]))[:, None]
    passing = np.arange(len(z)) % 7 > 0
    placed = atlas.place(z, structured=passing)
    assert np.array_equal(placed.reason == "", placed.cluster >= 0)
    assert np.array_equal(placed.reason == "structure", ~passing)
    far = placed.reason == "far"
    assert far.any() and (placed.distances[far, 0] > 1).any()
