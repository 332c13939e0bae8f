"""What the model answers at the completion position, and drawing prompts until the outcomes are balanced."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from apmae.config import PromptsConfig
from apmae.corpus.sources import SourceHandle
from apmae.errors import CaptureError, ModelError, SourceError
from apmae.lm.load import LM
from apmae.progress import Advance
from apmae.prompts.fim import Window, window
from apmae.prompts.sampling import Prompt, Quota, candidates

_WIDTH = 16
"""Candidates scored at once."""
_PATIENCE = 40
"""Candidates tried for each prompt wanted, on average, before a task is given up."""


class Answer(NamedTuple):
    """The model's next-token distribution at the completion position, against the expected token."""

    predicted: int
    """The most probable token."""
    correct: bool
    max_probability: float
    expected_probability: float
    entropy: float
    """In nats."""

    @property
    def outcome(self) -> str:
        """Correct when the most probable token is the expected one, or an accepted one (DESIGN section 1)."""
        return "correct" if self.correct else "incorrect"


def window_of(lm: LM, prompt: Prompt, length: int) -> Window:
    """What the model sees of a prompt.

    Args:
        lm: decides tokens and sentinels.
        prompt: text around the completion.
        length: most tokens.

    Raises:
        CaptureError: if the model has no positions for ``length`` tokens.
        ModelError: if the model came without a fast tokenizer, or is an encoder, which completes nothing.
    """
    if not lm.causal:
        raise ModelError(
            f"expected a decoder, which can complete a prompt, {type(lm.model).__name__} is an encoder; look at it by "
            "apmae show or apmae.capture"
        )
    if lm.max_length is not None and length > lm.max_length:
        raise CaptureError(
            f"expected a window of at most the model's {lm.max_length} positions, got {length}; take a smaller length"
        )
    return window(
        lm.backend_tokenizer,
        prompt.prefix,
        prompt.completion,
        prompt.suffix,
        length=length,
        sentinels=lm.sentinels,
        bos=lm.bos,
        accepted=prompt.accepted,
    )


def pad(windows: Sequence[Window], pad_id: int) -> tuple[Tensor, Tensor]:
    """Windows as one batch, filled up on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 (b, t).
    """
    longest = max(len(item.ids) for item in windows)
    ids = torch.full((len(windows), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(windows):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, : len(item.ids)] = 1
    return ids, mask


@torch.no_grad()
def answer(lm: LM, windows: Sequence[Window]) -> list[Answer]:
    """Run the model once over a batch. A tap that is open sees this forward."""
    ids, mask = pad(windows, lm.pad_id)
    last = mask.sum(1) - 1
    inputs = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device), "use_cache": False}
    if lm.keeps_logits:  # the logits of other positions are the largest array of the forward
        kept, row = last.unique(return_inverse=True)
        logits = lm.model(**inputs, logits_to_keep=kept.to(lm.device)).logits
    else:
        row, logits = last, lm.model(**inputs).logits
    at = logits[torch.arange(len(windows)), row.to(logits.device)].float().cpu()
    log_probability = at.log_softmax(-1)
    probability = log_probability.exp()
    entropy = -(probability * log_probability.clamp(min=-1e4)).sum(-1)
    answers = []
    for item, scores, p, h in zip(windows, at, probability, entropy, strict=True):
        predicted = int(scores.argmax())
        correct = predicted in (item.expected, *item.accepted)
        answers.append(Answer(predicted, correct, float(p.max()), float(p[item.expected]), float(h)))
    return answers


def with_outcomes(lm: LM, prompts: Sequence[Prompt], length: int, *, advance: Advance | None = None) -> list[Prompt]:
    """The same prompts with what the model does with them.

    Args:
        lm: the model that decides outcomes.
        prompts: any.
        length: most tokens of a window.
        advance: called for each prompt.
    """
    done: list[Prompt] = []
    for start in range(0, len(prompts), _WIDTH):
        batch = prompts[start : start + _WIDTH]
        for prompt, item in zip(batch, answer(lm, [window_of(lm, one, length) for one in batch]), strict=True):
            done.append(replace(prompt, outcome=item.outcome))
            if advance:
                advance(note=prompt.task)
    return done


def draw_prompts(
    lm: LM,
    files: Sequence[SourceHandle],
    config: PromptsConfig,
    *,
    rejected: Counter[str],
    advance: Advance | None = None,
) -> tuple[list[Prompt], dict[str, object]]:
    """Draw prompts until every task has its quota of outcomes, asking the model for each candidate.

    A task that yields too rarely is given up after about :data:`_PATIENCE` candidates for each prompt wanted.

    Args:
        lm: the model that decides outcomes.
        files: where spans are taken from.
        config: tasks, quota, window length, seed.
        rejected: counts what was not used, by reason.
        advance: called with the number of prompts accepted.

    Returns:
        The prompts, outcome set, in the order drawn; and ``{"files", "prompts", "candidates", "rejected"}``.

    Raises:
        SourceError: if not one prompt was found.
    """
    quota = Quota(config)
    tried: Counter[str] = Counter()
    limit = _PATIENCE * config.per_task
    drawn = candidates(
        files,
        config,
        tokenizer=lm.backend_tokenizer,
        rejected=rejected,
        wants=lambda task: quota.wants(task) and tried[task] < limit,
    )
    accepted: list[Prompt] = []
    while batch := list(islice(drawn, _WIDTH)):
        windows = [window_of(lm, prompt, config.length) for prompt in batch]
        for prompt, item in zip(batch, answer(lm, windows), strict=True):
            tried[prompt.task] += 1
            scored = replace(prompt, outcome=item.outcome)
            if quota.offer(scored):
                accepted.append(scored)
                if advance:
                    advance(note=prompt.task)
            else:
                rejected[f"surplus_{scored.outcome}"] += 1
    if not accepted:
        raise SourceError(f"expected prompts from {len(files)} files, found none; rejected: {dict(rejected)}")
    counts = {
        "files": len(files),
        "prompts": quota.counts(),
        "candidates": dict(sorted(tried.items())),
        "rejected": dict(sorted((+rejected).items())),
    }
    return accepted, counts


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
                lines.append(f"{task}: {count} of {config.per_task} prompts found")
            continue
        short = [f"{found[task, o]} of {n} {o}" for o, n in wanted.items() if found[task, o] < n]
        if short:
            lines.append(f"{task}: {', '.join(short)} found")
    return lines
