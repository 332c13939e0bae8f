"""Masking is a uniform, seeded partition of the patches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from apmae.config import APMAEConfig
from apmae.model.masking import random_masking


def drawn(patterns, patches, masked, seed=0):
    return random_masking(patterns, patches, masked, torch.Generator().manual_seed(seed))


@given(st.integers(0, 9), st.integers(2, 40), st.integers(0, 1000), st.data())
def test_visible_and_masked_are_a_partition(patterns, patches, seed, data):
    masked = data.draw(st.integers(1, patches - 1))
    masking = drawn(patterns, patches, masked, seed)
    assert masking.visible.shape == (patterns, patches - masked)
    assert masking.masked.shape == (patterns, masked)
    for visible, hidden in zip(masking.visible.tolist(), masking.masked.tolist(), strict=True):
        assert sorted(visible + hidden) == list(range(patches))


def test_the_generator_decides():
    assert all(torch.equal(a, b) for a, b in zip(drawn(5, 36, 18, 1), drawn(5, 36, 18, 1), strict=True))
    assert not torch.equal(drawn(5, 36, 18, 1).masked, drawn(5, 36, 18, 2).masked)


def test_every_patch_is_equally_likely_and_every_pattern_has_its_own_draw():
    masking = drawn(4000, 10, 3)
    counts = np.bincount(masking.masked.flatten().numpy(), minlength=10)
    assert chisquare(counts).pvalue > 1e-3
    pairs = np.zeros((10, 10))
    for hidden in masking.masked.tolist():
        for a in hidden:
            for b in hidden:
                pairs[a, b] += a < b
    assert chisquare(pairs[np.triu_indices(10, 1)]).pvalue > 1e-3
    assert len({tuple(sorted(hidden)) for hidden in masking.masked.tolist()}) == 120  # all choices of 3 of 10 occur


@pytest.mark.parametrize(
    ("size", "patch", "ratio", "expected"),
    [(256, 32, 0.5, 18), (256, 32, 0.75, 27), (40, 8, 0.5, 8), (64, 32, 0.01, 1), (64, 32, 0.99, 2), (96, 32, 0.4, 2)],
)
def test_how_many_are_masked(size, patch, ratio, expected):
    assert APMAEConfig(pattern_size=size, patch_size=patch, mask_ratio=ratio).num_masked == expected
