"""Answers of batches against each prompt run alone."""

import math
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers

from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import CaptureError
from apmae.lm.outcome import AskLM, _judged, answer, pad, window_of
from apmae.prompts import fim
from apmae.prompts.draw import build_prompts, draw_prompts, shortfalls, with_outcomes
from apmae.prompts.prompt import Prompt

TEXTS = [
    ("class A {\n    int total = 0;\n    void add(int n) { total += n", ";", " }\n}\n"),
    ("public class Box {\n    private final int size", ";", "\n}\n"),
    ("if (x ", ">", " 0) { return x; }"),
    ("for (int i = 0; i < n; i++", ")", " { sum += i; }"),
    ("return ", "null", ";"),
]


def prompt_of(prefix, completion, suffix, task="random"):
    return Prompt(
        id=prefix[:4],
        task=task,
        language="java",
        path="A.java",
        split="train",
        line=1,
        start=len(prefix),
        prefix=prefix,
        completion=completion,
        suffix=suffix,
    )


@pytest.fixture(scope="module")
def windows(bundled_lm):
    return [window_of(bundled_lm, prompt_of(*text), 64) for text in TEXTS]


@torch.no_grad()
def distribution(lm, window):
    """float64 softmax at the last token of a prompt alone."""
    logits = lm.model(input_ids=torch.tensor([window.ids])).logits[0, -1].double().numpy()
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("keeps_logits", [True, False])
def test_answers_of_a_padded_batch_are_those_of_each_prompt_alone(bundled_lm, windows, keeps_logits):
    lm = replace(bundled_lm)
    lm.__dict__["keeps_logits"] = keeps_logits
    assert len({len(window.ids) for window in windows}) > 1
    answers = answer(lm, windows)
    for window, found in zip(windows, answers, strict=True):
        p = distribution(bundled_lm, window)
        assert found.predicted == bundled_lm.tokenizer.decode([p.argmax()])
        assert found.token_correct == (p.argmax() == window.expected)
        assert found.correct == found.text_correct
        assert found.outcome == ("correct" if found.text_correct else "incorrect")
        assert found.max_probability == pytest.approx(p.max(), abs=1e-5)
        assert found.expected_probability == pytest.approx(p[window.expected], abs=1e-5)
        assert found.entropy == pytest.approx(-sum(x * math.log(x) for x in p if x > 0), abs=1e-4)
    assert len({found.outcome for found in answers}) == 2, "the sample should hold both outcomes"


def test_the_margin_is_that_of_the_two_best(bundled_lm, windows):
    for window, found in zip(windows, answer(bundled_lm, windows), strict=True):
        p = distribution(bundled_lm, window)
        best = np.argsort(p)[::-1]
        assert found.margin == pytest.approx(p[best[0]] - p[best[1]], abs=1e-5)
        assert (found.predicted_id, found.second_id) == tuple(best[:2])
        assert found.expected_id == window.completion[0]


SPANS = [
    ("for (int i = 0; i < n; i", "++", ") {\n"),
    ("public class Box {\n    private final int size", ";\n", "\n}\n"),
    ("return x ", "== null ? 0 : 1;", "\n}\n"),
    ("class A {\n    int total = 0;\n    void add(int n) {\n        total ", "+= n;\n    }", "\n}\n"),
    ("if (", "list.isEmpty()", ") {\n            return null;\n        }\n"),
]


@torch.no_grad()
def greedy(lm, ids, count):
    """What ``generate`` decodes."""
    generated = lm.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=count,
        do_sample=False, eos_token_id=None, pad_token_id=lm.pad_id,
    )  # fmt: skip
    return generated[0, len(ids) :].tolist()


def written_by(lm, item, count):
    """A window whose completion is what the model writes next."""
    ids = tuple(greedy(lm, item.ids, count))
    return replace(item, completion=ids, text=lm.tokenizer.decode(ids))


@torch.no_grad()
def log_probability(lm, ids, span):
    """A float64 loop over tokens, without a cache."""
    total = 0.0
    for at, token in enumerate(span):
        logits = lm.model(input_ids=torch.tensor([[*ids, *span[:at]]])).logits[0, -1].double().numpy()
        total += logits[token] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
    return total


