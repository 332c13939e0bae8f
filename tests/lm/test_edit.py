"""Edits against copies of the model whose output projections have zeroed columns, in every family of the matrix."""

import copy

import pytest
import torch
import transformers as hf
from families import FAMILIES, HEADS, VOCABULARY, config_of
from matrix import family_model, random_model, tokens
from projections import projections, with_scaled_columns

import apmae
from apmae.errors import CaptureError
from apmae.lm.changes import Resample
from apmae.lm.edit import edited_heads

EDITS = {(0, 1): "zero", (1, 0): "zero", (1, 3): "zero"}


def edits_of(name):
    """Heads of the first and the last layer of a family that attend."""
    counts = FAMILIES[name].counts
    first, last = min(counts), max(counts)
    return dict.fromkeys([(first, 1), (last, 0), (last, counts[last] - 1)], "zero")


def with_zeroed_columns(model, heads=tuple(EDITS), counts=None):
    """A copy whose output projections do not read these heads; biases are unchanged."""
    return with_scaled_columns(model, dict.fromkeys(heads, 0), counts)


@torch.no_grad()
def logits(model, inputs, edits=None):
    if edits is None:
        return model(**inputs).logits
    with apmae.edit(model, edits):
        return model(**inputs).logits


def expect_zeroed_columns(model, inputs, name):
    edits, counts = (edits_of(name), FAMILIES[name].counts) if name in FAMILIES else (EDITS, None)
    plain, edited = logits(model, inputs), logits(model, inputs, edits)
    assert torch.equal(edited, logits(with_zeroed_columns(model, tuple(edits), counts), inputs)), name
    assert float((edited - plain)[inputs["attention_mask"].bool()].abs().max()) > 0.01, name
    assert torch.equal(logits(model, inputs), plain), name


def test_zero_is_zeroed_columns_in_every_family():
    """Biases are random where there are any, so that zeroing the projection's output instead would be noticed."""
    biased = set()
    for number, name in enumerate(FAMILIES):
        model = copy.deepcopy(family_model(name))
        matrices = projections(model, FAMILIES[name].counts)
        assert list(matrices) == list(FAMILIES[name].counts), name
        for matrix in matrices.values():
            if matrix.bias is not None:
                torch.nn.init.normal_(matrix.bias)
                biased.add(name)
        expect_zeroed_columns(model, tokens(padding=("none", "right", "left")[number % 3]), name)
    assert {"gpt2", "gpt-bigcode", "bloom", "gpt-neo", "opt", "gpt-oss", "bert"} <= biased < set(FAMILIES)


