"""Patterns as a container, and patterns captured elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.errors import CaptureError
from apmae.patterns.patterns import Patterns


def causal(count, size, seed=0, spread=2.0):
    """float64 (n, t, t) causal softmax of random scores."""
    scores = np.random.default_rng(seed).normal(0, spread, (count, size, size))
    weights = np.tril(np.exp(scores))
    return weights / weights.sum(-1, keepdims=True)


def square(count, size, seed=0, spread=2.0):
    """float64 (n, t, t) softmax of random scores, as an encoder's."""
    weights = np.exp(np.random.default_rng(seed).normal(0, spread, (count, size, size)))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def patterns():
    return Patterns.from_probabilities(
        causal(6, 20), patch=8, prompt=[0, 0, 0, 1, 1, 1], layer=[0, 0, 1, 0, 0, 1], head=[0, 1, 0, 0, 1, 0]
    )


@given(st.integers(0, 4), st.integers(1, 40), st.integers(1, 33), st.integers(0, 1000))
def test_probabilities_come_back_as_they_went_in(count, size, patch, seed):
    dense = causal(count, size, seed)
    patterns = Patterns.from_probabilities(dense, patch=patch)
    back = patterns.probabilities()
    assert (len(patterns), patterns.size, patterns.patch) == (count, size, patch)
    assert back.dtype == np.float32
    assert back.shape == dense.shape
    assert np.abs(back - dense).max(initial=0) < 1e-6
    assert np.abs(back.sum(-1) - 1).max(initial=0) < 1e-5
    assert not back[:, np.triu(np.ones((size, size), bool), 1)].any()


@pytest.mark.parametrize("kind", ["list", "numpy", "torch", "grad", "integer"])
def test_any_kind_of_array_is_accepted(kind):
    dense = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    array = {
        "list": dense.tolist(),
        "numpy": dense,
        "torch": torch.from_numpy(dense),
        "grad": torch.from_numpy(dense).requires_grad_(),
        "integer": dense.astype(int),
    }[kind]
    assert np.array_equal(Patterns.from_probabilities(array).probabilities(), dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_attention_that_a_model_rounded_is_accepted(dtype):
    """A softmax in half precision has rows that are off by the rounding of each entry."""
    dense = torch.from_numpy(causal(200, 24, spread=1.0)).to(dtype)
    back = Patterns.from_probabilities(dense).probabilities()
    assert np.abs(back - dense.double().numpy()).max() < 1e-6


@pytest.mark.parametrize(("entry", "expected"), [(-1e-7, 0.0), (1.0005, 1.0)])
def test_values_that_rounding_put_out_of_range_are_clamped(entry, expected):
    back = Patterns.from_probabilities([[[1.0, 0.0], [entry, 1.0 if entry < 0 else 0.0]]]).probabilities()
    assert back[0, 1, 0] == expected


def test_the_callers_array_does_not_change():
    dense = causal(1, 10)
    before = dense.copy()
    patterns = Patterns.from_probabilities(dense)
    patterns.log_patches.zero_()
    assert np.array_equal(dense, before)


def test_where_patterns_came_from():
    patterns = Patterns.from_probabilities(causal(3, 4))
    assert patterns.prompt.tolist() == [0, 1, 2]
    assert patterns.layer.tolist() == patterns.head.tolist() == [0, 0, 0]
    with pytest.raises(CaptureError, match="expected 3 values of prompt, layer and head"):
        Patterns.from_probabilities(causal(3, 4), layer=[1, 2])


def wrong(index, value):
    dense = causal(2, 6)
    dense[index] = value
    return dense


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 4)), r"shape \(n, length, length\), got \(4, 4\)"),
        (np.ones((1, 4, 5)), "got \\(1, 4, 5\\)"),
        (np.ones((1, 2, 4, 4)), "got \\(1, 2, 4, 4\\)"),
        (np.zeros((1, 0, 0)), "got \\(1, 0, 0\\)"),
        (wrong((0, 3, 1), np.nan), "finite probabilities"),
        (wrong((0, 3, 1), np.inf), "finite probabilities"),
        (wrong((1, 3, 1), -0.2), r"probabilities in \[0, 1\]"),
        (wrong((1, 0, 0), 1.2), r"probabilities in \[0, 1\]"),
        (wrong((0, 2, 4), 0.3), "0.3 above the diagonal; for patterns of encoders say causal=False"),
        (wrong((0, 5), [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]), "off by 0.4"),
        (wrong((0, 5), [0.5, 0.1, 0.1, 0.1, 0.1, 0.095]), "off by 0.005"),  # more than bfloat16 rounds
        (np.log(causal(1, 4) + 1e-30), "after its softmax"),
        (causal(1, 4).transpose(0, 2, 1), "above the diagonal"),
        (np.array([[["a"]]]), "an array of <U1"),
        (torch.ones(1, 1, 1, dtype=torch.complex64), "an array of torch.complex64"),
        ([[[1.0], [0.5, 0.5]]], "got no array"),
        (np.concatenate([causal(40, 4), wrong((1, 3, 1), np.nan)[:, :4, :4]]), "finite probabilities"),
        (np.zeros((1, 5, 5)), "in every pattern, all rows of pattern 0 are 0"),
        (np.concatenate([causal(40, 4), np.zeros((2, 4, 4))]), "all rows of pattern 40 are 0, .* leave out prompts"),
    ],
)
def test_arrays_that_are_not_causal_attention_are_refused(array, message):
    with pytest.raises(CaptureError, match=message):
        Patterns.from_probabilities(array)


