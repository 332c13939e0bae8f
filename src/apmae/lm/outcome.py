"""What the model answers at the completion position, and drawing prompts until the outcomes are balanced."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from threading import Event
from typing import Any

import torch
from torch import Tensor

from apmae.config import PromptsConfig
from apmae.corpus.sources import SourceHandle
from apmae.errors import CaptureError, ModelError, SourceError
from apmae.lm.language_model import LM
from apmae.progress import Advance
from apmae.prompts.fim import Window, window
from apmae.prompts.prompt import Answer, Prompt
from apmae.prompts.sampling import Quota, candidates, said_of

_WIDTH = 16
"""Candidates scored at once."""
LONGEST_SPAN = 64
"""Tokens of the longest completion that is scored whole. Of 10 462 spans of the bundled sources one is longer."""
_MOST_LOGITS = 2**28
"""Logits of one forward: 1 GB in fp32. More prompts than that go in halves."""
_PATIENCE = 40
"""Candidates tried for each prompt wanted, on average, before a task is given up."""


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


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids as one batch, filled up on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 (b, t).
    """
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids, mask


@torch.no_grad()
def answer(lm: LM, windows: Sequence[Window], *, spans: bool = False) -> list[Answer]:
    """Run the model over a batch, each prompt once. A tap that is open sees these forwards.

    Args:
        lm: the model.
        windows: what it sees.
        spans: also score whole completions. Their tokens then stand behind the window, so that one forward gives what
            greedy decoding would: it continues as expected as long as each expected token is the most probable one.
    """
    # what is asked for at each position: the completion's tokens, of which all but the last are read as well
    asked = [item.completion if spans and _room(lm, item) else item.completion[:1] for item in windows]
    where = [range(len(item.ids) - 1, len(item.ids) - 1 + len(want)) for item, want in zip(windows, asked, strict=True)]
    kept = _kept(lm, where)
    vocabulary = lm.model.config.get_text_config().vocab_size
    if len(windows) > 1 and len(windows) * len(kept) * vocabulary > _MOST_LOGITS:
        half = len(windows) // 2
        return answer(lm, windows[:half], spans=spans) + answer(lm, windows[half:], spans=spans)
    ids, mask = pad([(*item.ids, *want[:-1]) for item, want in zip(windows, asked, strict=True)], lm.pad_id)
    inputs: dict[str, Any] = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device), "use_cache": False}
    if lm.keeps_logits:  # the logits of other positions are the largest array of the forward
        inputs["logits_to_keep"] = len(kept) if isinstance(kept, range) else torch.tensor(kept, device=lm.device)
    logits = lm.model(**inputs).logits
    places = {position: place for place, position in enumerate(kept)}
    rows = [row for row, positions in enumerate(where) for _ in positions]
    columns = [places[position] for positions in where for position in positions]
    at = logits[rows, columns].float().log_softmax(-1)
    expected = at.gather(1, torch.tensor([[token] for want in asked for token in want], device=at.device))[:, 0]
    first = torch.tensor([0, *(len(want) for want in asked[:-1])]).cumsum(0).to(at.device)
    best, second = at[first].topk(2).values.exp().T.tolist()
    entropy = -(at[first].exp() * at[first].clamp(min=-1e4)).sum(-1)
    greedy, log_probability = at.argmax(-1).tolist(), expected.tolist()
    answers = []
    for place, begin in enumerate(first.tolist()):
        item, want = windows[place], asked[place]
        span = slice(begin, begin + len(want))
        whole = spans and len(want) == len(item.completion)
        answers.append(
            Answer(
                predicted=lm.tokenizer.decode([greedy[begin]]),
                correct=greedy[begin] in (item.expected, *item.accepted),
                max_probability=best[place],
                expected_probability=math.exp(log_probability[begin]),
                margin=best[place] - second[place],
                entropy=float(entropy[place]),
                log_probability=sum(log_probability[span]) if whole else None,
                exact=greedy[span] == list(want) if whole else None,
            )
        )
    return answers


def _kept(lm: LM, where: Sequence[range]) -> Sequence[int]:
    """Positions whose logits the model gives: a range if they are the last."""
    longest = max(positions.stop for positions in where)
    if not lm.keeps_logits:
        return range(longest)
    asked = sorted(set().union(*where))
    # accelerate moves positions to the first device of a model that is spread, but hidden states are on the last
    spread = len(set(getattr(lm.model, "hf_device_map", {}).values())) > 1
    return range(asked[0], longest) if spread else asked


def _room(lm: LM, item: Window) -> bool:
    """Whether the completion can be scored whole."""
    positions = len(item.ids) + len(item.completion) - 1
    return len(item.completion) <= LONGEST_SPAN and (lm.max_length is None or positions <= lm.max_length)


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
        answers = answer(lm, [window_of(lm, one, length) for one in batch], spans=True)
        for prompt, said in zip(batch, answers, strict=True):
            done.append(replace(prompt, outcome=said.outcome, answer=said))
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
) -> tuple[list[Prompt], dict[str, Any]]:
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
    stopped = Event()
    drawn = candidates(
        files,
        config,
        tokenizer=lm.backend_tokenizer,
        rejected=rejected,
        wants=lambda task: not stopped.is_set() and quota.wants(task) and tried[task] < limit,
    )

    def build() -> list[tuple[Prompt, Window]]:
        return [(prompt, window_of(lm, prompt, config.length)) for prompt in islice(drawn, _WIDTH)]

    accepted: list[Prompt] = []
    with ThreadPoolExecutor(1, "prompts") as builder, ExitStack() as leaving:
        leaving.callback(stopped.set)  # else a Ctrl-C, or a model that fails, waits for a batch: perhaps for all files
        following = builder.submit(build)
        while batch := following.result():
            # The next batch is built while the model answers this one. It is done before this one counts, so that what
            # it draws does not depend on which of the two was faster.
            following = builder.submit(build)
            answers = answer(lm, [window for _, window in batch], spans=True)
            wait([following])
            for (prompt, _), said in zip(batch, answers, strict=True):
                tried[prompt.task] += 1
                asked = replace(prompt, outcome=said.outcome, answer=said)
                if quota.offer(asked):
                    accepted.append(asked)
                    if advance:
                        advance(note=prompt.task)
                else:
                    rejected[f"surplus_{said.outcome}"] += 1
    if not accepted:
        any_ = ", or set outcome to 'any', which takes what comes" if config.outcome != "any" else ""
        raise SourceError(
            f"expected prompts from {len(files)} files, found none ({said_of(rejected)}); give other source files{any_}"
        )
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
                kind = "correct prompts" if config.outcome == "correct" else "prompts"
                lines.append(f"{task}: {count} of {config.per_task} {kind} found")
            continue
        short = [f"{found[task, o]} of {n} {o}" for o, n in wanted.items() if found[task, o] < n]
        if short:
            lines.append(f"{task}: {', '.join(short)} found")
    return lines
