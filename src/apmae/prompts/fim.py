"""Windows of tokens: fill-in-the-middle order where the model has sentinels, left context elsewhere. Torch-free.

Prefix, completion and suffix are each tokenised separately, so that no token crosses the border of the span: the first
token of the completion is separate, and the model can get it right or wrong. Without infill, blanks that the
tokenizer joins to what follows them go with the completion (:func:`joined`): most vocabularies hold words with the
space before them, and after a separate space no such word can be expected. A model that infills was trained on
texts cut anywhere, so its prefix is left as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers.decoders import WordPiece

from apmae.errors import ConfigError, SourceError
from apmae.prompts.sentinels import Sentinels

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARS_PER_TOKEN = 5
"""Characters of context tokenised for each token of the window at first; source code has 3 to 4 per token."""

SPARE = 16
"""Tokens at a cut that are thrown away: there the tokens of a piece can differ from those of the whole text."""

_BLANKS = 128
"""Most blanks that one token holds, with something to spare."""

_ANCHOR = "\u263a"


@dataclass(frozen=True)
class Window:
    """What a model sees of one prompt."""

    ids: tuple[int, ...]
    """Token ids, sentinels included."""
    completion: tuple[int, ...]
    """Ids of the completion's tokens: at least one, but for an encoder that reads a text without a gap."""
    text: str
    """The completion, with the blanks that were taken from the prefix (:func:`joined`)."""
    accepted: tuple[tuple[int, ...], ...] = ()
    """Ids of the tokens of each other completion that is right."""
    masks: range = range(0)
    """Where an encoder's masks are, one for each of the completion's first tokens. A decoder has none: its answer comes
    after the window."""
    prefix: range = range(0)
    """Where the tokens of the left context are."""
    suffix: range = range(0)
    """Where the tokens of the right context are; empty where the model sees none."""
    tokenizer: "Tokenizer | None" = field(default=None, repr=False, compare=False)
    """Whose tokens they are, for display."""

    @property
    def sentinels(self) -> tuple[range, ...]:
        """Where tokens are that are neither context nor mask, in runs: a first token, sentinels, an encoder's special
        tokens.
        """
        known = {*self.prefix, *self.suffix, *self.masks}
        runs: list[range] = []
        for place in range(len(self.ids)):
            if place not in known:
                start = runs.pop().start if runs and runs[-1].stop == place else place
                runs.append(range(start, place + 1))
        return tuple(runs)

    @property
    def position(self) -> int:
        """The token at which the model says what comes next: the last one; of an encoder its first mask."""
        return self.masks.start if self.masks else len(self.ids) - 1

    @property
    def last(self) -> int | None:
        """Id of the last token of the left context; None if it is empty."""
        return self.ids[self.prefix[-1]] if self.prefix else None

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The window's tokens for display."""
        return self.texts(self.ids)

    def texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token decoded alone, see :func:`token_texts`."""
        assert self.tokenizer is not None, "a window that is shown was made by window()"
        return token_texts(self.tokenizer, ids)

    def text_of(self, ids: Sequence[int]) -> str:
        """Tokens as one text."""
        assert self.tokenizer is not None, "a window that is judged was made by window()"
        return _decoded(self.tokenizer, ids)

    @cached_property
    def right_texts(self) -> tuple[str, ...]:
        """The completion and the accepted ones, as their tokens spell them: a tokenizer may compose characters."""
        return tuple(self.text_of(ids) for ids in (self.completion, *self.accepted))

    @property
    def expected(self) -> int:
        """Id of the completion's first token."""
        return self.completion[0]


def window(
    tokenizer: "Tokenizer",
    prefix: str,
    completion: str,
    suffix: str | None,
    *,
    length: int,
    sentinels: Sentinels | None,
    bos: int | None = None,
    accepted: Sequence[str] = (),
) -> Window:
    """Cut a prompt to a window of tokens.

    The rule is the published one (DESIGN section 5), for what the sentinels leave of the window. The left context is
    kept whole if it fits into half of that, and the right context fills the rest. Otherwise the right context gets at
    most half, and the last tokens of the left context get what remains. Only as much text is tokenised as the window
    can hold.

    Args:
        tokenizer: the model's.
        prefix: text before the completion.
        completion: the text expected.
        suffix: text after the completion; None where the prompt has no right context.
        length: most tokens of the window, sentinels included.
        sentinels: the model's; without them the suffix is not used.
        bos: a token to put first, for models that want one.
        accepted: other completions that are right.

    Raises:
        ConfigError: if the window has no room for context, or the tokenizer truncates or pads.
        SourceError: if the completion has no token, or the window would have none.
    """
    check_plain(tokenizer)
    first = [] if bos is None else [bos]
    infill = None if sentinels is None or suffix is None else (sentinels, suffix)
    budget = length - len(first) - (0 if infill is None else len(infill[0]))
    if budget < 1:
        raise ConfigError(f"expected a window with room for context, got {length} tokens: take a larger length")
    if infill is None:
        prefix, blanks = joined(tokenizer, prefix, completion)
        completion, accepted = blanks + completion, [blanks + other for other in accepted]
    answer = encoded(tokenizer, completion, inner=True)
    if not answer:
        raise SourceError(f"expected a completion of at least one token, got {completion[:40]!r}; give another")
    if infill is None:
        ids = [*first, *_last_tokens(tokenizer, prefix, budget)]
        places = range(len(first), len(ids)), range(0)
    else:
        marks, after = infill
        half = budget // 2
        left = _last_tokens(tokenizer, prefix, budget - half + 1)
        right = _first_tokens(tokenizer, after, budget - len(left) if len(left) <= half else half)
        if len(left) > half:
            room = budget - len(right)
            left = left[-room:] if len(right) == half else _last_tokens(tokenizer, prefix, room)
        ids = [*first, *marks.arrange(left, right)]
        places = marks.places(len(left), len(right), len(first))
    if not ids:
        raise SourceError("expected a prompt of at least one token, got none; give text before the completion")
    others = [tuple(encoded(tokenizer, other, inner=True)) for other in accepted]
    return Window(
        ids=tuple(ids),
        completion=tuple(answer),
        text=completion,
        accepted=tuple(other for other in others if other),
        prefix=places[0],
        suffix=places[1],
        tokenizer=tokenizer,
    )


