"""Boosted trees: what only a tree can tell is found, and what each asks for is what it gets."""

import importlib.util

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from apmae.analyze import boosting
from apmae.analyze.boosting import Grown, catboost, histogram
from apmae.analyze.columns import Columns, design
from apmae.analyze.fitting import LOGISTIC, TREES, choose, fit_chosen, stronger
from apmae.errors import ConfigError

COUNT = 400
KINDS = {"histogram": histogram}
if importlib.util.find_spec("catboost"):
    KINDS["catboost"] = catboost


@pytest.fixture
def checkerboard():
    """Two columns whose signs agree where the answer is right: neither tells anything alone."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(COUNT, 2))
    correct = (values.prod(1) > 0) ^ (draw.random(COUNT) < 0.1)
    return values, correct, np.arange(COUNT) < 300, np.arange(COUNT) % 3


def chosen(models, checkerboard):
    values, correct, fit, part = checkerboard
    return choose(models, lambda _: Columns(values, None), correct, fit, part, 10, "platt")


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_line_can_tell_is_found_and_taken_where_it_is_fitted(kind, checkerboard):
    values, correct, fit, _ = checkerboard
    choices = chosen((LOGISTIC, TREES[kind]), checkerboard)
    best = stronger(choices)
    assert best.model == TREES[kind] and best.loss < choices[0].loss - 0.1
    found = fit_chosen(best, lambda _: Columns(values, None), correct, fit, 10)
    assert roc_auc_score(correct[~fit], found.decision) > 0.8
    line = fit_chosen(choices[0], lambda _: Columns(values, None), correct, fit, 10)
    assert roc_auc_score(correct[~fit], line.decision) < 0.65


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_to_be_predicted_are_not_looked_at(kind, checkerboard):
    values, correct, fit, part = checkerboard
    turned = values, np.where(fit, correct, ~correct), fit, part
    (one,), (other,) = chosen((TREES[kind],), checkerboard), chosen((TREES[kind],), turned)
    assert one[:3] == other[:3]
    columns = lambda _: Columns(values, None)  # noqa: E731
    np.testing.assert_array_equal(
        fit_chosen(one, columns, correct, fit, 10).decision, fit_chosen(other, columns, turned[1], fit, 10).decision
    )


def test_one_fit_gives_every_number_of_trees(checkerboard):
    values, correct, fit, _ = checkerboard
    made = design(Columns(values, None), correct, fit, 10)
    every = histogram(made, correct, fit)
    assert len(every) == len(boosting.LEAVES) * len(boosting.ROUNDS)
    for setting in (Grown(3, 10), Grown(8, 50)):
        alone = HistGradientBoostingClassifier(
            learning_rate=0.1, max_iter=setting.rounds, max_leaf_nodes=setting.leaves, min_samples_leaf=10,
            l2_regularization=1.0, max_bins=63, early_stopping=False, random_state=0,
        ).fit(made.plain[fit], correct[fit])  # fmt: skip
        np.testing.assert_allclose(every[setting], alone.decision_function(made.plain), atol=1e-12)
        np.testing.assert_array_equal(histogram(made, correct, fit, [setting])[setting], every[setting])


@pytest.mark.parametrize("kind", KINDS)
def test_without_columns_or_with_one_outcome_the_share_is_said(kind, checkerboard):
    values, correct, fit, _ = checkerboard
    for columns, right in ((np.ones((COUNT, 1)), correct), (values, np.ones(COUNT, bool))):
        made = design(Columns(columns, None), right, fit, 10)
        for decision in KINDS[kind](made, right, fit).values():
            assert len(np.unique(decision)) == 1
            assert 1 / (1 + np.exp(-decision[0])) == pytest.approx(right[fit].mean(), abs=1e-5)


def test_where_catboost_is_missing_its_extra_is_named(monkeypatch, checkerboard):
    monkeypatch.setattr(boosting, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'apmae\[catboost\]'"):
        chosen((TREES["catboost"],), checkerboard)
