"""Long contexts: a pattern of any length, pooled to at most ``size`` blocks of tokens per side; mass is preserved.

Block i of n tokens is ``[i * n // size, (i + 1) * n // size)``. A pooled entry is the attention that the mean query of
block i pays to all keys of block j together: a sum over keys and a mean over queries. It is formed in log space, so
that rows still sum to 1 and nothing underflows. With n = size each block is one token and pooling changes nothing.

Anything finer than n / size tokens is lost. ``previous token``, ``self`` and a narrow band all become the diagonal, and
one key that draws much attention looks like many keys that draw a little each. The best inverse spreads a pooled entry
evenly over its block, which is exact for patterns that are constant within blocks.

Block lengths differ by at most one token. If the prompt fits, blocks are single tokens, so short prompts need no
separate rule.

Axes: r query rows, k keys, c blocks.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apmae.patterns.reach import block_edges


@lru_cache(maxsize=64)
def edges(length: int, size: int) -> Int[Tensor, " edges"]:
    """Where the blocks of ``length`` tokens begin, and where the last one ends: ``min(size, length) + 1`` positions."""
    return torch.from_numpy(block_edges(length, max(min(size, length), 1)))


def pool_keys(scores: Float[Tensor, "*s r k"], bounds: Int[Tensor, " edges"]) -> Float[Tensor, "*s r c"]:
    """Sum over the keys of each block, in log space.

    Args:
        scores: any log weights; -inf where there is no attention.
        bounds: edges of the blocks; the last one is k.
    """
    widths = bounds.diff()
    widest = int(widths.max())
    if int(widths.min()) == widest:
        return scores.unflatten(-1, (len(widths), widest)).logsumexp(-1)
    keys = bounds[:-1, None] + torch.arange(widest)
    beyond = keys >= bounds[1:, None]
    keys = keys.clamp(max=scores.shape[-1] - 1).to(scores.device)
    return scores[..., keys].masked_fill_(beyond.to(scores.device), -torch.inf).logsumexp(-1)


def pool_queries(rows: Float[Tensor, "*s r c"], bounds: Int[Tensor, " edges"]) -> Float[Tensor, "*s q c"]:
    """Log of the mean over the query rows of each block; rows that attend to nothing do not count.

    Args:
        rows: log probabilities.
        bounds: edges of the blocks; the last one is r.
    """
    real = torch.where(rows.isneginf().all(-1), -torch.inf, 0.0)  # *s r
    count = pool_keys(real[..., None, :], bounds).squeeze(-2)
    total = pool_keys(rows.transpose(-1, -2), bounds).transpose(-1, -2)
    return total - count.masked_fill(count.isneginf(), 0.0)[..., None]


def pool(logs: Float[Tensor, "*s t t"], size: int) -> Float[Tensor, "*s c c"]:
    """A whole log pattern of t tokens, pooled to ``min(size, t)`` blocks per side."""
    bounds = edges(logs.shape[-1], size)
    return pool_queries(pool_keys(logs, bounds), bounds)