@pytest.mark.parametrize("keeps", ["positions", "the last", "all"])
def test_a_span_is_scored_as_greedy_decoding_would_write_it(bundled_lm, monkeypatch, keeps):
    lm = replace(bundled_lm)
    lm.__dict__["keeps_logits"] = keeps != "all"
    if keeps == "the last":  # as accelerate notes it on a model over two devices
        monkeypatch.setattr(lm.model, "hf_device_map", {"model": 0, "lm_head": 1}, raising=False)
    first = [window_of(lm, prompt_of(*text), 64) for text in SPANS]
    # also spans that the model itself would write, so that half of the cases are exact
    own = [written_by(bundled_lm, item, 7) for item in first]
    items = [*first, *own]
    answers = answer(lm, items, spans=True)
    for item, found in zip(items, answers, strict=True):
        assert found.exact == (greedy(bundled_lm, item.ids, len(item.completion)) == list(item.completion))
        assert found.log_probability == pytest.approx(log_probability(bundled_lm, item.ids, item.completion), abs=1e-4)
        assert not found.exact or found.correct
    assert {found.exact for found in answers} == {True, False}
    alone = answer(lm, items)
    assert {(found.log_probability, found.exact) for found in alone} == {(None, None)}
    for found, other in zip(answers, alone, strict=True):
        assert found.predicted.startswith(other.predicted)
        assert (found.token_correct, found.text_correct) == (other.token_correct, other.text_correct)
        assert found[4:8] == pytest.approx(other[4:8], abs=1e-5)


def test_halves_of_a_batch_that_is_too_large_answer_the_same(bundled_lm, monkeypatch):
    items = [window_of(bundled_lm, prompt_of(*text), 64) for text in SPANS]
    whole = answer(bundled_lm, items, spans=True)
    monkeypatch.setattr("apmae.lm.outcome._MOST_LOGITS", 4096)
    for found, other in zip(answer(bundled_lm, items, spans=True), whole, strict=True):
        assert (found.predicted, found.exact) == (other.predicted, other.exact)
        assert found.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_a_span_without_room_is_not_scored(bundled_lm):
    longest = bundled_lm.max_length
    full = window_of(bundled_lm, prompt_of("int x = 1;\n" * 500, "int y", "z"), longest)
    assert len(full.ids) == longest
    assert len(full.completion) > 1
    wordy = window_of(bundled_lm, prompt_of("int x = 1;", "int y = 2;\n" * 40, "z"), 64)
    one = replace(full, completion=full.completion[:1])
    answers = answer(bundled_lm, [full, wordy, one], spans=True)
    assert [found.exact is None for found in answers] == [True, True, False]
    assert [found.log_probability is None for found in answers] == [True, True, False]
    p = distribution(bundled_lm, full)
    assert answers[0].expected_probability == pytest.approx(p[full.expected], abs=1e-5)


def words(text):
    """Maximal runs of letters, digits and underscores, by a loop."""
    runs, run = [], ""
    for letter in text + " ":
        if letter.isalnum() or letter == "_":
            run += letter
        elif run:
            runs.append(run)
            run = ""
    return runs


def test_an_outcome_is_that_of_the_text_that_greedy_decoding_writes(bundled_lm):
    """Spans of one word or sign: right if the model writes them first, and not as part of a longer word."""
    config = PromptsConfig(per_task=9, tasks=("closing_bracket", "identifier", "numeric_literal", "math_operator"))
    prompts, _ = build_prompts(parse_source("bundled").handles((".java",)), config)
    windows = [window_of(bundled_lm, prompt, 64) for prompt in prompts]
    answers = answer(bundled_lm, windows, spans=True)
    stricter = looser = 0
    for prompt, window, found in zip(prompts, windows, answers, strict=True):
        written = greedy(bundled_lm, window.ids, 8)
        expected = prompt.completion
        # the expected tokens and one more; a word in other tokens is not followed
        alike = len(os.path.commonprefix([written, list(window.completion)]))
        texts = [bundled_lm.tokenizer.decode(written[:count]).lstrip() for count in range(1, alike + 2)]
        text = next((text for text in texts if len(text) >= len(expected)), texts[-1])
        if expected[0].isalnum():
            right = words(text)[:1] == [expected] and text.startswith(expected)
        else:
            right = text.startswith(expected)
        assert found.text_correct == right, (expected, text)
        assert found.token_correct == (written[0] == window.expected)
        assert text.startswith(found.predicted.lstrip()) or found.predicted.lstrip().startswith(text)
        stricter += found.token_correct and not right
        looser += right and not found.token_correct
    assert stricter and looser, "the sample should hold both kinds of difference"


