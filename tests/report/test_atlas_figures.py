"""The figures of an atlas that was fitted in memory, against those that are made by hand of the same arrays."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.image import imread

from apmae.atlas.atlas import Atlas
from apmae.errors import ConfigError
from apmae.patterns.patterns import Patterns
from apmae.report.atlas_figures import draw_clusters, draw_heads, draw_hull, draw_map
from apmae.report.figures import png
from apmae.study.exemplars import scaled

LAYERS, HEADS, PROMPTS, SIZE = 3, 4, 20, 40


@pytest.fixture(scope="module")
def made(planted):
    """Each head has one of four planted patterns, except one whose embeddings are anywhere."""
    draw = np.random.default_rng(0)
    where = np.array([(p, layer, head) for p in range(PROMPTS) for layer in range(LAYERS) for head in range(HEADS)])
    kind = (where[:, 1] * HEADS + where[:, 2]) % 4
    logs = np.stack([planted(one, draw, SIZE) for one in kind.tolist()])
    patterns = Patterns.from_probabilities(np.exp(logs))
    patterns.prompt, patterns.layer, patterns.head = where.T.copy()
    lone = (where[:, 1] == 2) & (where[:, 2] == 3)
    z = draw.normal(size=(4, 12))[kind] * 4 + 0.2 * draw.normal(size=(len(kind), 12))
    z[lone] = draw.normal(size=(lone.sum(), 12)) * 40
    atlas = Atlas.fit(z, seed=0)
    points = pa.table(
        {
            "prompt": patterns.prompt,
            "layer": patterns.layer,
            "head": patterns.head,
            "cluster": atlas.labels_,
            "coordinates": list(atlas.coordinates_),
        }
    )
    return points, z, atlas, patterns, logs


def shown(figure):
    """Titles of the panels that are not empty, after checking that the figure can be written and is not blank."""
    image = imread(io.BytesIO(png(figure)))
    assert len(np.unique(image.reshape(-1, image.shape[2])[::3], axis=0)) > 8
    return [axis.get_title() or axis.get_title("left") for axis in figure.axes if axis.get_title()]


def test_the_map_has_every_point_in_its_place(made):
    points, z, atlas, _, _ = made
    figure = draw_map(points, z, [HEADS] * LAYERS)
    assert [title[0] for title in shown(figure)] == ["A", "B", "C", "D"]
    raw, reduced = (np.sort(figure.axes[panel].collections[0].get_offsets(), 0) for panel in (0, 1))
    np.testing.assert_allclose(raw, np.sort(z[:, :2], 0), rtol=1e-5)
    np.testing.assert_allclose(reduced, np.sort(atlas.coordinates_[:, :2], 0), rtol=1e-5)
    assert len(figure.axes[3].collections[0].get_offsets()) == (atlas.labels_ >= 0).sum()


def test_a_map_of_very_many_points_shows_a_sample():
    draw, rows = np.random.default_rng(0), 21_000
    columns = {name: draw.integers(0, 4, rows) for name in ("layer", "head", "cluster")}
    coordinates = pa.FixedSizeListArray.from_arrays(draw.normal(size=4 * rows), 4)
    figure = draw_map(pa.table({**columns, "coordinates": coordinates}), np.arange(rows)[:, None], [4] * 4)
    offsets = figure.axes[0].collections[0].get_offsets()
    assert len(np.unique(offsets[:, 0])) == 20_000
    assert (offsets[:, 1] == 0).all()  # there is no second dimension


def test_clusters_are_shown_by_the_patterns_of_their_medoids(made):
    points, _, atlas, patterns, logs = made
    figure = draw_clusters(points, atlas.names, patterns)
    rows = list(atlas.medoids().values())
    titles = [
        f"{cluster}: {atlas.names[cluster]}\nhead {patterns.layer[row]}.{patterns.head[row]}"
        for cluster, row in enumerate(rows)
    ]
    assert shown(figure) == titles
    for axis, row in zip(figure.axes, rows, strict=False):
        drawn = axis.images[0].get_array()
        finite = np.isfinite(logs[row])
        assert (drawn[~finite] == 1).all()  # white
        brightness, expected = drawn[..., 1][finite], scaled(logs[row])[finite]  # green rises along viridis
        assert np.corrcoef(brightness.argsort().argsort(), expected.argsort().argsort())[0, 1] > 0.99
    assert len(shown(draw_clusters(points, atlas.names, patterns, count=2))) == 2


def test_the_hull_shows_its_corners(made):
    points, _, atlas, patterns, _ = made
    titles = shown(draw_hull(points, atlas.names, patterns, cluster=1, count=4))
    rows = atlas.hull(1, 4)
    assert titles == [f"head {patterns.layer[r]}.{patterns.head[r]}, prompt {patterns.prompt[r]}" for r in rows]


def test_heads_have_their_clusters_shares_and_counts(made):
    points, _, atlas, _, _ = made
    figure = draw_heads(points, atlas.names, [HEADS, HEADS, HEADS], prompt=7)
    assert shown(figure)[0] == "A  clusters in prompt 7"
    share = figure.axes[1].images[0].get_array()
    number = figure.axes[2].images[0].get_array()
    rows = points.to_pylist()
    for layer in range(LAYERS):
        for head in range(HEADS):
            own = [row["cluster"] for row in rows if (row["layer"], row["head"]) == (layer, head)]
            known = [cluster for cluster in own if cluster >= 0]
            assert share[layer, head] == pytest.approx(len(known) / PROMPTS)
            assert number[layer, head] == len(set(known))
    texts = [text.get_text() for text in figure.axes[0].texts]
    single = [row["cluster"] for row in rows if row["prompt"] == 7]
    assert texts == ["" if cluster < 0 else str(cluster) for cluster in single]


def test_heads_that_a_layer_lacks_are_covered(made):
    points, _, atlas, _, _ = made
    figure = draw_heads(points, atlas.names, [HEADS, HEADS, HEADS + 2, 0])
    legend = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert "no such head" in legend
    assert figure.axes[0].images[0].get_array().shape[:2] == (4, HEADS + 2)


def test_nothing_to_show_is_said(made):
    points, z, atlas, patterns, _ = made
    none = points.slice(0, 0)
    for figure in (
        draw_map(none, z[:0], [HEADS]),
        draw_heads(none, atlas.names, [HEADS]),
        draw_clusters(none, atlas.names, patterns[:0]),
    ):
        assert figure.texts[0].get_text().startswith("No ")


def test_mistakes_are_refused(made):
    points, z, atlas, patterns, _ = made
    for call, said in (
        (lambda: draw_map(points.drop_columns("coordinates"), z, [HEADS] * LAYERS), "coordinates missing; read points"),
        (lambda: draw_map(points, z[1:], [HEADS] * LAYERS), "expected embeddings of the 240 points, .* got 239"),
        (lambda: draw_clusters(points, atlas.names, patterns[1:]), "expected patterns of the 240 points, .* got 239"),
        (lambda: draw_clusters(points, atlas.names, patterns, count=0), "expected a count of at least 1, got 0"),
        (lambda: draw_hull(points, atlas.names, patterns, cluster=99), "got cluster 99, of which there is no row"),
        (lambda: draw_heads(points, atlas.names, [HEADS] * LAYERS, prompt=20), "a prompt in 0-19 that has points"),
    ):
        with pytest.raises(ConfigError, match=said):
            call()
