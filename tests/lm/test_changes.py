"""Edits that need outputs of other runs, against hooks that rewrite what the output projections are called with."""

import pytest
import torch
from families import FAMILIES, cases
from matrix import family_model, tokens
from projections import given_to_projections, rewritten_projections, with_scaled_columns

import apmae
from apmae.errors import CaptureError
from apmae.lm.changes import Mean, Patch, Resample, Scale, donor
from apmae.lm.record import record_heads

PLAIN = ["llama", "gpt2", "bloom", "gptj", "falcon", "bert", "deepseek-v3", "gpt-oss", "gemma4", "mistral-window"]
"""Families whose projections are called with the heads' outputs as they are, without a gate."""
FROM_THE_LEFT = ("gpt2", "bert")
"""Those whose learned positions count padding on the left: a prompt alone is then another prompt."""


def heads_of(name):
    """One head of the first layer and two of the last."""
    counts = FAMILIES[name].counts
    first, last = min(counts), max(counts)
    return [(first, 1), (last, 0), (last, counts[last] - 1)]


@torch.no_grad()
def logits(model, inputs, edits=None, **settings):
    if edits is None:
        return model(**inputs).logits
    with apmae.edit(model, edits, **settings):
        return model(**inputs).logits


@torch.no_grad()
def rewritten(name, inputs, new):
    with rewritten_projections(family_model(name), FAMILIES[name].counts, new):
        return family_model(name)(**inputs).logits


@torch.no_grad()
def outputs_of(name, inputs):
    """For each prompt alone: layer -> (token, head, width), what its projection is called with."""
    counts, found = FAMILIES[name].counts, []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        with given_to_projections(family_model(name), counts) as kept:
            family_model(name)(input_ids=ids[mask][None], attention_mask=mask[mask][None].long())
        found.append({layer: own[0] for layer, own in kept.items()})
    return found


def spans(inputs):
    return [(int(own.argmax()), int(own.sum())) for own in inputs["attention_mask"]]


def expect_same(found, expected, inputs, name):
    real = inputs["attention_mask"].bool()
    scale = float(expected[real].abs().max())
    assert float((found - expected)[real].abs().max()) <= 2e-5 * scale, name


@pytest.mark.parametrize("name", cases())
def test_scale_is_scaled_columns_in_every_family(name):
    model = family_model(name)
    factors = dict(zip(heads_of(name), (0.5, -2.0, 4), strict=True))
    for padding in ("left", "right"):
        inputs = tokens(padding=padding)
        found = logits(model, inputs, {place: Scale(factor) for place, factor in factors.items()})
        assert torch.equal(found, logits(with_scaled_columns(model, factors, FAMILIES[name].counts), inputs))
        assert not torch.equal(found, logits(model, inputs))


@pytest.mark.parametrize("name", PLAIN)
def test_mean_and_functions_are_what_the_projection_is_called_with(name):
    inputs = tokens(padding="left")
    first, second, third = heads_of(name)
    width = outputs_of(name, inputs)[0][second[0]].shape[-1]
    values = torch.randn(width, generator=torch.Generator().manual_seed(3))
    found = logits(
        family_model(name), inputs, {first: lambda own: own.flip(1), second: Mean(values), third: torch.tanh}
    )
    new = {first: lambda own: own.flip(1), second: lambda own: values.expand_as(own), third: torch.tanh}
    assert torch.equal(found, rewritten(name, inputs, new))


@pytest.mark.parametrize(
    ("name", "padding"), [(name, own) for name in PLAIN for own in ("left", "right")[name in FROM_THE_LEFT :]]
)
def test_patches_put_clean_outputs_into_corrupted_prompts(name, padding):
    model, clean, corrupted = family_model(name), tokens(seed=0, padding=padding), tokens(seed=1, padding="right")
    corrupted["input_ids"] = torch.where(corrupted["attention_mask"].bool(), corrupted["input_ids"], 0)
    alone, real = outputs_of(name, clean), spans(corrupted)
    assert [size for _, size in spans(clean)] == [size for _, size in real]
    with torch.no_grad(), record_heads(model) as recorded:
        model(**clean)
    places = [[0, 7], [5], []]

    def patched(layer, head, positions):
        def make(own):
            own = own.clone()
            for prompt, (start, size) in enumerate(real):
                for position in range(size) if positions is None else positions[prompt]:
                    own[prompt, start + position] = alone[prompt][layer][position, head]
            return own

        return make

    for positions in (None, places):
        heads = heads_of(name)
        found = logits(model, corrupted, recorded.patches(heads, positions))
        new = {(layer, head): patched(layer, head, positions) for layer, head in heads}
        expect_same(found, rewritten(name, corrupted, new), corrupted, name)
        assert not torch.allclose(found, logits(model, corrupted))
    with torch.no_grad(), record_heads(model) as same:
        model(**corrupted)
    assert torch.equal(logits(model, corrupted, same.patches(FAMILIES[name].places)), logits(model, corrupted))