def test_the_rule_that_was_asked_for_decides(bundled_lm):
    strict = replace(bundled_lm, config=bundled_lm.config.model_copy(update={"outcome_rule": "token"}))
    item = window_of(bundled_lm, prompt_of("for (int i = 0; i < n; i", "+", ") {\n"), 64)
    assert greedy(bundled_lm, item.ids, 1) != [item.expected], "the model writes ++"
    (loose,), (paper,) = (answer(lm, [item]) for lm in (bundled_lm, strict))
    assert (loose.correct, paper.correct) == (True, False)
    assert loose._replace(correct=False) == paper


def test_half_a_word_is_judged_by_what_greedy_decoding_makes_of_it(bundled_lm):
    tokenizer = bundled_lm.tokenizer
    prompts, _ = build_prompts(parse_source("bundled").handles((".java",)), PromptsConfig(per_task=9))
    items = [window_of(bundled_lm, prompt, 64) for prompt in prompts if prompt.task == "identifier"]
    item = next(item for item in items if tokenizer.decode(greedy(bundled_lm, item.ids, 1)).isalpha())
    first = greedy(bundled_lm, item.ids, 1)
    begun = tokenizer.decode(first)
    longer = replace(item, completion=(*first, *tokenizer.encode("Zq")), text=f"{begun}Zq")
    (whole,) = answer(bundled_lm, [longer], spans=True)
    assert (whole.text_correct, whole.token_correct) == (False, True)
    assert whole.predicted == tokenizer.decode(greedy(bundled_lm, item.ids, 2))
    (half,) = answer(bundled_lm, [longer])
    assert half.predicted == begun
    assert half.text_correct, "it is right as far as it was read"


def test_an_accepted_completion_of_several_tokens_is_followed_too(bundled_lm):
    tokenizer = bundled_lm.tokenizer
    prompts, _ = build_prompts(parse_source("bundled").handles((".java",)), PromptsConfig(per_task=9))
    items = [window_of(bundled_lm, prompt, 64) for prompt in prompts if prompt.task == "identifier"]
    item = next(item for item in items if tokenizer.decode(greedy(bundled_lm, item.ids, 2)).isalpha())
    written = tuple(greedy(bundled_lm, item.ids, 2))
    other = tuple(tokenizer.encode("\u00e6"))
    wrong = (written[0], *tokenizer.encode("Zq"))
    right = [
        replace(item, completion=other, accepted=(wrong, written)),
        replace(item, completion=other, accepted=(wrong,)),
    ]
    found = answer(bundled_lm, right, spans=True)
    assert [one.text_correct for one in found] == [True, False]
    assert [one.token_correct for one in found] == [True, True]
    assert found[0].predicted == tokenizer.decode(written)


def test_a_blank_that_begins_an_accepted_completion_decides_nothing(bundled_lm):
    blank = next(i for i in range(4096) if bundled_lm.tokenizer.decode([i]) == " ")
    one, two = (tuple(bundled_lm.tokenizer.encode(text)) for text in (" =", "2"))
    item = window_of(bundled_lm, prompt_of("int x", "=", None), 64)
    item = replace(item, completion=one, accepted=((blank, *two),))
    assert _judged(item, [blank, *one], frozenset()) == (" ", False, True)


def test_an_answer_is_compared_as_the_tokenizer_writes_the_completion(bundled_lm):
    """A tokenizer that composes characters, as Qwen's does, writes a letter and its accent as one."""
    composing = Tokenizer.from_str(bundled_lm.backend_tokenizer.to_str())
    composing.normalizer = normalizers.NFC()
    cut = fim.window(composing, "x = ", "cafe\u0301;", None, length=16, sentinels=None)
    predicted, right, first = _judged(cut, list(cut.completion), frozenset())
    assert (right, first) == (True, True)
    assert "caf\u00e9".startswith(predicted.strip().removesuffix(";"))


