"""Pictures of single heads and contact sheets of all, as matplotlib figures. Axes: t rows of a pattern.

Probabilities have one fixed scale (log10 from -4 to 0), not the encoder's: that one depends on each pattern's smallest
entry, so two heads, or a head on two prompts, could not be compared, and no colour bar could be drawn.
"""

from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps, font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray

from apmae.report.figures import STYLE
from apmae.report.palette import NO_HEAD_COLOR, ink_on
from apmae.report.sheet import (
    DECADES,
    HeadPattern,
    Sheet,
    expect_few,
    expect_scale,
    label,
    printable,
    shade,
    shortened,
)
from apmae.report.tables import head_name

MOST_LABELS = 64
"""Tokens that an axis names; of more, every second, third, ... one."""
_FONT = "DejaVu Sans Mono"
_CAPTION = 0.17
"""Room for one line above a head in a contact sheet, inches: its number, or its number and its name in two."""
_NAMED_INCHES = 1.0
"""Width of a cell from which a contact sheet writes the names too."""
_CELL_PIXELS = 160
_FRAME = (204, 204, 204, 255)
_ABSENT = (*(int(NO_HEAD_COLOR[place : place + 2], 16) for place in (1, 3, 5)), 255)
_BAND = 0.2
"""Height of a row of layers without attention, inches."""