def test_values_of_another_width_than_queries_and_layers_that_differ():
    latent = config_of(FAMILIES["deepseek-v3"])
    latent.v_head_dim = 20
    grouped = config_of(FAMILIES["llama"]).to_dict()
    layers = hf.Gemma4TextConfig(
        **{key: grouped[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=12,
        global_head_dim=16,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"],
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=0,
        pad_token_id=0,
    )
    biased = config_of(FAMILIES["llama"])
    biased.attention_bias = True
    for config, widths in ((latent, [80, 80]), (layers, [48, 64]), (biased, [48, 48])):
        model = random_model(config)
        assert [matrix.in_features for matrix in projections(model).values()] == widths
        for matrix in projections(model).values():
            if matrix.bias is not None:
                torch.nn.init.normal_(matrix.bias)
        expect_zeroed_columns(model, tokens(padding="left"), config.model_type)


def test_a_projection_outside_of_the_attention_module():
    config = config_of(FAMILIES["bert"]).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = hf.MegatronBertConfig(**{key: config[key] for key in names}, is_decoder=True)  # of bert's heads
    expect_zeroed_columns(random_model(config, attention="eager"), tokens(padding="left"), "megatron")


def test_half_precision_and_eager_attention(fresh):
    expect_zeroed_columns(fresh(attention="eager"), tokens(padding="left"), "eager")
    for name in ("llama", "codegen", "falcon"):
        expect_zeroed_columns(family_model(name, torch.bfloat16), tokens(padding="left"), name)


# -- the block ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "falcon", "bert"])
def test_nothing_is_left_behind(name):
    model, inputs = family_model(name), tokens(size=20)
    plain = logits(model, inputs)
    hooks = {path: (len(m._forward_hooks), len(m._forward_pre_hooks)) for path, m in model.named_modules()}
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), torch.no_grad(), apmae.edit(model, EDITS):
            model(**inputs)
            raise error
        assert torch.equal(logits(model, inputs), plain)
        assert {p: (len(m._forward_hooks), len(m._forward_pre_hooks)) for p, m in model.named_modules()} == hooks
    assert "get_interface" not in vars(hf.modeling_utils.ALL_ATTENTION_FUNCTIONS)


@pytest.mark.parametrize("name", ["llama", "gptj", "falcon", "modernbert"])
def test_blocks_nest_and_close_one_by_one(name):
    model, inputs = family_model(name), tokens(padding="left")
    with torch.no_grad(), apmae.edit(model, {(0, 1): "zero"}):
        with apmae.edit(model, {(1, 0): "zero"}), apmae.edit(model, {(1, 3): "zero"}):
            inner = model(**inputs).logits
        outer = model(**inputs).logits
    assert torch.equal(inner, logits(with_zeroed_columns(model), inputs))
    assert torch.equal(outer, logits(with_zeroed_columns(model, [(0, 1)]), inputs))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_two_edits_of_one_head_at_once_are_refused(name):
    model, inputs = family_model(name), tokens(padding="left")
    expected = logits(with_zeroed_columns(model, [(0, 1), (1, 0)]), inputs)
    with apmae.edit(model, {(0, 1): "zero", (1, 0): "zero"}):
        copy.deepcopy(model)
        for edits in ({(1, 0): "zero"}, {(0, 0): "zero", (1, 0): "zero"}):
            with (
                pytest.raises(CaptureError, match=r"one edit of a head at a time, head \(1, 0\) is edited in an outer"),
                apmae.edit(model, edits),
            ):
                raise AssertionError("the block must not run")
        assert edited_heads(model) == {(0, 1), (1, 0)}  # (0, 0) is not left behind
        assert torch.equal(logits(model, inputs), expected)
    assert edited_heads(model) == set()
    assert torch.equal(logits(model, inputs, {(1, 0): "zero"}), logits(with_zeroed_columns(model, [(1, 0)]), inputs))


def test_an_edited_model_is_not_saved(fresh, tmp_path):
    model = fresh()
    with apmae.edit(model, EDITS), apmae.edit(model, {(0, 0): "zero"}):
        for part in (model, model.model):
            with pytest.raises(CaptureError, match="saved outside of the edit, got save_pretrained inside it"):
                part.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not any("save_pretrained" in vars(part) for part in model.modules())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("name", ["llama", "gptj", "falcon", "bert"])
def test_a_capture_sees_the_patterns_under_the_edit(name):
    model, inputs = family_model(name), tokens(padding="left")
    zeroed = with_zeroed_columns(model)
    with torch.no_grad():
        with apmae.capture(model) as plain, apmae.capture(zeroed) as expected:
            model(**inputs)
            zeroed(**inputs)
        with apmae.edit(model, EDITS), apmae.capture(model) as inside:
            model(**inputs)
        with apmae.capture(model) as outside, apmae.edit(model, EDITS):
            model(**inputs)
    for tap in (inside, outside):
        assert torch.equal(tap.patterns.log_patches, expected.patterns.log_patches)
    first = plain.patterns.layer == 0  # which no edit precedes
    assert torch.equal(inside.patterns[first].log_patches, plain.patterns[first].log_patches)
    assert not torch.equal(inside.patterns[~first].log_patches, plain.patterns[~first].log_patches)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "falcon", "deepseek-v3", "gpt-oss", "qwen3-next", "laguna"])
def test_generation_is_edited_at_every_step(name):
    model, inputs = family_model(name), tokens(2, 12, "left")
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "output_logits": True}

    def generate(model):
        return model.generate(**inputs, **settings, return_dict_in_generate=True)

    edits = edits_of(name)
    plain, expected = generate(model), generate(with_zeroed_columns(model, tuple(edits), FAMILIES[name].counts))
    with apmae.edit(model, edits), apmae.capture(model) as tap:
        edited = generate(model)
    assert torch.equal(edited.sequences, expected.sequences)
    assert torch.equal(torch.stack(edited.logits), torch.stack(expected.logits))
    assert not torch.equal(torch.stack(edited.logits), torch.stack(plain.logits))
    assert torch.equal(torch.stack(generate(model).logits), torch.stack(plain.logits))
    assert tap.patterns.size == 12 + 7