def joined(tokenizer: "Tokenizer", prefix: str, completion: str) -> tuple[str, str]:
    """A prefix without the blanks at its end that the tokenizer joins to the completion, and those blanks.

    They begin at the last border of tokens of the joint text that is no later than the completion and has nothing but
    blanks after it. So ``x `` before ``=`` gives its space to `` =``, but not before ``5`` where digits stand alone.
    """
    blanks = min(len(prefix) - len(prefix.rstrip()), _BLANKS)
    if not blanks:
        return prefix, ""
    piece = tail(prefix, blanks + SPARE * CHARS_PER_TOKEN)
    following = head(completion, SPARE * CHARS_PER_TOKEN)
    whole = encoded(tokenizer, piece + following, inner=False)
    for count in range(min(blanks, len(piece) - 1) + 1):  # a window needs a token to its left
        cut = len(piece) - count
        left = encoded(tokenizer, piece[:cut], inner=False)
        if left + encoded(tokenizer, piece[cut:] + following, inner=True) == whole:
            return prefix[: len(prefix) - count], prefix[len(prefix) - count :]
    return prefix, ""


def check_plain(tokenizer: "Tokenizer") -> None:
    """Refuse a tokenizer that truncates or pads: contexts would silently lose their end.

    Raises:
        ConfigError: if truncation or padding is on, as a call of a transformers tokenizer can leave it.
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        raise ConfigError(
            "expected a tokenizer that neither truncates nor pads, got one that does: "
            "call its no_truncation() and no_padding(), on a copy if others use it"
        )


def tail(text: str, limit: int) -> str:
    """The end of a text, at most ``limit`` characters, cut at a line start if that keeps half of them."""
    if len(text) <= limit:
        return text
    cut = len(text) - limit
    line_start = text.find("\n", cut - 1, cut + limit // 2) + 1
    return text[line_start or cut :]


def head(text: str, limit: int) -> str:
    """The start of a text, at most ``limit`` characters, cut at a line end if that keeps half of them."""
    if len(text) <= limit:
        return text
    line_end = text.rfind("\n", limit // 2, limit) + 1
    return text[: line_end or limit]


def _last_tokens(tokenizer: "Tokenizer", text: str, count: int) -> list[int]:
    return _bounded(tokenizer, text, count, tail)[-count:]


def _first_tokens(tokenizer: "Tokenizer", text: str, count: int) -> list[int]:
    return _bounded(tokenizer, text, count, head)[:count] if count else []


def _bounded(tokenizer: "Tokenizer", text: str, count: int, cut: Callable[[str, int], str]) -> list[int]:
    """Tokens of a piece of a text that holds at least ``count`` and some to spare, or of the whole text."""
    limit = CHARS_PER_TOKEN * count
    while True:
        piece = cut(text, limit)
        whole = len(piece) == len(text)
        # the left context opens the model's input, as the tokenizer expects of a text; a right context does not
        ids = encoded(tokenizer, piece, inner=cut is head)
        if whole or len(ids) >= count + SPARE:
            return ids
        limit *= 2


def encoded(tokenizer: "Tokenizer", text: str, *, inner: bool) -> list[int]:
    """Tokens of a text; ``inner``: as it would be tokenised after other text.

    Tokenizers of the Llama kind put a space before every text. After a prefix that space would be a wrong token: the
    first expected token of ``foo`` would be that of `` foo``. An anchor takes the space and is cut off again.
    """
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not inner or not text:
        return ids
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False).ids
    anchored = tokenizer.encode(_ANCHOR + "a", add_special_tokens=False).ids
    if anchored == anchor + tokenizer.encode("a", add_special_tokens=False).ids:
        return ids
    anchored = tokenizer.encode(_ANCHOR + text, add_special_tokens=False).ids
    return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else ids


def token_texts(tokenizer: "Tokenizer", ids: Sequence[int]) -> tuple[str, ...]:
    """Each token decoded alone, special tokens too, for display.

    WordPiece marks tokens that do not begin a word; here those that do have a space instead, as in other vocabularies.
    """
    texts = tuple(_decoded(tokenizer, [token]) for token in ids)
    if not isinstance(tokenizer.decoder, WordPiece):
        return texts
    mark = tokenizer.decoder.prefix
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return tuple(
        text if token in special else text.removeprefix(mark) if text.startswith(mark) else f" {text}"
        for token, text in zip(ids, texts, strict=True)
    )


def _decoded(tokenizer: "Tokenizer", ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False)
    # decoders of the Llama kind strip the space of a first token
    spaced = (tokenizer.id_to_token(ids[0]) or "").startswith("\u2581") and not text.startswith((" ", "\u2581"))
    return f" {text}" if spaced else text
