import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.seeding import generator, subseed, unit_hash

SEEDS = st.integers(-(2**40), 2**40)
NAMES = st.lists(st.one_of(st.integers(), st.text(st.characters(codec="utf-8", exclude_characters="\x1f"))), max_size=4)


@given(SEEDS, NAMES)
def test_subseed_is_a_63_bit_number_that_depends_only_on_its_arguments(seed, names):
    first = subseed(seed, *names)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    assert 0 <= first < 2**63
    assert subseed(seed, *names) == first


@given(SEEDS, SEEDS, NAMES, NAMES)
def test_other_names_or_seeds_give_other_subseeds(seed, other, names, more):
    key = (str(seed), *map(str, names))
    another = (str(other), *map(str, more))
    assert (subseed(seed, *names) == subseed(other, *more)) == (key == another)


def test_the_order_and_the_grouping_of_names_matter():
    values = {subseed(0, "a", "b"), subseed(0, "b", "a"), subseed(0, "ab"), subseed(0, "a", "", "b"), subseed(0, "a")}
    assert len(values) == 5


@given(SEEDS, NAMES)
def test_unit_hash_is_in_the_half_open_interval(seed, names):
    assert 0 <= unit_hash(seed, *names) < 1


def test_unit_hash_is_uniform():
    count = 4000
    values = np.array([unit_hash(0, "exemplar", i) for i in range(count)])
    in_tenths = np.histogram(values, bins=10, range=(0, 1))[0]
    expected, deviation = count / 10, np.sqrt(count * 0.1 * 0.9)
    assert np.abs(in_tenths - expected).max() < 4 * deviation


def test_generators_of_two_purposes_differ_and_are_repeatable():
    mask, order = generator(3, "mask").random(8), generator(3, "order").random(8)
    assert np.array_equal(mask, generator(3, "mask").random(8))
    assert not np.isclose(mask, order).any()


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_another_process_draws_the_same(hash_seed):
    code = "from apmae.seeding import *; print(subseed(7, 'x', 1), generator(7, 'x').integers(2**40))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}
    )
    assert result.stdout.split() == [str(subseed(7, "x", 1)), str(generator(7, "x").integers(2**40))]
