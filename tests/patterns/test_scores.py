"""Scores against float64 loops over rows, written from the definitions in the module's table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.patterns.planted import FAMILIES, planted
from apmae.patterns.scores import score
from apmae.schema import KINDS, SCORES


def causal(count, size, seed=0, spread=2.0):
    scores = np.random.default_rng(seed).normal(0, spread, (count, size, size))
    weights = np.tril(np.exp(scores))
    return weights / weights.sum(-1, keepdims=True)


def mean_mass(p, keys_of):
    """Mean over the rows that have keys of the mass on them; NaN without such a row."""
    masses = [sum(p[q, k] for k in keys) for q in range(len(p)) if (keys := keys_of(q))]
    return float(np.mean(masses)) if masses else math.nan


def scores_by_loops(p, ids):
    size = len(p)
    strengths = []
    for key in range(1, size):
        rows = range(key + 8, size)
        if len(rows) >= 16:
            strengths.append(np.mean([p[q, key] for q in rows]))
    rows = [-sum(x * math.log(x) for x in p[q] if x > 0) / math.log(q + 1) for q in range(1, size)]
    return {
        "first_token": mean_mass(p, lambda q: [0] if q else []),
        "previous": mean_mass(p, lambda q: [q - 1] if q else []),
        "self": mean_mass(p, lambda q: [q] if q else []),
        "local": mean_mass(p, lambda q: list(range(q - 8, q - 1)) if q >= 8 else []),
        "duplicate": mean_mass(p, lambda q: [k for k in range(q) if ids[k] == ids[q]]),
        "induction": mean_mass(p, lambda q: [k for k in range(1, q) if ids[k - 1] == ids[q]]),
        "columns": min(sum(sorted(strengths)[-4:]), 1.0) if strengths else math.nan,
        "uniform": float(np.mean(rows)) if rows else math.nan,
    }


def kinds_by_loops(p, kinds):
    size = len(p)
    key_kinds, query_kinds = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    away = [1 - p[q, 0] for q in range(1, size)]
    for kind in range(len(KINDS)):
        keys = [k for k in range(1, size) if kinds[k] == kind]
        excess = [sum(p[q, k] - 1 / (q + 1) for k in keys if k <= q) for q in range(1, size)]
        key_kinds[kind] = np.mean(excess)
        own = [1 - p[q, 0] for q in range(1, size) if kinds[q] == kind]
        query_kinds[kind] = np.mean(own) - np.mean(away) if own else 0.0
    return key_kinds, query_kinds


@given(st.integers(2, 40), st.integers(1, 8), st.sampled_from([0.3, 2.0, 8.0]), st.integers(0, 1000))
def test_scores_are_the_loops_over_rows(size, vocabulary, spread, seed):
    p = causal(3, size, seed, spread)
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, vocabulary, size)
    kinds = draw.integers(0, len(KINDS), size).astype(np.int8)
    values, key_kinds, query_kinds = score(torch.from_numpy(p).float(), ids, kinds)
    for number in range(3):
        expected = scores_by_loops(p[number], ids)
        assert set(expected) == set(SCORES)
        wanted = np.array([expected[name] for name in SCORES])
        assert np.allclose(values[number], wanted, atol=1e-5, equal_nan=True)
        by_key, by_query = kinds_by_loops(p[number], kinds)
        assert np.allclose(key_kinds[number], by_key, atol=1e-5)
        assert np.allclose(query_kinds[number], by_query, atol=1e-5)
    measured = values[~np.isnan(values)]
    assert measured.min() >= -1e-6
    assert measured.max() <= 1 + 1e-5
    assert max(np.abs(key_kinds).max(), np.abs(query_kinds).max()) <= 1 + 1e-5


def test_one_token_leaves_nothing_to_measure():
    values, key_kinds, query_kinds = score(torch.ones(2, 1, 1), np.array([5]), np.zeros(1, np.int8))
    assert values.shape == (2, len(SCORES))
    assert np.isnan(values).all()
    assert not key_kinds.any()
    assert not query_kinds.any()


def test_scores_that_need_tokens_are_nan_without_them():
    values, key_kinds, _ = score(torch.from_numpy(causal(1, 30)).float(), None, None)
    missing = {name for name, value in zip(SCORES, values[0], strict=True) if np.isnan(value)}
    assert missing == {"duplicate", "induction"}
    assert not key_kinds.any()


def test_tokens_without_a_copy_leave_duplicate_and_induction_unmeasured():
    values = score(torch.from_numpy(causal(1, 12)).float(), np.arange(12), None).values[0]
    assert np.isnan(values[[SCORES.index("duplicate"), SCORES.index("induction")]]).all()


@pytest.mark.parametrize(
    ("family", "name"),
    [("first_token", "first_token"), ("previous", "previous"), ("self", "self"), ("columns", "columns")],
)
def test_a_planted_behaviour_scores_highest_at_its_own_name(family, name):
    patterns, labels = planted(3, size=96, noise=0.0)
    own = patterns[labels == list(FAMILIES).index(family)]
    values = score(torch.from_numpy(own.probabilities()), None, None).values
    behaviours = [i for i, other in enumerate(SCORES) if other not in ("uniform", "duplicate", "induction")]
    best = np.array(behaviours)[values[:, behaviours].argmax(1)]
    assert [SCORES[i] for i in best] == [name] * 3


def test_an_even_pattern_is_uniform_and_prefers_no_kind():
    size = 40
    even = np.tril(np.ones((1, size, size))) / np.arange(1, size + 1)[:, None]
    kinds = np.random.default_rng(0).integers(0, len(KINDS), size).astype(np.int8)
    values, key_kinds, _ = score(torch.from_numpy(even).float(), None, kinds)
    assert values[0, SCORES.index("uniform")] == pytest.approx(1, abs=1e-5)
    assert np.abs(key_kinds).max() < 1e-6


def test_a_perfect_induction_head_scores_one():
    ids = np.tile(np.arange(10), 3)
    p = np.zeros((1, 30, 30))
    p[0, :10, 0] = 1
    for q in range(10, 30):
        p[0, q, q - 9] = 1  # the token after the last earlier copy
    values = score(torch.from_numpy(p).float(), ids, None).values[0]
    assert values[SCORES.index("induction")] == pytest.approx(1)
    assert values[SCORES.index("duplicate")] == 0
