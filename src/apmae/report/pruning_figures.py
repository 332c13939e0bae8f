"""A picture of pruning: what is left of the accuracy by how many heads are removed."""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from apmae.analyze.pruning import RANDOM
from apmae.report.figures import STYLE
from apmae.report.palette import cluster_color
from apmae.report.pruning import KEEPS, RANKING_WORDS
from apmae.study.pruning import Pruning


@rc_context(STYLE)
def pruning_figure(found: Pruning) -> Figure:
    """Accuracy kept by dose, for each ranking; beside it random heads, and random heads of the same layers."""
    rankings = found.rankings
    columns = min(4, len(rankings))
    lines = -(-len(rankings) // columns)
    figure = Figure(figsize=(1.9 * columns + 0.6, 1.7 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    doses = sorted({row["dose"] for row in found.curves.to_pylist()})
    apart = 0.01 * max(doses)
    shown = [("", RANDOM, "#888888", "random")]
    for place, axis in enumerate(axes):
        if place >= len(rankings):
            axis.set_axis_off()
            continue
        ranking = rankings[place]
        own = [("layers", ranking, cluster_color(1), "random, same layers"), ("", ranking, cluster_color(0), "ranked")]
        for number, (control, name, color, words) in enumerate([*shown, *own]):
            rows = found.rows(control=control, ranking=name)
            dose, kept, low, high = (
                np.array([np.nan if row[column] is None else row[column] for row in rows], float)
                for column in ("dose", "kept", "kept_low", "kept_high")
            )
            beside = dose + (number - 1) * apart  # so that all are seen
            axis.plot(beside, kept, color=color, marker="o", markersize=2.5, linewidth=1, label=words)
            axis.vlines(beside, low, high, color=color, linewidth=0.8)
        axis.axhline(KEEPS, color="#777777", linewidth=0.6, linestyle=":")
        axis.set_title(RANKING_WORDS[ranking])
        axis.set(ylim=(0, 1.15), xlim=(0, 1.06 * max(doses)), xticks=doses)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(loc="lower left", frameon=False, fontsize=6)
    figure.supxlabel(f"heads removed of {found.counts['heads']} ({found.counts['mode']})", fontsize=8)
    figure.supylabel("accuracy kept", fontsize=8)
    return figure
