"""Patterns that a language model makes as training goes on: captured, mixed, trained on and dropped.

Forwards are numbered, and what a forward captures follows from the seed and its number. The buffer takes the next one
whenever it has room for a whole one, so that what a step draws depends on counts and never on which thread was faster.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray

from apmae.config import CaptureConfig
from apmae.errors import ConfigError, TrainingError
from apmae.lm.language_model import LM
from apmae.lm.outcome import window_of
from apmae.lm.selection import share_of
from apmae.lm.stream import Captured, capture_batch, window_length
from apmae.patterns.patterns import Patterns
from apmae.progress import progress
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Prompt
from apmae.seeding import generator
from apmae.train.buffer import MixingBuffer

_SORTED_FORWARDS = 32
"""Forwards whose prompts are sorted by length together, so that those of one forward are (nearly) equally long."""
_PATIENCE = 2000
"""Prompts in a row without a correct answer after which training on correct ones stops, at most."""


def own_files(prompts: Sequence[Prompt], process: int, processes: int) -> list[Prompt]:
    """The prompts of this process: files are dealt out in the order in which they come, each with all its prompts.

    Args:
        prompts: of all processes.
        process: this one's number.
        processes: how many there are.

    Raises:
        ConfigError: if there are fewer files than processes.
    """
    files = {path: number for number, path in enumerate(dict.fromkeys(prompt.path for prompt in prompts))}
    if prompts and len(files) < processes:
        raise ConfigError(f"expected prompts of at least {processes} files, one a process, got {len(files)}; give more")
    return [prompt for prompt in prompts if files[prompt.path] % processes == process]


class _Batch(NamedTuple):
    """What one forward runs."""

    first: int
    """Number of its first prompt, counted over all epochs."""
    prompts: Sequence[Prompt]
    windows: Sequence[Window]


class _Forwards:
    """The endless row of forwards: epochs of prompts in a new seeded order each, cut so that lengths are alike."""

    def __init__(self, lm: LM, prompts: Sequence[Prompt], *, length: int, width: int, seed: int) -> None:
        self._lm, self._prompts, self._length, self._width, self._seed = lm, prompts, length, width, seed
        whole, rest = divmod(len(prompts), width * _SORTED_FORWARDS)
        self.per_epoch = whole * _SORTED_FORWARDS + -(-rest // width)
        self._open: tuple[int, int] | None = None
        self._batches: list[_Batch] = []

    def __getitem__(self, number: int) -> _Batch:
        epoch, place = divmod(number, self.per_epoch)
        chunk, place = divmod(place, _SORTED_FORWARDS)
        if self._open != (epoch, chunk):
            self._batches, self._open = self._cut(epoch, chunk), (epoch, chunk)
        return self._batches[place]

    def _cut(self, epoch: int, chunk: int) -> list[_Batch]:
        """The forwards of one stretch of an epoch, in a seeded order: by length, batches would be of one length."""
        count, stretch = len(self._prompts), self._width * _SORTED_FORWARDS
        order = generator(self._seed, "epoch", epoch).permutation(count)[chunk * stretch : (chunk + 1) * stretch]
        prompts = [self._prompts[index] for index in order]
        windows = [window_of(self._lm, prompt, self._length) for prompt in prompts]
        by_length = np.argsort([len(window.ids) for window in windows], kind="stable")
        batches = []
        for start in range(0, len(prompts), self._width):
            chosen = by_length[start : start + self._width]
            first = epoch * count + chunk * stretch + start
            batches.append(_Batch(first, [prompts[i] for i in chosen], [windows[i] for i in chosen]))
        return [batches[i] for i in generator(self._seed, "forwards", epoch, chunk).permutation(len(batches))]


class LMSource:
    """Patterns of a share of each layer's heads, drawn anew for every prompt, mixed in a buffer (paper section 4).

    When the prompts run out they begin again in a new order: a new epoch, with new heads. Steps are asked for in order.
    With ``overlap`` the next forward runs in a thread meanwhile; close the source, or use it in a ``with`` block,
    before the language model is used for anything else.

    Args:
        lm: the language model.
        prompts: prompts of any outcome.
        config: which heads, the window, prompts per forward at most; fewer where the buffer is small.
        size: rows of a pattern, at most.
        batch_size: patterns per step.
        seed: decides the order of prompts, the heads and the draws.
        buffer: patterns that the buffer holds at most.
        outcome: "correct" leaves out prompts known to be incorrect, and patterns of those that the model now answers
            incorrectly; "any" takes all.
        overlap: run forwards in a thread; None does so unless both compete for the same processor cores.

    Raises:
        ConfigError: if there are no prompts, or the buffer cannot hold a batch and a prompt.
        TrainingError: if only correct prompts are wanted and all are known to be incorrect.
    """

    def __init__(
        self,
        lm: LM,
        prompts: Sequence[Prompt],
        config: CaptureConfig,
        *,
        size: int,
        batch_size: int,
        seed: int,
        buffer: int = 16_384,
        outcome: str = "correct",
        overlap: bool | None = None,
    ) -> None:
        if not prompts:
            raise ConfigError("expected prompts to train on, got none; draw some with apmae prompts")
        self.prompts = [prompt for prompt in prompts if outcome == "any" or prompt.outcome != "incorrect"]
        if not self.prompts:
            raise TrainingError(
                f"expected prompts that the language model answers correctly, got 0 of {len(prompts)}; draw some with "
                "apmae prompts --lm MODEL --outcome correct, or set outcome to any"
            )
        share = 1.0 if config.heads == "all" else config.heads
        per_prompt = sum(share_of(share, heads) for heads in lm.heads.values())
        width = min(config.batch, (buffer - batch_size) // per_prompt)
        if width < 1:
            raise ConfigError(
                f"expected a buffer of at least {batch_size + per_prompt} patterns, a batch's {batch_size} and a "
                f"prompt's {per_prompt}, got {buffer}; set buffer"
            )
        self._lm, self._seed, self._batch_size, self._outcome = lm, seed, batch_size, outcome
        self._config, self._size = config, size
        length = window_length(lm, size, config.context)
        self._forwards = _Forwards(lm, self.prompts, length=length, width=width, seed=seed)
        self._most = width * per_prompt
        rows = min(size, length)
        self._buffer = MixingBuffer(buffer, rows, reach="whole" if rows == length else config.long, device=lm.device)
        self._step = self._taken = self._asked = self._correct = self._silent = 0
        if overlap is None:
            overlap = torch.device(lm.device).type != "cpu"
        self._thread = ThreadPoolExecutor(1, "captures") if overlap else None
        self._following: Future[Captured] | None = None

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, which must be the next one.

        Raises:
            TrainingError: if it is not, or the model answers no prompt correctly.
        """
        if step != self._step:
            raise TrainingError(f"expected step {self._step} of the stream, got {step}; restore a checkpoint's state")
        while len(self._buffer) + self._most <= self._buffer.capacity:
            self._take()
        self._step += 1
        return self._buffer.draw(self._batch_size, generator(self._seed, "draw", step))

    def counts(self) -> dict[str, int]:
        """The epoch that is being read, from 1; prompts asked so far, and how many of them correctly answered."""
        epoch = max(self._taken - 1, 0) // self._forwards.per_epoch + 1
        return {"epoch": epoch, "asked": self._asked, "correct": self._correct}

    def state(self) -> dict[str, ndarray]:
        """The cursor, and where the patterns in the buffer came from, from which they can be captured again."""
        cursor = np.array([self._step, self._taken, self._asked, self._correct, self._silent], np.int64)
        return {"cursor": cursor, "origins": self._buffer.origins}

    def restore(self, state: Mapping[str, ndarray]) -> None:
        """Go on from :meth:`state`: runs the forwards again that the buffer holds patterns of."""
        self._drop_following()
        origins = np.asarray(state["origins"])
        forwards = np.unique(origins[:, 0]).tolist()
        with progress("fill the buffer again", len(forwards)) as advance:
            for number in forwards:
                self._buffer.refill(origins, self._run(number).patterns, number)
                advance()
        self._step, self._taken, self._asked, self._correct, self._silent = np.asarray(state["cursor"]).tolist()

    def close(self) -> None:
        """Wait for the forward that is under way; no other begins."""
        self._drop_following()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def __enter__(self) -> "LMSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, number: int) -> Captured:
        batch = self._forwards[number]
        return capture_batch(
            self._lm, batch.prompts, batch.windows, self._config, size=self._size, seed=self._seed, first=batch.first
        )

    def _take(self) -> None:
        """Move the next forward's patterns into the buffer, and let the one after it begin."""
        captured = self._run(self._taken) if self._following is None else self._following.result()
        if self._thread is not None:
            self._following = self._thread.submit(self._run, self._taken + 1)
        right = np.array([said.correct for said in captured.answers])
        kept = right if self._outcome == "correct" else np.ones_like(right)
        self._silent = 0 if kept.any() else self._silent + len(right)
        self._asked += len(right)
        self._correct += int(right.sum())
        patterns = captured.patterns
        rows = np.flatnonzero(kept[patterns.prompt - patterns.prompt[0]])
        self._buffer.add(patterns, self._taken, rows)
        self._taken += 1
        # With one prompt answered correctly, the longest row without is shorter than two epochs.
        if self._silent >= min(2 * len(self.prompts), _PATIENCE):
            raise TrainingError(
                f"expected prompts that the language model answers correctly, got none among the last {self._silent} "
                f"({self._correct} of {self._asked} in all); draw some with apmae prompts --lm MODEL --outcome "
                "correct, or set outcome to any"
            )

    def _drop_following(self) -> None:
        if self._following is not None and not self._following.cancel():
            self._following.exception()
        self._following = None