def test_rows_of_padding_may_be_empty():
    dense = causal(1, 9)
    dense[:, 6:] = 0
    back = Patterns.from_probabilities(dense, patch=4).probabilities()
    assert not back[:, 6:].any()
    assert np.abs(back[:, :6].sum(-1) - 1).max() < 1e-5


def test_a_size_that_the_patches_do_not_have_is_refused(patterns):
    zeros = np.zeros(6, np.int64)
    with pytest.raises(CaptureError, match="expected 10 patches for a pattern of 30 tokens, got 6"):
        Patterns(patterns.log_patches, 30, prompt=zeros, layer=zeros, head=zeros)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (2, [2]),
        (-1, [5]),
        (np.int64(3), [3]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -1), [5, 4, 3, 2, 1, 0]),
        (slice(0, 1, -1), []),
        (slice(10, 20), []),
        ([4, 0, 0], [4, 0, 0]),
        ([], []),
        (np.array([True, False, False, True, False, False]), [0, 3]),
        ([False] * 5 + [True], [5]),
        (np.array([-2, 1], np.int32), [4, 1]),
    ],
)
def test_some_of_the_patterns(patterns, key, expected):
    some = patterns[key]
    assert some.prompt.tolist() == patterns.prompt[expected].tolist()
    assert some.layer.tolist() == patterns.layer[expected].tolist()
    assert some.head.tolist() == patterns.head[expected].tolist()
    assert np.array_equal(some.probabilities(), patterns.probabilities()[expected])


def test_a_single_reversed_pattern(patterns):
    assert np.array_equal(patterns[:1][::-1].probabilities(), patterns[0].probabilities())


def test_patterns_can_be_iterated(patterns):
    assert [int(one.head[0]) for one in patterns] == patterns.head.tolist()
    with pytest.raises(IndexError):
        patterns[6]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9))
def test_joining_gives_all_the_longest_size(sizes, patch):
    parts = [Patterns.from_probabilities(causal(2, size, size), patch=patch, layer=[size, 0]) for size in sizes]
    joined = Patterns.concatenate(parts)
    assert joined.size == max(sizes)
    assert joined.layer.tolist() == [layer for size in sizes for layer in (size, 0)]
    dense = joined.probabilities()
    for number, size in enumerate(sizes):
        own = dense[2 * number : 2 * number + 2]
        assert np.array_equal(own[:, :size, :size], parts[number].probabilities())
        assert not own[:, size:].any()


def test_a_single_part_is_not_copied(patterns):
    assert Patterns.concatenate([patterns]).log_patches.data_ptr() == patterns.log_patches.data_ptr()


def test_joining_parts_that_do_not_fit_is_refused(patterns):
    with pytest.raises(CaptureError, match="at least one forward"):
        Patterns.concatenate([])
    with pytest.raises(CaptureError, match="causal or square patterns, got both"):
        Patterns.concatenate([patterns, Patterns.from_probabilities(square(1, 20), patch=8, causal=False)])
    with pytest.raises(CaptureError, match=r"patches of one size, got \[4, 8\]"):
        Patterns.concatenate([patterns, patterns.repacked(4)])


