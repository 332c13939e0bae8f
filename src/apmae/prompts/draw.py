"""Drawing prompts until their numbers are reached, with or without asking a model for their outcomes. Torch-free.

Building runs one batch ahead in a thread, with the quota as of the batch before, so that a draw does not depend on
which of the two was faster. A task that yields an outcome too rarely is given up: otherwise one rare outcome would read
the corpus again and again.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from math import ceil
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from apmae.config import PromptsConfig
from apmae.corpus.source import SourceHandle
from apmae.errors import ConfigError, SourceError
from apmae.progress import Advance
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt
from apmae.prompts.sampling import Quota, candidates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WIDTH = 16
"""Candidates asked about at once."""
_PATIENCE = 40
"""Candidates tried per prompt wanted, on average, before a task is given up."""


class Ask(Protocol):
    """Asks a language model, in two steps: windows are cut ahead, in a thread, while the model answers earlier ones."""

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's; random spans are made of its tokens."""
        ...

    def window(self, prompt: Prompt, length: int) -> Window:
        """What the model sees of a prompt, at most ``length`` tokens."""
        ...

    def __call__(self, windows: Sequence[Window]) -> list[Answer]:
        """The model's answer to each."""
        ...


def build_prompts(
    files: Sequence[SourceHandle], config: PromptsConfig, *, tokenizer: "Tokenizer | None" = None
) -> tuple[list[Prompt], dict[str, Any]]:
    """Draw prompts without asking a model: their outcome stays unknown.

    Args:
        files: where spans are taken from.
        config: how to draw.
        tokenizer: as for :func:`apmae.prompts.sampling.candidates`.

    Returns:
        The prompts in the order drawn, and ``{"files", "prompts": Quota.counts(), "rejected": {reason: n}}``.

    Raises:
        ConfigError: if the configuration asks for outcomes.
        SourceError: if a file that the user named directly cannot be used, or no file has a span of any task.
    """
    if config.outcome != "any":
        raise ConfigError(f"outcome {config.outcome!r} needs a language model: give one, or set outcome to 'any'")
    rejected: Counter[str] = Counter()
    quota = Quota(config)
    drawn = candidates(files, config, tokenizer=tokenizer, rejected=rejected, wants=quota.wants)
    prompts = [prompt for prompt in drawn if quota.offer(prompt)]
    if not prompts:
        raise SourceError(f"expected prompts from {len(files)} files, found none ({_reasons(rejected)}); give others")
    return prompts, {"files": len(files), "prompts": quota.counts(), "rejected": _counted(rejected)}


def draw_prompts(
    ask: Ask,
    files: Sequence[SourceHandle],
    config: PromptsConfig,
    *,
    rejected: Counter[str],
    advance: Advance | None = None,
) -> tuple[list[Prompt], dict[str, Any]]:
    """Draw prompts until every task has its quota of outcomes, asking a model for each candidate.

    A task that yields too rarely is given up after about :data:`_PATIENCE` candidates per prompt wanted.

    Args:
        ask: decides outcomes.
        files: where spans are taken from.
        config: tasks, quota, window length, seed.
        rejected: counts what was not used, by reason.
        advance: called with the number of candidates asked, about how many there will be, and what is waited for.

    Returns:
        The prompts, outcome set, in the order drawn; and
        ``{"files", "prompts", "candidates", "outcomes", "rejected"}``. ``outcomes`` are those of all candidates, by
        task, whether they were kept or not.

    Raises:
        SourceError: if not one prompt was found.
    """
    quota = Quota(config)
    tried: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {task: Counter() for task in config.tasks}
    limit = _PATIENCE * config.per_task
    stopped = Event()
    drawn = candidates(
        files,
        config,
        tokenizer=ask.tokenizer,
        rejected=rejected,
        wants=lambda task: not stopped.is_set() and quota.wants(task) and tried[task] < limit,
    )

    def build() -> list[tuple[Prompt, Window]]:
        return [(prompt, ask.window(prompt, config.length)) for prompt in islice(drawn, _WIDTH)]

    accepted: list[Prompt] = []
    with ThreadPoolExecutor(1, "prompts") as builder, ExitStack() as leaving:
        leaving.callback(stopped.set)  # else a Ctrl-C, or a model that fails, waits for a batch: perhaps for all files
        following = builder.submit(build)
        while batch := following.result():
            # The next batch is built while the model answers this one. It is done before this one counts, so that what
            # it draws does not depend on which of the two was faster.
            following = builder.submit(build)
            answers = ask([window for _, window in batch])
            wait([following])
            for (prompt, _), answer in zip(batch, answers, strict=True):
                tried[prompt.task] += 1
                outcomes[prompt.task][answer.outcome] += 1
                asked = replace(prompt, outcome=answer.outcome, answer=answer)
                if quota.offer(asked):
                    accepted.append(asked)
                else:
                    rejected[f"surplus_{answer.outcome}"] += 1
            if advance:
                more, note = _waiting(quota, tried, limit)
                advance(len(batch), total=tried.total() + more, note=note)
            if quota.full:
                break
    if not accepted:
        any_ = ", or set outcome to 'any', which takes both outcomes" if config.outcome != "any" else ""
        why = _reasons(rejected)
        raise SourceError(
            f"expected prompts from {len(files)} files, found none ({why}); give other source files{any_}"
        )
    counts = {
        "files": len(files),
        "prompts": quota.counts(),
        "candidates": dict(sorted(tried.items())),
        "outcomes": {task: dict(sorted(seen.items())) for task, seen in sorted(outcomes.items()) if seen},
        "rejected": _counted(rejected),
    }
    return accepted, counts


