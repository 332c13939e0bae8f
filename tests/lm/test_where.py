"""Positions of queries against loops over the attention mask, in whole forwards, cached steps and generations."""

import pytest
import torch
from matrix import family_model, tokens

from apmae.errors import CaptureError
from apmae.lm.layers import attention_modules
from apmae.lm.where import following


@torch.no_grad()
def seen(model, follower, **inputs):
    """What is known in the middle of a forward."""
    found = []
    layer = next(iter(attention_modules(model).values()))
    hook = layer.register_forward_pre_hook(lambda _module, _inputs: found.append(follower.where()))
    output = model(**inputs)
    hook.remove()
    (where,) = found
    return where, output


def counted(mask, first=0):
    """Positions of the queries from column ``first`` on."""
    rows = []
    for row in mask.tolist():
        real = [place for place, value in enumerate(row) if value]
        rows.append([real.index(place) if place in real else -1 for place in range(first, len(row))])
    return rows


@pytest.mark.parametrize("name", ["llama", "gptj", "bert", "deberta-v2", "qwen3-next", "gemma3-vision"])
def test_positions_are_counted_from_each_prompts_first_token(name):
    model = family_model(name)
    with following(model, first_prompt=4) as follower:
        for number, padding in enumerate(("none", "left", "right")):
            inputs = tokens(padding=padding)
            where, _ = seen(model, follower, **inputs)
            assert where.positions.tolist() == counted(inputs["attention_mask"])
            assert where.ends.tolist() == inputs["attention_mask"].sum(1).tolist()
            assert where.first_prompt == 4 + 3 * number
        plain, _ = seen(model, follower, input_ids=inputs["input_ids"])
        assert plain.positions.tolist() == [list(range(70))] * 3


@pytest.mark.parametrize("name", ["llama", "bloom", "mistral-window", "qwen3-next"])
def test_a_step_belongs_to_the_prompts_that_it_continues(name):
    model, inputs = family_model(name), tokens(2, 40, "left")
    mask = inputs["attention_mask"]
    with following(model) as follower:
        seen(model, follower, **tokens(3, 5))
        first = {key: value[:, :35] for key, value in inputs.items()}
        begun, output = seen(model, follower, **first, use_cache=True)
        for token in range(35, 40):
            step = {"input_ids": inputs["input_ids"][:, token : token + 1], "attention_mask": mask[:, : token + 1]}
            where, output = seen(model, follower, **step, past_key_values=output.past_key_values, use_cache=True)
            assert where.positions.tolist() == counted(mask[:, : token + 1], token)
            assert where.ends.tolist() == mask[:, :35].sum(1).tolist()
            assert where.continued is begun
            assert where.first_prompt == 3
        again, _ = seen(model, follower, **first)
        assert again.continued is None
        assert again.first_prompt == 5


def test_one_generation_reads_the_same_prompts_with_a_cache_or_without():
    model, inputs = family_model("llama"), tokens(2, 12, "left")
    layer, kept = model.model.layers[0], []
    with following(model) as follower:
        hook = layer.register_forward_pre_hook(lambda _module, _inputs: kept.append(follower.where()))
        for use_cache in (True, False):
            model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=use_cache)
        hook.remove()
    assert [where.first_prompt for where in kept] == [0] * 4 + [2] * 4
    assert {tuple(where.ends.tolist()) for where in kept} == {tuple(inputs["attention_mask"].sum(1).tolist())}
    last = [int(where.positions[0, -1]) for where in kept]
    assert last == [11, 12, 13, 14] * 2


def test_a_mask_that_says_nothing_of_padding_and_no_forward_at_all():
    model, ids = family_model("llama"), tokens(2, 6)["input_ids"]
    square = torch.zeros(2, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    with following(model) as follower:
        with pytest.raises(CaptureError, match="expected a forward of the whole model"):
            follower.where()
        where, _ = seen(model, follower, input_ids=ids, attention_mask=square)
        with pytest.raises(CaptureError, match=r"an attention mask of shape \(2, 6\), .* got \(2, 1, 6, 6\)"):
            _ = where.positions
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
