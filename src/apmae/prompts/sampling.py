"""Drawing prompts from source files: in a seeded order, spread over files and tasks, under a quota. Torch-free.

A draw depends on the seed, the file's path and the task alone, so that more files or tasks change no other draw.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from apmae.config import PromptsConfig
from apmae.corpus.sources import SourceFile, SourceHandle, list_sources
from apmae.errors import ConfigError, SourceError
from apmae.prompts.fim import check_plain, head, tail
from apmae.prompts.languages import language_of
from apmae.prompts.offsets import offsets_of
from apmae.prompts.parser import ParsedFile, parse_in_order
from apmae.prompts.spans import Span
from apmae.prompts.tasks import iter_random_spans, lexemes
from apmae.seeding import generator, unit_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HELD_OUT = 0.2
"""Share of the files that is held out."""

CONTEXT_CHARS_PER_TOKEN = 32
"""Characters of context kept on each side for each token of the window; no source code has so few tokens."""

REGION = 8_192
"""Characters of a file that are tokenised to draw ``random`` spans; a longer file gives a region drawn from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A context with one span taken out, the expected completion, and where they came from (``schema.PROMPTS``)."""

    id: str
    task: str
    language: str
    path: str
    split: str
    line: int
    """Line of the span's first character, from 1."""
    start: int
    """The span's first character in its file, from 0."""
    prefix: str
    """Text before the span, as much as a window can hold."""
    completion: str
    suffix: str | None
    """Text after the span, as much as a window can hold; None where there is no right context."""
    outcome: str | None = None
    """"correct", "incorrect", or None where no model was asked."""
    group: str | None = None
    """Shared by prompts that belong together, such as those of one template; None for a prompt of its own."""
    counterfactual: str | None = None
    """Another text in the place of ``prefix``, for which another completion is right; None where there is none."""
    accepted: tuple[str, ...] = ()
    """Completions that are right beside ``completion``."""
    wrong: tuple[str, ...] = ()
    """Completions that the right ones compete with; where there is a counterfactual, the first is right for it."""


def split_of(path: str, seed: int) -> str:
    """Which split a file belongs to: "held_out" for a fifth of all paths, else "train"."""
    return "held_out" if unit_hash(seed, "split", path) < HELD_OUT else "train"


class Quota:
    """Accepts prompts until every task has its share.

    Args:
        config: the tasks, prompts a task, and which outcomes: "any" takes what comes, "correct" correct prompts only,
            "balanced" half each (the odd one correct).
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
) -> Iterator[Prompt]:
    """Draw prompts, without end but for the files': the caller stops when it has enough.

    Files come in a seeded order. Each round gives at most one prompt a file and task, tasks in turn; the next round
    draws other spans of the same files, until there are none.

    Args:
        files: what :func:`apmae.corpus.sources.list_sources` listed.
        config: the tasks, language, split, seed and length.
        tokenizer: whose tokens ``random`` spans are made of; None takes :func:`apmae.prompts.tasks.lexemes`.
        rejected: counts what could not be used: files by the reasons of :meth:`SourceHandle.read`; "parse_error",
            files of which a part does not parse (spans there are dropped); files that the parser cannot take by the
            reasons of :class:`apmae.prompts.parser.ParsedFile`; "no_span", a file without a span of a task.
        wants: whether a task still needs prompts (:meth:`Quota.wants`); once False, it must stay so.

    Raises:
        ConfigError: if the language is unknown or not installed, or the tokenizer truncates or pads.
        SourceError: if a file that was named by itself cannot be used.
        ParserError: if no parser process can be started.
    """
    if tokenizer is None:
        offsets = lexemes
    else:
        check_plain(tokenizer)
        offsets = offsets_of(tokenizer)
    chosen = [handle for handle in files if config.split in ("all", split_of(handle.path, config.seed))]
    waiting = sorted(chosen, key=lambda handle: unit_hash(config.seed, "order", handle.path))

    def wanted() -> list[str]:
        return [task for task in config.tasks if wants(task)]

    number = 0
    while waiting and wanted():
        again = []
        with closing(parse_in_order(waiting, config.language, wanted)) as parsed_files:
            for parsed in parsed_files:
                more = yield from _from_file(parsed, wanted(), number, config, offsets, rejected)
                if more:
                    again.append(parsed.handle)
        waiting = again
        number += 1


def _from_file(
    parsed: ParsedFile,
    tasks: Sequence[str],
    number: int,
    config: PromptsConfig,
    offsets: Callable[[str], list[tuple[int, int]]],
    rejected: Counter[str],
) -> Iterator[Prompt]:
    """One round's prompts of one file; returns whether another round would find more."""
    # a file is rejected once, however often it is read
    first = rejected if number == 0 else Counter()
    first.update(parsed.rejected)
    file, found_spans = parsed.file, parsed.spans
    if file is None or found_spans is None:
        return False
    if found_spans.has_error:
        first["parse_error"] += 1
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
            yield _prompt(file, spans[number], task, config)
    return more


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


def _prompt(file: SourceFile, span: Span, task: str, config: PromptsConfig) -> Prompt:
    limit = CONTEXT_CHARS_PER_TOKEN * config.length
    identity = "\x1f".join([file.path, str(span.start), task])
    return Prompt(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        task=task,
        language=config.language,
        path=file.path,
        split=split_of(file.path, config.seed),
        line=file.text.count("\n", 0, span.start) + 1,
        start=span.start,
        prefix=tail(file.text[: span.start], limit),
        completion=file.text[span.start : span.end],
        suffix=head(file.text[span.end :], limit),
    )


def build_prompts(
    sources: Sequence[str | os.PathLike[str]],
    config: PromptsConfig,
    *,
    tokenizer: "Tokenizer | None" = None,
) -> tuple[list[Prompt], dict[str, object]]:
    """Draw prompts without asking a model: their outcome stays unknown.

    Args:
        sources: folders, files, zips and tars.
        config: how to draw.
        tokenizer: as for :func:`candidates`.

    Returns:
        The prompts in the order drawn, and ``{"files", "prompts": Quota.counts(), "rejected": {reason: n}}``.

    Raises:
        ConfigError: if the configuration asks for outcomes.
        SourceError: if the sources cannot be read, or no file has a span of any task.
    """
    if config.outcome != "any":
        raise ConfigError(f"outcome {config.outcome!r} needs a language model: give one, or set outcome to 'any'")
    files = list_sources(sources, suffixes=language_of(config.language).suffixes)
    rejected: Counter[str] = Counter()
    quota = Quota(config)
    drawn = candidates(files, config, tokenizer=tokenizer, rejected=rejected, wants=quota.wants)
    prompts = [prompt for prompt in drawn if quota.offer(prompt)]
    if not prompts:
        why = ", ".join(f"{reason}: {count}" for reason, count in sorted((+rejected).items())) or "none in this split"
        raise SourceError(f"expected spans to draw prompts from in {len(files)} files, found none ({why}); give others")
    return prompts, {"files": len(files), "prompts": quota.counts(), "rejected": dict(sorted((+rejected).items()))}
