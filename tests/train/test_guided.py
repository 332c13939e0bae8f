"""Guided training from end to end: what a batch is made of, what it learns, and what a kill leaves."""

import json

import numpy as np
import pytest
import torch

import apmae
from apmae.patterns.grammar import PROGRAM, grammar
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.train import checkpoint, loop
from apmae.train.batch import step_masking
from apmae.train.launch import drawn_share
from apmae.train.loop import METRICS, fit
from apmae.train.metrics import LOSSES
from apmae.train.objectives import CONTRAST, DESCRIPTION, Guided, described, labels_of
from apmae.train.programs import Programs
from apmae.train.source import ArraySource


@pytest.fixture(scope="module")
def heads():
    """Planted patterns of 32 tokens; a family is a head."""
    patterns, families = planted(6, size=32)
    patterns.head = families.astype(np.int64)
    return patterns


@pytest.fixture
def guided(tiny_train):
    def make(**fields):
        return tiny_train({"pixels": "log_and_root"}, **{"objective": "guided", "batch_size": 16, **fields})

    return make


def source_of(patterns, config):
    return ArraySource(patterns, drawn_share(config, 1), config.seed, pairs=True)


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def same(one, two):
    return all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_the_losses_fall(guided, heads, tmp_path):
    config = guided(steps=60, batch_size=48, base_lr=5e-3)
    fit(config, source_of(heads, config), folder=tmp_path)
    found = lines(tmp_path)
    assert all({"step", *LOSSES, "lr", "grad_norm", "epoch"} == set(line) for line in found)
    for name in ("loss", "contrast", "description"):
        values = [line[name] for line in found]
        assert np.mean(values[-10:]) < 0.94 * np.mean(values[:5]), name


def test_the_first_step_by_hand(guided, heads, tmp_path):
    """Losses, their weights and the norm of the gradient."""
    config = guided(steps=1)
    source = source_of(heads, config)
    fit(config, source, folder=tmp_path)
    (line,) = lines(tmp_path)
    model = Guided(apmae.APMAE(config.model, seed=config.seed), seed=config.seed)
    made = Programs(8, size=32, seed=config.seed).batch(0)
    batch = Patterns.concatenate([source.batch(0), made.repacked(32)])
    wanted, labels = described(batch), torch.from_numpy(labels_of(batch, heads=True))
    found = model(model.mae.scale(batch), step_masking(config, 16, 0), labels, wanted)
    assert line["loss"] == pytest.approx(found.reconstruction.loss.item(), rel=1e-5)
    assert line["published_loss"] == pytest.approx(found.reconstruction.published_loss.item(), rel=1e-5)
    assert line["contrast"] == pytest.approx(found.contrast.item(), rel=1e-5)
    assert line["description"] == pytest.approx(found.description.item(), rel=1e-5)
    (found.reconstruction.loss + CONTRAST * found.contrast + DESCRIPTION * found.description).backward()
    norm = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
    assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


class Stopping(ArraySource):
    """Fails at a step, as a full disk or a signal would."""

    at = -1

    def batch(self, step):
        if step == self.at:
            raise KeyboardInterrupt
        return super().batch(step)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_interrupted_runs_end_with_the_same_bytes(guided, heads, tmp_path, ema):
    config = guided(crop=0.4, ema=ema)
    straight = fit(config, source_of(heads, config), folder=tmp_path / "straight")
    source = Stopping(heads, drawn_share(config, 1), config.seed, pairs=True)
    for source.at in (4, 8, 11, -1):
        if source.at >= 0:
            with pytest.raises(KeyboardInterrupt):
                fit(config, source, folder=tmp_path / "halting")
    resumed = fit(config, source, folder=tmp_path / "halting")
    assert same(straight, resumed)
    for name in (METRICS, checkpoint.NAME):
        assert (tmp_path / "halting" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_a_batch_in_several_forwards_reconstructs_the_same(guided, heads, tmp_path, accumulate):
    """Contrast is within a forward; with 16 forwards there is none, and nothing breaks."""
    whole, parts = guided(steps=3), guided(steps=3, accumulate=accumulate)
    fit(whole, source_of(heads, whole), folder=tmp_path / "whole")
    fit(parts, source_of(heads, parts), folder=tmp_path / "parts")
    first, other = lines(tmp_path / "whole")[0], lines(tmp_path / "parts")[0]
    assert np.isfinite([line[name] for line in lines(tmp_path / "parts") for name in LOSSES]).all()
    # the same patterns in another order: each has another mask, the descriptors are the same
    assert other["description"] == pytest.approx(first["description"], rel=0.05)
    assert (other["contrast"] == 0) == (accumulate == 16)


@pytest.mark.parametrize(
    ("drawn", "made", "parts"), [(8, 8, 2), (6, 6, 4), (9, 3, 4), (5, 2, 3), (1, 11, 4), (7, 0, 2)]
)
def test_each_forward_has_its_share_of_both(heads, drawn, made, parts):
    grammars = grammar(3, 4, size=32, seed=1)[:made]
    joined = loop._joined(heads[:drawn], grammars, parts)
    assert len(joined) == drawn + made
    own = joined.layer != PROGRAM
    assert joined.prompt[own].tolist() == heads.prompt[:drawn].tolist()
    assert joined.prompt[~own].tolist() == grammars.prompt.tolist()
    for rows in torch.arange(drawn + made).chunk(parts):
        assert abs(own[rows.numpy()].sum() - len(rows) * drawn / (drawn + made)) <= 1


@pytest.mark.parametrize("patch", [8, 32])
def test_patterns_in_patches_of_any_side(guided, heads, patch):
    mae = apmae.train(heads.repacked(patch), guided(steps=1))
    assert np.isfinite(mae.encode(heads)).all()


@pytest.mark.parametrize("size", [1, 10, 30])
def test_patterns_of_any_size(guided, heads, size):
    short = Patterns.from_probabilities(heads.probabilities()[:, :size, :size], head=heads.head)
    assert np.isfinite(apmae.train(short, guided(steps=1)).encode(short)).all()


def test_a_stream_and_a_batch_of_one(guided, heads):
    for batch_size in (1, 2):
        mae = apmae.train([heads], guided(steps=2, batch_size=batch_size, grammar_share=0.9))
        assert np.isfinite(mae.encode(heads)).all()


def test_head_labels_are_optional(guided, heads, tmp_path):
    for name, told in (("told", True), ("untold", False)):
        config = guided(steps=1, head_labels=told)
        fit(config, source_of(heads, config), folder=tmp_path / name)
    told, untold = (lines(tmp_path / name)[0] for name in ("told", "untold"))
    assert told["contrast"] != untold["contrast"]
    assert told["description"] == untold["description"]


def test_square_patterns_train_without_the_grammar(guided):
    p = np.random.default_rng(0).dirichlet(np.full(32, 0.3), size=(24, 32)).astype(np.float32)
    square = Patterns.from_probabilities(p, causal=False, head=np.arange(24) % 4)
    mae = apmae.train(square, guided(steps=3))
    assert not mae.config.causal and np.isfinite(mae.encode(square)).all()
    assert np.isfinite(apmae.represent(square, mae)).all()
