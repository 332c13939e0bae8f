"""The mixing buffer: it holds patterns to draw batches from, so that a batch mixes many prompts, layers and heads.

Captures arrive a few prompts at a time. A batch is drawn from all patterns in the buffer, and each is drawn once.

The buffer takes whole forwards, whenever it has room for one. A batch of 64 on the bundled model then has 60 different
prompts. It had 29 when each filling of the buffer was shuffled separately, and 5.3 without a buffer.
"""

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from apmae.patterns import geometry
from apmae.patterns.patterns import PATCH, Patterns

_FORWARD, _ROW, _PROMPT, _LAYER, _HEAD = range(5)


class MixingBuffer:
    """A fixed number of places for packed float16 patterns, allocated at once. Of 256 tokens each takes 73 728 bytes, a
    square one 131 072.

    Args:
        capacity: number of places.
        size: rows of a pattern; shorter ones get empty rows.
        reach: which tokens the rows represent (``patterns.reach``).
        device: where the patterns are kept: the device of the captures, so that they never leave it.
        causal: whether the patterns are causal, or all are square.
    """

    def __init__(
        self, capacity: int, size: int, *, reach: str, device: torch.device | str, causal: bool = True
    ) -> None:
        self.capacity = capacity
        self._size, self._reach, self._causal = size, reach, causal
        shape = (capacity, geometry.num_patches(size, PATCH, causal), PATCH, PATCH)
        self._logs = torch.empty(shape, dtype=torch.float16, device=device)
        self._origins = np.zeros((capacity, 5), np.int64)
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    @property
    def nbytes(self) -> int:
        """Bytes of all places, whether filled or not."""
        return self._logs.nbytes

    @property
    def origins(self) -> Int[ndarray, "n 2"]:
        """The forward and the row in it that each pattern came from, in order. Enough to fill the buffer again."""
        return self._origins[: self._filled, : _ROW + 1].copy()

    def add(self, patterns: Patterns, forward: int, rows: Int[ndarray, " r"]) -> None:
        """Add some rows of a forward's patterns after the patterns that are there."""
        self._filled += len(rows)
        self._put(np.arange(self._filled - len(rows), self._filled), patterns, forward, rows)

    def refill(self, origins: Int[ndarray, "n 2"], patterns: Patterns, forward: int) -> None:
        """Put a forward's patterns where ``origins`` says. After all forwards the buffer is what it was."""
        self._filled = len(origins)
        places = np.flatnonzero(origins[:, _FORWARD] == forward)
        self._put(places, patterns, forward, origins[places, _ROW])

    def draw(self, count: int, chance: np.random.Generator, *, pairs: bool = False) -> Patterns:
        """Take patterns out, in the order in which they are drawn; all are equally likely.

        Args:
            count: how many.
            chance: decides which.
            pairs: after each pattern another one of its head follows, if the buffer has one.
        """
        if pairs:
            heads = self._origins[: self._filled, _LAYER] * 2**32 + self._origins[: self._filled, _HEAD]
            chosen = paired(chance.permutation(self._filled), heads, count)
        else:
            chosen = chance.choice(self._filled, count, replace=False)
        origins = self._origins[chosen]
        patterns = Patterns(
            self._logs[torch.from_numpy(chosen)],
            self._size,
            prompt=origins[:, _PROMPT],
            layer=origins[:, _LAYER],
            head=origins[:, _HEAD],
            causal=self._causal,
            reach=self._reach,
        )
        # The last ones move into the holes, so that the remaining patterns stay contiguous.
        self._filled -= count
        stays = np.ones(count, bool)
        stays[chosen[chosen >= self._filled] - self._filled] = False
        holes, movers = chosen[chosen < self._filled], self._filled + np.flatnonzero(stays)
        self._logs[torch.from_numpy(holes)] = self._logs[torch.from_numpy(movers)]
        self._origins[holes] = self._origins[movers]
        return patterns

    def _put(self, places: Int[ndarray, " r"], patterns: Patterns, forward: int, rows: Int[ndarray, " r"]) -> None:
        fitted = patterns if self._causal else patterns.resized(self._size)
        own = fitted.log_patches[torch.from_numpy(rows)].to(self._logs.device, self._logs.dtype)
        index = torch.from_numpy(places)
        self._logs[index, : own.shape[1]] = own  # the patches of a shorter pattern are the first of a longer one's
        self._logs[index, own.shape[1] :] = -torch.inf
        where = (patterns.prompt[rows], patterns.layer[rows], patterns.head[rows])
        self._origins[places] = np.stack([np.full(len(rows), forward), rows, *where], axis=1)


def paired(order: Int[ndarray, " n"], heads: Int[ndarray, " n"], count: int) -> Int[ndarray, " c"]:
    """The first ``count`` of an order in which each number is followed by the next one with the same head.

    Args:
        order: numbers in random order.
        heads: the head of each number.
        count: how many are wanted.
    """
    waiting: dict[int, list[int]] = {}
    for number in reversed(order.tolist()):
        waiting.setdefault(int(heads[number]), []).append(number)
    taken: set[int] = set()
    chosen: list[int] = []
    for number in order.tolist():
        if len(chosen) >= count:
            break
        if number in taken:
            continue
        alike = waiting[int(heads[number])]
        pair = [alike.pop() for _ in range(min(2, len(alike)))]  # the number itself is the last one waiting
        taken.update(pair)
        chosen += pair
    return np.array(chosen[:count], np.int64)
