"""Loading a language model: what is found, what is refused, and that the check against eager can fail."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from matrix import refused_model
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BertConfig,
    ByT5Tokenizer,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from apmae import bundled
from apmae.config import LMConfig
from apmae.errors import ConfigError, ModelError
from apmae.lm.check import TOLERANCE, TOLERANCE_MOVED, check_capture
from apmae.lm.language_model import LM
from apmae.lm.load import _sentinels, load_lm
from apmae.lm.outcome import window_of
from apmae.lm.tap import capture
from apmae.prompts.line import text_prompt


@pytest.fixture
def folder(tmp_path, fresh):
    """A small Llama without a tokenizer."""
    fresh().save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.fixture
def edited(folder):
    """The folder with fields of its config changed."""

    def edit(**fields):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return folder

    return edit


def change_weights(folder, change):
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def wrap(model, **fields):
    values = {
        "tokenizer": None,
        "config": LMConfig(source="nowhere"),
        "sentinels": None,
        "bos": None,
    }
    values["causal"] = True
    return LM(model=model, **{**values, **fields})


def test_the_bundled_model(bundled_lm):
    config = json.loads((bundled.language_model() / "config.json").read_text())
    assert (bundled_lm.num_layers, bundled_lm.num_heads) == (config["num_hidden_layers"], config["num_attention_heads"])
    assert bundled_lm.max_length == config["max_position_embeddings"]
    assert bundled_lm.sentinels.template == "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
    assert not bundled_lm.model.training
    assert not any(parameter.requires_grad for parameter in bundled_lm.model.parameters())
    assert bundled_lm.model.config._attn_implementation == "sdpa"
    assert bundled_lm.keeps_logits
    assert check_capture(bundled_lm) <= TOLERANCE


def test_the_fingerprint_is_the_content(folder, tmp_path):
    first = load_lm(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert load_lm(tmp_path / "copy").fingerprint == first
    change_weights(folder, lambda weights: weights["model.norm.weight"].add_(1))
    assert load_lm(folder).fingerprint != first


def test_a_model_without_a_tokenizer_can_be_captured_but_takes_no_text(folder, caplog):
    lm = load_lm(folder)
    assert "no tokenizer" in caplog.text
    with capture(lm.model) as tap:
        lm.model(input_ids=torch.arange(5)[None] + 3)
    assert len(tap.patterns) == lm.num_layers * lm.num_heads
    with pytest.raises(ModelError, match=r"fast tokenizer \(tokenizer.json\)"):
        lm.backend_tokenizer  # noqa: B018


def test_infill_is_chosen_at_loading():
    assert load_lm(infill="none", check=False).sentinels is None
    turned = load_lm(infill="<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>", check=False)
    assert turned.sentinels.suffix_first
    ids = window_of(turned, text_prompt("int x = ", "1", ";"), 16).ids
    assert turned.tokenizer.decode(ids) == "<fim_suffix>;<fim_prefix>int x = <fim_middle>"


def test_infill_that_the_model_does_not_have_is_refused(folder):
    with pytest.raises(ConfigError, match=r"\[SUFFIX\] and \[PREFIX\] not found; its special tokens are <\|endoftext"):
        load_lm(infill="codestral", check=False)
    with pytest.raises(ConfigError, match="expected a fast tokenizer .* for infill 'qwen', found none"):
        load_lm(folder, infill="qwen", check=False)
    with pytest.raises(ConfigError, match="or a template"):
        load_lm("no/such/model", infill="{suffix}", check=False)


def test_sentinels_past_the_models_embeddings_are_none(bundled_lm):
    tokenizer = bundled_lm.tokenizer
    last = max(tokenizer.convert_tokens_to_ids(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]))
    assert _sentinels(tokenizer, "auto", last + 1, "x") == bundled_lm.sentinels
    assert _sentinels(tokenizer, "auto", last, "x") is None


def test_a_tokenizer_without_offsets_is_refused_by_name(bundled_lm):
    slow = replace(bundled_lm, tokenizer=ByT5Tokenizer())
    assert _sentinels(slow.tokenizer, "auto", 300, "x") is None
    with pytest.raises(ModelError, match="characters each token holds, found ByT5Tokenizer, which has no offsets"):
        window_of(slow, text_prompt("int x = ", "1", None), 16)


def test_the_story_model(shared_folder):
    lm = load_lm(shared_folder("models/stories260K"))
    assert (lm.num_layers, lm.num_heads, lm.sentinels) == (5, 8, None)
    assert lm.bos == lm.tokenizer.bos_token_id == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_right_model_passes_in_half_precision(shared_folder, dtype):
    """There, its eager attention is off by more than 0.1 in some entries, because scores above 100 are rounded."""
    lm = load_lm(shared_folder("models/stories260K"), dtype=dtype)
    assert lm.model.dtype == getattr(torch, dtype)
    assert 0 < check_capture(lm) <= TOLERANCE_MOVED[lm.model.dtype]


def sharpen_under_eager(model):
    """Make a model whose eager attention differs from its SDPA."""

    def before(module, args, kwargs):
        if module.config._attn_implementation == "eager":
            kwargs["hidden_states"] = kwargs["hidden_states"].roll(1, dims=-1)
        return args, kwargs

    model.model.layers[1].self_attn.register_forward_pre_hook(before, with_kwargs=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_patterns_that_differ_from_eager_are_refused_with_the_numbers(fresh, dtype):
    model = fresh().to(dtype)
    assert check_capture(wrap(model)) <= TOLERANCE_MOVED.get(dtype, TOLERANCE)
    sharpen_under_eager(model)
    limit = TOLERANCE_MOVED.get(dtype, TOLERANCE)
    with pytest.raises(ModelError, match=rf"LlamaForCausalLM within {limit:g} of its eager .* differ by 0\.\d+"):
        check_capture(wrap(model))
    assert model.config._attn_implementation == "sdpa"


def test_a_small_difference_is_refused_too(fresh):
    model = fresh()

    def before(module, args, kwargs):
        if module.config._attn_implementation == "eager":
            kwargs["hidden_states"] = kwargs["hidden_states"] * 1.001
        return args, kwargs

    model.model.layers[0].self_attn.register_forward_pre_hook(before, with_kwargs=True)
    with pytest.raises(ModelError, match="differ by"):
        check_capture(wrap(model))


@pytest.mark.parametrize("path", ["/no/such/folder", "./none", "../none/there", "a/b/c"])
def test_a_folder_that_does_not_exist(path):
    with pytest.raises(ModelError, match=f"found no folder {path}; check the path"):
        load_lm(path)


def test_folders_that_are_not_models(folder, edited):
    with pytest.raises(ModelError, match="has no config.json"):
        load_lm(folder.parent)
    with pytest.raises(ModelError, match="expected a model folder or a hub id"):
        load_lm(folder / "config.json")
    with pytest.raises(ConfigError, match="dtype: Input should be 'float32', 'bfloat16' or 'float16', got 'float31'"):
        load_lm(folder, dtype="float31")
    with pytest.raises(ConfigError, match="device: .*a device such as cpu, cuda, cuda:1 or auto, got 'nonsense'"):
        load_lm(folder, device="nonsense")
    assert load_lm(folder, device=torch.device("cpu"), check=False).config.device == "cpu"
    with pytest.raises(ModelError, match="cannot load a language model.*num_attention_heads"):
        load_lm(edited(num_attention_heads="eight"))
    with pytest.raises(ModelError, match="cannot load a language model.*nonesuch"):
        load_lm(edited(model_type="nonesuch"))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="expected JSON in .*config.json, it is damaged .* or give another folder"):
        load_lm(folder)


def test_code_of_its_own_is_not_run(tmp_path):
    """Like OpenELM's: it can be captured once it is loaded (test_layers)."""
    own = {"AutoConfig": "configuration.Config", "AutoModelForCausalLM": "modeling.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "openelm", "auto_map": own}))
    (tmp_path / "configuration.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"brings code of its own, .* and give the model to apmae\.capture"):
        load_lm(tmp_path)


def test_weights_that_are_cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match="expected whole weights in .*copy or download them again"):
        load_lm(folder)
    file.unlink()
    with pytest.raises(ModelError, match="expected a model's weights in .*lm, found no .safetensors"):
        load_lm(folder)


def test_missing_weights_are_not_made_up(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight is missing"):
        load_lm(folder)


def test_weights_of_another_shape(folder):
    name = "model.layers.0.self_attn.q_proj.weight"
    change_weights(folder, lambda weights: weights.update({name: weights[name][:5].clone()}))
    with pytest.raises(ModelError, match=r"q_proj.weight has shape \(5, 48\), not \(48, 48\)"):
        load_lm(folder)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def test_an_encoder_loaded_as_a_decoder_is_refused_by_name(tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(BertConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="later tokens"):
        load_lm(tmp_path)


def test_a_decoder_without_its_encoder_has_the_decoders_heads(tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=64,
        d_model=32,
        decoder_layers=2,
        encoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        encoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=None,
        decoder_start_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert load_lm(tmp_path).heads == {0: 2, 1: 2}


def test_keys_that_are_not_the_tokens_are_refused_for_that_reason():
    """DeepSeek V4's are compressed; here it has another name, like a family that nobody knows yet."""
    model = refused_model("deepseek-v4")
    model.config.model_type = "unknown"
    with pytest.raises(
        ModelError, match="from 48 queries to [0-9]+ keys in prompts of 48 tokens, so that its queries and"
    ):
        check_capture(wrap(model))


def test_an_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is an encoder-decoder"):
        load_lm(tmp_path)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pad_token_id": 7}, 7),
        ({"pad_token_id": None}, 2),
        ({"pad_token_id": -1}, 2),
        ({"pad_token_id": 160}, 2),
        ({"pad_token_id": None, "eos_token_id": None}, 0),
        ({"pad_token_id": None, "eos_token_id": [5, 6]}, 0),
    ],
)
def test_the_padding_token_is_one_that_the_model_has(fresh, fields, expected):
    model = fresh()
    for name, value in fields.items():
        setattr(model.config, name, value)
    assert wrap(model).pad_id == expected


def test_a_model_shorter_than_the_check(tmp_path):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert load_lm(tmp_path).max_length == 16