def with_outcomes(ask: Ask, prompts: Sequence[Prompt], length: int, *, advance: Advance | None = None) -> list[Prompt]:
    """The same prompts with a model's answers.

    Args:
        ask: decides outcomes.
        prompts: any.
        length: most tokens of a window.
        advance: called with the number of prompts asked.
    """
    done: list[Prompt] = []
    for start in range(0, len(prompts), _WIDTH):
        batch = prompts[start : start + _WIDTH]
        answers = ask([ask.window(prompt, length) for prompt in batch])
        for prompt, answer in zip(batch, answers, strict=True):
            done.append(replace(prompt, outcome=answer.outcome, answer=answer))
        if advance:
            advance(len(batch), note=batch[-1].task)
    return done


def _waiting(quota: Quota, tried: Counter[str], limit: int) -> tuple[int, str]:
    """About how many more candidates have to be asked, judging by how often each outcome came so far; and in words,
    which outcome of which task needs most of them.
    """
    longest, note, total = 0, "", 0
    for task, outcomes in quota.missing().items():
        left = max(limit - tried[task], 0)
        rarest = 0
        for outcome, (found, wanted) in outcomes.items():
            # with half a prompt more than were found: none so far does not mean never
            more = min(left, ceil((wanted - found) * (tried[task] + 1) / (found + 0.5)))
            rarest = max(rarest, more)
            if more > longest:
                kind = "" if outcome == "any" else f" {outcome}"
                longest, note = more, f"{task}: {found} of {wanted}{kind}, {tried[task]} asked"
        total += rarest
    return total, note or (f"gave up on {', '.join(quota.missing())}" if quota.missing() else "all found")


def _counted(rejected: Counter[str]) -> dict[str, int]:
    return dict(sorted((+rejected).items()))


def _reasons(rejected: Counter[str]) -> str:
    """Why no prompt was found, for a message."""
    return ", ".join(f"{reason}: {count}" for reason, count in _counted(rejected).items()) or "none in this split"


def shortfalls(prompts: Iterable[Prompt], config: PromptsConfig) -> list[str]:
    """One line for each task that could not be filled, saying how many were found."""
    found = Counter((prompt.task, prompt.outcome) for prompt in prompts)
    half = config.per_task // 2
    wanted = {"correct": config.per_task - half, "incorrect": half} if config.outcome == "balanced" else None
    lines = []
    for task in config.tasks:
        if wanted is None:
            count = sum(n for (name, _), n in found.items() if name == task)
            if count < config.per_task:
                kind = "correct prompts" if config.outcome == "correct" else "prompts"
                lines.append(f"{task}: {count} of {config.per_task} {kind} found")
            continue
        short = [f"{found[task, o]} of {n} {o}" for o, n in wanted.items() if found[task, o] < n]
        if short:
            lines.append(f"{task}: {', '.join(short)} found")
    return lines
