"""Hand-made scores of patterns: how much of each known behaviour a head shows on a prompt.

Each score is a mean over the prompt's query rows. Masses and shares are in [0, 1]; a head that does nothing else
scores 1 or nearly 1. ``docs/scores.md`` has the formulas.

=============  ===========  ============================================================================================
first_token    mass         on key 0, rows 1.. ("attention sink", Xiao et al. 2023, arXiv 2309.17453)
previous       mass         on key q-1, rows 1.. (previous-token head, Elhage et al. 2021)
self           mass         on key q, rows 1..
local          mass         on keys q-8 .. q-2, rows 8.. (a band without the two above)
duplicate      mass         on earlier copies of the query's token, rows that have one (Wang et al. 2023,
                            arXiv 2211.00593)
induction      mass         on the token after an earlier copy of the query's token, rows that have one (Olsson et al.
                            2022, arXiv 2209.11895)
retrieval      mass         on keys at least 32 tokens back other than key 0, rows 33.. (what a cache of only sink and
                            recent tokens loses, Xiao et al. 2024, arXiv 2410.10819; retrieval heads, Wu et al. 2024,
                            arXiv 2404.15574)
columns        mass         that the four strongest keys other than key 0 draw from rows at least 8 later
blocks         share        in [0, 1): how far the pattern splits into blocks on the diagonal (``patterns/blocks.py``)
uniform        share        entropy of a row / log(number of its keys), rows 1..
entropy        nats         entropy of a row, rows 1..; from 0 to log(t)
local_width    tokens       smallest w such that keys q-w .. q draw half of the mass off key 0, over all rows; from 0 to
                            t-1; not measured if less than 1 % of the mass is off key 0
later_sink     mass         on sinks other than key 0, rows that see one; sinks are keys that nearly all rows that see
                            them attend to (``patterns/sinks.py``); 0 if there are none
=============  ===========  ============================================================================================

In square patterns (encoders) a row has keys on both sides: local, retrieval, columns and local_width count distance in
both directions, and duplicate counts later copies too. induction and blocks need an order and are not measured.

Axes: n patterns, t tokens, b prompts, s scores, c token kinds, k patches, p pixels along a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.patterns.batch import Batch, batch_of, own_tokens, rows_of_tokens
from apmae.patterns.blocks import block_structure
from apmae.patterns.marginals import by_distance, by_key, by_query, near
from apmae.patterns.patterns import Patterns
from apmae.patterns.sinks import find_sinks
from apmae.patterns.tokens import token_kinds
from apmae.schema import KINDS, SCORES

LOCAL = 8
"""Width of the local band, in tokens."""
DISTANT = 32
"""Smallest distance, in tokens, at which a key counts as distant."""
_TOP_COLUMNS = 4
_MIN_COLUMN_ROWS = 16
_MIN_AWAY = 0.01
_PIXELS = 1 << 20
"""Pixels scored at a time: a few arrays of 4 MB. Larger ones are often mapped and cleared anew, which takes longer than
what is done with them."""


@dataclass(frozen=True)
class Scores:
    """The scores of some patterns; rows are in the patterns' order."""

    prompt: Int[ndarray, " n"]
    layer: Int[ndarray, " n"]
    head: Int[ndarray, " n"]
    values: Float[ndarray, "n s"]
    """One column per score, in the order of ``schema.SCORES``; NaN where the prompt has no row to measure it on."""
    key_kinds: Float[ndarray, "n c"]
    """Mass on keys of each kind, except key 0, minus what even attention would put there; in [-1, 1]."""
    query_kinds: Float[ndarray, "n c"]
    """Mass off key 0 of queries of each kind, minus that of the mean query; in [-1, 1]."""
    sinks: tuple[tuple[int, ...], ...]
    """(n) Positions of each pattern's sinks, key 0 too, counted from the first token; the strongest first."""

    def __getitem__(self, name: str) -> Float[ndarray, " n"]:
        """One score for all patterns, by its name in ``schema.SCORES``."""
        return self.values[:, SCORES.index(name)]

    @property
    def table(self) -> pa.Table:
        """One row per pattern: prompt, layer, head, one column per score (NaN: not measured), and sinks (lists)."""
        where = {"prompt": self.prompt, "layer": self.layer, "head": self.head}
        sinks = pa.array(self.sinks, pa.list_(pa.int32()))
        return pa.table({**where, **{name: self[name] for name in SCORES}, "sinks": sinks})