@rc_context(STYLE)
def head_figure(sheet: Sheet, scale: str = "log") -> Figure:
    """The sheet's heads, each large with its tokens on both axes, at most two beside each other.

    Raises:
        ConfigError: if there are more than ``sheet.MOST_LARGE``, or no such scale.
    """
    expect_scale(scale)
    expect_few(len(sheet.heads))
    columns = min(len(sheet.heads), 2)
    rows = ceil(len(sheet.heads) / columns)
    side = float(np.clip(0.115 * len(sheet.tokens), 3.6, 7.4))
    figure = Figure(figsize=((side + 1.5) * columns + 0.5, (side + 1.6) * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis, pattern in zip(grid.flat, sheet.heads, strict=False):
        _draw_head(axis, sheet, pattern, scale, side)
    for axis in grid.flat[len(sheet.heads) :]:
        axis.set_axis_off()
    _color_bar(figure, grid.ravel().tolist(), scale)
    _write_title(figure, grid[0, 0], sheet, (side + 1.5) * columns)
    return figure


@rc_context(STYLE)
def sheet_figure(sheet: Sheet, scale: str = "log") -> Figure:
    """A contact sheet: layers down, heads across, a small picture of each, with its number and name; grey where the
    model has no head.

    Raises:
        ConfigError: if there is no such scale.
    """
    expect_scale(scale)
    heads = sheet.columns
    inches = float(np.clip(24 / len(heads), 0.45, 1.35))
    pixels = min(_CELL_PIXELS, round(inches * 120))
    named = inches >= _NAMED_INCHES and any(entry.name for entry in sheet.heads)
    gap, caption = round(0.07 / inches * pixels), round((2 if named else 1) * _CAPTION / inches * pixels)
    tops, bands, height_used = {}, [], 0
    for first, last in sheet.bands:
        if sheet.attends(first):
            tops[first] = height_used + caption
            height_used += pixels + caption
        else:
            band = round(_BAND / inches * pixels)
            bands.append((first, last, height_used + gap, band))
            height_used += band + gap
    canvas = np.zeros((height_used + 1, len(heads) * (pixels + gap) + 2 - gap, 4), np.uint8)
    for _, _, top, band in bands:
        canvas[top : top + band] = _ABSENT
    for layer, top in tops.items():
        for head in heads[sheet.heads_by_layer[layer] if sheet.heads_by_layer else len(heads) :]:
            left = heads.index(head) * (pixels + gap) + 1
            canvas[top : top + pixels, left : left + pixels] = _ABSENT
    places = []
    for entry in sheet.heads:
        top, left = tops[entry.layer], heads.index(entry.head) * (pixels + gap) + 1
        canvas[top - 1 : top + pixels + 1, left - 1 : left + pixels + 1] = _FRAME
        canvas[top : top + pixels, left : left + pixels] = _colors(_resized(shade(entry.probabilities, scale), pixels))
        places.append((entry, left, top))
    width, height = (inches / pixels * canvas.shape[axis] for axis in (1, 0))
    figure = Figure(figsize=(max(width, 4.5) + 1.2, height + 1.0), layout="constrained")
    axis = figure.subplots()
    axis.imshow(canvas, interpolation="antialiased", interpolation_stage="rgba")
    axis.set_axis_off()
    for entry, left, top in places:
        text = head_name(entry.layer, entry.head) + (f"\n{shortened(entry.name, 27)}" if named else "")
        axis.text(left, top - 1 - 0.03 * pixels, text, fontsize=5.6, va="bottom", linespacing=1.25, color="#333333")
    for first, last, top, band in bands:
        axis.text(gap, top + band / 2, _without(first, last), fontsize=5.6, va="center", color=ink_on(NO_HEAD_COLOR))
    _color_bar(figure, [axis], scale, shrink=min(1.0, 2.6 / height))
    _write_title(figure, axis, sheet, max(width, 4.5))
    return figure


def _without(first: int, last: int) -> str:
    return f"layer {first}: no attention" if first == last else f"layers {first}-{last}: no attention"


def _draw_head(axis: Axes, sheet: Sheet, pattern: HeadPattern, scale: str, side: float) -> None:
    count = len(sheet.tokens)
    axis.imshow(_colors(shade(pattern.probabilities, scale)), interpolation="nearest", interpolation_stage="rgba")
    step = ceil(count / MOST_LABELS)
    shown = range(0, count, step)
    texts = [f"{drawable(label(sheet.tokens[i]))} {i}" for i in shown]
    size = float(np.clip(0.78 * 72 * side / max(count / step, 1), 4.5, 8.0))
    font: dict[str, Any] = {"fontsize": size, "family": _FONT}
    axis.set_xticks(list(shown), texts, rotation=90, **font)
    axis.set_yticks(list(shown), texts, **font)
    axis.tick_params(length=1.5, pad=1.5)
    axis.set_xlabel("key")
    axis.set_ylabel("query")
    axis.spines[:].set_visible(False)
    name = f": {pattern.name}" if pattern.name else ""
    axis.set_title(f"head {head_name(pattern.layer, pattern.head)}{name}", loc="left", fontsize=10)


def _write_title(figure: Figure, first: Axes, sheet: Sheet, inches: float) -> None:
    """Model and prompt above the first picture, which the layout has to place before."""
    about = f"{printable(sheet.model)}, {sheet.size}: \u201c{sheet.excerpt}\u201d"
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    box = first.get_tightbbox().transformed(figure.transFigure.inverted())  # pyright: ignore[reportOptionalMemberAccess]
    title = drawable(shortened(about, max(round(inches * 13), 40)))
    figure.text(box.x0, box.y1 + 0.12 / figure.get_figheight(), title, fontsize=9, ha="left", va="bottom")


def _color_bar(figure: Figure, axes: Sequence[Axes], scale: str, shrink: float = 0.5) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colormaps["viridis"]), ax=axes, shrink=shrink, aspect=22, pad=0.02
    )
    if scale == "log":
        powers = range(DECADES + 1)
        texts = ["\u2264 " * (power == DECADES) + f"{10**-power:g}" for power in powers]
        bar.set_ticks([1 - power / DECADES for power in powers], labels=texts)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label("attention probability" + (" (log scale)" if scale == "log" else ""))


def _colors(shades: Float[ndarray, "t t"]) -> ndarray:
    """(t, t, 4) uint8; white where there is nothing."""
    colors = colormaps["viridis"](np.nan_to_num(shades, nan=0.0), bytes=True)
    colors[np.isnan(shades)] = 255
    return colors


def _resized(shades: Float[ndarray, "t t"], side: int) -> Float[ndarray, "s s"]:
    """A square of another size: entries repeated, or the mean of those that share a pixel (NaN left out)."""
    count = len(shades)
    starts = np.arange(side) * count // side
    if count <= side:
        return shades[np.ix_(starts, starts)]
    real = np.isfinite(shades)

    def sums(values: ndarray) -> ndarray:
        return np.add.reduceat(np.add.reduceat(values, starts, axis=0), starts, axis=1)

    members = sums(real.astype(np.float32))
    return np.where(members > 0, sums(np.where(real, shades, 0.0)) / np.maximum(members, 1), np.nan)


def drawable(text: str) -> str:
    """A text in which characters that matplotlib's font lacks are written as their code points."""
    return "".join(
        character if ord(character) in _glyphs() else character.encode("unicode_escape").decode() for character in text
    )


@cache
def _glyphs() -> frozenset[int]:
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in (_FONT, "DejaVu Sans"))
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))
