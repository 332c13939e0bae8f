"""In which order heads are removed, and what is left of a model's answers on prompts that did not decide it.

Axes: h heads, m measuring prompts, k sets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from numpy import ndarray

from apmae.analyze.answers import Drawn
from apmae.analyze.effects import Head, Measured, Prompts, cells, changes, weightings
from apmae.analyze.jackknife import Estimates, Weighting, ratio, weighted, with_draws
from apmae.analyze.rankings import doses_of, rank_heads, sets_of
from apmae.config import HEAD_RANKINGS, PruneConfig
from apmae.schema import NOISE, PRUNED_SETS, PRUNING, RANKED_HEADS
from apmae.study.reader import Study

RANDOM = "random"
"""The ranking that knows nothing: random sets of the same size, which all rankings share."""
MOST_FIRST = ("unknown", "first_token")
"""Rankings that remove the heads with the largest scores first; all others remove those with the smallest."""
_EIGHTHS = (1, 2, 3, 4, 6)


def unknown_shares(study: Study, prompts: Sequence[int], heads: Sequence[Head]) -> Float[ndarray, " h"]:
    """Share of each head's patterns that are in no cluster of the study's atlas; NaN where it has none.

    Args:
        study: opened.
        prompts: numbers of the prompts that are looked at.
        heads: (layer, head) of each.
    """
    points = study.points
    own = np.isin(points["prompt"].to_numpy(), prompts)
    layer, head = (points[name].to_numpy()[own].astype(np.int64) for name in ("layer", "head"))
    wide = max((head for _, head in heads), default=0) + 1
    there = head < wide
    place, unknown = (layer * wide + head)[there], (points["cluster"].to_numpy()[own] == NOISE)[there]
    numbers = np.array([layer * wide + head for layer, head in heads])
    size = int(max(numbers.max(initial=0), place.max(initial=0))) + 1
    with np.errstate(invalid="ignore"):
        shares = np.bincount(place, unknown, size) / np.bincount(place, minlength=size)
    return shares[numbers]


def mean_readings(readings: pa.Table, heads: Sequence[Head]) -> dict[str, Float[ndarray, " h"]]:
    """Scores of each head over the prompts of the ranking half, from ``schema.HEAD_READINGS``.

    All are means; of "attribution" its size on each prompt counts, whatever its sign. Changes that a straight line
    foresees are too large where heads matter most, so with their sign the heads first removed would be those. Prompts
    without a figure do not count; a head without any has NaN.
    """
    number = {head: place for place, head in enumerate(heads)}
    place = np.array([number[own] for own in zip(*(readings[n].to_pylist() for n in ("layer", "head")), strict=True)])
    found = {}
    for name in ("gradient", "attribution", "flow", "first_token"):
        values = readings[name].to_numpy().astype(np.float64)
        values = np.abs(values) if name == "attribution" else values
        there = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            sums = np.bincount(place[there], values[there], len(heads))
            found[name] = sums / np.bincount(place[there], minlength=len(heads))
    return found


def rank_table(scores: Mapping[str, Float[ndarray, " h"]], heads: Sequence[Head], seed: int) -> pa.Table:
    """``schema.RANKED_HEADS``: equal heads are in random order, and heads without a score come last."""
    rows = []
    for ranking in (name for name in HEAD_RANKINGS if name in scores):
        score = scores[ranking]
        order = rank_heads(-score if ranking in MOST_FIRST else score, "helpful", seed)
        for place, number in enumerate(order.tolist()):
            layer, head = heads[number]
            value = float(score[number])
            own = {"layer": layer, "head": head, "place": place, "score": value if np.isfinite(value) else None}
            rows.append({"ranking": ranking, **own})
    return pa.Table.from_pylist(rows, schema=RANKED_HEADS)


def order_of(ranked: pa.Table, ranking: str) -> list[Head]:
    """Heads in the order in which a ranking removes them; empty if there is no such ranking."""
    rows = sorted((row for row in ranked.to_pylist() if row["ranking"] == ranking), key=lambda row: row["place"])
    return [(row["layer"], row["head"]) for row in rows]


def pruning_doses(heads: int, config: PruneConfig) -> list[int]:
    """How many heads are removed together."""
    return doses_of(heads, config.doses or [max(1, round(heads * eighths / 8)) for eighths in _EIGHTHS])


def plan_pruning(ranked: pa.Table, heads: Sequence[Head], config: PruneConfig) -> pa.Table:
    """``schema.PRUNED_SETS``: the first heads of each ranking at each dose, and random sets.

    Args:
        ranked: ``schema.RANKED_HEADS``.
        heads: by layer and head.
        config: doses, draws, seed.
    """
    number = {head: place for place, head in enumerate(heads)}
    layer = np.array([one for one, _ in heads], np.int64)
    doses, nothing = pruning_doses(len(heads), config), np.zeros(len(heads))
    rows: list[dict[str, Any]] = []
    known: dict[tuple[int, ...], int] = {}
    drawn: set[tuple[int, int]] = set()
    for ranking in dict.fromkeys(ranked["ranking"].to_pylist()):
        order = np.array([number[head] for head in order_of(ranked, ranking)])
        for own in sets_of(order, nothing, layer, doses, config.draws, config.seed, "pruning", ranking):
            random = own.control == "size"
            if own.control == "effect" or (random and (own.dose, own.draw) in drawn):
                continue
            if random:
                drawn.add((own.dose, own.draw))
            layers, places = zip(*(heads[place] for place in own.heads), strict=True)
            rows.append(
                {
                    "set": known.setdefault(own.heads, len(known)),
                    "ranking": RANDOM if random else ranking,
                    "dose": own.dose,
                    "control": "" if random else own.control,
                    "draw": own.draw,
                    "layers": layers,
                    "heads": places,
                }
            )
    return pa.Table.from_pylist(rows, schema=PRUNED_SETS)


def most_pruned(heads: int, rankings: int, config: PruneConfig) -> int:
    """How many sets there are at most, before heads are ranked."""
    doses = pruning_doses(heads, config)
    alone = sum(dose < heads for dose in doses)
    return alone * (rankings * (1 + config.draws) + config.draws) + (heads in doses)


def pruned_heads(sets: pa.Table) -> list[tuple[Head, ...]]:
    """The heads of each set that is removed, by its number."""
    found: dict[int, tuple[Head, ...]] = {}
    for row in sets.to_pylist():
        found[row["set"]] = tuple(zip(row["layers"], row["heads"], strict=True))
    return [found[number] for number in range(len(found))]


def pruning_table(prompts: Prompts, before: Measured, sets: pa.Table, removed: Measured, drawn: Drawn) -> pa.Table:
    """``schema.PRUNING``.

    Args:
        prompts: all of them.
        before: the model as it is, on all of them.
        sets: ``schema.PRUNED_SETS``.
        removed: each set removed, on the measuring half, by the sets' numbers.
        drawn: how prompts were chosen by outcome.
    """
    own = prompts.measuring
    half = prompts.rows(own)
    figures = _Figures(before.rows(own), half, drawn)
    choices: dict[tuple[str, int], dict[str, list[int]]] = {}
    heads = pruned_heads(sets)
    for row in sets.to_pylist():
        kinds = choices.setdefault((row["ranking"], row["dose"]), {})
        kinds.setdefault(row["control"], []).append(row["set"])
    claims = sum(ranking != RANDOM for ranking, _ in choices)
    rows: list[dict[str, Any]] = []
    for (ranking, dose), kinds in choices.items():
        for control, numbers in kinds.items():
            row: dict[str, Any] = {"ranking": ranking, "dose": dose, "control": control, "sets": len(numbers)}
            row |= figures.of(removed, numbers, claims)
            if control:
                ranked = set(heads[kinds[""][0]])
                row["shared"] = float(np.mean([len(ranked & set(heads[number])) / dose for number in numbers]))
                row |= figures.beyond(removed, kinds[""], numbers)
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=PRUNING)


class _Figures:
    """Figures of sets, with errors over files and over random draws."""

    def __init__(self, before: Measured, half: Prompts, drawn: Drawn) -> None:
        self._before, self._group = before, half.group
        self._weighed = weightings(half, before.correct, drawn)

    def of(self, removed: Measured, numbers: list[int], claims: int) -> dict[str, float | None]:
        """Columns of one set, or of several draws.

        ``claims`` intervals of ``kept_all`` hold at once; they are at the natural rate if that is known.
        """
        correct = removed.correct[:, numbers].astype(np.float64)
        base = self._before.correct.astype(np.float64)
        found: dict[str, float | None] = {}
        for name, weighting in self._weighed.items():
            found |= _within(cells(name, self._mean(correct, weighting)), 1.0)
        for name, column in (("drawn", "kept"), ("natural", "kept_natural")):
            if name not in self._weighed:
                continue
            every = ratio(correct, base, self._group, self._weighed[name])
            share = ratio(correct.mean(1, keepdims=True), base, self._group, self._weighed[name])
            share = with_draws(share, every.value[:, None])
            found |= _within(cells(column, share), np.inf)
            if column == "kept_natural" or "natural" not in self._weighed:
                ends = (float(end[0]) for end in share.bounds(claims))
                found |= dict(zip(("kept_all_low", "kept_all_high"), map(_finite, ends), strict=True))
        moved = changes(self._before, Measured(*(values[:, numbers] for values in removed)))
        for name in ("log_probability", "elsewhere"):
            found |= cells(name, self._mean(getattr(moved, name)))
        return found

    def beyond(self, removed: Measured, chosen: list[int], numbers: list[int]) -> dict[str, float | None]:
        """Columns of the difference between the ranked heads and a control, prompt by prompt."""
        found: dict[str, float | None] = {}
        columns = [("drawn", "correct"), ("log_probability",) * 2, ("elsewhere",) * 2]
        columns += [("natural", "correct")] if "natural" in self._weighed else []
        for name, field in columns:
            values = getattr(removed, field).astype(np.float64)
            found |= cells(
                f"{name}_beyond", self._mean(values[:, chosen] - values[:, numbers], self._weighed.get(name))
            )
        return found

    def _mean(self, values: Float[ndarray, "m d"], weighting: Weighting | None = None) -> Estimates:
        draws = weighted(values, self._group, weighting).value
        return with_draws(weighted(values.mean(1, keepdims=True), self._group, weighting), draws[:, None])


def _within(found: Mapping[str, float | None], most: float) -> dict[str, float | None]:
    """Ends of intervals that lie where no such figure can be, moved to 0 or to the most that there can be."""
    return {name: None if value is None else min(max(value, 0.0), most) for name, value in found.items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def even_choice(
    order: Sequence[Head], counts: Mapping[int, int], groups: Mapping[int, int], count: int
) -> tuple[list[Head], list[Head]]:
    """Heads that can be taken out of the weights: whole groups that share keys and values, as many in each layer.

    In each layer go the groups whose heads come first on average.

    Args:
        order: from :func:`order_of`.
        counts: heads of each layer.
        groups: heads that share keys and values, of each layer.
        count: how many heads are wanted.

    Returns:
        The heads of the largest choice of at most ``count``, and of the smallest of at least ``count`` (empty if it
        would leave a layer without heads).
    """
    place: dict[Head, int] = {head: number for number, head in enumerate(order)}

    def chosen(each: int) -> list[Head]:
        found: list[Head] = []
        for layer, own in counts.items():
            size = groups[layer]
            parts = [[(layer, head) for head in range(first, first + size)] for first in range(0, own, size)]
            parts.sort(key=lambda part: np.mean([place[head] for head in part]))
            if each >= len(parts):
                return []
            found += [head for part in parts[:each] for head in part]
        return sorted(found)

    every = [chosen(each) for each in range(1, 1 + max(counts.values()))]
    below = [own for own in every if own and len(own) <= count]
    above = [own for own in every if len(own) >= count]
    return (below[-1] if below else []), (above[0] if above else [])
