"""Which keys are sinks, on heads with known behaviour; ``test_scores.py`` also compares them with plain loops."""

import numpy as np
import pytest
import torch

from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.patterns.scores import score

SIZE = 200
query, key = np.indices((SIZE, SIZE))
back = query - key


def attention(bonus, causal=True, spread=1.0, seed=0):
    """float64 (length, length): softmax of noise and a bonus."""
    scores = np.random.default_rng(seed).normal(0, spread, bonus.shape) + bonus
    if causal:
        scores[np.triu_indices(len(bonus), 1)] = -np.inf
    weights = np.exp(scores)
    return weights / weights.sum(-1, keepdims=True)


def sinks_of(p, **keywords):
    """The sinks of one pattern, and its ``later_sink``."""
    found = score(Patterns.from_probabilities(p[None], **keywords))
    return found.sinks[0], float(found["later_sink"][0])


def test_a_sink_at_the_first_token_is_no_later_one():
    assert sinks_of(attention(8.0 * (key == 0))) == ((0,), 0.0)


@pytest.mark.parametrize("position", [1, 40, 140])
def test_rows_before_a_sink_do_not_count(position):
    """They cannot see it."""
    p = attention(8.0 * ((key == position) | (query < position) & (back == 1)))
    sinks, later = sinks_of(p)
    assert sinks == (position,)
    assert later == pytest.approx(p[position + 1 :, position].mean(), abs=1e-5)
    assert later > 0.8


def test_several_sinks_count_together_and_the_strongest_comes_first():
    p = attention(8.0 * (key == 70) + 7.6 * (key == 20) + 7.5 * (key == 0))
    sinks, later = sinks_of(p)
    assert sinks == (70, 0, 20)
    assert p[71:, 70].mean() > p[1:, 0].mean() > p[21:, 20].mean()
    assert later == pytest.approx((p[21:71, 20].sum() + p[71:, [20, 70]].sum()) / 179, abs=1e-2)
    assert later > 0.6


def test_a_sink_may_be_ignored_by_a_few_rows():
    elsewhere = query % 12 == 0
    assert sinks_of(attention(8.0 * np.where(elsewhere, back == 0, key == 50)))[0] == (50,)
    often = query % 6 == 0
    assert sinks_of(attention(8.0 * np.where(often, back == 0, key == 50)))[0] == ()


@pytest.mark.parametrize("width", [1, 2, 5, 12, 24])
def test_bands_have_no_sink(width):
    assert sinks_of(attention(8.0 * (back < width))) == ((), 0.0)


@pytest.mark.parametrize("distance", [0, 1, 2, 50])
def test_diagonals_have_no_sink(distance):
    assert sinks_of(attention(8.0 * (back == distance))) == ((), 0.0)


@pytest.mark.parametrize("size", [18, 20, 32, 64, 200])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_even_attention_has_no_sink(size, spread):
    assert sinks_of(attention(np.zeros((size, size)), spread=spread)) == ((), 0.0)


def test_the_start_of_the_last_line_is_no_sink():
    """For a head that looks at the latest line break, every row after the last one attends to that."""
    breaks = np.array([0, 30, 75, 120, 165])
    latest = breaks[np.searchsorted(breaks, np.arange(SIZE), side="right") - 1]
    assert sinks_of(attention(8.0 * (key == latest[:, None]))) == ((), 0.0)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_planted_families_have_no_sinks_but_those_that_look_at_fixed_keys(noise):
    families = ["previous", "self", "local", "offset", "blocks", "uniform", "repeats", "decay", "beginning"]
    found = score(planted(10, families=families, noise=noise, seed=3)[0])
    assert set(found.sinks) == {()}
    assert not found["later_sink"].any()
    first = score(planted(10, families=["first_token", "sink_and_previous"], noise=noise, seed=3)[0])
    assert set(first.sinks) == {(0,)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_from_the_first_token_whatever_the_padding(side):
    dense = np.zeros((1, 90, 90))
    own = slice(20, 90) if side == "left" else slice(0, 70)
    dense[0, own, own] = attention(8.0 * (key == 25))[:70, :70]
    assert sinks_of(dense[0])[0] == (25,)


def test_packed_texts_have_a_sink_each():
    """No row sees past the beginning of its own text, and each text has too few rows for a quarter of the prompt."""
    text = query // 20
    bonus = np.where(text == key // 20, 8.0 * (key == 20 * text), -np.inf)
    assert sinks_of(attention(bonus, spread=0))[0] == tuple(range(0, SIZE, 20))
    assert sinks_of(attention(bonus, spread=0))[1] > 0.99


def test_a_window_hides_a_sink_from_later_rows():
    window = np.where(back < 60, 8.0 * (key == 100), -np.inf)
    assert sinks_of(attention(window)) == ((100,), pytest.approx(1.0, abs=0.1))


def test_attention_too_small_for_a_float_is_not_out_of_sight():
    """A head so sharp that all but the latest line break get 1e-60 still sees the others."""
    breaks = np.arange(0, SIZE, 25)
    latest = breaks[np.searchsorted(breaks, np.arange(SIZE), side="right") - 1]
    logs = np.where(key == latest[:, None], 0.0, -138.0)
    logs[key > query] = -np.inf
    zero = np.zeros(1, np.int64)
    packed = geometry.pack(torch.from_numpy(logs[None]).float(), 32, -torch.inf)
    assert score(Patterns(packed, SIZE, prompt=zero, layer=zero, head=zero)).sinks == ((),)


def test_the_last_token_of_an_encoder_can_be_its_sink():
    p = attention(8.0 * (key == SIZE - 1) + 7.0 * (key == 0), causal=False)
    sinks, later = sinks_of(p, causal=False)
    assert sinks == (SIZE - 1, 0)
    assert later == pytest.approx(p[:-1, -1].mean(), abs=1e-5)


def test_short_prompts_have_too_few_rows_to_judge_a_sink():
    p = attention(8.0 * (key == 1))
    assert sinks_of(p[:18, :18])[0] == (1,)
    sinks, later = sinks_of(p[:17, :17])
    assert sinks == ()
    assert np.isnan(later)
