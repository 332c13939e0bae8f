"""What one backward foresees, against small steps that are taken; column norms against those of the projections."""

from dataclasses import replace

import pytest
import torch
from projections import projections

from apmae.engine.prompts import load_prompts
from apmae.errors import CaptureError
from apmae.lm.edit import edit
from apmae.lm.importance import columns_of, importance_of, weight_norms
from apmae.lm.outcome import window_of
from apmae.lm.record import mean_outputs
from apmae.lm.removal import replies_under
from apmae.lm.tracing import find_projections

HEADS = [(0, 3), (2, 5), (5, 7)]
STEP = 0.02


@pytest.fixture(scope="module")
def windows(bundled_lm, train_prompts):
    """Windows of several lengths, so that batches are padded."""
    prompts = load_prompts(train_prompts)[:3]
    cut = [replace(own, prefix=own.prefix[-60 * n - 60 :], suffix=own.suffix[:50]) for n, own in enumerate(prompts)]
    return [window_of(bundled_lm, prompt, 96) for prompt in cut]


@torch.no_grad()
def slope(lm, window, head, change):
    """By central difference: how log-probability rises as a head's output goes along ``change(output) - output``."""
    found = []
    for step in (STEP, -STEP):
        with edit(lm.model, {head: lambda output, step=step: output + step * (change(output) - output)}):
            found.append(replies_under(lm, [window])[0].log_probability)
    return (found[0] - found[1]) / (2 * STEP)


def test_importance_is_what_small_steps_show(bundled_lm, windows):
    means = mean_outputs(bundled_lm, windows)
    found = importance_of(bundled_lm, windows, means)
    assert found.gradient.shape == found.attribution.shape == (3, 48)
    assert all(parameter.grad is None for parameter in bundled_lm.model.parameters())
    for row, window in enumerate(windows):
        for layer, head in HEADS:
            up = slope(bundled_lm, window, (layer, head), lambda output: 2 * output)
            mean = means[layer, head].values
            to_mean = slope(bundled_lm, window, (layer, head), lambda output, mean=mean: mean.expand_as(output))
            place = 8 * layer + head
            assert found.gradient[row, place] == pytest.approx(abs(up), rel=0.05, abs=2e-3)
            assert found.attribution[row, place] == pytest.approx(to_mean, rel=0.05, abs=2e-3)
    nothing = importance_of(bundled_lm, windows)
    torch.testing.assert_close(nothing.attribution.abs(), nothing.gradient)
    torch.testing.assert_close(nothing.gradient, found.gradient)


def test_a_batch_is_the_sum_of_its_prompts(bundled_lm, windows):
    together = importance_of(bundled_lm, windows)
    for row, window in enumerate(windows):
        alone = importance_of(bundled_lm, [window])
        torch.testing.assert_close(together.gradient[row], alone.gradient[0], atol=1e-4, rtol=1e-3)


def test_norms_are_those_of_the_heads_columns(bundled_lm):
    found = weight_norms(find_projections(bundled_lm), bundled_lm.heads)
    assert len(found) == 48
    for layer, projection in projections(bundled_lm.model).items():
        for head in range(8):
            own = projection.weight[:, 24 * head : 24 * head + 24]
            assert found[layer, head] == pytest.approx(float((own**2).sum().sqrt()), rel=1e-5)


def test_what_is_no_plain_matrix_is_refused():
    with pytest.raises(CaptureError, match=r"plain linear module, got Bilinear; load the model without quant"):
        columns_of(torch.nn.Bilinear(2, 2, 2))
