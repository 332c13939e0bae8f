"""Divergence against float64 loops, scipy's rel_entr, and properties that must always hold."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from apmae.patterns import geometry
from apmae.patterns.divergence import SMALLEST, divergence, uniform_divergence

PATCH = 4

cases = st.builds(
    lambda size, spread, seed: case(size, spread, seed),
    st.integers(1, 19),
    st.sampled_from([0.01, 1.0, 4.0]),
    st.integers(0, 1000),
)


def case(size, spread, seed):
    """Dense true and predicted logs (t, t), -inf above the diagonal, and which patches of (grid, grid) are hidden."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(0, spread, (size, size))
    scores[np.triu(np.ones((size, size), bool), 1)] = -np.inf
    logs = scores - scores.max(-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    predicted = logs + draw.normal(0, 1, logs.shape) * np.isfinite(logs)
    grid = geometry.grid_size(size, PATCH)
    hidden = np.tril(draw.random((grid, grid)) < 0.6)
    hidden[0, 0] = True  # the first token's whole attention, so that the hidden mass is never 0
    return logs, predicted, hidden


def packed(dense):
    return geometry.pack(torch.from_numpy(dense)[None], PATCH, -torch.inf)


def measured(logs, predicted, hidden):
    rows, columns = geometry.tiles(len(hidden))
    given_patches = torch.from_numpy(hidden)[rows, columns][None]
    return divergence(packed(logs), packed(predicted), given_patches).item()


def hidden_keys(hidden, logs, query):
    return [key for key in range(query + 1) if hidden[query // PATCH, key // PATCH] and np.isfinite(logs[query, key])]


def by_loops(logs, predicted, hidden):
    total = weight = 0.0
    for query in range(len(logs)):
        keys = hidden_keys(hidden, logs, query)
        truth = [math.exp(logs[query, key]) for key in keys]
        guess = [math.exp(min(max(predicted[query, key], math.log(1e-6)), 0.0)) for key in keys]
        mass = sum(truth)
        for p, q in zip(truth, guess, strict=True):
            total -= p * math.log(q / sum(guess))  # the surprise ...
            total += p * math.log(p / mass) if p else 0  # ... minus the entropy
        weight += mass
    return total / weight


@given(case=cases)
def test_it_is_surprise_less_entropy_over_hidden_keys(case):
    assert measured(*case) == pytest.approx(by_loops(*case), rel=1e-9, abs=1e-12)


def square_case(size, seed):
    """As :func:`case`, of an encoder: every query sees every key."""
    draw = np.random.default_rng(seed)
    logs = draw.normal(0, 2, (size, size))
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    grid = geometry.grid_size(size, PATCH)
    hidden = draw.random((grid, grid)) < 0.6
    hidden[0, -1] = True
    return logs, logs + draw.normal(0, 1, logs.shape), hidden


@pytest.mark.parametrize("size", [4, 7, 16])
def test_hidden_keys_of_square_patterns_are_on_both_sides(size):
    logs, predicted, hidden = square_case(size, size)
    given_patches = torch.from_numpy(hidden).flatten()[None]
    patches = [
        geometry.pack(torch.from_numpy(dense)[None], PATCH, -torch.inf, causal=False) for dense in (logs, predicted)
    ]
    for guess, dense in ((patches[1], predicted), (torch.zeros_like(patches[1]), np.zeros_like(predicted))):
        total = weight = 0.0
        for query in range(size):
            keys = np.flatnonzero(hidden[query // PATCH, np.arange(size) // PATCH])
            truth = np.exp(logs[query, keys])
            shares = np.exp(np.clip(dense[query, keys], math.log(SMALLEST), 0))
            total += rel_entr(truth / truth.sum(), shares / shares.sum()).sum() * truth.sum() if len(keys) else 0
            weight += truth.sum()
        found = divergence(patches[0], guess, given_patches, causal=False).item()
        assert found == pytest.approx(total / weight, rel=1e-9, abs=1e-12)
    assert uniform_divergence(patches[0], given_patches, causal=False).item() == found


@given(case=cases)
def test_of_a_whole_row_it_is_that_of_the_hidden_part(case):
    """With visible entries known, the row's prediction is a distribution, and scipy can compute its divergence."""
    logs, predicted, hidden = case
    total = weight = 0.0
    for query in range(len(logs)):
        keys = hidden_keys(hidden, logs, query)
        row = np.exp(logs[query])
        mass = row[keys].sum()
        if mass:
            guess = np.exp(np.clip(predicted[query, keys], math.log(SMALLEST), 0))
            whole = row.copy()
            whole[keys] = mass * guess / guess.sum()
            assert whole.sum() == pytest.approx(1)
            total, weight = total + rel_entr(row, whole).sum(), weight + mass
    assert measured(*case) == pytest.approx(total / weight, rel=1e-9, abs=1e-12)


@given(case=cases)
def test_it_is_never_negative_and_zero_for_the_truth(case):
    logs, predicted, hidden = case
    assert measured(logs, predicted, hidden) >= 0
    assert 0 <= measured(logs, logs, hidden) <= len(logs) * SMALLEST  # the most that the floor adds to a row


@given(case=cases, seed=st.integers(0, 100))
def test_a_rows_level_does_not_matter(case, seed):
    """As long as nothing leaves the range to which predictions are clamped."""
    logs, predicted, hidden = case
    inside = np.where(np.isfinite(predicted), np.clip(predicted, -6.0, 0.0) - 4.0, predicted)
    moved = inside + np.random.default_rng(seed).uniform(-3, 3, (len(logs), 1))
    assert measured(logs, moved, hidden) == pytest.approx(measured(logs, inside, hidden), rel=1e-9, abs=1e-9)


@given(case=cases, seed=st.integers(0, 100))
def test_visible_predictions_and_those_above_the_diagonal_do_not_matter(case, seed):
    logs, predicted, hidden = case
    asked = np.kron(hidden, np.ones((PATCH, PATCH), bool))[: len(logs), : len(logs)] & np.isfinite(logs)
    other = np.where(asked, predicted, np.random.default_rng(seed).normal(0, 9, logs.shape))
    assert measured(logs, other, hidden) == measured(logs, predicted, hidden)


def test_log_patches_may_hold_anything_above_the_diagonal():
    """What a capture leaves there is not attention (``scaled_patches`` masks it too)."""
    logs, predicted, hidden = case(10, 1.0, 2)
    left = np.where(np.triu(np.ones(logs.shape, bool), 1), -0.5, logs)
    assert measured(left, predicted, hidden) == measured(logs, predicted, hidden)


@given(case=cases)
def test_even_attention_is_what_knowing_nothing_gives(case):
    logs, _, hidden = case
    rows, columns = geometry.tiles(len(hidden))
    found = uniform_divergence(packed(logs), torch.from_numpy(hidden)[rows, columns][None]).item()
    assert found == pytest.approx(by_loops(logs, np.zeros_like(logs), hidden), rel=1e-9, abs=1e-12)
    entropies = weight = 0.0
    for query in range(len(logs)):
        row = np.exp(logs[query, hidden_keys(hidden, logs, query)])
        if row.sum():
            share = row / row.sum()
            entropies += row.sum() * (math.log(len(row)) + (share * np.log(share)).sum())
            weight += row.sum()
    assert found == pytest.approx(entropies / weight, rel=1e-7, abs=1e-9)


def test_a_sharper_wrong_guess_is_worse_and_a_floor_bounds_it():
    logs = np.log(np.array([[1.0, 0.0], [0.5, 0.5]]).clip(1e-300))
    logs[0, 1] = -np.inf
    guesses = [np.array([[0.0, -np.inf], [0.0, low]]) for low in (-0.5, -2.0, -8.0, math.log(SMALLEST), -900.0)]
    found = [measured(logs, guess, np.ones((1, 1), bool)) for guess in guesses]
    assert found[:4] == sorted(found[:4])
    assert found[3] == found[4] == pytest.approx(-0.5 * math.log(4 * SMALLEST) / 2, abs=1e-5)


def test_keys_out_of_reach_do_not_count():
    """With a sliding window of two, predictions outside it cost nothing."""
    size = 8
    logs = np.full((size, size), -np.inf)
    for query in range(size):
        keys = range(max(0, query - 1), query + 1)
        logs[query, keys] = -math.log(len(keys))
    assert measured(logs, np.zeros((size, size)), np.tril(np.ones((2, 2), bool))) == pytest.approx(0, abs=1e-12)


def test_without_hidden_mass_it_is_nan():
    logs, predicted, hidden = case(9, 1.0, 0)
    empty = packed(np.full_like(logs, -np.inf))
    both = torch.cat([packed(logs), empty])
    where = torch.from_numpy(hidden)[geometry.tiles(3)]
    shown = torch.zeros_like(where)
    found = divergence(
        both.repeat(2, 1, 1, 1), packed(predicted).repeat(4, 1, 1, 1), torch.stack([where, where, shown, shown])
    )
    assert found.isnan().tolist() == [False, True, True, True]
    assert found[0].item() == measured(logs, predicted, hidden)


def test_half_precision_and_underflow():
    logs, predicted, hidden = case(16, 1.0, 3)
    logs[9, 2] = predicted[9, 2] = -800.0  # exp underflows even in float64
    exact = measured(logs, predicted, hidden)
    assert math.isfinite(exact)
    rows, columns = geometry.tiles(len(hidden))
    half = divergence(
        packed(logs).half(), packed(predicted).half(), torch.from_numpy(hidden)[rows, columns][None]
    ).item()
    assert half == pytest.approx(exact, rel=5e-3)
