"""Drawing prompts from source files: in a seeded order, spread over files and tasks, under a quota. Torch-free.

A draw depends only on the seed, the file's path and the task, so adding files or tasks changes no other draw.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from apmae.config import PromptsConfig
from apmae.corpus.source import SourceHandle
from apmae.prompts.fim import check_plain, head, tail
from apmae.prompts.offsets import offsets_of
from apmae.prompts.parser import ParsedFile, parse_in_order
from apmae.prompts.prompt import Prompt, split_of
from apmae.prompts.sentinels import spelled
from apmae.prompts.similar import Windows
from apmae.prompts.spans import Span
from apmae.prompts.tasks import iter_random_spans, lexemes
from apmae.seeding import generator, unit_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT_CHARS_PER_TOKEN = 32
"""Characters of context kept on each side per token of the window; source code never has so few tokens."""

KEPT_CHARS = 8_000_000
"""Characters of parsed files that stay in memory for the next round: all of a small project. Files beyond that are read
again in every round."""

STALE = 10
"""Rounds in a row without a new window before a file is given up: its other spans are close to those drawn."""

REGION = 8_192
"""Characters of a file that are tokenised to draw ``random`` spans; of a longer file, a region is drawn first."""


class Quota:
    """Accepts prompts until every task has its share.

    Args:
        config: the tasks, prompts per task, and which outcomes: "any" takes all, "correct" only correct prompts,
            "balanced" half of each (the odd one is correct).
    """

    def __init__(self, config: PromptsConfig) -> None:
        n = config.per_task
        targets: dict[str, dict[tuple[str, ...], int]] = {
            "any": {("correct", "incorrect", "unknown"): n},
            "correct": {("correct",): n},
            "balanced": {("correct",): n - n // 2, ("incorrect",): n // 2},
        }
        self._targets = targets[config.outcome]
        self._counts = {task: {"correct": 0, "incorrect": 0, "unknown": 0} for task in config.tasks}

    def wants(self, task: str) -> bool:
        """Whether some prompt of this task would still be accepted; once False, it stays so."""
        return task in self._counts and any(self._open(task, group) for group in self._targets)

    def offer(self, prompt: Prompt) -> bool:
        """Count a prompt if its share is not full yet.

        Returns:
            Whether it was accepted.
        """
        outcome = prompt.outcome or "unknown"
        accepted = prompt.task in self._counts and any(
            outcome in group and self._open(prompt.task, group) for group in self._targets
        )
        if accepted:
            self._counts[prompt.task][outcome] += 1
        return accepted

    @property
    def full(self) -> bool:
        """Whether every task has its share."""
        return not any(self.wants(task) for task in self._counts)

    def missing(self) -> dict[str, dict[str, tuple[int, int]]]:
        """What is still wanted: ``{task: {outcome: (found, wanted)}}``, the outcome "any" where all will do."""
        wanted: dict[str, dict[str, tuple[int, int]]] = {}
        for task, counts in self._counts.items():
            for group, target in self._targets.items():
                found = sum(counts[outcome] for outcome in group)
                if found < target:
                    wanted.setdefault(task, {})[group[0] if len(group) == 1 else "any"] = (found, target)
        return wanted

    def counts(self) -> dict[str, dict[str, int]]:
        """Accepted prompts: ``{task: {"correct": n, "incorrect": n, "unknown": n}}``."""
        return {task: dict(counts) for task, counts in self._counts.items()}

    def _open(self, task: str, group: tuple[str, ...]) -> bool:
        return sum(self._counts[task][outcome] for outcome in group) < self._targets[group]


def candidates(
    files: Iterable[SourceHandle],
    config: PromptsConfig,
    *,
    tokenizer: "Tokenizer | None" = None,
    rejected: Counter[str],
    wants: Callable[[str], bool] = lambda task: True,
) -> Generator[Prompt, None, None]:
    """Draw prompts until the files have no more; the caller stops when it has enough.

    Files come in a seeded order that takes one file of each repository, then another of each, and so on. Each round
    gives at most one prompt per file and task. The next round draws other spans of the same files, until there are none
    left or ``per_file`` rounds are over.

    Args:
        files: what :func:`apmae.corpus.source.list_sources` listed.
        config: the tasks, language, split, seed and length.
        tokenizer: ``random`` spans are made of its tokens; None takes :func:`apmae.prompts.tasks.lexemes`.
        rejected: counts what could not be used: files by the reasons of :meth:`SourceHandle.read`; "parse_error",
            files with a part that does not parse (spans there are dropped); files that the parser cannot take by the
            reasons of :class:`apmae.prompts.parser.ParsedFile`; "no_span", a file without a span of a task;
            "sentinel_in_text", prompts whose text spells out a sentinel (:func:`apmae.prompts.sentinels.spelled`);
            "near_identical", prompts whose window is nearly that of an earlier prompt of the task (``similar``).
        wants: whether a task still needs prompts (:meth:`Quota.wants`); once False, it must stay so.

    Raises:
        ConfigError: if the language is unknown or not installed, or the tokenizer truncates or pads.
        SourceError: if a file that the user named directly cannot be used.
        ParserError: if no parser process can be started.
    """
    if tokenizer is None:
        offsets = lexemes
    else:
        check_plain(tokenizer)
        offsets = offsets_of(tokenizer)
    sentinels = spelled(tokenizer)
    waiting = in_order([handle for handle in files if config.split in ("all", _split(handle))], config.seed)
    windows = Windows(config.length, config.similar, config.seed)

    def wanted() -> list[str]:
        return [task for task in config.tasks if wants(task)]

    kept: dict[str, ParsedFile] = {}
    room = KEPT_CHARS
    stale: Counter[str] = Counter()
    number = 0
    while waiting and wanted() and (config.per_file is None or number < config.per_file):
        again = []
        for parsed in _parsed(waiting, kept, config.language, wanted):
            prompts, more = from_file(parsed, wanted(), number, config, offsets, sentinels, rejected)
            path = parsed.handle.path
            stale[path] += 1
            for prompt in prompts:
                if windows.add(prompt):
                    stale[path] = 0
                    yield prompt
                else:
                    rejected["near_identical"] += 1
            if more and stale[path] < STALE:
                again.append(parsed.handle)
                if parsed.file is not None and path not in kept and len(parsed.file.text) <= room:
                    kept[path] = parsed
                    room -= len(parsed.file.text)
        waiting = again
        number += 1


def in_order(files: Iterable[SourceHandle], seed: int) -> list[SourceHandle]:
    """Files in a seeded order that is spread over repositories, or over sources where no repository is known: the
    first file of each, then the second of each, and so on.
    """
    drawn = sorted(files, key=lambda handle: unit_hash(seed, "order", handle.path))
    taken: Counter[str] = Counter()
    turns = []
    for handle in drawn:
        unit = handle.repository or handle.path.partition("/")[0]
        turns.append(taken[unit])
        taken[unit] += 1
    return [drawn[place] for place in np.argsort(turns, kind="stable")]


def _parsed(
    waiting: Sequence[SourceHandle], kept: dict[str, ParsedFile], language: str, wanted: Callable[[], Sequence[str]]
) -> Iterator[ParsedFile]:
    """Files in the order given; those that are not kept from an earlier round are read and parsed."""
    missing = [handle for handle in waiting if handle.path not in kept]
    with closing(parse_in_order(missing, language, wanted)) as fresh:
        for handle in waiting:
            parsed = kept.get(handle.path) or next(fresh, None)
            if parsed is None or not wanted():
                return
            yield parsed


def from_file(
    parsed: ParsedFile,
    tasks: Sequence[str],
    number: int,
    config: PromptsConfig,
    offsets: Callable[[str], list[tuple[int, int]]],
    sentinels: re.Pattern[str],
    rejected: Counter[str],
) -> tuple[list[Prompt], bool]:
    """One round's prompts of one file, and whether another round would find more."""
    # a file is rejected once, however often it is read
    first = rejected if number == 0 else Counter()
    first.update(parsed.rejected)
    file, found_spans = parsed.file, parsed.spans
    if file is None or found_spans is None:
        return [], False
    if found_spans.has_error:
        first["parse_error"] += 1
    prompts: list[Prompt] = []
    suspect = sentinels.search(file.text) is not None
    more = False
    for task in tasks:
        draw = generator(config.seed, "prompts", file.path, task)
        if task == "random":
            spans = _random(file.text, number + 2, draw, offsets)
        else:
            # a prompt needs a character to its left
            found = found_spans.spans[task]
            found = found[found[:, 0] > 0]
            spans = [Span(*pair) for pair in found[draw.permutation(len(found))[: number + 2]].tolist()]
        if not spans:
            first["no_span"] += 1
        more |= len(spans) > number + 1
        if len(spans) > number:
            prompt = _prompt(parsed.handle, file.text, spans[number], task, config)
            if suspect and sentinels.search(f"{prompt.prefix}{prompt.completion}{prompt.suffix}"):
                rejected["sentinel_in_text"] += 1
            else:
                prompts.append(prompt)
    return prompts, more


