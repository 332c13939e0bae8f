"""The matrix of model families, read from ``families.yaml`` and ``newer.yaml``; ``matrix.py`` runs it."""

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
    "some_layers": "the same, in some layers; the others have a state or a convolution",
    "ragged": "the same, with heads whose number differs by layer",
    "own_softmax": "the layers attend by themselves, through a softmax",
    "own_square": "the same, later tokens too",
    "own_sdpa": "the layers attend by themselves, through scaled_dot_product_attention",
}
"""How a model comes to its patterns, by the way they are read."""

_FILE, _NEWER = (
    yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))
    for name in ("families.yaml", "newer.yaml")
)
HEADS, VOCABULARY = (_FILE["bases"]["common"][key] for key in ("num_attention_heads", "vocab_size"))


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
    windows: tuple[int | str | None, ...] = (None, None)
    """Keys that a query sees, itself included, in each layer; None for all, "absent" for a layer without attention. In
    a square pattern they lie on both sides."""
    heads: tuple[int, ...] = ()
    """Heads of each layer, where they differ."""
    sdpa: bool = True
    """Whether transformers has its SDPA; else it is captured from eager."""
    half: bool = True
    """Whether transformers' own forward runs in half precisions."""
    sharpen: float = 5.0
    """Factor on its random matrices, so that heads differ."""

    @property
    def layers(self) -> int:
        """How many layers the small model has."""
        return len(self.windows)

    @property
    def counts(self) -> dict[int, int]:
        """Heads of each layer that attends."""
        heads = self.heads or (HEADS,) * self.layers
        return {layer: heads[layer] for layer, window in enumerate(self.windows) if window != "absent"}

    @property
    def places(self) -> list[tuple[int, int]]:
        """(layer, head) of every head, ascending."""
        return [(layer, head) for layer, heads in self.counts.items() for head in range(heads)]

    @property
    def square(self) -> bool:
        """An encoder: queries see later keys too."""
        return "square" in self.mechanism

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


FAMILIES = {
    name: Family(**{**row, **{key: tuple(row[key]) for key in ("windows", "heads") if key in row}})
    for name, row in (_FILE["families"] | _NEWER["families"]).items()
}
REFUSED = {name: Refused(**row) for name, row in (_FILE["refused"] | _NEWER["refused"]).items()}


def config_of(family: Family | Refused) -> Any:
    """A new configuration of its small model."""
    ((kind, arguments),) = family.config.items()
    return getattr(hf, kind)(**deepcopy(arguments))  # some write into what they are given


def cases(names: Iterable[str] = FAMILIES) -> list[Any]:
    """Families to run a test with: representatives by default, the others when slow tests run."""
    return [name if FAMILIES[name].representative else pytest.param(name, marks=pytest.mark.slow) for name in names]
