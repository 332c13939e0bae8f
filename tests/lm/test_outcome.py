"""Answers against each prompt run by itself; drawing prompts until the outcomes are balanced."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from apmae import bundled
from apmae.config import PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.errors import CaptureError, SourceError
from apmae.lm.outcome import answer, draw_prompts, pad, shortfalls, window_of, with_outcomes
from apmae.prompts.fim import Window
from apmae.prompts.sampling import Prompt

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
def test_answers_of_a_padded_batch_are_each_prompts_own(bundled_lm, windows, keeps_logits):
    lm = replace(bundled_lm)
    lm.__dict__["keeps_logits"] = keeps_logits
    assert len({len(window.ids) for window in windows}) > 1
    answers = answer(lm, windows)
    for window, found in zip(windows, answers, strict=True):
        p = distribution(bundled_lm, window)
        assert found.predicted == p.argmax()
        assert found.correct == (p.argmax() == window.expected)
        assert found.outcome == ("correct" if p.argmax() == window.expected else "incorrect")
        assert found.max_probability == pytest.approx(p.max(), abs=1e-5)
        assert found.expected_probability == pytest.approx(p[window.expected], abs=1e-5)
        assert found.entropy == pytest.approx(-sum(x * math.log(x) for x in p if x > 0), abs=1e-4)
    assert len({found.outcome for found in answers}) == 2, "the sample should hold both outcomes"


def test_the_expected_token_decides(bundled_lm, windows):
    predicted = answer(bundled_lm, windows[:1])[0].predicted
    right = replace(windows[0], expected=predicted)
    wrong = replace(windows[0], expected=predicted + 1)
    assert [found.correct for found in answer(bundled_lm, [right, wrong])] == [True, False]


def test_another_completion_that_is_accepted_is_right_too(bundled_lm):
    prompt = prompt_of("for (int i = 0; i < n; i", "-", None)
    (found,) = answer(bundled_lm, [window_of(bundled_lm, prompt, 64)])
    likely = bundled_lm.tokenizer.decode([found.predicted])
    accepting = replace(prompt, accepted=("*", likely))
    (accepted,) = answer(bundled_lm, [window_of(bundled_lm, accepting, 64)])
    assert (found.outcome, accepted.outcome) == ("incorrect", "correct")
    assert found.expected_probability == accepted.expected_probability
    outcomes = [one.outcome for one in with_outcomes(bundled_lm, [prompt, accepting] * 9, 64)]
    assert outcomes == ["incorrect", "correct"] * 9


def test_padding_fills_up_on_the_right():
    windows = [Window(ids=ids, tokens=(), expected=0, expected_text="") for ids in ((5, 6, 7), (8,))]
    ids, mask = pad(windows, 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_window_longer_than_the_model_is_refused(bundled_lm):
    longest = bundled_lm.max_length
    assert len(window_of(bundled_lm, prompt_of("int x = 1;\n" * 500, "y", "z"), longest).ids) == longest
    with pytest.raises(CaptureError, match=f"at most the model's {longest} positions, got {longest + 1}"):
        window_of(bundled_lm, prompt_of("a", "b", "c"), longest + 1)


@pytest.fixture(scope="module")
def java():
    return list_sources([bundled.java()], suffixes=(".java",))


TASKS = ("eol", "identifier", "random")


def test_balanced_prompts_are_half_and_half_and_truly_so(bundled_lm, java):
    config = PromptsConfig(per_task=5, tasks=TASKS, outcome="balanced", length=64)
    rejected = Counter()
    seen = []
    prompts, counts = draw_prompts(
        bundled_lm, java, config, rejected=rejected, advance=lambda amount=1, note="", total=None: seen.append(note)
    )
    assert Counter((prompt.task, prompt.outcome) for prompt in prompts) == {
        (task, outcome): n for task in TASKS for outcome, n in (("correct", 3), ("incorrect", 2))
    }
    assert seen == [prompt.task for prompt in prompts]
    assert counts["prompts"] == {task: {"correct": 3, "incorrect": 2, "unknown": 0} for task in TASKS}
    assert (
        sum(counts["candidates"].values()) == len(prompts) + rejected["surplus_correct"] + rejected["surplus_incorrect"]
    )
    for prompt in prompts:
        window = window_of(bundled_lm, prompt, 64)
        p = distribution(bundled_lm, window)
        assert prompt.outcome == ("correct" if p.argmax() == window.expected else "incorrect")
    assert shortfalls(prompts, config) == []


@pytest.mark.parametrize(("outcome", "kinds"), [("correct", {"correct"}), ("any", {"correct", "incorrect"})])
def test_other_quotas(bundled_lm, java, outcome, kinds):
    config = PromptsConfig(per_task=6, tasks=("identifier",), outcome=outcome, length=64)
    prompts, _ = draw_prompts(bundled_lm, java, config, rejected=Counter())
    assert len(prompts) == 6
    assert {prompt.outcome for prompt in prompts} == kinds


def test_the_seed_decides_the_draw(bundled_lm, java):
    def drawn(seed):
        config = PromptsConfig(per_task=3, tasks=("eol",), outcome="balanced", length=64, seed=seed)
        return draw_prompts(bundled_lm, java, config, rejected=Counter())[0]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_what_cannot_be_filled_is_said(bundled_lm, tmp_path):
    (tmp_path / "A.java").write_text("class A {\n    int x = 1;\n}\n")
    config = PromptsConfig(per_task=50, tasks=("eol", "boolean_literal"), outcome="balanced", length=64)
    prompts, _ = draw_prompts(bundled_lm, list_sources([tmp_path], suffixes=(".java",)), config, rejected=Counter())
    lines = shortfalls(prompts, config)
    found = Counter(prompt.outcome for prompt in prompts)
    assert lines == [
        f"eol: {found['correct']} of 25 correct, {found['incorrect']} of 25 incorrect found",
        "boolean_literal: 0 of 25 correct, 0 of 25 incorrect found",
    ]
    loose = config.model_copy(update={"outcome": "any"})
    assert shortfalls(prompts, loose) == [
        f"eol: {len(prompts)} of 50 prompts found",
        "boolean_literal: 0 of 50 prompts found",
    ]


def test_no_prompt_at_all_is_an_error(bundled_lm, tmp_path):
    (tmp_path / "A.java").write_text("class A {}\n")
    config = PromptsConfig(per_task=2, tasks=("boolean_literal",), outcome="balanced", length=64)
    with pytest.raises(SourceError, match="expected prompts from 1 files, found none"):
        draw_prompts(bundled_lm, list_sources([tmp_path], suffixes=(".java",)), config, rejected=Counter())
