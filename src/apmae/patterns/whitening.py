"""Whitening by nuisance: a linear map under which what varies inside a behaviour counts little.

Statistics differ in how much they vary between two patterns of one behaviour: with the text, the length, the noise.
The covariance inside programs of the grammar (``patterns/grammar.py``) measures that, and its inverse root takes it
away: what remains far apart differs in what a head does. This is the within-class whitening of Fisher's discriminant
(Hastie et al. 2009, section 4.3.3), shrunk so that directions without variance are not blown up. The map is scaled so
that the mean absolute value of what it was fitted on is 1: two kinds of numbers side by side then weigh as much as they
are many.

Axes: n patterns, f numbers, c classes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from safetensors.numpy import load_file, save_file

from apmae.artifacts import write_through

CUT = 4.0
"""Standardised values are cut at so many s.d."""
SHRINKAGE = 0.1
"""How much of the mean eigenvalue is added to each. Between 0.03 and 1 it decides little
(``docs/studies/embedding.md``)."""
_LEAST = 1e-6


class Whitening(NamedTuple):
    """Constants of a standardisation and of the map that follows it."""

    mean: Float[ndarray, " f"]
    deviation: Float[ndarray, " f"]
    whiten: Float[ndarray, "f f"]

    @classmethod
    def fit(cls, values: Float[ndarray, "n f"], classes: Int[ndarray, " n"]) -> "Whitening":
        """Estimate the constants.

        Args:
            values: finite numbers of some patterns.
            classes: which of them are of one behaviour; at least two patterns in some of them.
        """
        mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        deviation = np.where(deviation > _LEAST, deviation, 1.0)
        z = np.clip((values - mean) / deviation, -CUT, CUT)
        _, index, count = np.unique(classes, return_inverse=True, return_counts=True)
        centres = np.zeros((len(count), z.shape[1]))
        np.add.at(centres, index, z)
        inside = z - (centres / count[:, None])[index]
        covariance = inside.T @ inside / max(len(z) - len(count), 1)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        roots = 1 / np.sqrt(np.maximum(eigenvalues, 0) + SHRINKAGE * max(eigenvalues.mean(), _LEAST))
        whiten = (vectors * roots) @ vectors.T
        whiten /= max(np.abs(z @ whiten).mean(), _LEAST)
        return cls(mean.astype(np.float32), deviation.astype(np.float32), whiten.astype(np.float32))

    def standardised(self, values: Float[ndarray, "n f"]) -> Float[ndarray, "n f"]:
        """Values less their mean over their s.d., cut at 4."""
        return np.clip((values - self.mean) / self.deviation, -CUT, CUT).astype(np.float32)

    def whitened(self, values: Float[ndarray, "n f"]) -> Float[ndarray, "n f"]:
        """Standardised values under the map."""
        return self.standardised(values) @ self.whiten

    def save(self, path: Path) -> None:
        """Write the constants to a safetensors file."""
        write_through(path, lambda target: save_file(self._asdict(), target))

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read what :meth:`save` wrote."""
        return cls.from_arrays(load_file(path))

    @classmethod
    def from_arrays(cls, arrays: dict[str, Shaped[ndarray, "..."]]) -> "Whitening":
        """From arrays by name."""
        return cls(*(arrays[name] for name in cls._fields))
