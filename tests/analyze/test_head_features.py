"""What is read of heads is what the study's tables hold, row by row; components are scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from apmae.analyze.head_features import components, one_hot, principal, read_heads
from apmae.artifacts import read_tables
from apmae.schema import SCORES
from apmae.study.reader import Study


@pytest.fixture(scope="module")
def study(real_study):
    return Study(real_study.folder)


@pytest.fixture(scope="module")
def some(study):
    return np.unique(study.prompts["prompt"].to_numpy())[::2].astype(np.int64)


@pytest.fixture(scope="module")
def heads(study, some):
    return read_heads(study, some)


def test_scores_and_clusters_are_those_of_the_tables(study, some, heads):
    rows = read_tables(study.embeddings_folder, "encode", "embeddings").to_pylist()
    assert len(heads.place) == len({(row["layer"], row["head"]) for row in rows})
    place = {tuple(own): number for number, own in enumerate(heads.place.tolist())}
    row_of = {number: row for row, number in enumerate(some.tolist())}
    kept = [row for row in rows if row["prompt"] in row_of]
    assert len(kept) == np.isfinite(heads.scores[:, :, SCORES.index("entropy")]).sum()
    for row in kept:
        found = heads.scores[row_of[row["prompt"]], place[row["layer"], row["head"]]]
        np.testing.assert_array_equal(found, np.array([row[f"score_{name}"] for name in SCORES], np.float32))
    for point in study.points.to_pylist():
        if point["prompt"] in row_of:
            assert heads.cluster[row_of[point["prompt"]], place[point["layer"], point["head"]]] == point["cluster"]


def test_components_are_of_each_head_and_of_the_fitted_prompts(study, some, heads):
    fits = [np.arange(len(some)) % 2 == 0, np.ones(len(some), bool)]
    found = components(study, heads, some, fits, 2)
    rows = read_tables(study.embeddings_folder, "encode", "embeddings").to_pylist()
    for number in (0, len(heads.place) - 1):
        layer, head = heads.place[number].tolist()
        own = {row["prompt"]: row["embedding"] for row in rows if (row["layer"], row["head"]) == (layer, head)}
        values = np.array([own[prompt] for prompt in some.tolist()], np.float32)
        for made, fit in zip(found, fits, strict=True):
            np.testing.assert_array_equal(made[:, 2 * number : 2 * number + 2], principal(values, fit, 2))


def test_a_prompt_without_patterns_has_no_components(study, some, heads):
    more = np.array([some[0], some[1] + 1, 10**6])
    fit = np.array([True, True, False])
    (found,) = components(study, heads, more, [fit], 2)
    assert found[:2].any() and not found[2].any()
    (both,) = components(study, heads, more[:2], [fit[:2]], 2)
    np.testing.assert_array_equal(found[:2], both)


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (12, 30)])
def test_principal_components_are_those_of_scikit_learn(rows, width):
    values = np.random.default_rng(0).normal(size=(rows, width)) * np.arange(1, width + 1)
    fit = np.arange(rows) < rows * 3 // 4
    found, expected = principal(values, fit, 3), PCA(3, svd_solver="full").fit(values[fit]).transform(values)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-4, atol=1e-4)


def test_missing_and_constant_rows_have_no_components():
    values = np.ones((6, 4))
    values[1] = np.nan
    np.testing.assert_array_equal(principal(values, np.ones(6, bool), 2), 0)
    values[0, 0] = 3
    found = principal(values, np.ones(6, bool), 2)
    assert np.abs(found[0, 0]) > 1 and (found[1] == 0).all() and (found[:, 1] == 0).all()


def test_tags_are_one_column_per_head_and_cluster_that_occurs():
    cluster = np.array([[0, -1], [2, -2], [0, 1]])
    found = one_hot(cluster).toarray()
    # head 0: clusters 0 and 2; head 1: noise and 1; what was not captured has no column
    np.testing.assert_array_equal(found, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]])
