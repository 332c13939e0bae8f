import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apmae.analyze.folds import folds_of


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 6))
def test_groups_stay_whole_and_no_fold_is_empty(seed, count, folds):
    draw = np.random.default_rng(seed)
    group, stratum = draw.integers(12, size=count), draw.integers(4, size=count)
    found = folds_of(group, stratum, folds, seed)
    for number in np.unique(group):
        assert len(set(found[group == number])) == 1
    expected = min(folds, len(np.unique(group)))
    assert set(found.tolist()) == set(range(expected))
    np.testing.assert_array_equal(found, folds_of(group, stratum, folds, seed))


def test_folds_are_alike_in_every_stratum():
    draw = np.random.default_rng(0)
    group, stratum = np.arange(400) // 2, draw.integers(6, size=400)
    found = folds_of(group, stratum, 5, 0)
    counts = np.array([np.bincount(stratum[found == number], minlength=6) for number in range(5)])
    assert (counts.max(0) - counts.min(0)).max() <= 3
    assert not np.array_equal(found, folds_of(group, stratum, 5, 1)), "the seed decides"
    assert not np.array_equal(found, folds_of(group, stratum, 5, 0, "other")), "and the purpose"
