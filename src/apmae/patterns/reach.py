"""Reach: which tokens of a prompt the rows of its patterns represent, and the names of the rows.

A prompt with more tokens than a pattern has rows is pooled or cropped; any other has one row per token.

Row counts are kept per prompt, not per pattern, and only if they do not follow from size and length: for pooled or
cropped prompts that were resized. If two parts say different things about a prompt number, joining them is refused,
because labels could be those of another prompt. Training streams drop the texts first, because several captures that
each count from 0 are common there. Their random crops empty rows of single patterns and do not change labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from apmae.errors import CaptureError

REACHES = ("whole", "pool", "crop")
"""whole: one row per token; pool: one row per block of tokens; crop: rows for the last tokens only, renormalised."""


def block_edges(length: int, rows: int) -> Int[ndarray, " e"]:
    """(rows + 1,) int64: row i of a pooled pattern represents tokens ``edges[i]`` to ``edges[i + 1] - 1``.

    Block lengths differ by at most one token; with ``length == rows`` each block is one token.
    """
    return np.arange(rows + 1, dtype=np.int64) * length // rows


def row_labels(length: int, rows: int, reach: str, tokens: Sequence[str] | None) -> list[str]:
    """(rows,) names of a prompt's rows: the token or block of tokens, or its position if the text is unknown.

    Args:
        length: tokens of the prompt, at least ``rows``.
        rows: rows that represent them.
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
    """The number of the wanted prompt; None means the only one.

    Raises:
        CaptureError: if there is no such prompt, or there are several and ``wanted`` is None.
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
    """Numbers of tokens by prompt, from the texts and the lengths; None if both are unknown.

    Raises:
        CaptureError: if a prompt's text does not have as many tokens as its length says.
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
    """Refuse a reach or lengths that are impossible with ``size`` rows.

    Raises:
        CaptureError: if the reach is unknown, or a whole prompt has more tokens than there are rows.
    """
    if reach not in REACHES:
        raise CaptureError(f"expected a reach of {', '.join(REACHES)}, got {reach!r}; whole has one row a token")
    longest = max((lengths or {}).values(), default=0)
    if reach == "whole" and longest > size:
        raise CaptureError(
            f"expected prompts of at most {size} tokens, one per row, got one of {longest}; leave padding out, or say "
            "reach='pool' or 'crop' if the patterns were made that way"
        )


def known_of(values: Mapping[int, Any] | None, prompts: Iterable[int]) -> dict[int, Any] | None:
    """The values of some prompts, where they are known."""
    return None if values is None else {prompt: values[prompt] for prompt in prompts if prompt in values}


def merged(name: str, parts: Sequence[Mapping[int, Any] | None]) -> dict[int, Any] | None:
    """The values of all parts together, by prompt number; None if no part has any.

    Raises:
        CaptureError: if two parts have different values for a prompt number.
    """
    known: dict[int, Any] = {}
    for part in parts:
        for prompt, value in (part or {}).items():
            if known.setdefault(prompt, value) != value:
                raise CaptureError(
                    f"expected a different number for each prompt, got different {name} of prompt {prompt}; continue "
                    "the numbers in later captures (first_prompt=)"
                )
    return None if all(part is None for part in parts) else known
