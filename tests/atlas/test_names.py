import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import holds
from apmae.atlas.names import (
    Definition,
    Measured,
    agreeing,
    cluster_names,
    definitions,
    named_clusters,
    overlay,
    renamed,
)
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import CLUSTERS, KINDS, SCORES


def rows_of(*scores):
    """One row of scores per mapping; 0 for scores that it does not have."""
    return np.array([[row.get(name, 0.0) for name in SCORES] for row in scores], np.float32)


def excess_of(*kinds):
    return np.array([[row.get(kind, 0.0) for kind in KINDS] for row in kinds], np.float32)


def table_of(labels, measured, stability=None, seeds=None):
    count = int(np.max(labels)) + 1
    stability, seeds = (np.ones(count) if part is None else np.array(part, float) for part in (stability, seeds))
    return named_clusters(np.array(labels), np.arange(1, count + 1) / 10, stability, seeds, measured)


def cluster_of(*scores, rows=10, excess=None):
    """Scores of one cluster, each mapping ``rows`` times."""
    values = np.repeat(rows_of(*scores), rows, 0)
    kinds = np.repeat(excess_of(excess or {}), len(values), 0)
    return Measured(values, kinds, 0 * kinds)


def joined(*clusters):
    labels = np.repeat(np.arange(len(clusters)), [len(own.values) for own in clusters])
    return labels, Measured(*(np.concatenate(parts) for parts in zip(*clusters, strict=True)))


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_the_means_of_the_members():
    nan = float("nan")
    values = rows_of({"self": 0.9}, {"previous": 0.8}, {"self": 0.5, "local": nan}, {"self": nan, "local": nan})
    measured = Measured(values, excess_of({"word": 0.3}, {}, {}, {}), excess_of({}, {"newline": 0.3}, {}, {}))
    table = table_of([0, 1, 0, 0], measured, [0.8, 0.7], [0.9, 0.8])
    assert table.schema.equals(CLUSTERS)
    first, second = table.to_pylist()
    assert (first["looks_at"], first["looks_from"]) == ("", ""), "0.1 of words is not enough"
    assert (second["name"], second["looks_at"], second["looks_from"]) == ("previous token", "", "newlines")
    assert first["score_self"] == pytest.approx(0.7), "over the rows on which it was measured"
    assert (first["score_local"], second["score_local"]) == (0.0, 0.0)
    shares = {"size": [3, 1], "mean_distance": [0.1, 0.2], "stability": [0.8, 0.7], "seed_stability": [0.9, 0.8]}
    for name, wanted in shares.items():
        assert table[name].to_pylist() == pytest.approx(wanted)
    assert table["unstable"].to_pylist() == [False, True]


@pytest.mark.parametrize(
    ("halves", "seeds", "unstable"), [(0.75, 0.75, False), (0.74, 1, True), (1, 0.74, True), (0, 0, True)]
)
def test_both_stabilities_decide_what_is_unstable(halves, seeds, unstable):
    assert table_of([0, 0], None, [halves], [seeds])["unstable"].to_pylist() == [unstable]


def test_without_scores_clusters_are_numbered():
    table = table_of([0, -1, 1, 0], None)
    assert cluster_names(table) == {0: "cluster 0", 1: "cluster 1", -1: "unknown"}
    rows = table.to_pylist()
    assert all(row[name] is None for row in rows for name in ("score_self", "true_share", "confidence", "like_share"))
    assert definitions(table) == [Definition((), ())] * 2
    nothing = table_of([-1] * 3, None)
    assert (nothing.num_rows, cluster_names(nothing)) == (0, {-1: "unknown"})


# -- what a name claims ------------------------------------------------------------------------------------------------


def test_each_part_of_a_name_is_a_claim():
    near, far = ({"first_token": 0.6, "previous": 0.35, "local_width": width} for width in (1.0, 9.0))
    table = table_of(*joined(cluster_of(near), cluster_of(far)))
    claims = definitions(table)[1].claims()
    assert ", ".join([" + ".join(one.words for one in claims[:2]), claims[2].words]) == table["name"][1].as_py()
    assert [one.words for one in claims] == ["first-token sink", "previous token", "width from 9"]
    assert [one.score for one in claims] == ["first_token", "previous", "local_width"]
    assert [one.meaning for one in claims] == [
        "attention on the first token (score first_token) at least 0.363 (0.51 where score uniform is at least 0.75)",
        "attention on the previous token (score previous) at least 0.265",
        "tokens back that draw half of what is not on the first token (score local_width) at least 9",
    ]


