"""Models without heads: saved, loaded by transformers in a process without apmae, and compared with edits."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from apmae.config import LMConfig
from apmae.errors import CaptureError
from apmae.lm.changes import Mean
from apmae.lm.edit import edit
from apmae.lm.language_model import LM
from apmae.lm.pruned import head_groups, pruned_model
from apmae.lm.tracing import find_projections

_LOADS = """
import sys
sys.modules["apmae"] = None  # importing it would fail
import json, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
found = {}
for name in json.load(open(folder + "/names.json")):
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=torch.float32).eval()
    ids = load_file(f"{folder}/ids.safetensors")["ids"]
    with torch.no_grad():
        found[name] = model(input_ids=ids).logits
save_file(found, folder + "/logits.safetensors")
"""
SIZES = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 3}
SPREAD = [(0, 1), (2, 0), (2, 3)]
EVEN = [(layer, head) for layer, first in enumerate((0, 2, 2)) for head in (first, first + 1)]


def opened(model):
    return LM(model=model.eval(), tokenizer=None, config=LMConfig(), causal=True, sentinels=None, bos=None)


def made(kind, config, seed=0):
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return opened(model)


def llama(**more):
    return made(LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, **more))


def qwen2():
    return made(Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=2))


def means_of(lm, heads, seed=1):
    width = {layer: own.weight.numel() // 48 // 4 for layer, own in find_projections(lm).items()}
    generator = torch.Generator().manual_seed(seed)
    return {head: Mean(torch.randn(width[head[0]], generator=generator)) for head in heads}


CASES = {
    "zero": (llama, SPREAD, False),
    "mean": (llama, SPREAD, True),
    "even": (lambda: llama(head_dim=16), EVEN, False),
    "even_mean": (llama, EVEN, True),
    "biased": (lambda: llama(attention_bias=True), EVEN, True),
    "tied": (lambda: llama(tie_word_embeddings=True), SPREAD, True),
    "no_switch": (qwen2, SPREAD, True),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, bundled_lm):
    """Folder of saved models, what they were made of, and the logits that a process without apmae got from them."""
    folder = tmp_path_factory.mktemp("pruned")
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(4))
    cases = {name: (make(), heads, mean) for name, (make, heads, mean) in CASES.items()}
    pruned = {}
    for name, (lm, heads, mean) in cases.items():
        pruned[name] = pruned_model(lm, heads, means_of(lm, heads) if mean else None)
        pruned[name].model.save_pretrained(folder / name)
    (folder / "names.json").write_text(json.dumps(list(CASES)))
    save_file({"ids": ids}, folder / "ids.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", _LOADS, folder], check=True, env=environment)
    return folder, cases, pruned, ids, load_file(folder / "logits.safetensors")


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_saved_model_does_what_the_edit_does_without_apmae(saved, name):
    _, cases, pruned, ids, logits = saved
    lm, heads, mean = cases[name]
    plain = lm.model(input_ids=ids).logits
    edits = means_of(lm, heads) if mean and pruned[name].mode == "mean" else dict.fromkeys(heads, "zero")
    with edit(lm.model, edits):
        edited = lm.model(input_ids=ids).logits
    torch.testing.assert_close(logits[name], edited, atol=2e-5, rtol=1e-4)
    assert (logits[name] - plain).abs().max() > 0.01, "removing does something"


def test_what_was_done_is_said(saved):
    _, cases, pruned, _, _ = saved
    assert {name for name, own in pruned.items() if own.zeroed_because is None} == {"even", "even_mean", "biased"}
    assert pruned["mean"].zeroed_because.startswith("config files hold one number of heads for all layers")
    assert {name for name, own in pruned.items() if own.biased} == {"mean", "even_mean", "tied"}
    assert pruned["no_switch"].mode == "zero" and "Qwen2ForCausalLM have no bias" in pruned["no_switch"].no_mean_because
    assert pruned["mean"].mode == "mean" and pruned["mean"].no_mean_because is None
    for name in ("even", "even_mean", "biased"):
        config, lm = pruned[name].model.config, cases[name][0]
        assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
        assert config.head_dim == lm.model.config.head_dim
        numbers = [sum(w.numel() for w in model.parameters()) for model in (pruned[name].model, lm.model)]
        assert numbers[0] < numbers[1]
    assert pruned["tied"].model.config.attention_bias and pruned["tied"].model.lm_head.weight is not None


def test_the_model_itself_is_not_changed():
    lm = llama()
    before = copy.deepcopy(lm.model.state_dict())
    pruned_model(lm, EVEN, means_of(lm, EVEN))
    assert not lm.model.config.attention_bias and lm.model.config.num_attention_heads == 4
    assert all(torch.equal(values, before[name]) for name, values in lm.model.state_dict().items())


def test_part_of_a_group_is_zeroed():
    lm = llama()
    assert head_groups(lm) == {0: 2, 1: 2, 2: 2}
    found = pruned_model(lm, [(0, 1), (1, 0), (2, 3)])
    assert found.zeroed_because == "2 heads each share keys and values, and only some of them go"
    assert (
        pruned_model(lm, [(layer, head) for layer in range(3) for head in range(4)]).zeroed_because
        == "no head would be left"
    )


@pytest.mark.parametrize(
    ("name", "biased"),
    [("gpt2", False), ("opt", False), ("gpt-neox", False), ("phi", False), ("falcon", True), ("gemma2", True)]
    + [("olmo2", True)],
)
@torch.no_grad()
def test_families_with_other_matrices_and_biases(family, name, biased):
    lm = opened(family(name))
    heads = [(0, 1), (1, 0), (1, 1)] if name != "olmo2" else [(0, 0), (0, 1), (1, 0), (1, 1)]
    generator = torch.Generator().manual_seed(2)
    width = lm.model.config.hidden_size // 4
    width = getattr(lm.model.config, "head_dim", None) or width
    means = {head: Mean(torch.randn(width, generator=generator)) for head in heads}
    found = pruned_model(lm, heads, means)
    assert (found.mode, found.biased) == ("mean", biased)
    assert found.zeroed_because is not None
    ids = torch.arange(11)[None] % 50
    with edit(lm.model, means):
        edited = lm.model(input_ids=ids).logits
    torch.testing.assert_close(found.model(input_ids=ids).logits, edited, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_pruned_is_refused():
    lm = llama()
    with pytest.raises(CaptureError, match="at least one head to remove, got none"):
        pruned_model(lm, [])
    with pytest.raises(CaptureError, match=r"heads 0-3, got \(0, 4\)"):
        pruned_model(lm, [(0, 4)])
    lm.model.model.layers[1].self_attn.o_proj = lm.model.model.layers[0].self_attn.o_proj
    with pytest.raises(
        CaptureError, match="it shares one with another layer; heads of this model can be removed by ed"
    ):
        pruned_model(lm, SPREAD)


@pytest.mark.parametrize("name", ["phi", "lfm2"])
@torch.no_grad()
def test_projections_with_other_names_lose_heads(family, name):
    """Phi calls its output projection dense, LFM2 out_proj."""
    lm = opened(family(name))
    size = max(head_groups(lm).values())
    heads = [(layer, head) for layer in lm.heads for head in range(size)]
    found = pruned_model(lm, heads)
    assert found.zeroed_because is None
    ids = torch.arange(11)[None] % 50
    with edit(lm.model, dict.fromkeys(heads, "zero")):
        edited = lm.model(input_ids=ids).logits
    torch.testing.assert_close(found.model(input_ids=ids).logits, edited, atol=1e-4, rtol=1e-3)


def test_weights_that_layers_share_are_refused(family):
    """Layers of Zamba2 have projections of their own with one matrix."""
    lm = opened(family("zamba2"))
    with pytest.raises(CaptureError, match="it shares one with another layer"):
        find_projections(lm)


def test_keys_of_earlier_layers_stay(family):
    lm = opened(family("gemma4"))
    heads = [(layer, head) for layer, count in lm.heads.items() for head in range(count // 2)]
    assert pruned_model(lm, heads).zeroed_because is not None


def test_an_edited_model_is_not_copied():
    lm = llama()
    with edit(lm.model, {(0, 1): "zero"}), pytest.raises(CaptureError, match="got one inside apmae.edit"):
        pruned_model(lm, SPREAD)
