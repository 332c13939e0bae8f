import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from apmae.atlas import members
from apmae.atlas.atlas import Atlas
from apmae.errors import ConfigError


def is_corner(places, row):
    """Whether a point is no mixture of the others, by a linear program."""
    others = np.delete(places, row, 0)
    others = others[(others != places[row]).any(1)]
    if not len(others):
        return True
    equal = np.vstack([others.T, np.ones(len(others))])
    return linprog(np.zeros(len(others)), A_eq=equal, b_eq=[*places[row], 1]).status == 2


# -- medoids -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5))
@settings(max_examples=30)
def test_a_medoid_has_the_least_total_distance_by_loops(seed, rows, width):
    draw = np.random.default_rng(seed)
    places, labels = draw.normal(size=(rows, width)), draw.integers(-1, 4, rows)
    found = members.medoids(places, labels)
    assert list(found) == sorted(set(labels.tolist()) - {-1})
    for cluster, row in found.items():
        own = np.flatnonzero(labels == cluster)
        totals = [sum(np.linalg.norm(places[i] - places[j]) for j in own) for i in own]
        assert labels[row] == cluster
        assert totals[own.tolist().index(row)] == pytest.approx(min(totals))


def test_the_medoid_of_a_ring_is_on_it_and_of_equal_members_the_first():
    angle = np.linspace(0, np.pi, 21)
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert members.medoids(arc, np.zeros(21, int)) == {0: 10}
    assert members.medoids(np.ones((5, 2)), np.array([-1, 3, 3, -1, 3])) == {3: 1}


def test_a_large_cluster_has_the_medoid_of_a_sample_that_the_seed_decides():
    draw = np.random.default_rng(0)
    places, labels = draw.normal(size=(9000, 2)), np.zeros(9000, int)
    found = [members.medoids(places, labels, seed)[0] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for row in found:
        assert np.linalg.norm(places[row]) < 0.15  # where the density is largest; half of the rows are beyond 1.18


# -- exemplars ---------------------------------------------------------------------------------------------------------


def test_exemplars_go_from_the_centre_to_the_edge_in_equal_parts():
    draw = np.random.default_rng(0)
    places, labels = draw.normal(size=(401, 3)), np.repeat([0, -1, 1], [201, 100, 100])
    found = members.exemplars(places, labels, 5)
    assert list(found) == [0, 1]
    for cluster, rows in found.items():
        assert rows[0] == members.medoids(places, labels)[cluster]
        own = np.flatnonzero(labels == cluster)
        far = np.linalg.norm(places - places[rows[0]], axis=1)
        rank = {row: place for place, row in enumerate(own[np.argsort(far[own])])}  # 0 for the medoid
        assert [(rank[row] - 1) * 4 // (len(own) - 1) for row in rows[1:]] == [0, 1, 2, 3]
        assert (np.diff(far[rows]) > 0).all()
    assert not np.array_equal(found[0], members.exemplars(places, labels, 5, seed=1)[0])
    np.testing.assert_array_equal(found[0], members.exemplars(places, labels, 5)[0])


def test_a_small_cluster_gives_all_of_its_members_outward():
    places = np.array([[4.0], [0.0], [1.0], [9.0], [-2.0], [50.0]])
    labels = np.array([0, 0, 0, 0, 0, 1])
    found = members.exemplars(places, labels, 9)
    assert found[0].tolist() == [2, 1, 4, 0, 3] or found[0].tolist() == [2, 1, 0, 4, 3]  # 4 and -2 are as far from 1
    assert found[1].tolist() == [5]
    assert members.exemplars(places, labels, 1)[0].tolist() == [2]


# -- hull --------------------------------------------------------------------------------------------------------------


def test_the_hull_of_a_cube_is_its_corners():
    draw = np.random.default_rng(0)
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    places = np.concatenate([draw.uniform(0.1, 0.9, (50, 3)), corners, draw.normal(size=(20, 3)) * 9])
    labels = np.repeat([2, 2, -1], [50, 8, 20])
    assert sorted(members.hull(places, labels, 2, 20)) == list(range(50, 58))
    two = places[members.hull(places, labels, 2, 2)]
    assert np.linalg.norm(two[0] - two[1]) == pytest.approx(3**0.5)  # opposite


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 4))
@settings(max_examples=30)
def test_all_that_is_shown_of_a_hull_is_a_corner(seed, rows, width):
    places = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    found = members.hull(places, np.zeros(rows, int), 0, rows)
    assert len(set(found.tolist())) == len(found)
    assert sorted(found.tolist()) == [row for row in range(rows) if is_corner(places.astype(float), row)]


