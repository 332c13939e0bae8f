"""Whitening: its map against numpy's covariance, its scale, and its file."""

import numpy as np
import pytest
from safetensors import SafetensorError

from apmae.patterns import whitening as whitening_file
from apmae.patterns.whitening import CUT, SHRINKAGE, Whitening


def drawn(count=4000, classes=200, width=6, seed=0):
    """Classes far apart along some axes, with correlated noise inside them; nothing is cut."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), count // classes)
    centres = draw.uniform(-1, 1, (classes, width)) * np.arange(1, width + 1)
    mixing = draw.normal(size=(width, width)) * 0.2
    values = centres[labels] + draw.uniform(-1, 1, (count, width)) @ mixing + draw.normal(size=width) * 10
    return values.astype(np.float32), labels


def inside(values, labels):
    """Covariance inside classes, from numpy's own of each."""
    parts = [values[labels == label] for label in np.unique(labels)]
    total = sum(np.cov(part.T, bias=True) * len(part) for part in parts)
    return total / (len(values) - len(parts))


def test_covariance_inside_classes_becomes_the_identity(monkeypatch):
    monkeypatch.setattr(whitening_file, "SHRINKAGE", 0.0)
    values, labels = drawn()
    found = inside(Whitening.fit(values, labels).whitened(values), labels)
    scale = found.trace() / len(found)
    np.testing.assert_allclose(found, scale * np.eye(len(found)), atol=1e-3 * scale)
    assert np.abs(inside(values, labels)[0, 1:]).max() > 0.01, "it was not before"


def test_shrinkage_by_hand():
    values, labels = drawn(seed=1)
    found = Whitening.fit(values, labels)
    z = (values - values.mean(0)) / values.std(0)
    covariance = inside(z, labels)
    shrunk = covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    # the map, scale aside, is the symmetric root of the inverse
    square = np.linalg.inv(found.whiten.astype(np.float64) @ found.whiten)
    np.testing.assert_allclose(square / np.trace(square), shrunk / np.trace(shrunk), atol=1e-4)
    np.testing.assert_allclose(found.whiten, found.whiten.T, atol=1e-6)


def test_values_are_standardised_and_cut():
    values, labels = drawn(seed=2)
    values[0, 0] = 1e6
    found = Whitening.fit(values, labels)
    np.testing.assert_allclose(found.mean, values.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(found.deviation, values.std(0, dtype=np.float64), rtol=1e-5)
    z = found.standardised(values)
    assert z.dtype == np.float32 and z[0, 0] == CUT
    expected = np.clip((values - values.mean(0, dtype=np.float64)) / values.std(0, dtype=np.float64), -CUT, CUT)
    np.testing.assert_allclose(z, expected, atol=1e-5)
    np.testing.assert_allclose(found.whitened(values), expected @ found.whiten, atol=1e-4)


def test_the_mean_absolute_value_is_1_whatever_the_units():
    values, labels = drawn(seed=3)
    for factor in (1e-3, 1.0, 1e3):
        assert np.abs(Whitening.fit(values * factor, labels).whitened(values * factor)).mean() == pytest.approx(
            1, rel=1e-3
        )


def test_what_varies_inside_classes_counts_less():
    """Two columns of equal s.d.: one is the class, the other noise."""
    draw = np.random.default_rng(4)
    labels = np.repeat(np.arange(100), 10)
    values = np.stack([draw.normal(size=100)[labels] + 0.05 * draw.normal(size=1000), draw.normal(size=1000)], 1)
    found = Whitening.fit(values, labels).whitened(values)
    assert found[:, 0].std() > 2.5 * found[:, 1].std()


def test_constant_columns_stay_finite():
    values, labels = drawn(seed=5)
    values[:, 2] = 7.0
    found = Whitening.fit(values, labels)
    assert all(np.isfinite(array).all() for array in found)
    assert (found.standardised(values)[:, 2] == 0).all()
    assert np.isfinite(found.whitened(values + 100)).all()
    alike = Whitening.fit(np.full((10, 3), 2.0), np.arange(10) // 2)
    assert np.isfinite(alike.whitened(np.full((2, 3), 2.0))).all()


def test_one_pattern_for_each_class_has_nothing_inside():
    values, _ = drawn(seed=6)
    assert np.isfinite(Whitening.fit(values, np.arange(len(values))).whitened(values)).all()


def test_a_file_holds_everything(tmp_path):
    values, labels = drawn(seed=7)
    found = Whitening.fit(values, labels)
    found.save(tmp_path / "constants.safetensors")
    again = Whitening.load(tmp_path / "constants.safetensors")
    for one, two in zip(found, again, strict=True):
        assert one.dtype == two.dtype == np.float32
        assert np.array_equal(one, two)
    (tmp_path / "constants.safetensors").write_bytes(b"short")
    with pytest.raises(SafetensorError):
        Whitening.load(tmp_path / "constants.safetensors")
