"""Representations: what an atlas reads of a pattern.

==============  =====================================================================================================
``cls``         the encoder's CLS vector, as it is (the paper's way)
``descriptor``  the whitened descriptor (``patterns/descriptor.py``); no encoder needed
``joint``       both side by side, CLS whitened as the descriptor is
==============  =====================================================================================================

CLS is whitened by the covariance inside programs of the grammar, under this encoder. An encoder that ``apmae train``
made has the constants in its folder; for any other they are computed when they are first needed, which takes the
encoding of 400 patterns.

Axes: n patterns, d width of the representation.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae import bundled
from apmae.config import Representation, parse_representation
from apmae.model.mae import APMAE
from apmae.patterns.descriptor import WIDTH, describe
from apmae.patterns.gate import has_structure
from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.patterns.whitening import Whitening

CLS_WEIGHT = 0.5
"""Of CLS beside the descriptor in a joint representation (``docs/studies/embedding.md``)."""
_PROGRAMS, _INSTANCES, _SEED = 100, 4, 1


class Represented(NamedTuple):
    """What an atlas reads of some patterns."""

    z: Float[ndarray, "n d"]
    structure: Float[ndarray, " n"]
    """The gate's statistic (``patterns/gate.py``); NaN where it cannot judge."""

    @property
    def structured(self) -> Bool[ndarray, " n"]:
        """Which patterns pass the gate."""
        return has_structure(self.structure)


def represent(patterns: Patterns, mae: APMAE | None = None, kind: str = "joint") -> Float[ndarray, "n d"]:
    """What an atlas reads of each pattern: float32 (n, d).

    Args:
        patterns: of at most the encoder's ``pattern_size`` tokens; of any length for ``descriptor``.
        mae: the encoder; by default the bundled one.
        kind: "joint", "descriptor" or "cls".

    Raises:
        CaptureError: if the patterns are too long for the encoder, or square and it reads causal ones.
        ConfigError: if there is no such kind.
    """
    return represented(patterns, mae, kind).z


def represented(patterns: Patterns, mae: APMAE | None = None, kind: str = "joint") -> Represented:
    """As :func:`represent`, with the gate's statistic, which comes with the descriptor."""
    kind = parse_representation(kind)
    mae = mae if kind == "descriptor" or mae is not None else APMAE.from_pretrained()
    described = describe(patterns)
    if kind == "cls":
        assert mae is not None, "it was loaded"
        return Represented(mae.encode(patterns), described.structure)
    z = descriptor_whitening(patterns.causal).whitened(described.values)
    if kind == "joint":
        assert mae is not None, "it was loaded"
        z = np.concatenate([z, CLS_WEIGHT * cls_whitening(mae).whitened(mae.encode(patterns))], axis=1)
    return Represented(z, described.structure)


@lru_cache(maxsize=2)
def descriptor_whitening(causal: bool = True) -> Whitening:
    """The constants of the descriptor, which come with the package."""
    return Whitening.load(bundled.descriptor(causal))


def cls_whitening(mae: APMAE) -> Whitening:
    """The constants of an encoder's CLS; computed and kept if it has none."""
    if mae.whitening is None:
        patterns, programs = _sample(mae.config.pattern_size, mae.config.causal)
        mae.whitening = Whitening.fit(mae.encode(patterns), programs)
    return mae.whitening


@lru_cache(maxsize=2)
def _sample(size: int, causal: bool) -> tuple[Patterns, Int[ndarray, " n"]]:
    """Patterns of the grammar with structure, and their programs."""
    patterns = grammar(_PROGRAMS, _INSTANCES, size=size, seed=_SEED, causal=causal)
    patterns = patterns[has_structure(describe(patterns).structure)]
    return patterns, patterns.head


def width_of(kind: Representation, dim: int) -> int:
    """Numbers of a representation, with an encoder of ``dim`` dimensions."""
    return {"cls": dim, "descriptor": WIDTH, "joint": WIDTH + dim}[kind]
