"""Every figure can be drawn at the smallest and the largest size, is not blank, and gives the same bytes twice."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.spatial import ConvexHull

from apmae.analyze.locations import HeadGrid
from apmae.report import figures
from apmae.report.examples import Example, extremes_of_a_cluster, one_per_cluster, typical_prompt
from apmae.report.palette import cluster_color, ink_on
from apmae.report.thumbnails import SIDE, thumbnail
from apmae.study.reader import Sample


def pixels(figure):
    """The figure's pixels as written, after checking that it is not blank."""
    image = imread(io.BytesIO(figures.png(figure)))
    assert min(image.shape[:2]) > 100
    assert len(np.unique((image.reshape(-1, image.shape[2])[::3] * 255).astype(np.uint8), axis=0)) > 8
    return image


@pytest.fixture
def example(planted):
    def make(cluster=0, name="previous token", size=64):
        return Example(cluster, name, 0, 1, 2, planted(cluster % 4, np.random.default_rng(0), size))

    return make


def grid(layers, heads, rng):
    single = rng.integers(-2, 30, size=(layers, heads))
    clustered = rng.random((layers, heads))
    clustered[0, 0] = np.nan
    return single, HeadGrid(clustered, rng.integers(0, 9, size=(layers, heads)), single)


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (1, 1), (6, 8), (40, 48), (48, 4), (2, 64)])
def test_head_maps_of_any_size(layers, heads):
    single, maps = grid(layers, heads, np.random.default_rng(0))
    names = {number: f"name {number} that is long enough to be cut somewhere" for number in range(30)}
    image = pixels(figures.head_maps(3, single, maps, {**names, -1: "unknown"}))
    assert max(image.shape[:2]) < 2500


def test_head_maps_of_heads_that_do_nothing():
    empty = HeadGrid(np.zeros((2, 3)), np.zeros((2, 3), int), np.full((2, 3), -1))
    pixels(figures.head_maps(0, np.full((2, 3), -1), empty, {-1: "unknown"}))


def test_all_figures_of_a_study(study):
    pixels(figures.reconstruction(study.reconstructions))
    pixels(figures.embedding_steps(study.sample(), study.layers, study.heads))
    pixels(figures.pattern_examples(one_per_cluster(study, 12)))
    pixels(figures.cluster_variation(extremes_of_a_cluster(study)))


@pytest.mark.parametrize("rows", [1, 3, 20_000])
def test_embedding_steps_from_one_row_to_many(rows):
    rng = np.random.default_rng(0)
    where = rng.integers(0, 40, rows), rng.integers(0, 48, rows)
    sample = Sample(*where, rng.integers(-1, 800, rows), rng.normal(size=(rows, 2)), rng.normal(size=(rows, 2)))
    pixels(figures.embedding_steps(sample, 40, 48))
    pixels(figures.embedding_steps(sample._replace(cluster=np.full(rows, -1)), 40, 48))


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_galleries_of_any_length(count, example):
    pixels(figures.pattern_examples([example(number) for number in range(count)]))
    pixels(figures.cluster_variation([example(number, size=7 + number) for number in range(count)]))


def test_titles_have_the_whole_name(example):
    name = "local band, over 10 % on the previous token, evenness 0.29 to 0.42, 14 to 30 % in blocks"
    short, long = (figures.pattern_examples([example(name=one)]) for one in ("self", name))
    lines = long.axes[0].get_title().splitlines()
    assert " ".join(lines[:-1]).endswith(f": {name}") and lines[-1].startswith("head ")
    assert max(map(len, lines)) <= 32
    assert long.get_figheight() > short.get_figheight(), "room for more lines"
    pixels(long)


def test_a_figure_with_nothing_to_show_says_so():
    none = np.zeros(0, int)
    for figure in (
        figures.reconstruction([]),
        figures.pattern_examples([]),
        figures.cluster_variation([]),
        figures.embedding_steps(Sample(none, none, none, np.zeros((0, 2)), np.zeros((0, 2))), 2, 2),
    ):
        assert figure.texts[0].get_text().startswith("No ")
        pixels(figure)


def test_names_are_text_and_never_formulas(example):
    pixels(figures.pattern_examples([example(name="columns on '$' and $\\frac{")]))


def test_equal_input_gives_equal_bytes(study):
    sample = study.sample()
    first, second = (figures.png(figures.embedding_steps(sample, study.layers, study.heads)) for _ in range(2))
    assert first == second
    assert not any(word in first for word in (b"tEXt", b"tIME", b"Software"))