def test_each_next_corner_is_the_furthest_from_those_before():
    places = np.random.default_rng(1).normal(size=(80, 3))
    every = members.hull(places, np.zeros(80, int), 0, 80)
    rows = members.hull(places, np.zeros(80, int), 0, 5)
    assert rows.tolist() == every[:5].tolist()
    assert rows[0] == np.linalg.norm(places - places.mean(0), axis=1).argmax()
    for number in range(1, 5):
        gap = {row: min(np.linalg.norm(places[row] - places[other]) for other in rows[:number]) for row in every}
        assert gap[rows[number]] == pytest.approx(max(gap.values()))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_flat_clusters_have_the_hull_of_their_plane_line_or_point(offset):
    draw = np.random.default_rng(0)
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    plane = np.concatenate([square, draw.uniform(0.2, 0.8, (30, 2))]) @ draw.normal(size=(2, 4)) * 5
    line = np.linspace(0, 1, 9)[draw.permutation(9), None] * np.ones((1, 4))
    labels = np.repeat([0, 1, 2, 3], [34, 9, 5, 1])
    places = np.concatenate([plane, line, np.ones((5, 4)), np.zeros((1, 4))]) + offset
    assert sorted(members.hull(places, labels, 0)) == [0, 1, 2, 3]
    ends = members.hull(places, labels, 1)
    assert sorted(places[ends][:, 0] - offset) == pytest.approx([0, 1])
    assert members.hull(places, labels, 2).tolist() == [43]
    assert members.hull(places, labels, 3).tolist() == [48]


def test_a_hull_of_many_dimensions_is_that_of_the_widest_four():
    draw = np.random.default_rng(0)
    corners = np.array(list(itertools.product([-9.0, 9.0], repeat=4)))
    places = np.concatenate([draw.uniform(-8, 8, (3000, 4)), corners])
    places = np.concatenate([places, draw.uniform(-1, 1, (len(places), 4))], 1)
    rotation = np.linalg.qr(draw.normal(size=(8, 8)))[0]
    found = members.hull(places @ rotation, np.zeros(len(places), int), 0, 16)
    assert (np.abs(places[found, :4]).min(1) > 7).all()  # each near another corner
    assert len({tuple(np.sign(places[row, :4])) for row in found}) == 16


# -- refused, and on an atlas ------------------------------------------------------------------------------------------


def test_mistakes_are_refused():
    places, labels = np.zeros((4, 2)), np.array([0, 0, 1, -1])
    for wrong in (labels[1:], labels[:, None], labels.astype(float)):
        with pytest.raises(ConfigError, match="expected a label for each of 4 rows, integers, got"):
            members.medoids(places, wrong)
    for wrong in (places[0], places + np.nan, [["a", "b"]] * 4):
        with pytest.raises(ConfigError, match=r"expected finite coordinates of shape \(n, r\), floats, got"):
            members.hull(wrong, labels, 0)
    for call in (lambda: members.exemplars(places, labels, 0), lambda: members.hull(places, labels, 0, 0)):
        with pytest.raises(ConfigError, match="expected a count of at least 1, got 0"):
            call()
    with pytest.raises(ConfigError, match="expected one of 0-1, got cluster 2, of which there is no row"):
        members.hull(places, labels, 2)
    with pytest.raises(ConfigError, match="expected rows that are in a cluster, got cluster 0"):
        members.hull(places, np.full(4, -1), 0)
    assert members.medoids(places, np.full(4, -1)) == {}


def test_a_fitted_atlas_knows_its_members(atlas):
    assert list(atlas.medoids()) == list(range(5))
    for cluster, row in atlas.medoids().items():
        assert atlas.labels_[row] == cluster
        assert atlas.exemplars(3)[cluster][0] == row
        corners = atlas.hull(cluster, 4)
        assert (atlas.labels_[corners] == cluster).all()
        own = atlas.coordinates_[atlas.labels_ == cluster].astype(float)
        for corner in corners:
            assert is_corner(own, int((atlas.labels_[:corner] == cluster).sum()))


def test_a_loaded_atlas_says_where_its_rows_are(atlas, tmp_path):
    atlas.save(tmp_path)
    loaded = Atlas.load(tmp_path)
    for call in (loaded.medoids, loaded.exemplars, lambda: loaded.hull(0)):
        with pytest.raises(ConfigError, match=r"just fitted, .* points.parquet and call apmae.atlas.members.\w+\("):
            call()


def test_the_members_of_a_loaded_atlas_come_from_its_points(atlas):
    points = pa.table({"coordinates": list(atlas.coordinates_), "cluster": atlas.labels_.astype(np.int32)})
    assert members.medoids(points["coordinates"].to_pylist(), points["cluster"]) == atlas.medoids()
    np.testing.assert_array_equal(members.hull(points["coordinates"].to_pylist(), points["cluster"], 2), atlas.hull(2))
