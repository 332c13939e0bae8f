"""Encoding whole patterns on a CPU: as the modules do it, whatever the tile, with the weights of the moment."""

import copy

import numpy as np
import pytest
import torch
from mae_by_hand import square_patterns

from apmae.model.encoding import Encoding


def by_modules(model, patterns):
    """What the layers themselves compute, in float64; ``tests/mae_by_hand.py`` is the oracle of these."""
    with torch.no_grad():
        pixels = model.scale(patterns).double()
        return copy.deepcopy(model).double().encode_tokens(pixels)[:, 0].numpy()


@pytest.mark.parametrize(
    "fields",
    [{}, {"encoder_layers": 1}, {"pixels": "log_and_root"}, {"grid": "square"}, {"scaling": "log"}, {"causal": False}],
)
def test_it_is_what_the_modules_compute(tiny, random_patterns, fields):
    model = tiny(**fields).eval()
    patterns = random_patterns(5, 33) if model.config.causal else square_patterns(5, 33)
    found = model.encode(patterns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_modules(model, patterns), atol=2e-5)


def test_it_is_the_same_without_onednn(tiny, random_patterns, monkeypatch):
    model, patterns = tiny(pixels="log_and_root").eval(), random_patterns(4, 40)
    found = model.encode(patterns)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    np.testing.assert_allclose(model.encode(patterns), found, atol=2e-5)


def test_patterns_are_encoded_a_few_at_a_time(tiny, random_patterns, monkeypatch):
    model, patterns = tiny().eval(), random_patterns(7, 40)
    found = model.encode(patterns)
    embedded, together = [], []
    embed, cls = Encoding._embedded, Encoding.cls
    monkeypatch.setattr(Encoding, "_embedded", lambda self, x: (embedded.append(len(x)), embed(self, x))[1])
    monkeypatch.setattr(Encoding, "cls", lambda self, x: (together.append(len(x)), cls(self, x))[1])
    monkeypatch.setattr("apmae.model.encoding._PIXELS", 3 * 15 * 64)
    monkeypatch.setattr("apmae.model.encoding._HIDDEN", 5 * 15 * 16)
    few = model.encode(patterns)
    assert (embedded, together) == ([3, 2, 2], [5, 2])
    np.testing.assert_allclose(few, found, atol=1e-6)
    np.testing.assert_allclose(model.encode(patterns, batch=1), found, atol=1e-6)
    assert np.array_equal(model.encode(patterns[:5]), few[:5]), "same inputs, same bytes"


def test_the_weights_are_those_of_the_moment(tiny, random_patterns):
    model, patterns = tiny().eval(), random_patterns(2, 40)
    before = model.encode(patterns)
    model.encoder.mlps[0].up.weight.data.mul_(3)
    after = model.encode(patterns)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, by_modules(model, patterns), atol=2e-5)


def test_autocast_goes_through_the_modules(tiny, random_patterns):
    model, patterns = tiny().eval(), random_patterns(3, 40)
    found = model.encode(patterns)
    with torch.autocast("cpu", torch.bfloat16):
        near = model.encode(patterns)
    assert 1e-5 < np.abs(near - found).max() < 0.2
