"""Masks and batches as people make them: padding with crops and pools, empty prompts, the caller's own masks."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from apmae.errors import CaptureError
from apmae.lm.attention import eager_attention
from apmae.lm.tap import capture


def tokens(batch, size, seed=0):
    return torch.randint(3, 160, (batch, size), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(model, keywords=None, **inputs):
    with capture(model, **(keywords or {})) as tap:
        model(**inputs)
    return tap.patterns


@pytest.mark.parametrize("keywords", [{"crop": 32}, {"pool": 32}], ids=str)
@pytest.mark.parametrize("name", ["llama", "bloom", "bert"])
def test_a_batch_padded_beyond_its_longest_prompt(family, name, keywords):
    """``pad_to_multiple_of`` does that: more columns than a pattern has rows, but fewer tokens."""
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[:, 30:] = 0
    patterns = run(family(name), keywords, input_ids=ids, attention_mask=mask)
    alone = run(family(name), input_ids=ids[:, :30])
    assert patterns.lengths == {0: 30, 1: 30}
    assert np.abs(patterns.probabilities()[:, :30, :30] - alone.probabilities()).max() <= 1e-6
    assert not patterns.probabilities()[:, 30:].any()


@pytest.mark.parametrize("keywords", [{}, {"pool": 8}, {"crop": 8}], ids=str)
@pytest.mark.parametrize("name", ["llama", "bloom", "bert", "gemma2", "mistral-window"])
def test_a_prompt_of_nothing_but_padding_is_refused(family, name, keywords):
    ids = tokens(4, 20)
    mask = torch.ones_like(ids)
    mask[1] = mask[3] = 0
    with pytest.raises(CaptureError, match="all zero in rows 1, 3 of the batch; leave empty prompts out"):
        run(family(name), keywords, input_ids=ids, attention_mask=mask)
    rows = mask.any(1)
    patterns = run(family(name), keywords, input_ids=ids[rows], attention_mask=mask[rows])
    assert patterns.lengths == {0: 20, 1: 20}


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("side", ["sdpa", "eager"])
def test_a_mask_by_query_and_key_that_hides_all_of_a_prompt_is_refused(family, additive, side):
    ids = tokens(3, 20)
    mask = torch.ones(3, 1, 20, 20, dtype=torch.bool).tril()
    mask[2] = False
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with (
        eager_attention(family("llama")) if side == "eager" else nullcontext(),
        pytest.raises(CaptureError, match="all zero in row 2 of the batch"),
    ):
        run(family("llama"), input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("use_cache", [True, False])
def test_nothing_is_generated_from_a_prompt_of_nothing_but_padding(family, use_cache):
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0] = 0
    settings = GenerationConfig(max_new_tokens=3, use_cache=use_cache, eos_token_id=None, pad_token_id=0)
    with capture(family("llama")), pytest.raises(CaptureError, match="all zero in row 0"):
        family("llama").generate(tokens(2, 10), attention_mask=mask, generation_config=settings)


@pytest.mark.parametrize("shape", [(2, 0), (0, 5)], ids=str)
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_batch_of_nothing_is_refused(family, name, shape):
    with pytest.raises(CaptureError, match="at least one prompt of at least one token, got input_ids of shape"):
        run(family(name), input_ids=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("fill", [-torch.inf, torch.finfo(torch.float32).min, -1e9])
@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_whatever_an_additive_mask_is_filled_with(family, name, fill):
    ids = tokens(2, 20)
    additive = torch.zeros(1, 1, 20, 20).masked_fill(~torch.ones(20, 20).tril().bool(), fill)
    patterns = run(family(name), input_ids=ids, attention_mask=additive)
    expected = run(family(name), input_ids=ids)
    assert patterns.causal
    assert torch.equal(patterns.log_patches.isfinite(), expected.log_patches.isfinite())
    assert np.abs(patterns.probabilities() - expected.probabilities()).max() <= 1e-6


def test_a_key_that_is_knocked_out(family):
    """No token sees token 5, itself included; its own row is still there."""
    model, ids = family("llama"), tokens(2, 40)
    allowed = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()
    allowed[..., 5] = False
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.no_grad(), capture(model) as tap:
        model(input_ids=ids, attention_mask=allowed)
    with torch.no_grad(), eager_attention(model):
        theirs = torch.stack(
            model(input_ids=ids, attention_mask=additive, output_attentions=True).attentions, 1
        ).numpy()
    assert np.abs(tap.patterns.probabilities().reshape(theirs.shape) - theirs).max() <= 1e-5
    assert tap.patterns.lengths == {0: 40, 1: 40}


def test_a_mask_that_hides_tokens_from_themselves_is_refused(family):
    strict = torch.ones(1, 1, 10, 10, dtype=torch.bool).tril(-1)
    with torch.no_grad(), capture(family("llama")), pytest.raises(CaptureError, match="hides each token from itself"):
        family("llama")(input_ids=tokens(1, 10), attention_mask=strict)
