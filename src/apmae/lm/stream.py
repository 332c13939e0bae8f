"""The stream LM -> tap: prompts in, patterns and answers out, one batch at a time; nothing is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from apmae.config import CaptureConfig
from apmae.lm.declared import context_of
from apmae.lm.language_model import LM
from apmae.lm.outcome import read, window_of
from apmae.lm.tap import capture
from apmae.patterns.patterns import Patterns
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer, Prompt


@dataclass(frozen=True, slots=True)
class Captured:
    """One batch of prompts."""

    prompts: Sequence[Prompt]
    windows: Sequence[Window]
    answers: Sequence[Answer | None]
    """None where the model answers nothing (``LM.answers``), or nothing is asked."""
    patterns: Patterns
    """``prompt`` counts from ``first`` over the prompts given to :func:`capture_prompts`."""


def window_length(lm: LM, size: int, context: int | None) -> int:
    """As :func:`context_of`, for a model that is loaded."""
    return context_of(lm.max_length, size, context)


def capture_prompts(
    lm: LM,
    prompts: Sequence[Prompt],
    config: CaptureConfig,
    *,
    size: int,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Iterator[Captured]:
    """Run prompts through the model and capture their patterns.

    Args:
        lm: the model.
        prompts: any number.
        config: which heads, the window, prompts per forward.
        size: rows of a pattern, at most.
        seed: decides the draw of heads.
        first: number of the first prompt; the draw of heads depends on it, so that a resumed run draws the same.
        dtype: of the log patterns.

    Raises:
        CaptureError: if the model has no positions for the window.
    """
    length = window_length(lm, size, config.context)
    for start in range(0, len(prompts), config.batch):
        chunk = prompts[start : start + config.batch]
        windows = [window_of(lm, prompt, length) for prompt in chunk]
        yield capture_batch(lm, chunk, windows, config, size=size, seed=seed, first=first + start, dtype=dtype)


def capture_batch(
    lm: LM,
    prompts: Sequence[Prompt],
    windows: Sequence[Window],
    config: CaptureConfig,
    *,
    size: int,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Captured:
    """One forward: the patterns and answers of prompts whose windows are known.

    Args:
        lm: the model.
        prompts: those of one forward.
        windows: what the model sees of each.
        config: which heads, the window.
        size: rows of a pattern, at most.
        seed: decides the draw of heads.
        first: number of the first prompt.
        dtype: of the log patterns.
    """
    limit: dict[str, Any] = {config.long: size} if window_length(lm, size, config.context) > size else {}
    with capture(lm.model, heads=config.heads, seed=seed, dtype=dtype, first_prompt=first, **limit) as tap:
        answers = read(lm, windows)
    return Captured(prompts, windows, answers, tap.patterns)
