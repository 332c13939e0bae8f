"""Planted patterns: what each family promises."""

import numpy as np
import pytest

from apmae.errors import ConfigError
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
        ("sink_and_recent", lambda q, k: (k == 0) | (q - k <= 23)),
        ("beginning", lambda q, k: k < 48 // 5),
    ],
)
def test_without_noise_attention_is_where_it_should_be(family, where):
    patterns, labels = planted(4, size=48, noise=0.0)
    dense = patterns.probabilities()[labels == list(FAMILIES).index(family)]
    query, key = np.indices((48, 48))
    inside = (dense * where(query, key)).sum(-1)[:, 1:]
    assert inside.min() > 0.7  # a bonus of 5 against 46 other keys leaves e^5 / (e^5 + 46)


def test_blocks_attend_to_the_querys_own_block():
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


def bare(family, count=4, size=48, **settings):
    patterns, _ = planted(count, size=size, noise=0.0, families=(family,), **settings)
    return patterns.probabilities()


def test_stripes_are_equally_far_apart():
    for p in bare("stripes"):
        strong = np.flatnonzero(p[-1] > p[-1].max() * 0.99)
        assert len(strong) >= 2
        assert len(np.unique(np.diff(strong))) == 1
        for q in range(strong[0], 48):  # and likewise for every query that sees one
            assert np.flatnonzero(p[q] > p[q].max() * 0.99).tolist() == strong[strong <= q].tolist()


def test_repeats_are_diagonals_equally_far_apart():
    for p in bare("repeats", size=96):
        back = 95 - np.flatnonzero(p[-1] > p[-1].max() * 0.99)[::-1]
        assert len(back) >= 3
        assert len(np.unique(np.diff(back))) == 1
        for q in range(back[0], 96):
            assert set(q - np.flatnonzero(p[q] > p[q].max() * 0.99)) == set(back[back <= q])


def test_decay_falls_by_the_same_factor_per_token():
    for p in bare("decay"):
        steps = np.log(p[-1, 1:] / p[-1, :-1])
        assert np.ptp(steps) < 1e-3
        assert 5 / 128 <= steps[0] <= 8 / 32


def test_a_block_looks_at_its_first_token():
    for p in bare("block_start"):
        looked_at = p.argmax(-1)
        assert (np.diff(looked_at) >= 0).all()
        assert all(looked_at[key] == key for key in np.unique(looked_at))
        assert 4 <= len(np.unique(looked_at)) <= 9


@pytest.mark.parametrize(("family", "fewest", "most"), [("columns", 4, 8), ("blocks", 4, 9)])
def test_the_number_of_columns_and_blocks_varies(family, fewest, most):
    last = bare(family, count=12, size=64)
    if family == "columns":
        found = [int((p[-1] > p[-1].max() * 0.99).sum()) for p in last]
    else:  # a block begins where a query does not look at the one before it
        found = [1 + sum(p[q, q - 1] < p[q, q] / 10 for q in range(1, 64)) for p in last]
    assert fewest <= min(found) < max(found) <= most


def test_noise_is_drawn_from_a_range():
    patterns, _ = planted(8, size=64, noise=(0.2, 2.0), families=("uniform",))
    logs = np.log(patterns.probabilities()[:, -1])
    spread = logs.std(-1)
    assert 0.1 < spread.min() < 0.8
    assert 1.2 < spread.max() < 2.6


def test_prompts_may_be_shorter_than_the_window():
    patterns, _ = planted(3, size=64, shortest=20)
    sums = patterns.probabilities().sum(-1)
    lengths = (sums > 0.5).sum(-1)
    assert lengths.min() >= 20
    assert len(np.unique(lengths)) > 10
    for row, length in zip(sums, lengths, strict=True):
        assert np.abs(row[:length] - 1).max() < 1e-5
        assert not row[length:].any()


def test_a_family_is_the_same_alone_as_among_all():
    alone, labels = planted(2, size=32, families=("blocks", "self"))
    everything, numbers = planted(2, size=32)
    assert labels.tolist() == [0, 0, 1, 1]
    for number, family in enumerate(("blocks", "self")):
        among = everything.probabilities()[numbers == list(FAMILIES).index(family)]
        assert np.array_equal(alone.probabilities()[labels == number], among)


def test_mistakes_are_refused():
    with pytest.raises(ConfigError, match="got spiral"):
        planted(1, families=("self", "spiral"))
    for shortest in (15, 65):
        with pytest.raises(ConfigError, match=f"16 to 64 tokens, got {shortest}"):
            planted(1, size=64, shortest=shortest)
    assert len(planted(1, size=16, shortest=16, families=("self",))[0]) == 1
