"""Hand-made scores of the heads of one prompt: how much of each known behaviour a pattern shows, in [0, 1].

Each is a mean over query rows of the attention that falls where the behaviour would put it. Names and definitions:

=============  ====================================================================================================
first_token    mass on key 0, rows 1.. ("attention sink", Xiao et al. 2023, arXiv 2309.17453)
previous       mass on key q-1, rows 1.. (previous-token head, Elhage et al. 2021)
self           mass on key q, rows 1..
local          mass on keys q-8 .. q-2, rows 8.. (a band beside the two above)
duplicate      mass on earlier copies of the query's token, rows that have one (Wang et al. 2023)
induction      mass on the token after an earlier copy of the query's token, rows that have one (Olsson et al. 2022)
columns        mass that the four strongest keys other than key 0 draw from rows at least 8 later
uniform        entropy of a row over log(keys), rows 1..
=============  ====================================================================================================

Axes: h patterns, t tokens, c token kinds.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from numpy import ndarray
from torch import Tensor

from apmae.schema import KINDS, SCORES

LOCAL = 8
"""Width of the local band, tokens."""
_TOP_COLUMNS = 4
_MIN_COLUMN_ROWS = 16


class Scores(NamedTuple):
    """What a prompt's patterns score."""

    values: Float[ndarray, "h s"]
    """One column a score, in the order of ``schema.SCORES``; NaN where the prompt has no row to measure it on."""
    key_kinds: Float[ndarray, "h c"]
    """Mass on keys of each kind (key 0 apart) beyond what even attention would put there, in [-1, 1]."""
    query_kinds: Float[ndarray, "h c"]
    """Mass that queries of each kind put elsewhere than on key 0, beyond the mean query's, in [-1, 1]."""


def score(
    probabilities: Float[Tensor, "h t t"], token_ids: Int[ndarray, " t"] | None, kinds: Int8[ndarray, " t"] | None
) -> Scores:
    """Score the patterns of one prompt.

    Args:
        probabilities: causal patterns over the prompt's own tokens, rows sum to 1.
        token_ids: the prompt's tokens; None leaves duplicate and induction unmeasured (NaN).
        kinds: codes of ``patterns.tokens.token_kinds``; None leaves the kinds at 0.
    """
    heads, size = probabilities.shape[:2]
    values = torch.full((heads, len(SCORES)), torch.nan)
    targets = _targets(size, token_ids)
    if targets:
        weights = torch.stack([target / target.sum(-1).gt(0).sum() for target in targets.values()], dim=-1)
        masses = probabilities.flatten(1) @ weights.flatten(0, 1)
        values[:, [SCORES.index(name) for name in targets]] = masses
    values[:, SCORES.index("columns")] = _columns(probabilities)
    values[:, SCORES.index("uniform")] = _uniform(probabilities)
    return Scores(values.numpy(), *_kinds(probabilities, kinds))


def _targets(size: int, token_ids: Int[ndarray, " t"] | None) -> dict[str, Float[Tensor, "t t"]]:
    """For each score that is a mass: 1 where (query_pos, key_pos) counts. Rows without a target are not measured."""
    query, key = torch.arange(size)[:, None], torch.arange(size)[None, :]
    back = query - key
    targets = {
        "first_token": (key == 0) & (query > 0),
        "previous": back == 1,
        "self": (back == 0) & (query > 0),
        "local": (back >= 2) & (back <= LOCAL) & (query >= LOCAL),
    }
    if token_ids is not None:
        ids = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        same = ids[:, None] == ids[None, :]
        after = torch.zeros_like(same)
        after[:, 1:] = same[:, :-1]
        targets["duplicate"] = same & (back > 0)
        targets["induction"] = after & (back > 0)
    return {name: target.float() for name, target in targets.items() if target.any()}


def _columns(probabilities: Float[Tensor, "h t t"]) -> Float[Tensor, " h"]:
    size = probabilities.shape[-1]
    query, key = torch.arange(size)[:, None], torch.arange(size)[None, :]
    later = ((query >= key + LOCAL) & (key > 0)).float()
    rows = later.sum(0)
    if rows.amax() < _MIN_COLUMN_ROWS:
        return torch.full((len(probabilities),), torch.nan)
    strength = torch.einsum("hqk,qk->hk", probabilities, later) / rows.clamp(min=1)
    strength = strength.masked_fill(rows < _MIN_COLUMN_ROWS, 0.0)
    return strength.topk(min(_TOP_COLUMNS, size), dim=-1).values.sum(-1).clamp(max=1.0)


def _uniform(probabilities: Float[Tensor, "h t t"]) -> Float[Tensor, " h"]:
    size = probabilities.shape[-1]
    if size < 2:
        return torch.full((len(probabilities),), torch.nan)
    entropy = torch.special.entr(probabilities).sum(-1)[:, 1:]
    return (entropy / torch.arange(2, size + 1).log()).mean(-1)


def _kinds(
    probabilities: Float[Tensor, "h t t"], kinds: Int8[ndarray, " t"] | None
) -> tuple[Float[ndarray, "h c"], Float[ndarray, "h c"]]:
    heads, size = probabilities.shape[:2]
    if kinds is None or size < 2:
        return np.zeros((heads, len(KINDS)), np.float32), np.zeros((heads, len(KINDS)), np.float32)
    kind = torch.nn.functional.one_hot(torch.from_numpy(kinds.astype(np.int64)), len(KINDS)).float()  # t c
    keys = kind.clone()
    keys[0] = 0  # key 0 is the sink's, whatever its text
    even = (keys.cumsum(0) / torch.arange(1, size + 1)[:, None])[1:].mean(0)  # mass of a uniform causal pattern
    mass = probabilities[:, 1:].mean(1) @ keys
    away = 1 - probabilities[:, 1:, 0]  # h t-1
    count = kind[1:].sum(0)
    by_query = (away @ kind[1:]) / count.clamp(min=1) - away.mean(-1, keepdim=True)
    return (mass - even).numpy(), by_query.masked_fill(count == 0, 0.0).numpy()
