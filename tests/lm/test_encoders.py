"""What encoders see of a prompt, and what they answer at its masks, against each window run alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import KINDS

from apmae.errors import CaptureError, ConfigError, ModelError
from apmae.lm.load import load_lm
from apmae.lm.outcome import _judged, answer, read, window_of
from apmae.prompts.line import text_prompt
from apmae.prompts.masked import whole_window
from apmae.prompts.sentinels import Masks

FILLING = [kind for kind in KINDS if kind != "sentence"]
PROMPTS = [
    ("The old ", "harbour", " was quiet in the morning."),
    ("Boats rested on the water", ",", " and the gulls walked along the wall."),
    ('"Nobody sails before noon," said ', "Anna Berg", ", who had counted 14 boats and 3 nets."),
    ("It had burned for ", "120", " years."),
]


def windows_of(lm, length=64):
    return [window_of(lm, text_prompt(*texts), length) for texts in PROMPTS]


@torch.no_grad()
def distributions(lm, window):
    """float64 (masks, vocabulary): softmax at each mask of a window alone, found by its id."""
    logits = lm.model(input_ids=torch.tensor([window.ids])).logits[0].double().numpy()
    logits = logits[[place for place, token in enumerate(window.ids) if token == lm.tokenizer.mask_token_id]]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_the_text_as_its_tokenizer_reads_it_with_the_completion_masked(encoder_lm, kind):
    lm = encoder_lm(kind)
    assert isinstance(lm.masks, Masks)
    assert not lm.causal
    assert lm.sentinels is None
    for (prefix, completion, suffix), window in zip(PROMPTS, windows_of(lm, 200), strict=True):
        whole = lm.tokenizer(prefix + completion + suffix).input_ids
        shown = list(window.ids)
        assert len(shown) == len(whole)
        hidden = [place for place, token in enumerate(shown) if token == lm.tokenizer.mask_token_id]
        assert hidden == list(window.masks)
        assert [whole[place] for place in hidden] == list(window.completion)
        assert lm.tokenizer.decode(window.completion).strip().lower() == completion.lower()
        for place in hidden:
            shown[place] = whole[place]
        assert shown == whole


@pytest.mark.parametrize("kind", FILLING)
def test_answers_are_those_at_the_masks_of_each_prompt_alone(encoder_lm, kind):
    lm = encoder_lm(kind)
    items = windows_of(lm)
    assert len({len(item.masks) for item in items}) > 1
    assert len({len(item.ids) for item in items}) > 1
    for spans in (False, True):
        for item, found in zip(items, answer(lm, items, spans=spans), strict=True):
            p = distributions(lm, item)
            first = np.sort(p[0])[::-1]
            assert lm.tokenizer.decode([p[0].argmax()]).strip() == found.predicted.strip()
            assert found.token_correct == (p[0].argmax() == item.completion[0])
            assert found.max_probability == pytest.approx(first[0], abs=1e-5)
            assert found.margin == pytest.approx(first[0] - first[1], abs=1e-5)
            assert found.expected_probability == pytest.approx(p[0][item.completion[0]], abs=1e-5)
            assert found.entropy == pytest.approx(-sum(x * math.log(x) for x in p[0] if x > 0), abs=1e-4)
            own = [p[place][token] for place, token in enumerate(item.completion)]
            assert found.log_probability == pytest.approx(sum(map(math.log, own)), abs=1e-3)
            assert found.exact == (p.argmax(-1).tolist() == list(item.completion))


@pytest.mark.parametrize("kind", FILLING)
def test_what_stands_at_the_masks_decides_the_outcome(encoder_lm, kind):
    lm = encoder_lm(kind)
    item = windows_of(lm)[2]
    best = tuple(distributions(lm, item).argmax(-1).tolist())
    right = replace(item, completion=best)
    other = replace(item, completion=(*best[:-1], next(token for token in range(9, 99) if token != best[-1])))
    accepting = replace(item, accepted=(best,))
    (whole,), (half,), (accepted,), (wrong,) = (answer(lm, [one]) for one in (right, other, accepting, item))
    assert (whole.text_correct, whole.token_correct, whole.exact) == (True, True, True)
    assert (half.token_correct, half.exact) == (True, False)
    assert (accepted.token_correct, accepted.exact) == (True, False)
    assert (wrong.token_correct, wrong.text_correct, wrong.exact) == (False, False, False)


@pytest.mark.parametrize("kind", FILLING)
def test_a_word_of_several_pieces_needs_all_of_them(encoder_lm, kind):
    lm = encoder_lm(kind)
    item = window_of(lm, text_prompt("The harbour of the ", "farsighted", " town was larger."), 64)
    pieces = list(item.completion)
    assert len(pieces) > 2
    other = next(token for token in range(50, 99) if token != pieces[1])
    said, right, first = _judged(item, pieces, lm.special)
    assert (said.strip(), right, first) == ("farsighted", True, True)
    said, right, first = _judged(item, [pieces[0], other, *pieces[2:]], lm.special)
    assert said == item.text_of([pieces[0], other])
    assert (right, first) == (False, True)


@pytest.mark.parametrize("kind", FILLING)
def test_at_most_half_of_a_window_is_masked(encoder_lm, kind):
    lm = encoder_lm(kind)
    completion = " ".join(["and the gulls walked along the wall"] * 5)
    window = window_of(lm, text_prompt("In the morning the wind turned, ", completion, ", said Anna."), 24)
    assert len(window.ids) <= 24
    assert len(window.masks) == (24 - len(lm.masks)) // 2 < len(window.completion)
    assert lm.tokenizer.decode(window.ids).count("Anna") <= 1, "nothing of the completion is shown"
    (found,) = answer(lm, [window], spans=True)
    assert (found.exact, found.log_probability) == (None, None)


def test_positions_that_a_model_skips_are_not_counted(encoder_lm):
    """RoBERTa begins to count after the position of its padding."""
    lm = encoder_lm("roberta")
    assert lm.max_length == 256 - lm.tokenizer.pad_token_id - 1
    long = text_prompt("the boats left the harbour " * 99, "sea", " the gulls " * 99)
    window = window_of(lm, long, lm.max_length)
    assert len(window.ids) == lm.max_length
    assert len(answer(lm, [window])) == 1
    with pytest.raises(CaptureError, match=f"at most the model's {lm.max_length} positions"):
        window_of(lm, long, lm.max_length + 1)


def test_an_encoder_without_a_head_answers_nothing(encoder_lm):
    lm = encoder_lm("sentence")
    assert not lm.answers
    assert all(encoder_lm(kind).answers for kind in FILLING)
    items = windows_of(lm)
    assert read(lm, items) == [None] * len(items)
    with pytest.raises(ModelError, match="BertModel is an encoder without a head .* take outcome 'any'"):
        answer(lm, items)


def test_the_checkpoint_of_a_pretrained_bert_has_a_head(tmp_path, encoder_folder):
    """Published as BertForPreTraining, with a second head that is not needed."""
    import transformers as hf

    folder = encoder_folder("bert")
    model = hf.BertForPreTraining.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    hf.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    lm = load_lm(tmp_path)
    assert lm.answers
    assert [one.predicted for one in answer(lm, windows_of(lm))] == [
        one.predicted for one in answer(load_lm(folder), windows_of(lm))
    ]


def test_an_encoder_has_no_infill(encoder_folder):
    with pytest.raises(ConfigError, match=r"infill 'auto' for BertForMaskedLM, an encoder, .* got 'none'"):
        load_lm(encoder_folder("bert"), infill="none")


def test_a_tokenizer_without_a_mask_token_is_refused(encoder_lm):
    lm = replace(encoder_lm("bert"), tokenizer=encoder_lm("bert").tokenizer.__class__.from_pretrained(
        encoder_lm("bert").source, mask_token=None
    ))  # fmt: skip
    assert lm.masks is None
    with pytest.raises(ModelError, match="a tokenizer with a mask token for BertForMaskedLM"):
        windows_of(lm)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_knows_where_contexts_and_special_tokens_are(encoder_lm, kind):
    """By the ids alone: special ones at both ends, masks in the middle, contexts on their sides."""
    lm = encoder_lm(kind)
    special = {lm.tokenizer.cls_token_id, lm.tokenizer.sep_token_id}
    before, after = "The old harbour was quiet in the ", " and the boats left the harbour one after another."
    for left, right, length in ((before, after, 64), (before * 9, after * 9, 24), ("", after, 64), (before, None, 64)):
        cut = window_of(lm, text_prompt(left, "morning", right), length)
        mask = lm.tokenizer.mask_token_id
        masks = [place for place, token in enumerate(cut.ids) if token == mask]
        runs = [place for place, token in enumerate(cut.ids) if token in special]
        others = [place for place in range(len(cut.ids)) if place not in {*masks, *runs}]
        assert list(cut.masks) == masks and cut.position == masks[0]
        assert list(cut.prefix) == [place for place in others if place < masks[0]]
        assert list(cut.suffix) == [place for place in others if place > masks[-1]]
        assert [place for run in cut.sentinels for place in run] == runs
    cut = whole_window(lm.backend_tokenizer, before, length=8, masks=lm.masks)
    assert (cut.prefix, cut.suffix, cut.sentinels) == (range(1, 7), range(0), (range(1), range(7, 8)))
