"""Boosted trees as plain arrays, so that they can be saved without code and evaluated without the library that grew
them.

Axes: n prompts, c columns, t trees, m nodes of all trees.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier


class Forest(NamedTuple):
    """Trees whose values add up to log-odds. A node's children have larger numbers than the node."""

    baseline: float
    """Log-odds before the first tree."""
    root: Int[ndarray, " t"]
    """The first node of each tree."""
    feature: Int[ndarray, " m"]
    """The column that a node asks."""
    threshold: Float[ndarray, " m"]
    """Values up to it go left. Infinite where only missing values go right."""
    left: Int[ndarray, " m"]
    """The node after it on the left; of a leaf the leaf itself."""
    right: Int[ndarray, " m"]
    missing_left: Bool[ndarray, " m"]
    """Whether a missing value goes left."""
    value: Float[ndarray, " m"]
    """What a leaf adds, in log-odds."""

    def of(self, matrix: Float[ndarray, "n c"]) -> Float[ndarray, " n"]:
        """Log-odds."""
        row = np.arange(len(matrix))[:, None]
        node = np.repeat(self.root[None], len(matrix), axis=0)
        while True:
            asked = matrix[row, self.feature[node]]
            go_left = np.where(np.isnan(asked), self.missing_left[node], asked <= self.threshold[node])
            after = np.where(go_left, self.left[node], self.right[node])
            if (after == node).all():
                return self.baseline + self.value[node].sum(1)
            node = after

    def flaw(self, columns: int) -> str | None:
        """What keeps these arrays from being trees over that many columns; None if nothing does."""
        nodes = len(self.feature)
        places = (self.left, self.right, self.feature, self.root)
        if any(len(part) != nodes for part in self[3:]):
            return "its trees have arrays of different lengths"
        if not (np.isfinite(self.baseline) and np.isfinite(self.value).all()) or np.isnan(self.threshold).any():
            return "its trees have values that are not finite"
        if any((part < 0).any() for part in places) or (self.feature >= columns).any() or (self.root >= nodes).any():
            return f"its trees ask for more than its {columns} columns, or begin nowhere"
        number, leaf = np.arange(nodes), self.left == self.right
        inside = ~leaf
        if (self.left[leaf] != number[leaf]).any() or any(
            (part[inside] <= number[inside]).any() or (part >= nodes).any() for part in (self.left, self.right)
        ):
            return "its trees have branches that lead nowhere"
        return None


def constant(baseline: float) -> Forest:
    """A forest without trees, which says the same of all prompts."""
    number, real = np.zeros(0, np.int64), np.zeros(0)
    return Forest(baseline, number, number, real, number, number, np.zeros(0, bool), real)


def forest_of(model: "HistGradientBoostingClassifier") -> Forest:
    """The trees of a fitted model of two classes, without categories."""
    # scikit-learn has no public way to its trees; the tests compare with its predictions
    trees = [stage[0].nodes for stage in model._predictors]  # pyright: ignore[reportAttributeAccessIssue]
    nodes = np.concatenate(trees)
    sizes = np.array([len(tree) for tree in trees], np.int64)
    root = np.cumsum(sizes) - sizes
    begin, leaf = np.repeat(root, sizes), nodes["is_leaf"].astype(bool)
    number = np.arange(len(nodes))
    left, right = (np.where(leaf, number, begin + nodes[side].astype(np.int64)) for side in ("left", "right"))
    return Forest(
        baseline=float(np.ravel(model._baseline_prediction)[0]),  # pyright: ignore[reportAttributeAccessIssue]
        root=root,
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        left=left,
        right=right,
        missing_left=nodes["missing_go_to_left"].astype(bool) & ~leaf,
        value=np.where(leaf, nodes["value"], 0.0),
    )
