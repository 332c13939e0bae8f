"""Pre-norm transformer blocks (ViT, Dosovitskiy et al. 2021), and how pixels of two channels are standardised.

Axes: n patterns, s tokens, d width, h heads, w head width, v patches, c channels, q pixels of a patch.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_MEANS, _DEVIATIONS = (0.47, 0.043), (0.19, 0.086)
"""Of scaled pixels and root probabilities, over real pixels of grammar patterns (``patterns/grammar.py``)."""


class Attention(nn.Module):
    """Multi-head self-attention without a qkv bias (DESIGN section 4)."""

    def __init__(self, dim: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """What each token takes from all tokens, to be added to it."""
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # n s 3 h w
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # n h s w
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, dim: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """What each token gains from the MLP, to be added to it."""
        return self.down(F.gelu(self.up(self.norm(x))))


class Transformer(nn.Module):
    """Blocks, then a final LayerNorm."""

    def __init__(self, layers: int, dim: int, heads: int, head_dim: int, mlp_dim: int, eps: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention(dim, heads, head_dim, eps) for _ in range(layers))
        self.mlps = nn.ModuleList(MLP(dim, mlp_dim, eps) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """All blocks, residuals added, then the norm."""
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            x = x + attention(x)
            x = x + mlp(x)
        return self.norm(x)


class Standardise(nn.Module):
    """Both channels of a patch, standardised by constants, so that a patch's level and contrast stay.

    Args:
        patch: side of a patch.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        for name, values in (("mean", _MEANS), ("deviation", _DEVIATIONS)):
            self.register_buffer(name, torch.tensor(values).repeat_interleave(patch**2), persistent=False)

    def forward(self, pixels: Float[Tensor, "n v cq"]) -> Float[Tensor, "n v cq"]:
        """Standardised pixels."""
        return (pixels - self.mean) / self.deviation

    def inverse(self, standard: Float[Tensor, "n v cq"]) -> Float[Tensor, "n v cq"]:
        """The pixels again."""
        return standard * self.deviation + self.mean


def init_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise in place: linears xavier-uniform with zero bias, norms at one (ViTMAE; DESIGN section 4)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
