"""Orders of heads against sorted(), and what makes each control one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.analyze.rankings import CONTROLS, RANKINGS, doses_of, rank_heads, sets_of

LAYER = np.repeat(np.arange(6), 8)


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_orders_are_those_of_sorted(seed, count):
    change = np.random.default_rng(seed).normal(size=count)
    keys = {"helpful": lambda h: change[h], "harmful": lambda h: -change[h], "neutral": lambda h: abs(change[h])}
    for ranking in RANKINGS:
        assert rank_heads(change, ranking, seed).tolist() == sorted(range(count), key=keys[ranking])


def test_equal_heads_are_in_random_order_by_the_seed():
    change = np.zeros(40)
    orders = {tuple(rank_heads(change, "harmful", seed)) for seed in range(5)}
    assert len(orders) == 5 and all(sorted(order) == list(range(40)) for order in orders)
    assert tuple(rank_heads(change, "harmful", 3)) in orders


def test_doses_double_until_all():
    assert doses_of(48) == [1, 2, 4, 8, 16, 32, 48]
    assert doses_of(64) == [1, 2, 4, 8, 16, 32, 64] and doses_of(1) == [1] and doses_of(3) == [1, 2, 3]
    assert doses_of(48, [8, 2, 99]) == [2, 8, 48] and doses_of(48, []) == []


def test_each_control_is_what_it_says():
    change = np.random.default_rng(0).normal(size=48)
    order = rank_heads(change, "helpful", 0)
    found = list(sets_of(order, change, LAYER, doses_of(48), 4, 0, "helpful"))
    assert all(len(own.heads) == len(set(own.heads)) == own.dose for own in found)
    for dose in (1, 2, 4, 8, 16):
        own = {control: [one for one in found if one.dose == dose and one.control == control] for control in CONTROLS}
        assert [len(sets) for sets in own.values()] == [4, 4, 4]
        chosen = order[:dose]
        for one in own["layers"]:
            assert Counter(LAYER[list(one.heads)].tolist()) == Counter(LAYER[chosen].tolist())
        for one in own["effect"]:
            assert not set(one.heads) & set(chosen.tolist())
    assert {one.control for one in found if one.dose == 32} == {"", "size", "layers"}, "not as many others"
    assert [one.control for one in found if one.dose == 48] == [""], "all heads have no control"
    assert next(one for one in found if one.dose == 8 and not one.control).heads == tuple(sorted(order[:8].tolist()))
    assert len({one.heads for one in found if one.dose == 8}) == 13, "draws differ"


def test_controls_of_like_effect_are_as_near_as_there_are():
    """Each head of the set is one of a pair whose changes are equal, far from all others."""
    pairs = np.repeat(np.arange(24.0), 2)
    order = np.arange(0, 48, 2)  # one of each pair
    for draw in sets_of(order[np.r_[:24]], pairs, LAYER, [12], 5, 0):
        if draw.control == "effect":
            assert abs(pairs[list(draw.heads)].mean() - pairs[order[:12]].mean()) < 2.5


def test_random_heads_are_drawn_evenly():
    change, counts = np.random.default_rng(1).normal(size=48), Counter()
    for seed in range(300):
        for own in sets_of(np.arange(48), change, LAYER, [8], 1, seed):
            if own.control == "size":
                counts.update(own.heads)
    assert sum(counts.values()) == 2400 and min(counts.values()) > 25 and max(counts.values()) < 80


def test_rankings_share_the_sets_of_the_same_size_only():
    change = np.random.default_rng(2).normal(size=48)
    one, other = (
        [own for own in sets_of(rank_heads(change, name, 0), change, LAYER, [4], 2, 0, name)]
        for name in ("helpful", "harmful")
    )
    for ours, theirs in zip(one, other, strict=True):
        assert (ours == theirs) == (ours.control == "size")
    assert one == list(sets_of(rank_heads(change, "helpful", 0), change, LAYER, [4], 2, 0, "helpful"))


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_dose_holds_the_smaller_ones(ranking):
    change = np.random.default_rng(3).normal(size=20)
    order = rank_heads(change, ranking, 0)
    own = [set(one.heads) for one in sets_of(order, change, np.zeros(20), doses_of(20), 1, 0) if not one.control]
    assert all(small < large for small, large in zip(own, own[1:], strict=False))
