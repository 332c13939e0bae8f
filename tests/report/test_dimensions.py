"""The numbers of Figure 7 by hand, what they say in words, and the picture and the table that show them."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from apmae.report import figures, terminal
from apmae.report.dimensions import summarize_dimensions, trustworthiness_figure
from apmae.schema import DIMENSIONS


@pytest.fixture
def table():
    """Draws up the table of some measurements: (dimensions, seed, trustworthiness, error)."""

    def make(*rows, queries=100):
        names = ("dimensions", "seed", "trustworthiness", "error")
        same = {"neighbors": 50, "points": 4000, "queries": queries}
        return pa.Table.from_pylist([{**dict(zip(names, row, strict=True)), **same} for row in rows], DIMENSIONS)

    return make


THREE = ((2, 0, 0.70, 0.03), (2, 1, 0.80, 0.04), (3, 0, 0.88, 0.01), (3, 1, 0.90, 0.0), (8, 0, 0.9, 0), (8, 1, 0.92, 0))


def test_means_spread_and_error_are_those_by_hand(table):
    found = summarize_dimensions(table(*THREE))
    two, three, eight = found.rows
    assert (two.dimensions, three.dimensions, eight.dimensions) == (2, 3, 8)
    assert two.mean == pytest.approx(0.75)
    assert two.sd == pytest.approx(0.1 / np.sqrt(2))
    assert two.error == pytest.approx(0.05 / 2)
    assert eight.error == 0
    assert two.gain is None
    assert (three.gain, eight.gain) == (pytest.approx(0.14), pytest.approx(0.02 / 5))
    assert (found.neighbors, found.points, found.queries, found.seeds) == (50, 4000, 100, 2)


def test_the_fewest_dimensions_that_cannot_be_told_from_the_best(table):
    """3 dimensions are 0.02 below the best, whose s.d. is 0.014; then 0.01."""
    found = summarize_dimensions(table(*THREE))
    assert (found.best.dimensions, found.fewest.dimensions) == (8, 8)
    assert found.finding.startswith("Trustworthiness still rises at 8 dimensions, the most that were measured")
    fallen = summarize_dimensions(table(*THREE, (9, 0, 0.8, 0), (9, 1, 0.8, 0)))
    assert (fallen.best.dimensions, fallen.fewest.dimensions) == (8, 8)
    assert fallen.finding == "8 dimensions keep most, and fewer keep clearly less."
    near = summarize_dimensions(table(*THREE[:2], (3, 0, 0.89, 0.01), (3, 1, 0.91, 0.0), *THREE[4:]))
    assert (near.best.dimensions, near.fewest.dimensions) == (8, 3)
    assert near.finding == (
        "3 dimensions are the fewest that cannot be told from the best, 8 (0.900 and 0.910 \u00b1 0.014)."
    )


def test_with_one_seed_the_sampling_error_decides(table):
    found = summarize_dimensions(table((2, 5, 0.89, 0.02), (4, 5, 0.90, 0.02)))
    assert [row.sd for row in found.rows] == [None, None]
    assert found.fewest.dimensions == 2
    falling = summarize_dimensions(table((2, 5, 0.9, 0.001), (4, 5, 0.8, 0.001)))
    assert falling.finding == "2 dimensions, the fewest that were measured, keep most."
    only = summarize_dimensions(table((4, 5, 0.9, 0.02)))
    assert only.finding == "Only 4 dimensions were measured: there is nothing to compare."


@pytest.mark.parametrize(
    "rows", [THREE, THREE[2:4], [(4, 0, 0.9, 0.01)], [(n, 0, 0.9, 0) for n in range(2, 40)]], ids=len
)
def test_the_picture_can_be_drawn_and_gives_the_same_bytes(table, rows):
    found = summarize_dimensions(table(*rows))
    first, second = (figures.png(trustworthiness_figure(found)) for _ in range(2))
    assert first == second
    assert len(np.unique(imread(io.BytesIO(first)))) > 8


def test_the_picture_shows_means_band_and_bars(table):
    (axis,) = trustworthiness_figure(summarize_dimensions(table(*THREE))).axes
    line = axis.lines[0]
    np.testing.assert_allclose(line.get_xydata(), [[2, 0.75], [3, 0.89], [8, 0.91]], atol=1e-6)
    band = axis.collections[0].get_paths()[0].get_extents()
    sd = 0.1 / np.sqrt(2)
    assert (band.x0, band.x1) == (2, 8)
    assert band.y0 == pytest.approx(0.75 - sd)
    bar = axis.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bar[:, 1], [0.725, 0.775], atol=1e-6)
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["\u00b1 s.d. over 2 seeds", "mean \u00b1 standard error of asking 100 of 4,000 patterns"]
    (whole,) = trustworthiness_figure(summarize_dimensions(table((2, 0, 0.7, 0), queries=4000))).axes
    assert whole.get_legend().get_texts()[0].get_text() == "mean, every one of 4,000 patterns asked"


@pytest.mark.parametrize("width", [40, 80])
def test_the_terminal_shows_every_number_of_dimensions_in_lines_that_fit(table, monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", str(width))
    terminal.print_dimensions(summarize_dimensions(table(*THREE)))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert [line.split()[:2] for line in printed.splitlines() if "0." in line] == [
        *(["2", "0.7500"], ["3", "0.8900"], ["8", "0.9100"])
    ]
    assert ("0.0707" in printed) == (width == 80)
    assert ("0.0250" in printed) == (width == 80)  # nothing is left out at 80
    assert "50 neighbours of 100 of 4,000 patterns, 2" in " ".join(printed.split())
