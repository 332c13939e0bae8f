"""Windows of encoders: the whole text around the completion, with a mask in place of each of its tokens. Torch-free.

An encoder was trained to fill in tokens of whole texts. So prefix, completion and suffix are tokenised together, and
the completion's tokens are masked. Only if a border of the completion lies inside a token are the three tokenised
separately, as for decoders.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from apmae.errors import ConfigError, SourceError
from apmae.prompts.fim import CHARS_PER_TOKEN, SPARE, Window, check_plain, encoded, head, tail
from apmae.prompts.sentinels import Masks

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Pieces(NamedTuple):
    """Token ids of a text, by the part of the prompt that they belong to."""

    left: list[int]
    completion: list[int]
    right: list[int]


def masked_window(
    tokenizer: "Tokenizer",
    prefix: str,
    completion: str,
    suffix: str | None,
    *,
    length: int,
    masks: Masks,
    accepted: Sequence[str] = (),
) -> Window:
    """Cut a prompt to the window of an encoder.

    The two contexts share what special tokens and masks leave of the window, by the rule of
    :func:`apmae.prompts.fim.window`. At most half of the window is masked: of a longer completion the first tokens have
    masks, the others are left out.

    Args:
        tokenizer: the model's.
        prefix: text before the completion.
        completion: the text expected.
        suffix: text after the completion; None where the prompt has no right context.
        length: most tokens of the window, special tokens and masks included.
        masks: the model's.
        accepted: other completions that are right.

    Raises:
        ConfigError: if the window has no room for context, or the tokenizer truncates or pads.
        SourceError: if the completion has no token, or there is no context.
    """
    check_plain(tokenizer)
    room = length - len(masks)
    if room < 2:
        raise ConfigError(f"expected a window with room for context, got {length} tokens: take a larger length")
    left, answer, right = _pieces(tokenizer, prefix, completion, suffix or "", room)
    if not answer:
        raise SourceError(f"expected a completion of at least one token, got {completion[:40]!r}; give another")
    if not left and not right:
        raise SourceError("expected a prompt of at least one token, got none; give text around the completion")
    hidden = min(len(answer), room // 2)
    budget = room - hidden
    right = right[: budget - len(left) if len(left) <= budget // 2 else budget // 2]
    left = left[max(len(left) - (budget - len(right)), 0) :]
    first = len(masks.before) + len(left)
    others = [_pieces(tokenizer, prefix, other, suffix or "", room).completion for other in accepted]
    return Window(
        ids=tuple(masks.arrange(left, hidden, right)),
        completion=tuple(answer),
        text=completion,
        accepted=tuple(tuple(other) for other in others if other),
        masks=range(first, first + hidden),
        prefix=range(len(masks.before), first),
        suffix=range(first + hidden, first + hidden + len(right)),
        tokenizer=tokenizer,
    )


def whole_window(tokenizer: "Tokenizer", text: str, *, length: int, masks: Masks) -> Window:
    """The window of an encoder that reads a text without a gap: its first tokens, and nothing is asked.

    Args:
        tokenizer: the model's.
        text: the text.
        length: most tokens of the window, special tokens included.
        masks: the model's.

    Raises:
        ConfigError: if the tokenizer truncates or pads.
        SourceError: if the text has no token.
    """
    check_plain(tokenizer)
    ids = encoded(tokenizer, text, inner=False)[: max(length - len(masks), 0)]
    if not ids:
        raise SourceError("expected a text of at least one token, got none; give text")
    prefix = range(len(masks.before), len(masks.before) + len(ids))
    return Window(tuple(masks.arrange(ids, 0, ())), (), "", prefix=prefix, tokenizer=tokenizer)


def _pieces(tokenizer: "Tokenizer", prefix: str, completion: str, suffix: str, count: int) -> Pieces:
    """The completion's tokens, and of each context at least ``count`` tokens nearest to it, or all that there are."""
    limit = CHARS_PER_TOKEN * count
    while True:
        before, after = tail(prefix, limit), head(suffix, limit)
        pieces = _together(tokenizer, before, completion, after) or Pieces(
            encoded(tokenizer, before, inner=False),
            encoded(tokenizer, completion, inner=True),
            encoded(tokenizer, after, inner=True),
        )
        enough = count + SPARE
        if (len(before) == len(prefix) or len(pieces.left) >= enough) and (
            len(after) == len(suffix) or len(pieces.right) >= enough
        ):
            return pieces
        limit *= 2


def _together(tokenizer: "Tokenizer", before: str, completion: str, after: str) -> Pieces | None:
    """The tokens of the joint text by the part that holds their characters; None if one is in two parts.

    Blanks do not count: a token that begins with the space before it belongs to the part of its word.
    """
    text = before + completion + after
    start, stop = len(before), len(before) + len(completion)
    whole = tokenizer.encode(text, add_special_tokens=False)
    pieces = Pieces([], [], [])
    for token, (first, last) in zip(whole.ids, whole.offsets, strict=True):
        inside = text[first:last]
        if inside.strip():
            first, last = first + len(inside) - len(inside.lstrip()), last - len(inside) + len(inside.rstrip())
        if last <= start:
            pieces.left.append(token)
        elif first >= stop:
            pieces.right.append(token)
        elif first >= start and last <= stop:
            pieces.completion.append(token)
        else:
            return None
    return pieces
