"""Drawing with a model that answers by a rule, so that the result is known; ``tests/lm`` draws with a real one."""

import math
import re
from collections import Counter
from dataclasses import replace
from threading import current_thread, main_thread
from time import monotonic, sleep

import pytest
from tokenizers import Tokenizer

from apmae import bundled
from apmae.config import TASKS, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import ConfigError, SourceError
from apmae.prompts.draw import build_prompts, draw_prompts, shortfalls, with_outcomes
from apmae.prompts.fim import window
from apmae.prompts.prompt import Answer, split_of

TOKENIZER = Tokenizer.from_file(str(bundled.language_model() / "tokenizer.json"))
FILES = parse_source("bundled").handles((".java",))


def java(path):
    return parse_source(path).handles((".java",))


class Guesses:
    """Is right if the ids of a window have an even sum; takes a given time per window and per batch, in seconds."""

    tokenizer = TOKENIZER

    def __init__(self, *, window_s=0.0, answer_s=0.0):
        self.window_s, self.answer_s = window_s, answer_s

    def window(self, prompt, length):
        sleep(self.window_s)
        return window(TOKENIZER, prompt.prefix, prompt.completion, prompt.suffix, length=length, sentinels=None)

    def __call__(self, windows):
        sleep(self.answer_s)
        right = [sum(one.ids) % 2 == 0 for one in windows]
        return [Answer("x", yes, yes, yes, 0.5, 0.5, 0.1, 1.0) for yes in right]


# -- without a model ---------------------------------------------------------------------------------------------------


def test_build_prompts_fills_every_task():
    config = PromptsConfig(per_task=12, seed=9)
    prompts, counts = build_prompts(FILES, config, tokenizer=TOKENIZER)
    assert Counter(prompt.task for prompt in prompts) == dict.fromkeys(TASKS, 12)
    assert counts["files"] == len(FILES)
    assert counts["prompts"] == dict.fromkeys(TASKS, {"correct": 0, "incorrect": 0, "unknown": 12})
    assert prompts == build_prompts(FILES, config, tokenizer=TOKENIZER)[0]


def test_shortfalls_name_the_tasks_that_lack_prompts(tmp_path):
    (tmp_path / "A.java").write_text("class A { boolean x = true; }\n")
    _, counts = build_prompts(java(tmp_path), PromptsConfig(per_task=5))
    assert counts["prompts"]["boolean_literal"]["unknown"] == 1
    assert counts["prompts"]["string_literal"]["unknown"] == 0
    assert counts["rejected"]["no_span"] > 0


def test_build_prompts_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ConfigError, match="outcome 'balanced' needs a language model"):
        build_prompts(FILES, PromptsConfig(outcome="balanced"))
    (tmp_path / "A.java").write_text("// nothing\n")
    with pytest.raises(SourceError, match=r"from 1 files, found none \(no_span: 1\)"):
        build_prompts(java(tmp_path), PromptsConfig(tasks=("identifier",)))


# -- with one ----------------------------------------------------------------------------------------------------------


def test_progress_names_the_outcome_that_takes_longest():
    config = PromptsConfig(per_task=40, tasks=("eol",), outcome="balanced")
    seen = []
    draw_prompts(
        Guesses(),
        FILES,
        config,
        rejected=Counter(),
        advance=lambda amount=1, note="", total=None: seen.append((amount, note, total)),
    )
    asked = 0
    for amount, note, total in seen:
        asked += amount
        words = re.fullmatch(r"eol: (\d+) of 20 (correct|incorrect), (\d+) asked", note)
        if words is None:
            assert note == "all found" and total == asked
        else:  # as many more as it takes at this rate, of the rarer outcome
            assert int(words[3]) == asked
            assert total == asked + math.ceil((20 - int(words[1])) * (asked + 1) / (int(words[1]) + 0.5))
    assert seen[-1][1] == "all found"
    assert any("of 20" in note for _, note, _ in seen)


def test_outcomes_are_those_of_each_prompts_own_window():
    prompts, _ = build_prompts(FILES, PromptsConfig(per_task=19, tasks=("eol",)))
    seen = []
    asked = with_outcomes(Guesses(), prompts, 64, advance=lambda amount=1, note="", total=None: seen.append(note))
    for prompt, found in zip(prompts, asked, strict=True):
        (answer,) = Guesses()([Guesses().window(prompt, 64)])
        assert found == replace(prompt, outcome=answer.outcome, answer=answer)
    assert {found.outcome for found in asked} == {"correct", "incorrect"}
    assert seen == ["eol"] * 2, "once per batch"


@pytest.mark.parametrize(("wanted", "kinds"), [("correct", {"correct"}), ("any", {"correct", "incorrect"})])
def test_quotas_of_other_outcomes(wanted, kinds):
    config = PromptsConfig(per_task=6, tasks=("identifier",), outcome=wanted, length=64)
    prompts, _ = draw_prompts(Guesses(), FILES, config, rejected=Counter())
    assert len(prompts) == 6
    assert {prompt.outcome for prompt in prompts} == kinds


