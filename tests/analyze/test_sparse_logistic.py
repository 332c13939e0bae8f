"""What is planted is found, noise is not, and nothing of the prompts to predict helps to predict them."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from sklearn.metrics import roc_auc_score

from apmae.analyze.columns import Columns
from apmae.analyze.fitting import LOGISTIC, choose, fit_chosen
from apmae.analyze.sparse_logistic import sigmoid

COUNT = 400


@pytest.fixture
def planted():
    draw = np.random.default_rng(0)
    signal = draw.normal(size=COUNT)
    correct = draw.random(COUNT) < sigmoid(2 * signal)
    noise = draw.normal(size=(COUNT, 300))
    return signal, correct, noise, np.arange(COUNT) < 300, np.arange(COUNT) % 3


def auroc(found, correct, fit):
    return roc_auc_score(correct[~fit], found[0].decision)


def fitted(plain, heads, planted, most=50, correct=None):
    right = planted[1] if correct is None else correct
    given = lambda _: Columns(plain, heads), right, planted[3]
    (choice,) = choose((LOGISTIC,), *given, planted[4], most, "platt")
    return fit_chosen(choice, *given, most), choice


def test_a_column_that_tells_is_found_among_many_that_do_not(planted):
    signal, correct, noise, fit, _ = planted
    best = roc_auc_score(correct[~fit], signal[~fit])
    heads = np.column_stack([noise, signal]).astype(np.float32)
    assert auroc(fitted(None, heads, planted), correct, fit) > best - 0.02
    assert auroc(fitted(noise[:, :2], heads, planted), correct, fit) > best - 0.02
    assert 0.35 < auroc(fitted(None, noise, planted), correct, fit) < 0.65
    beside = fitted(signal[:, None], noise, planted)
    assert auroc(beside, correct, fit) > best - 0.05, "columns of noise take little away"


def test_sparse_columns_are_the_same_as_dense_ones(planted):
    signal, correct, noise, fit, _ = planted
    tags = (np.column_stack([noise, signal]) > 0.5).astype(np.float32)
    dense, sparse = fitted(None, tags, planted), fitted(None, csc_matrix(tags), planted)
    np.testing.assert_allclose(sparse[0].decision, dense[0].decision, atol=1e-3)
    assert sparse[1].setting == dense[1].setting
    plain = signal[:, None]
    dense, sparse = fitted(plain, tags, planted), fitted(plain, csc_matrix(tags), planted)
    np.testing.assert_allclose(sparse[0].decision, dense[0].decision, atol=1e-3)


def test_outcomes_to_be_predicted_are_not_looked_at(planted):
    signal, correct, noise, fit, _ = planted
    heads = np.column_stack([noise, signal])
    turned = np.where(fit, correct, ~correct)
    one, other = fitted(None, heads, planted), fitted(None, heads, planted, correct=turned)
    assert one[1][:3] == other[1][:3]
    for ours, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_missing_values_and_columns_without_any_variation(planted):
    signal, correct, noise, fit, _ = planted
    holed = np.column_stack([signal, np.full(COUNT, np.nan), np.ones(COUNT)])
    holed[::7, 0] = np.nan
    assert auroc(fitted(None, holed, planted), correct, fit) > 0.7
    nothing = fitted(None, holed[:, 1:], planted)[0]
    np.testing.assert_allclose(nothing.probability, correct[fit].mean(), atol=1e-6)
    np.testing.assert_allclose(nothing.recalibrated, correct[fit].mean(), atol=1e-6)
