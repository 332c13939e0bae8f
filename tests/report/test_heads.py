"""Pictures of heads: the right pixels, the right labels, at every size, whatever the tokens are."""

import io

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from apmae.errors import ConfigError
from apmae.report.figures import png
from apmae.report.heads import MOST_LABELS, drawable, head_figure, sheet_figure
from apmae.report.sheet import DECADES, HeadPattern, Sheet

HOSTILE = ("$\\frac{", "$x$", "\u4e2d\u6587", "\U0001f600", "\x00", "\ud800", "\u202e", "\n", "</script>", "")


def patterns(count, causal, heads, seed=0):
    """Softmax of random scores, row by row."""
    rng = np.random.default_rng(seed)
    found = []
    for layer, head in heads:
        scores = rng.normal(size=(count, count)) * 3
        scores = np.where(np.tri(count, dtype=bool) | (not causal), scores, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        probabilities = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        found.append(HeadPattern(layer, head, "local band", probabilities))
    return tuple(found)


def make(count=12, causal=True, heads=((0, 0),), tokens=None):
    return Sheet("a model", tuple(tokens or (f"t{i}" for i in range(count))), patterns(count, causal, heads), causal)


def pixels(figure):
    image = imread(io.BytesIO(png(figure, cropped=True)))
    assert len(np.unique((image.reshape(-1, image.shape[2])[::5] * 255).astype(np.uint8), axis=0)) > 8
    return image


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_every_entry_has_the_colour_of_its_probability(causal, scale):
    sheet = make(causal=causal)
    drawn = head_figure(sheet, scale).axes[0].images[0].get_array()
    probabilities = sheet.heads[0].probabilities
    for query in range(12):
        for key in range(12):
            p = float(probabilities[query, key])
            share = p if scale == "linear" else max(0.0, 1 + np.log10(max(p, 1e-30)) / DECADES)
            wanted = colormaps["viridis"](share, bytes=True) if p else (255,) * 4
            assert np.abs(np.subtract(drawn[query, key], wanted, dtype=int)).max() <= 2, (query, key)
    assert (probabilities == 0).any() == causal


@pytest.mark.parametrize("count", [1, 2, 33, 64, 65, 256])
def test_both_axes_name_tokens_up_to_the_limit_and_thin_out_beyond(count):
    figure = head_figure(make(count))
    axis = figure.axes[0]
    step = 1 if count <= MOST_LABELS else -(-count // MOST_LABELS)
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == [f"t{i} {i}" for i in range(0, count, step)]
        assert len(ticks) <= MOST_LABELS
    image = pixels(figure)
    assert 450 < max(image.shape[:2]) < 1800


@pytest.mark.parametrize("count", [8, 33, 64])
def test_labels_do_not_run_into_one_another(count):
    figure = head_figure(make(count))
    png(figure, cropped=True)
    axis = figure.axes[0]
    rows = [tick.get_window_extent() for tick in axis.get_yticklabels()]
    columns = [tick.get_window_extent() for tick in axis.get_xticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in zip(rows, rows[1:], strict=False))
    assert all(left.x1 <= right.x0 + 1 for left, right in zip(columns, columns[1:], strict=False))


def test_chosen_heads_come_in_the_order_given_with_title_and_scale():
    figure = head_figure(make(heads=((3, 5), (0, 1), (2, 2))))
    titles = [axis.get_title(loc="left") for axis in figure.axes[:3]]
    assert titles == ["head 3.5: local band", "head 0.1: local band", "head 2.2: local band"]
    assert "a model, 12 tokens: \u201ct0t1" in figure.texts[0].get_text()
    ticks = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
    assert ticks == ["1", "0.1", "0.01", "0.001", "\u2264 0.0001"]


@pytest.mark.parametrize(("layers", "heads", "named"), [(1, 2, True), (6, 8, True), (3, 32, False)])
def test_a_contact_sheet_captions_every_head(layers, heads, named):
    where = [(layer, head) for layer in range(layers) for head in range(heads)]
    figure = sheet_figure(make(heads=where))
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions == [f"{layer}.{head}" + "\nlocal band" * named for layer, head in where]
    image = pixels(figure)
    assert image.shape[1] > image.shape[0] or layers == heads or layers * 2 > heads


def test_a_contact_sheet_shows_each_pattern_in_its_place():
    one = np.zeros((4, 4), np.float32)
    one[:, 0] = 1.0
    other = np.eye(4, dtype=np.float32)
    sheet = Sheet("m", tuple("abcd"), (HeadPattern(0, 1, "", one), HeadPattern(2, 0, "", other)), causal=True)
    canvas = sheet_figure(sheet, "linear").axes[0].images[0].get_array()
    yellow = (canvas[..., :3] == colormaps["viridis"](1.0, bytes=True)[:3]).all(-1)
    height, width = (size // 2 for size in yellow.shape)
    assert not yellow[:height, :width].any() and not yellow[height:, width:].any()
    column, diagonal = yellow[:height, width:], yellow[height:, :width]
    assert np.ptp(np.flatnonzero(column.any(0))) * 3.5 < np.ptp(np.flatnonzero(diagonal.any(0)))
    assert column.sum() == diagonal.sum()


def test_a_long_pattern_shrinks_by_the_mean():
    count = 640
    even = np.tril(np.ones((count, count))) / np.arange(1, count + 1)[:, None]
    sheet = Sheet("m", ("t",) * count, (HeadPattern(0, 0, "", even.astype(np.float32)),), causal=True)
    canvas = sheet_figure(sheet, "linear").axes[0].images[0].get_array()
    side = 160
    inner = canvas[-side - 1 : -1, 1 : side + 1]
    block = even[4 * 100 : 4 * 101, :4].mean()
    assert np.abs(np.subtract(inner[100, 0], colormaps["viridis"](block, bytes=True), dtype=int)).max() <= 2


def test_tokens_are_text_whatever_they_are():
    pixels(head_figure(make(len(HOSTILE), tokens=HOSTILE)))
    sheet = make(len(HOSTILE), tokens=HOSTILE)
    pixels(sheet_figure(sheet._replace(model="\u4e2d $\\frac{\x00")))
    assert drawable("a\u4e2d$\u21b5") == "a\\u4e2d$\u21b5"


def test_equal_sheets_give_equal_bytes():
    assert png(head_figure(make()), cropped=True) == png(head_figure(make()), cropped=True)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="one of log, linear, got 'loud'"):
        head_figure(make(), "loud")
    with pytest.raises(ConfigError, match="at most 12 heads in one PNG, got 13; write .html"):
        head_figure(make(heads=[(0, head) for head in range(13)]))
