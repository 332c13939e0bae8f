"""Which layers attend and with how many heads, where layers differ in it; and what attends but is no such layer."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers as hf
from families import FAMILIES, config_of
from matrix import family_model, random_model, tokens
from torch import nn
from torch.nn import functional as F

import apmae
from apmae.errors import CaptureError
from apmae.lm.layers import attention_modules, calls_interface, count_heads, count_layers, other_layers, ranges
from apmae.lm.selection import Selection


class RaggedConfig(hf.PretrainedConfig):
    """As OpenELM's: layers are counted under another name, their heads in a list."""

    model_type = "ragged"

    def __init__(self, num_query_heads=(2, 4, 3), head_dim=6, **kwargs):
        self.num_query_heads, self.head_dim, self.vocab_size = list(num_query_heads), head_dim, 160
        super().__init__(**kwargs)


class RaggedAttention(nn.Module):
    """Attends by itself, with its own number of heads, and keeps queries and keys for the test."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer_idx, self.num_q_heads, self.head_dim = layer, config.num_query_heads[layer], config.head_dim
        self.qkv_proj = nn.Linear(24, 3 * self.num_q_heads * self.head_dim, bias=False)
        self.out_proj = nn.Linear(self.num_q_heads * self.head_dim, 24, bias=False)

    def forward(self, hidden):
        batch, length, _ = hidden.shape
        query, key, value = self.qkv_proj(hidden).view(batch, length, 3, self.num_q_heads, -1).permute(2, 0, 3, 1, 4)
        self.seen = query.double().detach(), key.double().detach()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class RaggedModel(hf.PreTrainedModel):
    """Three layers of 2, 4 and 3 heads."""

    config_class = RaggedConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, 24)
        self.layers = nn.ModuleList(RaggedAttention(config, layer) for layer in range(len(config.num_query_heads)))
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return hidden


@pytest.fixture
def ragged():
    torch.manual_seed(0)
    model = RaggedModel(RaggedConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    return model


def test_heads_that_differ_by_layer_are_captured_as_they_are(ragged):
    """The oracle is a softmax in float64 of each layer's queries and keys."""
    assert count_heads(ragged) == {0: 2, 1: 4, 2: 3}
    assert count_layers(ragged) == 3
    ids = tokens(2, 20)["input_ids"]
    with torch.no_grad(), apmae.capture(ragged) as tap:
        ragged(ids)
    patterns = tap.patterns
    counts = ((0, 2), (1, 4), (2, 3))
    places = [(prompt, layer, head) for prompt in range(2) for layer, heads in counts for head in range(heads)]
    assert list(zip(patterns.prompt, patterns.layer, patterns.head, strict=True)) == places
    for (prompt, layer, head), found in zip(places, patterns.probabilities(), strict=True):
        query, key = (part[prompt, head].numpy() for part in ragged.layers[layer].seen)
        for row in range(20):
            weights = np.exp(key[: row + 1] @ query[row] / math.sqrt(6))
            assert np.abs(found[row, : row + 1] - weights / weights.sum()).max() < 1e-5
            assert not found[row, row + 1 :].any()


def test_edits_of_heads_that_differ_by_layer(ragged):
    ids = tokens(2, 20)["input_ids"]
    zeroed = deepcopy(ragged)
    zeroed.layers[1].out_proj.weight.data[:, 18:] = 0  # head 3 of layer 1, which no other layer has
    with torch.no_grad(), apmae.edit(ragged, {(1, 3): "zero"}):
        edited = ragged(ids)
    assert torch.equal(edited, zeroed(ids))
    said = r"layer 0 and heads 0-1, layer 1 and heads 0-3, layer 2 and heads 0-2, got \(2, 3\)$"
    with pytest.raises(CaptureError, match=said), apmae.edit(ragged, {(2, 3): "zero"}):
        raise AssertionError("the block must not run")


