"""What can be known of an answer without attention: probabilities, length, token statistics, copies in the context.

Axes: n prompts, c columns, t tasks, v tokens.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers, Seen
from apmae.analyze.folds import folds_of

PRIOR = 5.0
"""Prompts that a token is taken to have been seen in before, correct as often as all."""
_EDGE = 1e-6


def surface(seen: Seen) -> dict[str, Float[ndarray, "n c"]]:
    """The features without attention that are the same whatever is fitted, by name."""
    return {
        "max_probability": seen.max_probability[:, None],
        "entropy": seen.entropy[:, None],
        "margin": seen.margin[:, None],
        "length": np.log([[len(tokens)] for tokens in seen.tokens]),
        "context": copies(seen),
    }


def sureness(seen: Seen) -> Float[ndarray, "n 4"]:
    """Max-probability, its log-odds, entropy and margin."""
    p = np.clip(seen.max_probability, _EDGE, 1 - _EDGE)
    return np.stack([seen.max_probability, np.log(p / (1 - p)), seen.entropy, seen.margin], axis=1)


class TaskTerms(NamedTuple):
    """Makes features, which task it is, and both multiplied; values are centred first, so that products are not the
    task.
    """

    mean: Float[ndarray, " c"]
    spread: Float[ndarray, " c"]
    tasks: int

    def of(self, values: Float[ndarray, "n c"], task: Int[ndarray, " n"]) -> Float[ndarray, "n c2"]:
        """Columns of prompts; a task that is not among those known (-1) has no terms."""
        which = (task[:, None] == np.arange(self.tasks)).astype(np.float64)
        products = (((values - self.mean) / self.spread)[:, :, None] * which[:, None, :]).reshape(len(values), -1)
        return np.concatenate([values, which, products], axis=1)


def task_terms(values: Float[ndarray, "n c"], fit: Bool[ndarray, " n"], tasks: int) -> TaskTerms:
    """Terms centred by the prompts that are fitted."""
    return TaskTerms(np.nanmean(values[fit], axis=0), np.maximum(np.nanstd(values[fit], axis=0), 1e-9), tasks)


def copies(seen: Seen) -> Float[ndarray, "n 5"]:
    """Log counts of tokens in the window that are the predicted one, that follow a copy of the prefix's last token, and
    both; the share of the window that is prefix; its log length.
    """
    rows = []
    for tokens, predicted, (begin, end) in zip(seen.tokens, seen.predicted, seen.prefix, strict=True):
        last = tokens[end - 1] if end > begin else None
        same = [token == predicted for token in tokens]
        after = [False, *(token == last for token in tokens[:-1])]
        both = sum(one and other for one, other in zip(same, after, strict=True))
        rows.append([*np.log1p([sum(same), sum(after), both]), (end - begin) / len(tokens), np.log(len(tokens))])
    return np.array(rows, np.float64).reshape(-1, 5)


class TokenCounts(NamedTuple):
    """How often each token was answered, and how often that was correct."""

    seen: Float[ndarray, " v"]
    right: Float[ndarray, " v"]
    rate: float
    """Share of all that is correct."""

    def of(self, token: Int[ndarray, " n"], scale: float = 1.0) -> Float[ndarray, "n 2"]:
        """How much likelier an answer is correct with its token than with any, in log-odds; its log count.

        The rate of all tokens is taken off, because the rate of other prompts says something of the own ones.

        Args:
            token: numbers; one that was not seen, or -1, has 0 and 0.
            scale: of counts.
        """
        prior = PRIOR * self.rate, PRIOR * (1 - self.rate)
        odds = np.log((self.right + prior[0]) / (self.seen - self.right + prior[1])) - np.log(prior[0] / prior[1])
        odds[self.seen == 0] = 0.0  # exactly: rounding would tell parts apart
        return np.stack([np.append(odds, 0.0), np.append(np.log1p(self.seen * scale), 0.0)], axis=1)[token]


def count_tokens(token: Int[ndarray, " n"], correct: Bool[ndarray, " n"], values: int) -> TokenCounts:
    """Counts of ``values`` tokens, numbered from 0."""
    rate = (correct.sum() + 0.5) / (len(correct) + 1)
    return TokenCounts(np.bincount(token, minlength=values), np.bincount(token, correct, values), float(rate))


def token_statistics(
    token: Int[ndarray, " n"],
    correct: Bool[ndarray, " n"],
    fit: Int[ndarray, " n"],
) -> Float[ndarray, "n 2"]:
    """What :class:`TokenCounts` says of each prompt by the fitting prompts of other parts only.

    So nothing is known of a prompt from itself or from its file.

    Args:
        token: the predicted token, as a number from 0.
        correct: the outcome.
        fit: part of each prompt of the fitting split, from 0; -1 if it is to be predicted.
    """
    values = int(token.max(initial=-1)) + 1
    found = np.zeros((len(token), 2))
    known = fit >= 0
    for part in np.unique(fit):
        used, own = known & (fit != part), fit == part
        counts = count_tokens(token[used], correct[used], values)
        found[own] = counts.of(token[own], known.sum() / max(int(used.sum()), 1))
    return found


def statistics_of(answers: Answers, parts: int, seed: int) -> Callable[[Bool[ndarray, " n"]], Float[ndarray, "n 2"]]:
    """:func:`token_statistics` of answers, as a function of what is fitted."""
    token = number_tokens(answers.seen.predicted)[1]
    part = folds_of(answers.group, np.zeros(len(token), np.int64), parts, seed, "token parts")
    return lambda fit: token_statistics(token, answers.correct, np.where(fit, part, -1))


def number_tokens(texts: tuple[str, ...]) -> tuple[list[str], Int[ndarray, " n"]]:
    """The different tokens in the order of the alphabet, and the number of each."""
    found, token = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return found.tolist(), token.astype(np.int64)


def side_by_side(
    names: tuple[str, ...],
    same: Mapping[str, Float[ndarray, "n c"]],
    tokens: Callable[[], Float[ndarray, "n 2"]],
    probabilities: Callable[[], Float[ndarray, "n c"]],
) -> Float[ndarray, "n c"]:
    """The columns of some features; those that depend on what is fitted are made if they are among them."""
    made = {"tokens": tokens, "probabilities": probabilities}
    return np.concatenate([made[name]() if name in made else same[name] for name in names], axis=1)


class Plain:
    """The columns without attention of a study's prompts, by what is fitted."""

    def __init__(self, answers: Answers, parts: int, seed: int) -> None:
        """Make those that are the same whatever is fitted.

        Args:
            answers: the prompts.
            parts: of the fitting files, for token statistics.
            seed: for those parts.
        """
        self._same = surface(answers.seen)
        self._sure = sureness(answers.seen)
        self._tokens = statistics_of(answers, parts, seed)
        self._task, self._tasks = answers.task, len(answers.tasks)

    def columns(self, names: tuple[str, ...], fit: Bool[ndarray, " n"]) -> Float[ndarray, "n c"]:
        """Those of some features, side by side."""
        return side_by_side(
            names, self._same, lambda: self._tokens(fit), lambda: self.terms(fit).of(self._sure, self._task)
        )

    def terms(self, fit: Bool[ndarray, " n"]) -> TaskTerms:
        """The task terms of what is fitted."""
        return task_terms(self._sure, fit, self._tasks)
