"""Models as people have them: compiled, wrapped, quantised, trained, on several devices, with other backends."""

import copy
import shutil

import numpy as np
import pytest
import torch
from matrix import tokens
from transformers import AutoModelForCausalLM, LlamaConfig

from apmae.errors import CaptureError, ModelError
from apmae.lm.load import load_lm
from apmae.lm.tap import capture


def inputs(size=40, batch=2):
    """Two prompts, the second padded on the left by 7."""
    return tokens(batch, size, "left")


@torch.no_grad()
def captured(model, forward=None, **keywords):
    with capture(model, **keywords) as tap:
        (model if forward is None else forward)(**inputs(), use_cache=False)
    return tap.patterns


# -- wrapped -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(fresh):
    """A compiled model, by a backend that needs no compiler, and its output before any capture."""
    model = fresh()
    wrapped = torch.compile(model, backend="eager")
    with torch.no_grad():
        return model, wrapped, wrapped(**inputs()).logits


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model(compiled):
    model, wrapped, before = compiled
    expected = captured(copy.deepcopy(model))
    for target, forward in ((wrapped, wrapped), (model, wrapped), (model, model)):
        assert torch.equal(captured(target, forward).log_patches, expected.log_patches)
    with torch.no_grad():
        assert torch.equal(wrapped(**inputs()).logits, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_compiled_in_place_and_in_one_graph(fresh):
    model = fresh()
    expected = captured(copy.deepcopy(model))
    model.compile(backend="eager", fullgraph=True)
    with torch.no_grad():
        before = model(**inputs(), use_cache=False).logits
        assert torch.equal(captured(model).log_patches, expected.log_patches)
        assert torch.equal(model(**inputs(), use_cache=False).logits, before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_peft_model(fresh):
    from peft import LoraConfig, get_peft_model

    model = fresh()
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    plain = captured(model)
    torch.manual_seed(0)
    adapted = get_peft_model(model, config).eval()
    patterns = captured(adapted)
    assert float((patterns.log_patches - plain.log_patches).nan_to_num(0).abs().max()) > 0.1  # the adapter counts
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert np.abs(patterns.probabilities() - captured(merged).probabilities()).max() < 1e-4
    with adapted.disable_adapter():
        assert torch.equal(captured(adapted).log_patches, plain.log_patches)


def test_data_parallel_and_other_wrappers(fresh):
    model = fresh()

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = model

        def forward(self, **keywords):
            return self.module(**keywords)

    assert torch.equal(captured(Wrapper()).log_patches, captured(model).log_patches)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_quantised_model(fresh):
    model = fresh()
    plain = captured(model)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    patterns = captured(quantised)
    quantised.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = torch.stack(quantised(**inputs(), output_attentions=True).attentions, 1).numpy()
    ours = patterns.probabilities().reshape(theirs.shape)
    assert np.abs(ours[0] - theirs[0]).max() <= 1e-5
    assert np.abs(ours[0] - plain.probabilities().reshape(theirs.shape)[0]).max() > 1e-3  # it is not the same model


# -- in training -------------------------------------------------------------------------------------------------------


def test_train_mode_gives_patterns_before_dropout(fresh):
    model = fresh()
    expected = captured(model)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    patterns = captured(model)
    first = patterns.layer == 0  # later layers see the first one's output after dropout
    assert torch.equal(patterns[first].log_patches, expected[first].log_patches)
    assert np.abs(patterns.probabilities().sum(-1)[0] - 1).max() < 1e-5


def test_train_mode_draws_the_same_dropout(fresh):
    model = fresh().train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    torch.manual_seed(0)
    plain = model(**inputs()).logits
    torch.manual_seed(0)
    with capture(model, heads=0.5):
        assert torch.equal(model(**inputs()).logits, plain)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_captures_each_forward_once(fresh, reentrant):
    model = fresh().requires_grad_(True)
    expected = captured(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    with capture(model) as tap:
        for _ in range(2):
            model(**inputs(), use_cache=False).logits.square().mean().backward()
    patterns = tap.patterns
    assert len(patterns) == 2 * len(expected)
    assert torch.equal(patterns[: len(expected)].log_patches, expected.log_patches)


def test_a_trainers_loop(fresh, tmp_path):
    """A capture stays open around transformers' Trainer; training ends with the same weights as without it."""
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": row, "labels": row} for row in inputs(24, 8)["input_ids"]]
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "seed": 1}
    arguments = TrainingArguments(
        tmp_path, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, **settings
    )

    def train(model):
        Trainer(model=model.requires_grad_(True), args=arguments, train_dataset=data).train()
        return model

    alone, watched = train(fresh()), fresh()
    with capture(watched, heads=[(0, 1)]) as tap:
        train(watched)
    for ours, theirs in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(tap.patterns) == 6


# -- devices and backends ----------------------------------------------------------------------------------------------


def test_weights_that_are_on_disk(fresh, tmp_path):
    """``device_map`` with a layer on disk, which accelerate's hooks load while it runs."""
    fresh().save_pretrained(tmp_path / "model")
    expected = captured(load_lm(tmp_path / "model").model)
    placed = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    placed |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=placed, offload_folder=tmp_path / "off"
    ).eval()
    assert next(model.model.layers[1].parameters()).device.type == "meta"
    assert torch.equal(captured(model).log_patches, expected.log_patches)


def test_devices_chosen_by_accelerate(fresh, tmp_path):
    fresh().save_pretrained(tmp_path)
    lm = load_lm(tmp_path, device="auto")
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.equal(captured(lm.model).log_patches, captured(load_lm(tmp_path).model).log_patches)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_that_computes_the_output_may_be_chosen(fresh, tmp_path, attention):
    fresh().save_pretrained(tmp_path)
    lm = load_lm(tmp_path, attention=attention)
    assert lm.model.config._attn_implementation == attention
    with torch.no_grad():
        plain = lm.model(**inputs()).logits
        with capture(lm.model) as tap:
            assert torch.equal(lm.model(**inputs()).logits, plain)
    assert np.abs(tap.patterns.probabilities() - captured(load_lm(tmp_path).model).probabilities()).max() <= 1e-6


def test_flash_attention_without_a_gpu_is_refused(fresh, tmp_path):
    fresh().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="flash"):
        load_lm(tmp_path, attention="flash_attention_2")


