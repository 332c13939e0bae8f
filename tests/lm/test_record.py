"""Recorded outputs against what the projections are called with; gradients by finite differences; means by loops."""

import numpy as np
import pytest
import torch
from families import FAMILIES, cases
from matrix import eager_model, family_model, tokens
from projections import given_to_projections

import apmae
from apmae.config import LMConfig
from apmae.errors import CaptureError
from apmae.lm.language_model import LM
from apmae.lm.record import mean_outputs, record_heads, sample_outputs
from apmae.prompts.fim import Window

GATED = ("qwen3-next", "qwen3.5", "laguna", "step-3.7")
"""Their projections are called with the heads' outputs times a gate."""


def lm_of(name):
    causal = not FAMILIES[name].square
    return LM(model=family_model(name), tokenizer=None, config=LMConfig(), causal=causal, sentinels=None, bos=None)


def windows_of(inputs):
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    return [Window(ids=tuple(ids), completion=(5,), text="") for ids in kept]


@torch.no_grad()
def alone(name, window):
    """Layer -> (token, head, width) of one prompt."""
    with given_to_projections(family_model(name), FAMILIES[name].counts) as kept:
        family_model(name)(input_ids=torch.tensor([window.ids]))
    return {layer: own[0] for layer, own in kept.items()}


@pytest.mark.parametrize("name", cases())
def test_outputs_are_what_the_projections_are_called_with(name):
    model = family_model(name)
    for padding in ("none", "left", "right"):
        inputs = tokens(padding=padding)
        plain = model(**inputs).logits
        with (
            given_to_projections(model, FAMILIES[name].counts) as kept,
            record_heads(model) as recorded,
            record_heads(model, gradients=True) as in_graph,
        ):
            assert torch.equal(model(**inputs).logits, plain)
        assert list(recorded.outputs) == list(FAMILIES[name].counts) == list(in_graph.outputs)
        for layer, output in recorded.outputs.items():
            assert torch.equal(output, in_graph.outputs[layer])
            assert not output.requires_grad
            assert in_graph.outputs[layer].requires_grad
            assert torch.equal(output, kept[layer]) != (name in GATED)
        positions = torch.full_like(inputs["input_ids"], -1)
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            positions[row, mask] = torch.arange(int(mask.sum()))
        assert torch.equal(recorded.positions, positions)
        assert recorded.lengths == inputs["attention_mask"].sum(1).tolist()
        layer, output = next(iter(recorded.outputs.items()))
        for row, (own, whole) in enumerate(zip(recorded.aligned(layer), output, strict=True)):
            real = inputs["attention_mask"][row].bool()
            assert torch.equal(own[: int(real.sum())], whole[real])
            assert not own[int(real.sum()) :].any()


@pytest.mark.parametrize("name", ["gpt2", "starcoder2", "falcon", "bert", "llama", "gptj", "gemma2", "gemma4"])
def test_gradients_are_finite_differences(name):
    """In float64, of a sum of logits, by one number of one head at a time, through later layers."""
    # The first four are float64 throughout; the others' norms or softmax are float32 whatever the model's precision.
    step, accuracy = (1e-4, 1e-4) if name in ("gpt2", "starcoder2", "falcon", "bert") else (1e-3, 0.03)
    family = FAMILIES[name]
    source = (eager_model if not family.sdpa else family_model)(name)
    model = type(source)._from_config(
        source.config, attn_implementation="sdpa" if family.sdpa else "eager", dtype=torch.float64
    )
    model.load_state_dict(source.state_dict())
    model.eval().requires_grad_(False)
    inputs = tokens(2, 12, "right" if name in ("gpt2", "bert", "gemma2") else "left")
    along = torch.randn(2, 160, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(logits):
        return (logits[:, -4] * along).sum()

    with record_heads(model, gradients=True) as recorded:
        value(model(**inputs).logits).backward()
    outputs = recorded.outputs
    with record_heads(model, gradients=True) as again:
        found = torch.autograd.grad(value(model(**inputs).logits), [*again.outputs.values()])
    rng = np.random.default_rng(0)
    for (layer, output), gradient in zip(outputs.items(), found, strict=True):
        assert torch.equal(output.grad, gradient)
        real = inputs["attention_mask"].bool()
        for _ in range(6):
            prompt, head, number = (int(rng.integers(size)) for size in (2, output.shape[2], output.shape[3]))
            query = int(rng.choice(np.flatnonzero(real[prompt, :9].numpy())))
            differences = []
            for by in (step, -step):

                def moved(own, by=by, place=(prompt, query, number)):
                    own = own.clone()
                    own[place] += by
                    return own

                with torch.no_grad(), apmae.edit(model, {(layer, head): moved}):
                    differences.append(float(value(model(**inputs).logits)))
            expected = (differences[0] - differences[1]) / (2 * step)
            assert float(gradient[prompt, query, head, number]) == pytest.approx(
                expected, rel=accuracy, abs=accuracy / 20
            )


def test_attribution_is_exact_where_the_rest_is_linear():
    """(clean - corrupted) * gradient of the last layer's heads, of the state that the final norm is given."""
    model, clean, corrupted = family_model("gpt2"), tokens(2, 10, seed=0), tokens(2, 10, seed=1)
    written = []
    hook = model.transformer.h[1].ln_2.register_forward_pre_hook(lambda _module, inputs: written.append(inputs[0]))
    along = torch.randn(48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record_heads(model) as before:
        model(**clean)
    with record_heads(model, gradients=True) as recorded:
        model(**corrupted)
    gradient = torch.autograd.grad((written[-1][:, -1] @ along).sum(), [recorded.outputs[1]])[0]
    estimate = ((before.outputs[1] - recorded.outputs[1]) * gradient).sum((1, 3))
    base = written[-1][:, -1] @ along
    for head in range(4):
        with torch.no_grad(), apmae.edit(model, before.patches([(1, head)])):
            model(**corrupted)
        torch.testing.assert_close(written[-1][:, -1] @ along - base, estimate[:, head], rtol=1e-3, atol=1e-4)
    hook.remove()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "gemma4", "gptj"])
