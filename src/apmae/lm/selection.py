"""Which heads to capture, and of which layer each prompt's draw takes which.

The draw of a share of heads depends on the batch's first prompt, so that a resumed run draws the same heads.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import CaptureError
from apmae.lm.layers import ranges
from apmae.seeding import generator

Heads = str | float | Sequence[tuple[int, int]] | Callable[[int, int], bool]
"""Which heads: "all"; a share of each layer's, drawn anew for every prompt; (layer, head) pairs; or a predicate of
layer and head."""

_EXPECTED = "expected heads to be 'all', a share in (0, 1], (layer, head) pairs or a function of layer and head"


class Selection:
    """The heads wanted of a model.

    Attributes:
        layers: numbers of the layers that attend, ascending.
        counts: heads of each of them.
    """

    def __init__(self, heads: Heads, counts: Mapping[int, int], seed: int) -> None:
        self.layers = tuple(counts)
        self.counts = counts
        self._seed = seed
        self._wanted = _wanted(heads, counts)

    def count(self, layer: int) -> int:
        """Selected heads of a layer, the same for every prompt."""
        if isinstance(self._wanted, dict):
            return len(self._wanted.get(layer, ()))
        return share_of(self._wanted, self.counts[layer])

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
        draws = generator(self._seed, "heads", first_prompt, layer).random((batch, self.counts[layer]))
        return np.sort(draws.argsort(axis=1)[:, : self.count(layer)], axis=1)


def share_of(share: float, heads: int) -> int:
    """How many of a layer's heads a share of them is, at least one."""
    return max(1, round(share * heads))


def expect_head(counts: Mapping[int, int], layer: int, head: int) -> None:
    """Refuse a head that the model does not have.

    Args:
        counts: heads of each layer that attends.
        layer: of the head asked for.
        head: its number in the layer.

    Raises:
        CaptureError: naming the layers that attend and their heads.
    """
    if 0 <= head < counts.get(layer, 0):
        return
    why = f"; layer {layer} has no attention" if layer not in counts and 0 <= layer < max(counts) else ""
    raise CaptureError(f"expected {existing_heads(counts)}, got ({layer}, {head}){why}")


def existing_heads(counts: Mapping[int, int]) -> str:
    """The layers and heads of a model, for a message: "layers 3, 7 and heads 0-3"."""
    layers: dict[int, list[int]] = {}
    for layer, heads in counts.items():
        layers.setdefault(heads, []).append(layer)
    return ", ".join(
        f"layer{'s' * (len(own) > 1)} {ranges(own)} and heads 0-{heads - 1}" for heads, own in layers.items()
    )


def _wanted(heads: Heads, counts: Mapping[int, int]) -> float | dict[int, list[int]]:
    everything = {layer: list(range(count)) for layer, count in counts.items()}
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
        expect_head(counts, layer, head)
        wanted.setdefault(layer, []).append(head)
    if not wanted:
        raise CaptureError("expected at least one (layer, head) pair, got none; heads='all' takes every head")
    return wanted
