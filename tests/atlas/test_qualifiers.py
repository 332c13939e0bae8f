import re
from math import inf

import numpy as np
import pytest

from apmae.atlas.names import Measured, named_clusters
from apmae.atlas.qualifiers import Features, Qualifier, _words, satisfies, separate
from apmae.schema import KINDS, SCORES


def measured(rows, seed=0, keys=None, queries=None, **scores):
    """Scores with a little noise; a name gives its mean, or (low, high) between which it is even."""
    draw = np.random.default_rng(seed)
    values = np.full((rows, len(SCORES)), 0.05)
    values[:, SCORES.index("uniform")] = 0.3
    for name, value in scores.items():
        values[:, SCORES.index(name)] = draw.uniform(*value, size=rows) if isinstance(value, tuple) else value
    values += 0.01 * draw.random(values.shape)
    kinds = [np.zeros((rows, len(KINDS)), np.float32) for _ in range(2)]
    for part, given in zip(kinds, (keys, queries), strict=True):
        for name, value in (given or {}).items():
            part[:, KINDS.index(name)] = value
    return Measured(values.astype(np.float32), *kinds)


def separated(own, *like, kinds=("local band",)):
    true = np.ones(len(own.values), bool)
    return separate(Features.of(own), [Features.of(other) for other in like], kinds, true, 0.9)


def column(own, feature):
    """A feature by its name, as the docstring of ``Qualifier`` says it."""
    group, _, what = feature.partition("_")
    if group == "score":
        return own.values[:, SCORES.index(what)]
    if group == "rest":
        share = own.values[:, SCORES.index(what)] / np.maximum(1 - own.values[:, SCORES.index("first_token")], 0.02)
        return np.minimum(share, 1)
    return (own.key_kinds if group == "key" else own.query_kinds)[:, KINDS.index(what)]


def share_inside(qualifiers, own):
    inside = np.ones(len(own.values), bool)
    for one in qualifiers:
        found = column(own, one.feature).astype(np.float64)
        inside &= (found >= one.low - 1e-6) & (found <= one.high + 1e-6)
    return inside.mean()


def test_clusters_that_differ_in_width_are_told_apart_by_it():
    narrow, wide = measured(200, local=0.8, local_width=(3, 4.9)), measured(200, 1, local=0.8, local_width=(9, 14))
    for own, other, end, words in ((narrow, wide, "high", "width up to 5"), (wide, narrow, "low", "width from 9")):
        (found,), shared = separated(own, other)
        assert found.feature == "score_local_width"
        assert found.words == words, "one end is enough"
        assert np.isfinite(getattr(found, end))
        assert shared == 0
        assert share_inside([found], own) >= 0.95
        assert share_inside([found], other) == 0


def test_a_cluster_between_two_others_has_a_range_with_both_ends():
    own = measured(200, local=0.8, local_width=(6, 7.9))
    around = [measured(200, 1, local=0.8, local_width=(1, 3)), measured(200, 2, local=0.8, local_width=(12, 20))]
    (found,), shared = separated(own, *around)
    assert (found.feature, found.words, shared) == ("score_local_width", "width 6 to 8", 0)
    assert (found.low, found.high) == (6, 8)


def test_what_is_alone_needs_no_qualifier():
    assert separated(measured(50, local=0.8)) == ((), 0.0)


def test_nothing_separates_equal_clusters():
    found, shared = separated(measured(300, 1, local=0.8, local_width=4), measured(300, 2, local=0.8, local_width=4))
    assert shared > 0.5
    assert len(found) <= 3


def test_token_kinds_of_queries_and_keys_separate():
    words, lines = (measured(100, queries={kind: 0.4}, self=0.9) for kind in ("word", "newline"))
    (found,), shared = separated(lines, words, kinds=("self",))
    assert (found.feature, found.words, shared) == ("query_newline", "from newlines", 0)
    assert (found.low, found.high) == (pytest.approx(0.12), inf)
    brackets = measured(100, keys={"open_bracket": 0.4}, self=0.9)
    assert separated(brackets, words, kinds=("self",))[0][0].words == "to opening brackets"


def test_a_token_kind_that_the_name_already_says_is_not_said_again():
    own = measured(100, keys={"newline": 0.4}, columns=0.9, uniform=(0.1, 0.2))
    other = measured(100, 1, keys={"word": 0.4}, columns=0.9, uniform=(0.5, 0.6))
    found, _ = separated(own, other, kinds=("columns on newlines",))
    assert [one.words for one in found] == ["evenness under 0.21"]


def test_the_leading_kinds_own_score_is_said_in_few_words_and_first():
    strong, faint = measured(200, previous=(0.8, 0.9)), measured(200, 1, previous=(0.4, 0.5))
    (found,), _ = separated(strong, faint, kinds=("previous token",))
    assert found.words == "over 80 %"
    (found,), _ = separated(strong, faint, kinds=("self",))
    assert found.words == "over 80 % on the previous token"
    assert found.feature == "score_previous"


