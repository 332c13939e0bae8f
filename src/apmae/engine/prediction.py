"""The predict stage: will the model's answer be right, by what can be known without attention and by its heads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.answer_features import read_answer_sets
from apmae.analyze.head_features import components, one_hot, read_heads
from apmae.analyze.prediction import assemble, folds, forecast_fold, plain_columns
from apmae.analyze.prediction_tables import judge
from apmae.analyze.predictor import fit_predictor
from apmae.analyze.saved_predictor import origin_of, predictor_files
from apmae.artifacts import (
    Records,
    Shard,
    Stage,
    cut,
    missing,
    read_manifest,
    read_table,
    run_shards,
    shard_file,
    write_json,
    write_tables,
)
from apmae.config import PredictConfig
from apmae.engine.prediction_checks import expect_prediction
from apmae.engine.subjects import Subject
from apmae.progress import progress
from apmae.report import terminal
from apmae.report.prediction import Prediction, prediction_record
from apmae.schema import (
    CALIBRATION_FILE,
    COVERAGE_FILE,
    FORECAST,
    PREDICTION_FILE,
    PREDICTION_TASKS_FILE,
    PREDICTOR_FILES,
    SCORES,
)

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

    HeadColumns = Float[ndarray, "n c"] | csc_matrix

FILES = (PREDICTION_FILE, PREDICTION_TASKS_FILE, CALIBRATION_FILE, COVERAGE_FILE)
"""Tables of all folds together."""


def predict(
    study: Path, config: PredictConfig | None = None, *, overwrite: bool = False, json: Path | None = None
) -> Prediction:
    """Predict which answers are right, from features without attention and from those of heads.

    Writes ``predict/`` in the folder that it is given, with a predictor for single lines. Runs no model. A run that was
    killed resumes after the last whole fold.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``, and maybe ``answers/``; or one that the answers stage made.
        config: folds, trees, columns, resamples, seed.
        overwrite: replace what was made with other settings or from another atlas.
        json: where to write findings and tables as JSON too.

    Raises:
        ConfigError: if the folder is neither, there are no outcomes, no task with both, one file, fewer files than
            folds, or CatBoost is asked for and not installed.
        ArtifactError: if the study is unfinished or damaged, was analysed with other settings, or its ``answers/`` are
            those of other prompts or of another model.
    """
    config = config or PredictConfig()
    return predict_subject(
        expect_prediction(study, config, json, overwrite=overwrite), config, overwrite=overwrite, json=json
    )


def predict_subject(
    subject: Subject, config: PredictConfig, *, overwrite: bool = False, json: Path | None = None
) -> Prediction:
    """As :func:`predict`, of what :func:`apmae.engine.prediction_checks.expect_prediction` has opened and checked."""
    out = subject.out
    with Stage.open(out, "predict", config.model_dump(mode="json"), subject.inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            _make(stage, subject, config)
    counts = read_manifest(out, "predict").counts
    made = Prediction(read_table(out / PREDICTION_FILE), read_table(out / PREDICTION_TASKS_FILE), counts)
    if json:
        write_json(json, prediction_record(made))
    return made


def _make(stage: Stage, subject: Subject, config: PredictConfig) -> None:
    """Make the files that the stage does not have: those of each fold, then those of all together."""
    answers, drawn = subject.answers, subject.drawn
    plain, fold = plain_columns(answers, config), folds(answers, config)
    shards = cut(int(fold.max()) + 1, 1, FORECAST)
    left = missing(stage, shards)
    with progress("predict", len(shards) + 1, done=len(shards) - len(left), unit="steps") as advance:
        if left:
            advance(0, note="read heads")
            numbers = [shard.number for shard in left]
            heads = heads_of(subject, [fold != number for number in numbers], config)

            def work(shard: Shard) -> Records:
                place = numbers.index(shard.number)
                own = {name: made[place] if isinstance(made, list) else made for name, made in heads.items()}
                tables = forecast_fold(answers, plain, own, fold, shard.number, config)
                records = write_tables(stage.staging, dict(zip(shard.files, tables, strict=True)))
                advance(1, note=f"fold {shard.number + 1}")
                return records

            run_shards(stage, shards, work)
        forecasts, fits = (
            pa.concat_tables([read_table(stage.root / shard_file(table, shard.number)) for shard in shards])
            for table in FORECAST
        )
        found = assemble(answers, forecasts, fits)
        if not stage.has(*FILES):
            tables = judge(answers, found, drawn, config)
            stage.write_tables(dict(zip(FILES, tables, strict=True)))
        if not stage.has(*PREDICTOR_FILES):
            predictor, choice = fit_predictor(answers, plain, found, drawn, config)
            origin = origin_of(subject.asked, len(answers.prompt), answers.files, drawn.how)
            stage.write_files(predictor_files(predictor, choice, origin))
        advance(1)
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


def heads_of(
    subject: Subject, fits: Sequence[Bool[ndarray, " n"]], config: PredictConfig
) -> dict[str, "HeadColumns | list[Float[ndarray, 'n c']]"]:
    """Columns of heads by the name of their features: one matrix, or a list of one for each split that is fitted."""
    found: dict[str, HeadColumns | list[Float[ndarray, "n c"]]] = {}
    prompt = subject.answers.prompt
    if subject.study is not None:
        heads = read_heads(subject.study, prompt)
        found["head entropy"] = heads.scores[:, :, SCORES.index("entropy")]
        found["head scores"] = heads.scores.reshape(len(prompt), -1)
        found["tags"] = one_hot(heads.cluster)
        found["representations"] = components(subject.study, heads, prompt, fits, config.components)
    if subject.read is not None:
        found |= read_answer_sets(subject.read, prompt)
    return found


def print_prediction(found: Prediction) -> None:
    """Print how well each set of features predicts the outcome, and what that says."""
    terminal.print_prediction(found)
