"""A prompt, what a model answered to it, and which split it belongs to. Torch-free."""

import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from apmae.seeding import unit_hash

SPLITS = {"train": 0.6, "atlas": 0.2, "held_out": 0.2}
"""The splits and their shares of the files: to train an encoder on, to fit an atlas on, and to measure on."""


class Answer(NamedTuple):
    """A model's answer to a prompt: its next-token distribution at the completion position, and the whole span.

    These are the baselines that anything read from attention has to beat.
    """

    predicted: str
    """The most probable token, as text. Where it is blank or ends inside a word, but agrees with the completion so far,
    the greedy tokens after it are added until they disagree or the word ends."""
    correct: bool
    """By the rule that was asked for (``config.LMConfig.outcome_rule``): one of the next two."""
    text_correct: bool
    """Whether ``predicted`` continues the text as the completion, or an accepted one, does (:func:`continues`)."""
    token_correct: bool
    """Whether the most probable token is the first token of the completion, or of an accepted one (paper section 5)."""
    max_probability: float
    expected_probability: float
    """Of the completion's first token."""
    margin: float
    """Probability of the most probable token less that of the second, 0 to 1."""
    entropy: float
    """In nats."""
    log_probability: float | None = None
    """Of the whole completion, in nats: the sum over its tokens, each given the expected ones. None where the
    completion was not asked for, is longer than ``lm.outcome.LONGEST_SPAN`` tokens or the model has no positions."""
    exact: bool | None = None
    """Whether greedy decoding gives the completion, token by token. None as for ``log_probability``."""
    predicted_id: int | None = None
    """Id of the most probable token. Tables hold texts, so it is None where an answer was read from one, as are the
    next two."""
    second_id: int | None = None
    """Id of the token that is most probable after it."""
    expected_id: int | None = None
    """Id of the completion's first token."""

    @property
    def outcome(self) -> str:
        """By ``correct``: "correct" or "incorrect"."""
        return "correct" if self.correct else "incorrect"


_LEXEME = re.compile(r"\d\w*(?:\.\d\w*)*(?:(?<=[eEpP])[+-]\d+)?|[\w$]+(?:['\u2019](?:\w{1,2}|ll|re|ve)\b)?")
"""A number with its point and exponent, or an identifier or word with what an apostrophe ties to it (``don't``)."""


def continues(predicted: str, expected: str) -> bool:
    """Whether a predicted text continues a prompt as the expected one does.

    It does if one begins with the other, and the shorter does not end inside an identifier, number or word of the
    longer: ``);`` for ``)``, ``"`` for ``"key"``, but neither ``10`` for ``1`` nor ``get`` for ``getName``. Leading
    blanks are not compared, and blanks alone continue nothing, unless blanks are all that is expected.
    """
    if expected.strip():
        predicted, expected = predicted.lstrip(), expected.lstrip()
    shorter, longer = sorted((predicted, expected), key=len)
    return bool(shorter) and longer.startswith(shorter) and not _inside(longer, len(shorter))


def undecided(predicted: str, expected: str) -> bool:
    """Whether a predicted text agrees with the expected one so far, but is blank or ends inside a word or character."""
    if not expected.strip():
        return False
    whole = predicted.rstrip("\ufffd")  # what tokenizers put for some of the bytes of a character
    begun, expected = whole.lstrip(), expected.lstrip()
    return expected.startswith(begun) and (not begun or whole != predicted or _inside(expected, len(begun)))


def _inside(text: str, at: int) -> bool:
    """Whether a place in a text is inside a lexeme, or between a letter and its accent."""
    if at < len(text) and unicodedata.combining(text[at]):
        return True
    return any(found.start() < at < found.end() for found in _LEXEME.finditer(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A context with one span taken out, the expected completion, and where they came from (``schema.PROMPTS``)."""

    id: str
    task: str
    language: str
    path: str
    repository: str | None = None
    """Folder of the repository that the file is in, the beginning of ``path``; None where none is known."""
    split: str
    """A key of :data:`SPLITS`."""
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
    answer: Answer | None = None
    """What the model that was asked answered."""
    group: str | None = None
    """Shared by prompts that belong together, such as those of one template; None for a single prompt."""
    counterfactual: str | None = None
    """A text to put in place of ``prefix``, after which another completion is right; None where there is none."""
    accepted: tuple[str, ...] = ()
    """Other completions that are right."""
    wrong: tuple[str, ...] = ()
    """Wrong completions that compete with the right ones; if there is a counterfactual, the first is right for it."""


def split_of(unit: str) -> str:
    """Which split a file, or a repository with all its files, belongs to.

    It depends only on the name, not on a seed, so that it is the same in every draw.

    Args:
        unit: the repository's folder, or the file's path where no repository is known.
    """
    place = unit_hash(0, "split", unit)
    for name in ("held_out", "atlas"):
        if place < SPLITS[name]:
            return name
        place -= SPLITS[name]
    return "train"
