"""A batch read at once against each prompt alone, and against the model's own eager attention."""

import numpy as np
import pytest
import torch

from apmae.lm.attention import eager_attention
from apmae.lm.outcome import window_of
from apmae.lm.reading import read_batch
from apmae.lm.readout import Readout
from apmae.lm.tracing import find_readout
from apmae.prompts.line import text_prompt

TEXTS = [
    ("class A {\n    int total = 0;\n    void add(int n) { total += n", " }\n}\n"),
    ("public class Box {\n    private final int size", "\n}\n"),
    ("if (x ", " 0) { return x; }"),
]


@pytest.fixture(scope="module")
def readout(bundled_lm):
    found = find_readout(bundled_lm)
    assert isinstance(found, Readout) and len(found.projections) == 6
    return found


@pytest.fixture(scope="module")
def windows(bundled_lm):
    return [window_of(bundled_lm, text_prompt(before, ";", after), 64) for before, after in TEXTS]


@pytest.fixture(scope="module")
def read(bundled_lm, readout, windows):
    return read_batch(bundled_lm, windows, readout, eigenvalues=4)


def test_a_batch_is_read_as_each_prompt_alone(bundled_lm, readout, windows, read):
    assert len({len(window.ids) for window in windows}) > 1
    for number, window in enumerate(windows):
        alone = read_batch(bundled_lm, [window], readout, eigenvalues=4)
        assert alone.answers[0].predicted_id == read.answers[number].predicted_id
        torch.testing.assert_close(alone.rows[0], read.rows[number], rtol=1e-3, atol=1e-3)
        for name in ("flow", "eigenvalues", "attribution", "middle", "final"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(read, name)[number], rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_it_is_what_the_model_shows_of_itself(bundled_lm, windows, read):
    model = bundled_lm.model
    for number, window in enumerate(windows):
        with eager_attention(model):
            made = model(input_ids=torch.tensor([window.ids]), output_attentions=True, output_hidden_states=True)
        rows = torch.cat([layer[0, :, -1] for layer in made.attentions])
        np.testing.assert_allclose(read.rows[number].exp(), rows, atol=1e-4)
        best = made.logits[0, -1].topk(2)
        assert (
            read.answers[number].predicted_id == best.indices[0] and read.answers[number].second_id == best.indices[1]
        )
        torch.testing.assert_close(read.final[number], made.hidden_states[6][0, -1], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(read.middle[number], made.hidden_states[3][0, -1], rtol=1e-3, atol=1e-3)
        along = model.lm_head.weight[best.indices[0]] - model.lm_head.weight[best.indices[1]]
        assert float(read.final[number] @ along) == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-2)
        copies = sum(token == best.indices[0] for token in window.ids)
        assert bool(read.flow[number].any()) == bool(copies)
    assert any(bool(own.any()) for own in read.flow), "some prompt holds its answer"


def test_without_a_readout_there_is_no_attribution(bundled_lm, windows, read):
    found = read_batch(bundled_lm, windows, None, eigenvalues=4)
    assert bool(found.attribution.isnan().all()) and found.attribution.shape == (3, 48)
    torch.testing.assert_close(found.flow, read.flow)
