"""Planted patterns: what is promised of each family."""

import numpy as np
import pytest

from apmae.patterns.planted import FAMILIES, planted


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_every_family_is_there_and_causal(noise):
    patterns, labels = planted(2, size=40, noise=noise)
    assert labels.tolist() == [family for family in range(len(FAMILIES)) for _ in range(2)]
    assert len(patterns) == len(labels)
    dense = patterns.probabilities()
    assert np.abs(dense.sum(-1) - 1).max() < 1e-5
    assert not dense[:, np.triu(np.ones((40, 40), bool), 1)].any()


def test_the_seed_decides_all_draws():
    first, again, other = (planted(1, size=32, seed=seed)[0].probabilities() for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert all(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_familys_draws_do_not_depend_on_how_many_are_made():
    few, labels = planted(1, size=32)
    many, many_labels = planted(3, size=32)
    for family in range(len(FAMILIES)):
        one = few[labels == family].probabilities()[0]
        assert np.array_equal(one, many[many_labels == family].probabilities()[0])


@pytest.mark.parametrize(
    ("family", "where"),
    [
        ("first_token", lambda q, k: k == 0),
        ("previous", lambda q, k: q - k == 1),
        ("self", lambda q, k: q == k),
        ("local", lambda q, k: q - k <= 23),
        ("sink_and_previous", lambda q, k: (k == 0) | (q - k == 1)),
    ],
)
def test_the_bare_behaviour_falls_where_it_should(family, where):
    patterns, labels = planted(4, size=48, noise=0.0)
    dense = patterns.probabilities()[labels == list(FAMILIES).index(family)]
    query, key = np.indices((48, 48))
    inside = (dense * where(query, key)).sum(-1)[:, 1:]
    assert inside.min() > 0.7  # a bonus of 5 against 46 other keys leaves e^5 / (e^5 + 46)


def test_blocks_put_their_weight_on_the_querys_own_block():
    patterns, labels = planted(1, size=48, noise=0.0)
    p = patterns.probabilities()[labels == list(FAMILIES).index("blocks")][0]
    for q in range(48):
        strong = np.flatnonzero(p[q, : q + 1] >= p[q, q] * 0.99)
        assert strong.tolist() == list(range(strong[0], q + 1))


def test_a_uniform_pattern_is_even():
    patterns, labels = planted(1, size=24, noise=0.0)
    p = patterns.probabilities()[labels == list(FAMILIES).index("uniform")][0]
    expected = np.tril(np.ones((24, 24))) / np.arange(1, 25)[:, None]
    assert np.abs(p - expected).max() < 1e-6
