"""How rows are formed, against float64 loops: every field of an Attention, including those of flash and flex attention,
which no model of the default suite reaches on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from apmae.errors import CaptureError
from apmae.lm.rows import (
    _CACHE_BYTES,
    _CHECK_ROWS,
    LOWEST,
    Attention,
    Sight,
    log_blocks,
    log_row_at,
    log_rows,
    sight,
    write_pooled,
    write_whole,
)
from apmae.patterns import geometry

BATCH, HEADS, GROUPS, SIZE, PATCH = 3, 4, 2, 11, 4
CHOSEN = torch.tensor([[3, 1], [0, 3], [2, 2]])
"""Two heads of each prompt, in any order."""
LEFT, RIGHT = (0, 2, 5), (11, 9, 4)
"""Where prompts start if they are padded on the left, and where they end if they are padded on the right."""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(allowed, heads=1):
    """A rule as a boolean mask (b, heads, q, t), entry by entry."""
    out = torch.zeros(BATCH, heads, SIZE, SIZE, dtype=torch.bool)
    for place in np.ndindex(out.shape):
        out[place] = bool(allowed(*place))
    return out


def causal(b, h, q, k):
    return k <= q


def after_padding(b, h, q, k):
    return LEFT[b] <= k <= q


def before_padding(b, h, q, k):
    return k <= q < RIGHT[b]


def by_head(b, h, q, k):
    return k <= q and q - k != h + 1


def knocked_out(b, h, q, k):
    """No token sees token 3, and token 3 sees nothing in head 0; head 1 does not see the first token."""
    return k <= q and k != 3 and (h, q) != (0, 3) and (h, k) != (1, 0)


def two_texts(b, h, q, k):
    """One text after the other in each prompt."""
    return (k <= q) & ((q < 6) == (k < 6))


def additive(allowed, heads, fill, dtype=torch.float32):
    """A mask that adds something where a query attends."""
    return random(BATCH, heads, SIZE, SIZE, seed=5).to(dtype).masked_fill(~table(allowed, heads), fill)


def scores(allowed):
    """As models pass them to their own softmax, filled with whatever means "masked"."""
    own = 3 * random(BATCH, HEADS, SIZE, SIZE, seed=6)
    fills = torch.tensor([LOWEST, -1e9, torch.finfo(torch.float32).min, -torch.inf])
    return torch.where(table(allowed, HEADS), own, fills[torch.arange(SIZE) % 4])


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to say what attends to what."""

    fields: dict[str, Any]
    """Fields of an Attention."""
    allowed: Callable[..., Any]
    """Whether a query of a prompt and head attends to a key."""
    starts: tuple[int, ...] = (0,) * BATCH
    """The first real token of each prompt."""
    ends: tuple[int, ...] = (SIZE,) * BATCH
    """One past its last."""


