"""The loop: the optimizer by hand, what stops training, and kills that leave no trace in the weights."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from command_line import kill_once
from hypothesis import given
from hypothesis import strategies as st

import apmae
from apmae.config import TrainConfig
from apmae.errors import ArtifactError, CaptureError, ConfigError, TrainingError
from apmae.model.blocks import MLP
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.patterns.scaling import SCALINGS
from apmae.recipes import train_recipe
from apmae.train import checkpoint, loop
from apmae.train.batch import cropped, step_masking
from apmae.train.loop import METRICS, fit, learning_rate
from apmae.train.source import ArraySource


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@given(st.integers(1, 50), st.integers(0, 20), st.integers(1, 500))
def test_warm_up_then_cosine_to_zero(steps, warmup, batch_size):
    config = TrainConfig(steps=steps, warmup_steps=warmup, batch_size=batch_size, base_lr=1e-3)
    rates = [learning_rate(config, step) for step in range(steps + 1)]
    peak = 1e-3 * batch_size / 50
    for step in range(min(warmup, steps)):
        assert rates[step] == pytest.approx(peak * (step + 1) / warmup)
    for step in range(warmup, steps + 1):
        assert rates[step] == pytest.approx(
            peak * math.cos(math.pi / 2 * (step - warmup) / max(steps - warmup, 1)) ** 2
        )
    assert max(rates) <= peak * (1 + 1e-9)
    if warmup < steps:
        assert rates[steps] == pytest.approx(0, abs=1e-12)


def test_paper_settings():
    config = TrainConfig()
    assert config.lr == pytest.approx(1.44e-3)
    assert (config.batch_size, config.steps, config.betas, config.weight_decay) == (480, 150_000, (0.9, 0.95), 0.05)
    assert config.clip_norm is None
    assert config.warmup_steps == 0


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_the_optimizer_is_adamw_by_hand(tiny_train, small_patterns, clip_norm):
    """Three steps of float64 AdamW (Loshchilov and Hutter 2019, algorithm 2), decay on matrices alone."""
    config = tiny_train(steps=3, clip_norm=clip_norm)
    source = ArraySource(small_patterns, config.batch_size, config.seed)
    trained = fit(config, source)

    model = APMAE(config.model, seed=config.seed)
    expected = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    first = {name: np.zeros_like(value) for name, value in expected.items()}
    second = {name: np.zeros_like(value) for name, value in expected.items()}
    for step in range(3):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(expected[name]))
        model.zero_grad()
        model(model.scale(source.batch(step)), step_masking(config, 10, step)).loss.backward()
        gradients = {name: p.grad.double().numpy() for name, p in model.named_parameters()}
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        shrink = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
        assert clip_norm is None or shrink < 1, "the bound should bite"
        rate = learning_rate(config, step)
        for name, value in expected.items():
            g = gradients[name] * shrink
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            if value.ndim == 2:
                value *= 1 - rate * 0.05
            corrected = second[name] / (1 - 0.95 ** (step + 1))
            value -= rate * first[name] / (1 - 0.9 ** (step + 1)) / (np.sqrt(corrected) + 1e-8)
    for name, parameter in trained.named_parameters():
        moved = np.abs(parameter.detach().numpy() - expected[name])
        # where a gradient is almost zero, Adam turns the rounding of float32 into a step
        assert np.quantile(moved, 0.95) < 2e-5, name
    assert not trained.training


def test_masks_are_redrawn_every_step_from_the_seed(tiny_train):
    config = tiny_train()
    a, b = (step_masking(config, 10, step) for step in (0, 1))
    assert not torch.equal(a.masked, b.masked)
    assert torch.equal(a.masked, step_masking(config, 10, 0).masked)
    assert not torch.equal(a.masked, step_masking(tiny_train(seed=4), 10, 0).masked)


def test_training_learns(tiny_train, tmp_path):
    patterns = planted(4, size=32, noise=0.1)[0].repacked(8)
    config = tiny_train(steps=200, batch_size=36, base_lr=1e-2)
    fit(config, ArraySource(patterns, 36, 0), folder=tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / METRICS).read_text().splitlines()]
    variance = patterns.scaled()[:, np.tril(np.ones((32, 32), bool))].var()
    assert losses[0] > variance
    assert np.mean(losses[-10:]) < 0.6 * variance  # better than knowing the mean


@pytest.mark.parametrize("decoder_input", ["visible", "cls"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_kind_of_model_trains(tiny_train, small_patterns, decoder_input, scaling, tmp_path):
    config = tiny_train(model={"decoder_input": decoder_input, "scaling": scaling}, steps=40, log_every=1)
    fit(config, ArraySource(small_patterns, 10, 0), folder=tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_metrics_are_lines_of_json(tiny_train, small_patterns, tmp_path):
    config = tiny_train(steps=12, log_every=5)
    source = ArraySource(small_patterns, 10, config.seed)
    fit(config, source, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5, 10, 11]
    assert all(set(line) == {"step", "loss", "published_loss", "lr", "grad_norm", "epoch"} for line in lines)
    assert [line["lr"] for line in lines] == [learning_rate(config, line["step"]) for line in lines]
    model = APMAE(config.model, seed=config.seed)
    with torch.no_grad():
        result = model(model.scale(source.batch(0)), step_masking(config, 10, 0))
    assert lines[0]["loss"] == pytest.approx(float(result.loss), rel=1e-5)
    assert lines[0]["published_loss"] == pytest.approx(float(result.published_loss), rel=1e-5)


# -- how it computes ---------------------------------------------------------------------------------------------------


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / METRICS).read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [2, 3, 10])
def test_a_batch_in_several_forwards_is_one_batch(tiny_train, small_patterns, tmp_path, accumulate):
    """Also where the parts are not equally long: 10 patterns in 3."""
    config = tiny_train(steps=4, log_every=1, batch_size=30 if accumulate == 3 else 10, clip_norm=0.5)
    source = ArraySource(small_patterns, 10, config.seed)
    whole = fit(config, source, folder=tmp_path / "whole")
    parts = fit(config.model_copy(update={"accumulate": accumulate}), source, folder=tmp_path / "parts")
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, atol=2e-4, rtol=0)


def test_bfloat16_learns_nearly_the_same_and_keeps_float32_weights(tiny_train, tmp_path):
    patterns, _ = planted(8, size=32, seed=2)
    config = tiny_train(steps=30, log_every=1, base_lr=5e-3)
    source = ArraySource(patterns, 10, config.seed)
    exact = fit(config, source, folder=tmp_path / "exact")
    half = fit(config.model_copy(update={"precision": "bfloat16"}), source, folder=tmp_path / "half")
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float32}
    a, b = losses(tmp_path / "exact"), losses(tmp_path / "half")
    assert a != b, "it was computed in bfloat16"
    np.testing.assert_allclose(b[:5], a[:5], rtol=0.03)
    assert np.mean(b[-5:]) < 0.7 * b[0]
    assert exact.encode(patterns).dtype == half.encode(patterns).dtype == np.float32
    wide = APMAE(config.model, seed=0)
    assert wide(wide.scale(patterns[:2]), step_masking(config, 2, 0)).predicted.dtype == torch.float32


COMPILED = """
import sys
from pathlib import Path
from apmae.patterns.planted import planted
from apmae.recipes import train_recipe
from apmae.train.loop import fit
from apmae.train.source import ArraySource

