"""Patterns of the bundled language model during training: mixed, each from its prompt, the same after any restart."""

import gc
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from command_line import kill_once

from apmae.config import CaptureConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import ConfigError, TrainingError
from apmae.lm.outcome import window_of
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import build_prompts
from apmae.prompts.epochs import DrawnPrompts
from apmae.prompts.prompt import continues
from apmae.train import checkpoint, forwards, lm_source
from apmae.train.lm_source import LMSource
from apmae.train.loop import METRICS
from apmae.train.source import ResumableSource

LENGTH = 48
PER_PROMPT = 12  # a quarter of 8 heads in 6 layers


@pytest.fixture(scope="module")
def prompts():
    found, _ = build_prompts(
        parse_source("bundled").handles((".java",)), PromptsConfig(per_task=60, tasks=("random",), length=LENGTH)
    )
    return [replace(p, prefix=p.prefix[-40:], suffix=p.suffix[:30]) if i % 3 else p for i, p in enumerate(found)]


@pytest.fixture
def make(bundled_lm, prompts):
    """Sources that are closed after the test."""
    opened = []

    def made(count=60, **changes):
        capture = {key: changes.pop(key) for key in CaptureConfig.model_fields if key in changes}
        settings = {"size": LENGTH, "batch_size": 24, "seed": 1, "buffer": 480, "outcome": "any"}
        source = LMSource(
            bundled_lm,
            changes.pop("prompts", prompts[:count]),
            CaptureConfig(**{"heads": 0.25, **capture}),
            **{**settings, **changes},
        )
        opened.append(source)
        return source

    yield made
    for source in opened:
        source.close()


def places(patterns):
    return list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))


def equal(a, b):
    return places(a) == places(b) and torch.equal(a.log_patches, b.log_patches)


def by_number(source, forwards):
    """The prompts of the first forwards by the numbers that their patterns carry."""
    batches = [source._forwards[number] for number in range(forwards)]
    return {batch.first + i: prompt for batch in batches for i, prompt in enumerate(batch.prompts)}


# -- what a batch holds ------------------------------------------------------------------------------------------------


def test_a_batch_holds_patterns_of_many_prompts_and_all_layers(make, bundled_lm):
    """If batches were filled prompt by prompt, as in the published loop, 48 patterns would be of 4 or 5 prompts."""
    source = make(batch_size=48)
    for step in range(12):
        batch = source.batch(step)
        assert len(batch) == 48
        assert len(set(batch.prompt.tolist())) >= 20, "of 32 or more in the buffer"
        assert set(batch.layer.tolist()) == set(range(bundled_lm.num_layers))
        assert len(set(batch.head.tolist())) >= 6


def test_each_pattern_is_that_of_its_prompt_and_head(make, bundled_lm):
    """Compared with transformers' eager attention, one prompt at a time."""
    source = make()
    batches = Patterns.concatenate([source.batch(step) for step in range(6)])
    assert batches.log_patches.dtype == torch.float16
    prompts = by_number(source, source._taken)
    model = bundled_lm.model
    for number in sorted(set(batches.prompt.tolist()))[::5]:
        ids = torch.tensor([window_of(bundled_lm, prompts[number], LENGTH).ids])
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                attentions = model(input_ids=ids, output_attentions=True).attentions
        finally:
            model.set_attn_implementation(before)
        own = batches[batches.prompt == number]
        tokens = ids.shape[1]
        for pattern, layer, head in zip(own.probabilities(), own.layer, own.head, strict=True):
            expected = attentions[layer][0, head].numpy()
            np.testing.assert_allclose(pattern[:tokens, :tokens], expected, atol=2e-3)
            assert not pattern[tokens:].any()


def test_no_pattern_comes_twice_and_none_is_lost(make, bundled_lm):
    source = make(batch_size=20)
    seen = [place for step in range(60) for place in places(source.batch(step))]
    left = places(source._buffer.draw(len(source._buffer), np.random.default_rng(0)))
    assert source.counts()["epoch"] > 1, "the prompts should have begun again"
    assert max(Counter(seen + left).values()) == 1
    asked = source.counts()["asked"]
    assert len(seen + left) == asked * PER_PROMPT
    by_layer = Counter((prompt, layer) for prompt, layer, _ in seen + left)
    assert set(by_layer.values()) == {2}, "a quarter of the heads of every layer"
    assert len(by_layer) == asked * bundled_lm.num_layers


