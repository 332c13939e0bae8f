"""The grammar: every primitive and gate gives patterns, and a program means the same in all of its instances."""

import numpy as np
import pytest
import torch

from apmae.model.represent import descriptor_whitening
from apmae.patterns.descriptor import describe
from apmae.patterns.grammar import GATES, PRIMITIVES, PROGRAM, Program, grammar, imagined, instance, random_program
from apmae.seeding import generator

KINDS = pytest.mark.parametrize("causal", [True, False])
PLAIN = Program((("even", 0.5, 1.0),), "all_rows", 1.0, "even", 8.0, 0.2, None, None, "both")
SIDED = (
    "itself", "neighbour", "band", "distant_band", "distant", "diagonal", "periodic_lags", "copies", "after_copies",
)  # fmt: skip
"""Primitives that look so many keys back, or at all keys on one side."""


def sums(logs: np.ndarray) -> np.ndarray:
    return np.exp(logs.astype(np.float64)).sum(-1)


def only(name: str, a: float = 0.5, **fields: object) -> Program:
    return PLAIN._replace(primitives=((name, a, 1.0),), **fields)


@KINDS
@pytest.mark.parametrize("name", PRIMITIVES)
def test_every_primitive_makes_patterns(name, causal):
    for number, (a, length) in enumerate(((0.0, 24), (0.5, 40), (0.999, 64))):
        logs = instance(only(name, a), length, generator(number, name), causal=causal)
        assert logs.shape == (length, length) and logs.dtype == np.float32
        seen = np.tri(length, dtype=bool) if causal else np.ones((length, length), bool)
        assert np.isfinite(logs[seen]).all() and np.isneginf(logs[~seen]).all()
        np.testing.assert_allclose(sums(logs), 1, atol=1e-5)


@KINDS
@pytest.mark.parametrize("name", GATES)
def test_every_gate_makes_patterns(name, causal):
    """Rows that it lets through attend to themselves, the others to the first token."""
    program = only("itself", gate=name, share=0.5, otherwise="sink", strength=12.0)
    shares = []
    for number in range(20):
        logs = instance(program, 64, generator(1, name, number), causal=causal)
        np.testing.assert_allclose(sums(logs), 1, atol=1e-5)
        p = np.exp(logs)[1:]
        own, first = np.diagonal(p, 1), p[:, 0]
        assert (own + first > 0.9).mean() > 0.95 or name == "softly"
        shares.append(own.sum() / (own + first).sum())
    assert np.mean(shares) > 0.95 if name == "all_rows" else 0.3 < np.mean(shares) < 0.7
    assert GATES[name](imagined(64, "causal", generator(2)), 0.5).shape == (64,)


def test_what_primitives_look_at():
    """The key with the most mass, in patterns with little noise."""
    draw = generator(3)
    text = {name: np.exp(instance(only(name, 0.0, strength=14.0), 48, draw)) for name in PRIMITIVES}
    rows = np.arange(12, 48)
    assert (text["sink"].argmax(1) == 0).all()
    assert (text["itself"].argmax(1) == np.arange(48)).all()
    assert (text["neighbour"].argmax(1)[1:] == np.arange(47)).all()
    assert 0 <= np.median(rows - text["band"][rows].argmax(1)) <= 5
    assert len(np.unique(text["few_columns"][40:].argmax(1))) <= 2
    columns = text["periodic_columns"][40:].argmax(1)
    assert any(len(np.unique(columns % period)) == 1 for period in (2, 3, 4))
    assert text["even"].max(1)[40:].max() < 0.1
    assert text["exponential"][40:, -8:].sum(1).min() > 0.5


@KINDS
def test_windows_hide_what_is_further(causal):
    logs = instance(only("even", window=24), 64, generator(4), causal=causal)
    back = np.subtract.outer(np.arange(64), np.arange(64))
    seen = (np.abs(back) < 24) & ((back >= 0) | (not causal))
    assert np.isfinite(logs[seen]).all() and np.isneginf(logs[~seen]).all()
    np.testing.assert_allclose(sums(logs), 1, atol=1e-5)


@KINDS
def test_a_sink_outside_takes_its_share(causal):
    """Its logit is 3, those of n keys about 0: a row keeps n / (n + e ** 3)."""
    logs = instance(only("even", strength=3.0, noise=0.0, outside=3.0), 64, generator(5), causal=causal)
    count = np.arange(1, 65) if causal else np.full(64, 64)
    np.testing.assert_allclose(sums(logs), count / (count + np.exp(3)), rtol=1e-4)


