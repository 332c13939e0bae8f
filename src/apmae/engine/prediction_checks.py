"""Checks of ``apmae predict`` before anything heavy is imported; as in ``checks``. Torch-free."""

from difflib import get_close_matches
from pathlib import Path

from apmae.analyze.answers import expect_files
from apmae.analyze.boosting import expect_catboost
from apmae.analyze.prediction import expect_both_outcomes, folds
from apmae.analyze.saved_predictor import read_predictor
from apmae.artifacts import expect_place, expect_stage
from apmae.config import TASKS, TEXT_TASKS, LMConfig, PredictConfig
from apmae.engine.subjects import Subject, subject_of
from apmae.errors import ConfigError
from apmae.lm.declared import Declared, expect_answering, expect_infill
from apmae.lm.folder import expect_model, expect_tokenizer
from apmae.prompts.line import line_prompt, task_prompt
from apmae.study.layout import Layout


def expect_prediction(study: Path, config: PredictConfig, json: Path | None, *, overwrite: bool) -> Subject:
    """``apmae predict STUDY``; arguments and errors as for :func:`apmae.engine.prediction.predict`.

    Returns:
        What was opened, for :func:`apmae.engine.prediction.predict_subject`.
    """
    if "catboost" in config.trees:
        expect_catboost()
    subject = subject_of(study, config.similar)
    expect_place(subject.out, folder=True)
    if json is not None:
        expect_place(json)
    expect_stage(subject.out, "predict", config.model_dump(mode="json"), overwrite=overwrite)
    expect_files(subject.answers, config.folds)
    expect_both_outcomes(subject.answers, folds(subject.answers, config))
    return subject


def expect_line(
    lm: LMConfig,
    file: Path,
    line: int,
    *,
    study: Path,
    column: int | None,
    task: str | None,
    risk: float,
    json: Path | None,
) -> None:
    """``apmae predict MODEL FILE``; arguments and errors as for :func:`apmae.engine.prediction_line.predict_line`."""
    if not 0 < risk < 1:
        raise ConfigError(f"expected --risk between 0 and 1, such as 0.1, got {risk:g}")
    task_prompt(line_prompt(file, line, column), task, onward=column is None)
    if json is not None:
        expect_place(json)
    expect_model(lm)
    expect_tokenizer(lm)
    expect_infill(lm)
    expect_answering(Declared.of(lm).answers, lm.source)
    predictor, _ = read_predictor(Layout(study).prediction)
    known = sorted({*TASKS, *TEXT_TASKS, *predictor.tasks})
    if task is not None and task not in known:
        near = get_close_matches(task, known, 1)
        raise ConfigError(
            f"expected --task to be one of {', '.join(known)}, got {task!r}"
            f"{f'; did you mean {near[0]}?' if near else ''}"
        )
