"""Grammar patterns by step: a window that moves, the same after any restart."""

import numpy as np
import pytest
import torch

from apmae.patterns.grammar import PROGRAM, grammar
from apmae.seeding import subseed
from apmae.train import programs as programs_file
from apmae.train.programs import INSTANCES, Programs


def programs_of(batch):
    """The program of each pattern, in order, and how many instances of it."""
    heads, count = np.unique(batch.head, return_counts=True)
    return dict(zip(heads.tolist(), count.tolist(), strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_a_step_has_programs_with_all_their_instances(causal):
    source = Programs(20, size=32, seed=1, causal=causal)
    batch = source.batch(0)
    assert (len(batch), batch.size, batch.causal) == (20, 32, causal)
    assert (batch.layer == PROGRAM).all()
    assert list(programs_of(batch).values()) == [INSTANCES] * 5
    assert set(programs_of(batch)) <= set(range(10)), "the first step draws from twice as many as it needs"
    assert len(np.unique(batch.prompt)) == 20
    whole = grammar(10, INSTANCES, size=32, seed=subseed(1, "programs"), causal=causal)
    for number in range(20):
        (same,) = np.flatnonzero(whole.prompt == batch.prompt[number])
        assert torch.equal(batch.log_patches[number], whole.log_patches[same])


@pytest.mark.parametrize(("count", "instances"), [(1, [1]), (4, [4]), (6, [4, 2]), (11, [4, 4, 3])])
def test_any_number_of_patterns(count, instances):
    batch = Programs(count, size=32, seed=2).batch(0)
    assert sorted(programs_of(batch).values(), reverse=True) == instances


def test_a_step_follows_from_its_number():
    straight = Programs(12, size=32, seed=3)
    batches = [straight.batch(step) for step in range(12)]
    for start in (7, 11, 3):
        resumed = Programs(12, size=32, seed=3)
        for step in range(start, 12):
            found = resumed.batch(step)
            assert torch.equal(found.log_patches, batches[step].log_patches)
            assert found.head.tolist() == batches[step].head.tolist()
    for step in (2, 9, 1, 0):
        assert torch.equal(straight.batch(step).log_patches, batches[step].log_patches), "in any order"
    assert not torch.equal(Programs(12, size=32, seed=4).batch(0).log_patches, batches[0].log_patches)
    assert batches[0].head.tolist() != batches[1].head.tolist()


def test_the_window_moves(monkeypatch):
    """Two programs are new in every step, and the oldest are gone once it is full."""
    monkeypatch.setattr(programs_file, "_WINDOW", 16)
    source, seen = Programs(12, size=32, seed=5), {}
    for step in range(40):
        last = 6 + 2 * step
        numbers = set(programs_of(source.batch(step)))
        assert numbers <= set(range(max(last - 16, 0), last)), step
        seen[step] = numbers
    assert len(set.union(*seen.values())) > 60, "they are ever new"


def test_more_patterns_than_the_window_holds(monkeypatch):
    monkeypatch.setattr(programs_file, "_WINDOW", 4)
    source = Programs(40, size=32, seed=6)
    for step in (0, 1, 5):
        batch = source.batch(step)
        assert len(batch) == 40 and len(programs_of(batch)) == 10
