"""What prompts show when heads are removed: the changes, the halves, and what can be said of each head.

Axes: n prompts, h heads, k figures side by side.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import norm, rankdata

from apmae.analyze.answers import Drawn, together
from apmae.analyze.folds import folds_of
from apmae.analyze.jackknife import LEVEL, Estimates, Weighting, weighted
from apmae.errors import ConfigError
from apmae.schema import HEAD_EFFECTS, RELIABILITY

Head = tuple[int, int]
"""(layer, head)."""
MEASURES = ("log_probability", "accuracy")
"""By what heads are ranked."""
_FEWEST_HEADS = 8
"""Heads from which a rank correlation has an interval."""
_HALVES = ("ranking", "measuring", "both")


class Prompts(NamedTuple):
    """The prompts that are measured, one row each, in the order of their numbers."""

    prompt: Int[ndarray, " n"]
    task: Int[ndarray, " n"]
    tasks: tuple[str, ...]
    group: Int[ndarray, " n"]
    """Prompts of one file, or of files with nearly the same windows, have the same number."""
    files: int
    ranks: Bool[ndarray, " n"]
    """Whether heads are ranked by the prompt; else sets are measured on it."""

    @property
    def halves(self) -> dict[str, Bool[ndarray, " n"]]:
        """Rows of "ranking", "measuring" and "both"."""
        return dict(zip(_HALVES, (self.ranks, ~self.ranks, np.ones_like(self.ranks)), strict=True))

    @property
    def measuring(self) -> Int[ndarray, " m"]:
        """Rows of the measuring half."""
        return np.flatnonzero(~self.ranks)

    def rows(self, chosen: Int[ndarray, " m"]) -> "Prompts":
        """Some of the prompts."""
        own = (self.prompt[chosen], self.task[chosen], self.tasks, self.group[chosen], self.files, self.ranks[chosen])
        return Prompts(*own)


class Measured(NamedTuple):
    """What prompts show: of the model as it is (n,), or with something removed (n, k)."""

    log_probability: Float[ndarray, "n ..."]
    """Of the expected token, in nats."""
    correct: Bool[ndarray, "n ..."]
    elsewhere: Float[ndarray, "n ..."]
    """Mean negative log-probability of the prompt's other tokens, in nats; NaN for an encoder."""

    def rows(self, which: ndarray) -> "Measured":
        """Some of the prompts."""
        return Measured(*(values[which] for values in self))


class Changes(NamedTuple):
    """After less before."""

    log_probability: Float[ndarray, "n k"]
    accuracy: Float[ndarray, "n k"]
    """1 where an answer became correct, -1 where it became incorrect."""
    elsewhere: Float[ndarray, "n k"]

    def rows(self, which: ndarray) -> "Changes":
        """Some of the prompts."""
        return Changes(*(values[which] for values in self))


def changes(before: Measured, after: Measured) -> Changes:
    """What removing does to each prompt."""
    return Changes(
        after.log_probability - before.log_probability[:, None],
        after.correct.astype(np.float64) - before.correct[:, None],
        after.elsewhere - before.elsewhere[:, None],
    )


def halve(tasks: list[str], paths: list[str], windows: list[str], similar: float, seed: int) -> Prompts:
    """Split prompts in two halves that share no file, alike in task.

    Args:
        tasks: of each prompt.
        paths: of their files.
        windows: their texts.
        similar: share of a window from which two files that have it in common stay together.
        seed: decides the halves.

    Raises:
        ConfigError: if all prompts are of one file, or of files that belong together.
    """
    names = tuple(sorted(set(tasks)))
    task = np.array([names.index(name) for name in tasks], np.int64)
    group = together(paths, windows, similar)
    files = len(set(paths))
    if group.max(initial=-1) < 1:
        raise ConfigError(
            "expected prompts of two files or more, of which some rank heads and others measure, found one"
            f"{f' ({files} files with nearly the same windows)' if files > 1 else ''}; take prompts of more files"
        )
    ranks = folds_of(group, task, 2, seed, "ablation") == 0
    return Prompts(np.arange(len(tasks)), task, names, group, files, ranks)


def expect_both_outcomes(correct: Bool[ndarray, " n"]) -> None:
    """Refuse answers of one outcome: accuracy could move one way only, so no head could be harmful, or helpful.

    Raises:
        ConfigError: if all are correct or all incorrect.
    """
    if len(set(correct.tolist())) < 2:
        found = "correct" if correct.all() else "incorrect"
        raise ConfigError(
            f"expected prompts that the model answers correctly and others that it does not, all {len(correct)} are "
            f"{found}; take more prompts, or draw them with --set outcome=balanced"
        )


