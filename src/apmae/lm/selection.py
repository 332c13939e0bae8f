"""Which heads to capture, and of which layer each prompt's draw takes which.

The draw of a share of heads depends on the batch's first prompt, so that a resumed run draws the same heads.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import CaptureError
from apmae.seeding import generator

Heads = str | float | Sequence[tuple[int, int]] | Callable[[int, int], bool]
"""Which heads: "all"; a share of each layer's, drawn anew for every prompt; (layer, head) pairs; or a predicate of
layer and head."""

_EXPECTED = "expected heads to be 'all', a share in (0, 1], (layer, head) pairs or a function of layer and head"


class Selection:
    """The heads wanted of a model.

    Attributes:
        layers: numbers of its layers, ascending.
        num_heads: heads of each.
    """

    def __init__(self, heads: Heads, layers: Sequence[int], num_heads: int, seed: int) -> None:
        self.layers = tuple(layers)
        self.num_heads = num_heads
        self._seed = seed
        self._wanted = _wanted(heads, self.layers, num_heads)

    def count(self, layer: int) -> int:
        """Selected heads of a layer, the same for every prompt."""
        if isinstance(self._wanted, dict):
            return len(self._wanted.get(layer, ()))
        return max(1, round(self._wanted * self.num_heads))

    def columns(self, layer: int) -> slice:
        """Where a layer's heads stand among the selected heads of all layers."""
        start = sum(self.count(other) for other in self.layers if other < layer)
        return slice(start, start + self.count(layer))

    def heads(self, layer: int, first_prompt: int, batch: int) -> Int[ndarray, "b s"]:
        """The selected heads of a layer for each prompt, ascending.

        Args:
            layer: which layer.
            first_prompt: number of the batch's first prompt; with the seed it decides the draw.
            batch: prompts.
        """
        if isinstance(self._wanted, dict):
            return np.tile(np.array(self._wanted.get(layer, ()), dtype=np.int64), (batch, 1))
        draws = generator(self._seed, "heads", first_prompt, layer).random((batch, self.num_heads))
        return np.sort(draws.argsort(axis=1)[:, : self.count(layer)], axis=1)


def _wanted(heads: Heads, layers: tuple[int, ...], num_heads: int) -> float | dict[int, list[int]]:
    everything = {layer: list(range(num_heads)) for layer in layers}
    if isinstance(heads, str):
        if heads != "all":
            raise CaptureError(f"{_EXPECTED}, got {heads!r}")
        return everything
    if callable(heads):
        chosen = {layer: [head for head in every if heads(layer, head)] for layer, every in everything.items()}
        if not any(chosen.values()):
            raise CaptureError("expected a function that wants at least one head, it wants none")
        return chosen
    if isinstance(heads, int | float | np.number):
        if not 0 < heads <= 1:
            raise CaptureError(
                f"expected a share of heads in (0, 1], got {heads}; 0.25 takes a quarter of each layer's"
            )
        return float(heads)
    try:
        pairs = sorted({(int(layer), int(head)) for layer, head in heads})
    except (TypeError, ValueError):
        raise CaptureError(f"{_EXPECTED}, got {heads!r}") from None
    wanted: dict[int, list[int]] = {}
    for layer, head in pairs:
        if layer not in layers or not 0 <= head < num_heads:
            raise CaptureError(
                f"expected layers {layers[0]}-{layers[-1]} and heads 0-{num_heads - 1}, got ({layer}, {head})"
            )
        wanted.setdefault(layer, []).append(head)
    if not wanted:
        raise CaptureError("expected at least one (layer, head) pair, got none; heads='all' takes every head")
    return wanted
