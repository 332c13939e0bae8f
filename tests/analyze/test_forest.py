"""Trees as plain arrays say what scikit-learn's own model says, also of missing values, and damage is seen."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from apmae.analyze.boosting import Grown, forest_at, histogram
from apmae.analyze.columns import Columns, design
from apmae.analyze.forest import constant, forest_of
from apmae.analyze.sparse_logistic import sigmoid

COUNT = 500


@pytest.fixture(scope="module")
def grown():
    """A model of three columns, one with one value or none, which tells the outcome."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(COUNT, 3))
    correct = (values[:, 0] * values[:, 1] > 0) ^ (draw.random(COUNT) < 0.1)
    values[:, 2] = np.where((draw.random(COUNT) < 0.3) & correct, np.nan, 0.0)
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8, early_stopping=False).fit(values, correct)
    return model, values, correct


@pytest.fixture(scope="module")
def forest(grown):
    return forest_of(grown[0])


@pytest.mark.parametrize("missing", [0.0, 0.2, 1.0])
def test_it_says_what_scikit_learn_says(grown, forest, missing):
    model, values, _ = grown
    draw = np.random.default_rng(1)
    new = draw.normal(size=(COUNT, 3)) * 3
    new[draw.random(new.shape) < missing] = np.nan
    for matrix in (values, new, new[:1], new[:0]):
        if len(matrix):
            np.testing.assert_allclose(sigmoid(forest.of(matrix)), model.predict_proba(matrix)[:, 1], atol=1e-12)
    assert forest.of(new[:0]).shape == (0,) and forest.flaw(3) is None


def test_values_at_a_threshold_and_infinite_ones_go_where_scikit_learn_sends_them(grown, forest):
    inside = forest.left != forest.right
    limits = np.unique(forest.threshold[inside & np.isfinite(forest.threshold)])
    assert len(limits) > 20 and np.isinf(forest.threshold).any(), "missing values alone are told apart somewhere"
    matrix = np.tile(np.concatenate([limits, [np.inf, -np.inf]])[:, None], 3)
    np.testing.assert_allclose(sigmoid(forest.of(matrix)), grown[0].predict_proba(matrix)[:, 1], atol=1e-12)


@pytest.mark.parametrize("setting", [Grown(3, 10), Grown(8, 50)])
def test_what_is_saved_is_what_was_chosen_among(grown, setting):
    _, values, correct = grown
    fit = np.arange(COUNT) < 300
    made = design(Columns(values[:, :2], None), correct, fit, 10)
    own = forest_at(made.plain, correct, fit, setting)
    np.testing.assert_allclose(own.of(made.plain), histogram(made, correct, fit, [setting])[setting], atol=1e-12)
    assert len(own.root) == setting.rounds


def test_without_columns_or_with_one_outcome_the_share_is_said(grown):
    _, values, correct = grown
    every = np.ones(COUNT, bool)
    for matrix, right in ((values[:, :0], correct), (values, every)):
        found = forest_at(matrix, right, every, Grown(3, 10))
        assert found.flaw(matrix.shape[1]) is None
        np.testing.assert_allclose(sigmoid(found.of(matrix)), right.mean(), atol=1e-5)
    assert constant(0.3).of(values).tolist() == [0.3] * COUNT


def test_damaged_trees_are_seen(forest):
    inside = int(np.flatnonzero(forest.left != forest.right)[3])

    def changed(name, value, place=inside):
        values = getattr(forest, name).copy()
        values[place] = value
        return forest._replace(**{name: values})

    flaws = {
        "different lengths": forest._replace(value=forest.value[:-1]),
        "not finite": changed("value", np.nan),
        "more than its 3 columns": changed("feature", 3),
        "begin nowhere": changed("root", len(forest.feature), 0),
        "lead nowhere": changed("left", inside),
    }
    for words, damaged in flaws.items():
        assert words in damaged.flaw(3)
    assert "lead nowhere" in changed("right", len(forest.feature)).flaw(3)
    assert "not finite" in changed("threshold", np.nan).flaw(3)
    assert "not finite" in forest._replace(baseline=np.inf).flaw(3)
    assert forest.flaw(2) is not None
