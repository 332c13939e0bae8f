"""Reach: how the rows of a pattern stand for the tokens of its prompt, and what the rows are called.

A prompt that is longer than the patterns are wide is pooled or cropped; a shorter one always has one row a token.

Rows are counted by prompt, not by pattern, and kept only where they no longer follow from size and length: for a pooled
prompt that was resized. Two parts that know different things about one prompt number are refused, not merged, because
labels would be another prompt's. A training stream drops the texts first: captures that each count from 0 are common.
Its crop empties rows of single patterns and leaves labels alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import CaptureError

REACHES = ("whole", "pool", "crop")
"""whole: one row a token; pool: each row stands for a block of tokens; crop: the last tokens only, renormalised."""


def block_edges(length: int, rows: int) -> Int[ndarray, " e"]:
    """(rows + 1,) int64: row i of a pooled pattern stands for tokens ``edges[i]`` to ``edges[i + 1] - 1``.

    Blocks differ by at most one token; with ``length == rows`` each is one token.
    """
    return np.arange(rows + 1, dtype=np.int64) * length // rows


def row_labels(length: int, rows: int, reach: str, tokens: Sequence[str] | None) -> list[str]:
    """(rows,) what each row of a prompt is called: its token or block of tokens, by position where no text is known.

    Args:
        length: tokens of the prompt, at least ``rows``.
        rows: rows that stand for them.
        reach: one of ``REACHES``.
        tokens: (length,) the prompt's tokens.
    """
    dash, names = ("–", [str(position) for position in range(length)]) if tokens is None else (" … ", list(tokens))
    if reach != "pool" or rows == length:
        return names[length - rows :]
    edges = block_edges(length, rows).tolist()
    return [
        names[begin] if end - begin == 1 else f"{names[begin]}{dash}{names[end - 1]}"
        for begin, end in zip(edges[:-1], edges[1:], strict=True)
    ]


def one_prompt(prompts: Int[ndarray, " n"], wanted: int | None) -> int:
    """The number of the prompt that is meant; None means the only one.

    Raises:
        CaptureError: if there is no such prompt, or several and none is named.
    """
    found = np.unique(prompts)
    if wanted is None and len(found) == 1:
        return int(found[0])
    if wanted is None or wanted not in found:
        few = ", ".join(map(str, found[:8])) + (f", ... ({len(found)} in all)" if len(found) > 8 else "")
        raise CaptureError(f"expected one of the prompts {few or '(there is none)'}, got {wanted}; give its number")
    return wanted


def known_lengths(
    tokens: Mapping[int, Sequence[str]] | None, lengths: Mapping[int, int] | None
) -> dict[int, int] | None:
    """Tokens of prompts by number, from their texts and lengths; None where neither is known.

    Raises:
        CaptureError: if a prompt's text has another number of tokens than its length.
    """
    if tokens is None and lengths is None:
        return None
    known = {prompt: len(texts) for prompt, texts in (tokens or {}).items()}
    for prompt, length in (lengths or {}).items():
        if known.setdefault(int(prompt), int(length)) != length:
            raise CaptureError(
                f"expected {length} tokens of prompt {prompt}, got {known[prompt]}; give its whole text without padding"
            )
    return known


def check_reach(reach: str, size: int, lengths: Mapping[int, int] | None) -> None:
    """Refuse what cannot be true of patterns of ``size`` rows.

    Raises:
        CaptureError: if the reach is unknown, or a whole prompt has more tokens than there are rows.
    """
    if reach not in REACHES:
        raise CaptureError(f"expected a reach of {', '.join(REACHES)}, got {reach!r}; whole has one row a token")
    longest = max((lengths or {}).values(), default=0)
    if reach == "whole" and longest > size:
        raise CaptureError(
            f"expected prompts of at most {size} tokens, one a row, got one of {longest}; leave padding out, or say "
            "reach='pool' or 'crop' if the patterns were made so"
        )


def known_of(values: Mapping[int, Any] | None, prompts: Iterable[int]) -> dict[int, Any] | None:
    """What is known of some prompts."""
    return None if values is None else {prompt: values[prompt] for prompt in prompts if prompt in values}


def merged(name: str, parts: Sequence[Mapping[int, Any] | None]) -> dict[int, Any] | None:
    """What is known of prompts over all parts; None where nothing is.

    Raises:
        CaptureError: if two parts know different things of one prompt.
    """
    known: dict[int, Any] = {}
    for part in parts:
        for prompt, value in (part or {}).items():
            if known.setdefault(prompt, value) != value:
                raise CaptureError(
                    f"expected one prompt for each number, got different {name} of prompt {prompt}; number the prompts "
                    "of later captures on (first_prompt=)"
                )
    return None if all(part is None for part in parts) else known