@pytest.mark.slow  # flex attention compiles itself: a minute, and a C++ compiler
@pytest.mark.filterwarnings("ignore")
def test_flex_attention(fresh):
    if shutil.which("g++") is None:
        pytest.skip("flex attention on a CPU needs a C++ compiler (g++), which is not here")
    model = fresh(attention="flex_attention")
    expected = captured(fresh())
    with torch.no_grad():
        plain = model(**inputs(), use_cache=False).logits
        with capture(model) as tap:
            assert torch.equal(model(**inputs(), use_cache=False).logits, plain)
    assert np.abs(tap.patterns.probabilities() - expected.probabilities()).max() <= 1e-5


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(fresh, value):
    model = fresh()
    model.model.layers[1].self_attn.q_proj.weight[5] = value
    with torch.no_grad(), capture(model) as tap:
        model(**inputs())
    with pytest.raises(CaptureError, match="finite attention scores, layer 1 has NaN"):
        tap.patterns  # noqa: B018


def test_a_row_that_attends_to_nothing_is_empty(fresh):
    model, ids = fresh(), inputs()["input_ids"]
    allowed = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()
    allowed[1, :, 20] = False
    with torch.no_grad(), capture(model) as tap:
        model(input_ids=ids, attention_mask=allowed)
    sums = tap.patterns.probabilities().reshape(2, -1, 40, 40).sum(-1)
    assert not sums[1, :, 20].any()
    sums[1, :, 20] = 1
    assert np.abs(sums - 1).max() < 1e-5


@pytest.mark.parametrize(("name", "limit"), [("gpt2", 256), ("bert", 256), ("opt", 256), ("roberta", 255)])
def test_a_prompt_longer_than_learned_positions_is_refused(family, name, limit):
    model = family(name)
    ids = torch.full((1, limit), 5)
    with torch.no_grad(), capture(model, heads=[(0, 0)]) as tap:
        model(input_ids=ids)
        with pytest.raises(CaptureError, match=f"the {limit} positions that .* learned, got {limit + 1}"):
            model(input_ids=torch.full((1, limit + 1), 5))
    assert len(tap.patterns) == 1


def test_rotary_positions_have_no_limit(family):
    with torch.no_grad(), capture(family("llama"), heads=[(0, 0)]) as tap:
        family("llama")(input_ids=torch.arange(300)[None] % 150 + 3)
    assert tap.patterns.size == 300


def test_each_layer_is_passed_on_and_nothing_is_kept(family):
    model, found = family("llama"), []
    whole = captured(model)
    with torch.no_grad(), capture(model, each_layer=found.append) as tap:
        model(**inputs())
    assert [sorted(set(part.layer.tolist())) for part in found] == [[0], [1]]
    for layer, part in enumerate(found):
        assert torch.equal(part.log_patches, whole[whole.layer == layer].log_patches)
        assert np.array_equal(part.head, whole[whole.layer == layer].head)
    with pytest.raises(CaptureError, match="each_layer"):
        tap.patterns  # noqa: B018


def test_nothing_is_left_behind(fresh):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = fresh()
    hooks = {name: len(part._forward_pre_hooks) + len(part._forward_hooks) for name, part in model.named_modules()}
    for stop in (False, True):
        try:
            with torch.no_grad(), capture(model):
                model(**inputs())
                if stop:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)
        after = {name: len(part._forward_pre_hooks) + len(part._forward_hooks) for name, part in model.named_modules()}
        assert after == hooks


def test_a_model_without_positions_or_padding_token(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=160, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=None, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lm = load_lm(tmp_path)
    assert lm.pad_id == 0
    assert len(captured(lm.model)) == 16
