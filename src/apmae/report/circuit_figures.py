"""The picture of circuits: effects by layer and head, and what shortlists have by their size."""

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apmae.report.circuits import WORDS
from apmae.report.figures import STYLE, statement
from apmae.report.palette import NO_HEAD_COLOR, cluster_color
from apmae.schema import FILTERS
from apmae.study.circuit import Circuit

_MOST = 6
"""Tasks that are drawn, the first ones."""
_GREY = "#777777"
_WAYS = ("recall_10", "recall_5")


@rc_context(STYLE)
def circuit_figure(found: Circuit) -> Figure:
    """One row per task: effects of heads (blue works for the right completion, red against it), and beside them how
    much of the true top ten the first heads of each filter have, where all heads were patched.
    """
    tasks = found.tasks["task"].to_pylist()[:_MOST]
    if not tasks:
        return statement("no task")
    figure = Figure(figsize=(7.4, 2.7 * len(tasks) + 0.3), layout="constrained")
    rows = figure.subplots(len(tasks), 2, squeeze=False)
    ceilings = {row["task"]: row for row in found.tasks.to_pylist()}
    for (left, right), task in zip(rows, tasks, strict=True):
        _effects(figure, left, [row for row in found.heads.to_pylist() if row["task"] == task], task)
        _curves(right, [row for row in found.recall.to_pylist() if row["task"] == task], ceilings[task])
    handles, labels = rows[0, 1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _effects(figure: Figure, axis: Axes, rows: list[dict[str, Any]], task: str) -> None:
    shape = max(row["layer"] for row in rows) + 1, max(row["head"] for row in rows) + 1
    grid = np.full(shape, np.nan)
    exists = np.zeros(shape, bool)
    for row in rows:
        exists[row["layer"], row["head"]] = True
        grid[row["layer"], row["head"]] = np.nan if row["effect"] is None else row["effect"]
    most = float(np.nanmax(np.abs(grid), initial=1e-6)) or 1e-6
    axis.set_facecolor(NO_HEAD_COLOR)
    axis.imshow(np.where(exists, 0.0, np.nan), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    image = axis.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for row in rows:
        if row["shortlisted"]:
            axis.plot(row["head"], row["layer"], marker=".", color="black", markersize=2.5)
    axis.set(title=f"{task}: effect in logits (dots: shortlist)", xlabel="head", ylabel="layer")
    figure.colorbar(image, ax=axis, fraction=0.05)


def _curves(axis: Axes, rows: list[dict[str, Any]], task: dict[str, Any]) -> None:
    way = next((name for name in _WAYS if rows and rows[0][name] is not None), None)
    if way is None:
        why = "not all heads were patched (--exact all)" if not rows else "too few heads for a top five"
        axis.text(0.5, 0.5, why, ha="center", va="center", color=_GREY, transform=axis.transAxes)
        axis.set_axis_off()
        return
    for place, name in enumerate(FILTERS):
        own = [row for row in rows if row["filter"] == name]
        if own:
            axis.plot(
                [row["heads"] for row in own],
                [row[way] for row in own],
                color=_GREY if name == "random" else cluster_color(place),
                linestyle=":" if name == "random" else "-",
                linewidth=1.1,
                label=WORDS[name],
            )
    many = way.removeprefix("recall_")
    if task[f"halves_{many}"] is not None:
        axis.axhline(
            task[f"halves_{many}"], color="black", linewidth=0.7, linestyle="--", label="exact, one half by the other"
        )
    axis.set(title=f"share of the true top {many}", xlabel="heads in the shortlist", ylim=(-0.02, 1.04))
    axis.spines[["top", "right"]].set_visible(False)