def test_what_a_sink_leaves_is_a_feature_of_sinks_alone():
    strong = measured(200, first_token=(0.5, 0.9))
    weak = measured(200, 1, first_token=(0.5, 0.9))
    rest = 1 - np.stack([strong.values[:, 0], weak.values[:, 0]])
    strong.values[:, SCORES.index("previous")] = 0.8 * rest[0]
    weak.values[:, SCORES.index("previous")] = 0.2 * rest[1]
    (found,), shared = separated(strong, weak, kinds=("first-token sink",))
    assert (found.feature, shared) == ("rest_previous", 0)
    assert "% of the rest on the previous token" in found.words
    assert all("rest_" not in one.feature for one in separated(strong, weak, kinds=("previous token",))[0])


@pytest.mark.parametrize("seed", range(12))
def test_ranges_are_true_of_members_and_the_share_is_that_of_the_like(seed):
    draw = np.random.default_rng(seed)
    clusters = []
    for number in range(5):
        low = {name: float(draw.uniform(0.1, 0.6)) for name in ("local", "previous", "columns", "uniform")}
        scores = {name: (value, value + float(draw.uniform(0.02, 0.4))) for name, value in low.items()}
        width = float(draw.uniform(2, 12))
        clusters.append(measured(150, 10 * seed + number, local_width=(width, width + 4), **scores))
    for number, own in enumerate(clusters):
        like = clusters[:number] + clusters[number + 1 :]
        found, shared = separated(own, *like)
        assert len(found) <= 3
        assert len({one.feature for one in found}) == len(found)
        assert all(share_inside([one], own) >= 0.95 for one in found)
        assert share_inside(found, own) >= 0.9
        assert shared == pytest.approx(max(share_inside(found, other) for other in like), abs=0.01)


def test_scores_that_were_not_measured_separate_nothing():
    nan = float("nan")
    own, other = measured(100, induction=nan, self=0.9), measured(100, 1, induction=0.5, self=0.9)
    assert all(one.feature != "score_induction" for one in separated(own, other, kinds=("self",))[0])
    one = Qualifier("score_induction", 0.0, 1.0, "")
    assert not satisfies((one,), Features.of(own)).any()
    assert satisfies((one,), Features.of(other)).all()


def test_members_that_were_not_measured_are_not_ruled_out():
    """A like cluster without tokens, half and whole: only the measured half is told apart by its induction."""
    own, other = measured(100, induction=0.9, self=0.9), measured(100, 1, induction=0.1, self=0.9)
    other.values[:50, SCORES.index("induction")] = np.nan
    found, shared = separated(own, other, kinds=("self",))
    assert [one.feature for one in found] == ["score_induction"]
    assert shared == 0.5
    other.values[:, SCORES.index("induction")] = np.nan
    found, shared = separated(own, other, kinds=("self",))
    assert shared > 0.5 and all(one.feature != "score_induction" for one in found)
    own, other = measured(100, induction=0.2, self=0.9), measured(100, 1, induction=0.05, self=0.9)
    other.values[:50, SCORES.index("induction")] = np.nan
    both = Measured(*(np.concatenate(parts) for parts in zip(own, other, strict=True)))
    table = named_clusters(np.repeat([0, 1], 100), np.zeros(2), np.ones(2), np.ones(2), both)
    assert table["name"].to_pylist()[0] == "self, over 20 % after copies"
    assert (table["like_share"][0].as_py(), table["confidence"][0].as_py()) == (0.5, 0.5)


@pytest.mark.parametrize("seed", range(6))
def test_no_range_ends_where_nothing_is_beyond(seed):
    """Shares of exactly 0 or 1 are common: what a sink leaves may all be in one place."""
    draw = np.random.default_rng(seed)
    clusters = []
    for number in range(4):
        own = measured(100, 10 * seed + number, first_token=(0.5, 0.99), local_width=(0, 3))
        own.values[:, 1:] = np.where(draw.random(own.values[:, 1:].shape) < 0.3, draw.integers(0, 2), own.values[:, 1:])
        own.values[draw.random(own.values.shape) < 0.05] = np.nan
        for name in ("first_token", "local", "columns", "uniform", "local_width"):
            own.values[:, SCORES.index(name)] = np.nan_to_num(own.values[:, SCORES.index(name)], nan=0.0)
        own.values[:, SCORES.index("columns")] = number % 2
        clusters.append(own)
    for number, own in enumerate(clusters):
        like = clusters[:number] + clusters[number + 1 :]
        found, _ = separated(own, *like, kinds=("first-token sink",))
        for one in found:
            if one.feature.startswith(("score_", "rest_")):
                assert one.low == -inf or one.low > 0
                assert one.high == inf or one.feature == "score_local_width" or 0 < one.high < 1
                assert one.feature == "score_local_width" or one.low == -inf or one.low < 1
            assert not one.words.startswith(("0 ", "over 0 ", "over 100 ", "under 0 ", "under 100 ", "width from 0"))
            assert " to 100 %" not in one.words


