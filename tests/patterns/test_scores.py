"""Scores against float64 loops over one prompt's rows, written from the table in docs/scores.md."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.errors import CaptureError
from apmae.patterns import scores as module
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import FAMILIES, planted
from apmae.patterns.scores import score
from apmae.schema import KINDS, SCORES

TEXTS = ("<pad>", "word", "return", "12", '"', "+", "(", ")", ";", ",", "\n", " ", "\u00a7")
"""A token of each kind, in the order of ``KINDS``."""


def softmax(scores, causal=True):
    weights = np.exp(scores)
    weights = np.tril(weights) if causal else weights
    return weights / weights.sum(-1, keepdims=True)


def drawn(count, size, draw, spread=2.0, causal=True):
    """float64 (count, size, size): noise, with blocks in every second pattern and a few sinks in the others."""
    scores = draw.normal(0, spread, (count, size, size))
    block = np.cumsum(draw.random(size) < 0.08)
    scores[::2] += 6 * (block[:, None] == block)
    scores[1::2, :, draw.integers(0, size, 3)] += draw.integers(0, 8)
    return softmax(scores, causal)


def mean_mass(p, keys_of):
    """Mean mass on ``keys_of(q)`` over the rows q that have such keys; NaN without such a row."""
    masses = [sum(p[q, k] for k in keys) for q in range(len(p)) if (keys := list(keys_of(q)))]
    return float(np.mean(masses)) if masses else math.nan


def columns_by_loops(p, causal):
    size = len(p)
    strengths = []
    for key in range(1, size):
        rows = [q for q in range(size) if (q - key if causal else abs(q - key)) >= 8]
        if len(rows) >= 16:
            strengths.append(np.mean([p[q, key] for q in rows]))
    return min(sum(sorted(strengths)[-4:]), 1.0) if strengths else math.nan


def local_width_by_loops(p):
    size = len(p)
    by_distance = [0.0] * size
    for q in range(size):
        for k in range(1, size):
            by_distance[abs(q - k)] += p[q, k]
    total = sum(by_distance)
    if size < 2 or total < 0.01 * (size - 1):
        return math.nan
    return next(w for w in range(size) if sum(by_distance[: w + 1]) >= (0.5 - 1e-5) * total)


def blocks_by_loops(p):
    size = len(p)
    if size < 2:
        return math.nan
    away = [sum(p[q, 1:]) for q in range(size)]
    band = [np.mean([p[q, q - d] for q in range(d + 1, size)]) if d + 1 < size else 0.0 for d in range(size)]

    def sent(q, first):
        """Share of row q that the band sends to keys 1 to first - 1."""
        return sum(band[q - k] for k in range(1, first)) / sum(band[q - k] for k in range(1, q + 1))

    contrast = {}
    for b in range(8, size - 7):
        rows = range(b, b + 8)
        expected = sum(away[q] * sent(q, b) for q in rows)
        crossing = sum(sum(p[q, 1:b]) for q in rows)
        contrast[b] = 1 - crossing / expected if expected >= 0.4 else 0.0
    clearest = {b: max(contrast.get(b + i, 0) for i in range(-4, 5)) for b in contrast}
    borders = [b for b, clear in contrast.items() if clear >= 0.5 and clear == clearest[b]]
    crossing = expected = even = 0.0
    for q in range(1, size):
        first = max([b for b in borders if b <= q], default=1)
        crossing += sum(p[q, 1:first])
        expected += away[q] * sent(q, first)
        even += sum(p[q, 1 : q - 1]) * (first - 1) / q
    return even / (size - 1) * (1 - min(crossing / expected, 1)) if borders else 0.0


def sinks_by_loops(p, causal=True):
    """The sinks, the strongest first, and ``later_sink``."""
    size = len(p)
    first = [next(k for k in range(size) if p[q, k] > 0) for q in range(size)]
    sinks, judged = {}, False
    for key in range(size):
        rows = [q for q in range(size) if q != key and first[q] <= key and (q > key or not causal)]
        if len(rows) >= 16:
            judged = judged or key > 0
            strength = np.mean([p[q, key] for q in rows])
            if strength >= 0.2 and np.mean([p[q, key] >= 0.05 for q in rows]) >= 0.9:
                sinks[key] = strength, rows
    seeing = {q for key, (_, rows) in sinks.items() if key for q in rows}
    if len(seeing) < (size - 1) / 4:
        seeing, sinks = set(), {key: found for key, found in sinks.items() if key == 0}
    mass = sum(p[q, key] for key, (_, rows) in sinks.items() if key for q in rows)
    later = min(mass / len(seeing), 1.0) if seeing else 0.0
    return tuple(sorted(sinks, key=lambda key: -sinks[key][0])), later if judged else math.nan


def scores_by_loops(p, ids, causal=True):
    size = len(p)
    entropies = [-sum(x * math.log(x) for x in p[q] if x > 0) for q in range(1, size)]
    keys = [(q + 1 if causal else size) for q in range(1, size)]
    others = [range(q) if causal else [k for k in range(size) if k != q] for q in range(size)]
    return {
        "first_token": mean_mass(p, lambda q: [0] if q else []),
        "previous": mean_mass(p, lambda q: [q - 1] if q else []),
        "self": mean_mass(p, lambda q: [q] if q else []),
        "local": mean_mass(p, lambda q: [k for k in range(size) if 2 <= abs(q - k) <= 8] if q >= 8 else []),
        "duplicate": mean_mass(p, lambda q: [k for k in others[q] if ids[k] == ids[q]]),
        "induction": mean_mass(p, lambda q: [k for k in range(1, q) if ids[k - 1] == ids[q]]) if causal else math.nan,
        "retrieval": mean_mass(p, lambda q: [k for k in range(1, size) if (q - k if causal else abs(q - k)) >= 32]),
        "columns": columns_by_loops(p, causal),
        "blocks": blocks_by_loops(p) if causal else math.nan,
        "uniform": float(np.mean(entropies / np.log(keys))) if size > 1 else math.nan,
        "entropy": float(np.mean(entropies)) if size > 1 else math.nan,
        "local_width": local_width_by_loops(p),
        "later_sink": sinks_by_loops(p, causal)[1],
    }


def kinds_by_loops(p, kinds, causal=True):
    size = len(p)
    key_kinds, query_kinds = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    away = [1 - p[q, 0] for q in range(1, size)]
    for kind in range(len(KINDS)):
        keys = [k for k in range(1, size) if kinds[k] == kind]
        excess = [
            sum(p[q, k] - (1 / (q + 1) if causal else 1 / size) for k in keys if k <= q or not causal)
            for q in range(1, size)
        ]
        key_kinds[kind] = np.mean(excess) if excess else 0.0
        own = [1 - p[q, 0] for q in range(1, size) if kinds[q] == kind]
        query_kinds[kind] = np.mean(own) - np.mean(away) if own else 0.0
    return key_kinds, query_kinds


def check(found, number, p, ids, kinds, causal=True):
    expected = scores_by_loops(p, ids, causal)
    assert set(expected) == set(SCORES)
    wanted = np.array([expected[name] for name in SCORES])
    np.testing.assert_allclose(found.values[number], wanted, atol=2e-5)
    assert found.sinks[number] == sinks_by_loops(p, causal)[0]
    by_key, by_query = kinds_by_loops(p, kinds, causal)
    np.testing.assert_allclose(found.key_kinds[number], by_key, atol=1e-5)
    np.testing.assert_allclose(found.query_kinds[number], by_query, atol=1e-5)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=3),
    st.sampled_from(["left", "right"]),
    st.booleans(),
    st.integers(1, 12),
    st.sampled_from([0.3, 2.0, 8.0]),
    st.sampled_from([4, 8, 32]),
    st.integers(0, 1000),
)
def test_a_padded_batch_scores_as_the_loops_over_each_prompts_rows(
    lengths, side, causal, vocabulary, spread, patch, seed
):
    draw = np.random.default_rng(seed)
    size = max(lengths)
    dense = np.zeros((2 * len(lengths), size, size))
    ids, kinds = (draw.integers(0, most, (len(lengths), size)) for most in (vocabulary, len(KINDS)))
    own = [slice(size - length, size) if side == "left" else slice(0, length) for length in lengths]
    for number, rows in enumerate(own):
        dense[2 * number : 2 * number + 2, rows, rows] = drawn(2, lengths[number], draw, spread, causal)
    prompt = np.repeat(np.arange(len(lengths)), 2)
    patterns = Patterns.from_probabilities(dense, patch=patch, prompt=prompt, causal=causal)
    found = score(patterns, ids, [[TEXTS[kind] for kind in row] for row in kinds])
    for number, rows in enumerate(own):
        for head in (2 * number, 2 * number + 1):
            check(found, head, dense[head, rows, rows], ids[number, rows], kinds[number, rows], causal)
    for index, name in enumerate(SCORES):
        measured = found.values[:, index][~np.isnan(found.values[:, index])]
        most = {"entropy": math.log(size), "local_width": size - 1}.get(name, 1)
        assert ((measured >= -1e-6) & (measured <= most + 1e-5)).all()
    assert max(np.abs(found.key_kinds).max(), np.abs(found.query_kinds).max()) <= 1 + 1e-5


def test_a_long_pattern_scores_like_the_loops():
    draw = np.random.default_rng(5)
    ids, kinds = draw.integers(0, 40, 256), draw.integers(0, len(KINDS), 256)
    p = drawn(2, 256, draw)
    found = score(Patterns.from_probabilities(p, prompt=[0, 0]), [ids], [[TEXTS[kind] for kind in kinds]])
    for number in range(2):
        check(found, number, p[number], ids, kinds)
    assert found["blocks"][0] > 0.3 > found["blocks"][1]


@pytest.fixture(scope="module")
def batch():
    """Three prompts with four heads each, not the same ones, and their tokens."""
    draw = np.random.default_rng(0)
    patterns = Patterns.from_probabilities(
        drawn(12, 70, draw),
        prompt=np.repeat([4, 5, 9], 4),
        layer=draw.integers(0, 6, 12),
        head=draw.integers(0, 8, 12),
    )
    ids = draw.integers(0, 20, (3, 70))
    return patterns, ids, [[TEXTS[token % 13] for token in row] for row in ids]


def same(found, wanted):
    for name in ("prompt", "layer", "head", "values", "key_kinds", "query_kinds"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-6, err_msg=name)
    assert found.sinks == wanted.sinks


def some(found, rows):
    fields = ("prompt", "layer", "head", "values", "key_kinds", "query_kinds")
    sinks = tuple(found.sinks[number] for number in np.arange(len(found.sinks))[rows])
    return type(found)(*(getattr(found, name)[rows] for name in fields), sinks)


def test_a_batch_scores_like_its_prompts_alone_in_any_order(batch, monkeypatch):
    patterns, ids, tokens = batch
    together = score(patterns, ids, tokens)
    for number, prompt in enumerate((4, 5, 9)):
        own = np.flatnonzero(patterns.prompt == prompt)
        same(some(together, own), score(patterns[own], ids[[number]], [tokens[number]]))
    order = np.random.default_rng(1).permutation(12)
    same(some(together, order), score(patterns[order], ids, tokens))
    same(together, score(patterns, torch.from_numpy(ids), [tuple(row) for row in tokens]))
    monkeypatch.setattr(module, "_PIXELS", 3 * patterns.log_patches[0].numel())
    same(together, score(patterns, ids, tokens))


def test_half_precision_and_empty_rows_at_the_end_change_little(batch):
    patterns, ids, tokens = batch
    wanted = score(patterns, ids, tokens)
    same(score(patterns.resized(200), ids, tokens), wanted)
    half = patterns[:]
    half.log_patches = half.log_patches.half()
    found = score(half, ids, tokens)
    np.testing.assert_allclose(found.values, wanted.values, atol=5e-3)


def test_the_first_rows_of_a_pattern_score_like_a_shorter_prompt(batch):
    patterns, ids, _ = batch
    lengths = np.random.default_rng(2).integers(1, 70, 12)
    found = score(patterns.cropped(lengths), ids)
    for number, length in enumerate(lengths):
        dense = patterns.probabilities()[number : number + 1, :length, :length]
        alone = score(Patterns.from_probabilities(dense), [ids[number // 4, :length]])
        np.testing.assert_allclose(found.values[number], alone.values[0], atol=1e-5)


def test_the_table_names_every_score(batch):
    patterns, ids, _ = batch
    found = score(patterns, ids)
    assert found.table.column_names == ["prompt", "layer", "head", *SCORES, "sinks"]
    np.testing.assert_array_equal(found.table["head"], patterns.head)
    np.testing.assert_array_equal(found.table["induction"], found["induction"])
    assert score(patterns[:0]).table.num_rows == 0


def test_one_token_leaves_nothing_to_measure():
    found = score(Patterns.from_probabilities(np.ones((2, 1, 1))), [[5], [5]], [[";"], [";"]])
    assert found.values.shape == (2, len(SCORES))
    assert np.isnan(found.values).all()
    assert not found.key_kinds.any()
    assert not found.query_kinds.any()


def test_scores_that_need_tokens_are_nan_without_them(batch):
    found = score(batch[0])
    missing = {name for name in SCORES if np.isnan(found[name]).any()}
    assert missing == {"duplicate", "induction"}
    assert not found.key_kinds.any()


def test_tokens_without_a_copy_leave_duplicate_and_induction_unmeasured(batch):
    found = score(batch[0][:1], [np.arange(70)])
    assert np.isnan([found["duplicate"][0], found["induction"][0]]).all()


def test_square_patterns_have_no_order_to_measure(batch):
    patterns, ids, _ = batch
    square = Patterns.from_probabilities(drawn(4, 70, np.random.default_rng(3), causal=False), causal=False)
    found = score(square, ids[[0, 0, 0, 0]])
    assert {name for name in SCORES if np.isnan(found[name]).any()} == {"induction", "blocks"}
    assert not np.isnan(score(patterns, ids).values).any()


def test_tokens_that_the_patterns_carry_are_used(batch):
    patterns, ids, tokens = batch
    named = Patterns(
        patterns.log_patches,
        patterns.size,
        prompt=patterns.prompt,
        layer=patterns.layer,
        head=patterns.head,
        tokens=dict(zip((4, 5, 9), tokens, strict=True)),
    )
    same(score(named, ids), score(patterns, ids, tokens))


def reaching(patterns, reach, length):
    return Patterns(
        patterns.log_patches,
        patterns.size,
        prompt=patterns.prompt,
        layer=patterns.layer,
        head=patterns.head,
        reach=reach,
        lengths={4: length, 5: 70, 9: 70},
    )


def test_rows_that_are_blocks_of_tokens_have_no_token_scores(batch):
    patterns, ids, tokens = batch
    longer = [list(range(100)), ids[1], ids[2]]
    found = score(reaching(patterns, "pool", 100), longer, [["word"] * 100, *tokens[1:]])
    wanted = score(patterns, ids, tokens)
    assert np.isnan(found["induction"][:4]).all()
    assert not found.key_kinds[:4].any()
    same(some(found, slice(4, 12)), some(wanted, slice(4, 12)))
    assert np.array_equal(found["blocks"], wanted["blocks"])


def test_a_cropped_prompt_is_scored_over_its_last_tokens(batch):
    patterns, ids, tokens = batch
    longer = [[*range(30), *ids[0]], ids[1], ids[2]]
    found = score(reaching(patterns, "crop", 100), longer, [["word"] * 30 + tokens[0], *tokens[1:]])
    same(found, score(patterns, ids, tokens))


def test_tokens_that_do_not_fit_are_refused(batch):
    patterns, ids, tokens = batch
    with pytest.raises(CaptureError, match="one row of token_ids for each of 3 prompts, got 2"):
        score(patterns, ids[:2])
    with pytest.raises(CaptureError, match="expected 70 tokens for a prompt of as many rows, got 69"):
        score(patterns, ids[:, 1:])
    with pytest.raises(CaptureError, match="expected 70 tokens for a prompt of as many rows, got 1"):
        score(patterns, ids, [[";"]] * 3)
    with pytest.raises(CaptureError, match=r"shape \(prompts, tokens\), got a row of shape \(1, 70\)"):
        score(patterns, ids[:, None])
    with pytest.raises(CaptureError, match="shape .* type float64"):
        score(patterns, ids.astype(float))
    with pytest.raises(CaptureError, match="the 100 tokens of prompt 4, got 70 token_ids; leave padding out"):
        score(reaching(patterns, "crop", 100), ids)
    padded = np.zeros((3, 101), int)
    with pytest.raises(CaptureError, match="the 100 tokens of prompt 4, got 101 token_ids; leave padding out"):
        score(reaching(patterns, "crop", 100), padded)


@pytest.fixture(scope="module")
def families():
    # Up to sink_and_previous: some other families are measured by two scores, such as stripes, which are columns.
    simple = tuple(FAMILIES)[:9]
    patterns, which = planted(6, size=256, noise=0.5, families=simple, seed=2)
    found = score(patterns)
    return {family: some(found, which == number) for number, family in enumerate(simple)}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *[(name, name) for name in ("first_token", "previous", "self", "columns", "blocks", "uniform")],
        ("offset", "retrieval"),
    ],
)
def test_a_planted_behaviour_scores_highest_in_its_own_family(families, family, name):
    others = [other for other in families if other not in (family, "sink_and_previous")]
    assert families[family][name].min() > max(families[other][name].max() for other in others if other != "columns")
    assert families[family][name].min() > families["columns"][name].mean() or family == "columns"


def test_blocks_are_high_for_blocks_alone(families):
    assert families["blocks"]["blocks"].min() > 0.3
    for family, found in families.items():
        if family != "blocks":
            assert found["blocks"].mean() < 0.2, family
            assert found["blocks"].max() < (0.05 if family != "columns" else 0.3), family


@pytest.mark.parametrize("length", [10, 24, 64])
def test_blocks_of_one_length_score_more_the_more_there_are(length):
    block = np.arange(256) // length
    p = softmax(8.0 * (block[:, None] == block) + np.random.default_rng(0).normal(size=(256, 256)))
    found = score(Patterns.from_probabilities(p[None]))
    further = p[:, 1:].sum() - sum(p[q, q] + p[q, q - 1] for q in range(1, 256))
    most = further / 255 * (1 - np.mean([(q % length + 1) / (q + 1) for q in range(256)]))
    assert found["blocks"][0] == pytest.approx(most, abs=0.1)


def test_two_of_the_shortest_blocks_are_found_whatever_the_patch():
    block = np.arange(16) // 8
    p = softmax(8.0 * (block[:, None] == block) + np.random.default_rng(0).normal(size=(16, 16)))
    for patch in (4, 8, 16, 32):
        found = score(Patterns.from_probabilities(p[None], patch=patch))
        assert found["blocks"][0] == pytest.approx(blocks_by_loops(p), abs=1e-5)
        assert found["blocks"][0] > 0.1


@pytest.mark.parametrize("width", [1, 5, 20])
def test_a_band_has_its_width_and_no_blocks(width):
    query, key = np.indices((200, 200))
    found = score(Patterns.from_probabilities(softmax(30.0 * (query - key <= width))[None]))
    assert found["local_width"][0] == pytest.approx(width / 2, abs=1)
    assert found["blocks"][0] == 0
    assert found["retrieval"][0] == pytest.approx(0, abs=1e-6)


def test_a_pure_sink_has_no_width():
    sink = np.zeros((1, 40, 40))
    sink[:, :, 0] = 1
    found = score(Patterns.from_probabilities(sink))
    assert np.isnan(found["local_width"][0])
    assert (found["first_token"][0], found["entropy"][0], found["blocks"][0]) == (1, 0, 0)


def test_an_even_pattern_is_uniform_and_prefers_no_kind():
    size = 40
    even = np.tril(np.ones((1, size, size))) / np.arange(1, size + 1)[:, None]
    kinds = np.random.default_rng(0).integers(0, len(KINDS), size)
    found = score(Patterns.from_probabilities(even), None, [[TEXTS[kind] for kind in kinds]])
    assert found["uniform"][0] == pytest.approx(1, abs=1e-5)
    assert found["entropy"][0] == pytest.approx(np.log(np.arange(2, size + 1)).mean(), abs=1e-5)
    assert np.abs(found.key_kinds).max() < 1e-6


def test_a_perfect_induction_head_scores_one():
    ids = np.tile(np.arange(10), 3)
    p = np.zeros((1, 30, 30))
    p[0, :10, 0] = 1
    for q in range(10, 30):
        p[0, q, q - 9] = 1  # the token after the last earlier copy
    found = score(Patterns.from_probabilities(p), [ids])
    assert found["induction"][0] == pytest.approx(1)
    assert found["duplicate"][0] == 0
