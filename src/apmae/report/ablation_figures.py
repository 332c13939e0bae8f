"""Pictures of removed heads: what each does alone, and what sets do beside random ones."""

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from apmae.analyze.rankings import CONTROLS, RANKINGS
from apmae.report.ablation import effect_sign
from apmae.report.figures import STYLE, statement
from apmae.report.palette import NO_HEAD_COLOR, cluster_color
from apmae.study.ablation import Ablation

_NAMES = {"size": "any heads", "layers": "of the same layers", "effect": "nearest in effect"}
_MARKERS = {"size": "o", "layers": "s", "effect": "D"}
_MEASURES = {"log_probability": "log-probability", "accuracy": "accuracy"}


@rc_context(STYLE)
def head_effects_figure(found: Ablation) -> Figure:
    """The change of log-probability without each head, a grid of layers by heads for each mode."""
    counts = found.counts["heads_by_layer"]
    rows = found.heads.to_pylist()
    most = max((abs(row["log_probability"]) for row in rows if row["half"] == "both"), default=0) or 1
    figure = Figure(figsize=(3.4 * len(found.modes) + 0.8, 1.2 + 0.22 * len(counts)), layout="constrained")
    axes, scale = figure.subplots(1, len(found.modes), squeeze=False)[0], TwoSlopeNorm(0, -most, most)
    for axis, mode in zip(axes, found.modes, strict=True):
        grid = np.full((len(counts), max(counts)), np.nan)
        signs: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            if row["mode"] != mode:
                continue
            if row["half"] == "both":
                grid[row["layer"], row["head"]] = row["log_probability"]
            else:
                signs.setdefault((row["layer"], row["head"]), []).append(effect_sign(row, "log_probability"))
        axis.set_facecolor(NO_HEAD_COLOR)
        axis.imshow(grid, cmap="RdBu", norm=scale, aspect="auto", interpolation="nearest")
        steady = [head for head, own in signs.items() if own in ([1, 1], [-1, -1])]
        axis.plot([head for _, head in steady], [layer for layer, _ in steady], "k.", markersize=3)
        axis.set(title=mode, xlabel="head", ylabel="layer")
    figure.colorbar(ScalarMappable(scale, "RdBu"), ax=axes, label="nats", shrink=0.9)
    return figure


@rc_context(STYLE)
def doses_figure(found: Ablation) -> Figure:
    """The change of accuracy by dose, for each ranking and measure, of the first mode: ranked heads and controls."""
    mode = found.modes[0]
    if not found.ranked(mode):
        return statement("No sets of heads were removed")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    for row, (by, words) in zip(
        figure.subplots(2, len(RANKINGS), sharex=True, sharey=True), _MEASURES.items(), strict=True
    ):
        for axis, ranking in zip(row, RANKINGS, strict=True):
            _curves(axis, found, mode, ranking, by)
            axis.set_title(f"{ranking} by {words}")
        row[0].set_ylabel("change of accuracy")
    for axis in figure.axes[-len(RANKINGS) :]:
        axis.set_xlabel(f"heads removed ({mode})")
    figure.axes[1].legend(loc="lower left", frameon=False, fontsize=6.5)
    return figure


def _curves(axis: Axes, found: Ablation, mode: str, ranking: str, by: str) -> None:
    axis.axhline(0, color="#777777", linewidth=0.6, linestyle=":")
    own = sorted(found.ranked(mode, ranking=ranking, by=by), key=lambda row: row["dose"])
    doses, values, low, high = (
        np.array([np.nan if row[name] is None else row[name] for row in own], float)
        for name in ("dose", "drawn", "drawn_low", "drawn_high")
    )
    axis.fill_between(doses, low, high, color=cluster_color(0), alpha=0.2, linewidth=0)
    axis.plot(doses, values, color=cluster_color(0), marker="o", markersize=3, linewidth=1.2, label="ranked heads")
    for place, control in enumerate(CONTROLS, start=1):
        rows = sorted(found.ranked(mode, ranking=ranking, by=by, control=control), key=lambda row: row["dose"])
        if not rows:
            continue
        x, y, ends, starts = (
            np.array([np.nan if row[name] is None else row[name] for row in rows], float)
            for name in ("dose", "drawn", "drawn_high", "drawn_low")
        )
        axis.errorbar(
            x * (1 + 0.06 * place),
            y,
            yerr=np.nan_to_num([y - starts, ends - y]),
            color=cluster_color(place),
            marker=_MARKERS[control],
            markersize=2.5,
            linewidth=0.8,
            elinewidth=0.5,
            label=_NAMES[control],
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(doses, [f"{dose:.0f}" for dose in doses])
    axis.set_ylim(-1, 0.3)
    axis.spines[["top", "right"]].set_visible(False)
