"""The stream of prompts: batches, numbers and draws that do not depend on where a run was cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from apmae.config import CaptureConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.lm.outcome import window_of
from apmae.lm.stream import capture_prompts
from apmae.lm.tap import capture
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import build_prompts


@pytest.fixture(scope="module")
def prompts():
    config = PromptsConfig(per_task=4, tasks=("eol", "identifier"), length=64)
    found, _ = build_prompts(parse_source("bundled").handles((".java",)), config)
    return [prompt if i % 2 else shortened(prompt) for i, prompt in enumerate(found)]


def shortened(prompt):
    return replace(prompt, prefix=prompt.prefix[-30:], suffix="")


def whole(lm, prompts, *, heads="all", batch=8, **keywords):
    captured = list(capture_prompts(lm, prompts, CaptureConfig(heads=heads, batch=batch), size=64, **keywords))
    return captured, Patterns.concatenate([item.patterns for item in captured])


def rows(patterns):
    return list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))


def test_patterns_of_a_batch_are_those_of_each_prompt_alone(bundled_lm, prompts):
    captured, patterns = whole(bundled_lm, prompts, batch=3, dtype=torch.float32)
    assert [len(item.prompts) for item in captured] == [3, 3, 2]
    heads = bundled_lm.num_layers * bundled_lm.num_heads
    assert len(patterns) == len(prompts) * heads
    sizes = set()
    for number, prompt in enumerate(prompts):
        window = window_of(bundled_lm, prompt, 64)
        assert captured[number // 3].windows[number % 3] == window
        with torch.no_grad(), capture(bundled_lm.model) as tap:
            bundled_lm.model(input_ids=torch.tensor([window.ids]))
        own = patterns[patterns.prompt == number].scaled()
        size = len(window.ids)
        sizes.add(size)
        assert np.abs(own[:, :size, :size] - tap.patterns.scaled()).max() < 1e-5
        assert not own[:, size:].any()
    assert len(sizes) > 1, "the prompts should differ in length"


def test_the_default_is_half_precision(bundled_lm, prompts):
    _, exact = whole(bundled_lm, prompts, batch=4, dtype=torch.float32)
    _, half = whole(bundled_lm, prompts, batch=4)
    assert half.log_patches.dtype == torch.float16
    assert torch.equal(half.log_patches, exact.log_patches.half())


def test_answers_come_from_the_same_forward(bundled_lm, prompts):
    captured, _ = whole(bundled_lm, prompts, batch=5)
    for item in captured:
        assert len(item.answers) == len(item.prompts) == len(item.windows)
        for window, found in zip(item.windows, item.answers, strict=True):
            with torch.no_grad():
                logits = bundled_lm.model(input_ids=torch.tensor([window.ids])).logits[0, -1]
            assert found.predicted == bundled_lm.tokenizer.decode([int(logits.argmax())])


def test_a_resumed_run_draws_what_it_would_have_drawn(bundled_lm, prompts):
    settings = {"batch": 2, "heads": 0.25, "seed": 5}
    _, all_at_once = whole(bundled_lm, prompts, **settings)
    _, rest = whole(bundled_lm, prompts[4:], first=4, **settings)
    expected = all_at_once[all_at_once.prompt >= 4]
    assert rows(rest) == rows(expected)
    assert torch.equal(rest.resized(expected.size).log_patches, expected.log_patches)
    _, numbered_wrong = whole(bundled_lm, prompts[4:], first=0, **settings)
    assert [row[1:] for row in rows(numbered_wrong)] != [row[1:] for row in rows(expected)]


def test_no_prompts(bundled_lm):
    assert list(capture_prompts(bundled_lm, [], CaptureConfig(), size=64)) == []
