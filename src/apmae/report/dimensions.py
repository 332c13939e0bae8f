"""Trustworthiness by number of dimensions (paper Figure 7): what was measured in a few numbers, and as a picture.

Reads ``schema.DIMENSIONS``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.figure import Figure

from apmae.report.figures import STYLE

_COLOR = "#31688e"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """One number of dimensions, over all seeds."""

    dimensions: int
    mean: float
    """Mean trustworthiness."""
    sd: float | None
    """Standard deviation over seeds (``ddof=1``): other patterns, another run of UMAP, and other queries. None with one
    seed."""
    error: float
    """Standard error of the mean that comes from asking a sample of the patterns; 0 if all were asked."""
    gain: float | None
    """By how much the mean rose for each dimension since the next lower number; None for the lowest."""

    @property
    def uncertain(self) -> float:
        """The larger of the two: below this a difference says nothing."""
        return max(self.sd or 0.0, self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimensions:
    """What was measured, and on how much."""

    rows: tuple[Dimension, ...]
    """Ascending."""
    neighbors: int
    points: int
    """Patterns reduced with each seed; the fewest, where equal ones made a difference."""
    queries: int
    seeds: int

    @property
    def best(self) -> Dimension:
        """The most trustworthy."""
        return max(self.rows, key=lambda row: row.mean)

    @property
    def fewest(self) -> Dimension:
        """The fewest dimensions that are not distinguishable from the best: not below it by more than is uncertain."""
        return next(row for row in self.rows if row.mean >= self.best.mean - self.best.uncertain)

    @property
    def finding(self) -> str:
        """In words."""
        fewest, best = self.fewest, self.best
        if len(self.rows) == 1:
            return f"Only {best.dimensions} dimensions were measured: there is nothing to compare."
        if best == self.rows[0]:
            return f"{best.dimensions} dimensions, the fewest that were measured, keep most."
        if fewest == best == self.rows[-1]:
            return (
                f"Trustworthiness still rises at {best.dimensions} dimensions, the most that were measured: choose "
                "where one more gains little."
            )
        if fewest == best:
            return f"{best.dimensions} dimensions keep most, and fewer keep clearly less."
        return (
            f"{fewest.dimensions} dimensions are the fewest that cannot be told from the best, {best.dimensions} "
            f"({fewest.mean:.3f} and {best.mean:.3f} \u00b1 {best.uncertain:.3f})."
        )


def summarize_dimensions(table: pa.Table) -> Dimensions:
    """Mean, spread and error of each number of dimensions.

    Args:
        table: ``schema.DIMENSIONS``, at least one row.
    """
    dimensions, values, errors = (table[name].to_numpy() for name in ("dimensions", "trustworthiness", "error"))
    rows: list[Dimension] = []
    for number in np.unique(dimensions).tolist():
        own = values[dimensions == number].astype(np.float64)
        error = np.sqrt((errors[dimensions == number].astype(np.float64) ** 2).sum()) / len(own)
        sd = float(own.std(ddof=1)) if len(own) > 1 else None
        mean, gain = float(own.mean()), None
        if rows:
            gain = (mean - rows[-1].mean) / (number - rows[-1].dimensions)
        rows.append(Dimension(dimensions=number, mean=mean, sd=sd, error=float(error), gain=gain))
    smallest = {name: min(table[name].to_pylist()) for name in ("neighbors", "points", "queries")}
    return Dimensions(rows=tuple(rows), seeds=len(table["seed"].unique()), **smallest)


@rc_context(STYLE)
def trustworthiness_figure(found: Dimensions) -> Figure:
    """Trustworthiness over dimensions (paper Figure 7): a band of the s.d. over seeds, bars of the sampling error."""
    number, mean, error = (np.array(_column(found.rows, name)) for name in ("dimensions", "mean", "error"))
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    if found.seeds > 1:
        sd = np.array([row.sd or 0.0 for row in found.rows])
        label = f"\u00b1 s.d. over {found.seeds} seeds"
        axis.fill_between(number, mean - sd, mean + sd, color=_COLOR, alpha=0.2, linewidth=0, label=label)
        if len(number) == 1:  # a band of no width cannot be seen
            axis.vlines(number, mean - sd, mean + sd, color=_COLOR, alpha=0.2, linewidth=12)
    label = f"mean \u00b1 standard error of asking {found.queries:,} of {found.points:,} patterns"
    if found.queries >= found.points:
        label = f"mean, every one of {found.points:,} patterns asked"
    axis.errorbar(
        number, mean, yerr=error, color=_COLOR, marker="o", markersize=4, capsize=3, linewidth=1.2, label=label
    )
    axis.set_xticks(number.tolist())
    axis.set(
        title=f"Trustworthiness of UMAP, {found.neighbors:,} neighbours",
        xlabel="dimensions",
        ylabel="trustworthiness",
    )
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)
    return figure


def _column(rows: Sequence[Dimension], name: str) -> list[float]:
    return [getattr(row, name) for row in rows]
