"""Where training patterns come from. A source answers one question: which patterns does step s see?

Because the answer depends on nothing but the seed and the step, a killed run resumes on the very same batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import gcd
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import ConfigError, TrainingError
from apmae.lm.load import LM
from apmae.lm.stream import capture_prompts
from apmae.patterns.patterns import Patterns
from apmae.prompts.prompt import Prompt
from apmae.seeding import generator

_ROUND_BATCHES = 4
"""Training batches that one round of prompts is shuffled over, at least."""
_FORWARD_PROMPTS = 8


@runtime_checkable
class Source(Protocol):
    """Patterns by step."""

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, counted from 0."""
        ...


def epoch_positions(count: int, first: int, wanted: int, seed: int) -> Int[ndarray, " b"]:
    """``wanted`` numbers of 0..count-1 from position ``first`` of an endless row of seeded permutations."""
    positions = np.arange(first, first + wanted)
    orders = {int(epoch): generator(seed, "epoch", epoch).permutation(count) for epoch in np.unique(positions // count)}
    return np.array([orders[int(position // count)][position % count] for position in positions], dtype=np.int64)


class ArraySource:
    """Patterns in memory, each seen once an epoch, in a new order every epoch."""

    def __init__(self, patterns: Patterns, batch_size: int, seed: int) -> None:
        if not len(patterns):
            raise ConfigError("expected patterns to train on, got none; capture some first")
        self._patterns, self._batch_size, self._seed = patterns, batch_size, seed

    def batch(self, step: int) -> Patterns:
        """The patterns of a step."""
        first = step * self._batch_size
        return self._patterns[epoch_positions(len(self._patterns), first, self._batch_size, self._seed)]


class LMSource:
    """Patterns that a language model makes as training goes on: a share of each layer's heads, drawn anew a prompt.

    A round runs just so many prompts that their patterns fill whole batches, and shuffles them (paper section 4,
    Training Procedure).
    """

    def __init__(
        self,
        lm: LM,
        prompts: Sequence[Prompt],
        *,
        heads: float,
        length: int,
        batch_size: int,
        seed: int,
        size: int | None = None,
        long: str = "pool",
    ) -> None:
        if not prompts:
            raise ConfigError("expected prompts to train on, got none; draw some with apmae prompts")
        self._lm, self._prompts, self._heads, self._length = lm, prompts, heads, length
        self._batch_size, self._seed = batch_size, seed
        self._size, self._long = size, long
        per_prompt = lm.num_layers * max(1, round(heads * lm.num_heads))
        whole = batch_size // gcd(batch_size, per_prompt)
        repeats = -(-_ROUND_BATCHES * batch_size // (per_prompt * whole))
        self._round_prompts = whole * repeats
        self._round_steps = self._round_prompts * per_prompt // batch_size
        self._round: tuple[int, Patterns] | None = None

    def batch(self, step: int) -> Patterns:
        """The patterns of a step; runs the model when the step opens a round."""
        number, offset = divmod(step, self._round_steps)
        if self._round is None or self._round[0] != number:
            self._round = (number, self._run(number))
        first = offset * self._batch_size
        return self._round[1][slice(first, first + self._batch_size)]

    def _run(self, number: int) -> Patterns:
        first = number * self._round_prompts
        chosen = epoch_positions(len(self._prompts), first, self._round_prompts, self._seed)
        stream = capture_prompts(
            self._lm,
            [self._prompts[index] for index in chosen],
            length=self._length,
            batch=_FORWARD_PROMPTS,
            size=self._size,
            long=self._long,
            heads=self._heads,
            seed=self._seed,
            first=first,
        )
        patterns = Patterns.concatenate([captured.patterns for captured in stream])
        return patterns[generator(self._seed, "round", number).permutation(len(patterns))]


class StreamSource:
    """Any iterable of patterns, taken in order; can be read once, so a run over it cannot resume."""

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
            # Training needs no texts, and captures that each count their prompts from 0 would disagree about them.
            prompt, layer, head = part.prompt, part.layer, part.head
            parts.append(
                Patterns(
                    part.log_patches,
                    part.size,
                    prompt=prompt,
                    layer=layer,
                    head=head,
                    causal=part.causal,
                    reach=part.reach,
                )
            )
        patterns = Patterns.concatenate(parts)
        self._left = patterns[slice(self._batch_size, None)]
        self._step += 1
        return patterns[slice(self._batch_size)]
