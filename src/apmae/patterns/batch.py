"""Batches of patterns, ready to be scored: without padding, whichever side it was on.

Axes: n patterns, t tokens, b prompts, k patches, p pixels along a patch.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from apmae.errors import CaptureError
from apmae.patterns import geometry
from apmae.patterns.marginals import Layout, by_query, layout
from apmae.patterns.patterns import Patterns
from apmae.patterns.sinks import visible_from


@dataclass(frozen=True)
class Batch:
    """Some patterns, moved so that every prompt begins in the upper left corner."""

    patches: Float[Tensor, "n k p p"]  # probabilities
    entropy: Float[Tensor, "n t"]  # of each row, in nats
    mass: Float[Tensor, "n t"]  # of each row: 1, or 0 for padding
    sink: Float[Tensor, "n t"]  # of each row, on key 0
    real: Bool[Tensor, "n t"]
    visible: Int[Tensor, "n t"]  # the first key that each row can see
    index: Int[ndarray, " n"]  # number of the prompt among all prompts
    first: Int[ndarray, " n"]  # rows of padding that were removed on the left
    where: Layout

    def by_prompt(self) -> Iterator[tuple[int, slice]]:
        """For each prompt, its number among all prompts and the slice of its patterns, which are consecutive."""
        borders = [0, *(np.flatnonzero(np.diff(self.index)) + 1).tolist(), len(self.index)]
        for begin, end in itertools.pairwise(borders):
            yield int(self.index[begin]), slice(begin, end)


def batch_of(patterns: Patterns, chosen: Int[ndarray, " n"], index: Int[ndarray, " n"]) -> Batch:
    """Some patterns, ordered by prompt, as a batch.

    Args:
        patterns: all patterns.
        chosen: numbers of the patterns to take, ordered by prompt.
        index: for each of them, the number of its prompt among all prompts.
    """
    logs = patterns.log_patches[torch.from_numpy(chosen)].float()
    where = layout(geometry.grid_size(patterns.size, patterns.patch), patterns.patch, patterns.causal, logs.device)
    patches = logs.exp()
    mass = by_query(patches.sum(-1), where)
    first = (mass > 0).to(torch.int8).argmax(1)
    if first.any():
        logs = _shifted(logs, first, where)
        patches = logs.exp()
        mass = by_query(patches.sum(-1), where)
    visible = visible_from(logs, mass > 0, where)
    entropy = by_query(logs.clamp_(min=-1e4).mul_(patches).sum(-1).neg_(), where)  # clamped because 0 log 0 is 0
    query = torch.arange(where.size, device=logs.device)
    sink = patches.flatten(1)[:, where.slot(query, torch.zeros_like(query))]
    return Batch(patches, entropy, mass, sink, mass > 0, visible, index, first.cpu().numpy(), where)


def _shifted(logs: Float[Tensor, "n k p p"], first: Int[Tensor, " n"], where: Layout) -> Float[Tensor, "n k p p"]:
    """Each pattern with its first rows and columns, which are padding, moved to the end as empty ones."""
    number = torch.arange(len(logs), device=logs.device)[:, None, None]
    source = (torch.arange(where.size, device=logs.device) + first[:, None]) % where.size
    dense = geometry.unpack(logs, where.size, -torch.inf, where.causal)
    moved = dense[number, source[:, :, None], source[:, None, :]]
    return geometry.pack(moved, logs.shape[-1], -torch.inf, where.causal)


def rows_of_tokens(
    what: str, given: Sequence[Any] | ndarray | Tensor, patterns: Patterns
) -> list[Int[ndarray, " _"] | None]:
    """For each prompt, in the order of their numbers, the values of ``given`` for the tokens that its rows represent.

    None for a prompt whose rows are blocks of tokens; for a cropped prompt, only the values of its last tokens.

    Raises:
        CaptureError: if there are not as many rows as prompts, or a row is not one of integers.
    """
    numbers = np.unique(patterns.prompt).tolist()
    if len(given) != len(numbers):
        raise CaptureError(
            f"expected one row of {what} for each of {len(numbers)} prompts, got {len(given)}; "
            "give them in the order of the prompts' numbers"
        )
    values: list[ndarray | None] = []
    for number, each in zip(numbers, given, strict=True):
        row = np.asarray(each.cpu() if isinstance(each, Tensor) else each)
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise CaptureError(
                f"expected {what} of shape (prompts, tokens), got a row of shape {row.shape} and type {row.dtype}"
            )
        rows, length = patterns.num_rows(number), (patterns.lengths or {}).get(number, 0)
        if length > rows and len(row) != length:
            raise CaptureError(
                f"expected the {length} tokens of prompt {number}, got {len(row)} {what}; leave padding out"
            )
        whole = length <= rows or patterns.reach == "crop"
        values.append((row[-rows:] if length > rows else row).astype(np.int64) if whole else None)
    return values


def own_tokens(row: Int[ndarray, " _"], batch: Batch, own: slice) -> Int[Tensor, " t"]:
    """A prompt's tokens without the padding on the left, and -1 after the last one.

    Raises:
        CaptureError: if there are fewer tokens than the prompt has rows.
    """
    first, rows = int(batch.first[own].max()), batch.real[own].any(0).nonzero()
    count = int(rows.max()) + 1 if len(rows) else 0
    if len(row) >= first + count:
        row = row[first:]
    if len(row) < count:
        raise CaptureError(
            f"expected {count} tokens for a prompt of as many rows, got {len(row)}; give all tokens that the model read"
        )
    padded = np.pad(row[:count], (0, batch.where.size - count), constant_values=-1)
    return torch.from_numpy(padded).to(batch.patches.device)
