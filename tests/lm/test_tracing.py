"""Which families have direct shares in their logits, and why the others have none; test_readout.py has the sums."""

import copy

import pytest
import torch
import transformers as hf
from families import FAMILIES, config_of
from matrix import family_model, tokens

from apmae.config import LMConfig
from apmae.lm.language_model import LM
from apmae.lm.readout import Readout
from apmae.lm.tracing import find_readout


def lm_of(model):
    return LM(model=model, tokenizer=None, config=LMConfig(), causal=True, sentinels=None, bos=None)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma2", "as with a soft-cap"),
        ("gemma3", "more than additions"),  # a norm after the output projection
        ("olmo2", "more than additions"),
        ("bert", "more than additions"),
        ("qwen3-next", "no linear module is called with its heads' output"),  # a gate before the projection
    ],
)
def test_families_whose_heads_have_no_share_are_refused_with_the_reason(name, why):
    assert why in find_readout(lm_of(family_model(name)))


def test_layers_without_attention_are_no_obstacle():
    for name in ("jamba", "falcon-h1"):
        readout = find_readout(lm_of(family_model(name)))
        assert isinstance(readout, Readout)
        assert set(readout.projections) == set(FAMILIES[name].counts)


def hooks_of(model):
    return {path: (len(m._forward_hooks), len(m._forward_pre_hooks)) for path, m in model.named_modules()}


def test_looking_leaves_nothing_behind():
    model = copy.deepcopy(family_model("llama"))
    inputs = tokens(size=20)
    with torch.no_grad():
        plain = model(**inputs).logits
        before = hooks_of(model)
        assert isinstance(find_readout(lm_of(model)), Readout)
        assert torch.equal(model(**inputs).logits, plain)
    assert hooks_of(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_an_unembedding_has_none():
    model = hf.LlamaModel(config_of(FAMILIES["llama"])).eval()
    assert find_readout(lm_of(model)) == "it has no unembedding with a weight per token"
