"""A fitted predictor, for single lines: the strongest baseline by sparse logistic regression, and when to answer.

Axes: n prompts, c columns, v tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from apmae.analyze.answers import Answers, Drawn, Seen, first_token
from apmae.analyze.columns import Columns, Scale, scale_of
from apmae.analyze.fitting import LOGISTIC, Choice, choose
from apmae.analyze.prediction import BASELINES, PREDICTOR, Forecasts, parts_of
from apmae.analyze.recalibration import Recalibration, at_rate, recalibration_of
from apmae.analyze.risk import Answering, risk_bounds
from apmae.analyze.sparse_logistic import Line, line_of
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
    line: Line
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
        return self.line.of(self.scale.of(values))

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
    """Fit all of a study's prompts; features and penalty are chosen by parts of them, as in each fold.

    Args:
        answers: the prompts.
        plain: their columns without attention.
        found: what the same way of choosing and fitting says of prompts of other files, for thresholds.
        drawn: how prompts were chosen by outcome.
        config: parts, recalibration, seed.

    Returns:
        The predictor, and what was chosen.
    """
    correct, fit = answers.correct, np.ones(len(answers.prompt), bool)
    part = parts_of(answers, fit, config, "saved")
    choices: dict[str, Choice] = {}
    for name, names in BASELINES.items():
        (choices[name],) = choose(
            (LOGISTIC,),
            lambda rows, names=names: Columns(plain.columns(names, rows), None),
            correct,
            fit,
            part,
            config.columns,
            config.recalibration,
        )
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
        other_bounds = _bounds(other.of(own.transferred[there]), correct[there], share, rate)
    made = Predictor(
        features=best,
        tasks=answers.tasks,
        terms=plain.terms(fit),
        scale=scale,
        line=line_of(scale.of(values), correct, fit, choices[best].setting.inverse),
        recalibration=choices[best].recalibration,
        other_tasks=other,
        tokens=tuple(tokens),
        counts=count_tokens(token, correct, len(tokens)),
        vocabulary=answers.vocabulary,
        share=share,
        natural=rate,
        bounds=_bounds(own.recalibrated, correct, share, rate),
        other_bounds=other_bounds,
    )
    return made, choices[best]


def _bounds(probability: Float[ndarray, " n"], correct: Any, share: float, rate: float | None) -> tuple[Answering, ...]:
    p = probability if rate is None else at_rate(probability, share, rate)
    return tuple(risk_bounds(p, correct, rate))


def record_of(predictor: Predictor) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """A predictor as what JSON and safetensors hold; :func:`predictor_of` reads it back."""
    other = predictor.other_tasks
    record = {
        "features": predictor.features,
        "tasks": list(predictor.tasks),
        "recalibration": predictor.recalibration.how,
        "share": predictor.share,
        "natural_rate": predictor.natural,
        "bounds": [one._asdict() for one in predictor.bounds],
        "bounds_other_tasks": [one._asdict() for one in predictor.other_bounds],
        "tokens": list(predictor.tokens),
        "vocabulary": sorted(predictor.vocabulary),
    }
    arrays = {
        "terms.mean": predictor.terms.mean,
        "terms.spread": predictor.terms.spread,
        "scale.kept": predictor.scale.kept,
        "scale.mean": predictor.scale.mean,
        "scale.spread": predictor.scale.spread,
        "line.slope": predictor.line.slope,
        "line.intercept": np.array([predictor.line.intercept]),
        "recalibration.at": predictor.recalibration.at,
        "recalibration.probability": predictor.recalibration.probability,
        "other_tasks.at": np.zeros(0) if other is None else other.at,
        "tokens.seen": predictor.counts.seen,
        "tokens.right": predictor.counts.right,
        "tokens.rate": np.array([predictor.counts.rate]),
    }
    kept = {name: values if values.dtype == bool else values.astype(np.float64) for name, values in arrays.items()}
    return record, kept


def predictor_of(record: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> Predictor:
    """A predictor of what :func:`record_of` made.

    Raises:
        KeyError: if a part is missing.
        TypeError: if a part is something else.
    """
    other = arrays["other_tasks.at"]
    return Predictor(
        features=record["features"],
        tasks=tuple(record["tasks"]),
        terms=TaskTerms(arrays["terms.mean"], arrays["terms.spread"], len(record["tasks"])),
        scale=Scale(arrays["scale.kept"], arrays["scale.mean"], arrays["scale.spread"]),
        line=Line(arrays["line.slope"], float(arrays["line.intercept"][0])),
        recalibration=Recalibration(
            record["recalibration"], arrays["recalibration.at"], arrays["recalibration.probability"]
        ),
        other_tasks=Recalibration("platt", other, np.zeros(0)) if len(other) else None,
        tokens=tuple(record["tokens"]),
        counts=TokenCounts(arrays["tokens.seen"], arrays["tokens.right"], float(arrays["tokens.rate"][0])),
        vocabulary=frozenset(record["vocabulary"]),
        share=float(record["share"]),
        natural=record["natural_rate"],
        bounds=tuple(Answering(**one) for one in record["bounds"]),
        other_bounds=tuple(Answering(**one) for one in record["bounds_other_tasks"]),
    )