@pytest.mark.parametrize("name", PLAIN)
def test_resampled_outputs_are_another_prompts_from_the_end(name):
    side = "right" if name in FROM_THE_LEFT else "left"
    model, others, seed, first = family_model(name), tokens(4, 40, padding=side, seed=9), 5, 11
    alone, sizes = outputs_of(name, others), [size for _, size in spans(others)]
    with torch.no_grad(), record_heads(model) as recorded:
        model(**others)
    assert recorded.lengths == sizes
    heads = heads_of(name)
    edits = {(layer, head): Resample(recorded.aligned(layer)[:, :, head], sizes, seed) for layer, head in heads}
    for size in (30, 70):  # shorter than the others, and longer
        inputs = tokens(3, size, padding=side, seed=2)

        def resampled(layer, head, inputs=inputs):
            def make(own):
                own = own.clone()
                for prompt, (start, length) in enumerate(spans(inputs)):
                    number = donor(seed, first + prompt, len(sizes))
                    for position in range(length):
                        row = max(0, sizes[number] - length + position)
                        own[prompt, start + position] = alone[number][layer][row, head]
                return own

            return make

        found = logits(model, inputs, edits, first_prompt=first)
        expect_same(found, rewritten(name, inputs, {place: resampled(*place) for place in heads}), inputs, name)


def test_other_prompts_are_drawn_by_seed_and_number_alone():
    draws = [donor(0, prompt, 5) for prompt in range(1000)]
    assert [donor(0, prompt, 5) for prompt in range(1000)] == draws != [donor(1, prompt, 5) for prompt in range(1000)]
    assert min(draws.count(number) for number in range(5)) > 150
    model, inputs = family_model("llama"), tokens(4, 20)
    edits = {(0, 1): Resample(torch.randn(6, 20, 12, generator=torch.Generator().manual_seed(0)), [20] * 6, 3)}
    whole = logits(model, inputs, edits)
    halves = [{key: value[part] for key, value in inputs.items()} for part in (slice(0, 2), slice(2, 4))]
    with torch.no_grad(), apmae.edit(model, edits):
        batches = torch.cat([model(**half).logits for half in halves])
    torch.testing.assert_close(batches, whole)
    torch.testing.assert_close(logits(model, halves[1], edits, first_prompt=2), whole[2:])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "bloom", "deepseek-v3", "mistral-window", "qwen3-next"])