def test_a_special_token_is_no_text(bundled_lm, monkeypatch):
    item = window_of(bundled_lm, prompt_of("class A {}\n", "<", "\n"), 64)
    end = bundled_lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert end in bundled_lm.special
    head = bundled_lm.model.get_output_embeddings().weight
    with torch.no_grad():
        hidden = bundled_lm.model.model(input_ids=torch.tensor([item.ids])).last_hidden_state[0, -1]
        kept = head[end].clone()
        try:
            head[end] = 100 * hidden / hidden.norm() ** 2  # the end of the text has a logit of 100
            (found,) = answer(bundled_lm, [item])
        finally:
            head[end] = kept
    assert found.predicted == "<|endoftext|>"
    assert (found.text_correct, found.token_correct) == (False, False)


def test_another_completion_that_is_accepted_is_right_too(bundled_lm):
    prompt = prompt_of("for (int i = 0; i < n; i", "-", None)
    (found,) = answer(bundled_lm, [window_of(bundled_lm, prompt, 64)])
    accepting = replace(prompt, accepted=("*", found.predicted))
    (accepted,) = answer(bundled_lm, [window_of(bundled_lm, accepting, 64)])
    assert (found.outcome, accepted.outcome) == ("incorrect", "correct")
    assert found.expected_probability == accepted.expected_probability
    outcomes = [one.outcome for one in with_outcomes(AskLM(bundled_lm), [prompt, accepting] * 9, 64)]
    assert outcomes == ["incorrect", "correct"] * 9


def test_padding_is_on_the_right():
    ids, mask = pad([(5, 6, 7), (8,)], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_window_longer_than_the_model_is_refused(bundled_lm):
    longest = bundled_lm.max_length
    assert len(window_of(bundled_lm, prompt_of("int x = 1;\n" * 500, "y", "z"), longest).ids) == longest
    with pytest.raises(CaptureError, match=f"at most the model's {longest} positions, got {longest + 1}"):
        window_of(bundled_lm, prompt_of("a", "b", "c"), longest + 1)


def test_balanced_prompts_are_half_correct_and_half_incorrect(bundled_lm):
    config = PromptsConfig(per_task=5, tasks=("eol", "identifier", "random"), outcome="balanced", length=64)
    rejected = Counter()
    seen = []
    java = parse_source("bundled").handles((".java",))
    ask = AskLM(bundled_lm)
    prompts, counts = draw_prompts(
        ask, java, config, rejected=rejected, advance=lambda amount=1, note="", total=None: seen.append((amount, total))
    )
    assert Counter((prompt.task, prompt.outcome) for prompt in prompts) == {
        (task, kind): n for task in config.tasks for kind, n in (("correct", 3), ("incorrect", 2))
    }
    asked = sum(counts["candidates"].values())
    assert sum(amount for amount, _ in seen) == asked == seen[-1][1]
    assert all(total >= sum(amount for amount, _ in seen[: at + 1]) for at, (_, total) in enumerate(seen))
    assert counts["prompts"] == {task: {"correct": 3, "incorrect": 2, "unknown": 0} for task in config.tasks}
    assert (
        sum(counts["candidates"].values()) == len(prompts) + rejected["surplus_correct"] + rejected["surplus_incorrect"]
    )
    for outcome in ("correct", "incorrect"):
        kept = sum(prompt.outcome == outcome for prompt in prompts)
        assert sum(own[outcome] for own in counts["outcomes"].values()) == kept + rejected[f"surplus_{outcome}"]
    assert {task: sum(own.values()) for task, own in counts["outcomes"].items()} == counts["candidates"]
    for prompt in prompts:
        window = window_of(bundled_lm, prompt, 64)
        p = distribution(bundled_lm, window)
        assert prompt.answer.outcome == prompt.outcome
        assert prompt.answer.expected_probability == pytest.approx(p[window.expected], abs=1e-5)
        assert prompt.answer.exact == (
            greedy(bundled_lm, window.ids, len(window.completion)) == list(window.completion)
        )
        assert prompt.answer.token_correct == (p.argmax() == window.expected)
    assert shortfalls(prompts, config) == []
