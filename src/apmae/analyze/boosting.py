"""Boosted trees: scikit-learn's on histograms (Ke et al. 2017), and CatBoost's (Prokhorenkova et al. 2018).

They see what standardising leaves, so that both kinds and sparse logistic regression are given the same columns. Axes:
n prompts, m fitting prompts, c columns.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.columns import Design
from apmae.analyze.forest import Forest, constant, forest_of
from apmae.analyze.sparse_logistic import logit
from apmae.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

LEAVES = (3, 8)
"""Leaves of a tree to choose from; CatBoost's trees are grown by depth, to the nearest number that is no smaller."""
ROUNDS = (10, 25, 50, 100)
"""Trees to choose from: one fit gives all."""
_RATE, _SMALLEST, _BINS = 0.1, 10, 63
"""Learning rate, fewest prompts in a leaf, most values that a column is cut into."""


class Grown(NamedTuple):
    """A setting of the model."""

    leaves: int
    """One of ``LEAVES``."""
    rounds: int
    """One of ``ROUNDS``."""

    def __str__(self) -> str:
        return f"{self.rounds} trees of at most {self.leaves} leaves"


def histogram(
    design: Design, correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], settings: Sequence[Grown] = ()
) -> dict[Grown, Float[ndarray, " n"]]:
    """Log-odds of all prompts by setting, by scikit-learn; without settings, of all that are to choose from."""

    def staged(matrix: Float[ndarray, "n c"], leaves: int, rounds: int) -> Iterator[Float[ndarray, " n"]]:
        model = _grown(matrix[fit], correct[fit], Grown(leaves, rounds))
        for values in model.staged_decision_function(matrix):
            yield np.asarray(values, np.float64).reshape(len(matrix))

    return _by_setting(design, correct, fit, settings, staged)


def forest_at(
    matrix: Float[ndarray, "n c"], correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], setting: Grown
) -> Forest:
    """The trees that :func:`histogram` grows at a setting, as plain arrays.

    Args:
        matrix: standardised columns.
        correct: the outcome.
        fit: which prompts are fitted.
        setting: leaves and rounds.
    """
    rate = float(correct[fit].mean())
    if not matrix.shape[1] or rate in (0, 1):
        return constant(logit(rate))
    return forest_of(_grown(matrix[fit], correct[fit], setting))


def catboost(
    design: Design, correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], settings: Sequence[Grown] = ()
) -> dict[Grown, Float[ndarray, " n"]]:
    """As :func:`histogram`, by CatBoost.

    Raises:
        ConfigError: if it is not installed.
    """
    expect_catboost()

    def staged(matrix: Float[ndarray, "n c"], leaves: int, rounds: int) -> Iterator[Float[ndarray, " n"]]:
        from catboost import CatBoostClassifier  # pyright: ignore[reportMissingImports]

        model = CatBoostClassifier(
            learning_rate=_RATE,
            iterations=rounds,
            depth=int(np.ceil(np.log2(leaves))),
            border_count=_BINS,
            random_seed=0,
            thread_count=1,
            allow_writing_files=False,
            verbose=False,
        )
        model.fit(matrix[fit], correct[fit].astype(np.int64))
        yield from model.staged_predict(matrix, prediction_type="RawFormulaVal")

    return _by_setting(design, correct, fit, settings, staged)


def expect_catboost() -> None:
    """Refuse CatBoost where it is not installed.

    Raises:
        ConfigError: if it is not.
    """
    if find_spec("catboost") is None:
        raise ConfigError("expected CatBoost for trees=[catboost], it is not installed; pip install 'apmae[catboost]'")


def _grown(
    matrix: Float[ndarray, "m c"], correct: Bool[ndarray, " m"], setting: Grown
) -> "HistGradientBoostingClassifier":
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=_RATE,
        max_iter=setting.rounds,
        max_leaf_nodes=setting.leaves,
        min_samples_leaf=_SMALLEST,
        l2_regularization=1.0,
        max_bins=_BINS,
        early_stopping=False,  # pyright: ignore[reportArgumentType]
        random_state=0,
    )
    return model.fit(matrix, correct)


def _by_setting(
    design: Design,
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    settings: Sequence[Grown],
    staged: Callable[[Float[ndarray, "n c"], int, int], Iterator[Float[ndarray, " n"]]],
) -> dict[Grown, Float[ndarray, " n"]]:
    wanted = settings or [Grown(leaves, rounds) for leaves in LEAVES for rounds in ROUNDS]
    matrix, rate = np.concatenate([design.plain, design.heads], axis=1), float(correct[fit].mean())
    if not matrix.shape[1] or rate in (0, 1):
        return {setting: np.full(len(correct), logit(rate)) for setting in wanted}
    found: dict[Grown, Float[ndarray, " n"]] = {}
    for leaves in dict.fromkeys(setting.leaves for setting in wanted):
        rounds = {setting.rounds for setting in wanted if setting.leaves == leaves}
        for number, values in enumerate(islice(staged(matrix, leaves, max(rounds)), max(rounds)), 1):
            if number in rounds:
                found[Grown(leaves, number)] = np.array(values, np.float64)
    return {setting: found[setting] for setting in wanted}
