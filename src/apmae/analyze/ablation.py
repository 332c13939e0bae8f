"""Which sets of heads are removed, and what their removal does on prompts that did not choose them.

Axes: m measuring prompts, k sets, h heads.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy import ndarray

from apmae.analyze.answers import Drawn
from apmae.analyze.effects import (
    MEASURES,
    Changes,
    Head,
    Measured,
    Prompts,
    cells,
    changes,
    mean_change,
    weightings,
)
from apmae.analyze.jackknife import Estimates, Weighting, weighted, with_draws
from apmae.analyze.rankings import RANKINGS, HeadSet, doses_of, rank_heads, sets_of
from apmae.config import AblateConfig
from apmae.schema import ABLATION, ABLATION_TASKS, HEAD_SETS

ACCURACIES = ("drawn", "balanced", "natural", "reweighting")
"""Changes of accuracy by how prompts are weighed; "reweighting" is "balanced" less "natural"."""
_KEY = ("mode", "ranking", "by", "dose")


def plan_sets(
    prompts: Prompts, before: Measured, after: Mapping[str, Measured], heads: Sequence[Head], config: AblateConfig
) -> pa.Table:
    """``schema.HEAD_SETS``: what is removed together, ranked by the ranking half.

    Args:
        prompts: all of them.
        before: the model as it is.
        after: of each mode, each head removed alone.
        heads: in the order of ``after``.
        config: doses, draws, seed.
    """
    layer = np.array([one for one, _ in heads], np.int64)
    doses = doses_of(len(heads), config.doses)
    rows: list[dict[str, Any]] = []
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    for mode, measured in after.items():
        moved = changes(before, measured).rows(prompts.ranks)
        for by in MEASURES:
            change = mean_change(moved, by)
            for ranking in RANKINGS:
                order = rank_heads(change, ranking, config.seed)
                for own in sets_of(order, change, layer, doses, config.draws, config.seed, mode, by, ranking):
                    number = numbers.setdefault((mode, own.heads), len(numbers))
                    rows.append({"set": number, "mode": mode, "ranking": ranking, "by": by, **_row(own, heads)})
    return pa.Table.from_pylist(rows, schema=HEAD_SETS)


def _row(own: HeadSet, heads: Sequence[Head]) -> dict[str, Any]:
    layers, numbers = zip(*(heads[place] for place in own.heads), strict=True)
    return {"dose": own.dose, "control": own.control, "draw": own.draw, "layers": layers, "heads": numbers}


def most_sets(heads: int, config: AblateConfig) -> int:
    """How many sets there are at most, before heads are ranked."""
    alone = [dose for dose in doses_of(heads, config.doses) if dose < heads]
    each = sum(1 + config.draws * (1 + (2 * dose <= heads)) for dose in alone)
    whole = heads in doses_of(heads, config.doses)
    return len(config.modes) * (len(MEASURES) * len(RANKINGS) * each + config.draws * len(alone) + whole)


def distinct_sets(sets: pa.Table) -> list[tuple[str, tuple[Head, ...]]]:
    """Mode and heads of each set that is removed, by its number."""
    found: dict[int, tuple[str, tuple[Head, ...]]] = {}
    for row in sets.to_pylist():
        found[row["set"]] = row["mode"], tuple(zip(row["layers"], row["heads"], strict=True))
    return [found[number] for number in range(len(found))]


def set_table(
    prompts: Prompts,
    before: Measured,
    after: Mapping[str, Measured],
    heads: Sequence[Head],
    sets: pa.Table,
    removed: Measured,
    drawn: Drawn,
) -> pa.Table:
    """``schema.ABLATION``.

    Args:
        prompts: all of them.
        before: the model as it is, on all of them.
        after: of each mode, each head removed alone, on all of them.
        heads: in the order of ``after``.
        sets: ``schema.HEAD_SETS``.
        removed: each set removed, on the measuring half, by the sets' numbers.
        drawn: how prompts were chosen by outcome.
    """
    own, group = prompts.measuring, prompts.group[prompts.measuring]
    moved = changes(before.rows(own), removed)
    half = prompts.rows(own)
    weighed = weightings(half, before.correct[own], drawn)
    alone = {
        (mode, by): dict(zip(heads, mean_change(changes(before, measured).rows(prompts.ranks), by), strict=True))
        for mode, measured in after.items()
        for by in MEASURES
    }
    rows, choices = [], _by_choice(sets)
    tests = _tests(choices)
    for key, kinds in choices.items():
        chosen = kinds[""][0]
        ranked = set(_heads_of(chosen))
        for control, draws in kinds.items():
            numbers = [row["set"] for row in draws]
            mean = Changes(*(values[:, numbers].mean(1, keepdims=True) for values in moved))
            row: dict[str, Any] = dict(zip(_KEY, key, strict=True))
            row |= {"control": control, "sets": len(draws)}
            row["shared"] = float(np.mean([len(ranked & set(_heads_of(one))) / row["dose"] for one in draws]))
            figures = alone[row["mode"], row["by"]]
            row["ranked"] = float(np.mean([[figures[head] for head in _heads_of(one)] for one in draws]))
            for name, sign in (("lost", -1), ("gained", 1)):
                row[name] = float((moved.accuracy[:, numbers] == sign).sum(0).mean())
            together = tests[row["mode"], control]
            row |= _figures(mean, moved, numbers, group, weighed, "", together)
            if control:
                less = Changes(*(values[:, [chosen["set"]]] - part for values, part in zip(moved, mean, strict=True)))
                row |= _figures(less, moved, numbers, group, weighed, "_beyond", together)
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=ABLATION)


def task_table(prompts: Prompts, before: Measured, sets: pa.Table, removed: Measured, drawn: Drawn) -> pa.Table:
    """``schema.ABLATION_TASKS``: the ranked sets, task by task; arguments as for :func:`set_table`."""
    own = prompts.measuring
    moved, correct = changes(before.rows(own), removed), before.correct[own]
    task, group = prompts.task[own], prompts.group[own]
    rows = []
    for key, kinds in _by_choice(sets).items():
        number = kinds[""][0]["set"]
        for place, name in enumerate(prompts.tasks):
            rows_of = np.flatnonzero(task == place)
            if not len(rows_of):
                continue
            values, groups = moved.accuracy[rows_of][:, [number]], group[rows_of]
            row: dict[str, Any] = dict(zip(_KEY, key, strict=True))
            row |= {"task": name, "prompts": len(rows_of), "files": len(set(groups.tolist()))}
            row["unedited"] = float(correct[rows_of].mean())
            row |= cells("drawn", weighted(values, groups))
            row |= cells("log_probability", weighted(moved.log_probability[rows_of][:, [number]], groups))
            if drawn.how == "any":
                row |= cells("natural", weighted(values, groups))
            elif drawn.how == "balanced" and name in drawn.by_task:
                rate = drawn.by_task[name]
                by_outcome = Weighting(correct[rows_of].astype(np.int64), np.array([1 - rate, rate]))
                row |= cells("natural", weighted(values, groups, by_outcome))
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=ABLATION_TASKS)


def _figures(
    mean: Changes,
    moved: Changes,
    numbers: list[int],
    group: Int[ndarray, " m"],
    weighed: Mapping[str, Weighting | None],
    suffix: str,
    together: int,
) -> dict[str, float | None]:
    """Columns of one set, or of the mean of several draws; errors over files and over draws."""

    def estimate(values: Float[ndarray, "m 1"], every: Float[ndarray, "m d"], **how: Any) -> Estimates:
        draws = weighted(every, group, **how).value
        return with_draws(weighted(values, group, **how), draws[:, None])

    found: dict[str, float | None] = {}
    every = moved.accuracy[:, numbers]
    for name, weighting in weighed.items():
        shown = estimate(mean.accuracy, every, weighting=weighting)
        found |= cells(f"{name}{suffix}", shown)
        if name == "drawn":
            ends = (end[0] for end in shown.bounds(together))
            for part, end in zip(("low", "high"), ends, strict=True):
                found[f"drawn{suffix}_all_{part}"] = float(end) if np.isfinite(end) else None
    if "natural" in weighed:
        how = {"weighting": weighed["balanced"], "less": weighed["natural"], "compared": True}
        found |= cells(f"reweighting{suffix}", estimate(mean.accuracy, every, **how))
    for name in ("log_probability", "elsewhere"):
        found |= cells(f"{name}{suffix}", estimate(getattr(mean, name), getattr(moved, name)[:, numbers]))
    return found


def _by_choice(sets: pa.Table) -> dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]]:
    """Rows of ``schema.HEAD_SETS`` by mode, ranking, measure and dose, then by control; the ranked heads come first."""
    found: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in sets.to_pylist():
        kinds = found.setdefault(tuple(row[name] for name in _KEY), {})
        kinds.setdefault(row["control"], []).append(row)
    return found


def _heads_of(row: Mapping[str, Any]) -> list[Head]:
    return list(zip(row["layers"], row["heads"], strict=True))


def _tests(choices: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """How many comparisons of one kind there are by mode and control: those whose intervals hold at once."""
    return Counter((key[0], control) for key, kinds in choices.items() for control in kinds)
