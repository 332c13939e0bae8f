"""Forwards that start at a later layer against whole ones, plain and edited, in every family."""

import pytest
import torch
from families import FAMILIES, cases
from matrix import family_model, tokens

import apmae
from apmae.config import LMConfig
from apmae.errors import CaptureError
from apmae.lm.changes import Scale
from apmae.lm.language_model import LM
from apmae.lm.layers import attention_modules
from apmae.lm.restart import Restart

SHARED = ("gemma3n", "gemma4")
"""Their last layers read keys of earlier ones."""


def lm_of(model, causal=True):
    return LM(model=model, tokenizer=None, config=LMConfig(), causal=causal, sentinels=None, bos=None)


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("name", cases(name for name in FAMILIES if name not in SHARED))
def test_a_restart_is_a_whole_forward_of_fewer_layers(name):
    family, model = FAMILIES[name], family_model(name)
    restart = Restart(lm_of(model, not family.square))
    assert restart.reason is None
    ran, hooks = [], []
    for layer, module in attention_modules(model).items():
        hooks.append(module.register_forward_pre_hook(lambda _module, _inputs, layer=layer: ran.append(layer)))
    for padding in ("left", "right"):
        inputs = tokens(padding=padding)
        plain = logits(model, inputs)
        with restart.recording():
            assert torch.equal(logits(model, inputs), plain)
        for layer in range(family.layers):
            ran.clear()
            with restart.at(layer):
                assert torch.equal(logits(model, inputs), plain), layer
            assert ran == [own for own in family.counts if own >= layer]
        for layer, heads in family.counts.items():
            edits = {(layer, heads - 1): "zero", (max(family.counts), 0): Scale(2.0)}
            with apmae.edit(model, edits):
                expected = logits(model, inputs)
                with restart.at(layer):
                    assert torch.equal(logits(model, inputs), expected), layer
            assert not torch.equal(expected, plain)
        assert torch.equal(logits(model, inputs), plain)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", SHARED)
def test_layers_that_read_earlier_ones_are_run_whole(name):
    model, inputs = family_model(name), tokens()
    restart = Restart(lm_of(model))
    assert "started at a later layer" in restart.reason
    plain = logits(model, inputs)
    with restart.recording():
        assert torch.equal(logits(model, inputs), plain)
    with restart.at(1):
        assert torch.equal(logits(model, inputs), plain)
    with apmae.edit(model, {(0, 0): "zero"}), restart.at(1):  # which has its effect
        assert not torch.equal(logits(model, inputs), plain)


def test_a_layer_that_remembers_an_earlier_forward_is_noticed(fresh):
    model, kept = fresh(), []
    model.model.layers[0].mlp.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    model.model.layers[1].register_forward_hook(lambda _module, _inputs, output: output + kept[-1])
    assert (
        "started at layer 1, it gives other outputs than from its first layer, by a share of"
        in Restart(lm_of(model)).reason
    )


def test_states_that_are_changed_in_place_are_kept_as_they_were(fresh):
    model, inputs = fresh(), tokens()

    def in_place(_module, given):
        given[0].mul_(1.5)

    model.model.layers[1].register_forward_pre_hook(in_place)
    restart = Restart(lm_of(model))
    assert restart.reason is None
    plain = logits(model, inputs)
    with restart.recording():
        logits(model, inputs)
    with restart.at(1):
        assert torch.equal(logits(model, inputs), plain)
        assert torch.equal(logits(model, inputs), plain)


def test_hooks_of_layers_are_applied_once(fresh):
    model, inputs = fresh(), tokens()
    restart = Restart(lm_of(model))
    model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output + 0.5)
    plain = logits(model, inputs)
    with restart.recording():
        assert torch.equal(logits(model, inputs), plain)
    with restart.at(1):
        assert torch.equal(logits(model, inputs), plain)


def test_layers_in_no_list_and_a_model_in_training(fresh):
    model = fresh()
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    assert "has no list of 2 layers that contain its attention" in Restart(lm_of(model)).reason
    assert "eval mode" in Restart(lm_of(fresh().train())).reason


def test_what_would_not_be_a_whole_forward_is_refused():
    model, inputs = family_model("llama"), tokens(2, 9)
    restart = Restart(lm_of(model))
    with pytest.raises(CaptureError, match="a recorded batch to restart, got none"), restart.at(1):
        raise AssertionError("the block must not run")
    with restart.recording():
        plain = logits(model, inputs)
    for layer in (-1, 2):
        with pytest.raises(CaptureError, match=f"expected a layer from 0 to 1 to start at, got {layer}"):
            restart.at(layer).__enter__()
    shorter = dict(inputs, attention_mask=inputs["attention_mask"].clone())
    shorter["attention_mask"][1, 8] = 0
    for other in (tokens(2, 9, seed=1), tokens(2, 8), {"input_ids": inputs["input_ids"]}, shorter):
        with pytest.raises(CaptureError, match="expected the batch that was recorded"), restart.at(1):
            logits(model, other)
    for inside in (False, True):
        blocks = [restart.at(1), apmae.edit(model, {(0, 2): "zero"})]
        first, second = blocks[::-1] if inside else blocks
        with first, second, pytest.raises(CaptureError, match=r"that starts there, head \(0, 2\) is edited too"):
            logits(model, inputs)
    with restart.at(0), apmae.edit(model, {(0, 2): "zero"}):
        assert not torch.equal(logits(model, inputs), plain)
    cache = model(**tokens(2, 5), use_cache=True).past_key_values
    with restart.recording(), pytest.raises(CaptureError, match="continues from a cache"):
        model(input_ids=inputs["input_ids"], past_key_values=cache)


def test_nothing_is_left_behind():
    model, inputs = family_model("gpt2"), tokens()
    restart = Restart(lm_of(model))
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), restart.recording():
            logits(model, inputs)
            raise error
        with pytest.raises(error), restart.at(1):
            raise error
    assert not any("forward" in vars(part) for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.transformer.h)
    with torch.no_grad():
        assert model(**inputs).past_key_values.get_seq_length() == 70