def test_means_are_those_of_single_prompts(name):
    lm, inputs = lm_of(name), tokens(5, 30, padding="right")
    windows = windows_of(inputs)
    sums, count = {}, 0
    for window in windows:
        count += len(window.ids)
        for layer, own in alone(name, window).items():
            for head in range(own.shape[1]):
                for token in range(own.shape[0]):
                    row = own[token, head].numpy().astype(np.float64)
                    sums[layer, head] = sums.get((layer, head), 0) + row
    for batch in (2, 8):
        means = mean_outputs(lm, iter(windows), batch=batch)
        assert list(means) == FAMILIES[name].places
        for place, mean in means.items():
            np.testing.assert_allclose(mean.values.numpy(), sums[place] / count, rtol=1e-3, atol=1e-5)
    with torch.no_grad(), apmae.edit(lm, means), record_heads(lm) as edited:
        lm.model(**inputs)
    for (layer, head), mean in means.items():
        assert (edited.outputs[layer][:, :, head] == mean.values).all()


@pytest.mark.parametrize("name", ["llama", "gemma4"])
def test_a_sample_of_outputs_is_whole_prompts_of_the_stream(name):
    lm, windows = lm_of(name), windows_of(tokens(9, 30, padding="right", shorter=2))
    known = [alone(name, window) for window in windows]
    drawn = set()
    for seed in range(8):
        sample = sample_outputs(lm, iter(windows), count=3, seed=seed, batch=2)
        again = sample_outputs(lm, windows, count=3, seed=seed)
        assert list(sample) == FAMILIES[name].places
        sources = set()
        for (layer, head), own in sample.items():
            assert torch.allclose(own.outputs, again[layer, head].outputs, rtol=1e-3, atol=1e-4)
            assert own.seed == seed
            for number, length in enumerate(own.lengths):
                (source,) = [
                    place
                    for place, prompt in enumerate(known)
                    if len(prompt[layer]) == length
                    and torch.allclose(own.outputs[number, :length], prompt[layer][:, head], rtol=1e-3, atol=1e-4)
                ]
                sources.add(source)
        assert len(sources) == 3  # the same for all heads
        drawn |= sources
    assert len(drawn) >= 7  # of 9; the first three alone would be no sample
    assert sample_outputs(lm, windows, count=20)[0, 0].outputs.shape[0] == 9


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_recorded_is_refused(fresh):
    model, lm = family_model("llama"), lm_of("llama")
    with record_heads(model) as recorded:
        pass
    for read in (lambda: recorded.outputs, lambda: recorded.positions, lambda: recorded.patches([(0, 0)])):
        with pytest.raises(CaptureError, match="inside the block, got none"):
            read()
    with pytest.raises(CaptureError, match="whole prompts, got 1 queries"), record_heads(model):
        model.generate(tokens()["input_ids"], max_new_tokens=3, eos_token_id=None)
    with torch.no_grad(), pytest.raises(CaptureError, match="leave out no_grad"), record_heads(model, gradients=True):
        model(**tokens())
    with torch.no_grad(), record_heads(model) as recorded:
        model(**tokens(2, 6))
    with pytest.raises(CaptureError, match=r"expected layers 0-1 and heads 0-3, got \(0, 4\)"):
        recorded.patches([(0, 4)])
    for make in (lambda: mean_outputs(lm, []), lambda: sample_outputs(lm, [], count=2)):
        with pytest.raises(CaptureError, match="at least one prompt"):
            make()
    with pytest.raises(CaptureError, match="got count=0"):
        sample_outputs(lm, [], count=0)
    training = fresh().train()
    training.gradient_checkpointing_enable()
    with pytest.raises(CaptureError, match="no gradient checkpointing"), record_heads(training, gradients=True):
        raise AssertionError("the block must not run")


def test_the_last_forward_counts_and_edits_come_first():
    model, first, second = family_model("llama"), tokens(2, 9, seed=0), tokens(3, 7, seed=1)
    with torch.no_grad(), record_heads(model) as both:
        model(**first)
        model(**second)
    with (
        torch.no_grad(),
        record_heads(model) as outer,
        apmae.edit(model, {(0, 1): "zero"}),
        record_heads(model) as inner,
    ):
        model(**second)
    assert torch.equal(both.outputs[1].new_tensor(both.outputs[0].shape), torch.tensor([3.0, 7, 4, 12]))
    assert torch.equal(outer.outputs[0], both.outputs[0])
    assert not inner.outputs[0][:, :, 1].any()
    assert torch.equal(inner.outputs[0][:, :, [0, 2, 3]], both.outputs[0][:, :, [0, 2, 3]])
    assert not torch.equal(inner.outputs[1], both.outputs[1])