def weightings(prompts: Prompts, correct: Bool[ndarray, " n"], drawn: Drawn) -> dict[str, Weighting | None]:
    """How prompts are weighed: "drawn" as they are, "balanced" half correct, "natural" at the model's own rate.

    "natural" weighs the outcomes of each task by the task's rate among all prompts that the model was asked; prompts
    drawn without regard to their outcome are at that rate already. It is missing where the rate cannot be told.

    Args:
        prompts: those that are measured.
        correct: before anything is removed.
        drawn: how they were chosen by outcome.
    """
    outcome = correct.astype(np.int64)
    found: dict[str, Weighting | None] = {"drawn": None, "balanced": Weighting(outcome, np.array([0.5, 0.5]))}
    if drawn.how == "any":
        found["natural"] = None
    elif drawn.how == "balanced" and drawn.natural is not None:
        many = len(prompts.tasks)
        rate = np.array([drawn.by_task.get(name, drawn.natural) for name in prompts.tasks])
        share = np.bincount(prompts.task, minlength=many) / len(prompts.task)
        found["natural"] = Weighting(
            2 * prompts.task + outcome, np.stack([share * (1 - rate), share * rate], 1).ravel()
        )
    return found


def head_table(prompts: Prompts, before: Measured, after: dict[str, Measured], heads: list[Head]) -> pa.Table:
    """``schema.HEAD_EFFECTS``.

    Args:
        prompts: all that were measured.
        before: the model as it is.
        after: of each mode, heads side by side.
        heads: in that order.
    """
    rows: list[dict[str, Any]] = []
    for mode, measured in after.items():
        moved = changes(before, measured)
        for half, own in prompts.halves.items():
            figures = {name: weighted(values[own], prompts.group[own]) for name, values in moved._asdict().items()}
            lost, gained = ((moved.accuracy[own] == sign).sum(0) for sign in (-1, 1))
            for place, (layer, head) in enumerate(heads):
                rows.append(
                    {
                        "mode": mode,
                        "half": half,
                        "layer": layer,
                        "head": head,
                        "prompts": int(own.sum()),
                        "lost": int(lost[place]),
                        "gained": int(gained[place]),
                        **{key: value for name in figures for key, value in cells(name, figures[name], place).items()},
                    }
                )
    return pa.Table.from_pylist(rows, schema=HEAD_EFFECTS)


def cells(name: str, found: Estimates, place: int = 0) -> dict[str, float | None]:
    """A figure with the ends of its interval, as columns; null where it cannot be told."""
    low, high = found.bounds()
    values = found.value[place], low[place], high[place]
    return {
        f"{name}{part}": float(value) if np.isfinite(value) else None
        for part, value in zip(("", "_low", "_high"), values, strict=True)
    }


def mean_change(moved: Changes, by: str) -> Float[ndarray, " k"]:
    """By what heads are ranked: the mean change of one of :data:`MEASURES`."""
    return getattr(moved, by).mean(0)


def reliability_table(prompts: Prompts, before: Measured, after: dict[str, Measured]) -> pa.Table:
    """``schema.RELIABILITY``: do the halves rank heads alike, and do the modes?

    Intervals are those of Bonett and Wright (2000), with heads as what was drawn. For the same heads on other files
    they are about half again too wide; a jackknife over files would make them twice too wide, because ranks jump.
    Between modes both rankings are of the same prompts, so their agreement is that of the modes alone.
    """
    moved = {mode: changes(before, measured) for mode, measured in after.items()}
    rows = []
    for by in MEASURES:
        for place, mode in enumerate(moved):
            values = getattr(moved[mode], by)
            halves = _agreement(values[prompts.ranks], values[~prompts.ranks])
            rows.append({"what": "halves", "mode": mode, "other": mode, "by": by, **halves})
            for other in [*moved][place + 1 :]:
                modes = _agreement(values, getattr(moved[other], by))
                rows.append({"what": "modes", "mode": mode, "other": other, "by": by, **modes})
    return pa.Table.from_pylist(rows, schema=RELIABILITY)


def _agreement(one: Float[ndarray, "n h"], other: Float[ndarray, "m h"]) -> dict[str, float | None]:
    """Rank correlation of two mean changes over heads, with its interval, as columns; null where it cannot be told."""
    heads, value = one.shape[1], spearman(one.mean(0), other.mean(0))
    if not np.isfinite(value):
        return {}
    if heads < _FEWEST_HEADS or abs(value) == 1:
        return {"spearman": value}
    out = norm.ppf(1 - LEVEL / 2) * np.sqrt((1 + value**2 / 2) / (heads - 3))
    low, high = (float(np.tanh(np.arctanh(value) + side * out)) for side in (-1, 1))
    return {"spearman": value, "spearman_low": low, "spearman_high": high}


def spearman(one: Float[ndarray, " h"], other: Float[ndarray, " h"]) -> float:
    """Rank correlation, ties at their mean rank; NaN if all values of one are equal."""
    ranks = rankdata(one), rankdata(other)
    if any(own.std() == 0 for own in ranks):
        return np.nan
    return float(np.corrcoef(*ranks)[0, 1])