def test_hidden_patches_are_grey_and_the_rest_is_as_it_was(study):
    row = study.reconstructions[0]
    figure = figures.reconstruction([row])
    original, masked, predicted, combined = (axis.images[0].get_array() for axis in figure.axes)
    hidden = (masked[..., :3] == np.float32(0.72)).all(-1) | np.isclose(masked[..., :3], 0.72).all(-1)
    flags = np.frombuffer(row["masked"], np.uint8)
    rows, columns = np.tril_indices(row["size"] // row["patch"])
    seen = np.array([hidden[r * 16 + 15, c * 16] for r, c in zip(rows, columns, strict=True)])
    assert np.array_equal(seen, flags.astype(bool))
    assert np.array_equal(combined[~hidden], original[~hidden])
    assert np.array_equal(combined[hidden], predicted[hidden])
    assert (predicted[~hidden] == 1).all()


def test_hidden_patches_of_a_square_pattern_are_above_the_diagonal_too(encoder_study):
    row = encoder_study.reconstructions[0]
    masked = figures.reconstruction([row]).axes[1].images[0].get_array()
    hidden = np.isclose(masked[..., :3], 0.72).all(-1)
    seen = hidden[15::16, ::16].ravel()  # one pixel of each patch, row by row
    assert np.array_equal(seen, np.frombuffer(row["masked"], np.uint8).astype(bool))
    assert np.triu(hidden, 16).any()


def test_the_example_of_a_cluster_has_the_least_total_distance_to_its_other_exemplars(study):
    found = one_per_cluster(study)
    assert [entry.cluster for entry in found] == study.clusters["cluster"].to_pylist()
    assert [entry.name for entry in found] == study.clusters["name"].to_pylist()
    exemplars = study.exemplars
    for entry in found:
        own = np.flatnonzero(exemplars.cluster == entry.cluster)
        places = exemplars.coordinates[own].astype(float)
        totals = [sum(np.linalg.norm(place - other) for other in places) for place in places]
        best = own[np.argmin(totals)]
        assert (exemplars.prompt[best], exemplars.layer[best], exemplars.head[best]) == entry[2:5]
    assert len(one_per_cluster(study, 2)) == 2


def test_members_shown_of_a_cluster_are_on_the_hull_of_the_largest_with_enough(study):
    found = extremes_of_a_cluster(study)
    assert len({(entry.prompt, entry.layer, entry.head) for entry in found}) == 6
    assert {entry.cluster for entry in found} == {0}
    exemplars = study.exemplars
    most = max(range(4), key=lambda cluster: (exemplars.cluster == cluster).sum())
    own = exemplars.cluster == most
    every = extremes_of_a_cluster(study, int(own.sum()))
    corners = ConvexHull(exemplars.coordinates[own].astype(float)).vertices
    places = np.column_stack([exemplars.prompt, exemplars.layer, exemplars.head])[own][corners]
    assert {entry[2:5] for entry in every} == set(map(tuple, places.tolist()))
    assert {entry.cluster for entry in every} == {most}


def test_the_typical_prompt_is_the_median_one(study):
    import duckdb

    points = study.points  # noqa: F841 (duckdb reads it by name)
    query = "select prompt, avg((cluster >= 0)::int) as share from points group by all order by share, prompt"
    rows = duckdb.sql(query).fetchall()
    middle = rows[(len(rows) - 1) // 2][1]
    assert typical_prompt(study.points) == min(prompt for prompt, share in rows if share == middle)


def test_colours_are_distinct_and_their_ink_readable():
    colors = [cluster_color(number) for number in range(-2, 21)]
    assert len(set(colors)) == len(colors)

    def light(color):
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in colors:
        dark, bright = sorted((light(color), light(ink_on(color))))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG AA


@pytest.mark.parametrize("size", [1, 5, 96, 97, 256, 300])
def test_thumbnails_are_small_pngs_of_any_size(size, planted):
    log_pattern = planted(1, np.random.default_rng(0), size)
    data = thumbnail(log_pattern)
    image = imread(io.BytesIO(data))
    step = -(-size // SIDE)
    assert image.shape[:2] == (-(-size // step),) * 2
    assert len(data) < 12_000
    if size > 1:
        assert image[0, -1].tolist() == [1, 1, 1, 0]  # above the diagonal: white on paper, transparent on a page
        assert image[-1, 0].min() < 1
