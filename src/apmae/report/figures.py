"""The paper's figures of a study, one function per figure. Matplotlib's object interface, on Agg; equal input gives
equal bytes.

Pixels of a pattern are scaled log probabilities; what cannot be attended to is white. Axes: t tokens, l layers,
h heads; e encoders, m language models.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from apmae.analyze.locations import HeadGrid
from apmae.artifacts import unpack_patches
from apmae.report.console import wrapped
from apmae.report.examples import Example, attended
from apmae.report.palette import NO_HEAD, NO_HEAD_COLOR, NOISE_COLOR, NOT_CAPTURED, cluster_color, ink_on
from apmae.report.tables import head_name
from apmae.schema import NOISE
from apmae.seeding import generator
from apmae.study.exemplars import dense, scaled
from apmae.study.reader import Sample

DPI = 150
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.0,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.0,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a name may hold a "$"
}
_COLORS = colormaps["viridis"]
_HIDDEN = (0.72, 0.72, 0.72, 1.0)
_WHITE = (1.0, 1.0, 1.0, 1.0)
_NUMBERED_CELLS = 160
"""Most heads at which a grid's cells show numbers."""
_TITLE = 32
"""Characters that fit above a picture."""
_LEGEND = 9


def png(figure: Figure, *, cropped: bool = False) -> bytes:
    """A figure as a PNG, without date or version; ``cropped`` removes empty margins."""
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(
            file, format="png", dpi=DPI, metadata={"Software": None}, bbox_inches="tight" if cropped else None
        )
    return file.getvalue()


@rc_context(STYLE)
def reconstruction(rows: Sequence[Mapping[str, Any]], limit: int = 4) -> Figure:
    """What the encoder's decoder makes of hidden patches (paper Figure 3).

    Args:
        rows: ``schema.RECONSTRUCTIONS``, shown from the smallest loss to the largest, evenly spaced.
        limit: most patterns to show.
    """
    if not rows:
        return statement("No reconstruction: this study has none")
    ranked = sorted(rows, key=lambda row: row["loss"])
    shown = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, min(limit, len(ranked))).round().astype(int))]
    figure = Figure(figsize=(8.2, 2.05 * len(shown) + 0.35), layout="constrained")
    grid = figure.subplots(len(shown), 4, squeeze=False)
    for axes, row in zip(grid, shown, strict=True):
        size, patch, causal = row["size"], row["patch"], row["causal"]
        shown_patches = [unpack_patches(row[name], size, patch, causal) for name in ("original", "predicted")]
        original, predicted = (dense(patches, size, np.nan, causal) for patches in shown_patches)
        # One byte per patch becomes one value per pixel, unpacked like the patches themselves.
        flags = np.frombuffer(row["masked"], np.uint8)[:, None, None]
        hidden = dense(np.broadcast_to(flags, shown_patches[0].shape), size, 0.0, causal) > 0
        limits = (float(np.nanmin(original)), float(np.nanmax(original)))
        _show(axes[0], _pixels(original, limits))
        _show(axes[1], _pixels(original, limits, hidden=hidden))
        _show(axes[2], _pixels(np.where(hidden, predicted, np.nan), limits))
        _show(axes[3], _pixels(np.where(hidden, predicted, original), limits))
        axes[0].set_ylabel(f"head {head_name(row['layer'], row['head'])}\nloss {row['loss']:.2g}", fontsize=8)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(grid[0], ("original", "masked", "predicted", "combined"), strict=True):
        axis.set_title(title)
    return figure


