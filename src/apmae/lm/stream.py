"""The stream LM -> tap: prompts in, patterns and answers out, one batch at a time; nothing is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from apmae.lm.load import LM
from apmae.lm.outcome import answer, window_of
from apmae.lm.tap import Heads, capture
from apmae.patterns.patterns import Patterns
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt


@dataclass(frozen=True, slots=True)
class Captured:
    """One batch of prompts."""

    prompts: Sequence[Prompt]
    windows: Sequence[Window]
    answers: Sequence[Answer]
    patterns: Patterns
    """``prompt`` counts from ``first`` over the prompts given to :func:`capture_prompts`."""


def capture_prompts(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    length: int,
    batch: int,
    size: int | None = None,
    long: str = "pool",
    heads: Heads = "all",
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Iterator[Captured]:
    """Run prompts through the model and capture their patterns.

    Args:
        lm: the model.
        prompts: any number.
        length: most tokens of a prompt, sentinels included.
        batch: prompts a forward.
        size: rows of a pattern at most; by default as many as tokens.
        long: "pool" or "crop": what becomes of prompts of more tokens than that (:func:`apmae.lm.tap.capture`).
        heads: which heads (:func:`apmae.lm.tap.capture`).
        seed: decides the draw of heads.
        first: number of the first prompt; the draw of heads depends on it, so that a resumed run draws the same.
        dtype: of the log patterns.
    """
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        windows = [window_of(lm, prompt, length) for prompt in chunk]
        yield capture_batch(
            lm,
            chunk,
            windows,
            length=length,
            size=size,
            long=long,
            heads=heads,
            seed=seed,
            first=first + start,
            dtype=dtype,
        )


def capture_batch(
    lm: LM,
    prompts: Sequence[Prompt],
    windows: Sequence[Window],
    *,
    length: int,
    size: int | None = None,
    long: str = "pool",
    heads: Heads = "all",
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Captured:
    """One forward: the patterns and answers of prompts whose windows are known.

    Args:
        lm: the model.
        prompts: those of one forward.
        windows: what the model sees of each.
        length: most tokens of a window.
        size: as for :func:`capture_prompts`, and so are the others.
        long: "pool" or "crop".
        heads: which heads.
        seed: decides the draw of heads.
        first: number of the first prompt.
        dtype: of the log patterns.
    """
    limit: dict[str, Any] = {} if size is None or size >= length else {long: size}
    with capture(lm.model, heads=heads, seed=seed, dtype=dtype, first_prompt=first, **limit) as tap:
        answers = answer(lm, windows)
    return Captured(prompts, windows, answers, tap.patterns)
