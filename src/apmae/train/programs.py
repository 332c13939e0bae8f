"""Patterns of the grammar for guided training: a window over an endless list of programs, which moves on every step.

A step draws some programs of its window, with all their instances. Every step adds two programs to the window, which
loses its oldest ones once it is full: a long training sees ever new programs at the cost of a few patterns per step,
and what a step sees follows from its number.
"""

from collections import deque

import numpy as np

from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.seeding import generator, subseed

INSTANCES = 4
"""Patterns of each program in a batch."""
_WINDOW = 240
"""Most programs to draw from; their patterns take 71 MB at 256 tokens."""
_NEW = 2
"""Programs that are new in each step."""


class Programs:
    """Batches of grammar patterns.

    Args:
        count: patterns per step; a rest that is not a multiple of 4 has fewer instances of one program.
        size: tokens of a pattern.
        seed: decides everything.
        causal: False: square patterns, as encoders make.
    """

    def __init__(self, count: int, *, size: int, seed: int, causal: bool = True) -> None:
        self._causal = causal
        self._count, self._size, self._seed = count, size, subseed(seed, "programs")
        self._first = 0
        self._window: deque[Patterns] = deque()

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, program by program; steps are cheapest in order."""
        wanted = -(-self._count // INSTANCES)
        last = 2 * wanted + _NEW * step
        self._move(max(last - max(_WINDOW, 2 * wanted), 0), last)
        chosen = generator(self._seed, "draw", step).permutation(len(self._window))[:wanted]
        return Patterns.concatenate([self._window[int(place)] for place in chosen])[: self._count]

    def _move(self, first: int, last: int) -> None:
        """Hold the programs from ``first`` to ``last - 1``."""
        if not self._first <= first <= self._first + len(self._window) <= last:
            self._window.clear()
            self._first = first
        while self._first < first:
            self._window.popleft()
            self._first += 1
        while self._first + len(self._window) < last:
            number = self._first + len(self._window)
            made = grammar(1, INSTANCES, size=self._size, seed=self._seed, first=number, causal=self._causal)
            made.prompt = np.arange(INSTANCES) + number * INSTANCES
            self._window.append(made)
