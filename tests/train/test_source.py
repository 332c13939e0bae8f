"""Sources give patterns by step: those in memory at any step, after any restart; streams only once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.errors import ConfigError, TrainingError
from apmae.patterns.patterns import Patterns
from apmae.train.source import ArraySource, ResumableSource, StreamSource, epoch_positions


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 20), st.integers(0, 100))
def test_every_number_comes_once_an_epoch_in_a_new_order(count, wanted, start, seed):
    epochs = 3
    row = np.concatenate([epoch_positions(count, first, 1, seed) for first in range(epochs * count)])
    orders = row.reshape(epochs, count)
    assert (np.sort(orders, axis=1) == np.arange(count)).all()
    if count > 8:
        assert len({tuple(order) for order in orders.tolist()}) == epochs
    longer = np.tile(np.arange(count), 0).tolist() + epoch_positions(count, start, wanted, seed).tolist()
    whole = epoch_positions(count, 0, start + wanted, seed)
    assert longer == whole[start:].tolist()


def test_the_seed_decides_the_order():
    assert epoch_positions(50, 0, 50, 1).tolist() == epoch_positions(50, 0, 50, 1).tolist()
    assert epoch_positions(50, 0, 50, 1).tolist() != epoch_positions(50, 0, 50, 2).tolist()


@given(st.integers(1, 50), st.integers(0, 9))
def test_patterns_in_memory(small_patterns, batch_size, seed):
    source = ArraySource(small_patterns, batch_size, seed)
    steps = range(2 * len(small_patterns) // batch_size + 2)
    batches = [source.batch(step) for step in steps]
    assert {len(batch) for batch in batches} == {batch_size}
    seen = [prompt for batch in batches for prompt in batch.prompt.tolist()]
    first, second = seen[: len(small_patterns)], seen[len(small_patterns) : 2 * len(small_patterns)]
    assert sorted(first) == sorted(second) == small_patterns.prompt.tolist()
    again = ArraySource(small_patterns, batch_size, seed)
    for step in reversed(steps):
        assert torch.equal(again.batch(step).log_patches, batches[step].log_patches)


def test_epochs_of_patterns_in_memory_are_counted(small_patterns):
    source = ArraySource(small_patterns[:30], 12, 0)
    epochs = []
    for step in range(6):
        source.batch(step)
        epochs.append(source.counts()["epoch"])
    assert epochs == [1, 1, 2, 2, 2, 3], "the epoch of a batch's last pattern"
    assert isinstance(source, ResumableSource)
    assert not isinstance(StreamSource([], 4), ResumableSource)


def test_no_patterns(small_patterns):
    with pytest.raises(ConfigError, match="expected patterns to train on, got none"):
        ArraySource(small_patterns[:0], 4, 0)


def parts_of(patterns, sizes):
    first = 0
    for size in sizes:
        yield patterns[first : first + size]
        first += size


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 9))
def test_a_stream_is_cut_into_batches_in_order(small_patterns, sizes, batch_size):
    total = min(sum(sizes), len(small_patterns))
    source = StreamSource(parts_of(small_patterns, sizes), batch_size)
    seen = []
    for step in range(total // batch_size):
        batch = source.batch(step)
        assert len(batch) == batch_size
        seen.extend(batch.prompt.tolist())
    assert seen == small_patterns.prompt[: len(seen)].tolist()
    with pytest.raises(TrainingError, match=f"expected {batch_size} patterns .*stream ended with {total % batch_size}"):
        source.batch(total // batch_size)


def test_captures_with_the_same_prompt_numbers_can_be_streamed(small_patterns):
    size = small_patterns.size

    def capture(text):
        where = {"prompt": np.zeros(4, np.int64), "layer": small_patterns.layer[:4], "head": small_patterns.head[:4]}
        return Patterns(small_patterns.log_patches[:4], size, **where, tokens={0: [text] * size})

    source = StreamSource(map(capture, "abc"), 6)
    assert len(source.batch(0)) == len(source.batch(1)) == 6


def test_a_stream_cannot_repeat_or_skip_a_step(small_patterns):
    source = StreamSource([small_patterns], 4)
    source.batch(0)
    for step in (0, 2):
        with pytest.raises(TrainingError, match=f"expected step 1 of a stream, got {step}; a stream cannot be resumed"):
            source.batch(step)


# -- pairs -------------------------------------------------------------------------------------------------------------


def of_heads(small_patterns, heads):
    patterns = small_patterns[: len(heads)]
    patterns.layer, patterns.head = np.array(heads) // 10, np.array(heads) % 10
    return patterns


@given(st.lists(st.integers(0, 25), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 9))
def test_every_second_pattern_is_another_one_of_the_head_before_it(small_patterns, heads, batch_size, seed):
    patterns = of_heads(small_patterns, heads)
    source = ArraySource(patterns, batch_size, seed, pairs=True)
    plain = ArraySource(patterns, batch_size, seed)
    for step in (0, 3, 1):
        batch, drawn = source.batch(step), plain.batch(step)
        where = (batch.layer * 10 + batch.head).tolist()
        assert batch.prompt[::2].tolist() == drawn.prompt[::2].tolist()
        for place in range(1, len(batch), 2):
            if heads.count(where[place - 1]) > 1:
                assert where[place] == where[place - 1]
                assert batch.prompt[place] != batch.prompt[place - 1]
            else:
                assert batch.prompt[place] == drawn.prompt[place], "there is no other"
        again = ArraySource(patterns, batch_size, seed, pairs=True).batch(step)
        assert again.prompt.tolist() == batch.prompt.tolist()


def test_all_other_patterns_of_a_head_are_equally_likely(small_patterns):
    patterns = of_heads(small_patterns, [3] * 5)
    source = ArraySource(patterns, 2, 0, pairs=True)
    steps = (source.batch(step).prompt.tolist() for step in range(2000))
    pairs = np.zeros((5, 5))
    for one, two in steps:
        pairs[one, two] += 1
    others = pairs[~np.eye(5, dtype=bool)]
    assert np.abs(others - 100).max() < 5 * 10 and not pairs.diagonal().any()


def test_processes_share_the_pairs_of_a_batch(small_patterns):
    patterns = of_heads(small_patterns, [number % 4 for number in range(40)])
    whole = ArraySource(patterns, 8, 0, pairs=True).batch(2).prompt.tolist()
    parts = [ArraySource(patterns, 8, 0, process=part, processes=2, pairs=True).batch(2) for part in (0, 1)]
    assert [number for part in parts for number in part.prompt.tolist()] == whole
