import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.atlas.kinds import (
    BEHAVIOURS,
    KIND,
    KIND_WORDS,
    MEASURES,
    bounded_by,
    holds,
    kind_word,
    kinds_of,
    meaning,
    measured_names,
    name_of,
    score_of,
    strengths,
    token_kind,
)
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import FAMILIES, planted
from apmae.patterns.scores import score
from apmae.schema import KINDS, SCORES

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
    assert set(KIND_WORDS) == set(KINDS)
    for kind in KINDS:
        assert kind_word({kind: 1.0}) == KIND_WORDS[kind]


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


def test_below_its_threshold_there_is_some_of_a_behaviour_and_far_below_none():
    assert name_of({"self": 0.4, "uniform": 0.5}) == "self"
    assert name_of({"self": 0.3, "uniform": 0.5}) == name_of({"self": 0.18, "uniform": 0.5}) == "some self"
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


@given(SHARES, st.sampled_from(["", *KIND_WORDS.values()]))
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


def excess_of(*kinds):
    return np.array([[row.get(kind, 0.0) for kind in KINDS] for row in kinds], np.float32)


def test_each_pattern_is_named_by_its_own_scores():
    values = rows_of({"self": 0.9, "uniform": 0.3}, {"columns": 0.9}, {"columns": float("nan"), "uniform": 0.95})
    kinds = excess_of({"newline": 0.05}, {"semicolon": 0.4, "word": 0.2}, {})
    assert measured_names(values, kinds) == ["self", "columns on ';'", "uniform"]
    assert measured_names(values[:0], kinds[:0]) == []


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("columns on ';' + local band", ("columns", "local band")),
        ("some self", ("self",)),
        ("looks at newlines", ("looks at",)),
        ("retrieval of keywords, from words", ("retrieval",)),
        ("first-token sink + later sink on words, width 3 to 5, from newlines", ("first-token sink", "later sink")),
        ("mixed", ("mixed",)),
    ],
)
def test_a_name_is_made_of_kinds(name, kinds):
    assert kinds_of(name) == kinds


def test_a_token_kind_is_told_from_what_it_follows():
    assert token_kind("columns on opening brackets") == ("columns", "opening brackets")
    assert token_kind("looks at ';'") == ("looks at", "';'")
    assert token_kind("retrieval of words") == ("retrieval", "words")
    assert token_kind("some later sink") == ("some later sink", "")


def test_every_behaviour_has_a_score_of_its_own():
    scores = [score_of(name) for name in BEHAVIOURS]
    assert len(set(scores)) == len(scores) == 9
    assert set(scores) <= set(SCORES)
    assert score_of("some induction") == "induction"
    assert score_of("retrieval") == score_of("mixed") == ""


def test_a_behaviour_is_as_clear_as_its_score_is_above_that_of_even_attention():
    found = strengths(rows_of({"previous": 0.02, "local": 0.55}, {"previous": 1.0, "local": float("nan")}))
    assert found["previous token"].tolist() == pytest.approx([0, 1], abs=1e-6)
    assert found["local band"][0] == pytest.approx(0.5)  # from 0.10 to 1
    assert np.isnan(found["local band"][1])


@pytest.mark.parametrize(
    ("kind", "scores", "excess", "leading", "later"),
    [
        ("self", {"self": 0.37}, {}, True, True),  # 0.02 + 0.35 * 0.98 = 0.363
        ("self", {"self": 0.35}, {}, False, True),
        ("self", {"self": 0.26}, {}, False, False),  # 0.02 + 0.25 * 0.98 = 0.265
        ("some self", {"self": 0.17}, {}, True, True),  # 0.02 + 0.15 * 0.98 = 0.167
        ("some self", {"self": 0.16}, {}, False, False),
        ("some self", {"self": 0.99}, {}, True, True),  # what is clear is some too
        ("self", {"self": 0.45, "uniform": 0.8}, {}, False, True),
        ("self", {"self": float("nan")}, {}, False, False),
        ("columns on ';'", {"columns": 0.9}, {"semicolon": KIND}, True, True),
        ("columns on ';'", {"columns": 0.9}, {"semicolon": KIND - 0.01, "word": 0.5}, False, False),
        ("looks at words", {}, {"word": 0.3}, True, True),
        ("retrieval", {"retrieval": 0.6, "uniform": 0.5}, {}, True, True),
        ("retrieval", {"retrieval": 0.9, "uniform": 0.8}, {}, False, False),
        ("retrieval", {"retrieval": 0.9, "uniform": float("nan")}, {}, True, True),
        ("uniform", {"uniform": 0.9}, {}, True, True),
        ("diffuse", {"uniform": 0.7}, {}, False, False),
        ("mixed", {}, {}, True, True),
        ("columns on unicorns", {"columns": 0.9}, {}, False, False),
        ("a name of mine", {"self": 1.0}, {}, False, False),
    ],
)
def test_a_kind_holds_by_its_threshold(kind, scores, excess, leading, later):
    given = rows_of(scores), excess_of({name: np.float32(value) + 1e-6 for name, value in excess.items()})
    assert holds(kind, *given).tolist() == [leading]
    assert holds(kind, *given, leading=False).tolist() == [later]