def test_a_model_from_load_lm_is_edited(bundled_lm):
    ids = bundled_lm.tokenizer("int x = 1;", return_tensors="pt").input_ids
    plain = logits(bundled_lm.model, {"input_ids": ids})
    with torch.no_grad(), apmae.edit(bundled_lm, {(0, 0): "zero"}):
        assert not torch.equal(bundled_lm.model(ids).logits, plain)


# -- wrapped and in training -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model(fresh):
    model, inputs = fresh(), tokens(padding="left")
    wrapped = torch.compile(model, backend="eager")
    plain, expected = logits(wrapped, inputs), logits(with_zeroed_columns(model), inputs)
    for target in (wrapped, model):
        with torch.no_grad(), apmae.edit(target, EDITS):
            assert torch.equal(wrapped(**inputs).logits, expected)
    assert torch.equal(logits(wrapped, inputs), plain)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_a_peft_model_with_an_adapter_on_the_output_projection(name):
    from peft import LoraConfig, get_peft_model

    matrix = "o_proj" if name == "llama" else "out_proj"
    config = LoraConfig(r=4, target_modules=[matrix, "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(family_model(name)), config).eval()
    merged = copy.deepcopy(adapted).merge_and_unload()
    inputs = tokens(padding="left")
    edited, expected = logits(adapted, inputs, EDITS), logits(with_zeroed_columns(merged), inputs)
    assert float((edited - logits(adapted, inputs)).abs().max()) > 0.1
    assert float((edited - expected).abs().max()) < 1e-4


def gradients(model, inputs, edits=None):
    """Gradients of all parameters but the output projections, whose edited columns get none."""
    model.zero_grad()
    if edits is None:
        model(**inputs).logits.square().mean().backward()
    else:
        with apmae.edit(model, edits):
            model(**inputs).logits.square().mean().backward()
    skipped = {id(matrix.weight) for matrix in projections(model).values()}
    return {path: p.grad.clone() for path, p in model.named_parameters() if id(p) not in skipped and p.grad is not None}


@pytest.mark.parametrize("name", ["llama", "gptj", "falcon", "bert"])
def test_gradients_are_those_of_zeroed_columns(name):
    model = copy.deepcopy(family_model(name)).requires_grad_(True).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = tokens(2, 20)
    plain, edited = gradients(model, inputs), gradients(model, inputs, EDITS)
    matrix = projections(model)[0]
    width = matrix.weight.shape[1] // HEADS
    columns = matrix.weight.grad.abs().sum(0).unflatten(0, (HEADS, width)).sum(1)
    assert columns[1] == 0
    assert (columns[[0, 2, 3]] > 0).all()
    expected = gradients(with_zeroed_columns(model), inputs)
    assert edited.keys() == expected.keys()
    for path, gradient in edited.items():
        assert torch.equal(gradient, expected[path]), (name, path)
    assert any(not torch.equal(gradient, plain[path]) for path, gradient in edited.items())
    model.zero_grad()
    with apmae.edit(model, EDITS):
        loss = model(**inputs).logits.square().mean()
    loss.backward()  # after the block, which is right without checkpointing
    assert all(torch.equal(model.get_parameter(path).grad, gradient) for path, gradient in edited.items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_what_checkpointing_runs_again_is_edited_too(name, reentrant):
    model = copy.deepcopy(family_model(name)).requires_grad_(True).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = {**tokens(2, 20), "use_cache": False}
    expected = gradients(model, inputs, EDITS)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with apmae.capture(model) as tap:
        found = gradients(model, inputs, EDITS)
    assert len(tap.patterns) == 2 * FAMILIES[name].layers * HEADS
    for path, gradient in found.items():
        assert torch.equal(gradient, expected[path]), path
    # After the block the layers would run again without the edit.
    with apmae.edit(model, EDITS):
        loss = model(**inputs).logits.square().mean()
    with pytest.raises(CaptureError, match="expected backward inside the edit, got it after"):
        loss.backward()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({}, r"at least one edit, for instance \{\(2, 3\): 'zero'\} .*, got none"),
        ([(0, 1)], r"edits by \(layer, head\), .*, got \[\(0, 1\)\]"),
        ("zero", "edits by .*, got 'zero'"),
        ({3: "zero"}, "edits by .*, got 3"),
        ({(0, 1, 2): "zero"}, r"edits by .*, got \(0, 1, 2\)"),
        ({(0, 1.0): "zero"}, r"edits by .*, got \(0, 1.0\)"),
        ({(0, 4): "zero"}, r"expected layers 0-1 and heads 0-3, got \(0, 4\)"),
        ({(0, 0): "zero", (2, 0): "zero"}, r"got \(2, 0\)"),
        ({(0, -1): "zero"}, r"got \(0, -1\)"),
        ({(0, 0): "nil"}, r"an edit of head \(0, 0\) that is 'zero', Mean, .* or a function, got 'nil'"),
        ({(0, 0): 0.0}, "or a function, got 0.0"),
        ({(0, 0): None}, "or a function, got None"),
        ({(0, 1): "mean"}, r"what 'mean' needs for head \(0, 1\); give Mean, which apmae.lm.record.mean_outputs makes"),
        ({(0, 1): "patch"}, r"what 'patch' needs for head \(0, 1\); give Patch, which apmae.lm.record.record_heads"),
        ({(0, 1): Resample}, "what 'resample' needs"),
        ({(0, 1): "scale"}, r"for instance Scale\(0.5\)"),
        ({torch.tensor([0, 1]): "zero", (0, 1): "zero"}, r"expected one edit of head \(0, 1\), got two"),
    ],
)
def test_edits_that_do_not_exist(family, edits, message):
    with pytest.raises(CaptureError, match=message), apmae.edit(family("llama"), edits):
        raise AssertionError("the block must not run")


def test_models_whose_heads_cannot_be_edited_separately():
    """By name, before or in the forward: a norm or another matrix would mix the heads, or their output is not seen."""
    inputs = tokens(size=8)
    tiny = {
        key: config_of(FAMILIES["llama"]).to_dict()[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")
    }
    tiny |= {"intermediate_size": 64, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "pad_token_id": 0}
    normed = hf.BitNetForCausalLM(hf.BitNetConfig(**tiny)).eval()
    with (
        pytest.raises(CaptureError, match=r"BitNetAttention normalises them first \(attn_sub_norm\)"),
        apmae.edit(normed, EDITS),
    ):
        raise AssertionError("the block must not run")
    sliced = config_of(FAMILIES["bloom"])
    sliced.pretraining_tp, sliced.slow_but_exact = 2, True
    upcast = config_of(FAMILIES["gpt2"])
    upcast.reorder_and_upcast_attn = True
    for config, attention, module in ((sliced, "eager", "BloomAttention"), (upcast, "eager", "GPT2Attention")):
        model = random_model(config, attention=attention)
        plain = logits(model, inputs)
        with pytest.raises(CaptureError, match=f"expected {module} to hand its heads' output to one output projection"):
            logits(model, inputs, EDITS)
        assert torch.equal(logits(model, inputs), plain)


def test_a_head_that_the_model_does_not_have_is_refused_with_the_layers_that_attend():
    for name, head, message in (
        ("qwen3-next", (2, 0), r"expected layers 1, 3 and heads 0-3, got \(2, 0\); layer 2 has no attention"),
        ("qwen3-next", (4, 0), r"expected layers 1, 3 and heads 0-3, got \(4, 0\)$"),
        ("laguna", (1, 3), r"expected layers 0, 2 and heads 0-3, layers 1, 3 and heads 0-1, got \(1, 3\)$"),
        ("laguna", (5, 0), r"layers 1, 3 and heads 0-1, got \(5, 0\)$"),
    ):
        model = family_model(name)
        with pytest.raises(CaptureError, match=message), apmae.edit(model, {head: "zero"}):
            raise AssertionError("the block must not run")
        with pytest.raises(CaptureError, match=message), apmae.capture(model, heads=[head]):
            raise AssertionError("the block must not run")