ON_THE_LEFT = torch.arange(SIZE) >= torch.tensor(LEFT)[:, None]
ON_THE_RIGHT = torch.arange(SIZE) < torch.tensor(RIGHT)[:, None]
CASES = {
    "causal": Case(fields={}, allowed=causal),
    "square": Case(fields={"causal": False}, allowed=lambda b, h, q, k: True),
    "scale": Case(fields={"scale": 0.4}, allowed=causal),
    "window": Case(fields={"window": 4}, allowed=lambda b, h, q, k: 0 <= q - k < 4),
    "window on both sides": Case(fields={"causal": False, "window": 4}, allowed=lambda b, h, q, k: abs(q - k) < 4),
    "padding on the left": Case(fields={"padding": ON_THE_LEFT}, allowed=after_padding, starts=LEFT),
    "padding on the right": Case(fields={"padding": ON_THE_RIGHT}, allowed=before_padding, ends=RIGHT),
    "padding and window": Case(
        fields={"padding": ON_THE_LEFT, "window": 3},
        allowed=lambda b, h, q, k: after_padding(b, h, q, k) and q - k < 3,
        starts=LEFT,
    ),
    "rule": Case(fields={"rule": two_texts}, allowed=two_texts),
    "mask": Case(fields={"mask": table(after_padding)}, allowed=after_padding, starts=LEFT),
    "mask by head": Case(fields={"mask": table(by_head, HEADS)}, allowed=by_head),
    "one mask for all prompts": Case(fields={"mask": table(by_head, HEADS)[:1]}, allowed=by_head),
    "knocked out": Case(fields={"mask": table(knocked_out, HEADS)}, allowed=knocked_out),
    "square, padded on the left": Case(
        fields={"causal": False, "padding": ON_THE_LEFT}, allowed=lambda b, h, q, k: min(q, k) >= LEFT[b], starts=LEFT
    ),
    "square, padded on the right": Case(
        fields={"mask": table(lambda b, h, q, k: max(q, k) < RIGHT[b])},
        allowed=lambda b, h, q, k: max(q, k) < RIGHT[b],
        ends=RIGHT,
    ),
    "in float16": Case(
        fields={
            "query": random(BATCH, HEADS, SIZE, 5, seed=7).half(),
            "key": random(BATCH, HEADS, SIZE, 5, seed=8).half(),
            "scale": 0.37,
        },
        allowed=causal,
    ),
    "additive": Case(fields={"mask": additive(by_head, HEADS, -1e9)}, allowed=by_head),
    "additive in float16": Case(fields={"mask": additive(causal, 1, -5e4, torch.float16)}, allowed=causal),
    "softcap": Case(fields={"softcap": 1.5, "mask": table(after_padding)}, allowed=after_padding, starts=LEFT),
    "bias": Case(
        fields={"bias": random(1, HEADS, SIZE, SIZE, seed=3), "window": 5},
        allowed=lambda b, h, q, k: 0 <= q - k < 5,
    ),
    "sinks": Case(
        fields={"sinks": random(HEADS, seed=4), "mask": table(before_padding)}, allowed=before_padding, ends=RIGHT
    ),
    "scores": Case(fields={"scores": scores(by_head)}, allowed=by_head),
    "lowest": Case(fields={"scores": scores(causal).clamp(min=-3e3), "lowest": -3e3}, allowed=causal),
}


BY_QUERY = {"query", "mask", "bias", "scores"}
"""Fields with an axis of queries."""


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def attention(fields, **others):
    if "scores" not in fields:
        others = {"query": random(BATCH, HEADS, SIZE, 5), "key": random(BATCH, GROUPS, SIZE, 5, seed=1), **others}
    return Attention(**{**others, **fields})


