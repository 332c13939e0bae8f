"""Heads and all else that is written to the residual stream add up to the difference of two logits, family by family.

All else is found here by the names of modules, with the formulas of the norms written out; the readout knows no names.
"""

from dataclasses import dataclass, field

import pytest
import torch
from families import FAMILIES, config_of
from matrix import random_model, tokens

from apmae.config import LMConfig
from apmae.lm.language_model import LM
from apmae.lm.last_row import record_outputs
from apmae.lm.readout import Readout, last_states, state_at
from apmae.lm.tracing import find_readout


@dataclass(frozen=True)
class Parts:
    """Where a family keeps what it adds to the residual stream; {} is the layer."""

    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    projection: str = "model.layers.{}.self_attn.o_proj"
    mlp: str = "model.layers.{}.mlp"
    norm: str = "model.norm"
    centred: bool = False
    first: float = 1.0
    """What embeddings are multiplied by."""
    each: float = 1.0
    """What layers are multiplied by."""
    logits: float = 1.0
    change: dict = field(default_factory=dict)
    """Settings of the configuration, on top of the family's."""


_H = {"embeddings": ("transformer.wte",), "mlp": "transformer.h.{}.mlp", "norm": "transformer.ln_f", "centred": True}
_BIG = {"residual_multiplier": 0.3, "logits_scaling": 4.0, "embedding_multiplier": 3.0}
PARTS = {
    "llama": Parts(),
    "mistral-window": Parts(),
    "gpt-oss": Parts(),
    "starcoder2": Parts(centred=True),
    "cohere": Parts(centred=True, logits=0.0625),
    "granite": Parts(change=_BIG, first=3.0, each=0.3, logits=0.25),
    "deepseek-v3": Parts(),
    "gpt2": Parts(
        **{**_H, "embeddings": ("transformer.wte", "transformer.wpe")}, projection="transformer.h.{}.attn.c_proj"
    ),
    "gptj": Parts(**_H, projection="transformer.h.{}.attn.out_proj"),
    "falcon": Parts(
        **{**_H, "embeddings": ("transformer.word_embeddings",)}, projection="transformer.h.{}.self_attention.dense"
    ),
    "bloom": Parts(
        embeddings=("transformer.word_embeddings_layernorm",),
        projection="transformer.h.{}.self_attention.dense",
        mlp="transformer.h.{}.mlp.dense_4h_to_h",  # the MLP adds the residual stream itself
        norm="transformer.ln_f",
        centred=True,
    ),
}


def lm_of(model):
    return LM(model=model, tokenizer=None, config=LMConfig(), causal=True, sentinels=None, bos=None)


def own_model(name):
    """A family's model with random gains and biases, so that none can be forgotten."""
    config = config_of(FAMILIES[name])
    for key, value in PARTS[name].change.items():
        setattr(config, key, value)
    model = random_model(config, sharpen=FAMILIES[name].sharpen, attention="sdpa" if FAMILIES[name].sdpa else "eager")
    drawn = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=drawn))
    return model


def written(model, parts, inputs, layers, row, end):
    """The last position of everything but heads that is added to the residual stream, and the sum of it all."""
    found, last, hooks = [], [], []

    def keep(factor):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            output = output[row, end - 1] if output.shape[0] > 1 else output[0, end - 1]
            found.append(factor * output.double())

        return hook

    paths = [(path, parts.first) for path in parts.embeddings]
    paths += [(parts.mlp.format(layer), parts.each) for layer in layers]
    for path, factor in paths:
        hooks.append(model.get_submodule(path).register_forward_hook(keep(factor)))
    norm = model.get_submodule(parts.norm)
    hooks.append(norm.register_forward_pre_hook(lambda _m, given: last.append(given[0][row, end - 1].double())))
    logits = model(**inputs).logits[row, end - 1].double()
    for hook in hooks:
        hook.remove()
    for layer in layers:
        bias = getattr(model.get_submodule(parts.projection.format(layer)), "bias", None)
        if bias is not None:
            found.append(parts.each * bias.double())
    return found, last[0], logits