def test_a_cache_changes_nothing(name):
    """One token at a time: the same logits as without a cache, where each step reads the whole text."""
    model, inputs = family_model(name), tokens(2, 12, "left")
    layer, other = min(FAMILIES[name].counts), max(FAMILIES[name].counts)
    with torch.no_grad(), record_heads(model) as recorded:
        model(**tokens(2, 16, seed=4))
    donors, width = recorded.aligned(layer), recorded.aligned(other).shape[-1]
    for edits in (
        {(layer, 0): Resample(donors[:, :, 0], [16, 9], 1), (other, 1): Resample(donors[:, :, 1], [16, 9], 1)},
        {(layer, 2): Patch(donors[:, :11, 2]), (other, 2): Patch(donors[:, :12, 3], [[0, 3, 10], [1]])},
        {(layer, 0): Mean(torch.ones(width)), (other, 1): Scale(3.0), (other, 2): lambda own: own.sin()},
    ):
        runs = []
        for use_cache in (True, False):
            with torch.no_grad(), apmae.edit(model, edits):
                made = model.generate(
                    **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use_cache,
                    output_logits=True, return_dict_in_generate=True,
                )  # fmt: skip
            runs.append(torch.stack(made.logits))
        torch.testing.assert_close(*runs, rtol=1e-3, atol=1e-3)
        with torch.no_grad():
            plain = model.generate(
                **inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        assert float((runs[0][0] - plain.logits[0]).abs().max()) > 1e-2


def test_a_loop_with_a_cache_also_of_the_model_without_its_head():
    """Positions are known from the cache and the mask, whichever part of the model is called."""
    model, inputs = family_model("llama"), tokens(2, 14, "left")
    outputs = torch.randn(2, 14, 12, generator=torch.Generator().manual_seed(0))
    edits = {(0, 1): Patch(outputs[:, :9], [[0, 8], [3]]), (1, 2): Patch(outputs[:, :11])}
    for part in (model, model.model):
        with torch.no_grad(), apmae.edit(model, edits):
            begun = part(**{key: value[:, :11] for key, value in inputs.items()}, use_cache=True)
            found = [begun[0]]
            for token in range(11, 14):
                ids, mask = inputs["input_ids"][:, token : token + 1], inputs["attention_mask"][:, : token + 1]
                settings = {"past_key_values": begun.past_key_values, "use_cache": True}
                found.append(part(input_ids=ids, attention_mask=mask, **settings)[0])
        with torch.no_grad(), apmae.edit(model, edits):
            whole = part(**inputs)[0]
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(torch.cat(found, 1)[real], whole[real], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(float("nan")), "expected a finite factor for Scale, got nan"),
        (lambda: Scale("half"), "expected a finite factor for Scale, got 'half'"),
        (lambda: Mean(torch.zeros(2, 12)), r"the axes \(v\) for Mean, got \(2, 12\)"),
        (lambda: Mean([0.0]), "for Mean, got list"),
        (lambda: Mean(torch.full((12,), torch.nan)), "expected finite outputs for Mean"),
        (lambda: Resample(torch.zeros(2, 9, 12), [9], 0), r"a length from 1 to 9 for each of the 2 .*, got \[9\]"),
        (lambda: Resample(torch.zeros(1, 9, 12), [10], 0), r"from 1 to 9 .*, got \[10\]"),
        (lambda: Resample(torch.zeros(0, 9, 12), [], 0), "at least one, got"),
        (lambda: Patch(torch.zeros(2, 9, 12), [[0], [9]]), r"positions from 0 to 8 for each of the 2 prompts"),
        (lambda: Patch(torch.zeros(2, 9, 12), [[0]]), r"for each of the 2 prompts of Patch, got \[\[0\]\]"),
        (lambda: Patch(torch.zeros(2, 9, 12), [[-1], []]), r"got \[\[-1\], \[\]\]"),
    ],
)
def test_values_that_no_edit_can_use(make, message):
    with pytest.raises(CaptureError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Mean(torch.zeros(11)), r"head \(1, 2\): expected outputs of 12 numbers for Mean, .* got 11"),
        (Mean(torch.zeros(1)), "got 1"),
        (Resample(torch.zeros(2, 70, 24), [70, 70], 0), "for Resample, as this head's, got 24"),
        (Patch(torch.zeros(3, 70, 5)), "for Patch, as this head's, got 5"),
        (Patch(torch.zeros(2, 70, 12)), "2 prompts of up to 70 tokens, got 3 of 70; clean and corrupted"),
        (Patch(torch.zeros(3, 71, 12)), "3 prompts of up to 71 tokens, got 3 of 70"),
        (lambda own: own[:, :1], r"function to return a tensor of shape \(3, 70, 12\) .*, got \(3, 1, 12\)"),
        (lambda own: None, "got NoneType"),
    ],
)
def test_values_that_do_not_fit_the_forward(change, message):
    model, inputs = family_model("llama"), tokens()
    plain = logits(model, inputs)
    with pytest.raises(CaptureError, match=message):
        logits(model, inputs, {(1, 2): change})
    assert torch.equal(logits(model, inputs), plain)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_positions_are_not_guessed_when_checkpointing_runs_a_layer_again(fresh):
    model, inputs = fresh().requires_grad_(True).train(), {**tokens(), "use_cache": False}
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with apmae.edit(model, {(1, 0): Mean(torch.ones(12)), (1, 1): Scale(2)}):
        model(**inputs).logits.sum().backward()
    with apmae.edit(model, {(1, 0): Patch(torch.ones(3, 70, 12))}):
        loss = model(**inputs).logits.sum()
        with pytest.raises(CaptureError, match=r"head \(1, 0\): .* run alone or again, by gradient checkpointing"):
            loss.backward()


def test_a_mask_that_hides_where_padding_is():
    model, inputs = family_model("llama"), tokens(2, 6)
    inputs["attention_mask"] = torch.zeros(2, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    with pytest.raises(CaptureError, match=r"attention mask of shape \(2, 6\), which says what is padding, got \(2, 1"):
        logits(model, inputs, {(0, 0): Patch(torch.zeros(2, 6, 12))})
    assert logits(model, inputs, {(0, 0): Mean(torch.zeros(12))}).shape[:2] == (2, 6)
    found = logits(model, {"input_ids": inputs["input_ids"]}, {(0, 0): Patch(torch.ones(2, 3, 12))})
    masked = {"input_ids": inputs["input_ids"], "attention_mask": torch.ones(2, 6)}
    assert torch.equal(found, logits(model, masked, {(0, 0): Patch(torch.ones(2, 3, 12))}))