def test_a_cluster_without_scores_claims_nothing():
    assert definitions(table_of([0, 0], None))[0].claims() == ()


# -- true names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clear", "name"), [(9, "self"), (8, "some self")])
def test_a_kind_names_a_cluster_if_nine_in_ten_members_are_of_it(clear, name):
    scores = [{"self": 0.9}] * clear + [{"self": 0.3}] * (10 - clear)
    (row,) = table_of(*joined(cluster_of(*scores, rows=5))).to_pylist()
    assert (row["name"], row["kinds"]) == (name, [name])
    assert row["true_share"] == pytest.approx(0.9 if clear == 9 else 1)
    assert row["confidence"] == row["true_share"]


def test_a_token_kind_is_said_only_if_it_is_true_of_the_members():
    clear = cluster_of({"columns": 0.9}, excess={"newline": 0.4})
    half = Measured(clear.values, clear.key_kinds * (np.arange(10) < 6)[:, None], clear.query_kinds)
    assert table_of(*joined(clear))["name"].to_pylist() == ["columns on newlines"]
    assert table_of(*joined(half))["name"].to_pylist() == ["columns"]


def test_a_second_behaviour_is_named_if_it_is_true_of_the_members():
    both = {"first_token": 0.6, "previous": 0.35}
    assert table_of(*joined(cluster_of(both)))["name"].to_pylist() == ["first-token sink + previous token"]
    few = cluster_of(*[both] * 8, *[{"first_token": 0.6}] * 2)
    assert table_of(*joined(few))["name"].to_pylist() == ["first-token sink"]


def test_a_sink_is_not_named_as_columns_too():
    (row,) = table_of(*joined(cluster_of({"columns": 0.9, "later_sink": 0.85, "uniform": 0.2}))).to_pylist()
    assert row["kinds"] == ["later sink"]


def test_members_of_which_nothing_was_measured_are_mixed():
    values = np.full((10, len(SCORES)), np.nan, np.float32)
    (row,) = table_of([0] * 10, Measured(values, *[np.zeros((10, len(KINDS)), np.float32)] * 2)).to_pylist()
    assert (row["name"], row["kinds"], row["true_share"]) == ("mixed", ["mixed"], 1)
    assert all(row[f"score_{name}"] is None for name in SCORES)


def test_clusters_that_nothing_separates_are_numbered():
    labels, measured = joined(*[cluster_of({"self": 0.9})] * 2, cluster_of({"previous": 0.9}))
    table = table_of(labels, measured).to_pylist()
    assert [row["name"] for row in table] == ["self, unnamed 1", "self, unnamed 2", "previous token"]
    assert [row["like_share"] for row in table] == [1, 1, 0]
    assert [row["confidence"] for row in table] == [0, 0, 1]
    labels, measured = joined(*[cluster_of({"self": 0.9})] * 2, *[cluster_of({"previous": 0.9})] * 2)
    names = ["self, unnamed 1", "self, unnamed 2", "previous token, unnamed 1", "previous token, unnamed 2"]
    assert table_of(labels, measured)["name"].to_pylist() == names, "numbers begin anew with each kind"
    labels, measured = joined(*[cluster_of({"self": 0.01})] * 2)
    assert table_of(labels, measured)["name"].to_pylist() == ["mixed, unnamed 1", "mixed, unnamed 2"]