@pytest.mark.parametrize("name", PARTS)
@torch.no_grad()
def test_heads_and_the_rest_add_up_to_the_difference_of_logits(name):
    model, parts, inputs = own_model(name), PARTS[name], tokens(size=24, padding="right")
    ends = inputs["attention_mask"].sum(1).tolist()
    readout = find_readout(lm_of(model))
    assert isinstance(readout, Readout), readout
    assert readout.centred == parts.centred and not readout.reasons
    with record_outputs(model) as outputs, last_states(readout.reader) as states:
        logits = model(**inputs).logits
    chosen, other = logits[range(3), [end - 1 for end in ends]].topk(2).indices.T
    state, own = state_at(states, [end - 1 for end in ends]), outputs.of(range(3))
    heads = {layer: readout.attribute(layer, own[layer], state, chosen, other) for layer in own}
    norm, head = model.get_submodule(parts.norm), model.get_output_embeddings()
    gain = norm.weight.double()
    for row, end in enumerate(ends):
        rest, last, made = written(model, parts, inputs, own, row, end)
        along = head.weight[chosen[row]].double() - head.weight[other[row]].double()

        def share(part, last=last, along=along):
            if parts.centred:
                return parts.logits * (gain * (part - part.mean()) / last.var(correction=0).sqrt()) @ along
            return parts.logits * (gain * part / last.square().mean().sqrt()) @ along

        constant = sum(
            parts.logits * value
            for module, value in (
                (norm, getattr(norm, "bias", None) is not None and norm.bias.double() @ along),
                (head, getattr(head, "bias", None) is not None and head.bias[chosen[row]] - head.bias[other[row]]),
            )
        )
        added = sum(float(own[row].sum()) for own in heads.values()) + float(sum(map(share, rest)) + constant)
        difference = float(made[chosen[row]] - made[other[row]])
        scale = sum(abs(float(share(part))) for part in rest) + abs(difference)
        assert added == pytest.approx(difference, abs=2e-3 * scale)
        assert sum(float(own[row].abs().sum()) for own in heads.values()) > 0.05 * scale, "heads should matter"


@torch.no_grad()
def test_one_head_is_what_its_columns_write():
    """Each share by a loop, from the columns of the output projection."""
    model, inputs = own_model("llama"), tokens(size=24)
    readout = find_readout(lm_of(model))
    with record_outputs(model) as outputs, last_states(readout.reader) as states:
        model(**inputs)
    chosen, other, last = torch.tensor([3, 4, 5]), torch.tensor([9, 8, 7]), states[-1][:, -1]
    for layer, own in outputs.of(range(3)).items():
        found = readout.attribute(layer, own, last, chosen, other)
        weight = model.model.layers[layer].self_attn.o_proj.weight
        for row in range(3):
            along = model.lm_head.weight[chosen[row]] - model.lm_head.weight[other[row]]
            for head in range(4):
                column = weight[:, 12 * head : 12 * head + 12] @ own[row, head]
                normed = model.model.norm.weight * column / last[row].square().mean().sqrt()
                assert float(found[row, head]) == pytest.approx(float(normed @ along), abs=1e-4)


@torch.no_grad()
def test_without_a_final_norm_the_unembedding_reads_the_stream_itself():
    """As in early checkpoints of OPT: a share is divided by nothing."""
    config = config_of(FAMILIES["opt"])
    config._remove_final_layer_norm = True
    model, inputs = random_model(config), tokens(size=24)
    readout = find_readout(lm_of(model))
    assert isinstance(readout, Readout) and readout.norm is None and not readout.reasons
    with record_outputs(model) as outputs, last_states(readout.reader) as states:
        logits = model(**inputs).logits[:, -1]
    chosen, other = logits.topk(2).indices.T
    last = max(FAMILIES["opt"].counts)
    found = readout.attribute(last, outputs.of(range(3))[last], state_at(states, [23] * 3), chosen, other)
    projection = model.model.decoder.layers[last].self_attn.out_proj
    for row in range(3):
        along = model.lm_head.weight[chosen[row]] - model.lm_head.weight[other[row]]
        written = projection.weight @ outputs.of([row])[last].flatten()
        assert float(found[row].sum()) == pytest.approx(float(written @ along), abs=1e-3)
        state = states[-1][row, -1]
        assert float(state @ along) == pytest.approx(
            float(logits[row, chosen[row]] - logits[row, other[row]]), abs=1e-3
        )
