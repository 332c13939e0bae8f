"""Prompts longer than a pattern: pooled and cropped while they are captured, against whole patterns and float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matrix import tokens

from apmae.errors import CaptureError
from apmae.lm.tap import capture
from apmae.patterns.pooling import edges


@torch.no_grad()
def run(model, inputs, **keywords):
    with capture(model, **keywords) as tap:
        model(**inputs, use_cache=False)
    return tap.patterns


def pooled_in_float64(pattern, size):
    """The sum over the keys of each block, and the mean over its queries, by numpy's segments."""
    length = len(pattern)
    blocks = min(size, length)
    starts = np.array([i * length // blocks for i in range(blocks)])
    rows = np.diff([*starts, length])
    sums = np.add.reduceat(np.add.reduceat(pattern.astype(np.float64), starts, axis=1), starts, axis=0)
    return sums / rows[:, None]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize(("tokens_", "size"), [(40, 32), (64, 32), (100, 32), (150, 64), (33, 32), (129, 4)])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "bloom", "gemma2", "modernbert"])
def test_pooling_sums_keys_and_averages_queries(family, name, tokens_, size, padding):
    inputs = tokens(3, tokens_, padding, shorter=35)
    whole, pooled = run(family(name), inputs), run(family(name), inputs, pool=size)
    assert (pooled.size, pooled.reach, pooled.causal) == (size, "pool", name != "modernbert")
    assert pooled.lengths == whole.lengths
    assert np.array_equal(pooled.head, whole.head)
    found, dense = pooled.probabilities(), whole.probabilities()
    for index in range(len(whole)):
        length = whole.lengths[int(whole.prompt[index])]
        expected = pooled_in_float64(dense[index, :length, :length], size)
        rows = len(expected)
        assert np.abs(found[index, :rows, :rows] - expected).max() <= 1e-5
        assert not found[index, rows:].any()
        assert np.abs(found[index, :rows].sum(-1) - 1).max() <= 1e-5
        # No key that can be attended to is lost, however little attention it gets.
        assert ((found[index, :rows, :rows] > 0) >= (expected > 1e-30)).all()


@pytest.mark.parametrize("size", [1, 7, 31, 32])
def test_shorter_prompts_are_whole(family, size):
    inputs = tokens(2, size)
    pooled, whole = run(family("llama"), inputs, pool=32), run(family("llama"), inputs)
    assert (pooled.reach, pooled.size) == ("whole", size)
    assert torch.equal(pooled.log_patches, whole.log_patches)


def test_a_short_prompt_in_a_long_batch_is_whole(family):
    inputs = tokens(1, 100)
    both = {name: torch.cat([value, value]) for name, value in inputs.items()}
    both["attention_mask"][1, 20:] = 0
    pooled = run(family("llama"), both, pool=32)
    alone = run(family("llama"), {name: value[:, :20] for name, value in inputs.items()})
    assert pooled.lengths == {0: 100, 1: 20}
    own = pooled[pooled.prompt == 1].probabilities()
    assert np.abs(own[:, :20, :20] - alone.probabilities()).max() <= 1e-6
    assert not own[:, 20:].any()


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "bloom", "modernbert"])
def test_a_crop_is_the_last_tokens_renormalised(family, name, padding):
    inputs = tokens(3, 150, padding, shorter=35)
    whole, cropped = run(family(name), inputs), run(family(name), inputs, crop=48)
    assert (cropped.size, cropped.reach) == (48, "crop")
    found, dense = cropped.probabilities(), whole.probabilities()
    for index in range(len(whole)):
        length = whole.lengths[int(whole.prompt[index])]
        last = dense[index, length - 48 : length, length - 48 : length].astype(np.float64)
        assert np.abs(found[index] - last / last.sum(-1, keepdims=True)).max() <= 1e-5


def test_scores_too_small_for_a_probability_are_pooled_too(fresh):
    """Log space: blocks that get less attention than float32 can hold are still there."""
    model = fresh(sharpen=80.0)
    inputs = tokens(1, 96)
    logs = run(model, inputs, pool=32).log_patches
    assert float(logs[logs.isfinite()].min()) < -110
    assert int(logs.isfinite().sum()) == 8 * 32 * 33 // 2


@given(length=st.integers(1, 5000), size=st.integers(1, 300))
def test_blocks_cover_the_tokens_once(length, size):
    bounds = edges(length, size).tolist()
    assert len(bounds) == min(size, length) + 1
    assert (bounds[0], bounds[-1]) == (0, length)
    widths = [end - begin for begin, end in zip(bounds, bounds[1:], strict=False)]
    assert set(widths) <= {length // min(size, length), length // min(size, length) + 1}


@pytest.mark.parametrize("keywords", [{"pool": 0}, {"crop": -1}, {"pool": 32, "crop": 32}], ids=str)
def test_limits_that_make_no_sense(family, keywords):
    with pytest.raises(CaptureError, match="either pool or crop, at least 1"), capture(family("llama"), **keywords):
        raise AssertionError("the block must not run")
