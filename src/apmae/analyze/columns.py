"""The columns of a model: standardised where it is fitted, those of heads picked there.

Axes: n prompts, b plain columns, c columns of heads, k picked ones.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

_FARTHEST = 10.0
"""Standard deviations from the mean at which values are cut."""


class Columns(NamedTuple):
    """The columns of a model, for all prompts. They may depend on what is fitted."""

    plain: Float[ndarray, "n b"] | None
    """Columns that are always in."""
    heads: "Float[ndarray, 'n c'] | csc_matrix | None"
    """Columns of which some are picked where the model is fitted."""


class Design(NamedTuple):
    """Standardised columns, as models see them."""

    plain: Float[ndarray, "n b"]
    heads: Float[ndarray, "n k"]
    """Those picked."""

    @property
    def beside(self) -> bool:
        """Whether columns of heads stand beside plain ones."""
        return bool(self.plain.shape[1] and self.heads.shape[1])


class Scale(NamedTuple):
    """How columns are standardised."""

    kept: Bool[ndarray, " b"]
    """Columns that are not constant."""
    mean: Float[ndarray, " k"]
    spread: Float[ndarray, " k"]
    """Standard deviation."""

    def of(self, values: Float[ndarray, "n b"]) -> Float[ndarray, "n k"]:
        """Values in standard deviations from the mean; missing ones are the mean."""
        made = (values[:, self.kept] - self.mean) / self.spread
        return np.clip(np.where(np.isfinite(made), made, 0.0), -_FARTHEST, _FARTHEST)


def scale_of(values: Float[ndarray, "n b"], fit: Bool[ndarray, " n"]) -> Scale:
    """Mean and s.d. of the fitting prompts, those missing left out."""
    own = values[fit]
    there = np.isfinite(own)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, own, 0).sum(0, dtype=np.float64) / count
    spread = np.sqrt(np.where(there, (own - mean) ** 2, 0).sum(0, dtype=np.float64) / count)
    kept = spread > 1e-9 * np.maximum(np.abs(mean), 1)
    return Scale(kept, mean[kept], spread[kept])


def design(columns: Columns, correct: Bool[ndarray, " n"], fit: Bool[ndarray, " n"], most: int) -> Design:
    """Standardise columns and pick those of heads, by what is fitted.

    Args:
        columns: of all prompts.
        correct: the outcome; that of fitting prompts counts.
        fit: which prompts are fitted.
        most: columns of heads to pick.
    """
    plain = np.zeros((len(correct), 0)) if columns.plain is None else _standard(columns.plain, fit)
    heads = plain[:, :0] if columns.heads is None else _picked(columns.heads, plain, correct, fit, most)
    return Design(plain, heads)


def _picked(
    heads: "Float[ndarray, 'n c'] | csc_matrix",
    plain: Float[ndarray, "n b"],
    correct: Bool[ndarray, " n"],
    fit: Bool[ndarray, " n"],
    most: int,
) -> Float[ndarray, "n k"]:
    """The columns that go most with what the plain ones leave of the outcome, standardised (Fan and Lv 2008)."""
    left = correct[fit] - correct[fit].mean()
    if plain.shape[1]:
        left = left - plain[fit] @ np.linalg.lstsq(plain[fit], left, rcond=None)[0]
        left = left - left.mean()
    if isinstance(heads, ndarray):
        matrix = _standard(heads, fit)
        return matrix[:, _largest(np.abs(matrix[fit].T @ left), most)]
    own = heads[fit]
    mean = np.asarray(own.mean(0), np.float64).ravel()
    spread = np.sqrt(np.maximum(mean * (1 - mean), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        together = np.where(spread > 1e-6, np.abs(np.asarray(own.T @ left).ravel()) / spread, 0.0)
    return _standard(np.asarray(heads[:, _largest(together, most)].todense(), np.float64), fit)


def _largest(values: Float[ndarray, " c"], most: int) -> Int[ndarray, " k"]:
    return np.sort(np.argsort(-values, kind="stable")[:most])


def _standard(values: Float[ndarray, "n c"], fit: Bool[ndarray, " n"]) -> Float[ndarray, "n k"]:
    return scale_of(values, fit).of(values)
