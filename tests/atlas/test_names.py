import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.atlas.names import (
    _KIND_WORDS,
    Measured,
    cluster_names,
    kind_word,
    measured_names,
    name_of,
    named_clusters,
)
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import FAMILIES, planted
from apmae.patterns.scores import score
from apmae.schema import CLUSTERS, KINDS, SCORES

RIGHT = {
    "first_token": "first-token sink",
    "previous": "previous token",
    "self": "self",
    "local": "local band",
    "columns": "columns",
    "blocks": "blocks",
    "offset": "retrieval",
    "uniform": "uniform",
}
SHARES = st.dictionaries(st.sampled_from(SCORES), st.floats(0, 1) | st.just(float("nan")))


def softmax(scores):
    future = torch.ones(scores.shape[-2:]).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def named(patterns, tokens=None):
    found = score(patterns, tokens)
    return [name_of(dict(zip(SCORES, row.tolist(), strict=True))) for row in found.values]


@pytest.fixture(scope="module")
def families():
    return planted(12, seed=1)


@pytest.mark.parametrize(("family", "name"), RIGHT.items())
def test_a_hand_made_pattern_gets_its_name(families, family, name):
    patterns, which = families
    own = patterns[which == list(FAMILIES).index(family)]
    names = named(own)
    # Borderline cases are wide bands, long offsets, very few or many blocks, and few columns that are sinks too. Every
    # other pattern must get the right name, and so must the family as a whole, like a cluster.
    assert names.count(name) >= {"local": 7, "offset": 10, "blocks": 9, "columns": 8}.get(family, 12), names
    values = score(own).values
    assert name_of(dict(zip(SCORES, values.mean(0).tolist(), strict=True))) == name


def test_two_behaviours_are_both_named(families):
    patterns, which = families
    own = patterns[which == list(FAMILIES).index("sink_and_previous")]
    for name in named(own):
        assert set(name.split(" + ")) == {"first-token sink", "previous token"}


def test_induction_and_duplicates_are_named_from_the_tokens():
    half = np.random.default_rng(0).permutation(60)
    tokens = np.concatenate([half, half])
    query, key = torch.arange(120)[:, None], torch.arange(120)[None, :]
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(120, 120))).float()
    induction = softmax((noise + 8 * (query - key == 59))[None])
    duplicate = softmax((noise + 8 * (query - key == 60))[None])
    assert named(Patterns.from_probabilities(induction), [tokens]) == ["induction"]
    assert named(Patterns.from_probabilities(duplicate), [tokens]) == ["duplicate token"]


@pytest.mark.parametrize("size", [8, 16, 32, 64, 200])
def test_even_attention_is_uniform_whatever_the_prompts_length(size):
    even = torch.ones(size, size).tril()
    assert named(Patterns.from_probabilities((even / even.sum(-1, keepdim=True))[None])) == ["uniform"]


def test_a_kind_is_named_only_if_it_stands_out():
    assert kind_word(dict.fromkeys(KINDS, 0.0)) == ""
    assert kind_word({}) == ""
    assert kind_word({"semicolon": 0.3, "word": 0.2}) == "';'"
    assert kind_word({"semicolon": 0.12}) == "';'"
    assert kind_word({"semicolon": 0.119}) == ""
    assert set(_KIND_WORDS) == set(KINDS)
    for kind in KINDS:
        assert kind_word({kind: 1.0}) == _KIND_WORDS[kind]


def test_columns_say_which_tokens_they_are_on():
    scores = {"columns": 0.9, "uniform": 0.3}
    assert name_of(scores) == "columns"
    assert name_of(scores, "';'") == "columns on ';'"
    assert name_of({"first_token": 0.5, "columns": 0.45, "uniform": 0.3}, "newlines") == (
        "first-token sink + columns on newlines"
    )


def test_either_sink_or_columns_is_named_not_both():
    scores = {"columns": 0.9, "uniform": 0.3}
    assert name_of({**scores, "later_sink": 0.85}) == "later sink"
    assert name_of({**scores, "later_sink": 0.61}, "newlines") == "later sink on newlines"
    assert name_of({**scores, "later_sink": 0.59}, "newlines") == "columns on newlines"
    assert name_of({**scores, "later_sink": float("nan")}) == name_of({**scores, "later_sink": 0.0}) == "columns"
    assert name_of({"later_sink": 0.5, "columns": float("nan"), "uniform": 0.3}) == "later sink"
    assert name_of({"first_token": 0.6, "later_sink": 0.4, "columns": 0.4, "uniform": 0.3}, "words") == (
        "first-token sink + later sink on words"
    )


@pytest.mark.parametrize("position", [0, 60])
def test_a_sink_is_named_by_its_position(position):
    key = torch.arange(160)[None, :]
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(160, 160))).float()
    sink = softmax((noise + 8 * (key == position))[None])
    assert named(Patterns.from_probabilities(sink)) == ["later sink" if position else "first-token sink"]


def test_below_its_threshold_a_behaviour_is_weak_and_far_below_not_named():
    assert name_of({"self": 0.4, "uniform": 0.5}) == "self"
    assert name_of({"self": 0.3, "uniform": 0.5}) == name_of({"self": 0.18, "uniform": 0.5}) == "weak self"
    assert name_of({"self": 0.15, "uniform": 0.5}) == "mixed"


