"""Scalings: from log probabilities to what the encoder sees, and back.

Entries where attention is impossible are -inf. There are three scalings; the default is that of the published code
(DESIGN section 4).
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Patches = Float[Tensor, "n k p p"]


def smallest_finite(log_patches: Patches) -> Float[Tensor, "n 1 1 1"]:
    """The smallest finite log probability of each pattern, at most 0; 0 if none is finite."""
    return log_patches.nan_to_num(neginf=0.0).amin(dim=(1, 2, 3), keepdim=True)


def log_normalize(log_patches: Patches) -> Patches:
    """``(log p - m) / (-m)`` with m the pattern's smallest finite log: in [0, 1], 1 means p = 1 (as published).

    A pattern with m = 0 (every row on one key) cannot be scaled: its attended entries become 1.
    """
    smallest = smallest_finite(log_patches)
    return (log_patches / -smallest.masked_fill(smallest == 0, -1.0)).add_(1).clamp_(min=0.0)


def log(log_patches: Patches) -> Patches:
    """``log p``, unscaled (at most 0); where attention is impossible, the pattern's smallest finite log."""
    return log_patches.maximum(smallest_finite(log_patches))


def raw(log_patches: Patches) -> Patches:
    """``p`` itself, in [0, 1]: the paper's ablation (section 4, Ablation Study)."""
    return log_patches.exp()


SCALINGS: dict[str, Callable[[Patches], Patches]] = {"log_normalize": log_normalize, "log": log, "raw": raw}
"""Scalings by the names that ``APMAEConfig.scaling`` takes."""


def from_log_normalize(scaled: Patches, smallest: Float[Tensor, "n 1 1 1"]) -> Patches:
    """``(1 - scaled) m``; needs the pattern's smallest finite log m, which the scaled pixels do not contain.

    A reconstruction takes m from the true pattern. Without m, a prediction says which entries are larger, but not by
    how much.
    """
    return (1 - scaled) * smallest


def from_log(scaled: Patches, smallest: Float[Tensor, "n 1 1 1"]) -> Patches:
    """The pixels themselves; ``smallest`` is not needed."""
    return scaled


def from_raw(scaled: Patches, smallest: Float[Tensor, "n 1 1 1"]) -> Patches:
    """``log p``, -inf for predictions of 0 or less; ``smallest`` is not needed."""
    return scaled.clamp(min=0.0).log()


INVERSES: dict[str, Callable[[Patches, Float[Tensor, "n 1 1 1"]], Patches]] = {
    "log_normalize": from_log_normalize,
    "log": from_log,
    "raw": from_raw,
}
"""From scaled pixels, true or predicted, back to log probabilities, given :func:`smallest_finite` of the true pattern.

Predictions may give values outside the range of log probabilities, above 0 or below m; they are not clamped here.
"""
