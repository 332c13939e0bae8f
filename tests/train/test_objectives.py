"""The guided objective: both losses by loops, and what they are told."""

import numpy as np
import pytest
import torch

from apmae.model.mae import APMAE
from apmae.model.represent import descriptor_whitening
from apmae.patterns.descriptor import WIDTH, describe
from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.train.batch import step_masking
from apmae.train.objectives import Guided, contrast, described, labels_of


def contrast_by_loops(z, labels, temperature=0.2):
    """Khosla et al. 2020, equation 2 (L_out), averaged over anchors that have a positive."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        terms.append(-np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in positives]))
    return np.mean(terms) if terms else 0.0


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 3], [5] * 6, [0, 1, 2, 3, 4, 5], [7, 7, 7, 1, 2, 2]])
def test_contrast_by_loops(labels):
    z = np.random.default_rng(0).normal(size=(6, 5)) * 3
    found = contrast(torch.from_numpy(z), torch.tensor(labels))
    assert float(found) == pytest.approx(contrast_by_loops(z, labels), abs=1e-5)


def test_contrast_is_small_where_labels_are_apart():
    directions = torch.eye(4).repeat_interleave(2, 0)
    labels = torch.arange(4).repeat_interleave(2)
    assert float(contrast(directions, labels)) < 0.1 < float(contrast(directions, labels.roll(1)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_gradients_of_contrast_are_finite(count):
    """A batch of one, or without any positives, too."""
    for labels in (torch.arange(count), torch.zeros(count, dtype=torch.long)):
        z = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
        contrast(z, labels).backward()
        assert z.grad is not None and z.grad.isfinite().all()


def where(layers, heads):
    logs = torch.zeros(len(layers), 1, 32, 32)
    return Patterns(logs, 32, prompt=np.arange(len(layers)), layer=np.array(layers, int), head=np.array(heads, int))


def same_label(labels):
    return {(i, j) for i in range(len(labels)) for j in range(i) if labels[i] == labels[j]}


def test_labels_are_programs_and_heads():
    batch = where([-1, -1, 0, 0, 2, -1, 2], [3, 3, 3, 1, 3, 4, 3])
    assert same_label(labels_of(batch, heads=True)) == {(1, 0), (6, 4)}
    assert same_label(labels_of(batch, heads=False)) == {(1, 0)}
    assert batch.layer.tolist() == [-1, -1, 0, 0, 2, -1, 2], "the batch stays as it is"


def test_patterns_whose_heads_nobody_noted_have_labels_of_their_own():
    assert same_label(labels_of(where([0, 0, 0], [0, 0, 0]), heads=True)) == set()
    assert same_label(labels_of(where([0, -1, 0, -1], [0, 0, 0, 0]), heads=True)) == {(3, 1)}
    assert labels_of(where([], []), heads=True).tolist() == []


def test_what_is_predicted_is_the_standardised_descriptor():
    for causal in (True, False):
        patterns = grammar(2, 2, size=64, seed=1, causal=causal)
        constants = descriptor_whitening(causal)
        expected = (describe(patterns).values - constants.mean) / constants.deviation
        np.testing.assert_allclose(described(patterns).numpy(), expected.clip(-4, 4), atol=1e-4)


def test_the_forward_has_three_losses(tiny_train):
    config = tiny_train({"pixels": "log_and_root"})
    model = Guided(APMAE(config.model), seed=1)
    patterns = grammar(4, 2, size=32, seed=2)
    masking = step_masking(config, 8, 0)
    labels, wanted = torch.from_numpy(labels_of(patterns, heads=True)), described(patterns)
    found = model(model.mae.scale(patterns), masking, labels, wanted)
    plain = model.mae(model.mae.scale(patterns), masking)
    assert torch.equal(found.reconstruction.loss, plain.loss)
    z = model.project(plain.cls).detach().double().numpy()
    assert found.contrast.item() == pytest.approx(contrast_by_loops(z, labels.tolist()), rel=1e-4)
    wrong = np.abs((model.describe(plain.cls) - wanted).detach().numpy())
    smooth = np.where(wrong < 1, wrong**2 / 2, wrong - 0.5)
    assert wrong.shape == (8, WIDTH)
    assert found.description.item() == pytest.approx(smooth.mean(), rel=1e-4)
    sum(found[1:], found.reconstruction.loss).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_the_seed_decides_the_heads(tiny_train):
    def made(seed):
        return Guided(APMAE(tiny_train().model), seed=seed).state_dict()

    one, again, other = made(1), made(1), made(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name in ("describe.weight", "project.0.weight", "project.2.weight"):
        assert not torch.equal(one[name], other[name])
