"""Where training patterns come from. A source answers one question: which patterns does step s see?

With several processes, each has a separate source for its share of every batch.

The answer depends only on the seed and the earlier steps, so that a killed run resumes with exactly the same batches.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import ConfigError, TrainingError
from apmae.patterns.patterns import Patterns
from apmae.seeding import generator


@runtime_checkable
class PatternSource(Protocol):
    """Patterns by step."""

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, counted from 0."""
        ...


@runtime_checkable
class ResumableSource(PatternSource, Protocol):
    """Patterns by step, which can resume where a checkpoint left them."""

    def state(self) -> Mapping[str, ndarray]:
        """What later steps depend on besides the settings; empty if nothing."""
        ...

    def restore(self, state: Mapping[str, ndarray]) -> None:
        """Resume from a :meth:`state`."""
        ...

    def counts(self) -> Mapping[str, int]:
        """How much was read for the steps so far: at least ``epoch``, counted from 1."""
        ...


def epoch_positions(count: int, first: int, wanted: int, seed: int) -> Int[ndarray, " b"]:
    """``wanted`` numbers from position ``first`` of an endless sequence of seeded permutations of 0 to count - 1."""
    positions = np.arange(first, first + wanted)
    orders = {int(epoch): generator(seed, "epoch", epoch).permutation(count) for epoch in np.unique(positions // count)}
    return np.array([orders[int(position // count)][position % count] for position in positions], dtype=np.int64)


def _groups(heads: Int[ndarray, " n"]) -> list[Int[ndarray, " g"]]:
    """For each pattern, the patterns of its head, ascending."""
    _, index = np.unique(heads, return_inverse=True)
    order = np.argsort(index, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(index))[:-1])
    return [groups[number] for number in index]


class ArraySource:
    """Patterns in memory, each seen once per epoch, in a new order every epoch.

    Args:
        patterns: the same in every process.
        batch_size: patterns per step, over all processes.
        seed: decides the order.
        process: number of this process.
        processes: how many there are.
        pairs: every second pattern is replaced by another one of the head before it, if there is one, as guided
            training needs; then an epoch leaves out some patterns.
    """

    def __init__(
        self,
        patterns: Patterns,
        batch_size: int,
        seed: int,
        *,
        process: int = 0,
        processes: int = 1,
        pairs: bool = False,
    ) -> None:
        if not len(patterns):
            raise ConfigError("expected patterns to train on, got none; capture some first")
        self._patterns, self._batch_size, self._seed = patterns, batch_size, seed
        heads = patterns.layer * 2**32 + patterns.head
        self._alike = _groups(heads) if pairs else None
        share = batch_size // processes
        self._own = slice(process * share, (process + 1) * share)
        self._read = 0

    def batch(self, step: int) -> Patterns:
        """The patterns of a step; steps may be asked for in any order."""
        first = step * self._batch_size
        self._read = first + self._batch_size
        positions = epoch_positions(len(self._patterns), first, self._batch_size, self._seed)
        if self._alike is not None:
            chance = generator(self._seed, "pairs", step)
            for place in range(1, len(positions), 2):
                alike = self._alike[int(positions[place - 1])]
                if len(alike) > 1:
                    own = np.searchsorted(alike, positions[place - 1])
                    positions[place] = alike[(own + chance.integers(1, len(alike))) % len(alike)]
        return self._patterns[positions[self._own]]

    def state(self) -> dict[str, ndarray]:
        """Empty: a step's patterns follow from its number."""
        return {}

    def restore(self, state: Mapping[str, ndarray]) -> None:
        """Does nothing."""

    def counts(self) -> dict[str, int]:
        """The epoch of the last step's last pattern, counted from 1."""
        return {"epoch": max(self._read - 1, 0) // len(self._patterns) + 1}


class StreamSource:
    """Any iterable of patterns, taken in order. It can be read only once, so a run over it cannot resume."""

    def __init__(self, stream: Iterable[Patterns], batch_size: int) -> None:
        self._stream: Iterator[Patterns] = iter(stream)
        self._batch_size = batch_size
        self._left: Patterns | None = None
        self._step = 0

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, which must be the next one."""
        if step != self._step:
            raise TrainingError(f"expected step {self._step} of a stream, got {step}; a stream cannot be resumed")
        parts = [self._left] if self._left is not None and len(self._left) else []
        while sum(map(len, parts)) < self._batch_size:
            part = next(self._stream, None)
            if part is None:
                raise TrainingError(
                    f"expected {self._batch_size} patterns for step {step}, the stream ended with "
                    f"{sum(map(len, parts))}; give more patterns or fewer steps"
                )
            # Captures that each count their prompts from 0 would contradict each other about their texts.
            parts.append(part.without_texts())
        patterns = Patterns.concatenate(parts)
        self._left = patterns[slice(self._batch_size, None)]
        self._step += 1
        return patterns[slice(self._batch_size)]
