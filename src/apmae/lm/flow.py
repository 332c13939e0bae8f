"""Flow from a token's copies to the completion position through whole patterns, and Laplacian eigenvalues of attention.

Both need all rows of all heads, but only sums over them: layer by layer, patterns are formed a few rows at a time and
dropped. What is kept per prompt is a vector per head, and the mean pattern of each layer.

*Flow* says how much a head carries from some tokens to the completion position, over paths that follow the layers' mean
patterns. With A_l the mean pattern of layer l's heads and A_lh that of one head, of the n layers that attend:

- reach_0 is 1 at the tokens looked for, reach_(l+1) = (1 - s) reach_l + s A_l reach_l;
- back_n is 1 at the completion position, back_l = (1 - s) back_(l+1) + s A_l^T back_(l+1);
- flow of a head = sum over q, k of back_(l+1)(q) A_lh(q, k) reach_l(k), in [0, 1]; 0 if the tokens are not there.

The share s stands for the residual stream, which keeps what it has while attention adds to it: a half, or less where a
model has so many layers that after halves nothing would be left of where it began. Values, MLPs and norms are left out:
it is where a token could be read, not whether it was.

*Laplacian eigenvalues* (arXiv 2502.17598, equations 1 to 3): of D - A, where A is a head's pattern and D is diagonal;
its i-th entry is the mean attention that token i gets from the tokens that can see it, itself among them. Of a causal
pattern this is a triangular matrix, so its eigenvalues are its diagonal. Where later tokens are seen they are NaN.

Axes: b prompts, h heads of all layers that attend, t tokens, k eigenvalues.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.observe import Seen
from apmae.lm.rows import log_blocks

_HEIGHT = 32
"""Rows formed at once."""


class _Layer(NamedTuple):
    mean: Float[Tensor, "b t t"]
    """Mean pattern of its heads."""
    through: Float[Tensor, "b h t"]
    """A_lh reach_l: what each head brings to each query."""
    eigenvalues: Float[Tensor, "b h k"]
    bad: Tensor
    """NaN if a score was not finite."""


class Flow:
    """Sums up the patterns of one forward; pass :meth:`see` to ``lm.observe.observing``."""

    def __init__(self, tokens: Bool[Tensor, "b t"], eigenvalues: int, share: float = 0.5) -> None:
        """Look for some tokens.

        Args:
            tokens: which tokens of each prompt are looked for, from its first token; False past its end.
            eigenvalues: how many of the largest to take.
            share: of a layer's step that is attention, in (0, 1).
        """
        self._share = share
        self._reach = tokens.float()
        self._count = eigenvalues
        self._layers: dict[int, _Layer] = {}
        self._back: Tensor | None = None

    def see(self, seen: Seen) -> None:
        """Sum up one layer."""
        attention = seen.attention
        batch, heads, tokens, _ = attention.shape
        lengths = torch.tensor([end - start for start, end in zip(seen.sight.starts, seen.sight.ends, strict=True)])
        size = int(lengths.max())
        device = attention.device
        if self._reach.shape[0] != batch or self._reach.shape[1] < size or seen.layer in self._layers:
            raise CaptureError(
                f"expected one forward of {self._reach.shape[0]} prompts of at most {self._reach.shape[1]} tokens, got "
                f"{batch} prompts of {tokens}, or a second forward; make a new Flow for each"
            )
        reach = self._reach.to(device)[:, :size]
        mean = torch.zeros(batch, size, size, device=device)
        through, got, own = (torch.zeros(batch, heads, size, device=device) for _ in range(3))
        bad = torch.zeros((), device=device)
        every = torch.arange(heads, device=device).expand(batch, -1)
        for prompts, rows, keys, logs in log_blocks(attention, seen.sight, every, _HEIGHT, bad):
            p, some = logs.exp_(), slice(int(prompts[0]), int(prompts[-1]) + 1)
            mean[some, rows, keys] += p.mean(1)
            through[some, :, rows] = (p @ reach[some, None, keys, None])[..., 0]
            got[some, :, keys] += p.sum(2)
            if seen.sight.causal:
                own[some, :, rows] = p.diagonal(offset=rows.start, dim1=2, dim2=3)
        self._layers[seen.layer] = _Layer(mean, through, self._eigenvalues(seen, got, own, lengths.to(device)), bad)
        self._reach = (1 - self._share) * reach + self._share * (mean @ reach[..., None])[..., 0]
        ends = [row - start for row, start in zip(seen.rows, seen.sight.starts, strict=True)]
        self._back = nn.functional.one_hot(torch.tensor(ends, device=device), size).float()

    def _eigenvalues(self, seen: Seen, got: Tensor, own: Tensor, lengths: Tensor) -> Float[Tensor, "b h k"]:
        batch, heads, size = got.shape
        found = torch.full((batch, heads, self._count), torch.nan, device=got.device)
        if seen.sight.causal:
            left = lengths[:, None] - torch.arange(size, device=got.device)  # tokens that can see each
            diagonal = got / left.clamp(min=1)[:, None] - own
            diagonal = diagonal.masked_fill(left[:, None] < 1, -torch.inf)
            few = min(self._count, size)
            top = diagonal.topk(few, dim=-1).values
            found[..., :few] = top.masked_fill(top.isneginf(), torch.nan)
        return found

    def flow(self) -> Float[Tensor, "b h"]:
        """The flow through each head, layer by layer.

        Raises:
            CaptureError: if no forward ran, or scores were not finite.
        """
        self._expect_finite()
        back = self._back
        assert back is not None
        parts = []
        for layer in sorted(self._layers, reverse=True):
            own = self._layers[layer]
            device = own.mean.device
            back = back.to(device)
            parts.append((own.through @ back[..., None])[..., 0].cpu())
            back = (1 - self._share) * back + self._share * (back[:, None] @ own.mean)[:, 0]
        return torch.cat(parts[::-1], dim=1)

    def eigenvalues(self) -> Float[Tensor, "b h k"]:
        """The largest Laplacian eigenvalues of each head, layer by layer, descending.

        NaN beyond as many as a prompt has tokens, and where queries see later tokens.

        Raises:
            CaptureError: if no forward ran, or scores were not finite.
        """
        self._expect_finite()
        return torch.cat([self._layers[layer].eigenvalues.cpu() for layer in sorted(self._layers)], dim=1)

    def _expect_finite(self) -> None:
        if not self._layers:
            raise CaptureError("expected a forward inside the block, got none; call the model first")
        for layer, own in self._layers.items():
            if bool(own.bad.isnan()):
                raise CaptureError(
                    f"expected finite attention scores, layer {layer} has NaN or infinite ones; check the model's "
                    "weights, and use bfloat16 or float32 if float16 overflows"
                )
