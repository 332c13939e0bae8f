"""Crops and masks of a training step, drawn for the whole batch over all processes.

Each process takes its own part of the draw, so that the number of processes does not change any mask.

Means over masked pixels are weighted by the number of real pixels in each part, because patches on the diagonal have
half as many.
"""

import numpy as np
import torch
from torch import Tensor

from apmae.config import TrainConfig
from apmae.model.masking import Masking, random_masking
from apmae.patterns.patterns import Patterns
from apmae.seeding import generator, subseed

_SHORTEST_CROP = 8


def step_masking(config: TrainConfig, count: int, step: int) -> Masking:
    """The masks of a step, on the CPU.

    Args:
        config: seed and number of masked patches.
        count: patterns over all processes.
        step: counted from 0.
    """
    draw = torch.Generator().manual_seed(subseed(config.seed, "mask", step))
    return random_masking(count, config.model.num_patches, config.model.num_masked, draw)


def rows_of(masking: Masking, rows: slice, device: str) -> Masking:
    """The masks of some patterns."""
    return Masking(*(index[rows].to(device) for index in masking))


def real_pixels(real: Tensor, masking: Masking) -> Tensor:
    """(n,) number of real pixels in the masked patches of each pattern.

    Args:
        real: (k,) real pixels of each patch, on the CPU.
        masking: the masks of n patterns.
    """
    return real[masking.masked].sum(1)


def cropped(
    patterns: Patterns, config: TrainConfig, step: int, *, first: int = 0, count: int | None = None
) -> Patterns:
    """Empty the rows after a random token in a share of the patterns.

    In a causal model the first t rows are exactly the pattern of the first t tokens, so these are the patterns of real
    short prompts.

    Args:
        patterns: those of this process.
        config: seed and share.
        step: counted from 0.
        first: where they begin in the batch over all processes.
        count: patterns in that batch; by default only these.
    """
    if not config.crop:
        return patterns
    draw = generator(config.seed, "crop", step)
    count = len(patterns) if count is None else count
    chosen = draw.random(count) < config.crop
    lengths = draw.integers(min(_SHORTEST_CROP, patterns.size), patterns.size + 1, count)
    return patterns.cropped(np.where(chosen, lengths, patterns.size)[first : first + len(patterns)])
