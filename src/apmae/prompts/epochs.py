"""Prompts to train on, epoch after epoch: those of a list, reordered each time, or drawn from source files as training
needs them. Torch-free.

An epoch depends on its number and the settings alone, so that a killed run finds its place again.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from apmae.config import PromptsConfig
from apmae.corpus.source import SourceHandle
from apmae.errors import ConfigError, SourceError, TrainingError
from apmae.prompts.prompt import Prompt, split_of
from apmae.prompts.sampling import Quota, candidates
from apmae.seeding import generator, subseed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AHEAD = 256
"""Prompts drawn in a thread while as many are trained on."""


@runtime_checkable
class Epochs(Protocol):
    """Prompts, epoch by epoch."""

    rejected: dict[str, int]
    """What was left out of the first epoch so far, by reason."""

    @property
    def repeats(self) -> bool:
        """Whether every epoch has the same prompts."""
        ...

    @property
    def size(self) -> int | None:
        """Prompts of every epoch; None where that is not known."""
        ...

    def epoch(self, number: int) -> Generator[Prompt, None, None]:
        """The prompts of an epoch, counted from 0: at least one, and the same whenever it is asked for."""
        ...

    def counts(self) -> dict[str, int]:
        """What they come from, for a manifest."""
        ...


class ListedPrompts:
    """A list of prompts, each once per epoch, in a seeded order that is new in each epoch.

    Args:
        prompts: any number.
        seed: of the order.
        outcome: "correct" leaves out prompts known to be incorrect; "any" takes all.

    Raises:
        ConfigError: if there are none.
        TrainingError: if only correct ones are wanted and all are known to be incorrect.
    """

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, outcome: str) -> None:
        if not prompts:
            raise ConfigError("expected prompts to train on, got none; draw some with apmae prompts")
        self._prompts = [prompt for prompt in prompts if outcome == "any" or prompt.outcome != "incorrect"]
        if not self._prompts:
            raise TrainingError(
                f"expected prompts that the language model answers correctly, got 0 of {len(prompts)}; draw some with "
                "apmae prompts --lm MODEL --outcome correct, or set outcome to any"
            )
        self._seed = seed
        self.rejected: dict[str, int] = {}

    @property
    def repeats(self) -> bool:
        """True: every epoch has all of them."""
        return True

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._prompts)

    def epoch(self, number: int) -> Generator[Prompt, None, None]:
        """All of them, in the order of this epoch."""
        for index in generator(self._seed, "epoch", number).permutation(len(self._prompts)).tolist():
            yield self._prompts[index]

    def counts(self) -> dict[str, int]:
        """``{"prompts": n}``."""
        return {"prompts": len(self._prompts)}


class DrawnPrompts:
    """Prompts drawn from source files as they are asked for; no model is asked.

    An epoch draws until each task has ``per_task`` prompts or the files give no more. Memory holds what
    :func:`apmae.prompts.sampling.candidates` does for one epoch: the list of files, up to 8 MB of parsed text and
    1.4 kB for each prompt drawn.

    Args:
        files: where spans are taken from (:func:`files_of`).
        config: how to draw; its seed is that of the first epoch.
        tokenizer: of whose tokens random spans are made.
        redraw: whether the next epoch draws files in another order and other spans, instead of the same ones again.
    """

    def __init__(
        self,
        files: Sequence[SourceHandle],
        config: PromptsConfig,
        *,
        tokenizer: "Tokenizer | None",
        redraw: bool = True,
    ) -> None:
        self._files, self._config, self._tokenizer, self._redraw = files, config, tokenizer, redraw
        self.rejected: dict[str, int] = {}

    @property
    def repeats(self) -> bool:
        """Whether later epochs draw the same prompts again."""
        return not self._redraw

    @property
    def size(self) -> None:
        """None: how many prompts the files give is known only after drawing them."""
        return

    def epoch(self, number: int) -> Generator[Prompt, None, None]:
        """Draw an epoch, :data:`_AHEAD` prompts ahead in a thread; closing the iterator ends that.

        Raises:
            SourceError: if the files give no prompt, or a file that was given by name cannot be used.
        """
        redrawn = number and self._redraw
        seed = subseed(self._config.seed, "epoch", number) if redrawn else self._config.seed
        config = self._config.model_copy(update={"seed": seed})
        rejected: Counter[str] = Counter()
        quota, stopped = Quota(config), Event()
        drawn = candidates(
            self._files,
            config,
            tokenizer=self._tokenizer,
            rejected=rejected,
            wants=lambda task: not stopped.is_set() and quota.wants(task),
        )
        accepted = filter(quota.offer, drawn)
        found = 0
        with closing(drawn), ThreadPoolExecutor(1, "prompts") as reader, ExitStack() as leaving:
            leaving.callback(stopped.set)  # else leaving waits for a chunk: perhaps for all files
            following = reader.submit(_chunk, accepted)
            while chunk := following.result():
                found += len(chunk)
                self._note(number, rejected)
                following = reader.submit(_chunk, accepted)
                yield from chunk
            self._note(number, rejected)
        if not found:
            why = ", ".join(f"{reason}: {count}" for reason, count in sorted(rejected.items())) or "no span of a task"
            raise SourceError(
                f"expected prompts from {len(self._files)} files, found none ({why}); give other source files"
            )

    def counts(self) -> dict[str, int]:
        """``{"files": n}``."""
        return {"files": len(self._files)}

    def _note(self, number: int, rejected: Counter[str]) -> None:
        """Files are the same in every epoch: counted once, they are those of the first."""
        if not number:
            self.rejected = dict(sorted((+rejected).items()))


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
    if prompts:
        _expect_enough(len(files), processes)
    return [prompt for prompt in prompts if files[prompt.path] % processes == process]


def files_of(
    files: Sequence[SourceHandle], config: PromptsConfig, *, process: int = 0, processes: int = 1
) -> list[SourceHandle]:
    """The source files of this process, of the split that is drawn from, dealt out one after another.

    Args:
        files: of all processes.
        config: says which split.
        process: this one's number.
        processes: how many there are.

    Raises:
        SourceError: if no file is of that split.
        ConfigError: if there are fewer files than processes.
    """
    own = [file for file in files if config.split in ("all", split_of(file.repository or file.path))]
    if not own:
        raise SourceError(
            f"expected files of the split {config.split!r}, none of {len(files)} is; give more source files, or set "
            "split to all"
        )
    _expect_enough(len(own), processes)
    return own[process::processes]


def _expect_enough(files: int, processes: int) -> None:
    if files < processes:
        raise ConfigError(f"expected prompts of at least {processes} files, one per process, got {files}; give more")


def _chunk(prompts: Iterator[Prompt]) -> list[Prompt]:
    return list(islice(prompts, _AHEAD))
