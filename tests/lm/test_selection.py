"""Predicates of heads; shares and lists are tested with the tap."""

import torch

from apmae.lm.selection import Selection
from apmae.lm.tap import capture


def test_a_predicate_chooses_heads(family):
    model, ids = family("llama"), torch.arange(40)[None] + 3
    with (
        torch.no_grad(),
        capture(model, heads=lambda layer, head: (layer + head) % 3 == 1) as tap,
        capture(model) as all_,
    ):
        model(ids)
    patterns, every = tap.patterns, all_.patterns
    assert list(zip(patterns.layer.tolist(), patterns.head.tolist(), strict=True)) == [(0, 1), (1, 0), (1, 3)]
    wanted = (every.layer + every.head) % 3 == 1
    assert torch.equal(patterns.log_patches, every[wanted].log_patches)


def test_columns_follow_the_layers():
    selection = Selection([(4, 1), (2, 0), (4, 3)], {0: 4, 2: 4, 4: 4}, 0)
    assert [selection.count(layer) for layer in (0, 2, 4)] == [0, 1, 2]
    assert [selection.columns(layer) for layer in (0, 2, 4)] == [slice(0, 0), slice(0, 1), slice(1, 3)]
    assert selection.heads(4, 0, 2).tolist() == [[1, 3], [1, 3]]
