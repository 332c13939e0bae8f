"""The mixing buffer: no pattern is lost, doubled or changed, and all are equally likely to be drawn."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from apmae.patterns.patterns import Patterns
from apmae.train.buffer import MixingBuffer, paired


def numbered(first, count, size=64):
    """Patterns with their number in every pixel."""
    numbers = np.arange(first, first + count)
    patches = {32: 1, 64: 3}[size]
    logs = -torch.from_numpy(numbers).float()[:, None, None, None].expand(-1, patches, 32, 32)
    return Patterns(logs.contiguous(), size, prompt=numbers, layer=numbers % 7, head=numbers % 5)


def numbers_of(patterns):
    """The numbers in the pixels, checked against prompt, layer and head."""
    numbers = -patterns.log_patches[:, 0, 0, 0].long().numpy()
    assert (patterns.log_patches[:, 0] == -torch.from_numpy(numbers)[:, None, None]).all()
    assert patterns.prompt.tolist() == numbers.tolist()
    assert patterns.layer.tolist() == (numbers % 7).tolist()
    assert patterns.head.tolist() == (numbers % 5).tolist()
    return numbers.tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.integers(0, 99))
def test_what_goes_in_comes_out_once(turns, seed):
    buffer = MixingBuffer(60, 64, reach="whole", device="cpu")
    inside, first = set(), 0
    for forward, (added, drawn) in enumerate(turns):
        added, drawn = min(added, 60 - len(inside)), min(drawn, len(inside))
        buffer.add(numbered(first, 10), forward, np.arange(added))
        inside |= set(range(first, first + added))
        first += 10
        found = numbers_of(buffer.draw(drawn, np.random.default_rng([seed, forward])))
        assert len(set(found)) == drawn and set(found) <= inside
        inside -= set(found)
        assert len(buffer) == len(inside)
    assert set(numbers_of(buffer.draw(len(inside), np.random.default_rng(seed)))) == inside


@given(st.lists(st.integers(0, 8), min_size=1, max_size=8), st.integers(0, 99))
def test_a_buffer_that_is_filled_again_draws_the_same(counts, seed):
    forwards = [numbered(10 * number, 10) for number in range(len(counts))]
    buffer = MixingBuffer(80, 64, reach="whole", device="cpu")
    for number, count in enumerate(counts):
        rows = np.random.default_rng([seed, number]).permutation(10)[:count]
        buffer.add(forwards[number], number, rows)
        buffer.draw(count // 3, np.random.default_rng([seed, number, 1]))
    other = MixingBuffer(80, 64, reach="whole", device="cpu")
    other.add(numbered(500, 4), 7, np.arange(4))  # something else was there
    for number in np.unique(buffer.origins[:, 0])[::-1].tolist():
        other.refill(buffer.origins, forwards[number], number)
    if len(buffer):
        assert other.origins.tolist() == buffer.origins.tolist()
        one, two = (each.draw(len(each), np.random.default_rng(seed)) for each in (buffer, other))
        assert torch.equal(one.log_patches, two.log_patches)
        assert numbers_of(one) == numbers_of(two)


def test_draws_are_even():
    """In 2 000 draws of 5 from 20, every pattern is drawn 500 times, within five standard deviations."""
    seen, patterns = np.zeros(20), numbered(0, 20, 32)
    for number in range(2000):
        buffer = MixingBuffer(20, 32, reach="whole", device="cpu")
        buffer.add(patterns, 0, np.arange(20))
        buffer.draw(7, np.random.default_rng([number, 0]))
        if number == 0:
            assert len(buffer) == 13
        seen[numbers_of(buffer.draw(5, np.random.default_rng([number, 1])))] += 1
    assert np.abs(seen - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_square_patterns_keep_their_places_when_rows_are_added():
    """The patches of a smaller square are not the first of a larger one's."""
    p = np.random.default_rng(0).dirichlet(np.ones(40), size=(3, 40))
    small = Patterns.from_probabilities(p, causal=False)
    large = Patterns.from_probabilities(np.full((2, 70, 70), 1 / 70), causal=False, prompt=[3, 4])
    buffer = MixingBuffer(5, 70, reach="whole", device="cpu", causal=False)
    buffer.add(large, 0, np.arange(2))
    buffer.draw(2, np.random.default_rng(0))  # what was there is not seen again
    buffer.add(small, 1, np.arange(3))
    drawn = buffer.draw(3, np.random.default_rng(0))
    assert not drawn.causal
    assert sorted(drawn.prompt.tolist()) == [0, 1, 2]
    for number, found in zip(drawn.prompt, drawn.probabilities(), strict=True):
        np.testing.assert_allclose(found[:40, :40], p[number], atol=1e-3)
        assert not found[40:].any() and not found[:, 40:].any()


def test_shorter_patterns_have_empty_rows_whatever_was_there():
    buffer = MixingBuffer(3, 64, reach="pool", device="cpu")
    buffer.add(numbered(1, 3), 0, np.arange(3))
    buffer.draw(3, np.random.default_rng(0))
    buffer.add(numbered(5, 2, size=32), 1, np.arange(2))
    drawn = buffer.draw(2, np.random.default_rng(0))
    assert (drawn.size, drawn.reach) == (64, "pool")
    assert sorted(numbers_of(drawn)) == [5, 6]
    assert drawn.log_patches[:, 1:].isneginf().all()


def test_a_drawn_batch_shares_no_memory_with_the_buffer():
    buffer = MixingBuffer(4, 32, reach="whole", device="cpu")
    buffer.add(numbered(1, 4, 32), 0, np.arange(4))
    batch = buffer.draw(2, np.random.default_rng(0))
    before = numbers_of(batch)
    buffer.add(numbered(50, 2, 32), 1, np.arange(2))
    assert numbers_of(batch) == before


def test_it_takes_the_memory_that_the_documents_say():
    buffer = MixingBuffer(10, 256, reach="whole", device="cpu")
    assert buffer.nbytes == 10 * 73_728


# -- pairs -------------------------------------------------------------------------------------------------------------


def paired_by_searching(order, heads, count):
    left, chosen = list(order), []
    while left and len(chosen) < count:
        first = left.pop(0)
        chosen.append(first)
        partner = next((number for number in left if heads[number] == heads[first]), None)
        if partner is not None:
            left.remove(partner)
            chosen.append(partner)
    return chosen[:count]


@given(st.lists(st.integers(0, 4), max_size=25), st.integers(0, 30), st.integers(0, 99))
def test_each_is_followed_by_another_of_its_head(heads, count, seed):
    order = np.random.default_rng(seed).permutation(len(heads))
    found = paired(order, np.array(heads, np.int64), count)
    assert found.tolist() == paired_by_searching(order.tolist(), heads, count)


@given(st.integers(0, 30), st.integers(0, 99))
def test_pairs_are_drawn_once(count, seed):
    buffer = MixingBuffer(70, 64, reach="whole", device="cpu")
    buffer.add(numbered(0, 70), 0, np.arange(70))  # two of each head
    first = numbers_of(buffer.draw(count, np.random.default_rng(seed), pairs=True))
    assert len(first) == count and len(buffer) == 70 - count
    for one, two in zip(first[::2], first[1::2], strict=False):
        assert abs(one - two) == 35, "the other pattern of its layer and head"
    rest = numbers_of(buffer.draw(70 - count, np.random.default_rng(seed), pairs=True))
    assert sorted(first + rest) == list(range(70))
