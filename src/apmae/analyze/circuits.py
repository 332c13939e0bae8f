"""Which heads carry a task, how well cheap scores find them, and how far that can be trusted. Torch-free.

Heads are ranked by the size of their mean over pairs, whatever its sign. Heads that a score cannot tell apart come in a
random order, so that none gains by its place in the model.

*Recall at k* is the share of the k heads with the largest exact effects that a shortlist has; *share* is the part of
the summed sizes of all heads' effects that it has, which small effects at the end of the top k do not blur. What they
stand beside: a random shortlist, whose expected recall and share are its size over the number of heads; and the
*halves*, how well the exact effects on one half of the groups give those of the other half. Filters are judged on the
pairs that they come from, so they can be above that.

Axes: p pairs, h heads, g groups, s sizes of the shortlist (1 to h), r resamples.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.schema import CIRCUIT, CIRCUIT_EDGES, CIRCUIT_RECALL, CIRCUIT_TASKS, FILTERS
from apmae.seeding import generator

FEWEST_GROUPS = 8
"""Groups of prompts below which no interval is given: resampling fewer says little about others."""
_FEWEST_TO_SPLIT = 4
_SPLITS = 200
"""Most random halves."""
TOPS = (5, 10)

Head = tuple[int, int]
"""(layer, head)."""


class Measured(NamedTuple):
    """What was measured of one task."""

    heads: list[Head]
    """All heads, by layer and number."""
    groups: list[str]
    """Of each pair: pairs of one group may be alike."""
    clean: Float[ndarray, " p"]
    """Logit difference in prompts."""
    counterfactual: Float[ndarray, " p"]
    scores: dict[str, Float[ndarray, "p h"]]
    """By filter, ``random`` left out."""
    effects: Float[ndarray, "p h"]
    """Exact; NaN in the columns of heads that were not patched."""

    @property
    def patched(self) -> Bool[ndarray, " h"]:
        """Heads that were patched."""
        return np.any(~np.isnan(self.effects), axis=0)


class Reliability(NamedTuple):
    """How well the effects on one half of the groups give those of the other, the mean over random halves."""

    top_5: float
    """Share of the one half's top five that the other half has too."""
    top_10: float
    share: float
    """Part of the one half's summed effects that belongs to the other half's top ten."""


class Curve(NamedTuple):
    """What a shortlist of each size has."""

    recall: dict[int, Float[ndarray, " s"]]
    """By k; left out where the model has no more than k heads."""
    share: Float[ndarray, " s"]


def shortlist_size(share: float, heads: int) -> int:
    """Heads in a shortlist: a share of all, rounded up."""
    return min(ceil(round(share * heads, 9)), heads)


def ranked(scores: Float[ndarray, " h"], seed: int, *names: str) -> Int[ndarray, " h"]:
    """Indices of heads, the largest size of score first; those that are equal in a random order.

    Args:
        scores: of each head; NaN comes last.
        seed: of the random order.
        names: what it is for.
    """
    sizes = np.nan_to_num(np.abs(scores), nan=-1.0)
    order = generator(seed, "ties", *names).permutation(len(scores))
    return order[np.argsort(-sizes[order], kind="stable")]


def ranking_of(name: str, measured: Mapping[str, Float[ndarray, "p h"]], heads: int, seed: int, task: str) -> ndarray:
    """Indices of heads as a filter ranks them.

    Args:
        name: one of ``schema.FILTERS``.
        measured: scores per pair, by filter.
        heads: how many there are.
        seed: decides ties, and the random filter.
        task: whose heads they are.
    """
    if name == "random":
        return np.argsort(-random_scores(heads, seed, task), kind="stable")
    return ranked(measured[name].mean(0), seed, name, task)


def random_scores(heads: int, seed: int, task: str) -> Float[ndarray, " h"]:
    """A uniform number per head."""
    return generator(seed, "random filter", task).random(heads)