def expected(a, allowed, chosen=CHOSEN):
    """float64 (b, s, q, t) probabilities of the chosen heads, one row at a time."""
    out = np.zeros((BATCH, chosen.shape[1], SIZE, SIZE))
    for b, s, q in np.ndindex(out.shape[:3]):
        head = int(chosen[b, s])
        keys = [k for k in range(SIZE) if allowed(b, head, q, k)]
        if not keys:
            continue
        if a.scores is not None:
            row = a.scores[b, head, q, keys].double()
        else:
            row = a.key[b, head // (HEADS // a.key.shape[1]), keys].double() @ a.query[b, head, q].double() * a.scale
        if a.softcap is not None:
            row = a.softcap * torch.tanh(row / a.softcap)
        if a.bias is not None:
            row = row + a.bias[0, head, q, keys]
        if a.mask is not None and a.mask.dtype != torch.bool:
            row = row + a.mask[b, head if a.mask.shape[1] > 1 else 0, q, keys]
        if a.sinks is not None:
            row = torch.cat([row, a.sinks[head : head + 1].double()])
        out[b, s, q, keys] = row.softmax(0)[: len(keys)]
    return out


def blank(count, causal):
    return torch.full((BATCH, 2, geometry.num_patches(count, PATCH, causal), PATCH, PATCH), -torch.inf)


def unpacked(patches, count, causal):
    """float64 (b, s, count, count) probabilities."""
    return (
        geometry.unpack(patches.flatten(0, 1), count, -torch.inf, causal)
        .exp()
        .double()
        .unflatten(0, (BATCH, 2))
        .numpy()
    )


def test_what_masks_show(case):
    seen = sight(attention(case.fields))
    shown = table(case.allowed, HEADS).any(1)
    assert seen.causal == (not shown.triu(1).any())
    assert (tuple(seen.starts), tuple(seen.ends)) == (case.starts, case.ends)
    real = shown.any(-1)
    assert torch.equal(torch.ones_like(real) if seen.real is None else seen.real, real)
    assert (seen.real is None) == bool(real.all())


def test_whole(case):
    a, bad = attention(case.fields), torch.zeros(())
    seen = sight(a)
    patches, theirs = blank(SIZE, seen.causal), expected(a, case.allowed)
    write_whole(a, seen, CHOSEN, patches, bad)
    ours = unpacked(patches, SIZE, seen.causal)
    assert int(patches.isfinite().sum()) == np.count_nonzero(ours), "something beyond the last token"
    for b, (start, end) in enumerate(zip(case.starts, case.ends, strict=True)):
        length = end - start
        assert np.abs(ours[b, :, :length, :length] - theirs[b, :, start:end, start:end]).max() <= 1e-6
        assert np.array_equal(ours[b, :, :length, :length] > 0, theirs[b, :, start:end, start:end] > 0)
        assert not ours[b, :, length:].any()
        assert not ours[b, :, :, length:].any()
    assert float(bad) == 0


@pytest.mark.parametrize("size", [3, 4, 11])
def test_pooled(case, size):
    a, bad = attention(case.fields), torch.zeros(())
    seen = sight(a)
    patches, theirs = blank(size, seen.causal), expected(a, case.allowed)
    write_pooled(a, seen, CHOSEN, patches, bad, size=size)
    ours = unpacked(patches, size, seen.causal)
    assert int(patches.isfinite().sum()) == np.count_nonzero(ours), "something beyond the last block"
    for b, (start, end) in enumerate(zip(case.starts, case.ends, strict=True)):
        blocks = min(size, end - start)
        edges = [start + i * (end - start) // blocks for i in range(blocks + 1)]
        for i, j in np.ndindex(size, size):
            if i < blocks and j < blocks:
                rows = theirs[b, :, edges[i] : edges[i + 1]]
                counted = rows.any(-1).sum(-1)  # rows that attend to nothing do not count
                own = rows[..., edges[j] : edges[j + 1]].sum((-2, -1)) / np.maximum(counted, 1)
                assert np.abs(ours[b, :, i, j] - own).max() <= 1e-6
            else:
                assert not ours[b, :, i, j].any()
    assert float(bad) == 0


def every_head(a, allowed):
    """As ``expected``, of all heads: two at a time."""
    pairs = [[0, 1], [2, 3]]
    return np.concatenate([expected(a, allowed, torch.tensor([pair] * BATCH)) for pair in pairs], axis=1)


def test_one_row_of_each_prompt(case):
    a, bad = attention(case.fields), torch.zeros(())
    seen, theirs = sight(a), every_head(a, case.allowed)
    for back in (1, 3):
        rows = [max(end - back, start) for start, end in zip(case.starts, case.ends, strict=True)]
        found = dict(log_row_at(a, seen, rows, bad))
        assert list(found) == list(range(BATCH))
        for b, (start, end) in enumerate(zip(case.starts, case.ends, strict=True)):
            own = theirs[b, :, rows[b], start:end]
            assert found[b].shape == (HEADS, end - start)
            assert np.abs(found[b].exp().double().numpy() - own).max() <= 1e-6
            assert np.array_equal(found[b].isfinite().numpy(), own > 0)
    assert float(bad) == 0


@pytest.mark.parametrize("height", [1, 4, 32])
def test_blocks_of_rows(case, height):
    a, bad = attention(case.fields), torch.zeros(())
    seen, theirs = sight(a), expected(a, case.allowed)
    done = np.zeros_like(theirs)
    for prompts, rows, keys, logs in log_blocks(a, seen, CHOSEN, height, bad):
        for b, own in zip(prompts.tolist(), logs, strict=True):
            start = min(case.starts) if min(seen.starts) == max(seen.starts) else case.starts[b]
            done[b, :, start + rows.start : start + rows.stop, start : start + keys.stop] = own.exp().numpy()
    for b, (start, end) in enumerate(zip(case.starts, case.ends, strict=True)):
        assert np.abs(done[b, :, start:end, start:end] - theirs[b, :, start:end, start:end]).max() <= 1e-6
        done[b, :, start:end, start:end] = 0
    assert not done.any(), "something in the rows of padding"


@pytest.mark.parametrize("last", [1, 3])
def test_the_last_rows(case, last):
    """Queries that continue from a cache: they are the last of the keys' tokens."""
    if case.ends != (SIZE,) * BATCH:
        return  # a generation continues prompts that are padded on the left
    fields = {name: value[:, :, -last:] if name in BY_QUERY else value for name, value in case.fields.items()}
    if "rule" in fields:  # a rule counts queries from the first of this forward
        fields["rule"] = lambda b, h, q, k: two_texts(b, h, q + SIZE - last, k)
    a, bad = attention(fields, query=random(BATCH, HEADS, SIZE, 5)[:, :, -last:]), torch.zeros(())
    logs = log_rows(a, Sight(True, None, list(case.starts), list(case.ends)), CHOSEN, bad)
    theirs = expected(attention(case.fields), case.allowed)[:, :, -last:]
    assert np.abs(logs.exp().double().numpy() - theirs).max() <= 1e-6
    assert np.array_equal(logs.isfinite().numpy(), theirs > 0)
    assert float(bad) == 0


# -- what masks show ---------------------------------------------------------------------------------------------------


def of_mask(mask):
    """An Attention of one head with a mask of (b, q, t)."""
    batch, size, _ = mask.shape
    return Attention(query=torch.zeros(batch, 1, size, 1), key=torch.zeros(batch, 1, size, 1), mask=mask[:, None])


def test_masks_of_many_tokens_are_looked_at_in_pieces():
    """More queries than are read together: padding ends in the second piece, and only there are later keys seen."""
    size = _CHECK_ROWS + 40
    mask = torch.ones(2, size, size, dtype=torch.bool).tril()
    mask[1, :, :-20] = False
    for a in (of_mask(mask), Attention(scores=torch.where(mask, 0.0, -torch.inf)[:, None])):
        seen = sight(a)
        assert (seen.causal, seen.starts, seen.ends) == (True, [0, size - 20], [size, size])
        assert seen.real is not None
        assert seen.real.sum(-1).tolist() == [size, 20]
    mask[0, -2, -1] = True
    assert not sight(of_mask(mask)).causal
    padded = sight(Attention(query=torch.zeros(2, 1, size, 1), key=torch.zeros(2, 1, size, 1), padding=mask[:, -1]))
    assert (padded.causal, padded.starts, padded.ends) == (True, [0, size - 20], [size, size])


def test_rows_of_padding_may_see_something():
    """Some models let them see the first token, so that no row is empty."""
    mask = torch.ones(1, 8, 8, dtype=torch.bool).tril()
    mask[:, :, :3] = False
    mask[:, 1:3, 0] = True
    seen = sight(of_mask(mask))
    assert (seen.starts, seen.ends) == ([3], [8])
    assert seen.real is not None
    assert seen.real.tolist() == [[False] * 3 + [True] * 5]


def test_a_prompt_that_is_hidden_from_itself_is_refused_among_others():
    mask = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    mask[1] = mask[1].tril(-1)
    with pytest.raises(CaptureError, match="hides each token from itself"):
        sight(of_mask(mask))


def test_two_tokens_say_whether_later_ones_are_seen_and_one_does_not():
    for size, own, causal in ((1, True, True), (1, False, False), (2, True, False), (2, False, False)):
        a = Attention(scores=torch.zeros(1, 1, size, size), causal=own)
        assert sight(a).causal == causal


# -- scores that are not finite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_score_that_is_not_finite_is_noticed(value):
    """In whichever row it is, and whatever comes after it."""
    for row in range(SIZE):
        own = random(1, 1, SIZE, SIZE)
        own[0, 0, row, 0] = value
        bad = torch.zeros(())
        a = Attention(scores=own.masked_fill(~table(causal)[:1], -torch.inf))
        write_whole(a, sight(a), torch.zeros(1, 1, dtype=torch.long), blank(SIZE, True)[:1, :1], bad)
        assert bool(bad.isnan()), row


# -- more than a cache holds -------------------------------------------------------------------------------------------


def test_more_scores_than_are_formed_at_once():
    """The rows of one prompt are more than that; those of one head of both prompts are not."""
    size, heads = 160, 64
    padding = torch.ones(2, size, dtype=torch.bool)
    padding[1, 100:] = False
    a = Attention(query=random(2, heads, size, 2), key=random(2, 1, size, 2, seed=1), padding=padding)
    seen, every = sight(a), torch.arange(heads).expand(2, -1)
    assert 2 * 32 * size * 4 < _CACHE_BYTES["cpu"] < heads * 32 * size * 4
    together, apart = (torch.full((2, heads, 15, 32, 32), -torch.inf) for _ in range(2))
    write_whole(a, seen, every, together, torch.zeros(()))
    for head in range(heads):
        write_whole(a, seen, every[:, head : head + 1], apart[:, head : head + 1], torch.zeros(()))
    assert torch.equal(together.isfinite(), apart.isfinite())
    assert float((together.exp() - apart.exp()).abs().max()) <= 1e-6
