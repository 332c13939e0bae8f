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
    shown = [("", RANDOM, "#888888", "random")]
    for place, axis in enumerate(axes):
        if place >= len(rankings):
            axis.set_axis_off()
            continue
        ranking = rankings[place]
        own = [("layers", ranking, cluster_color(1), "random, same layers"), ("", ranking, cluster_color(0), "ranked")]
        for control, name, color, words in [*shown, *own]:
            rows = found.rows(control=control, ranking=name)
            dose, kept, low, high = (
                np.array([np.nan if row[column] is None else row[column] for row in rows], float)
                for column in ("dose", "kept", "kept_low", "kept_high")
            )
            axis.fill_between(dose, low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(dose, kept, color=color, marker="o", markersize=2.5, linewidth=1, label=words)
        axis.axhline(KEEPS, color="#777777", linewidth=0.6, linestyle=":")
        axis.set_title(RANKING_WORDS[ranking])
        axis.set_ylim(0, 1.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(loc="lower left", frameon=False, fontsize=6)
    figure.supxlabel(f"heads removed of {found.counts['heads']} ({found.counts['mode']})", fontsize=8)
    figure.supylabel("accuracy kept", fontsize=8)
    return figure