@rc_context(STYLE)
def embedding_steps(sample: Sample, layers: int, heads: int) -> Figure:
    """From raw embeddings to clusters in four panels (paper Figure 6).

    Args:
        sample: patterns to draw.
        layers: of the language model.
        heads: heads per layer.
    """
    if not len(sample.layer):
        return statement("No embeddings: the study has no patterns")
    figure = Figure(figsize=(9.2, 7.8), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    size = float(np.clip(30_000 / len(sample.layer), 1.5, 12.0))
    style = {"s": size, "linewidths": 0, "rasterized": True}
    # Drawn in the order of the rows, late heads would hide early ones.
    mixed = generator(0, "report", "order").permutation(len(sample.layer))
    number = sample.layer * heads + sample.head
    for axis, places in ((a, sample.raw), (b, sample.coordinates)):
        last = max(layers * heads - 1, 1)
        axis.scatter(*places[mixed].T, c=number[mixed], cmap=_COLORS, vmin=0, vmax=last, alpha=0.7, **style)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-0.5, layers - 0.5), _COLORS), ax=[a, b], label="head, by layer", shrink=0.8, aspect=30
    )
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    bar.outline.set_visible(False)
    noise = sample.cluster == NOISE
    colors = np.array([cluster_color(cluster) for cluster in sample.cluster.tolist()])
    c.scatter(*sample.coordinates[noise].T, c="#c4c4c4", alpha=0.6, **style)
    for axis in (c, d):
        axis.scatter(*sample.coordinates[~noise].T, c=colors[~noise], **style)
    if noise.all():
        d.text(0.5, 0.5, "no pattern is in a cluster", transform=d.transAxes, ha="center", va="center", color="#666666")
    d.set(xlim=c.get_xlim(), ylim=c.get_ylim())
    clusters = len(np.unique(sample.cluster[~noise]))
    a.set(title="A  raw embeddings, by head", xlabel="embedding dimension 1", ylabel="embedding dimension 2")
    b.set(title="B  reduced, by head")
    c.set(title="C  reduced, by cluster (grey: in none)")
    d.set(title=f"D  clustered patterns only ({clusters} cluster{'' if clusters == 1 else 's'})")
    for axis in (b, c, d):
        axis.set(xlabel="reduced dimension 1", ylabel="reduced dimension 2")
    for axis in (a, b, c, d):
        axis.title.set_horizontalalignment("left")
        axis.title.set_x(0.0)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


@rc_context(STYLE)
def pattern_examples(examples: Sequence[Example], columns: int = 4) -> Figure:
    """One pattern of each cluster (paper Figure 8).

    Args:
        examples: patterns, in the order to show them.
        columns: pictures per row.
    """
    if not examples:
        return statement("No example: no cluster was found, or no pattern of one was kept")
    titles = [
        "\n".join([*wrapped(f"{e.cluster}: {e.name}", _TITLE), f"head {head_name(e.layer, e.head)}"]) for e in examples
    ]
    return gallery(examples, titles, columns)


@rc_context(STYLE)
def cluster_variation(examples: Sequence[Example], columns: int = 3) -> Figure:
    """The members of a cluster that are furthest apart (paper Figure 9).

    Args:
        examples: of the cluster.
        columns: pictures per row.
    """
    if not examples:
        return statement("No variation to show: no cluster has two patterns that were kept")
    return gallery(examples, [f"head {head_name(e.layer, e.head)}, prompt {e.prompt}" for e in examples], columns)


