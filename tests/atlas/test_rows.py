import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apmae.atlas.rows import finite_embeddings, heads_of_rows, members_of, merge_duplicates, stored
from apmae.errors import ConfigError

SMALL = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 30), st.integers(1, 3)),
    elements=st.sampled_from([0.0, -0.0, 1e-4, 2e-4, 1.0, 1.0001, 2.0, -3.5]),
)


@given(SMALL)
def test_equal_rows_become_one_and_every_row_knows_which(z):
    first, group, counts = merge_duplicates(z)
    stored = z.astype(np.float16) + 0
    assert np.array_equal(stored[first][group], stored), "a row's group has its values"
    assert len(np.unique(stored[first], axis=0)) == len(first), "groups differ"
    assert counts.tolist() == np.bincount(group, minlength=len(first)).tolist()
    assert first.tolist() == sorted(first.tolist()), "groups come in the order of their first rows"
    assert group[first].tolist() == list(range(len(first)))


@given(SMALL, st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_the_order_of_rows(z, random):
    order = np.array(random.sample(range(len(z)), len(z)))
    sizes = sorted(merge_duplicates(z)[2].tolist())
    assert sorted(merge_duplicates(z[order])[2].tolist()) == sizes


@given(st.lists(st.integers(-1, 6), max_size=30), st.integers(0, 8))
def test_members_are_the_rows_of_each_label(labels, count):
    labels = np.array(labels, np.int64)
    members = members_of(labels, count)
    assert len(members) == count
    for number, own in enumerate(members):
        assert own.tolist() == np.flatnonzero(labels == number).tolist()


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.uint8, list, torch.tensor])
def test_heads_may_be_any_kind_of_integers(kind):
    made = [kind(part) if kind in (list, torch.tensor) else np.array(part, kind) for part in ([3, 1, 2], [4, 0, 5])]
    for where in (tuple(made), made):
        layer, head = heads_of_rows(where, 3)
        assert layer.dtype == head.dtype == np.int64
        assert (layer.tolist(), head.tolist()) == ([3, 1, 2], [4, 0, 5])
    assert heads_of_rows(None, 3) is None
    assert [part.tolist() for part in heads_of_rows(([], []), 0)] == [[], []], "without rows any kind will do"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (([0, 1], [0, 1, 2]), r"one of each per embedding \(3\), got layer of shape \(2,\)"),
        (([0, 1, 2], [0, 1, 2, 3]), r"got head of shape \(4,\)"),
        (([[0], [1], [2]], [0, 1, 2]), r"got layer of shape \(3, 1\)"),
        ((0, 1), r"got layer of shape \(\)"),
        (([0.0, 1.0, 2.0], [0, 1, 2]), "of integers, got layer of float64; cast it to int64"),
        (([0, 1, 2], [True, False, True]), "of integers, got head of bool"),
        (([0, -1, 2], [0, 1, 2]), "counted from 0 and under 524288, got layer -1 to 2; leave out rows of no head"),
        (([0, 1, 2], [-2, 1, 2]), "got head -2 to 2"),
        (([0, 1, 2], [0, 1, 4096]), "counted from 0 and under 4096, got head 0 to 4096"),
        ((np.array([0, 1, 2**63], np.uint64), [0, 1, 2]), "got layer 0 to 9223372036854775808"),
        (([0, 1, 2],), "two arrays of 3 integers, got tuple"),
        (([0, 1, 2], [0, 1, 2], [0, 1, 2]), "two arrays of 3 integers"),
        (np.zeros((2, 3), int), "two arrays of 3 integers, got ndarray"),
    ],
)
def test_heads_that_do_not_fit_the_rows_are_refused(where, said):
    with pytest.raises(ConfigError, match=said):
        heads_of_rows(where, 3)


@pytest.mark.parametrize("check", [stored, finite_embeddings])
@pytest.mark.parametrize(
    ("z", "said"),
    [
        ([["a", "b"]], "expected embeddings of real numbers, got <U1; cast them to float32"),
        ([["1.5", "2.5"]], "got <U3"),
        (np.ones((2, 3), complex), "got complex128"),
        (np.array([[None, 1.0]]), "got object"),
        ([[1.0], [1.0, 2.0]], r"expected embeddings of shape \(n, dim\), got list"),
        (torch.ones(2, 3, dtype=torch.bfloat16), r"expected embeddings of shape \(n, dim\), got Tensor"),
        (None, r"got \(\)"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(check, z, said):
    with pytest.raises(ConfigError, match=said):
        check(z)