def test_pairs_are_of_one_head_on_two_prompts(make):
    """As guided training needs; half of them would not be, if pairs were drawn by chance."""
    source = make(pairs=True, heads="all")
    seen = []
    for step in range(4):
        batch = places(source.batch(step))
        for one, two in zip(batch[::2], batch[1::2], strict=True):
            assert one[1:] == two[1:] and one[0] != two[0]
        seen += batch
    assert len(set(seen)) == len(seen), "each is drawn once"


def test_heads_are_redrawn_for_every_prompt_and_epoch(make):
    source = make(count=4, buffer=480)
    source.batch(0)
    drawn = {}
    origins = source._buffer._origins[: len(source._buffer)]
    for prompt, layer, head in origins[:, 2:].tolist():
        drawn.setdefault(prompt, []).append((layer, head))
    heads = [tuple(sorted(found)) for found in drawn.values()]
    assert len(heads) > 30 and len(set(heads)) == len(heads)


def test_windows_longer_than_a_pattern_are_pooled_or_cropped(make, prompts):
    for long in ("pool", "crop"):
        batch = make(size=32, context=LENGTH, long=long).batch(0)
        assert (batch.size, batch.reach) == (32, long)
        sums = batch.probabilities().sum(-1)
        filled = sums > 0.5
        np.testing.assert_allclose(sums[filled], 1, atol=5e-3)
        assert filled.mean() > 0.8
    assert make().batch(0).reach == "whole"


# -- epochs and forwards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "width"), [(1, 8), (7, 3), (60, 8), (60, 1), (41, 2)])
def test_every_prompt_comes_once_per_epoch_in_a_new_order(make, prompts, count, width, monkeypatch):
    monkeypatch.setattr(forwards, "SORTED", 4)
    source = make(count=count, batch=width)
    row, orders, number = source._forwards, [], 0
    for epoch in range(3):
        batches = []
        while row.seek(number).epoch == epoch:
            batches.append(row[number])
            number += 1
        assert max(len(batch.prompts) for batch in batches) <= width
        ids = [prompt.id for batch in batches for prompt in batch.prompts]
        assert sorted(ids) == sorted(prompt.id for prompt in prompts[:count])
        orders.append(tuple(ids))
        numbers = [batch.first + i for batch in batches for i in range(len(batch.prompts))]
        assert sorted(numbers) == list(range(epoch * count, (epoch + 1) * count))
    assert len(set(orders)) == (3 if count > 5 else 1)
    again = make(count=count, batch=width)._forwards[0]
    assert [prompt.id for prompt in again.prompts] == [prompt.id for prompt in row[0].prompts]


def test_prompts_of_a_forward_are_about_equally_long(make, bundled_lm, prompts):
    def run(parts):
        return sum(max(map(len, part)) * len(part) for part in parts) / sum(len(ids) for part in parts for ids in part)

    windows = [window_of(bundled_lm, prompt, LENGTH).ids for prompt in prompts]
    as_drawn = run([windows[start : start + 8] for start in range(0, len(windows), 8)])
    row = make()._forwards
    ours = run([[window.ids for window in row[i].windows] for i in range(8)])  # 60 prompts, 8 per forward
    assert as_drawn > 1.3 and ours < 1.06