def test_a_layer_that_lost_heads_says_so_by_its_projections():
    """A pruned model whose config does not know: what is left is what those heads did."""
    model = family_model("llama-heads")
    pruned = deepcopy(model)
    attention = pruned.model.layers[1].self_attn
    width = attention.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        matrix = getattr(attention, name)
        matrix.weight, matrix.out_features = nn.Parameter(matrix.weight[: 2 * width]), 2 * width
    output = attention.o_proj
    output.weight, output.in_features = nn.Parameter(output.weight[:, : 2 * width]), 2 * width
    assert count_heads(pruned) == {0: 4, 1: 2}
    inputs = tokens(2, 20)
    with torch.no_grad(), apmae.capture(model) as whole, apmae.capture(pruned) as left:
        model(**inputs)
        pruned(**inputs)
    kept = (whole.patterns.layer == 0) | (whole.patterns.head < 2)
    assert torch.equal(left.patterns.log_patches, whole.patterns.log_patches[kept])


def test_heads_that_the_model_does_not_tell_are_refused(ragged):
    del ragged.layers[1].num_q_heads
    with pytest.raises(CaptureError, match="RaggedAttention or the model's config to say how many heads layer 1 has"):
        count_heads(ragged)
    ragged.config.num_attention_heads = [2, 4, 3]
    ragged.layers[1].__dict__["num_q_heads"] = 4
    assert count_heads(ragged) == {0: 2, 1: 4, 2: 3}
    ragged.layers[2].num_heads = 5
    with (
        pytest.raises(CaptureError, match="the 5 heads that the model says layer 2 has, 3 attend"),
        torch.no_grad(),
        apmae.capture(ragged),
    ):
        ragged(tokens(1, 8)["input_ids"])


def test_a_list_of_heads_in_the_config_is_read_by_layer(ragged):
    ragged.config.num_attention_heads = [2, 4, 3]
    for layer in ragged.layers:
        layer.q_heads = layer.__dict__.pop("num_q_heads")
    assert count_heads(ragged) == {0: 2, 1: 4, 2: 3}


def test_other_layers_are_named_by_what_they_have_instead():
    named = {
        "nemotron-h": {0: "NemotronHMamba2Mixer", 2: "NemotronHMLP"},
        "qwen3-next": {0: "Qwen3NextGatedDeltaNet", 2: "Qwen3NextGatedDeltaNet"},
        "minimax": {0: "MiniMaxLightningAttention", 2: "MiniMaxLightningAttention"},
        "recurrent-gemma": {0: "RecurrentGemmaRecurrentBlock", 1: "RecurrentGemmaRecurrentBlock"},
        "falcon-h1": {},
        "llama": {},
    }
    for name, expected in named.items():
        assert other_layers(family_model(name)) == expected, name


def test_a_hybrid_is_named_in_one_line_when_it_is_loaded(tmp_path, caplog):
    family_model("nemotron-h").save_pretrained(tmp_path)
    lm = apmae.load_lm(tmp_path)
    own = [record.message for record in caplog.records if "attends" in record.message]
    assert own == [
        "NemotronHForCausalLM attends in 1 of its 3 layers (1); layers without attention: 0 (NemotronHMamba2Mixer), "
        "2 (NemotronHMLP)"
    ]
    assert (lm.num_layers, lm.num_heads, lm.heads_by_layer) == (3, 4, (0, 4, 0))
    caplog.clear()
    family_model("llama").save_pretrained(tmp_path)
    apmae.load_lm(tmp_path)
    assert "attends" not in caplog.text


def test_shares_and_predicates_take_of_the_heads_that_there_are():
    inputs = tokens(2, 12)
    for name, share, expected in (
        ("qwen3-next", 0.5, {1: 2, 3: 2}),
        ("laguna", 0.5, {0: 2, 1: 1, 2: 2, 3: 1}),
        ("laguna", 0.1, {0: 1, 1: 1, 2: 1, 3: 1}),
    ):
        with torch.no_grad(), apmae.capture(family_model(name), heads=share) as tap:
            family_model(name)(**inputs)
        for prompt in range(2):
            layers, counts = np.unique(tap.patterns.layer[tap.patterns.prompt == prompt], return_counts=True)
            assert dict(zip(layers.tolist(), counts.tolist(), strict=True)) == expected
        assert all(
            head < FAMILIES[name].counts[layer]
            for layer, head in zip(tap.patterns.layer, tap.patterns.head, strict=True)
        )
    asked = []
    Selection(lambda layer, head: asked.append((layer, head)) or True, FAMILIES["laguna"].counts, 0)
    assert asked == FAMILIES["laguna"].places