config = train_recipe("debug").model_copy(update={"steps": 4, "batch_size": 8, "accumulate": 2})
for name, compiled in (("plain", False), ("compiled", True)):
    settings = config.model_copy(update={"compile": compiled})
    fit(settings, ArraySource(planted(1)[0], 8, 0), folder=Path(sys.argv[1]) / name).save_pretrained(
        Path(sys.argv[1]) / name
    )
"""
"""Runs in a separate process: this one checks types at run time, and the compiler cannot trace that."""


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_and_keeps_its_names(tmp_path):
    subprocess.run([sys.executable, "-c", COMPILED, tmp_path], check=True)
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=1e-4)
    plain, compiled = (APMAE.from_pretrained(tmp_path / name).state_dict() for name in ("plain", "compiled"))
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, atol=3e-4, rtol=0)


def test_the_average_of_the_weights_is_what_comes_out(tiny_train, small_patterns):
    """By hand: the weights after the first step, then nine tenths of that and a tenth of the new ones at each step."""
    config = tiny_train(steps=4)
    source = ArraySource(small_patterns, 10, config.seed)
    average = fit(config.model_copy(update={"ema": 0.9}), source)
    seen = {}

    def note(step, model, patterns):
        seen[step] = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}

    plain = fit(config.model_copy(update={"panel_every": 1}), source, panel=note)
    assert list(seen) == [1, 2, 3, 4]
    for name, tensor in average.state_dict().items():
        expected = seen[1][name]
        for step in (2, 3, 4):
            expected = 0.9 * expected + 0.1 * seen[step][name]
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-5)
    assert not same(weights(average), weights(plain))


# -- crops -------------------------------------------------------------------------------------------------------------


def test_crops_are_the_patterns_of_shorter_prompts(tiny_train, small_patterns):
    config = tiny_train(crop=0.5)
    short = cropped(small_patterns, config, 0).probabilities()
    whole = small_patterns.probabilities()
    lengths = [int(rows.any(-1).sum()) for rows in short]
    for rows, full, length in zip(short, whole, lengths, strict=True):
        assert np.array_equal(rows[:length], full[:length])
        assert not rows[length:].any()
    share = np.mean(np.array(lengths) < 32)
    assert 0.2 < share < 0.8
    assert min(lengths) >= 8
    assert not np.array_equal(short, cropped(small_patterns, config, 1).probabilities())
    assert cropped(small_patterns, tiny_train(crop=0.0), 0) is small_patterns


@pytest.mark.parametrize("size", [1, 5])
def test_crops_of_patterns_shorter_than_the_shortest_crop(tiny_train, small_patterns, size):
    short = Patterns.from_probabilities(small_patterns.probabilities()[:, :size, :size], patch=8)
    assert np.array_equal(cropped(short, tiny_train(crop=1.0), 0).probabilities(), short.probabilities())


# -- what stops it -----------------------------------------------------------------------------------------------------


@dataclass
class Breaking:
    """A source whose patterns are fine until a step."""

    patterns: Patterns
    bad_step: int
    value: float

    def batch(self, step):
        batch = self.patterns[np.arange(10) + step]
        if step == self.bad_step:
            batch.log_patches[4, 0, 3, 1] = self.value
        return batch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_patterns(tiny_train, small_patterns, tmp_path, value):
    config = tiny_train(log_every=1)
    with pytest.raises(TrainingError) as caught:
        fit(config, Breaking(small_patterns, 7, value), folder=tmp_path)
    message = str(caught.value)
    assert "loss is not finite at step 7" in message
    assert "batch of 10 patterns (prompt 11 head 0.0), 1 of them are not finite" in message
    assert f"the checkpoint in {tmp_path} is kept" in message
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert steps == list(range(7)), "what was measured before is on disk"

    kept = APMAE(config.model, seed=0)
    assert checkpoint.load(tmp_path, checkpoint.State(kept, loop._optimizer(kept, config)), run_of(config))[0] == 5
    assert all(torch.isfinite(tensor).all() for tensor in kept.state_dict().values())
    fit(config, Breaking(small_patterns, -1, 0), folder=tmp_path)  # with good patterns the run resumes
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert steps == list(range(12))


def run_of(config):
    run = config.model_dump(mode="json", exclude=loop.HARMLESS)
    return run | {**run.pop("model"), "inputs": "", "processes": 1}


def test_a_line_of_the_log_that_a_kill_cut_short_is_written_again(tiny_train, small_patterns, tmp_path):
    config = tiny_train(log_every=1)
    source = ArraySource(small_patterns, 10, config.seed)
    fit(config, source, folder=tmp_path / "whole")
    with pytest.raises(TrainingError):
        fit(config, Breaking(small_patterns, 7, float("nan")), folder=tmp_path / "cut")
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"step": 7, "lo')
    fit(config, Breaking(small_patterns, -1, 0), folder=tmp_path / "cut")
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / METRICS).read_text().splitlines()]
    assert steps == list(range(12))


def test_a_rate_that_is_too_high_is_distinguished_from_bad_patterns(tiny_train, small_patterns):
    config = tiny_train(base_lr=1e30, steps=30)
    with pytest.raises(TrainingError, match=r"not finite at step \d+ .*all finite: lower base_lr from 1e\+30"):
        fit(config, ArraySource(small_patterns, 10, 0))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny_train, small_patterns, tmp_path):
    """A checkpoint of such a step would be lost for good. The overflow is put into the backward pass from outside."""
    config = tiny_train(steps=9, checkpoint_every=1)
    calls = []

    def overflow(module, grad_input, grad_output):
        calls.append(module)  # two per step, but none in the first, during which the hooks are added
        return tuple(gradient * float("inf") for gradient in grad_input) if len(calls) == 4 else None

    def watch(module, inputs):
        if isinstance(module, MLP) and not module._backward_hooks:
            module.register_full_backward_hook(overflow)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(watch)
    try:
        with pytest.raises(TrainingError, match="the gradient is not finite at step 2 .*all finite"):
            fit(config, ArraySource(small_patterns, 10, config.seed), folder=tmp_path)
    finally:
        handle.remove()
    straight = fit(config, ArraySource(small_patterns, 10, config.seed))
    resumed = fit(config, ArraySource(small_patterns, 10, config.seed), folder=tmp_path)
    assert same(weights(straight), weights(resumed))


# -- the public function -----------------------------------------------------------------------------------------------


def test_train_takes_patterns_or_a_stream(small_patterns, tiny_train):
    config = tiny_train(steps=4)
    in_memory = apmae.train(small_patterns, config, seed=5)
    assert same(weights(in_memory), weights(apmae.train(small_patterns, config, seed=5)))
    assert not same(weights(in_memory), weights(apmae.train(small_patterns, config, seed=6)))
    source = ArraySource(small_patterns, 10, 5)
    streamed = apmae.train((source.batch(step) for step in range(4)), config, seed=5)
    assert same(weights(streamed), weights(in_memory))
    with pytest.raises(TrainingError, match="the stream ended"):
        apmae.train([small_patterns[:15]], config)


def test_by_default_the_configurations_seed_and_steps_are_used(small_patterns, tiny_train):
    config = tiny_train(steps=3, seed=8)
    own = weights(apmae.train(small_patterns, config))
    assert same(own, weights(apmae.train(small_patterns, tiny_train(steps=9, seed=0), steps=3, seed=8)))
    assert not same(own, weights(apmae.train(small_patterns, config, seed=0)))


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(small_patterns, steps):
    with pytest.raises(ConfigError, match=f"steps: .*got {steps}"):
        apmae.train(small_patterns, "debug", steps=steps)


def test_unknown_recipes(small_patterns):
    with pytest.raises(ConfigError, match="paper-15b, got 'huge'"):
        apmae.train(small_patterns, "huge")


def test_patterns_too_long_for_the_model(tiny_train):
    long = Patterns.from_probabilities(np.tril(np.ones((2, 33, 33))) / np.arange(1, 34)[:, None])
    with pytest.raises(CaptureError, match="at most 32 tokens, got 33"):
        apmae.train(long, tiny_train())


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (100, 13), (1, 1), (250, 32), (256, 32)])
def test_short_patterns_get_a_model_of_their_size(size, patch):
    dense = np.tril(np.ones((4, size, size))) / np.arange(1, size + 1)[:, None]
    mae = apmae.train(Patterns.from_probabilities(dense), "debug", steps=1)
    assert (mae.config.patch_size, mae.config.pattern_size) == (patch, 8 * patch)
    assert mae.encode(Patterns.from_probabilities(dense)).shape == (4, 160)


# -- resume ------------------------------------------------------------------------------------------------------------


@dataclass
class Stopping:
    """A source that fails at a step, as a full disk or a signal would."""

    source: ArraySource
    at: int

    def batch(self, step):
        if step == self.at:
            raise KeyboardInterrupt
        return self.source.batch(step)

    def state(self):
        return self.source.state()

    def restore(self, state):
        self.source.restore(state)

    def counts(self):
        return self.source.counts()


@pytest.mark.parametrize("stops", [(3,), (5,), (6, 11), (1, 2, 3, 9)])
@pytest.mark.parametrize("crop", [0.0, 0.5])
def test_interrupted_runs_end_with_the_same_bytes(tiny_train, small_patterns, tmp_path, stops, crop):
    config = tiny_train(crop=crop, warmup_steps=3)
    source = ArraySource(small_patterns, config.batch_size, config.seed)
    straight = fit(config, source, folder=tmp_path / "straight")
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            fit(config, Stopping(source, stop), folder=tmp_path / "halting")
    resumed = fit(config, source, folder=tmp_path / "halting")
    assert same(weights(straight), weights(resumed))
    for name in (METRICS, checkpoint.NAME):
        assert (tmp_path / "halting" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.parametrize("decoder_input", ["visible", "cls"])
@pytest.mark.parametrize("grid", ["triangle", "square"])
def test_several_threads_sum_in_a_fixed_order(decoder_input, grid):
    """Otherwise no run on more than one core could be repeated, let alone resumed."""
    config = train_recipe("debug")
    model = config.model.model_copy(update={"decoder_input": decoder_input, "grid": grid})
    config = config.model_copy(update={"steps": 3, "model": model})
    source = ArraySource(planted(2)[0], config.batch_size, config.seed)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (weights(fit(config, source)) for _ in range(4))
    finally:
        torch.set_num_threads(before)
    assert all(same(first, other) for other in others)


def test_a_finished_run_is_not_trained_again(tiny_train, small_patterns, tmp_path):
    config = tiny_train()
    first = fit(config, ArraySource(small_patterns, 10, 3), folder=tmp_path)
    before = (tmp_path / checkpoint.NAME).stat().st_mtime_ns
    again = fit(config, Stopping(ArraySource(small_patterns, 10, 3), 0), folder=tmp_path)
    assert same(weights(first), weights(again))
    assert (tmp_path / checkpoint.NAME).stat().st_mtime_ns == before


def test_keeping_checkpoints_changes_no_weights(tiny_train, small_patterns, tmp_path):
    source = ArraySource(small_patterns, 10, 3)
    without = fit(tiny_train(), source)
    often = fit(tiny_train(checkpoint_every=1, log_every=3), source, folder=tmp_path)
    assert same(weights(without), weights(often))


def test_how_often_to_log_may_change_between_kill_and_resume(tiny_train, small_patterns, tmp_path):
    source = ArraySource(small_patterns, 10, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_train(), Stopping(source, 7), folder=tmp_path)
    resumed = fit(tiny_train(checkpoint_every=3, log_every=2), source, folder=tmp_path)
    assert same(weights(resumed), weights(fit(tiny_train(), source)))


def test_another_run_in_the_same_folder_is_refused(tiny_train, small_patterns, tmp_path):
    config = tiny_train(steps=5)
    apmae.train(small_patterns, config, folder=tmp_path)
    for other, message in (
        (lambda: apmae.train(small_patterns, config, steps=6, folder=tmp_path), "steps: 5, now 6"),
        (lambda: apmae.train(small_patterns, config, seed=9, folder=tmp_path), "seed: 3, now 9"),
        (lambda: apmae.train(small_patterns[:20], config, folder=tmp_path), "inputs: "),
        (
            lambda: apmae.train(small_patterns, tiny_train({"mask_ratio": 0.3}, steps=5), folder=tmp_path),
            "mask_ratio: ",
        ),
    ):
        with pytest.raises(ArtifactError, match=message):
            other()
    apmae.train(small_patterns, config, folder=tmp_path)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.recipes import train_recipe
from apmae.train.loop import fit
from apmae.train.source import ArraySource

folder, hang = Path(sys.argv[1]), int(sys.argv[2])
config = train_recipe("debug")
patterns, _ = planted(6, size=64)

class Hanging(ArraySource):
    def batch(self, step):
        if step == hang:
            (folder / "hanging").touch()
            time.sleep(600)
        return super().batch(step)

source = Hanging(patterns, config.batch_size, config.seed)
fit(config, source, folder=folder).save_pretrained(folder / "encoder")
"""


def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(tmp_path, command_line):
    """SIGKILL at step 13 of 20, checkpoints at 5 and 10; then the same command again."""

    def start(name, hang):
        return command_line.start(tmp_path / name, hang, code=CHILD)

    undisturbed = start("undisturbed", -1)
    kill_once(start("killed", 13), (tmp_path / "killed" / "hanging").exists)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / METRICS).read_text().splitlines()]
    assert steps == list(range(13)), "it was killed after the checkpoint of step 10, and logged every step"
    for run in (undisturbed, start("killed", -1)):
        finished = run.finish()
        assert finished.returncode == 0, finished.stderr
    for name in ("encoder/model.safetensors", "encoder/config.json", METRICS, checkpoint.NAME):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