def test_epochs_are_counted(make):
    source = make(count=20, batch_size=60)
    for step in range(20):
        source.batch(step)
        counts = source.counts()
        assert counts["epoch"] == -(-counts["asked"] // 20)
    assert counts["epoch"] >= 5


# -- the same whatever happens -----------------------------------------------------------------------------------------


def test_a_thread_changes_nothing(make):
    with make(overlap=True) as source:
        batches = [source.batch(step) for step in range(20)]
        counts = source.counts()
    alone = make(overlap=False)
    assert all(equal(alone.batch(step), batch) for step, batch in enumerate(batches))
    assert alone.counts() == counts
    assert not equal(make(seed=2).batch(0), batches[0])


@pytest.mark.parametrize("outcome", ["any", "correct"])
def test_a_source_resumes_from_its_state(make, outcome):
    """With and without a thread."""
    source = make(outcome=outcome)
    assert isinstance(source, ResumableSource)
    states, batches = [source.state()], []
    last = 23
    for step in range(last + 1):
        batches.append(source.batch(step))
        states.append(source.state())
    assert source.counts()["epoch"] > 1
    for begin, overlap in product((0, 17, last), (False, True)):
        with make(outcome=outcome, overlap=overlap) as other:
            if begin == 17:
                other.batch(0)  # so that another forward is running
            other.restore(states[begin])
            for step in range(begin, min(begin + 3, last + 1)):
                assert equal(other.batch(step), batches[step])
            if begin == last:
                assert other.counts() == source.counts()


@pytest.fixture
def drawn(bundled_lm):
    """Prompts drawn from source files, in short epochs."""

    def made(redraw=True):
        files = parse_source("bundled").handles((".java",))
        config = PromptsConfig(per_task=30, tasks=("random",), length=LENGTH)
        return DrawnPrompts(files, config, tokenizer=bundled_lm.backend_tokenizer, redraw=redraw)

    return made


@pytest.mark.parametrize(
    ("overlap", "redraw"),
    [
        (False, False),
        *(pytest.param(overlap, redraw, marks=pytest.mark.slow) for overlap, redraw in ((False, True), (True, True))),
    ],
)
@pytest.mark.slow
def test_a_source_of_drawn_prompts_resumes_from_its_state(make, drawn, overlap, redraw, monkeypatch):
    """At steps throughout several epochs, also where an epoch begins or ends."""
    monkeypatch.setattr(forwards, "SORTED", 2)
    source = make(prompts=drawn(redraw), outcome="correct", batch=3)
    states, batches, last = [source.state()], [], 20
    for step in range(last):
        batches.append(source.batch(step))
        states.append(source.state())
    assert source.counts()["epoch"] > 3
    for begin in range(0, last, 6):
        with make(prompts=drawn(redraw), outcome="correct", batch=3, overlap=overlap) as other:
            other.restore(states[begin])
            for step in range(begin, min(begin + 2, last)):
                assert equal(other.batch(step), batches[step])
                ours, theirs = other.state(), states[step + 1]
                assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_drawn_prompts_are_those_of_the_epochs_in_their_order(make, drawn, monkeypatch):
    """Stretches hold the prompts in their order; within a stretch they are sorted by length."""
    monkeypatch.setattr(forwards, "SORTED", 2)
    source = make(prompts=drawn(), batch=3)
    row, number = source._forwards, 0
    for epoch in range(3):
        seen = []
        while row.seek(number).epoch == epoch:
            seen.append(row[number].prompts)
            number += 1
        expected = [prompt.id for prompt in drawn().epoch(epoch)]
        assert len(expected) == 30 and len(seen) == 10
        for begin in range(0, 30, 6):
            own = [prompt.id for prompts in seen[begin // 3 : begin // 3 + 2] for prompt in prompts]
            assert sorted(own) == sorted(expected[begin : begin + 6])


@pytest.mark.parametrize("kind", [pytest.param("listed", marks=pytest.mark.slow), "drawn"])
def test_what_was_answered_incorrectly_is_not_read_again(make, drawn, prompts, bundled_lm, kind):
    """From the second epoch on every prompt is right, and all that were are there."""
    source = make(prompts=drawn(redraw=False) if kind == "drawn" else prompts[:30], outcome="correct", batch_size=60)
    for step in range(12):
        source.batch(step)
    row, number, epochs = source._forwards, 0, {}
    while (stretch := row.seek(number)).epoch < 3:
        epochs.setdefault(stretch.epoch, []).extend(row[number].prompts)
        number += 1
    right = right_ids(epochs[0], bundled_lm)
    assert len(epochs[0]) == 30 and 0 < len(right) < 30
    for epoch in (1, 2):
        assert sorted(prompt.id for prompt in epochs[epoch]) == sorted(right)
    counts = source.counts()
    assert counts["asked"] - counts["correct"] == 30 - len(right)


def test_prompts_that_are_redrawn_are_not_remembered(make, drawn):
    source = make(prompts=drawn(), outcome="correct", batch_size=60)
    for step in range(4):
        source.batch(step)
    assert source.counts()["epoch"] > 1 and len(source.state()["left_out"]) == 0


def test_a_resumed_source_draws_again_only_the_epochs_that_it_needs(make, drawn, monkeypatch, capsys):
    monkeypatch.setattr(forwards, "SORTED", 2)
    source = make(prompts=drawn(), buffer=120)
    for step in range(60):
        source.batch(step)
    state = source.state()
    assert source.counts()["epoch"] > 3
    oldest = state["epochs"][:, 0].min()
    assert oldest >= source.counts()["epoch"] - 3
    asked, prompts = [], drawn()
    monkeypatch.setattr(prompts, "epoch", lambda number, own=prompts.epoch: asked.append(number) or own(number))
    with make(prompts=prompts, buffer=120) as other:
        other.restore(state)
        assert equal(other.batch(60), source.batch(60))
        assert min(asked) == oldest
    assert "draw prompts again" in capsys.readouterr().err


def test_drawn_prompts_that_are_never_right_stop_with_the_count(make, tmp_path, bundled_lm, monkeypatch):
    monkeypatch.setattr(lm_source, "_PATIENCE", 40)
    (tmp_path / "A.java").write_text("class A { // " + "\u6c38\u9060" * 200 + "\n}\n")
    files = parse_source(str(tmp_path)).handles((".java",))
    config = PromptsConfig(per_task=30, tasks=("random",), length=LENGTH)
    prompts = DrawnPrompts(files, config, tokenizer=bundled_lm.backend_tokenizer)
    with make(prompts=prompts, outcome="correct") as source:
        source._outcome = "correct"
        monkeypatch.setattr(source, "_run", wrong(source._run))
        with pytest.raises(TrainingError, match=r"got none among the last 4\d \(0 of 4\d in all\)"):
            source.batch(0)


def wrong(run):
    """Forwards whose answers are all wrong."""

    def ran(number):
        found = run(number)
        answers = [said._replace(correct=False) for said in found.captured.answers]
        return found._replace(captured=replace(found.captured, answers=answers))

    return ran


def test_if_filling_the_buffer_takes_long_its_progress_is_shown(make, monkeypatch, capsys):
    monkeypatch.setattr(lm_source, "_QUIET", 0.0)
    make(watched=True, outcome="correct").batch(0)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"fill the buffer: \d+/480 patterns, \d+ of 8 prompts answered correctly", lines[0])
    assert len(lines) > 3
    make().batch(0)
    assert capsys.readouterr().err == ""


def test_the_state_is_small(make):
    source = make()
    source.batch(0)
    state = source.state()
    assert sum(array.nbytes for array in state.values()) < source._buffer.nbytes / 100


def test_steps_must_be_asked_for_in_order(make):
    source = make()
    source.batch(0)
    for step in (0, 2):
        with pytest.raises(TrainingError, match=f"expected step 1 of the stream, got {step}; restore"):
            source.batch(step)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_patterns_are_held_in_the_buffer_and_nowhere_else(make):
    """All float16 tensors here are patterns: those of the buffer, of one forward, and of the batch asked for."""
    before = held()
    source = make(overlap=True)
    forward, batch = 8 * PER_PROMPT, 24
    for step in range(40):
        patterns = source.batch(step)
        assert len(patterns) == batch
        each = source._buffer.nbytes / source._buffer.capacity
        if step % 20 == 0:
            assert held() - before <= (source._buffer.capacity + forward + batch) * each
    assert len(source._buffer) <= source._buffer.capacity == 480


def held():
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.dtype == torch.float16]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_a_small_buffer_takes_fewer_prompts_per_forward(make):
    source = make(buffer=24 + 3 * PER_PROMPT)
    source.batch(0)
    assert max(len(source._forwards[i].prompts) for i in range(3)) == 3
    least = 24 + PER_PROMPT
    assert len(make(buffer=least).batch(0)) == 24
    with pytest.raises(ConfigError, match=f"expected a buffer of at least {least} patterns, .* got {least - 1}; set b"):
        make(buffer=least - 1)


# -- correct prompts only ----------------------------------------------------------------------------------------------


def test_only_patterns_of_correct_prompts_are_drawn(make, bundled_lm):
    source = make(outcome="correct")
    seen = {prompt for step in range(12) for prompt in source.batch(step).prompt.tolist()}
    right = set()
    for number, prompt in by_number(source, source._taken).items():
        window = window_of(bundled_lm, prompt, LENGTH)
        with torch.no_grad():
            logits = bundled_lm.model(input_ids=torch.tensor([window.ids])).logits[0, -1]
        if is_right(int(logits.argmax()), window, bundled_lm):
            right.add(number)
    counts = source.counts()
    assert counts["asked"] == len(by_number(source, source._taken))
    assert 0 < counts["correct"] == len(right) < counts["asked"]
    left = set(source._buffer.draw(len(source._buffer), np.random.default_rng(0)).prompt.tolist())
    assert seen | left == right


def test_prompts_known_to_be_incorrect_are_not_even_asked(make, prompts):
    marked = [replace(p, outcome=(None, "incorrect", "correct")[i % 3]) for i, p in enumerate(prompts)]
    assert make(prompts=marked, outcome="correct").prompts.size == 40
    assert make(prompts=marked).prompts.size == 60
    with pytest.raises(TrainingError, match="answers correctly, got 0 of 20; draw some with .* or set outcome to any"):
        make(prompts=marked[1::3], outcome="correct")


@pytest.mark.parametrize("overlap", [False, True])
def test_a_model_that_never_answers_correctly_stops_with_the_count(make, prompts, overlap):
    hopeless = [replace(prompt, completion="\u6c38\u9060") for prompt in prompts[:20]]
    said = r"expected prompts that the language model answers correctly, got 0 of 20; draw some"
    with make(prompts=hopeless, outcome="correct", overlap=overlap) as source, pytest.raises(TrainingError, match=said):
        source.batch(0)
    assert len(make(prompts=hopeless).batch(0)) == 24, "with any outcome they are used"


def test_one_correct_prompt_is_enough(make, prompts, bundled_lm):
    source = make(outcome="correct")
    source.batch(0)
    right = right_ids(prompts, bundled_lm)
    one = next(p for p in by_number(source, source._taken).values() if p.id in right)
    mixed = [one, *(replace(prompt, completion="\u6c38\u9060") for prompt in prompts[:30] if prompt.id != one.id)]
    few = make(prompts=mixed, outcome="correct", batch_size=12, buffer=120)
    for step in range(4):
        assert len(few.batch(step)) == 12


def is_right(token, window, lm):
    return token == window.expected or (
        token not in lm.special and continues(lm.tokenizer.decode([token]), window.text)
    )


def right_ids(prompts, lm):
    found = set()
    for prompt in prompts[:30]:
        window = window_of(lm, prompt, LENGTH)
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([window.ids])).logits[0, -1]
            if is_right(int(logits.argmax()), window, lm):
                found.add(prompt.id)
    return found