def test_over_few_tokens_a_behaviour_must_be_clearer():
    assert name_of({"previous": 0.45, "uniform": 0.74}) == "previous token"
    assert name_of({"previous": 0.45, "uniform": 0.75}) == "diffuse"
    assert name_of({"previous": 0.55, "uniform": 0.8}) == "previous token"


def test_distant_attention_is_named_if_no_other_name_fits():
    assert name_of({"retrieval": 0.8, "uniform": 0.5}) == "retrieval"
    assert name_of({"retrieval": 0.8, "uniform": 0.5}, "keywords") == "retrieval of keywords"
    assert name_of({"retrieval": 0.8, "induction": 0.7, "uniform": 0.5}) == "induction"
    assert name_of({"retrieval": 0.7, "uniform": 0.8}) == "diffuse"
    assert name_of({"retrieval": 0.8}) == "mixed", "if evenness is unknown, distance alone says little"


def test_without_a_behaviour_a_pattern_is_named_by_what_it_looks_at_or_how_even_it_is():
    assert name_of({"uniform": 0.5}, "keywords") == "looks at keywords"
    assert name_of({"uniform": 0.95}) == "uniform"
    assert name_of({"uniform": 0.8}) == "diffuse"
    assert name_of({"uniform": 0.5}) == "mixed"
    assert name_of({}) == "mixed"
    assert name_of(dict.fromkeys(SCORES, float("nan"))) == "mixed"


@given(SHARES, st.sampled_from(["", *_KIND_WORDS.values()]))
def test_any_scores_have_a_name_of_at_most_two_parts(scores, looks_at):
    name = name_of(scores, looks_at)
    assert name
    assert len(name.split(" + ")) <= 2
    assert len(set(name.split(" + "))) == len(name.split(" + "))


@given(SHARES, st.sampled_from(["first_token", "previous", "self", "induction", "duplicate"]))
def test_a_complete_behaviour_is_always_in_the_name(scores, behaviour):
    words = {
        "first_token": "first-token sink",
        "previous": "previous token",
        "self": "self",
        "induction": "induction",
        "duplicate": "duplicate token",
    }
    rest = {name: 0.0 for name in SCORES if name != behaviour} | {behaviour: 1.0}
    assert name_of(rest) == words[behaviour]
    assert name_of({**scores, behaviour: float("nan"), "uniform": 0.0}) != words[behaviour]


def rows_of(*scores):
    """One row of scores per mapping; 0 for scores that it does not have."""
    return np.array([[row.get(name, 0.0) for name in SCORES] for row in scores], np.float32)


def kinds_of(*kinds):
    return np.array([[row.get(kind, 0.0) for kind in KINDS] for row in kinds], np.float32)


def test_each_pattern_is_named_by_its_own_scores():
    values = rows_of({"self": 0.9, "uniform": 0.3}, {"columns": 0.9}, {"columns": float("nan"), "uniform": 0.95})
    kinds = kinds_of({"newline": 0.05}, {"semicolon": 0.4, "word": 0.2}, {})
    assert measured_names(values, kinds) == ["self", "columns on ';'", "uniform"]
    assert measured_names(values[:0], kinds[:0]) == []


def test_clusters_are_named_by_the_means_of_their_members():
    nan = float("nan")
    values = rows_of({"self": 0.9}, {"previous": 0.8}, {"self": 0.5, "local": nan}, {"self": nan, "local": nan})
    measured = Measured(values, kinds_of({"word": 0.3}, {}, {}, {}), kinds_of({}, {"newline": 0.3}, {}, {}))
    table = named_clusters(np.array([0, 1, 0, 0]), np.array([0.1, 0.2]), np.array([0.3, 0.4]), measured)
    assert table.schema.equals(CLUSTERS)
    first, second = table.to_pylist()
    assert (first["name"], first["looks_at"], first["looks_from"]) == ("self", "", ""), "0.1 of words is not enough"
    assert (second["name"], second["looks_at"], second["looks_from"]) == ("previous token", "", "newlines")
    assert first["score_self"] == pytest.approx(0.7), "over the rows on which it was measured"
    assert (first["score_local"], second["score_local"]) == (0.0, 0.0)
    for name, shares in (("size", [3, 1]), ("mean_distance", [0.1, 0.2]), ("persistence", [0.3, 0.4])):
        assert table[name].to_pylist() == pytest.approx(shares)
    assert cluster_names(table) == {0: "self", 1: "previous token", -1: "unknown"}


def test_without_scores_clusters_are_numbered():
    table = named_clusters(np.array([0, -1, 1, 0]), np.zeros(2), np.zeros(2), None)
    assert cluster_names(table) == {0: "cluster 0", 1: "cluster 1", -1: "unknown"}
    assert all(row["score_self"] is None for row in table.to_pylist())
    nothing = named_clusters(np.full(3, -1), np.zeros(0), np.zeros(0), None)
    assert (nothing.num_rows, cluster_names(nothing)) == (0, {-1: "unknown"})
