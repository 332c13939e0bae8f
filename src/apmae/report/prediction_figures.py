"""Pictures of predicted outcomes: are probabilities right, and what does it cost to answer more prompts?"""

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apmae.analyze.prediction import MAJORITY, PREDICTOR, STRONGEST
from apmae.analyze.risk import CONFIDENCE, upper
from apmae.report.figures import STYLE
from apmae.report.palette import cluster_color
from apmae.study.reader import Predicted

_LEVEL = 0.05
_GREY = "#777777"


def shown_sets(found: Predicted) -> list[str]:
    """The sets of features that pictures show: the strongest baseline, max-probability, and the best with heads."""
    rows = [row for row in found.sets.to_pylist() if row["kind"] == "added"]
    best = max(rows, key=lambda row: row["auroc"], default=None)
    alone = max(
        (row for row in found.sets.to_pylist() if row["kind"] == "heads"), key=lambda row: row["auroc"], default=None
    )
    return [STRONGEST, "max-probability", *(row["features"] for row in (best, alone) if row is not None)]


@rc_context(STYLE)
def calibration_figure(found: Predicted) -> Figure:
    """The share correct by the probability said, as fitted and recalibrated; bars are 95 % intervals of each bin."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2, sharey=True), (STRONGEST, "max-probability"), strict=True):
        axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", label="probabilities are right")
        for recalibrated, color, marker in ((False, cluster_color(1), "o"), (True, cluster_color(0), "s")):
            rows = [
                row
                for row in found.calibration.to_pylist()
                if row["features"] == name and row["recalibrated"] == recalibrated
            ]
            share = np.array([row["correct"] for row in rows])
            counts = [(row["prompts"] - round(row["correct"] * row["prompts"]), row["prompts"]) for row in rows]
            low = np.array([1 - upper(wrong, many, _LEVEL / 2) for wrong, many in counts])
            high = np.array([upper(many - wrong, many, _LEVEL / 2) for wrong, many in counts])
            axis.errorbar(
                [row["probability"] for row in rows],
                share,
                yerr=np.maximum([share - low, high - share], 0),
                color=color,
                marker=marker,
                markersize=4,
                linewidth=1.1,
                elinewidth=0.6,
                capsize=2,
                label="recalibrated" if recalibrated else "as fitted",
            )
        _square(axis, name, "probability of correct")
    axis = figure.axes[0]
    axis.set_ylabel("share correct")
    axis.legend(loc="upper left", frameon=False)
    return figure


@rc_context(STYLE)
def coverage_figure(found: Predicted) -> Figure:
    """Risk by coverage: of sets of features as measured, and of the saved predictor with its upper bound."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, name in enumerate((*shown_sets(found), MAJORITY)):
        rows = [row for row in found.coverage.to_pylist() if row["features"] == name]
        left.plot(
            [row["coverage"] for row in rows],
            [row["risk"] for row in rows],
            color=_GREY if name == MAJORITY else cluster_color(place),
            linestyle=":" if name == MAJORITY else "-",
            marker="o",
            markersize=2.5,
            linewidth=1.1,
            label=name,
        )
    _square(left, "as the prompts were drawn", "share of prompts answered, the surest first")
    left.set_ylabel("share of answers that are incorrect")
    left.legend(loc="best", frameon=False)
    coverage, risk, bound = (np.array([one[name] for one in found.bounds]) for name in ("coverage", "risk", "bound"))
    right.fill_between(coverage, risk, bound, color=cluster_color(0), alpha=0.18, linewidth=0)
    right.plot(
        coverage,
        bound,
        color=cluster_color(0),
        linewidth=1.1,
        linestyle="--",
        marker="o",
        markersize=2.5,
        label=f"at most ({CONFIDENCE:.0%} confidence, all thresholds)",
    )
    right.plot(coverage, risk, color=cluster_color(0), linewidth=1.1, marker="o", markersize=2.5, label="found")
    natural = found.counts["natural_rate"] if found.counts["drawn"] == "balanced" else None
    rate = "" if natural is None else f", if {natural:.0%} are correct"
    _square(right, f"{PREDICTOR}{rate}", "share of prompts answered, the surest first")
    right.legend(loc="best", frameon=False)
    return figure


def _square(axis: Axes, title: str, xlabel: str) -> None:
    axis.set(title=title, xlabel=xlabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.spines[["top", "right"]].set_visible(False)