def test_no_prompts(make):
    with pytest.raises(ConfigError, match="expected prompts to train on, got none"):
        make(prompts=[])


# -- a kill ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
from apmae.config import CaptureConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.lm.load import load_lm
from apmae.prompts.epochs import DrawnPrompts
from apmae.recipes import train_recipe
from apmae.train.lm_source import LMSource
from apmae.train.loop import fit

folder, hang, overlap = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "overlap"
config = train_recipe("debug").model_copy(update={"crop": 0.2})
files = parse_source("bundled").handles((".java",))
lm = load_lm()
prompts = DrawnPrompts(files, PromptsConfig(per_task=12, tasks=("random",), length=64), tokenizer=lm.backend_tokenizer)
if sys.argv[4] == "listed":
    prompts = list(prompts.epoch(0))

class Hanging(LMSource):
    def batch(self, step):
        if step == hang:
            (folder / "hanging").touch()
            time.sleep(600)
        return super().batch(step)

settings = {"size": 64, "batch_size": config.batch_size, "seed": 0, "buffer": 120}
with Hanging(lm, prompts, CaptureConfig(heads=0.25), overlap=overlap, **settings) as source:
    fit(config, source, folder=folder).save_pretrained(folder / "encoder")
"""


@pytest.mark.parametrize("kind", [pytest.param("listed", marks=pytest.mark.slow), "drawn"])
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(tmp_path, command_line, kind):
    """SIGKILL at step 13 of 20, checkpoints at 5 and 10; then again, this time without a thread."""

    def start(name, hang, overlap):
        return command_line.start(tmp_path / name, hang, overlap, kind, code=CHILD)

    undisturbed = start("undisturbed", -1, "overlap")
    kill_once(start("killed", 13, "overlap"), (tmp_path / "killed" / "hanging").exists)
    lines = [json.loads(line) for line in (tmp_path / "killed" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines))) and 10 < len(lines) < 20, (
        "it was killed between checkpoints"
    )
    assert lines[-1]["epoch"] > 1 and 0 < lines[-1]["correct"] < lines[-1]["asked"]
    for run in (undisturbed, start("killed", -1, "one")):
        finished = run.finish()
        assert finished.returncode == 0, finished.stderr
    for name in ("encoder/model.safetensors", METRICS, checkpoint.NAME):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
