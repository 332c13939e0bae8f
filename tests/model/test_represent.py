"""Representations: what each is made of, and where the constants of CLS are."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import apmae
from apmae import bundled
from apmae.errors import CaptureError, ConfigError, ModelError
from apmae.model.mae import APMAE
from apmae.model.represent import (
    CLS_WEIGHT,
    cls_whitening,
    descriptor_whitening,
    represent,
    represented,
    width_of,
)
from apmae.patterns.descriptor import WIDTH, describe
from apmae.patterns.gate import has_structure
from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.patterns.whitening import Whitening

DIM = 12


@pytest.fixture(scope="module")
def mae(tiny):
    """Untrained, of 64 tokens in patches of 32; its constants are computed once for this file."""
    return tiny(pattern_size=64, patch_size=32)


@pytest.fixture(scope="module")
def patterns():
    return grammar(6, 2, size=64, shortest=40, seed=8)


def whitened_by_hand(constants, values):
    z = np.clip((values - constants["mean"]) / constants["deviation"], -4, 4)
    return z @ constants["whiten"]


def test_the_descriptor_is_whitened_by_the_packages_constants(patterns):
    expected = whitened_by_hand(load_file(bundled.descriptor()), describe(patterns).values)
    found = represent(patterns, kind="descriptor")
    assert found.dtype == np.float32 and found.shape == (12, WIDTH) == (12, width_of("descriptor", DIM))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_cls_is_what_the_encoder_says(mae, patterns):
    found = represent(patterns, mae, kind="cls")
    assert np.array_equal(found, mae.encode(patterns))
    assert found.shape == (12, width_of("cls", DIM))


def test_joint_is_both_side_by_side(mae, patterns):
    found = represent(patterns, mae)
    assert found.dtype == np.float32 and found.shape == (12, WIDTH + DIM) == (12, width_of("joint", DIM))
    assert np.array_equal(found, represent(patterns, mae, "joint")), "it is the default"
    assert np.array_equal(found[:, :WIDTH], represent(patterns, kind="descriptor"))
    cls = whitened_by_hand(mae.whitening._asdict(), mae.encode(patterns))
    np.testing.assert_allclose(found[:, WIDTH:], CLS_WEIGHT * cls, atol=1e-4)


def test_constants_of_cls_are_estimated_on_structured_patterns_of_the_grammar(mae):
    sample = grammar(100, 4, size=64, seed=1)
    sample = sample[has_structure(describe(sample).structure)]
    expected = Whitening.fit(mae.encode(sample), sample.head)
    for one, two in zip(cls_whitening(mae), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert cls_whitening(mae) is mae.whitening, "they are kept"
    assert np.abs(mae.whitening.whitened(mae.encode(sample))).mean() == pytest.approx(1, rel=1e-3)


def test_the_gates_statistic_comes_along(mae, patterns):
    noise = np.random.default_rng(0).random((2, 64, 64)) * np.tri(64)
    mixed = Patterns.concatenate(
        [patterns[:4].without_texts(), Patterns.from_probabilities(noise / noise.sum(-1, keepdims=True))]
    )
    for kind in ("cls", "descriptor", "joint"):
        found = represented(mixed, mae, kind)
        assert np.array_equal(found.structure, describe(mixed).structure)
        assert found.structured.tolist() == has_structure(found.structure).tolist()
        assert not found.structured[4:].any()


def test_the_bundled_encoder_is_the_default(patterns):
    found = represent(patterns[:2], kind="cls")
    assert np.array_equal(found, APMAE.from_pretrained().encode(patterns[:2]))
    assert apmae.represent is represent


def test_square_patterns_have_constants_of_their_own(tiny):
    square = grammar(4, 2, size=64, seed=9, causal=False)
    expected = whitened_by_hand(load_file(bundled.descriptor(causal=False)), describe(square).values)
    np.testing.assert_allclose(represent(square, kind="descriptor"), expected, atol=1e-4)
    assert not np.array_equal(descriptor_whitening(False).mean, descriptor_whitening(True).mean)
    mae = tiny(pattern_size=64, patch_size=32, causal=False)
    assert represent(square, mae).shape == (8, WIDTH + DIM)
    causal = grammar(1, 2, size=64, seed=9)
    with pytest.raises(CaptureError, match="expected square patterns for this AP-MAE"):
        represent(causal, mae)
    with pytest.raises(CaptureError, match="expected causal patterns for this AP-MAE"):
        represent(square[:1], tiny(pattern_size=64, patch_size=32), "cls")


def test_patterns_of_any_length_have_a_descriptor(mae):
    long = grammar(1, 1, size=300, shortest=300, seed=10)
    assert np.isfinite(represent(long, kind="descriptor")).all()
    with pytest.raises(CaptureError, match="at most 64 tokens, got 300"):
        represent(long, mae)
    assert represent(long[:0], kind="descriptor").shape == (0, WIDTH)


def test_unknown_kinds_are_refused_before_an_encoder_is_loaded(patterns, monkeypatch):
    monkeypatch.setattr(bundled, "encoder", lambda: pytest.fail("it was loaded"))
    with pytest.raises(ConfigError, match="expected a representation, one of joint, descriptor, cls, got 'pixels'"):
        represent(patterns, kind="pixels")
    represent(patterns[:1], kind="descriptor")


# -- on disk -----------------------------------------------------------------------------------------------------------


def test_constants_of_cls_are_saved_with_the_encoder(mae, tiny, patterns, tmp_path):
    expected = represent(patterns, mae)
    mae.save_pretrained(tmp_path)
    again = APMAE.from_pretrained(tmp_path)
    for one, two in zip(again.whitening, mae.whitening, strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(represent(patterns, again), expected)
    tiny(seed=1, pattern_size=64, patch_size=32).save_pretrained(tmp_path)
    assert APMAE.from_pretrained(tmp_path).whitening is None, "those of the other weights are gone"


def test_damaged_constants_are_refused(mae, tmp_path):
    cls_whitening(mae)
    mae.save_pretrained(tmp_path)
    path = tmp_path / "whitening.safetensors"
    whole = load_file(path)
    broken = whole["whiten"].copy()
    broken[3, 3] = np.nan
    for arrays, message in (
        ({"mean": whole["mean"]}, "expected the constants of a CLS in .*whitening.safetensors.*; delete it to compute"),
        ({**whole, "mean": whole["mean"][:5]}, "expected constants for 12 dimensions in .*5.*; delete it to compute"),
        ({**whole, "whiten": broken}, "expected finite constants in .*; delete it to compute them again"),
    ):
        save_file(arrays, path)
        with pytest.raises(ModelError, match=message):
            APMAE.from_pretrained(tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(ModelError, match="expected the constants of a CLS in .*; delete it to compute them again"):
        APMAE.from_pretrained(tmp_path)
    path.unlink()
    assert APMAE.from_pretrained(tmp_path).whitening is None