def test_what_is_whole_or_nothing_is_told_apart_just_short_of_it():
    whole, none = measured(100, columns=0.5, self=0.9), measured(100, 1, columns=0.5, self=0.9)
    whole.values[:, SCORES.index("columns")], none.values[:, SCORES.index("columns")] = 1, 0
    assert separated(whole, none, kinds=("self",))[0][0].words == "over 99 % in columns"
    assert separated(none, whole, kinds=("self",))[0][0].words == "under 1 % in columns"


def test_entropy_is_never_said():
    own, other = measured(100, entropy=(0.1, 0.2)), measured(100, 1, entropy=(2.0, 3.0))
    assert all(one.feature != "score_entropy" for one in separated(own, other)[0])


@pytest.mark.parametrize(
    ("score", "low", "high", "words"),
    [
        ("local_width", 3.0, 5.0, "width 3 to 5"),
        ("local_width", 4.0, 4.0, "width 4"),
        ("local_width", 3.0, inf, "width from 3"),
        ("local_width", -inf, 5.0, "width up to 5"),
        ("uniform", 0.4, inf, "evenness over 0.40"),
        ("uniform", -inf, 0.4, "evenness under 0.40"),
        ("self", 0.4, 0.6, "40 to 60 % on itself"),
        ("self", 0.8, inf, "over 80 % on itself"),
        ("self", -inf, 0.05, "under 5 % on itself"),
        ("local_width", -inf, 0.0, "width 0"),
    ],
)
def test_ranges_in_words(score, low, high, words):
    assert _words(score, low, high, "on itself" if score == "self" else "", rest=False) == words


def test_the_tables_qualifiers_come_back_as_they_were_found():
    clusters = [measured(100, local=0.8, local_width=(3, 4.9)), measured(100, 1, local=0.8, local_width=(9, 14))]
    both = Measured(*(np.concatenate(parts) for parts in zip(*clusters, strict=True)))
    table = named_clusters(np.repeat([0, 1], 100), np.zeros(2), np.ones(2), np.ones(2), both)
    assert table["name"].to_pylist() == ["local band, width up to 5", "local band, width from 9"]
    first, second = (row["qualifiers"] for row in table.to_pylist())
    assert first == [{"feature": "score_local_width", "low": -inf, "high": 5.0, "words": "width up to 5"}]
    assert second == [{"feature": "score_local_width", "low": 9.0, "high": inf, "words": "width from 9"}]


@pytest.mark.parametrize(
    ("one", "meaning"),
    [
        (Qualifier("score_self", 0.4, 0.6, ""), "attention of a token on itself (score self) from 0.4 to 0.6"),
        (Qualifier("score_uniform", -inf, 0.29, ""), "evenness of attention (score uniform) at most 0.29"),
        (Qualifier("score_first_token", 0.0, 0.0, ""), "attention on the first token (score first_token) equal to 0"),
        (
            Qualifier("rest_previous", 0.8, inf, ""),
            "attention on the previous token as a share of what is not on the first token "
            "(score previous / (1 - score first_token), that at least 0.02) at least 0.8",
        ),
        (
            Qualifier("key_semicolon", 0.12, inf, ""),
            "attention on ';' at least 0.12 more than even attention would put there",
        ),
        (Qualifier("query_newline", 0.12, inf, ""), "attention from newlines at least 0.12 more than the mean query's"),
    ],
)
def test_what_a_qualifier_means(one, meaning):
    assert one.meaning == meaning
    assert one.measured == (one.feature.removeprefix("score_") if one.feature.startswith("score_") else "")


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_its_meaning_are_those_that_are_checked(seed):
    draw = np.random.default_rng(seed)
    clusters = []
    for number in range(4):
        scores = {name: (low := float(draw.uniform(0.1, 0.7)), low + 0.2) for name in ("local", "previous", "uniform")}
        clusters.append(measured(200, 10 * seed + number, local_width=(number + 2.0, number + 5.0), **scores))
    found, _ = separated(clusters[1], clusters[0], *clusters[2:])
    assert found
    for one in found:
        score, said = re.search(r"\(score (\w+)\)(.*)", one.meaning).groups()
        low, high = (re.search(rf"{word} ([\d.]+)", said) for word in ("(?:from|at least)", "(?:to|at most)"))
        for own in clusters:
            values = own.values[:, SCORES.index(score)].astype(np.float64)
            inside = np.ones(len(values), bool)
            inside &= values >= (float(low[1]) if low else -inf)
            inside &= values <= (float(high[1]) if high else inf)
            assert (inside == satisfies((one,), Features.of(own))).mean() > 0.99, "but for the last digit of float32"
