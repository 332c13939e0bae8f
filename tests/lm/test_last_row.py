"""Last rows against those of whole captures and of the families' own eager attention; heads' outputs against edits."""

import numpy as np
import pytest
import torch
from families import FAMILIES, cases
from matrix import eager_attentions, family_model, tokens

import apmae
from apmae.errors import CaptureError
from apmae.lm.last_row import capture_last_rows, record_outputs


@torch.no_grad()
def last_rows(name, inputs, positions=None):
    with capture_last_rows(family_model(name), positions) as captured:
        logits = family_model(name)(**inputs).logits
    return captured, logits


def spans(mask):
    return [(int(own.argmax()), int(own.argmax() + own.sum())) for own in mask]


@pytest.mark.parametrize("name", cases())
def test_the_last_row_is_that_of_the_whole_pattern(name):
    family, model = FAMILIES[name], family_model(name)
    for padding in ("none", "right", "left"):
        inputs = tokens(padding=padding)
        captured, logits = last_rows(name, inputs)
        with torch.no_grad(), apmae.capture(model) as tap:
            assert torch.equal(model(**inputs).logits, logits)
        whole, rows, real = tap.patterns.probabilities(), captured.rows, spans(inputs["attention_mask"])
        assert [tuple(own) for own in zip(rows.prompt, rows.layer, rows.head, strict=True)] == [
            (prompt, *place) for prompt in range(3) for place in family.places
        ]
        eager = eager_attentions(name, inputs)
        for number, (prompt, row) in enumerate(zip(rows.prompt, rows.log_probabilities.exp(), strict=True)):
            start, end = real[prompt]
            size = end - start
            assert np.abs(row[:size].numpy() - whole[number, size - 1, :size]).max() <= 1e-6
            assert not row[size:].any()
            theirs = eager[prompt, number % len(family.places), end - 1, start:end]
            assert float((row[:size] - theirs).abs().max()) <= 1e-4
            if not family.sinks:
                assert float(row.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "bert", "gpt-oss", "bloom"])
def test_any_position_may_be_taken_and_forwards_are_numbered_on(name):
    inputs, positions = tokens(padding="left"), [3, 40, 57, 0, 1, 2]
    model = family_model(name)
    with torch.no_grad(), capture_last_rows(model, positions) as captured, apmae.capture(model) as tap:
        model(**inputs)
        model(**inputs)
    rows, whole = captured.rows, tap.patterns.probabilities()
    assert sorted(set(rows.prompt)) == list(range(6))
    for number, (prompt, row) in enumerate(zip(rows.prompt, rows.log_probabilities.exp().numpy(), strict=True)):
        assert np.abs(row - whole[number, positions[prompt], : len(row)]).max() <= 1e-6


@pytest.mark.parametrize("positions", [[70, 0, 0], [0, 0], [-1, 0, 0]])
def test_a_position_outside_of_its_prompt_is_refused(positions):
    with pytest.raises(CaptureError, match="expected a position inside each prompt, of \\[70, 70, 70\\] tokens"):
        last_rows("llama", tokens(), positions)


def test_what_cannot_be_read_is_refused():
    model = family_model("llama")
    with pytest.raises(CaptureError, match="at least one forward"), capture_last_rows(model) as captured:
        _ = captured.rows
    with torch.no_grad(), pytest.raises(CaptureError, match="whole prompts, got 1 queries"), capture_last_rows(model):
        model.generate(tokens()["input_ids"], max_new_tokens=3, eos_token_id=None)
    with record_outputs(model) as outputs, pytest.raises(CaptureError, match="run inside the block, got \\[0\\]"):
        outputs.of([0])


def test_scores_that_are_not_finite_are_noticed(fresh):
    model = fresh()
    model.model.layers[1].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with torch.no_grad(), capture_last_rows(model) as captured:
        model(**tokens())
    with pytest.raises(CaptureError, match="layer 1 has NaN"):
        _ = captured.rows


@torch.no_grad()
@pytest.mark.parametrize("name", cases())
def test_outputs_are_what_an_edit_replaces(name):
    """In an outer block they are those before the edit, in an inner block those after it; padding does not matter."""
    model, inputs = family_model(name), tokens(padding="right")
    with record_outputs(model) as outputs:
        model(**inputs)
    ends = [end for _, end in spans(inputs["attention_mask"])]
    found = outputs.of(range(3))
    assert list(found) == list(FAMILIES[name].counts)
    layer, heads = next(iter(FAMILIES[name].counts.items()))
    with record_outputs(model) as edited_outputs, apmae.edit(model, {(layer, 1): "zero"}):
        model(**inputs)
    assert found[layer].shape[:2] == (3, heads)
    assert torch.equal(edited_outputs.of(range(3))[layer], found[layer])
    with apmae.edit(model, {(layer, 1): "zero"}), record_outputs(model) as after_edit:
        model(**inputs)
    zeroed = found[layer].clone()
    zeroed[:, 1] = 0
    assert torch.equal(after_edit.of(range(3))[layer], zeroed)
    alone = {key: value[1:2, : ends[1]] for key, value in inputs.items()}
    with record_outputs(model) as one:
        model(**alone)
    for own in found:
        torch.testing.assert_close(one.of([0])[own], found[own][1:2], rtol=1e-3, atol=1e-4)
