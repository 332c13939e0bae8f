"""Which tokens rows represent and what they are called, through all that can be done to patterns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.errors import CaptureError
from apmae.patterns import geometry
from apmae.patterns.patterns import REACHES, Patterns
from apmae.patterns.reach import block_edges

PATCH = 4


def words(length):
    return tuple(f"w{position}" for position in range(length))


def make(prompts, size, **known):
    """Patterns without attention: these tests are about the names of rows."""
    count = len(prompts)
    patches = torch.full((count, geometry.num_patches(size, PATCH), PATCH, PATCH), -torch.inf)
    where = {"prompt": np.array(prompts, np.int64), "layer": np.zeros(count, np.int64), "head": np.arange(count)}
    return Patterns(patches, size, **where, **known)


@given(st.integers(1, 60), st.integers(0, 1000))
def test_blocks_cover_every_token_once_and_evenly(rows, more):
    length = rows + more
    edges = block_edges(length, rows)
    tokens = [token for i in range(rows) for token in range(edges[i], edges[i + 1])]
    assert tokens == list(range(length))
    assert set(np.diff(edges)) <= {length // rows, -(-length // rows)}


def test_a_whole_prompt_is_labelled_by_its_tokens():
    patterns = make([3, 3, 5], 6, tokens={3: words(6), 5: words(2)})
    assert patterns.labels(3) == list(words(6))
    assert patterns.labels(5) == ["w0", "w1"]
    assert patterns.lengths == {3: 6, 5: 2}


@pytest.mark.parametrize(
    ("reach", "known", "expected"),
    [
        ("pool", {"tokens": {0: words(7)}}, ["w0", "w1 … w2", "w3 … w4", "w5 … w6"]),  # edges 0 1 3 5 7
        ("pool", {"lengths": {0: 7}}, ["0", "1–2", "3–4", "5–6"]),
        ("pool", {"lengths": {0: 128}}, ["0–31", "32–63", "64–95", "96–127"]),
        ("crop", {"tokens": {0: words(7)}}, ["w3", "w4", "w5", "w6"]),
        ("crop", {"lengths": {0: 7}}, ["3", "4", "5", "6"]),
        ("crop", {}, ["0", "1", "2", "3"]),
        ("pool", {}, ["0", "1", "2", "3"]),
        ("whole", {}, ["0", "1", "2", "3"]),
    ],
)
def test_rows_are_labelled_by_the_tokens_they_represent(reach, known, expected):
    patterns = make([0], 4, reach=reach, **known)
    assert patterns.labels(0) == expected
    assert patterns.resized(9).labels(0) == (expected if known else [str(i) for i in range(9)])


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("causal", [True, False])
def test_a_prompt_that_fits_has_one_row_per_token(reach, causal):
    patterns = make_square([1], 8) if not causal else make([1], 8)
    patterns = Patterns(
        patterns.log_patches,
        8,
        prompt=patterns.prompt,
        layer=patterns.layer,
        head=patterns.head,
        causal=causal,
        tokens={1: words(5)},
        reach=reach,
    )
    assert patterns.labels(1) == list(words(5))
    assert patterns.resized(20).labels(1) == list(words(5))


def test_row_counts_are_kept_only_for_prompts_that_were_longer():
    patterns = make([0, 1, 2], 8, reach="pool", lengths={0: 7, 1: 8, 2: 9})
    assert patterns.resized(10).rows == {2: 8}


def make_square(prompts, size):
    patches = torch.zeros(len(prompts), geometry.num_patches(size, PATCH, causal=False), PATCH, PATCH)
    zeros = np.zeros(len(prompts), np.int64)
    return Patterns(patches, size, prompt=np.array(prompts), layer=zeros, head=zeros, causal=False)


@given(
    st.dictionaries(st.integers(0, 5), st.integers(0, 40), min_size=1),
    st.integers(1, 12),
    st.sampled_from(["pool", "crop"]),
    st.integers(0, 9),
    st.data(),
)
def test_what_is_done_to_patterns_leaves_the_labels_alone(lengths, size, reach, more, data):
    numbers = data.draw(st.lists(st.sampled_from(sorted(lengths)), min_size=1, max_size=8))
    texts = {prompt: words(length) for prompt, length in lengths.items() if prompt % 2}
    patterns = make(numbers, size, reach=reach, lengths=lengths, tokens=texts)
    labels = {prompt: patterns.labels(prompt) for prompt in set(numbers)}
    assert {prompt: len(names) for prompt, names in labels.items()} == {
        prompt: min(size, lengths[prompt]) for prompt in labels
    }
    other = make([9], size + more, reach=reach, lengths={9: 60})
    for changed in (
        patterns.resized(size + more),
        patterns.repacked(3),
        patterns.cropped(np.zeros(len(numbers), np.int64)),
        patterns[::-1],
        Patterns.concatenate([patterns]),
        Patterns.concatenate([other, patterns, patterns[:1]]),
        patterns.resized(size + more).resized(size + more + 5),
    ):
        assert changed.reach == reach
        assert {prompt: changed.labels(prompt) for prompt in set(numbers)} == labels
    one = patterns[0]
    assert one.labels(numbers[0]) == labels[numbers[0]]
    assert set(one.lengths) == {numbers[0]}
    assert set(one.tokens) == {numbers[0]} & set(texts)


def test_joining_merges_tokens_and_lengths():
    joined = Patterns.concatenate([make([0], 4, tokens={0: words(4)}), make([1], 6), make([2], 3, lengths={2: 3})])
    assert joined.tokens == {0: words(4)}
    assert joined.lengths == {0: 4, 2: 3}
    assert [len(joined.labels(prompt)) for prompt in range(3)] == [4, 6, 3]
    assert Patterns.concatenate([make([0], 4), make([1], 4)]).tokens is None


@pytest.mark.parametrize("order", [1, -1])
def test_short_prompts_join_long_ones(order):
    """A prompt that fits is whole, whether the long ones of a capture are pooled or cropped."""
    long = make([0], 4, tokens={0: words(10)}, reach="pool")
    joined = Patterns.concatenate([long, make([1], 3, tokens={1: words(3)})][::order])
    assert (joined.reach, joined.size) == ("pool", 4)
    assert joined.labels(0) == long.labels(0)
    assert joined.labels(1) == list(words(3))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([make([0], 4, tokens={0: words(3)}), make([0], 4, tokens={0: ("a",) * 3})], "different tokens of prompt 0"),
        ([make([0], 4, lengths={0: 3}), make([0], 4, lengths={0: 4})], "different lengths of prompt 0"),
        (
            [make([0], 4, lengths={0: 30}, reach="pool"), make([0], 8, lengths={0: 30}, reach="pool").resized(9)],
            "different rows of prompt 0",
        ),
        ([make([0], 4, reach="pool"), make([1], 4, reach="crop")], r"one reach, got \['crop', 'pool'\]"),
    ],
)
def test_joining_contradictory_parts_is_refused(parts, message):
    with pytest.raises(CaptureError, match=message):
        Patterns.concatenate(parts)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"reach": "mean"}, "a reach of whole, pool, crop, got 'mean'"),
        ({"lengths": {0: 5}}, "at most 4 tokens, one per row, got one of 5"),
        ({"tokens": {0: words(5)}}, "at most 4 tokens, one per row, got one of 5"),
        ({"lengths": {0: 4}, "tokens": {0: words(3)}}, "expected 4 tokens of prompt 0, got 3"),
    ],
)
def test_impossible_patterns_are_refused(known, message):
    with pytest.raises(CaptureError, match=message):
        make([0], 4, **known)


def test_a_prompt_that_is_not_there_is_refused():
    with pytest.raises(CaptureError, match=r"expected one of the prompts 2, 7, got 3"):
        make([7, 2], 4).labels(3)
    with pytest.raises(CaptureError, match=r"8, \.\.\. \(20 in all\), got 99|7, \.\.\. \(20 in all\), got 99"):
        make(list(range(20)), 4).labels(99)
