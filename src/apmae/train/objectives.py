"""The guided objective: the masked autoencoder's loss, and two that tell CLS what a pattern is about.

A masked autoencoder alone learns what most pixels need. Few pixels hold most of the attention, so its CLS says little
about what a head does (``docs/studies/embedding.md``). Two heads on the masked CLS ask for more, at no further pass:

* **contrast**: patterns of one program of the grammar, or of one head on different prompts, should be nearer to one
  another than to all others of the batch (supervised contrast, Khosla et al. 2020, arXiv 2004.11362, equation 2);
* **description**: the standardised descriptor should be readable (smooth L1).

Axes: n patterns, d encoder width, e projected width, f numbers of the descriptor.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional as F

from apmae.model.blocks import init_weights
from apmae.model.mae import APMAE, Reconstruction
from apmae.model.masking import Masking
from apmae.model.represent import descriptor_whitening
from apmae.patterns.descriptor import WIDTH, describe
from apmae.patterns.grammar import PROGRAM
from apmae.patterns.patterns import Patterns
from apmae.seeding import subseed

CONTRAST, DESCRIPTION = 0.3, 1.0
"""Weights of the two losses beside the autoencoder's."""
_TEMPERATURE = 0.2
_PROJECTED = 128
_NEVER = -1e4
"""Likeness of a pattern to itself. Not -inf: the gradient of a batch of one would not be a number."""


class Guidance(NamedTuple):
    """What a guided training forward returns."""

    reconstruction: Reconstruction
    contrast: Float[Tensor, ""]
    description: Float[Tensor, ""]


class Guided(nn.Module):
    """An AP-MAE with the two heads, which training alone needs.

    Args:
        mae: the autoencoder.
        seed: decides the heads' initial weights.
    """

    def __init__(self, mae: APMAE, *, seed: int) -> None:
        super().__init__()
        width = mae.config.encoder_dim
        self.mae = mae
        self.project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, _PROJECTED))
        self.describe = nn.Linear(width, WIDTH)
        generator = torch.Generator().manual_seed(subseed(seed, "guide"))
        for head in (self.project, self.describe):
            init_weights(head, generator)

    def forward(
        self,
        patches: Float[Tensor, "n k c p p"],
        masking: Masking,
        labels: Int[Tensor, " n"],
        described: Float[Tensor, "n f"],
    ) -> Guidance:
        """Encode the visible patches, and compute the three losses.

        Args:
            patches: from ``APMAE.scale``.
            masking: which patches to hide.
            labels: from :func:`labels_of`.
            described: from :func:`described`.
        """
        found = self.mae(patches, masking)
        return Guidance(
            found,
            contrast(self.project(found.cls), labels),
            F.smooth_l1_loss(self.describe(found.cls), described),
        )


def contrast(z: Float[Tensor, "n e"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Supervised contrast: the mean over patterns that share their label with another; 0 if there are none."""
    z = F.normalize(z.float(), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    with torch.autocast(z.device.type, enabled=False):  # in bfloat16 near neighbours would be equal
        likeness = (z @ z.T / _TEMPERATURE).masked_fill(itself, _NEVER)
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels) & ~itself
    count = same.sum(1)
    each = -log_share.masked_fill(~same, 0.0).sum(1) / count.clamp(min=1)
    return each.sum() / (count > 0).sum().clamp(min=1)


def labels_of(patterns: Patterns, *, heads: bool) -> Int[ndarray, " n"]:
    """Which patterns of a batch are of one program or one head; every other has a label of its own.

    Args:
        patterns: of the grammar (``layer`` is ``PROGRAM``), and of a model.
        heads: whether a model's patterns are labelled by layer and head. They are not if all are of one head, as in
            patterns whose heads nobody noted.
    """
    label = patterns.layer.astype(np.int64) * 2**32 + patterns.head
    of_model = patterns.layer != PROGRAM
    if not heads or len(np.unique(label[of_model])) < 2:
        label[of_model] = 2**62 + np.arange(int(of_model.sum()))
    return label


def described(patterns: Patterns) -> Float[Tensor, "n f"]:
    """The standardised descriptors of a batch."""
    return torch.from_numpy(descriptor_whitening(patterns.causal).standardised(describe(patterns).values))
