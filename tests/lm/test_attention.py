"""What a listener is told of each layer, in every family of the matrix, and that it may replace what it was told."""

import pytest
import torch
from families import FAMILIES
from matrix import BATCH, SIZE, family_model, tokens
from transformers import XGLMConfig, XGLMForCausalLM

from apmae.errors import CaptureError
from apmae.lm.attention import find_model, listening
from apmae.lm.layers import attention_modules


@torch.no_grad()
def logits_while(listener, model, inputs, layers=None):
    modules = attention_modules(find_model(model))
    if layers is not None:
        modules = {layer: modules[layer] for layer in layers}
    with listening(model, modules, listener):
        return model(**inputs).logits


def test_a_listener_is_told_every_layer_once_and_changes_nothing_by_returning_the_same():
    inputs = tokens(padding="left")
    for name, family in FAMILIES.items():
        model, heard = family_model(name), []
        with torch.no_grad():
            plain = model(**inputs).logits

        def copy(layer, attention, output, heard=heard):
            heard.append((layer, attention.shape, tuple(output.shape[:3])))
            return output.clone()

        assert torch.equal(logits_while(copy, model, inputs), plain), name
        expected = [(i, (BATCH, heads, SIZE, SIZE), (BATCH, SIZE, heads)) for i, heads in family.counts.items()]
        assert heard == expected, name
        assert torch.equal(logits_while(lambda *_: None, model, inputs), plain), name


def test_what_it_returns_goes_to_the_output_projection():
    """For a model of each kind."""
    inputs = tokens(2, 20)
    for name, projection in (("llama", "o_proj"), ("gptj", "out_proj"), ("falcon", "dense")):
        model, seen = family_model(name), {}
        module = attention_modules(model)[1]

        def double(_layer, _attention, output, seen=seen):
            seen["told"] = output
            return 2 * output

        matrix = getattr(module, projection)
        hook = matrix.register_forward_hook(lambda _m, given, _out, seen=seen: seen.update(projected=given[0]))
        logits_while(double, model, inputs, layers=[1])
        hook.remove()
        assert torch.equal(seen["projected"], 2 * seen["told"].flatten(2)), name


def test_each_listener_is_told_what_the_one_before_it_left():
    inputs = tokens(2, 20)
    for name in ("llama", "bloom", "bert"):
        model, told = family_model(name), []
        modules = attention_modules(model)

        def add(_layer, _attention, output, told=told):
            told.append(output)
            return output + 1

        with torch.no_grad(), listening(model, modules, add), listening(model, modules, add):
            model(**inputs)
        assert len(told) == 2 * FAMILIES[name].layers
        for outer, inner in zip(told[::2], told[1::2], strict=True):
            assert torch.equal(inner, outer + 1), name


def test_scores_that_are_not_by_prompt_and_head_are_refused():
    torch.manual_seed(0)
    config = XGLMConfig(vocab_size=160, d_model=48, ffn_dim=64, num_layers=2, attention_heads=4)
    with pytest.raises(CaptureError, match=r"one softmax over the 4 axes .* in XGLMAttention, got 1 over \[3\] axes"):
        logits_while(lambda *_: None, XGLMForCausalLM(config).eval(), tokens(size=8))


def test_a_model_is_found_in_what_wraps_it(family, bundled_lm):
    model = family("llama")
    assert find_model(model) is model
    assert find_model(torch.nn.Sequential(model)) is model
    assert find_model(bundled_lm) is bundled_lm.model
    for nothing, named in ((torch.nn.Linear(2, 2), "Linear"), ("bundled", "str"), (None, "NoneType")):
        with pytest.raises(CaptureError, match=f"expected a model of transformers, {named} holds none"):
            find_model(nothing)
