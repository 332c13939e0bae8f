"""The predict stage: will the model's answer be right, by what can be known without attention and by its heads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from numpy import ndarray

from apmae.analyze.answer_features import read_answer_sets
from apmae.analyze.answers import expect_files
from apmae.analyze.head_features import components, one_hot, read_heads
from apmae.analyze.prediction import folds, forecast
from apmae.analyze.prediction_tables import judge
from apmae.artifacts import Stage, read_manifest, read_table, write_json
from apmae.config import PredictConfig
from apmae.engine.subjects import Subject, subject_of
from apmae.progress import progress
from apmae.report import terminal
from apmae.report.prediction import Prediction, prediction_record
from apmae.schema import (
    CALIBRATION_FILE,
    COVERAGE_FILE,
    FORECASTS_FILE,
    PREDICTION_FILE,
    PREDICTION_TASKS_FILE,
    SCORES,
)

FILES = (PREDICTION_FILE, PREDICTION_TASKS_FILE, CALIBRATION_FILE, COVERAGE_FILE, FORECASTS_FILE)


def predict(
    study: Path, config: PredictConfig | None = None, *, overwrite: bool = False, json: Path | None = None
) -> Prediction:
    """Predict which answers are right, from features without attention and from those of heads.

    Writes ``predict/`` in the folder that it is given. Runs no model.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``, and maybe ``answers/``; or one that the answers stage made.
        config: folds, columns, resamples, seed.
        overwrite: replace what was made with other settings or from another atlas.
        json: where to write findings and tables as JSON too.

    Raises:
        ConfigError: if there are no outcomes, no task with both, one file, or fewer files than folds.
        ArtifactError: if the study is unfinished or damaged, was analysed with other settings, or its ``answers/`` are
            those of other prompts or of another model.
    """
    config, subject = config or PredictConfig(), subject_of(study)
    answers, drawn, out = subject.answers, subject.drawn, subject.out
    expect_files(answers, config.folds)
    with Stage.open(out, "predict", config.model_dump(mode="json"), subject.inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            fold = folds(answers, config)
            fits = [fold != number for number in range(int(fold.max()) + 1)]
            with progress("predict", len(fits) + 2, unit="steps") as advance:
                advance(0, note="read heads")

                def tell(what: str) -> None:
                    advance(1, note=what)

                found = forecast(answers, sets_of(subject, fits, config, tell), config, tell)
                tables = judge(answers, found, drawn, config)
                advance(1)
            stage.write_tables(dict(zip(FILES, tables, strict=True)))
            stage.finish(
                {
                    "prompts": len(answers.prompt),
                    "files": answers.files,
                    "groups": answers.groups,
                    "correct": int(answers.correct.sum()),
                    "left_out": answers.left_out,
                    "answered_otherwise": subject.otherwise,
                    "drawn": drawn.how,
                    "natural_rate": drawn.natural,
                }
            )
    counts = read_manifest(out, "predict").counts
    made = Prediction(read_table(out / PREDICTION_FILE), read_table(out / PREDICTION_TASKS_FILE), counts)
    if json:
        write_json(json, prediction_record(made))
    return made


def sets_of(
    subject: Subject, fits: Sequence[Bool[ndarray, " n"]], config: PredictConfig, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Columns of heads by name, as :func:`apmae.analyze.prediction.forecast` takes them.

    Args:
        subject: with a study, a folder of the answers stage, or both.
        fits: which prompts each split is fitted on.
        config: components.
        tell: called when heads have been read.
    """
    sets: dict[str, Any] = {}
    prompt = subject.answers.prompt
    if subject.study is not None:
        heads = read_heads(subject.study, prompt)
        sets["head entropy"] = heads.scores[:, :, SCORES.index("entropy")]
        sets["head scores"] = heads.scores.reshape(len(prompt), -1)
        sets["tags"] = one_hot(heads.cluster)
    tell("principal components")
    if subject.study is not None:
        sets["representations"] = components(subject.study, heads, prompt, fits, config.components)
    if subject.read is not None:
        sets |= read_answer_sets(subject.read, prompt)
    return sets


def print_prediction(found: Prediction) -> None:
    """Print how well each set of features predicts the outcome, and what that says."""
    terminal.print_prediction(found)
