"""Patterns that a language model makes during training: captured, mixed, trained on and dropped.

Forwards are numbered, and what a forward captures follows from the seed and its number. The buffer takes the next one
whenever it has room for all of it, so what a step draws depends on counts and never on which thread was faster.

One forward runs ahead, except on a CPU, where it would compete with training for cores. A tap sees every forward of its
model, so nothing else may use the model while a source is open. Forwards run under ``no_grad``, not in inference mode:
tensors that they cache would be inference tensors and break a later backward. With ``outcome`` ``correct``, these
forwards decide which prompts are correct, not the prompts file, which may be for another model or window.

Checkpoints do not store prompts: which prompts a forward runs follows from its number too (``train.forwards``).
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray

from apmae.config import CaptureConfig
from apmae.errors import ConfigError, TrainingError
from apmae.lm.declared import expect_outcome
from apmae.lm.language_model import LM
from apmae.lm.selection import share_of
from apmae.lm.stream import Captured, capture_batch, window_length
from apmae.patterns.patterns import Patterns
from apmae.progress import notice, progress
from apmae.prompts.epochs import Epochs, ListedPrompts
from apmae.prompts.prompt import Prompt
from apmae.seeding import generator
from apmae.train.buffer import MixingBuffer
from apmae.train.forwards import Forwards

_PATIENCE = 2000
"""Training on correct prompts stops after at most this many consecutive prompts without a correct answer."""
_QUIET = 10.0
"""Seconds between lines that say how far the buffer is filled before the first step."""


class _Run(NamedTuple):
    """The result of one forward."""

    captured: Captured
    epoch: int
    """Counted from 0."""
    rejected: dict[str, int]


class LMSource:
    """Patterns of a share of each layer's heads, redrawn for each prompt, mixed in a buffer (paper section 4).

    When the prompts run out a new epoch begins, with new heads (``prompts.epochs``). Steps must be asked for in order.
    With ``overlap`` the next forward runs in a thread at the same time. Close the source, or use it in a ``with``
    block, before the language model is used for anything else.

    Args:
        lm: the language model.
        prompts: prompts of any outcome, or epochs of them such as ``DrawnPrompts``.
        config: heads, window, and the most prompts per forward; a small buffer allows fewer.
        size: rows of a pattern, at most.
        batch_size: patterns per step.
        seed: decides the order of prompts, the heads and the draws.
        buffer: the most patterns in the buffer.
        outcome: "correct" leaves out prompts known to be incorrect, patterns of prompts that the model now answers
            incorrectly, and, where epochs repeat, those prompts from the next epoch on; "any" takes all.
        overlap: run forwards in a thread; None does so unless they would compete for processor cores.
        watched: if filling the buffer takes long, say on stderr how far it is filled.
        pairs: a batch has pairs of patterns of one head, as guided training needs.

    Raises:
        ConfigError: if there are no prompts, the buffer cannot hold a batch and one more prompt, or the model answers
            nothing and only correct prompts are wanted.
        TrainingError: if only correct prompts are wanted and all are known to be incorrect.
    """

    def __init__(
        self,
        lm: LM,
        prompts: Sequence[Prompt] | Epochs,
        config: CaptureConfig,
        *,
        size: int,
        batch_size: int,
        seed: int,
        buffer: int = 16_384,
        outcome: str = "correct",
        overlap: bool | None = None,
        watched: bool = False,
        pairs: bool = False,
    ) -> None:
        expect_outcome(outcome, lm.answers, lm.name)
        self.prompts = prompts if isinstance(prompts, Epochs) else ListedPrompts(prompts, seed=seed, outcome=outcome)
        share = 1.0 if config.heads == "all" else config.heads
        per_prompt = sum(share_of(share, heads) for heads in lm.heads.values())
        width = min(config.batch, (buffer - batch_size) // per_prompt)
        if width < 1:
            raise ConfigError(
                f"expected a buffer of at least {batch_size + per_prompt} patterns, {batch_size} for a batch and "
                f"{per_prompt} for a prompt, got {buffer}; set buffer"
            )
        self._lm, self._seed, self._batch_size, self._outcome = lm, seed, batch_size, outcome
        self._config, self._size = config, size
        length = window_length(lm, size, config.context)
        self._forwards = Forwards(lm, self.prompts, length=length, width=width, seed=seed)
        self._width, self._most = width, width * per_prompt
        rows = min(size, length)
        reach = "whole" if rows == length else config.long
        self._buffer = MixingBuffer(buffer, rows, reach=reach, device=lm.device, causal=lm.causal)
        self._step = self._taken = self._asked = self._correct = self._silent = self._epoch = 0
        self.rejected: dict[str, int] = {}
        self._watched, self._pairs = watched, pairs
        if overlap is None:
            overlap = torch.device(lm.device).type != "cpu"
        self._thread = ThreadPoolExecutor(1, "captures") if overlap else None
        self._following: Future[_Run] | None = None

    def batch(self, step: int) -> Patterns:
        """The patterns of a step, which must be the next one.

        Raises:
            TrainingError: if it is not, or if the model answers no prompt correctly.
        """
        if step != self._step:
            raise TrainingError(f"expected step {self._step} of the stream, got {step}; restore a checkpoint's state")
        printed = time.monotonic()
        while len(self._buffer) + self._most <= self._buffer.capacity:
            self._take()
            if self._watched and step == 0 and time.monotonic() - printed > _QUIET:
                printed = time.monotonic()
                said = f"{self._correct} of {self._asked} prompts answered correctly"
                notice(
                    f"fill the buffer: {len(self._buffer)}/{self._buffer.capacity} patterns, "
                    f"{said if self._lm.answers else f'{self._asked} prompts'}"
                )
        self._step += 1
        return self._buffer.draw(self._batch_size, generator(self._seed, "draw", step), pairs=self._pairs)

    def counts(self) -> dict[str, int]:
        """The epoch being read, counted from 1, the prompts asked so far, and how many were answered correctly, if the
        model answers.
        """
        answered = {"correct": self._correct} if self._lm.answers else {}
        return {"epoch": self._epoch + 1, "asked": self._asked, **answered}

    def state(self) -> dict[str, ndarray]:
        """The cursor, the origins of the patterns in the buffer (to capture them again), where the epochs of their
        forwards begin, the prompts that later epochs leave out, and what was never drawn, as JSON.
        """
        counts = [self._step, self._taken, self._asked, self._correct, self._silent, self._epoch]
        origins = self._buffer.origins
        oldest = int(origins[:, 0].min()) if len(origins) else self._taken
        return {
            "cursor": np.array(counts, np.int64),
            "origins": origins,
            "epochs": self._forwards.epochs(min(oldest, self._taken), self._taken),
            "left_out": self._forwards.left_out,
            "rejected": np.array(bytearray(json.dumps(self.rejected).encode()), np.uint8),
        }

    def restore(self, state: Mapping[str, ndarray]) -> None:
        """Resume from :meth:`state`: read or draw the prompts again from the oldest epoch that is needed, and run the
        forwards again that have patterns in the buffer.
        """
        self._drop_following()
        origins, epochs = np.asarray(state["origins"]), np.asarray(state["epochs"])
        self.rejected = json.loads(np.asarray(state["rejected"], np.uint8).tobytes())
        counts = np.asarray(state["cursor"]).tolist()
        self._step, self._taken, self._asked, self._correct, self._silent, self._epoch = counts
        self._forwards.restore(epochs, np.asarray(state["left_out"]), self.rejected)
        forwards = np.unique(origins[:, 0]).tolist()
        if self.prompts.size is None and self._taken:  # drawing takes a while
            first = forwards[0] if forwards else self._taken
            with progress("draw prompts again", (first - int(epochs[0, 1])) * self._width, unit="prompts") as advance:
                self._forwards.seek(first, advance)
        with progress("fill the buffer again", len(forwards), unit="batches") as advance:
            for number in forwards:
                self._buffer.refill(origins, self._run(number).captured.patterns, number)
                advance()

    def close(self) -> None:
        """Wait for the forward that is running; no other starts."""
        self._drop_following()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._forwards.close()

    def __enter__(self) -> "LMSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, number: int) -> _Run:
        first, prompts, windows = self._forwards[number]
        stretch = self._forwards.seek(number)
        found = capture_batch(self._lm, prompts, windows, self._config, size=self._size, seed=self._seed, first=first)
        return _Run(found, stretch.epoch, stretch.rejected)

    def _take(self) -> None:
        """Move the next forward's patterns into the buffer, and start the one after it."""
        captured, self._epoch, self.rejected = (
            self._run(self._taken) if self._following is None else self._following.result()
        )
        right = np.array([answer is not None and answer.correct for answer in captured.answers])
        if self._outcome == "correct" and self.prompts.repeats:
            wrong = [captured.prompts[place] for place in np.flatnonzero(~right).tolist()]
            self._forwards.leave_out(wrong, self._epoch)  # before the next forward, which may begin an epoch
        if self._thread is not None:
            self._following = self._thread.submit(self._run, self._taken + 1)
        kept = right if self._outcome == "correct" else np.ones_like(right)
        self._silent = 0 if kept.any() else self._silent + len(right)
        self._asked += len(right)
        self._correct += int(right.sum())
        patterns = captured.patterns
        rows = np.flatnonzero(kept[patterns.prompt - patterns.prompt[0]])
        self._buffer.add(patterns, self._taken, rows)
        self._taken += 1
        # If one prompt of a list is answered correctly, there are never two epochs without a correct answer.
        if self._silent >= min(2 * (self.prompts.size or _PATIENCE), _PATIENCE):
            raise TrainingError(
                f"expected prompts that the language model answers correctly, got none among the last {self._silent} "
                f"({self._correct} of {self._asked} in all); draw some with apmae prompts --lm MODEL --outcome "
                "correct, or set outcome to any"
            )

    def _drop_following(self) -> None:
        if self._following is not None and not self._following.cancel():
            self._following.exception()
        self._following = None