def test_a_vision_language_model_is_its_text_model():
    model = family_model("gemma3-vision")
    assert all("language_model" in path for path in paths_of(model))
    assert count_heads(model) == dict.fromkeys(range(4), 4)
    crossing = hf.MllamaForCausalLM(
        hf.MllamaTextConfig(
            vocab_size=160, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, cross_attention_layers=[1], pad_token_id=0, bos_token_id=1, eos_token_id=2,
            rope_scaling={"rope_type": "default"},
        )
    )  # fmt: skip
    assert count_heads(crossing) == {0: 4, 2: 4}
    assert other_layers(crossing) == {1: "MllamaTextCrossAttention"}


def paths_of(model):
    names = {module: path for path, module in model.named_modules()}
    return [names[module] for module in attention_modules(model).values()]


def test_layers_that_do_not_say_their_number_have_their_place():
    model = family_model("distilbert")
    assert paths_of(model) == [f"distilbert.transformer.layer.{layer}.attention" for layer in range(2)]
    assert not any(hasattr(module, "layer_idx") for module in attention_modules(model).values())
    shared = family_model("zamba2")
    assert paths_of(shared) == [f"model.layers.{layer}.shared_transformer.self_attn" for layer in (1, 3)]


def test_a_layer_that_attends_twice_in_a_forward_is_refused():
    model = deepcopy(family_model("llama"))
    model.model.layers[1] = model.model.layers[0]
    model.config.num_hidden_layers = 2
    with (
        pytest.raises(CaptureError, match="each layer of LlamaForCausalLM to attend once .* layer 0 attends again"),
        torch.no_grad(),
        apmae.capture(model),
    ):
        model(**tokens(1, 8), use_cache=False)
    model = deepcopy(family_model("llama"))
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(CaptureError, match=r"layers\.0\.self_attn and model\.layers\.1\.self_attn both are layer 0"):
        count_heads(model)


def test_a_forward_that_failed_half_way_can_run_again():
    model = family_model("llama")

    def stop(*_):
        raise ZeroDivisionError

    with torch.no_grad(), apmae.capture(model) as tap:
        for _ in range(2):
            hook = model.model.layers[1].register_forward_pre_hook(stop)
            with pytest.raises(ZeroDivisionError):
                model(**tokens(1, 8))
            hook.remove()
        model.model(**tokens(1, 8))  # a part of it may be called by itself
        model.model(**tokens(1, 8))
        with pytest.raises(CaptureError, match="reached"):
            tap.patterns  # noqa: B018


def test_an_interface_of_its_own_is_not_transformers():
    """Doge has a table of attention functions under the same name; it is read where it attends."""
    config = hf.DogeConfig(**{**config_of(FAMILIES["llama"]).to_dict(), "model_type": "doge"})
    model = random_model(config)
    assert not calls_interface(attention_modules(model)[0])
    inputs = tokens(padding="left")
    with torch.no_grad(), apmae.capture(model) as tap:
        model(**inputs)
        theirs = random_model(config, attention="eager")(**inputs, output_attentions=True).attentions
    ours = tap.patterns.probabilities().reshape(3, 2, 4, 70, 70)
    assert np.abs(ours[0] - torch.stack(theirs, 1)[0].numpy()).max() < 1e-5


def test_a_mask_with_one_row_for_all_queries():
    """LayoutLM's is (prompt, 1, 1, key)."""
    config = {key: value for key, value in config_of(FAMILIES["bert"]).to_dict().items() if key != "model_type"}
    model = random_model(hf.LayoutLMConfig(**config), square=True)
    eager = random_model(hf.LayoutLMConfig(**config), square=True, attention="eager")
    inputs = tokens(padding="right")
    with torch.no_grad(), apmae.capture(model) as tap:
        model(**inputs)
        theirs = torch.stack(eager(**inputs, output_attentions=True).attentions, 1)
    real = inputs["attention_mask"].bool()
    theirs = theirs.masked_fill(~real[:, None, None, :, None], 0.0)
    ours = tap.patterns.probabilities().reshape(theirs.shape)
    assert not tap.patterns.causal
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


def test_ranges_as_people_write_them():
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"
    assert ranges([5]) == "5"
    assert ranges([]) == ""