@pytest.mark.parametrize("name", SIDED)
def test_square_patterns_look_where_the_program_says(name):
    """The key with the most mass is there, in rows whose mass is on few keys; the others found none there."""
    found = 0
    for a in (0.0, 0.4, 0.999):
        for length in (24, 40, 64):
            for side, sign in (("before", 1), ("after", -1)):
                program = only(name, a, side=side, strength=12.0)
                p = np.exp(instance(program, length, generator(6, name, length), causal=False))
                rows = np.flatnonzero((p.max(1) > 5 / length) | (p.min(1) < 1e-3))
                assert (sign * (rows - p[rows].argmax(1)) >= 0).all(), (a, length, side)
                found += len(rows)
    assert found > 50


@KINDS
def test_a_program_does_not_depend_on_what_else_is_made(causal):
    whole = grammar(6, 2, size=48, seed=1, causal=causal)
    part = grammar(2, 2, size=48, seed=1, first=3, causal=causal)
    assert torch.equal(part.log_patches, whole.log_patches[6:10])
    assert part.head.tolist() == [3, 3, 4, 4]
    assert torch.equal(grammar(6, 2, size=48, seed=1, causal=causal).log_patches, whole.log_patches)
    assert not torch.equal(grammar(6, 2, size=48, seed=2, causal=causal).log_patches, whole.log_patches)


@KINDS
def test_patterns_of_the_grammar(causal):
    patterns = grammar(20, 3, size=64, shortest=30, seed=2, causal=causal)
    assert (len(patterns), patterns.size, patterns.causal) == (60, 64, causal)
    assert patterns.log_patches.dtype == torch.float16
    assert (patterns.layer == PROGRAM).all()
    assert patterns.head.tolist() == np.repeat(np.arange(20), 3).tolist()
    assert patterns.prompt.tolist() == list(range(60))
    p = patterns.probabilities()
    real = p.sum(-1) > 0
    lengths = real.sum(1)
    assert (real == (np.arange(64) < lengths[:, None])).all(), "padding is at the end"
    assert lengths.min() >= 30 and 0.3 < (lengths == 64).mean() < 0.7
    assert p.sum(-1).max() < 1.01
    assert (np.abs(p.sum(-1)[real] - 1) < 0.01).mean() > 0.8, "few have a sink outside"
    assert np.triu(p, 1).any() != causal


def test_instances_differ_and_are_alike():
    """Nearer to one another than to those of other programs: that is what they are for."""
    patterns = grammar(40, 2, size=64, shortest=48, seed=3)
    p = patterns.probabilities()
    assert all(not np.allclose(one, two, atol=0.01) for one, two in zip(p[::2], p[1::2], strict=True))
    z = descriptor_whitening().whitened(describe(patterns).values)
    apart = np.abs(z[:, None] - z[None]).mean(-1)
    same = np.array([apart[i, i + 1] for i in range(0, 80, 2)])
    other = apart[patterns.head[:, None] != patterns.head]
    assert same.mean() < 0.7 * other.mean()
    nearest = np.where(np.eye(80, dtype=bool), np.inf, apart).argmin(1)
    assert (patterns.head[nearest] == patterns.head).mean() > 0.3, "by chance: 1 / 79"


@pytest.mark.parametrize("size", [1, 2, 5, 16, 23])
def test_patterns_shorter_than_the_shortest_instance(size):
    """Models of short patterns are trained on the grammar too."""
    patterns = grammar(30, 2, size=size, seed=4)
    assert (patterns.probabilities().sum(-1) > 0).all()


def test_programs_cover_the_grammar():
    programs = [random_program(generator(5, "program", number)) for number in range(400)]
    assert {name for program in programs for name, _, _ in program.primitives} == set(PRIMITIVES)
    assert {program.gate for program in programs} == set(GATES)
    assert {program.otherwise for program in programs} <= set(PRIMITIVES)
    assert 0 < sum(program.window is not None for program in programs) < 60
    assert 0 < sum(program.outside is not None for program in programs) < 60
    for program in programs:
        names = [name for name, _, _ in program.primitives]
        assert len(set(names)) == len(names) <= 3
        assert program.primitives[0][2] == 1.0 and all(0.4 <= weight <= 1 for _, _, weight in program.primitives)


def test_a_text_has_stretches_kinds_and_copies():
    text = imagined(100, "causal", generator(7))
    assert (np.diff(text.stretch) == text.delimiter[:-1]).all() and text.stretch[0] == 0
    kinds = {}
    for token, kind in zip(text.tokens.tolist(), text.kind.tolist(), strict=True):
        assert kinds.setdefault(token, kind) == kind
    for side, expected in (("before", 3), ("after", 100), ("both", 3)):
        back = imagined(100, side, generator(7)).back
        assert (back[5, 2], back[2, 5]) == (expected, {"before": 100, "after": 3, "both": 3}[side])