def _random(
    text: str, count: int, draw: np.random.Generator, offsets: Callable[[str], list[tuple[int, int]]]
) -> list[Span]:
    """The first ``count`` random spans of a text, in the order drawn, none of them blank."""
    start = 0
    if len(text) > REGION:
        start = text.find("\n", int(draw.integers(len(text) - REGION))) + 1
    region = head(text[start:], REGION)
    usable = (
        Span(start + span.start, start + span.end)
        for span in iter_random_spans(offsets(region), draw)
        if start + span.start > 0 and region[span.start : span.end].strip()
    )
    return list(islice(usable, count))


def _prompt(handle: SourceHandle, text: str, span: Span, task: str, config: PromptsConfig) -> Prompt:
    limit = CONTEXT_CHARS_PER_TOKEN * config.length
    identity = "\x1f".join([handle.path, str(span.start), task])
    return Prompt(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        task=task,
        language=config.language,
        path=handle.path,
        repository=handle.repository,
        split=_split(handle),
        line=text.count("\n", 0, span.start) + 1,
        start=span.start,
        prefix=tail(text[: span.start], limit),
        completion=text[span.start : span.end],
        suffix=head(text[span.end :], limit),
    )


def _split(handle: SourceHandle) -> str:
    return split_of(handle.repository or handle.path)
