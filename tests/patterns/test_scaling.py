"""Scalings against float64 loops over the entries of a pattern."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler

from apmae.config import APMAEConfig
from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns
from apmae.patterns.scaling import INVERSES, SCALINGS, smallest_finite

patterns_of = st.builds(
    lambda size, spread, seed: log_pattern(size, spread, seed),
    st.integers(1, 40),
    st.sampled_from([0.01, 1.0, 6.0, 60.0]),
    st.integers(0, 1000),
)


def log_pattern(size, spread, seed):
    """float64 (1, t, t) log probabilities of random scores, -inf above the diagonal."""
    scores = np.random.default_rng(seed).normal(0, spread, (1, size, size))
    scores[:, np.triu(np.ones((size, size), bool), 1)] = -np.inf
    top = scores.max(-1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(-1, keepdims=True))


def from_logs(logs, patch=8):
    """Patterns from logs, as the tap makes them; float32 probabilities would lose small ones."""
    zeros = np.zeros(len(logs), np.int64)
    packed = geometry.pack(torch.from_numpy(logs).float(), patch, -torch.inf)
    return Patterns(packed, logs.shape[1], prompt=np.arange(len(logs)), layer=zeros, head=zeros)


def scaled_by_loops(logs, scaling):
    size = len(logs)
    finite = [logs[q, k] for q in range(size) for k in range(q + 1) if math.isfinite(logs[q, k])]
    smallest = min(finite, default=0.0)
    out = np.zeros((size, size))
    for q in range(size):
        for k in range(q + 1):
            value = logs[q, k]
            if scaling == "raw":
                out[q, k] = math.exp(value)
            elif scaling == "log":
                out[q, k] = max(value, smallest)
            elif math.isfinite(value):
                out[q, k] = 1.0 if smallest == 0 else (value - smallest) / -smallest
    return out


def test_the_registry_is_what_a_configuration_accepts():
    assert set(SCALINGS) == set(APMAEConfig.model_fields["scaling"].annotation.__args__)


@pytest.mark.parametrize("scaling", SCALINGS)
@given(logs=patterns_of)
def test_scalings_are_the_loops_over_entries(scaling, logs):
    scaled = from_logs(logs).scaled(scaling)
    assert scaled.dtype == np.float32
    expected = scaled_by_loops(logs[0], scaling)
    assert np.abs(scaled[0] - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("scaling", SCALINGS)
@given(logs=patterns_of)
def test_an_inverse_gives_the_log_probabilities_back(scaling, logs):
    """As far as float32 allows: for raw, probabilities over 1e-37; for log_normalize, to 1e-6 of the smallest log."""
    assert set(INVERSES) == set(SCALINGS)
    patterns = from_logs(logs)
    truth = patterns.log_patches
    back = INVERSES[scaling](patterns.scaled_patches(scaling), smallest_finite(truth))
    known = truth.isfinite() & (truth > (-85 if scaling == "raw" else -torch.inf))
    assert known.any()
    error = (back - truth).double()[known].abs().max().item()
    assert error <= 1e-6 * max(1.0, -smallest_finite(truth).item())


def test_predictions_of_zero_or_less_have_no_finite_log():
    raw = torch.tensor([-0.1, 0.0, 0.5, 2.0]).reshape(1, 1, 2, 2)
    back = INVERSES["raw"](raw, torch.zeros(1, 1, 1, 1)).flatten().tolist()
    assert back == [-math.inf, -math.inf, pytest.approx(math.log(0.5)), pytest.approx(math.log(2))]


@given(logs=patterns_of)
def test_log_normalize_is_min_max_scaling_with_certainty_as_the_top(logs):
    size = logs.shape[1]
    lower = np.tril(np.ones((size, size), bool))
    values = logs[0][lower]
    if values.min() > -1e-3:
        return  # a pattern of certainties cannot be scaled
    expected = MinMaxScaler().fit(np.append(values, 0.0)[:, None]).transform(values[:, None])[:, 0]
    assert np.abs(from_logs(logs).scaled()[0][lower] - expected).max() <= 1e-5


@given(logs=patterns_of)
def test_log_normalize_stays_in_the_unit_interval_and_reaches_its_ends(logs):
    scaled = from_logs(logs).scaled()
    assert np.isfinite(scaled).all()
    assert scaled.min() >= 0
    assert scaled.max() == 1  # the first token attends to itself alone
    assert (scaled[:, np.triu(np.ones(logs.shape[1:], bool), 1)] == 0).all()


@given(logs=patterns_of, more=st.integers(0, 20), patch=st.integers(1, 12))
def test_neither_room_for_more_tokens_nor_other_patches_change_what_is_seen(logs, more, patch):
    patterns = from_logs(logs)
    size = patterns.size
    other = patterns.repacked(patch).resized(size + more)
    for scaling in ("log_normalize", "raw"):
        seen = other.scaled(scaling)
        assert np.array_equal(seen[:, :size, :size], patterns.scaled(scaling))
        assert not seen[:, size:].any()
        assert not seen[:, :, size:].any()


@pytest.mark.parametrize("keys", [[0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3]])
def test_a_pattern_of_certainties_has_ones_where_it_attends(keys):
    hard = np.zeros((1, 5, 5))
    hard[0, range(5), keys] = 1
    scaled = Patterns.from_probabilities(hard, patch=2).scaled()
    assert np.array_equal(scaled, hard.astype(np.float32))


def test_one_token_is_a_certainty():
    assert Patterns.from_probabilities(np.ones((1, 1, 1))).scaled().tolist() == [[[1.0]]]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_pattern_of_padding_alone_is_empty(scaling):
    assert not from_logs(np.full((2, 9, 9), -np.inf), patch=4).scaled(scaling).any()


def test_one_pattern_does_not_scale_another():
    sharp, flat = log_pattern(12, 20.0, 1), log_pattern(12, 0.5, 2)
    both = from_logs(np.concatenate([sharp, flat])).scaled()
    assert np.array_equal(both[:1], from_logs(sharp).scaled())
    assert np.array_equal(both[1:], from_logs(flat).scaled())


def test_entries_that_float32_softmax_would_lose_keep_their_place():
    logs = log_pattern(6, 1.0, 0)
    logs[0, 3, 1] = -250.0
    logs[0, 4, 2] = -125.0
    scaled = from_logs(logs).scaled()[0]
    assert scaled[3, 1] == 0
    assert scaled[4, 2] == pytest.approx(0.5, abs=1e-6)


def test_scaling_leaves_the_patterns_alone():
    patterns = from_logs(log_pattern(10, 3.0, 0))
    before = patterns.log_patches.clone()
    for scaling in SCALINGS:
        patterns.scaled(scaling)
    assert torch.equal(patterns.log_patches, before)