def by_hand(row, measured, unmeasured=False):
    """Which patterns a row of the table is true of: its kinds' definitions, and its ranges one number at a time.

    With ``unmeasured``, a range of what was not measured is true.
    """
    true = np.ones(len(measured.values), bool)
    for number, kind in enumerate(row["kinds"]):
        true &= holds(kind, measured.values, measured.key_kinds, leading=number == 0)
    for one in row["qualifiers"]:
        group, _, what = one["feature"].partition("_")
        for pattern in range(len(true)):
            values = measured.values[pattern]
            if group in ("score", "rest"):
                found = values[SCORES.index(what)]
                if group == "rest":
                    found = min(found / max(np.float32(1) - values[0], np.float32(0.02)), np.float32(1))
            else:
                found = (measured.key_kinds if group == "key" else measured.query_kinds)[pattern, KINDS.index(what)]
            inside = np.float32(one["low"]) <= found <= np.float32(one["high"])
            true[pattern] &= bool(inside or (unmeasured and np.isnan(found)))
    return true


def random_clusters(seed):
    """Clusters of a few behaviours, so that many are alike, with members of random strength, some not measured."""
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(int(draw.integers(1, 9))):
        rows = int(draw.integers(1, 40))
        values = 0.1 * draw.random((rows, len(SCORES)))
        values[:, SCORES.index("uniform")] = draw.uniform(0, 1) * draw.uniform(0.8, 1, size=rows)
        for name in draw.choice(["self", "local", "columns", "first_token", "later_sink", "retrieval"], 2):
            values[:, SCORES.index(name)] = draw.uniform(0.2, 1) * draw.uniform(0.6, 1, size=rows)
        values[:, SCORES.index("local_width")] = draw.uniform(1, 15) + draw.uniform(0, 5, size=rows)
        values[draw.random(values.shape) < 0.01] = np.nan
        kinds = [np.where(draw.random(len(KINDS)) < 0.15, 0.3, 0) * draw.uniform(0, 1, (rows, 1)) for _ in range(2)]
        parts.append(Measured(*(part.astype(np.float32) for part in (values, *kinds))))
    return parts


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_names_are_unique_and_true(seed):
    clusters = random_clusters(seed)
    labels, measured = joined(*clusters)
    table = table_of(labels, measured)
    names = table["name"].to_pylist()
    assert len(set(names)) == len(names)
    for row, own, definition in zip(table.to_pylist(), clusters, definitions(table), strict=True):
        true = by_hand(row, measured)
        assert np.array_equal(definition.holds(measured), true)
        assert true[labels == row["cluster"]].mean() == pytest.approx(row["true_share"], abs=1e-6)
        assert row["true_share"] >= 0.9 - 1e-6
        assert row["name"].startswith(" + ".join(row["kinds"]))
        assert all(one["words"] in row["name"] for one in row["qualifiers"])
        assert row["confidence"] == pytest.approx(row["true_share"] * (1 - row["like_share"]), abs=1e-6)
        alike = [other for number, other in enumerate(clusters) if number != row["cluster"]
                 and table["kinds"].to_pylist()[number] == row["kinds"]]  # fmt: skip
        if "unnamed" not in row["name"]:
            shares = [by_hand(row, other, unmeasured=True).mean() for other in alike]
            assert row["like_share"] == pytest.approx(max(shares, default=0), abs=1e-6)
            assert row["like_share"] <= 0.5
        assert len(own.values) == row["size"]


def test_patterns_agree_with_clusters_whose_kinds_are_true_of_them():
    """A previous-token head with some sink; a sink with some previous token; a pattern that is nothing known."""
    rows = {"first_token": 0.4, "previous": 0.55}, {"first_token": 0.6, "previous": 0.36}, {"uniform": 0.5}
    measured = cluster_of(*rows, rows=1)
    claims = [Definition(kinds, ()) for kinds in (("previous token",), ("first-token sink",), ("mixed",), ())]
    true = agreeing(claims, measured, leading=False)
    assert true.tolist() == [[True] * 4, [False, True, True, True], [False, False, True, True]], "0.36 is not clear"
    led = agreeing(claims, measured, leading=True)
    assert led.tolist() == [[True, False, False, True], [False, True, False, True], [False, False, True, True]]
    assert agreeing([], measured, leading=True).shape == (3, 0)


# -- names that somebody gave ------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    return table_of(*joined(cluster_of({"self": 0.9}), cluster_of({"previous": 0.9})))