def score(
    patterns: Patterns,
    token_ids: Sequence[Any] | ndarray | Tensor | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
) -> Scores:
    """Score every pattern of a batch of prompts.

    Padding (empty rows, on the left or on the right) is ignored; key 0 is the first real token.

    Args:
        patterns: of any number of prompts, with any heads of each.
        token_ids: one row of token ids per prompt, in the order of the prompts' numbers: the model's input, or each
            prompt's tokens without padding. duplicate and induction are not measured (NaN) if it is None, or for
            pooled prompts, because their rows are not tokens.
        tokens: the same as texts, for the token kinds; by default those of the patterns. If there are none, the kinds
            are 0.

    Raises:
        CaptureError: if there are not as many rows of tokens as prompts, or a row has too few tokens.
    """
    numbers, index = np.unique(patterns.prompt, return_inverse=True)
    if tokens is None and patterns.tokens is not None and set(numbers.tolist()) <= set(patterns.tokens):
        tokens = [patterns.tokens[number] for number in numbers.tolist()]
    ids = None if token_ids is None else rows_of_tokens("token_ids", token_ids, patterns)
    kinds = None if tokens is None else rows_of_tokens("tokens", [token_kinds(texts) for texts in tokens], patterns)
    order = np.argsort(index, kind="stable")
    step = max(_PIXELS // max(patterns.log_patches[:1].numel(), 1), 1)
    values = np.full((len(patterns), len(SCORES)), np.nan, np.float32)
    key_kinds, query_kinds = (np.zeros((len(patterns), len(KINDS)), np.float32) for _ in range(2))
    sinks: list[tuple[int, ...]] = [()] * len(patterns)
    for begin in range(0, len(patterns), step):
        chosen = order[begin : begin + step]
        batch = batch_of(patterns, chosen, index[chosen])
        scores, positions = _scores(batch, ids)
        for name, value in scores.items():
            values[chosen, SCORES.index(name)] = value.cpu().numpy()
        for place, keys in zip(chosen.tolist(), positions, strict=True):
            sinks[place] = keys
        if kinds is not None:
            key_kinds[chosen], query_kinds[chosen] = (excess.cpu().numpy() for excess in _kinds(batch, kinds))
    return Scores(patterns.prompt, patterns.layer, patterns.head, values, key_kinds, query_kinds, tuple(sinks))


def _scores(
    batch: Batch, ids: list[Int[ndarray, " _"] | None] | None
) -> tuple[dict[str, Float[Tensor, " n"]], list[tuple[int, ...]]]:
    """Every score that can be measured, by name, and the positions of each pattern's sinks."""
    where, real, sink = batch.where, batch.real, batch.sink
    position = torch.arange(where.size, device=sink.device)
    later = real & (position > 0)
    count = later.sum(1)
    length = real.sum(1, keepdim=True)
    keys = position + 1 if where.causal else length
    nearest = near(batch.patches, range(LOCAL + 1), where)
    local = nearest[:, LOCAL:, 2:].sum((1, 2))
    distant = position > DISTANT
    if not where.causal:
        local = local + near(batch.patches, range(-LOCAL, -1), where)[:, LOCAL:].sum((1, 2))
        distant = distant | (position + DISTANT < length)
    back, ahead = by_distance(batch.patches, where)
    off_back = (back - sink).clamp(min=0)  # for row q, key 0 is q tokens back
    sinks = find_sinks(batch.patches, nearest[:, :, 0], batch.visible, real, where)
    scores = {
        "first_token": _mean(sink[:, 1:].sum(1), count),
        "previous": _mean(nearest[:, :, 1].sum(1), count),
        "self": _mean(nearest[:, 1:, 0].sum(1), count),
        "local": _mean(local, (real & (position >= LOCAL)).sum(1)),
        "retrieval": _mean((off_back + ahead)[:, DISTANT:].sum(1), (real & distant).sum(1)),
        "columns": _columns(batch),
        "uniform": _mean((batch.entropy / keys.log().clamp(min=1e-6) * later).sum(1), count),
        "entropy": _mean((batch.entropy * later).sum(1), count),
        "local_width": _local_width(off_back + ahead, count),
        "later_sink": sinks.later,
    }
    if where.causal:
        away = ((batch.mass - sink) * later).clamp(min=0)
        blocks = block_structure(batch.patches, nearest, away, off_back, real, where)
        scores["blocks"] = blocks.masked_fill(count == 0, torch.nan)
    return scores | (_token_scores(batch, ids) if ids is not None else {}), sinks.positions()


def _mean(total: Float[Tensor, "*n"], rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """A mean over rows; NaN if there are none."""
    return torch.where(rows > 0, total / rows, torch.nan)


def _local_width(distance: Float[Tensor, "n t"], rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    total = distance.sum(1, keepdim=True)
    # The margin keeps rounding from deciding where the sum is exactly half.
    width = (distance.cumsum(1) < (0.5 - 1e-5) * total).sum(1).float()
    return width.masked_fill(total[:, 0] < _MIN_AWAY * rows.clamp(min=1), torch.nan)


def _columns(batch: Batch) -> Float[Tensor, " n"]:
    where = batch.where
    far = where.back >= LOCAL if where.causal else where.back.abs() >= LOCAL
    drawn = by_key((batch.patches * far).sum(2), where)
    position = torch.arange(where.size, device=drawn.device)
    between = position[:, None] - position
    rows = batch.real.float() @ ((between >= LOCAL) if where.causal else (between.abs() >= LOCAL)).float()
    measured = (rows >= _MIN_COLUMN_ROWS) & (position > 0) & batch.real
    strength = (drawn / rows.clamp(min=1)).masked_fill(~measured, 0.0)
    strongest = strength.topk(min(_TOP_COLUMNS, where.size), dim=-1).values.sum(-1).clamp(max=1.0)
    return strongest.masked_fill(~measured.any(1), torch.nan)


def _token_scores(batch: Batch, ids: list[Int[ndarray, " _"] | None]) -> dict[str, Float[Tensor, " n"]]:
    where, patches = batch.where, batch.patches
    names = ["duplicate", "induction"] if where.causal else ["duplicate"]
    values = patches.new_full((len(patches), len(names)), torch.nan)
    other = where.back > 0 if where.causal else where.back != 0
    for number, own in batch.by_prompt():
        row = ids[number]
        if row is None:
            continue
        text = own_tokens(row, batch, own)
        previous = torch.nn.functional.pad(text[:-1], (1, 0), value=-2)  # the token before each token
        query = text[where.query][:, :, None]
        targets = [(query == of[where.key][:, None, :]) & other for of in (text, previous)[: len(names)]]
        mass = patches[own].flatten(1) @ torch.stack(targets).flatten(1).to(patches.dtype).T
        with_target = torch.cat([by_query(target.any(-1)[None].float(), where) for target in targets]) > 0
        values[own] = _mean(mass, (batch.real[own].float() @ with_target.float().T).long())
    return {name: values[:, i] for i, name in enumerate(names)}


def _kinds(batch: Batch, kinds: list[Int[ndarray, " _"] | None]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    where = batch.where
    position = torch.arange(where.size, device=batch.real.device)
    later = (batch.real & (position > 0)).float()
    count = later.sum(1, keepdim=True).clamp(min=1)
    drawn = by_key((batch.patches * later[:, where.query][..., None]).sum(2), where)
    away = (1 - batch.sink) * later
    by_key_kind, by_query_kind = (later.new_zeros(len(later), len(KINDS)) for _ in range(2))
    for number, own in batch.by_prompt():
        row = kinds[number]
        if row is None:
            continue
        codes = own_tokens(row, batch, own)
        kind = (codes[:, None] == torch.arange(len(KINDS), device=codes.device)).float()
        kind[0] = 0  # key 0 counts as the sink, whatever its text
        even = kind.cumsum(0) / (position + 1)[:, None]  # its mass in a uniform pattern
        if not where.causal:
            even = (kind.sum(0) / (codes >= 0).sum()).expand_as(kind)
        by_key_kind[own] = (drawn[own] @ kind - later[own] @ even) / count[own]
        of_kind = later[own] @ kind
        mean = (away[own] @ kind) / of_kind.clamp(min=1) - away[own].sum(1, keepdim=True) / count[own]
        by_query_kind[own] = mean.masked_fill(of_kind == 0, 0.0)
    return by_key_kind, by_query_kind
