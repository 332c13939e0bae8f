"""Encoding whole patterns on a CPU: the CLS that ``APMAE.encode_tokens`` gives, but for rounding, in half the time.

- Linear layers go through oneDNN. MKL, which torch uses otherwise, leaves half of the vector units of processors that
  are not Intel's idle; elsewhere both take as long.
- The last block computes CLS alone, which is all that is wanted of it.
- Constants that standardise pixels are part of the first layer's weights.
- Few patterns are encoded at a time, so that all that a layer makes of them stays in a core's cache.

Weights are laid out anew for each :class:`Encoding`, so that none is ever out of date.

Axes: n patterns, k patches, q pixels of a patch, s tokens, d width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from apmae.model.blocks import MLP, Attention, Standardise, Transformer

_PIXELS, _HIDDEN = 1 << 18, 3 << 17
"""Numbers of the pixels that are embedded at a time, and in the hidden layers of the patterns that go through the
blocks: 1 MB and 1.5 MB."""
_FEWEST = 4
"""Patterns in the blocks at a time at least: weights of large encoders are read once for each time."""


class Encoding:
    """An encoder's weights, ready to encode whole patterns. All have to be float32 and on the CPU."""

    def __init__(
        self, embed: nn.Sequential, encoder: Transformer, cls: Float[Tensor, " d"], positions: Float[Tensor, "k d"]
    ) -> None:
        """
        Args:
            embed: a norm or constants, a linear layer and a norm, which make a token of a patch.
            encoder: the blocks.
            cls: the CLS token with its position.
            positions: of the patches.
        """
        first, linear, self._norm = embed
        assert isinstance(linear, nn.Linear)
        weight, bias = linear.weight, linear.bias
        if isinstance(first, Standardise):
            bias, weight = bias - weight @ (first.mean / first.deviation), weight / first.deviation
        self._first = nn.Identity() if isinstance(first, Standardise) else first
        self._embed = _Linear(weight, bias)
        self._cls, self._positions = cls, positions
        self._blocks = [
            (_Attention(attention, attention is encoder.attentions[-1]), _MLP(mlp))
            for attention, mlp in zip(encoder.attentions, encoder.mlps, strict=True)
            if isinstance(attention, Attention) and isinstance(mlp, MLP)
        ]
        self._last_norm = encoder.norm
        self._few = max(_PIXELS // (linear.in_features * len(positions)), 1)
        hidden = max(mlp.hidden for _, mlp in self._blocks)
        self._many = max(_HIDDEN // (hidden * len(positions)), _FEWEST)

    def encode(
        self, pixels: Callable[[int, int], Float[Tensor, "n k q"]], count: int, batch: int | None = None
    ) -> Float[Tensor, "n d"]:
        """The CLS of each pattern.

        Args:
            pixels: makes the pixels of patterns from a number up to another.
            count: how many patterns.
            batch: how many go through the blocks at a time; None: as many as a core's cache holds.
        """
        parts, many = [], batch or self._many
        for begin in range(0, count, many):
            end = min(begin + many, count)
            few = [self._embedded(pixels(i, min(i + self._few, end))) for i in range(begin, end, self._few)]
            parts.append(self.cls(torch.cat(few)))
        return torch.cat(parts)

    def _embedded(self, pixels: Float[Tensor, "n k q"]) -> Float[Tensor, "n k d"]:
        """A token of each patch, without its position."""
        return self._norm(self._embed(self._first(pixels)))

    def cls(self, tokens: Float[Tensor, "n k d"]) -> Float[Tensor, "n d"]:
        """What the blocks make of CLS beside the patches' tokens."""
        x = tokens.new_empty(len(tokens), 1 + tokens.shape[1], tokens.shape[2])
        x[:, 0] = self._cls
        torch.add(tokens, self._positions, out=x[:, 1:])
        for attention, mlp in self._blocks:
            given = attention(x)
            x = x[:, : given.shape[1]] + given
            x += mlp(x)
        return self._last_norm(x[:, 0])


class _Linear:
    """A linear layer through oneDNN, if torch has it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._one = torch.backends.mkldnn.is_available()
        self._weight, self._bias = (None if of is None else _as_onednn(of, self._one) for of in (weight, bias))

    def __call__(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        assert self._weight is not None
        found = F.linear(_as_onednn(x, self._one), self._weight, self._bias)
        return found.to_dense() if self._one else found


def _as_onednn(x: Tensor, one: bool) -> Tensor:
    return x.contiguous().to_mkldnn() if one else x


class _Attention:
    """As :class:`Attention`; in the last block only CLS asks."""

    def __init__(self, of: Attention, last: bool) -> None:
        self._norm, self._heads, self._asking = of.norm, of.heads, 1 if last else None
        query, *rest = of.to_qkv.weight.chunk(3)
        self._query = _Linear(query, None) if last else None
        self._rest = _Linear(torch.cat(rest) if last else of.to_qkv.weight, None)
        self._out = _Linear(of.to_out.weight, of.to_out.bias)

    def __call__(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n a d"]:
        normed = self._norm(x)
        found = [] if self._query is None else [self._query(normed[:, :1])]
        found += self._rest(normed).chunk(2 if found else 3, dim=-1)
        query, key, value = (each.unflatten(-1, (self._heads, -1)).transpose(1, 2) for each in found)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._out(mixed.transpose(1, 2).flatten(2))


class _MLP:
    """As :class:`MLP`."""

    def __init__(self, of: MLP) -> None:
        self._norm, self.hidden = of.norm, of.up.out_features
        self._up, self._down = (_Linear(layer.weight, layer.bias) for layer in (of.up, of.down))

    def __call__(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        return self._down(F.gelu(self._up(self._norm(x))))