def intervals(
    effects: Float[ndarray, "p h"], groups: list[str], resamples: int, seed: int
) -> tuple[Float[ndarray, " h"], Float[ndarray, " h"]]:
    """95 % bootstrap intervals of mean effects, groups drawn anew with all their pairs.

    Args:
        effects: of each pair.
        groups: of each pair.
        resamples: draws.
        seed: of the draws.

    Returns:
        Lower and upper ends; NaN with fewer than :data:`FEWEST_GROUPS` groups.
    """
    sums, sizes = _by_group(effects, groups)
    if len(sizes) < FEWEST_GROUPS:
        nothing = np.full(effects.shape[1], np.nan)
        return nothing, nothing
    drawn = generator(seed, "circuit intervals").integers(len(sizes), size=(resamples, len(sizes)))
    often = np.stack([np.bincount(row, minlength=len(sizes)) for row in drawn])
    means = (often @ sums) / (often @ sizes)[:, None]
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def reliability(effects: Float[ndarray, "p h"], groups: list[str], splits: int, seed: int) -> Reliability | None:
    """Compare the effects on random halves of the groups.

    Args:
        effects: of each pair, of all heads.
        groups: of each pair.
        splits: random halves, at most 200.
        seed: of the halves.

    Returns:
        None with fewer than four groups. A top that is not smaller than the model is NaN.
    """
    sums, sizes = _by_group(effects, groups)
    if len(sizes) < _FEWEST_TO_SPLIT:
        return None
    found = []
    for number in range(min(splits, _SPLITS)):
        order = generator(seed, "circuit halves", number).permutation(len(sizes))
        halves = np.array_split(order, 2)
        means = [np.abs(sums[own].sum(0) / sizes[own].sum()) for own in halves]
        ranks = [ranked(mean, seed, "halves", str(number), str(half)) for half, mean in enumerate(means)]
        row = [_overlap(ranks[0], ranks[1], top) for top in TOPS]
        parts = [
            own[other[: TOPS[-1]]].sum() / max(own.sum(), 1e-12) for own, other in zip(means, ranks[::-1], strict=True)
        ]
        found.append([*row, float(np.mean(parts))])
    return Reliability(*np.mean(found, axis=0).tolist())


def curve(effects: Float[ndarray, " h"], order: Int[ndarray, " h"], best: Int[ndarray, " h"]) -> Curve:
    """What the first heads of an order have of the true effects, for each number of them.

    Args:
        effects: mean exact effect of each head.
        order: indices of heads, as a filter ranks them.
        best: as the exact effects rank them.
    """
    sizes = np.abs(effects)
    recall = {top: np.isin(order, best[:top]).cumsum() / top for top in TOPS if len(order) > top}
    return Curve(recall, sizes[order].cumsum() / max(sizes.sum(), 1e-12))


def by_chance(heads: int) -> Curve:
    """What a random shortlist of each size is expected to have."""
    expected = np.arange(1, heads + 1) / heads
    return Curve({top: expected for top in TOPS if heads > top}, expected)


def circuit_table(task: str, found: Measured, shortlisted: ndarray, resamples: int, seed: int) -> pa.Table:
    """``schema.CIRCUIT`` of one task.

    Args:
        task: its name.
        found: what was measured.
        shortlisted: indices of the heads that the filter took.
        resamples: as for :func:`intervals`.
        seed: of all draws.
    """
    patched, count = found.patched, len(found.heads)
    effect, low, high, share = (np.full(count, np.nan) for _ in range(4))
    rank = np.zeros(count, np.int64)
    own = found.effects[:, patched]
    effect[patched] = own.mean(0)
    low[patched], high[patched] = intervals(own, found.groups, resamples, seed)
    share[patched] = np.abs(effect[patched]) / max(np.abs(effect[patched]).sum(), 1e-12)
    best = ranked(effect, seed, "exact", task)
    rank[best] = np.arange(1, count + 1)
    columns = {
        "task": [task] * count,
        "layer": [layer for layer, _ in found.heads],
        "head": [head for _, head in found.heads],
        **{name: _nullable(found.scores[name].mean(0)) for name in FILTERS if name != "random"},
        "random": random_scores(count, seed, task),
        "shortlisted": np.isin(np.arange(count), shortlisted),
        "effect": _nullable(effect),
        "low": _nullable(low),
        "high": _nullable(high),
        "share": _nullable(share),
        "rank": pa.array(rank, mask=~patched),
    }
    return _table(columns, CIRCUIT)