def test_patterns_cannot_be_cut_by_resizing(patterns):
    assert patterns.resized(20) is patterns
    with pytest.raises(CaptureError, match="at most 19 tokens, got 20"):
        patterns.resized(19)


@given(st.integers(1, 40), st.integers(1, 33), st.integers(1, 33))
def test_other_patches_hold_the_same_patterns(size, patch, other):
    patterns = Patterns.from_probabilities(causal(1, size), patch=patch)
    there = patterns.repacked(other)
    assert there.patch == other
    assert np.array_equal(there.probabilities(), patterns.probabilities())
    assert torch.equal(there.repacked(patch).log_patches, patterns.log_patches)


@given(st.integers(1, 30), st.integers(1, 12), st.data())
def test_cropped_patterns_are_those_of_shorter_prompts(size, patch, data):
    dense = causal(3, size)
    lengths = np.array(data.draw(st.lists(st.integers(0, size), min_size=3, max_size=3)))
    cropped = Patterns.from_probabilities(dense, patch=patch).cropped(lengths)
    assert cropped.size == size
    for rows, full, length in zip(cropped.probabilities(), dense, lengths, strict=True):
        assert np.abs(rows[:length] - full[:length]).max(initial=0) < 1e-6
        assert not rows[length:].any()


def test_half_precision_takes_73_728_bytes_per_pattern():
    patterns = Patterns.from_probabilities(causal(3, 256))
    patterns.log_patches = patterns.log_patches.half()
    assert patterns.log_patches.nbytes == 3 * 73_728
    exact = Patterns.from_probabilities(causal(3, 256)).scaled()
    assert np.abs(patterns.scaled() - exact).max() < 5e-4
    assert patterns.scaled().dtype == patterns.probabilities().dtype == np.float32


def test_repr(patterns):
    assert repr(patterns) == "Patterns(6 of 20x20, 2 prompts)"
    assert repr(Patterns.from_probabilities(square(1, 5), causal=False)) == "Patterns(1 of 5x5, 1 prompts, square)"


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 33), st.integers(1, 33), st.integers(0, 30))
def test_square_patterns_come_back_as_they_went_in(count, size, patch, other, more):
    dense = square(count, size)
    patterns = Patterns.from_probabilities(dense, patch=patch, causal=False)
    assert np.abs(patterns.probabilities() - dense).max(initial=0) < 1e-6
    assert np.array_equal(patterns.repacked(other).probabilities(), patterns.probabilities())
    larger = patterns.resized(size + more)
    assert not larger.causal
    assert np.array_equal(larger.probabilities()[:, :size, :size], patterns.probabilities())
    assert larger.probabilities().sum() == pytest.approx(patterns.probabilities().sum())
    joined = Patterns.concatenate([patterns, larger])
    assert np.array_equal(joined.probabilities()[count:], joined.probabilities()[:count])


def test_a_square_pattern_is_scaled_on_both_sides_of_the_diagonal():
    dense = square(2, 20)
    logs = np.log(dense)
    smallest = logs.min(axis=(1, 2), keepdims=True)
    scaled = Patterns.from_probabilities(dense, patch=8, causal=False).scaled()
    assert np.abs(scaled - (1 - logs / smallest)).max() < 1e-6


def test_square_patterns_cannot_be_cropped():
    with pytest.raises(CaptureError, match="causal patterns to crop"):
        Patterns.from_probabilities(square(1, 8), causal=False).cropped(np.array([4]))


def test_square_attention_is_checked_too():
    dense = square(1, 8)
    dense[0, 2, 5] = np.nan
    with pytest.raises(CaptureError, match="finite probabilities"):
        Patterns.from_probabilities(dense, causal=False)
    with pytest.raises(CaptureError, match="rows that sum to 1"):
        Patterns.from_probabilities(square(1, 8).transpose(0, 2, 1), causal=False)


def test_probabilities_of_bfloat16_kept_as_float32():
    """NumPy has no bfloat16: attention of that type, saved as .npy, has its rounded entries as float32."""
    scores = torch.randn(64, 40, 40, generator=torch.Generator().manual_seed(0)) * 3
    scores = scores.masked_fill(~torch.ones(40, 40).tril().bool(), -torch.inf)
    rounded = scores.softmax(-1).bfloat16().float().numpy()
    assert np.abs(rounded.sum(-1) - 1).max() > 1.5e-3
    assert np.abs(Patterns.from_probabilities(rounded).probabilities() - rounded).max() <= 1e-6
