"""Which patches are hidden while training. Axes: n patterns, k patches, m masked, v visible."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Masking(NamedTuple):
    """Patch numbers, in random order, without repetition; together they are all k."""

    visible: Int[Tensor, "n v"]
    masked: Int[Tensor, "n m"]


def random_masking(patterns: int, patches: int, masked: int, generator: torch.Generator) -> Masking:
    """Hide ``masked`` of ``patches`` patches of each pattern, uniformly (He et al. 2022, section 3).

    Args:
        patterns: n.
        patches: k.
        masked: m, in 1 .. k-1.
        generator: a CPU generator; the draw does not depend on the device.
    """
    order = torch.rand(patterns, patches, generator=generator).argsort(dim=1)
    return Masking(visible=order[:, masked:], masked=order[:, :masked])
