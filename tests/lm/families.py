"""The matrix of model families, read from ``families.yaml``; ``matrix.py`` runs it."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
import yaml

MECHANISMS = {
    "interface": "the layers call a function of AttentionInterface, and see all earlier tokens",
    "window": "the same, within a sliding window",
    "hybrid": "the same, in some layers within a sliding window, in others not",
    "mla": "the same, keys and values from a latent vector, so that they differ in width",
    "sinks": "the same, a part of each row to no key",
    "square": "the same, later tokens too: an encoder",
    "own_softmax": "the layers attend by themselves, through a softmax",
    "own_sdpa": "the layers attend by themselves, through scaled_dot_product_attention",
}
"""How a model comes to its patterns, by the way they are read."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the matrix."""

    config: dict[str, dict[str, Any]]
    """Class in transformers, and its arguments."""
    examples: str
    """Published models of the family."""
    special: str
    """What is special in its attention."""
    mechanism: str = "interface"
    """One of ``MECHANISMS``."""
    representative: bool = False
    """The one family of its mechanism that runs by default."""
    windows: tuple[int | None, ...] = (None, None)
    """Keys that a query sees, itself included, in each layer; None for all. In a square pattern they lie on both
    sides."""
    sdpa: bool = True
    """Whether transformers has its SDPA; else it is captured from eager."""
    sharpen: float = 5.0
    """Factor on its random matrices, so that heads differ."""

    @property
    def layers(self) -> int:
        """How many layers the small model has."""
        return len(self.windows)

    @property
    def square(self) -> bool:
        """An encoder: queries see later keys too."""
        return self.mechanism == "square"

    @property
    def sinks(self) -> bool:
        """Part of each row goes to no key, so rows sum to less than 1."""
        return self.mechanism == "sinks"


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A family that cannot be captured."""

    config: dict[str, dict[str, Any]]
    model: str
    """Class in transformers."""
    examples: str
    reason: str
    """Why, as the message has to say it."""


_FILE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
FAMILIES = {
    name: Family(**{**row, "windows": tuple(row.get("windows", Family.windows))})
    for name, row in _FILE["families"].items()
}
REFUSED = {name: Refused(**row) for name, row in _FILE["refused"].items()}
HEADS, VOCABULARY = (_FILE["bases"]["common"][key] for key in ("num_attention_heads", "vocab_size"))


def config_of(family: Family | Refused) -> Any:
    """A new configuration of its small model."""
    ((kind, arguments),) = family.config.items()
    return getattr(hf, kind)(**deepcopy(arguments))  # some write into what they are given


def cases(names: Iterable[str] = FAMILIES) -> list[Any]:
    """Families to run a test with: representatives by default, the others when slow tests run."""
    return [name if FAMILIES[name].representative else pytest.param(name, marks=pytest.mark.slow) for name in names]
