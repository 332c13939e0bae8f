import numpy as np
import pytest

from apmae.patterns.attended import attended
from apmae.patterns.patterns import Patterns


def drawn(count, size, causal=True, seed=0):
    draw = np.random.default_rng(seed)
    array = draw.random((count, size, size)) ** 4
    array = np.tril(array) if causal else array
    return array / array.sum(-1, keepdims=True)


def by_loops(array, sinks, count, causal):
    """The strongest pairs of one pattern: all of them, sorted."""
    size = len(array)
    pairs = [
        (-array[query, key], query, key)
        for query in range(int(causal), size)
        for key in range(size)
        if array[query, key] > 0
    ]
    away = [pair for pair in pairs if pair[2] != 0 and pair[2] not in sinks]
    return [[(query, key, -weight) for weight, query, key in sorted(own)[:count]] for own in (pairs, away)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("size", "count"), [(40, 6), (3, 20), (1, 4)])
def test_pairs_and_received_are_those_of_plain_loops(causal, size, count):
    array = drawn(35, size, causal)  # more than one chunk
    patterns = Patterns.from_probabilities(array, causal=causal)
    array = patterns.probabilities()
    sinks = [(number % size, size - 1) if number % 3 else () for number in range(35)]
    found = attended(patterns, sinks, count)
    np.testing.assert_allclose(found.received, array.sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.received.sum(1), size, rtol=1e-5)
    for number in range(35):
        expected = by_loops(array[number], sinks[number], count, causal)
        for pairs, wanted in zip((found.pairs, found.away), expected, strict=True):
            kept = pairs.query[number] >= 0
            got = zip(pairs.query[number][kept], pairs.key[number][kept], pairs.weight[number][kept], strict=True)
            got = [tuple(map(float, row)) for row in got]
            assert [row[:2] for row in got] == [row[:2] for row in wanted]
            np.testing.assert_allclose([row[2] for row in got], [row[2] for row in wanted], rtol=1e-6)
            assert (pairs.weight[number][~kept] == 0).all() and (pairs.key[number][~kept] == -1).all()


def test_of_equal_weights_the_earlier_pair_is_taken():
    array = np.eye(50)[None]
    found = attended(Patterns.from_probabilities(array), [()], 4)
    assert found.pairs.query[0].tolist() == found.pairs.key[0].tolist() == [1, 2, 3, 4]


def test_no_patterns():
    found = attended(Patterns.from_probabilities(drawn(2, 8))[:0], [], 3)
    assert found.received.shape == (0, 8) and found.away.weight.shape == (0, 3)
