import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import cdist

from apmae.atlas.atlas import Atlas
from apmae.atlas.compare import COMPARED, Fitted, compared
from apmae.atlas.names import named_clusters
from apmae.atlas.place import Reference
from apmae.config import AtlasConfig
from apmae.errors import ConfigError
from apmae.schema import CLUSTERS

COUNT = 60


def clusters(*sizes):
    names = [f"name {number}" for number in range(len(sizes))]
    none = [[]] * len(sizes)
    return pa.table(
        {
            "cluster": range(len(sizes)),
            "name": pa.array(names, pa.string()),
            "size": sizes,
            "kinds": pa.array(none, CLUSTERS.field("kinds").type),
            "qualifiers": pa.array(none, CLUSTERS.field("qualifiers").type),
        }
    )


def side(sizes, labels, placed, counts=None):
    counts = np.ones(len(labels), np.int64) if counts is None else np.array(counts)
    return Fitted(clusters(*sizes), np.array(labels), counts, np.array(placed))


def rows_around(centres, seed, spread=0.2):
    draw = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(centres)), COUNT)
    return centres[truth] + spread * draw.normal(size=(len(truth), centres.shape[1])), truth


@pytest.fixture(scope="module")
def centres():
    return np.random.default_rng(3).normal(size=(6, 24)) * 4


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_the_overlap_of_clusters_of_the_same_patterns_is_their_jaccard_index():
    draw = np.random.default_rng(0)
    first, second = draw.integers(-1, 4, 500), draw.integers(-1, 3, 500)
    found = compared(
        side((9, 9, 9, 9), first, second), side((9, 9, 9), second, first)
    )  # the same patterns: each atlas places a pattern where its own label says
    for i in range(4):
        for j in range(3):
            a, b = set(np.flatnonzero(first == i)), set(np.flatnonzero(second == j))
            assert found.overlap[i, j] == pytest.approx(len(a & b) / len(a | b))
            assert found.share[i, j] == pytest.approx(len(a & b) / len(a))
            assert found.share_back[i, j] == pytest.approx(len(a & b) / len(b))


def test_a_table_by_hand():
    # Cluster 0 of four patterns: three fall in cluster 1, one nowhere. All of cluster 1 comes back.
    first = side((40, 10), [0, 0, 0, 0, 1, 1], [1, 1, 1, -1, -1, -1])
    second = side((30, 20), [0, 0, 1, 1], [-1, -1, 0, 0])
    found = compared(first, second)
    assert found.table.schema.equals(COMPARED)
    matched, alone = found.table.to_pylist()
    assert matched == {
        "cluster": 0,
        "name": "name 0",
        "size": 40,
        "match": 1,
        "match_name": "name 1",
        "overlap": 0.75,  # 1 / (4/3 + 1 - 1)
        "share": 0.75,
        "share_back": 1.0,
        "mutual": True,
        "partner": 1,
        "partner_overlap": 0.75,
        "parts": [1],
    }
    assert (alone["match"], alone["match_name"], alone["partner"], alone["mutual"]) == (None, None, None, False)
    assert [alone[name] for name in ("overlap", "share", "share_back", "partner_overlap")] == [0, 0, 0, 0]
    assert (found.mean_overlap, found.mean_partner_overlap, found.matched_share) == (0.375, 0.375, 0.8)
    assert found.splits == {}


def test_a_point_counts_as_many_patterns_as_it_stands_for():
    found = compared(side((8,), [0, 0], [0, -1], counts=[6, 2]), side((1,), [0], [0]))
    assert found.share[0, 0] == 0.75


def test_shares_one_way_alone_are_no_overlap():
    found = compared(side((1,), [0], [0]), side((1,), [0], [-1]))
    assert found.table["match"].to_pylist() == [None]
    assert found.overlap.tolist() == [[0.0]]


def test_one_partner_each_with_the_largest_total():
    # Both clusters overlap most with 0: 1.0 and 0.6; one of them must take its second choice.
    first = side((5, 5), [0] * 10 + [1] * 10, [0] * 6 + [1] * 4 + [0] * 10)
    second = side((5, 5), [0] * 20 + [1] * 10, [0] * 10 + [1] * 10 + [0] * 10)
    found = compared(first, second)
    expected = np.array([[1 / (1 / 0.6 + 1 / 0.5 - 1), 1 / (1 / 0.4 + 1 / 1 - 1)], [0.5, 0]])
    np.testing.assert_allclose(found.overlap, expected)
    assert found.table["match"].to_pylist() == [1, 0]
    assert found.table["partner"].to_pylist() == [1, 0]
    swapped = compared(second, first)
    np.testing.assert_allclose(swapped.overlap, expected.T)
    assert swapped.table["match"].to_pylist() == [1, 0]


def test_clusters_that_share_a_match_get_different_partners_and_one_is_mutual():
    first = side((6, 4), [0] * 10 + [1] * 10, [0] * 20)
    second = side((9, 1), [0] * 10 + [1], [0] * 6 + [1] * 4 + [-1])
    found = compared(first, second)
    assert found.table["match"].to_pylist() == [0, 0]
    assert found.table["mutual"].to_pylist() == [True, False]
    assert found.table["partner"].to_pylist() == [0, None]
    np.testing.assert_allclose([found.mean_overlap, found.mean_partner_overlap], [0.5, 0.3])


@pytest.mark.parametrize(("own", "other"), [(0, 2), (2, 0), (0, 0)])
def test_an_atlas_without_clusters_matches_nothing(own, other):
    def noise(count):
        return side((5,) * count, [-1, -1], [-1, -1])

    found = compared(noise(own), noise(other))
    assert found.table.num_rows == own
    assert found.table["match"].null_count == own
    assert found.overlap.shape == (own, other)
    assert (found.mean_overlap, found.mean_partner_overlap, found.matched_share, found.splits) == (0, 0, 0, {})


