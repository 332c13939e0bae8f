"""The descriptor: every number by loops over rows and keys, and what must not change it."""

import numpy as np
import pytest
import torch
from descriptor_by_loops import described_by_loops

from apmae.model.represent import descriptor_whitening
from apmae.patterns import geometry
from apmae.patterns.descriptor import SIZES, WIDTH, describe
from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns

KINDS = pytest.mark.parametrize("causal", [True, False])


# -- patterns ----------------------------------------------------------------------------------------------------------


def softmax(scores: np.ndarray, causal: bool) -> np.ndarray:
    if causal:
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def behaviours(size: int, causal: bool, seed: int = 0) -> np.ndarray:
    """(8, size, size): a sink, a previous token, columns, stripes, a band, blocks, windows, and noise."""
    draw = np.random.default_rng(seed)
    query, key = np.indices((size, size))
    back = query - key
    bonus = [
        5.0 * (key == 0),
        6.0 * (back == 1),
        4.0 * np.isin(key, draw.choice(size, 4)),
        4.0 * (np.abs(back) % 7 == 0),
        3.0 * (np.abs(back) < 10),
        4.0 * (query // 9 == key // 9),
        np.where(np.abs(back) < 12, 0, -np.inf),
        0.0 * back,
    ]
    return softmax(np.stack(bonus) + draw.normal(0, 0.7, (8, size, size)), causal)


def padded(p: np.ndarray, size: int, left: int = 0) -> np.ndarray:
    dense = np.zeros((*p.shape[:-2], size, size))
    dense[..., left : left + p.shape[-1], left : left + p.shape[-1]] = p
    return dense


def values_of(p: np.ndarray, causal: bool = True) -> np.ndarray:
    return describe(Patterns.from_probabilities(p.astype(np.float32), causal=causal)).values


def numbers(groups: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([groups[name] for name in SIZES])


def expect_equal(found: np.ndarray, expected: np.ndarray, tolerance: float = 5e-4) -> None:
    """By group, so that a failure says which."""
    first = 0
    for name, size in SIZES.items():
        own = slice(first, first + size)
        np.testing.assert_allclose(found[..., own], expected[..., own], atol=tolerance, rtol=tolerance, err_msg=name)
        first += size


# -- by loops ----------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [24, 33, 70])
def test_every_number_by_loops(size, causal):
    p = behaviours(size, causal)
    found = values_of(p, causal)
    assert found.shape == (8, WIDTH) and found.dtype == np.float32
    for own, pattern in zip(found, p, strict=True):
        groups = described_by_loops(pattern, causal)
        assert {name: len(values) for name, values in groups.items()} == SIZES
        expect_equal(own, numbers(groups))


@KINDS
def test_patterns_with_empty_rows_by_loops(causal):
    p = behaviours(40, causal)
    p[:, [7, 20, 21]] = 0
    for own, pattern in zip(values_of(p, causal), p, strict=True):
        expect_equal(own, numbers(described_by_loops(pattern, causal)))


@KINDS
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_the_shortest_prompts_by_loops(size, causal):
    p = behaviours(size, causal)
    for own, pattern in zip(values_of(p, causal), p, strict=True):
        expect_equal(own, numbers(described_by_loops(pattern, causal)))


def test_lags_beyond_the_last_edge_by_loops():
    """A pattern longer than 256 tokens; few keys, so that the loops are short."""
    size = 300
    p = np.zeros((size, size))
    p[np.arange(size), 0] = 0.5
    p[np.arange(size), np.maximum(np.arange(size) - 270, 0)] += 0.25
    p[np.arange(size), np.arange(size) // 2] += 0.25
    found = values_of(p[None])[0]
    lags = np.zeros(size)
    for lag in range(size):
        lags[lag] = sum(p[q, q - lag] for q in range(lag + 1, size)) / max(size - 1 - lag, 8)
    assert found[15] == pytest.approx(lags[192:].sum() ** 0.5, abs=1e-4)
    assert found[16 + 11] == pytest.approx(lags[192:].max() ** 0.5, abs=1e-4)


# -- what must not change it -------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [24, 41])
def test_padding_on_either_side_changes_nothing(size, causal):
    p = behaviours(size, causal)
    expected = values_of(p, causal)
    for left, whole in ((0, 70), (29, 29 + size), (3, 80)):
        found = values_of(padded(p, whole, left), causal)
        expect_equal(found, expected, 1e-5)


@KINDS
def test_neighbours_in_a_batch_change_nothing(causal):
    size = 80
    parts = [padded(behaviours(length, causal, length), size, left) for length, left in ((24, 0), (80, 0), (47, 33))]
    p = np.concatenate(parts)
    alone = np.concatenate([values_of(pattern[None], causal) for pattern in p])
    expect_equal(values_of(p, causal), alone, 1e-5)
    order = np.random.default_rng(0).permutation(len(p))
    expect_equal(values_of(p[order], causal), alone[order], 1e-5)


def test_patterns_are_described_a_few_at_a_time(monkeypatch):
    p = behaviours(40, True)
    expected = values_of(p)
    monkeypatch.setattr("apmae.patterns.descriptor._PIXELS", 3 * 40**2)
    expect_equal(values_of(p), expected, 1e-5)


def test_the_first_rows_are_the_pattern_of_a_shorter_prompt():
    whole = Patterns.from_probabilities(behaviours(70, True).astype(np.float32))
    for length in (24, 33, 64):
        cropped = describe(whole.cropped(np.full(8, length)))
        short = describe(Patterns.from_probabilities(whole.probabilities()[:, :length, :length]))
        expect_equal(cropped.values, short.values, 1e-5)
        np.testing.assert_allclose(cropped.structure, short.structure, atol=1e-3)


def test_patches_of_another_side_change_nothing():
    patterns = Patterns.from_probabilities(behaviours(50, True).astype(np.float32))
    for patch in (5, 16, 50):
        expect_equal(describe(patterns.repacked(patch)).values, describe(patterns).values, 1e-5)


def test_no_patterns():
    found = describe(Patterns.from_probabilities(behaviours(8, True))[:0])
    assert found.values.shape == (0, WIDTH) and found.structure.shape == (0,)


def test_groups_have_the_sizes_of_the_table():
    """The documented table is what users read the numbers by."""
    from apmae.patterns import descriptor

    assert descriptor.__doc__ is not None
    table = {}
    for line in descriptor.__doc__.splitlines():
        words = line.split()
        if len(words) > 2 and words[0].startswith("``") and words[1].isdigit():
            table[words[0].strip("`")] = int(words[1])
    assert table == SIZES
    assert f"{WIDTH} statistics" in descriptor.__doc__


# -- bad input ---------------------------------------------------------------------------------------------------------


def distances(one: np.ndarray, two: np.ndarray, causal: bool = True) -> np.ndarray:
    """Between whitened descriptors."""
    whitening = descriptor_whitening(causal)
    return np.abs(whitening.whitened(one) - whitening.whitened(two)).mean(1)


@pytest.fixture(scope="module")
def usual() -> float:
    """The mean distance of two patterns of one program of the grammar, in 64 tokens."""
    patterns = grammar(20, 2, size=64, shortest=64, seed=5)
    found = describe(patterns).values
    return float(distances(found[::2], found[1::2]).mean())


def odd_patterns(size: int, causal: bool) -> dict[str, np.ndarray]:
    even = softmax(np.zeros((size, size)), causal)
    one = np.zeros((size, size))
    one[size // 2, 0] = 1
    first = np.zeros((size, size))
    first[0, 0] = 1
    key_0 = np.zeros((size, size))
    key_0[:, 0] = 1
    holes = even.copy()
    holes[::3] = 0
    exact = np.eye(size)
    outside = even * 0.01
    return {
        "one row": one,
        "first row": first,
        "all on key 0": key_0,
        "uniform": even,
        "empty rows": holes,
        "probabilities of 0 and 1": exact,
        "rows that sum to 0.01": outside,
    }


@KINDS
@pytest.mark.parametrize("size", [1, 5, 64])
def test_odd_patterns_have_finite_numbers(size, causal):
    for name, p in odd_patterns(size, causal).items():
        logs = np.full((size, size), -np.inf)
        np.log(p, where=p > 0, out=logs)
        packed = geometry.pack(torch.from_numpy(logs[None]).float(), 32, -torch.inf, causal)
        where = {key: np.zeros(1, np.int64) for key in ("prompt", "layer", "head")}
        found = describe(Patterns(packed, size, **where, causal=causal))
        assert np.isfinite(found.values).all(), name
        assert np.isfinite(descriptor_whitening(causal).whitened(found.values)).all(), name
        assert found.values.min() >= -1 and found.values.max() <= 20, name
        length = max(np.flatnonzero(p.sum(1)), default=0) + 1  # tokens after the last row are padding
        # an s.d. of 0 is one of 0.003 in float32
        expect_equal(found.values[0], numbers(described_by_loops(p[:length, :length], causal)), 4e-3)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(dtype, causal, usual):
    patterns = Patterns.from_probabilities(behaviours(64, causal).astype(np.float32), causal=causal)
    single = describe(patterns).values
    patterns.log_patches = patterns.log_patches.to(dtype)
    assert distances(describe(patterns).values, single, causal).max() < 0.2 * usual


def test_sinks_outside_the_softmax_are_near_a_first_token_sink(usual):
    """The mass that goes nowhere is that of key 0; what other keys get is the same."""
    p = behaviours(64, True)[1:]
    inside, outside = p * 0.4, p * 0.4
    inside[:, :, 0] += 0.6
    inside[:, 0] = outside[:, 0] = 0
    inside[:, 0, 0] = 1
    outside[:, 0, 0] = 0.4
    assert distances(raw(outside), raw(inside)).max() < 0.05 * usual
    assert distances(raw(outside), raw(p)).min() > 0.5 * usual
    for own, pattern in zip(raw(outside), outside, strict=True):
        expect_equal(own, numbers(described_by_loops(pattern, True)))


@pytest.mark.parametrize("missing", [0.001, 0.009, 0.011, 0.02])
def test_a_little_missing_mass_changes_little(missing, usual):
    """Rounding is no sink, and there is no step where it becomes one."""
    p = behaviours(64, True)
    p[:, :, 0] = np.maximum(p[:, :, 0], 1e-3)
    assert distances(raw(p * (1 - missing)), raw(p)).max() < 0.4 * usual


def raw(p: np.ndarray) -> np.ndarray:
    """The descriptor of patterns whose rows need not sum to 1."""
    logs = torch.from_numpy(np.log(p, where=p > 0, out=np.full(p.shape, -np.inf))).float()
    where = {key: np.zeros(len(p), np.int64) for key in ("prompt", "layer", "head")}
    return describe(Patterns(geometry.pack(logs, 32, -torch.inf), p.shape[1], **where)).values


def test_one_empty_row_changes_little(usual):
    p = behaviours(64, True)
    holed = p.copy()
    holed[:, 30] = 0
    assert distances(values_of(holed), values_of(p)).max() < 0.3 * usual


def test_windows_are_near_their_like(usual):
    """A band inside a window is nearly the band without one."""
    draw = np.random.default_rng(0)
    back = np.subtract.outer(np.arange(64), np.arange(64))
    scores = draw.normal(0, 0.5, (6, 64, 64)) + 7.0 * (back < 5)
    p = softmax(scores, True)
    windowed = softmax(np.where(back < 24, scores, -np.inf), True)
    assert distances(values_of(windowed), values_of(p)).max() < 1.5 * usual
