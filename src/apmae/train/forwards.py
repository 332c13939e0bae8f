"""The endless sequence of a language model's forwards: one epoch of prompts after another, batched by length.

Which prompts a forward runs depends only on its number and on the prompts that earlier epochs left out. Prompts are
read when forwards need them, and read again from the start of an epoch if an earlier forward is asked for.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from threading import Lock
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import TrainingError
from apmae.lm.language_model import LM
from apmae.lm.outcome import window_of
from apmae.progress import Advance
from apmae.prompts.epochs import Epochs
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Prompt
from apmae.seeding import generator

SORTED = 32
"""The prompts of this many forwards are sorted by length together, so that those of one are about equally long."""


class Forward(NamedTuple):
    """The prompts that one forward runs."""

    first: int
    """Number of its first prompt, counted over all epochs."""
    prompts: Sequence[Prompt]
    windows: Sequence[Window]


class Stretch(NamedTuple):
    """Consecutive forwards; their prompts are read and sorted together."""

    epoch: int
    place: int
    """Its number in the epoch."""
    forward: int
    """Number of its first forward."""
    first: int
    """Number of its first prompt."""
    prompts: list[Prompt]
    rejected: dict[str, int]
    """What had been left out of the first epoch up to here (``Epochs.rejected``)."""


class Forwards:
    """Forwards by number; fastest if they are asked for in order.

    Args:
        lm: the language model, which decides the windows.
        prompts: the prompts, in epochs.
        length: the most tokens in a window.
        width: prompts per forward.
        seed: decides the order of forwards.
    """

    def __init__(self, lm: LM, prompts: Epochs, *, length: int, width: int, seed: int) -> None:
        self._lm, self._prompts, self._length, self._width, self._seed = lm, prompts, length, width, seed
        self._starts: dict[int, tuple[int, int]] = {0: (0, 0)}  # first forward and first prompt of each epoch
        self._wrong: dict[int, int] = {}  # for each prompt to leave out, the last epoch that has it
        self._skipped = 0
        self._lock = Lock()  # the state may be asked for while a thread is reading
        self._reading: Generator[Prompt, None, None] | None = None
        self._next = Stretch(0, 0, 0, 0, [], {})  # the next one, without its prompts until they are read
        self._open: Stretch | None = None
        self._cut: list[Forward] | None = None

    def __getitem__(self, number: int) -> Forward:
        stretch = self.seek(number)
        if self._cut is None:
            self._cut = self._cut_up(stretch)
        return self._cut[number - stretch.forward]

    def seek(self, number: int, advance: Advance | None = None) -> Stretch:
        """Read prompts up to those of a forward.

        Args:
            number: number of the forward.
            advance: called with the number of prompts read.

        Returns:
            The stretch that the forward is in.

        Raises:
            SourceError: as for ``Epochs.epoch``.
            TrainingError: if earlier epochs left out every prompt.
        """
        if self._open is None or number < self._open.forward:
            self._begin(self._epoch_of(number))
        while self._open is None or number >= self._open.forward + self._count(self._open.prompts):
            self._open, self._cut = self._read(), None
            if advance:
                advance(len(self._open.prompts))
        return self._open

    def leave_out(self, prompts: Iterable[Prompt], epoch: int) -> None:
        """Leave these prompts out after an epoch, because the language model answered them incorrectly."""
        self._wrong |= {_key(prompt): epoch for prompt in prompts}

    @property
    def left_out(self) -> Int[ndarray, "n 2"]:
        """For each prompt that is left out, a hash of its id and the last epoch that has it."""
        return np.array(list(self._wrong.items()), np.int64).reshape(-1, 2)

    def epochs(self, first: int, stop: int) -> Int[ndarray, "e 3"]:
        """Where the epochs of forwards ``first`` to ``stop - 1`` begin: number, first forward and first prompt.

        Earlier epochs are forgotten.
        """
        with self._lock:
            oldest = self._epoch_of(first)
            self._starts = {epoch: where for epoch, where in self._starts.items() if epoch >= oldest}
            rows = [(epoch, *where) for epoch, where in self._starts.items() if where[0] < max(stop, 1)]
        return np.array(rows, np.int64)

    def restore(self, epochs: Int[ndarray, "e 3"], left_out: Int[ndarray, "n 2"], rejected: dict[str, int]) -> None:
        """Restore where epochs begin (from :meth:`epochs`), which prompts are left out, and what was never drawn."""
        self.close()
        self._wrong = dict(left_out.tolist())
        self._starts = {epoch: (forward, first) for epoch, forward, first in epochs.tolist()}
        self._prompts.rejected = rejected

    def close(self) -> None:
        """Stop reading; asking for a forward starts it again."""
        if self._reading is not None:
            self._reading.close()
        self._reading = self._open = self._cut = None

    def _epoch_of(self, number: int) -> int:
        return max(epoch for epoch, (forward, _) in self._starts.items() if forward <= number)

    def _begin(self, epoch: int) -> None:
        self.close()
        self._reading, self._skipped = self._prompts.epoch(epoch), 0
        self._next = Stretch(epoch, 0, *self._starts[epoch], [], {})

    def _read(self) -> Stretch:
        """The next stretch, from this epoch or, if it is over, from the next."""
        most = self._width * SORTED
        prompts = list(islice(self._remaining(), most))
        if not prompts:
            epoch = self._next.epoch + 1
            with self._lock:
                self._starts[epoch] = (self._next.forward, self._next.first)
            self._begin(epoch)
            prompts = list(islice(self._remaining(), most))
        if not prompts:
            raise TrainingError(
                f"expected prompts that the language model answers correctly, got 0 of {self._skipped}; draw some with "
                "apmae prompts --lm MODEL --outcome correct, or set outcome to any"
            )
        read = self._next._replace(prompts=prompts, rejected=self._prompts.rejected)
        self._next = self._next._replace(
            place=read.place + 1, forward=read.forward + self._count(prompts), first=read.first + len(prompts)
        )
        return read

    def _remaining(self) -> Iterator[Prompt]:
        """The rest of the epoch being read, without the prompts that earlier epochs left out.

        What an epoch leaves out is known when it begins, so that it is the same when it is read again.
        """
        assert self._reading is not None, "an epoch was begun"
        epoch = self._next.epoch
        for prompt in self._reading:
            if self._wrong and self._wrong.get(_key(prompt), epoch) < epoch:
                self._skipped += 1
            else:
                yield prompt

    def _count(self, prompts: Sequence[Prompt]) -> int:
        return -(-len(prompts) // self._width)

    def _cut_up(self, stretch: Stretch) -> list[Forward]:
        """The forwards of a stretch, in a seeded order: sorted by length, a batch would hold prompts of one length."""
        windows = [window_of(self._lm, prompt, self._length) for prompt in stretch.prompts]
        by_length = np.argsort([len(window.ids) for window in windows], kind="stable")
        forwards = []
        for start in range(0, len(windows), self._width):
            chosen = by_length[start : start + self._width]
            own = [stretch.prompts[i] for i in chosen], [windows[i] for i in chosen]
            forwards.append(Forward(stretch.first + start, *own))
        order = generator(self._seed, "forwards", stretch.epoch, stretch.place).permutation(len(forwards))
        return [forwards[i] for i in order]


def _key(prompt: Prompt) -> int:
    return int.from_bytes(sha256(prompt.id.encode()).digest()[:8], "big", signed=True)