# -- fitted atlases ----------------------------------------------------------------------------------------------------


def test_blobs_drawn_again_in_another_order_and_fitted_with_another_seed_are_found_again(centres):
    z, truth = rows_around(centres, 0)
    again, true_again = rows_around(centres, 1)
    order = np.random.default_rng(2).permutation(len(again))
    first, second = Atlas.fit(z, seed=0), Atlas.fit(again[order], seed=1)
    table = first.compare(second).table
    of_first = {cluster: np.bincount(truth[first.labels_ == cluster]).argmax() for cluster in range(6)}
    of_second = {cluster: np.bincount(true_again[order][second.labels_ == cluster]).argmax() for cluster in range(6)}
    assert [of_second[match] for match in table["match"].to_pylist()] == [of_first[cluster] for cluster in range(6)]
    assert table["partner"].equals(table["match"])
    assert all(table["mutual"].to_pylist())
    assert min(table["overlap"].to_pylist()) > 0.95
    found = first.compare(second)
    assert found.matched_share == 1
    assert found.splits == {}


def test_an_atlas_is_itself(atlas):
    found = atlas.compare(atlas)
    assert found.table["match"].to_pylist() == list(range(5))
    np.testing.assert_array_equal(found.overlap, np.eye(5))
    assert found.mean_overlap == 1


def test_disjoint_blobs_match_nothing(centres):
    first = Atlas.fit(rows_around(centres[:3], 0)[0], seed=0)
    second = Atlas.fit(rows_around(centres[3:], 0)[0], seed=0)
    found = first.compare(second)
    assert found.table["match"].null_count == 3
    assert found.mean_overlap == found.matched_share == 0
    assert not found.share.any()


def test_only_the_common_blobs_are_found_again(centres):
    z, truth = rows_around(centres[:4], 0)
    first, second = Atlas.fit(z, seed=0), Atlas.fit(rows_around(centres[2:], 1)[0], seed=0)
    for row in first.compare(second).table.to_pylist():
        blob = np.bincount(truth[first.labels_ == row["cluster"]]).argmax()
        assert (row["overlap"] > 0.9) == (blob in (2, 3))
        assert (row["match"] is None) == (blob in (0, 1))
    assert first.compare(second).matched_share == 0.5


def labelled(z, labels):
    """An atlas with given clusters, the largest first."""
    distances = cdist(z, z, "cityblock")
    distances[(labels[:, None] != labels) | np.eye(len(z), dtype=bool)] = np.inf
    reference = Reference.of(z.astype(np.float32), labels, z[:, :4], distances.min(1).astype(np.float32), AtlasConfig())
    count = int(labels.max()) + 1
    table = named_clusters(labels, np.zeros(count), np.ones(count), np.ones(count), None)
    return Atlas(AtlasConfig(), table, reference)


def test_a_cluster_that_is_two_in_the_other_is_split(centres):
    z, truth = rows_around(centres[:4], 0)
    again, true_again = rows_around(centres[:4], 1)
    coarse = labelled(z, np.array([0, 1, 0, 2])[truth])  # blobs 0 and 2 are one cluster
    fine = labelled(again, true_again)
    found = coarse.compare(fine)
    assert found.splits == {0: [0, 2]}
    assert found.table["parts"].to_pylist() == [[0, 2], [1], [3]]
    assert found.table["match"].to_pylist()[1:] == [1, 3]
    np.testing.assert_allclose(found.table["overlap"].to_numpy(), [0.5, 1, 1], atol=0.05)  # half of it, and all back
    back = fine.compare(coarse)
    assert back.splits == {}
    assert back.table["match"].to_pylist() == [0, 1, 0, 2]
    np.testing.assert_allclose(back.share, np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]), atol=0.1)
    np.testing.assert_allclose(back.overlap, found.overlap.T)


# -- refused -----------------------------------------------------------------------------------------------------------


def known(z, encoder=None, representation=None, constants=None):
    atlas = labelled(z, np.repeat([0, 1], len(z) // 2))
    atlas.encoder, atlas.representation, atlas.constants = encoder, representation, constants
    return atlas


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (("a" * 64,), ("b" * 64,), r"expected the encoder .*\(a{12}\), got another \(b{12}\)"),
        (("a", "joint"), ("a", "cls"), "expected joint rows, as the atlas was fitted on, got cls"),
        (("a", "joint", "c" * 64), ("a", "joint", "d" * 64), r"same constants \(c{12}\), got .* others \(d{12}\)"),
    ],
    ids=["encoder", "representation", "constants"],
)
def test_atlases_of_other_rows_are_not_compared(centres, first, second, said):
    z, _ = rows_around(centres[:2], 0)
    for one, other in ((first, second), (second, first)):
        with pytest.raises(ConfigError, match=said if one is first else "expected"):
            known(z, *one).compare(known(z, *other))


def test_atlases_of_another_width_are_not_compared(centres):
    z, _ = rows_around(centres[:2], 0)
    with pytest.raises(ConfigError, match="expected embeddings of 24 dimensions, as the atlas was fitted on, got 23"):
        known(z).compare(known(z[:, 1:]))


def test_what_an_atlas_does_not_know_is_not_compared_and_descriptors_need_no_encoder(centres):
    z, _ = rows_around(centres[:2], 0)
    for one, other in (
        ((), ("b", "joint", "c")),
        (("a", "descriptor", "c"), ("b", "descriptor", "c")),
    ):
        assert known(z, *one).compare(known(z, *other)).mean_overlap == 1
        assert known(z, *other).compare(known(z, *one)).mean_overlap == 1