@given(SHARES.map(lambda scores: {"uniform": 0.3} | scores), st.dictionaries(st.sampled_from(KINDS), st.floats(-1, 1)))
def test_the_name_of_a_pattern_is_true_of_it(scores, excess):
    values, kinds = rows_of(scores), excess_of(excess)
    (name,) = measured_names(values, kinds)
    for number, part in enumerate(name.split(" + ")):
        assert holds(part, values, kinds, leading=number == 0).all(), name


# -- definitions in words ----------------------------------------------------------------------------------------------

BOUND = re.compile(r"\(score (\w+)\) at least ([\d.]+)")


def test_every_score_has_words():
    assert list(MEASURES) == list(SCORES)


@pytest.mark.parametrize("leading", [True, False])
@pytest.mark.parametrize("kind", [*BEHAVIOURS, *(f"some {name}" for name in BEHAVIOURS)])
def test_a_behaviour_is_true_from_the_number_on_that_its_meaning_says(kind, leading):
    said = meaning(kind, leading=leading)
    ((score, least),) = BOUND.findall(said)
    assert score == bounded_by(kind) == score_of(kind)
    assert MEASURES[score] in said
    around = [{score: float(least) + step} for step in (-1e-4, 1e-4)]
    assert [bool(holds(kind, rows_of(row), excess_of({}), leading=leading)[0]) for row in around] == [False, True]
    even = re.search(r"\(([\d.]+) where score uniform is at least ([\d.]+)\)", said)
    assert bool(even) == (leading and not kind.startswith("some "))
    if even:
        clear, diffuse = map(float, even.groups())
        around = [{score: clear + step, "uniform": diffuse + 1e-4} for step in (-1e-4, 1e-4)]
        assert [bool(holds(kind, rows_of(row), excess_of({}))[0]) for row in around] == [False, True]
        below = rows_of({score: clear - 1e-4, "uniform": diffuse - 1e-4})
        assert holds(kind, below, excess_of({})).all(), "less even patterns need less"


@pytest.mark.parametrize("kind", ["uniform", "diffuse"])
def test_even_kinds_are_true_from_the_number_on_that_their_meaning_says(kind):
    ((score, least),) = BOUND.findall(meaning(kind))
    assert score == bounded_by(kind) == "uniform"
    around = [rows_of({score: float(least) + step}) for step in (-1e-4, 1e-4)]
    assert [bool(holds(kind, row, excess_of({}))[0]) for row in around] == [False, True]


def test_retrieval_has_both_its_bounds():
    said = meaning("retrieval")
    ((score, least),) = BOUND.findall(said)
    assert score == bounded_by("retrieval") == "retrieval"
    most = float(re.search(r"\(score uniform\) under ([\d.]+)", said)[1])
    for retrieval, uniform, true in [(1e-4, -1e-4, True), (-1e-4, -1e-4, False), (1e-4, 1e-4, False)]:
        row = rows_of({"retrieval": float(least) + retrieval, "uniform": most + uniform})
        assert holds("retrieval", row, excess_of({})).tolist() == [true]


@pytest.mark.parametrize(
    "kind", ["columns on newlines", "later sink on newlines", "looks at newlines", "retrieval of newlines"]
)
def test_the_meaning_says_how_much_a_token_kind_has_to_draw(kind):
    least = float(re.search(r"attention on newlines at least ([\d.]+) more than even", meaning(kind))[1])
    scores = rows_of({"columns": 0.9, "later_sink": 0.9, "retrieval": 0.9})
    around = [excess_of({"newline": least + step}) for step in (-1e-4, 1e-4)]
    assert [bool(holds(kind, scores, excess)[0]) for excess in around] == [False, True]
    assert "newlines" not in meaning(token_kind(kind)[0])


def test_what_claims_nothing_says_so():
    assert meaning("mixed") == "no kind is clear, and none is claimed"
    assert meaning("a name of mine") == "no kind of this version"
    assert bounded_by("mixed") == bounded_by("looks at newlines") == bounded_by("a name of mine") == ""
