"""The gate: its statistic against an explicit permutation test, and what passes."""

import numpy as np
import pytest
import torch

from apmae.patterns import geometry
from apmae.patterns.descriptor import describe
from apmae.patterns.gate import EVEN, SHORTEST, STRUCTURED, has_structure, structure, unstructured_name
from apmae.patterns.overlap import DISTANCES, overlaps
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted


def shuffled(probabilities: np.ndarray, draw: np.random.Generator, *, causal: bool = True) -> np.ndarray:
    """Every row with its keys in another order."""
    found = probabilities.copy()
    for rows in found:
        for query, row in enumerate(rows):
            end = query + 1 if causal else len(row)
            row[:end] = draw.permutation(row[:end])
    return found


def noise(count: int, size: int, draw: np.random.Generator, *, causal: bool = True, scale: float = 1.0) -> np.ndarray:
    scores = scale * draw.standard_normal((count, size, size))
    if causal:
        scores = np.where(np.tri(size, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("causal", [True, False])
def test_overlaps_by_loops(causal: bool) -> None:
    size, lengths = 40, [40, 27]
    draw = np.random.default_rng(0)
    p = noise(2, size, draw, causal=causal)
    for number, length in enumerate(lengths):
        p[number, length:] = 0
        p[number, :, length:] = 0
        p[number, :length] /= p[number, :length].sum(-1, keepdims=True)
    root = np.sqrt(p)
    real = np.arange(size) < np.array(lengths)[:, None]
    found = overlaps(torch.from_numpy(root), torch.from_numpy(real), causal)
    for number, length in enumerate(lengths):
        for alignment in (0, 1):
            for place, distance in enumerate(DISTANCES):
                for query in range(size):
                    pairs = []
                    if query + distance < length:
                        for key in range(query + 1 if causal else length):
                            other = key + distance * alignment
                            if other < length:
                                pairs.append((root[number, query, key], root[number, query + distance, other]))
                    a, b = np.array(pairs, np.float64).reshape(-1, 2).T
                    at = (number, alignment, place, query)
                    assert found.shared[at] == len(pairs)
                    assert found.product[at] == pytest.approx((a * b).sum(), abs=1e-5)
                    assert found.sums[0][at] == pytest.approx(a.sum(), abs=1e-5)
                    assert found.sums[1][at] == pytest.approx(b.sum(), abs=1e-5)
                    assert found.masses[0][at] == pytest.approx((a * a).sum(), abs=1e-5)
                    assert found.masses[1][at] == pytest.approx((b * b).sum(), abs=1e-5)


def test_moments_are_those_of_permutations() -> None:
    """In one pair of rows, mean and s.d. over explicit permutations of one of them."""
    draw = np.random.default_rng(1)
    size = SHORTEST
    root = np.sqrt(noise(1, size, draw))
    found = overlaps(torch.from_numpy(root), torch.ones(1, size, dtype=torch.bool), causal=True)
    query = 20
    a, b = root[0, query, : query + 1].astype(np.float64), root[0, query + 1, : query + 1].astype(np.float64)
    drawn = np.array([(a * draw.permutation(b)).sum() for _ in range(40_000)])
    many = float(found.shared[0, 0, 0, query])
    mean = float(found.sums[0][0, 0, 0, query] * found.sums[1][0, 0, 0, query]) / many
    squares = [float(m[0, 0, 0, query]) - float(s[0, 0, 0, query]) ** 2 / many
               for m, s in zip(found.masses, found.sums, strict=True)]  # fmt: skip
    assert mean == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 200)
    assert (squares[0] * squares[1] / (many - 1)) ** 0.5 == pytest.approx(drawn.std(), rel=0.02)
    assert structure(found).shape == (1,)


@pytest.mark.parametrize("causal", [True, False])
def test_shuffled_rows_and_noise_fail(causal: bool) -> None:
    draw = np.random.default_rng(2)
    if causal:
        patterns, families = planted(6, noise=(0.1, 2.0), seed=5)
        real, uniform = patterns.probabilities(), families == 7
    else:
        size = 96
        back = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        scores = draw.standard_normal((12, size, size)) + 6 * (back == np.arange(1, 13)[:, None, None])
        real = (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).astype(np.float32)
        uniform = np.zeros(len(real), bool)
    found = describe(Patterns.from_probabilities(real, causal=causal)).structure
    assert has_structure(found)[~uniform].all()
    assert not has_structure(found)[uniform].any()
    others = np.concatenate(
        [shuffled(real, draw, causal=causal), noise(20, real.shape[1], draw, causal=causal, scale=2.0)]
    )
    found = describe(Patterns.from_probabilities(others, causal=causal)).structure
    assert np.mean(has_structure(found)) <= 0.01
    assert np.quantile(found, 0.9) < 4


def test_mass_outside_the_softmax_is_no_column() -> None:
    draw = np.random.default_rng(3)
    p = noise(12, 128, draw, scale=1.5) * draw.uniform(0.1, 0.9, (12, 128, 1)).astype(np.float32)
    logs = np.where(np.tri(128, dtype=bool), np.log(np.maximum(p, 1e-30)), -np.inf)
    packed = geometry.pack(torch.from_numpy(logs), 32, -torch.inf)
    where = np.zeros(12, np.int64)
    patterns = Patterns(packed, 128, prompt=np.arange(12), layer=where, head=where)
    assert not has_structure(describe(patterns).structure).any()


def test_constant_rows_have_none_and_short_patterns_are_not_judged() -> None:
    even = np.tri(64, dtype=np.float32) / np.arange(1, 65, dtype=np.float32)[:, None]
    assert describe(Patterns.from_probabilities(even[None])).structure < STRUCTURED
    short = describe(Patterns.from_probabilities(even[None, : SHORTEST - 1, : SHORTEST - 1])).structure
    assert np.isnan(short).all() and has_structure(short).all()


def test_names() -> None:
    assert unstructured_name(EVEN) == "uniform"
    assert unstructured_name(0.9) == unstructured_name(float("nan")) == "unstructured"