def test_a_cluster_may_be_renamed_and_keeps_what_was_found(table):
    found = renamed(table, {1: "copies the last token"})
    assert found["name"].to_pylist() == ["self", "copies the last token"]
    assert found.drop_columns("name").equals(table.drop_columns("name"))
    assert found.schema.equals(CLUSTERS)
    assert renamed(table, {}).equals(table)
    assert renamed(table, {0: "previous token", 1: "self"})["name"].to_pylist() == ["previous token", "self"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({2: "x"}, "expected names of clusters 0-1, got one of 2"),
        ({-1: "x"}, "expected names of clusters 0-1, got one of -1"),
        ({0: "previous token"}, "a name of its own for each cluster, got 'previous token' for several"),
        ({0: "x", 1: "x"}, "got 'x' for several"),
        ({0: " "}, "got ' ' for several or an empty one"),
    ],
)
def test_names_that_do_not_fit_are_refused(table, names, said):
    with pytest.raises(ConfigError, match=said):
        renamed(table, names)


def test_an_atlas_without_clusters_has_no_names():
    nothing = table_of([-1] * 3, None)
    assert renamed(nothing, {}).equals(nothing)
    with pytest.raises(ConfigError, match="expected no names, there is no cluster, got one of 0"):
        renamed(nothing, {0: "x"})


def test_an_overlay_beside_an_atlas_names_its_clusters(atlas, blobs, tmp_path):
    atlas.save(tmp_path)
    assert overlay(tmp_path) == {}
    (tmp_path / "names.json").write_text('{"3": "my own"}')
    loaded = Atlas.load(tmp_path)
    assert loaded.names == {**atlas.names, 3: "my own"}
    assert np.array_equal(loaded.place(blobs[0]).cluster, atlas.labels_)
    loaded.rename({0: "the largest"})
    assert (loaded.names[0], loaded.names[3], atlas.names[0]) == ("the largest", "my own", "cluster 0")
    with pytest.raises(ConfigError, match="got one of 5"):
        loaded.rename({5: "x"})
    assert loaded.names[0] == "the largest", "what is refused changes nothing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"5": "x"}), "expected names of clusters 0-4, got one of 5"),
        (json.dumps({"0": "x", "1": "x"}), "got 'x' for several"),
        (json.dumps({"three": "x"}), "give names by the clusters' numbers"),
        (json.dumps(["x"]), "give names by the clusters' numbers"),
        (json.dumps({"0": None}), "give names by the clusters' numbers"),
        (json.dumps({"0": 7}), "give names by the clusters' numbers"),
        (json.dumps([["0", "x"]]), "give names by the clusters' numbers"),
        (json.dumps("x"), "give names by the clusters' numbers"),
        ('{"3": "my', "expected JSON in"),
    ],
)
def test_a_damaged_overlay_is_refused_by_its_path(atlas, tmp_path, text, said):
    atlas.save(tmp_path)
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(ArtifactError, match=said) as refused:
        Atlas.load(tmp_path)
    assert str(tmp_path / "names.json") in str(refused.value)


def test_a_pattern_gets_its_clusters_name_without_what_is_not_true_of_it(blobs):
    z, truth, _ = blobs
    values = np.full((len(z), len(SCORES)), 0.05, np.float32)
    values[:, SCORES.index("local")] = 0.8
    width = np.array([2, 6, 11, 16, 22])[truth] + np.random.default_rng(0).random(len(z))
    values[:, SCORES.index("local_width")] = width
    none = np.zeros((len(z), len(KINDS)), np.float32)
    measured = Measured(values, none, none)
    found = Atlas.fit(z, seed=0, measured=measured)
    assert all(name.startswith("local band, width ") for number, name in found.names.items() if number >= 0)
    assert found.names_of(found.labels_, measured) == [found.names[int(label)] for label in found.labels_]
    other = values.copy()
    other[:, SCORES.index("local_width")] = 100
    kept = {number for number, name in found.names.items() if name.startswith("local band, width from")}
    names = found.names_of(found.labels_, measured._replace(values=other))
    assert kept
    for label, name in zip(found.labels_.tolist(), names, strict=True):
        assert name == (found.names[label] if label in kept else "local band")
    assert found.names_of(np.array([-1]), measured.of(slice(1))) == ["unknown"]
