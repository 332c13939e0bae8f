"""A fitted predictor, for single lines: the strongest baseline without attention, and when to answer.

Axes: n prompts, c columns, v tokens.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.analyze.answers import Answers, Drawn, Seen, first_token
from apmae.analyze.columns import Columns, Scale, scale_of
from apmae.analyze.fitting import CORE, LOGISTIC, TREES, Choice, choose, model_at, stronger
from apmae.analyze.forest import Forest
from apmae.analyze.prediction import BASELINES, PREDICTOR, Forecasts, parts_of
from apmae.analyze.recalibration import Recalibration, at_rate, recalibration_of
from apmae.analyze.risk import Answering, risk_bounds
from apmae.analyze.sparse_logistic import Line
from apmae.analyze.surface import (
    Plain,
    TaskTerms,
    TokenCounts,
    count_tokens,
    number_tokens,
    side_by_side,
    sureness,
    surface,
)
from apmae.config import PredictConfig


class Verdict(NamedTuple):
    """What is said of a prompt."""

    probability: float
    """Of correct, at the rate at which the model is right on prompts that were not drawn by outcome."""
    bounds: Sequence[Answering]
    """Thresholds of that probability, with what was measured on prompts like this one."""


class Predictor(NamedTuple):
    """Predicts outcomes from what is known when a prompt is answered."""

    features: str
    """A key of ``prediction.BASELINES``."""
    tasks: tuple[str, ...]
    terms: TaskTerms
    scale: Scale
    model: Line | Forest
    recalibration: Recalibration
    other_tasks: Recalibration | None
    """Of tasks that are not among those known; None if none could be left out."""
    tokens: tuple[str, ...]
    counts: TokenCounts
    vocabulary: frozenset[str]
    """Tokens that answers are cut to (``answers.first_token``)."""
    share: float
    """Of the fitted prompts that is correct."""
    natural: float | None
    """Share of all that was asked; None if it cannot be told."""
    bounds: tuple[Answering, ...]
    other_bounds: tuple[Answering, ...]
    """Of tasks that are not among those known."""

    def task_of(self, name: str) -> int:
        """The number of a task; -1 if it is not among those known."""
        return self.tasks.index(name) if name in self.tasks else -1

    def token_of(self, answer: str) -> str:
        """The token that an answer begins with."""
        return first_token(answer, self.vocabulary)

    def decisions(self, seen: Seen, *, counted: bool = True) -> Float[ndarray, " n"]:
        """Log-odds of correct, before recalibration.

        Args:
            seen: prompts; ``predicted`` by :meth:`token_of`.
            counted: whether token statistics apply; if not, every token counts as never seen.
        """
        number = {token: place for place, token in enumerate(self.tokens if counted else ())}
        token = np.array([number.get(text, -1) for text in seen.predicted], np.int64)
        values = side_by_side(
            BASELINES[self.features],
            surface(seen),
            lambda: self.counts.of(token),
            lambda: self.terms.of(sureness(seen), seen.task),
        )
        return self.model.of(self.scale.of(values))

    def verdict(self, seen: Seen, *, counted: bool = True) -> Verdict:
        """What is said of one prompt; arguments as for :meth:`decisions`."""
        known = bool(seen.task[0] >= 0) or self.other_tasks is None
        corrected = self.recalibration if known or self.other_tasks is None else self.other_tasks
        p = corrected.of(self.decisions(seen, counted=counted))
        if self.natural is not None:
            p = at_rate(p, self.share, self.natural)
        return Verdict(float(p[0]), self.bounds if seen.task[0] >= 0 else self.other_bounds)


def fit_predictor(
    answers: Answers, plain: Plain, found: Forecasts, drawn: Drawn, config: PredictConfig
) -> tuple[Predictor, Choice]:
    """Fit all of a study's prompts; features, model and setting are chosen by parts of them, as in each fold.

    Args:
        answers: the prompts.
        plain: their columns without attention.
        found: what the same way of choosing and fitting says of prompts of other files, for thresholds.
        drawn: how prompts were chosen by outcome.
        config: parts, trees (CatBoost's are not saved), recalibration, seed.

    Returns:
        The predictor, and what was chosen.
    """
    correct, fit = answers.correct, np.ones(len(answers.prompt), bool)
    part = parts_of(answers, fit, config, "saved")
    models = [name for name in (LOGISTIC, *(TREES[name] for name in config.trees)) if name in CORE]
    choices: dict[str, Choice] = {}
    for name, names in BASELINES.items():
        columns = partial(_columns, plain, names)
        choices[name] = stronger(choose(models, columns, correct, fit, part, config.columns, config.recalibration))
    best = min(choices, key=lambda name: choices[name].loss)
    values = plain.columns(BASELINES[best], fit)
    scale = scale_of(values, fit)
    tokens, token = number_tokens(answers.seen.predicted)
    share = float(correct.mean())
    natural = drawn.natural if drawn.natural is not None and 0 < drawn.natural < 1 else None
    rate = natural if drawn.how == "balanced" else None
    own = found.by_name[PREDICTOR]
    there = np.isfinite(own.transferred)
    other, other_bounds = None, ()
    if len(answers.tasks) > 1 and len(np.unique(correct[there])) == 2:
        other = recalibration_of(own.transferred[there], correct[there], "platt")
        other_bounds = _bounds(other.of(own.transferred[there]), correct[there], answers.group[there], share, rate)
    made = Predictor(
        features=best,
        tasks=answers.tasks,
        terms=plain.terms(fit),
        scale=scale,
        model=model_at(choices[best], scale.of(values), correct, fit),
        recalibration=choices[best].recalibration,
        other_tasks=other,
        tokens=tuple(tokens),
        counts=count_tokens(token, correct, len(tokens)),
        vocabulary=answers.vocabulary,
        share=share,
        natural=rate,
        bounds=_bounds(own.recalibrated, correct, answers.group, share, rate),
        other_bounds=other_bounds,
    )
    return made, choices[best]


def _columns(plain: Plain, names: tuple[str, ...], rows: Bool[ndarray, " n"]) -> Columns:
    return Columns(plain.columns(names, rows), None)


def _bounds(
    probability: Float[ndarray, " n"],
    correct: Bool[ndarray, " n"],
    group: Int[ndarray, " n"],
    share: float,
    rate: float | None,
) -> tuple[Answering, ...]:
    p = probability if rate is None else at_rate(probability, share, rate)
    return tuple(risk_bounds(p, correct, group, rate))