def test_the_seed_decides_the_draw():
    def drawn(seed):
        config = PromptsConfig(per_task=3, tasks=("eol",), outcome="balanced", length=64, seed=seed)
        return draw_prompts(Guesses(), FILES, config, rejected=Counter())[0]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_slow_builder_or_a_slow_model_draws_the_same():
    """The next batch is built while the model answers; the result does not depend on which is faster."""
    config = PromptsConfig(per_task=4, tasks=("eol", "identifier", "random"), outcome="balanced", length=64)
    draws = []
    for ask in (Guesses(), Guesses(window_s=0.01), Guesses(answer_s=0.2)):
        rejected = Counter()
        draws.append((*draw_prompts(ask, FILES, config, rejected=rejected), rejected))
    assert draws[0] == draws[1] == draws[2]


def test_windows_are_built_while_the_model_answers():
    config = PromptsConfig(per_task=8, tasks=("eol", "identifier", "random"), outcome="balanced", length=64)
    threads, ahead = set(), []

    class Watched(Guesses):
        built = 0

        def window(self, prompt, length):
            threads.add(current_thread() is main_thread())
            self.built += 1
            return super().window(prompt, length)

        def __call__(self, windows):
            ahead.append(self.built)
            deadline = monotonic() + 20
            while self.built == ahead[-1] and len(ahead) == 1 and monotonic() < deadline:
                sleep(0.001)
            assert len(ahead) > 1 or self.built > ahead[-1], "the next batch waits for the answers"
            return super().__call__(windows)

    draw_prompts(Watched(), FILES, config, rejected=Counter())
    assert threads == {False}


def test_an_error_while_building_is_raised(tmp_path):
    (tmp_path / "A.java").write_bytes(b"\xff\xfe")
    config = PromptsConfig(per_task=2, tasks=("eol",), outcome="any", length=64)
    with pytest.raises(SourceError, match="expected UTF-8"):
        draw_prompts(Guesses(), java(tmp_path / "A.java"), config, rejected=Counter())


def test_a_model_that_fails_does_not_wait_for_all_files(tmp_path, monkeypatch):
    """The next batch may be far away, here after files that have no span of the task."""
    (tmp_path / "plenty").mkdir()
    for number in range(20):
        (tmp_path / "plenty" / f"A{number}.java").write_text(f"class A{number} {{ int x = {number}; }}\n")
    (tmp_path / "none").mkdir()
    for number in range(400):
        (tmp_path / "none" / f"B{number}.java").write_text(f"class B{number} {{ }}\n")
    plenty, none = (java(tmp_path / name) for name in ("plenty", "none"))
    monkeypatch.setattr("apmae.prompts.sampling.in_order", lambda files, seed: files)
    read = []
    noted = [replace(handle, _open=lambda handle=handle: read.append(1) or handle._open()) for handle in none]

    class Failing(Guesses):
        def __call__(self, windows):
            while len(read) < 30:  # the builder is among them
                sleep(0.01)
            raise MemoryError("no memory")

    config = PromptsConfig(per_task=20, tasks=("numeric_literal",), outcome="any", length=64, similar=1)
    with pytest.raises(MemoryError, match="no memory"):
        draw_prompts(Failing(), [*plenty, *noted], config, rejected=Counter())
    assert len(read) < 200


def test_tasks_that_cannot_be_filled_are_named(tmp_path):
    (tmp_path / "A.java").write_text("class A {\n    int x = 1;\n}\n")
    config = PromptsConfig(per_task=50, tasks=("eol", "boolean_literal"), outcome="balanced", length=64)
    prompts, _ = draw_prompts(Guesses(), java(tmp_path), config, rejected=Counter())
    lines = shortfalls(prompts, config)
    found = Counter(prompt.outcome for prompt in prompts)
    assert lines == [
        f"eol: {found['correct']} of 25 correct, {found['incorrect']} of 25 incorrect found",
        "boolean_literal: 0 of 25 correct, 0 of 25 incorrect found",
    ]
    strict = config.model_copy(update={"outcome": "correct"})
    assert shortfalls([], strict)[0] == "eol: 0 of 50 correct prompts found"
    loose = config.model_copy(update={"outcome": "any"})
    assert shortfalls(prompts, loose) == [
        f"eol: {len(prompts)} of 50 prompts found",
        "boolean_literal: 0 of 50 prompts found",
    ]


def test_no_prompt_at_all_is_an_error(tmp_path):
    (tmp_path / "A.java").write_text("class A {}\n")
    config = PromptsConfig(per_task=2, tasks=("boolean_literal",), outcome="balanced", length=64)
    with pytest.raises(SourceError, match=r"from 1 files, found none \(no_span: 1\).*outcome to 'any'"):
        draw_prompts(Guesses(), java(tmp_path), config, rejected=Counter())
    loose = config.model_copy(update={"outcome": "any", "split": "train"})
    (handle,) = java(tmp_path)
    others = [replace(handle, path=f"a/{n}.java") for n in range(9) if split_of(f"a/{n}.java") == "atlas"]
    with pytest.raises(SourceError, match=r"found none \(none in this split\); give other source files$"):
        draw_prompts(Guesses(), others, loose, rejected=Counter())