def recall_table(task: str, found: Measured, forwards: Mapping[str, int], runs: int, seed: int) -> pa.Table:
    """``schema.CIRCUIT_RECALL`` of one task, of which all heads were patched.

    Args:
        task: its name.
        found: what was measured.
        forwards: per pair, of each filter.
        runs: forwards per pair that patching needs whatever the number of heads.
        seed: of ties.
    """
    effects, count = found.effects.mean(0), len(found.heads)
    best = ranked(effects, seed, "exact", task)
    sizes = np.arange(1, count + 1)
    parts = []
    for name in FILTERS:
        if name != "random" and np.isnan(found.scores[name]).any():
            continue
        own = (
            by_chance(count)
            if name == "random"
            else curve(effects, ranking_of(name, found.scores, count, seed, task), best)
        )
        columns = {
            "task": [task] * count,
            "filter": [name] * count,
            "heads": sizes,
            **{f"recall_{top}": own.recall.get(top, [None] * count) for top in TOPS},
            "share": own.share,
            "forwards": forwards[name] + runs + sizes,
        }
        parts.append(_table(columns, CIRCUIT_RECALL))
    return pa.concat_tables(parts)


def task_row(task: str, found: Measured, splits: int, seed: int) -> pa.Table:
    """``schema.CIRCUIT_TASKS`` of one task."""
    halves = reliability(found.effects, found.groups, splits, seed) if found.patched.all() else None
    columns = {
        "task": [task],
        "pairs": [len(found.groups)],
        "groups": [len(set(found.groups))],
        "clean": [found.clean.mean()],
        "counterfactual": [found.counterfactual.mean()],
        "fell": [(found.counterfactual < found.clean).mean()],
        "halves_5": _nullable(np.array([halves.top_5 if halves else np.nan])),
        "halves_10": _nullable(np.array([halves.top_10 if halves else np.nan])),
        "halves_share": _nullable(np.array([halves.share if halves else np.nan])),
    }
    return _table(columns, CIRCUIT_TASKS)


def edge_table(
    task: str,
    edges: list[tuple[Head, Head]],
    effects: Float[ndarray, "p e"],
    groups: list[str],
    resamples: int,
    seed: int,
) -> pa.Table:
    """``schema.CIRCUIT_EDGES`` of one task, the largest effects first.

    Args:
        task: its name.
        edges: sender and receiver of each.
        effects: of each pair.
        groups: of each pair.
        resamples: as for :func:`intervals`.
        seed: of the draws.
    """
    low, high = intervals(effects, groups, resamples, seed) if edges else (np.zeros(0), np.zeros(0))
    mean = effects.mean(0)
    order = np.argsort(-np.abs(mean), kind="stable")
    columns = {
        "task": [task] * len(edges),
        "layer": [edges[at][0][0] for at in order],
        "head": [edges[at][0][1] for at in order],
        "to_layer": [edges[at][1][0] for at in order],
        "to_head": [edges[at][1][1] for at in order],
        "effect": mean[order],
        "low": _nullable(low[order]),
        "high": _nullable(high[order]),
    }
    return _table(columns, CIRCUIT_EDGES)


def _by_group(effects: Float[ndarray, "p h"], groups: list[str]) -> tuple[Float[ndarray, "g h"], Float[ndarray, " g"]]:
    """Sums of effects and numbers of pairs, by group in the order of their names."""
    names, at = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), effects.shape[1]))
    np.add.at(sums, at, effects.astype(np.float64))
    return sums, np.bincount(at, minlength=len(names)).astype(np.float64)


def _overlap(one: ndarray, other: ndarray, top: int) -> float:
    if len(one) <= top:
        return np.nan
    return len(np.intersect1d(one[:top], other[:top])) / top


def _nullable(values: Float[ndarray, " n"]) -> pa.Array:
    """NaN as null."""
    return pa.array(values.astype(np.float32), pa.float32(), from_pandas=True)


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(own).cast(kind.type) for own, kind in zip(columns.values(), schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
