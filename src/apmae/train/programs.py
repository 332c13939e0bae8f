"""Patterns of the grammar for guided training: a window over an endless list of programs, which moves on every step.

A step draws some programs of its window, with all their instances. The window then loses its oldest programs and gains
new ones, so that a long training sees ever new programs at the cost of a few patterns per step, and what a step sees
follows from its number.
"""

from collections import deque

import numpy as np

from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.seeding import generator, subseed

INSTANCES = 4
"""Patterns of each program in a batch."""
_WINDOW = 240
_MOVE = 1
"""Programs that are new in each step."""


class Programs:
    """Batches of grammar patterns.

    Args:
        count: patterns per step; a rest that is not a multiple of 4 has fewer instances of one program.
        size: tokens of a pattern.
        seed: decides everything.
    """

    def __init__(self, count: int, *, size: int, seed: int) -> None:
        self._count, self._size, self._seed = count, size, subseed(seed, "programs")
        self._first = 0
        self._window: deque[Patterns] = deque()

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, program by program; steps are cheapest in order."""
        self._move_to(_MOVE * step)
        chosen = generator(self._seed, "draw", step).permutation(_WINDOW)[: -(-self._count // INSTANCES)]
        return Patterns.concatenate([self._window[int(place)] for place in chosen])[: self._count]

    def _move_to(self, first: int) -> None:
        if not self._first <= first < self._first + len(self._window):
            self._window.clear()
            self._first = first
        while self._first < first:
            self._window.popleft()
            self._first += 1
        while len(self._window) < _WINDOW:
            number = self._first + len(self._window)
            made = grammar(1, INSTANCES, size=self._size, seed=self._seed, first=number)
            made.prompt = np.arange(INSTANCES) + number * INSTANCES
            self._window.append(made)
