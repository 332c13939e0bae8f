"""What can be known of an answer without attention: probabilities, length, token statistics, copies in the context.

Axes: n prompts, c columns, t tasks.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers
from apmae.analyze.folds import folds_of

PRIOR = 5.0
"""Prompts that a token is taken to have been seen in before, correct as often as all."""
_EDGE = 1e-6


def surface(answers: Answers) -> dict[str, Float[ndarray, "n c"]]:
    """The features without attention that are the same whatever is fitted, by name."""
    p = np.clip(answers.max_probability, _EDGE, 1 - _EDGE)
    own = np.stack([answers.max_probability, np.log(p / (1 - p)), answers.entropy, answers.margin], axis=1)
    length = np.log([[len(tokens)] for tokens in answers.tokens])
    return {
        "max_probability": own[:, :1],
        "entropy": own[:, 2:3],
        "margin": own[:, 3:4],
        "length": length,
        "probabilities": by_task(own, answers.task, len(answers.tasks)),
        "context": copies(answers),
    }


def by_task(values: Float[ndarray, "n c"], task: Int[ndarray, " n"], tasks: int) -> Float[ndarray, "n c2"]:
    """Features, which task it is, and both multiplied; values are centred first, so that products are not the task."""
    which = np.eye(tasks)[task]
    centred = (values - np.nanmean(values, axis=0)) / np.maximum(np.nanstd(values, axis=0), 1e-9)
    products = (centred[:, :, None] * which[:, None, :]).reshape(len(values), -1)
    return np.concatenate([values, which, products], axis=1)


def copies(answers: Answers) -> Float[ndarray, "n 5"]:
    """Log counts of tokens in the window that are the predicted one, that follow a copy of the prefix's last token, and
    both; the share of the window that is prefix; its log length.
    """
    rows = []
    for tokens, predicted, (begin, end) in zip(answers.tokens, answers.predicted, answers.prefix, strict=True):
        last = tokens[end - 1] if end > begin else None
        same = [token == predicted for token in tokens]
        after = [False, *(token == last for token in tokens[:-1])]
        both = sum(one and other for one, other in zip(same, after, strict=True))
        rows.append([*np.log1p([sum(same), sum(after), both]), (end - begin) / len(tokens), np.log(len(tokens))])
    return np.array(rows, np.float64).reshape(-1, 5)


def token_statistics(
    token: Int[ndarray, " n"],
    correct: Bool[ndarray, " n"],
    fit: Int[ndarray, " n"],
) -> Float[ndarray, "n 2"]:
    """How much likelier an answer is correct with its predicted token than with any, in log-odds; its log count.

    Both are of the fitting prompts of other parts only, so nothing is known of a prompt from itself or from its file. A
    token that was not seen there has 0 and 0. The rate of all tokens is taken off, because the rate of the other parts
    says something of the own part.

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
        seen = np.bincount(token[used], minlength=values)
        right = np.bincount(token[used], correct[used], values)
        rate = (correct[used].sum() + 0.5) / (used.sum() + 1)
        odds = np.log((right + PRIOR * rate) / (seen - right + PRIOR * (1 - rate))) - np.log(rate / (1 - rate))
        odds[seen == 0] = 0.0  # exactly: rounding would tell parts apart
        scale = known.sum() / max(int(used.sum()), 1)
        found[own] = np.stack([odds, np.log1p(seen * scale)], axis=1)[token[own]]
    return found


def statistics_of(answers: Answers, parts: int, seed: int) -> Callable[[Bool[ndarray, " n"]], Float[ndarray, "n 2"]]:
    """:func:`token_statistics` of answers, as a function of what is fitted."""
    _, token = np.unique(np.array(answers.predicted), return_inverse=True)

    def statistics(fit: Bool[ndarray, " n"]) -> Float[ndarray, "n 2"]:
        part = np.full(len(token), -1)
        part[fit] = folds_of(answers.group[fit], answers.task[fit], parts, seed, "tokens")
        return token_statistics(token, answers.correct, part)

    return statistics