@rc_context(STYLE)
def head_maps(prompt: int, single: Int[ndarray, "l h"], grid: HeadGrid, names: Mapping[int, str]) -> Figure:
    """Where patterns occur: in one prompt, and over all of them (paper Figure 10).

    Args:
        prompt: the number of the prompt in panel A.
        single: clusters of its heads, from ``locations.prompt_grid``; ``palette.NO_HEAD`` where there is no head.
        grid: statistics over all prompts.
        names: cluster -> its name.
    """
    layers, heads = single.shape
    entries = _legend_entries(single, names)
    tall, low = float(np.clip(3.1 * layers / max(heads, 1), 1.1, 5.0)), max(0.17 * -(-len(entries) // 2), 0.4) + 0.1
    figure = Figure(figsize=(10.6, tall + low + 0.7), layout="constrained")
    (a, b, c), under = figure.subplots(2, 3, height_ratios=(tall + 0.6, low))
    colors = {cluster: cluster_color(cluster) for cluster in np.unique(single).tolist()}
    cells = np.array([[_rgb(colors[cluster]) for cluster in row] for row in single.tolist()])
    a.imshow(cells, aspect="equal")
    a.set_title(f"A  clusters in prompt {prompt}")
    share = b.imshow(grid.clustered, cmap=_COLORS, vmin=0, vmax=1, aspect="equal")
    b.set_title("B  share of patterns in any cluster")
    most = max(int(grid.distinct.max(initial=0)), 1)
    distinct = np.where(np.isnan(grid.clustered), np.nan, grid.distinct)  # a head that was not captured has no number
    number = c.imshow(distinct, cmap=_COLORS, vmin=0, vmax=most, aspect="equal")
    c.set_title("C  distinct clusters")
    for axis in (b, c):
        _cover(axis, single == NO_HEAD)
    for axis in (a, b, c):
        axis.set(xlabel="head", ylabel="layer")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.title.set_horizontalalignment("left")
        axis.title.set_x(0.0)
    for axis, image in zip(under[1:], (share, number), strict=True):
        place = axis.inset_axes((0.1, 1 - 0.15 / low, 0.8, 0.12 / low))
        bar = figure.colorbar(image, cax=place, orientation="horizontal")
        bar.outline.set_visible(False)
        place.xaxis.set_major_locator(MaxNLocator(integer=image is number, nbins=6, min_n_ticks=1))
    if layers * heads <= _NUMBERED_CELLS:
        _number(a, cells, [["" if value < 0 else str(value) for value in row] for row in single.tolist()])
        _number(
            b,
            grid.clustered,
            [["" if np.isnan(value) else f"{value:.0%}"[:-1] for value in row] for row in grid.clustered],
        )
        _number(c, distinct, [["" if np.isnan(value) else f"{value:.0f}" for value in row] for row in distinct])
    handles = [Patch(facecolor=color, label=text) for color, text in entries]
    under[0].legend(handles=handles, loc="upper center", ncols=2, frameon=False, handlelength=1, borderpad=0)
    for axis in under:
        axis.set_axis_off()
    return figure


@rc_context(STYLE)
def cross_evaluation(
    mean: Float[ndarray, "e m"],
    sd: Float[ndarray, "e m"],
    own: Bool[ndarray, "e m"],
    encoders: Sequence[str],
    lms: Sequence[str],
    measure: str = "loss",
) -> Figure:
    """Every encoder on every language model's patterns (paper Table 3), with frames around the models' own encoders.

    Args:
        mean: of the measure, for each encoder and language model.
        sd: standard deviation over patterns.
        own: whether the encoder was trained on the language model.
        encoders: names of the rows.
        lms: names of the columns.
        measure: "loss", shown in hundredths, or "divergence", in nats.
    """
    factor, title = (100, "masked loss \u00d7 0.01") if measure == "loss" else (1, "divergence, nats")
    rows, columns = [_short(name) for name in encoders], [_short(name) for name in lms]
    margin = 0.075 * max(map(len, rows)) + 1.5
    size = (max(1.25 * len(columns) + margin, 4.4), 0.5 * len(rows) + 0.055 * max(map(len, columns)) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(mean * factor, cmap=_COLORS, aspect="auto")
    texts = [f"{factor * m:.2f} \u00b1 {factor * s:.2f}" for m, s in zip(mean.flat, sd.flat, strict=True)]
    _number(axis, mean * factor, np.array(texts).reshape(mean.shape).tolist())
    for encoder, lm in zip(*np.nonzero(own), strict=True):
        axis.add_patch(Rectangle((lm - 0.47, encoder - 0.47), 0.94, 0.94, fill=False, edgecolor="white", linewidth=1.6))
    axis.set_xticks(range(len(columns)), columns, rotation=30 if max(map(len, columns)) > 14 else 0)
    axis.set_yticks(range(len(rows)), rows)
    title += ", mean \u00b1 s.d. over patterns\nframed: the model's own encoder"
    axis.set(xlabel="patterns of", ylabel="encoder", title=title)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8).outline.set_visible(False)
    return figure


@rc_context(STYLE)
def statement(text: str) -> Figure:
    """A text in place of a picture, which says why there is none."""
    figure = Figure(figsize=(8.2, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=11, color="#555555")
    return figure


def gallery(examples: Sequence[Example], titles: Sequence[str], columns: int) -> Figure:
    """Whole patterns side by side, one title each."""
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    tall = 2.75 + 0.14 * max(title.count("\n") - 1 for title in titles)  # two lines fit as it is
    figure = Figure(figsize=(2.45 * max(columns, 2) + 0.7, tall * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(grid.flat):
        if place >= len(examples):
            axis.set_axis_off()
            continue
        log_pattern = examples[place].log_pattern
        tokens = attended(log_pattern)
        values = np.where(np.isfinite(log_pattern), scaled(log_pattern), np.nan)
        _show(axis, _pixels(values[:tokens, :tokens], (0.0, 1.0)))
        axis.set_title(titles[place])
        axis.set(xticks=[0, tokens - 1], yticks=[0, tokens - 1])
        if place % columns == 0:
            axis.set_ylabel("query position")
        if place + columns >= len(examples):
            axis.set_xlabel("key position")
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), _COLORS), ax=grid, shrink=0.6, aspect=40, pad=0.02)
    bar.set_label("scaled log probability")
    bar.outline.set_visible(False)
    return figure


def _pixels(
    values: Float[ndarray, "t t"], limits: tuple[float, float], hidden: Bool[ndarray, "t t"] | None = None
) -> Float[ndarray, "t t 4"]:
    """Colours of a pattern: white where it is NaN, grey where a patch is hidden from the encoder."""
    low, high = limits
    colors = _COLORS(np.clip((np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0), 0, 1))
    if hidden is not None:
        colors[hidden] = _HIDDEN
    colors[np.isnan(values)] = _WHITE
    return colors


def _show(axis: Axes, pixels: Float[ndarray, "t t 4"]) -> None:
    axis.imshow(pixels, interpolation="antialiased", interpolation_stage="rgba")
    axis.spines[:].set_visible(False)  # a line there would hide the first key's column


def _cover(axis: Axes, absent: Bool[ndarray, "l h"]) -> None:
    """Paint the cells of an image grey where the model has no head."""
    if absent.any():
        colors = np.zeros((*absent.shape, 4))
        colors[absent] = (*_rgb(NO_HEAD_COLOR), 1.0)
        axis.imshow(colors, aspect="equal")


def _number(axis: Axes, shown: ndarray, texts: Sequence[Sequence[str]]) -> None:
    """Write a number into each cell of the image ``shown``, black or white by the cell's colour."""
    pixels = axis.images[0].to_rgba(shown, bytes=True)[..., :3].tolist()
    for layer, row in enumerate(texts):
        for head, text in enumerate(row):
            ink = ink_on("#{:02x}{:02x}{:02x}".format(*pixels[layer][head]))
            axis.text(head, layer, text, ha="center", va="center", fontsize=6.5, color=ink)


def _legend_entries(single: Int[ndarray, "l h"], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """Colour and text of the clusters that most heads show on one prompt."""
    clusters, counts = np.unique(single[single > NOISE], return_counts=True)
    ranked = clusters[np.lexsort((clusters, -counts))].tolist()
    entries = [(cluster_color(cluster), f"{cluster}: {_short(names[cluster], 24)}") for cluster in ranked[:_LEGEND]]
    if len(ranked) > _LEGEND:
        entries.append(("none", f"and {len(ranked) - _LEGEND} more"))
    if (single == NOISE).any():
        entries.append((NOISE_COLOR, "in no cluster"))
    if (single == NOT_CAPTURED).any():
        entries.append(("none", "white: not captured"))
    if (single == NO_HEAD).any():
        entries.append((NO_HEAD_COLOR, "no such head"))
    return entries


def _short(name: str, length: int = 30) -> str:
    return name if len(name) <= length else name[: length - 1] + "\u2026"


def _rgb(color: str) -> tuple[float, float, float]:
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255
