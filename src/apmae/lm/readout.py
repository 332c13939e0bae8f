"""Direct logit attribution: what each head's output adds to the difference of two logits.

A model's logits are a linear map of its last residual state, once the final norm's scale at that state is given. So a
head's share is what its output projection makes of its output, through that map. ``lm.tracing`` finds the parts.

Axes: b prompts, h heads of a layer, v width of a head's output, d of the residual stream, q tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Readout:
    """How a model's logits depend on what its heads write."""

    norm: nn.Module | None
    """The final norm; None if the unembedding reads the residual stream as it is."""
    gain: Float[Tensor, " d"]
    """The final norm's; 1 if there is none."""
    bias: Float[Tensor, " d"]
    centred: bool
    """Whether the norm takes off the mean."""
    unembedding: nn.Module
    scale: float
    """Of the logits, after the unembedding."""
    projections: dict[int, nn.Module]
    """By layer, where heads have a share."""
    factors: dict[int, float]
    """How much of what a layer's projection writes is added to the residual stream, mostly 1."""
    reasons: dict[int, str]
    """Why the heads of the other layers have none."""

    @property
    def reader(self) -> nn.Module:
        """What is called with the residual stream's last state: the final norm, or the unembedding without one."""
        return self.unembedding if self.norm is None else self.norm

    def deviation(self, state: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """What the final norm divides a residual state by: its s.d., or root mean square; 1 without a norm."""
        if self.norm is None:
            return torch.ones(len(state), device=state.device)
        made = self.norm(state).float() - self.bias
        plain = self.gain * self._centred(state.float())
        return (plain * plain).sum(-1) / (made * plain).sum(-1)

    def direction(self, chosen: Int[Tensor, " b"], other: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """What a residual state is multiplied by for the difference of two logits, but for the norm's scale."""
        weight: Any = self.unembedding.weight
        difference = weight[chosen.to(weight.device)].float() - weight[other.to(weight.device)].float()
        return self.scale * self._centred(self.gain * difference.to(self.gain.device))

    def attribute(
        self,
        layer: int,
        outputs: Float[Tensor, "b h v"],
        state: Float[Tensor, "b d"],
        chosen: Int[Tensor, " b"],
        other: Int[Tensor, " b"],
    ) -> Float[Tensor, "b h"]:
        """What each head of a layer adds to the logit of one token less that of another, in nats.

        The bias of the output projection belongs to no head.

        Args:
            layer: one of :attr:`projections`.
            outputs: of its heads, at the completion position.
            state: residual stream there, as the final norm reads it.
            chosen: ids of the tokens.
            other: ids of those to compare with.
        """
        written = written_by(self.projections[layer], outputs).float().to(state.device)
        along = (written @ self.direction(chosen, other).to(state.device)[..., None])[..., 0]
        return self.factors[layer] * along / self.deviation(state)[:, None]

    def _centred(self, values: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return values - values.mean(-1, keepdim=True) if self.centred else values


def written_by(projection: nn.Module, outputs: Float[Tensor, "b h v"]) -> Float[Tensor, "b h d"]:
    """What each head alone adds to the residual stream: the projection of its output, less that of nothing."""
    batch, heads, width = outputs.shape
    alone = torch.zeros(batch, heads, heads, width, dtype=outputs.dtype, device=outputs.device)
    every = torch.arange(heads, device=outputs.device)
    alone[:, every, every] = outputs
    flat = alone.reshape(batch * heads, heads * width)
    return (projection(flat) - projection(torch.zeros_like(flat[:1]))).unflatten(0, (batch, heads))


@contextmanager
def last_states(reader: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a module is called with, in every call inside the block."""
    kept: list[Tensor] = []
    hook = reader.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0].detach()))
    try:
        yield kept
    finally:
        hook.remove()


def state_at(states: Sequence[Tensor], rows: Sequence[int]) -> Float[Tensor, "b d"]:
    """The last of some states (b, q, d) at the completion position of each prompt.

    Args:
        states: from :func:`last_states`, or hidden states of the model.
        rows: the positions, counted with padding.
    """
    last = states[-1]
    return last[torch.arange(len(rows), device=last.device), torch.tensor(rows, device=last.device)]
