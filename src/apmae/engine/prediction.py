"""The predict stage: will the model's answer be right, by what can be known without attention and by its heads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.analyze.answers import Answers, drawn_of, expect_files, read_answers
from apmae.analyze.boosting import expect_catboost
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
    fingerprint,
    missing,
    read_manifest,
    read_table,
    run_shards,
    shard_file,
    write_json,
    write_tables,
)
from apmae.config import PredictConfig
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
from apmae.study.layout import Layout
from apmae.study.reader import Study

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

    HeadColumns = Float[ndarray, "n c"] | csc_matrix

FILES = (PREDICTION_FILE, PREDICTION_TASKS_FILE, CALIBRATION_FILE, COVERAGE_FILE)
"""Tables of all folds together."""


def predict(
    study: Path, config: PredictConfig | None = None, *, overwrite: bool = False, json: Path | None = None
) -> Prediction:
    """Predict which of a study's answers are right, from features without attention and from those of heads.

    Writes ``predict/`` in the study, with a predictor for single lines. Runs no model. A run that was killed resumes
    after the last whole fold.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``.
        config: folds, trees, columns, resamples, seed.
        overwrite: replace what was made with other settings or from another atlas.
        json: where to write findings and tables as JSON too.

    Raises:
        ConfigError: if there are no outcomes, no task with both, one file, fewer files than folds, or CatBoost is asked
            for and not installed.
        ArtifactError: if the study is unfinished or damaged, or was analysed with other settings.
    """
    config, opened = config or PredictConfig(), Study(study)
    if "catboost" in config.trees:
        expect_catboost()
    answers = read_answers(opened, config.similar)
    expect_files(answers, config.folds)
    out = Layout(opened.folder).prediction
    inputs = {"encode": fingerprint(opened.embeddings_folder), "cluster": fingerprint(opened.atlas_folder)}
    with Stage.open(out, "predict", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            _make(stage, opened, answers, config)
    counts = read_manifest(out, "predict").counts
    made = Prediction(read_table(out / PREDICTION_FILE), read_table(out / PREDICTION_TASKS_FILE), counts)
    if json:
        write_json(json, prediction_record(made))
    return made


def _make(stage: Stage, opened: Study, answers: Answers, config: PredictConfig) -> None:
    """Make the files that the stage does not have: those of each fold, then those of all together."""
    plain, fold, drawn = plain_columns(answers, config), folds(answers, config), drawn_of(opened)
    shards = cut(int(fold.max()) + 1, 1, FORECAST)
    left = missing(stage, shards)
    with progress("predict", len(shards) + 1, done=len(shards) - len(left), unit="steps") as advance:
        if left:
            advance(0, note="read heads")
            numbers = [shard.number for shard in left]
            heads = heads_of(opened, answers, [fold != number for number in numbers], config)

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
            origin = origin_of(opened, len(answers.prompt), answers.files, drawn.how)
            stage.write_files(predictor_files(predictor, choice, origin))
        advance(1)
    stage.finish(
        {
            "prompts": len(answers.prompt),
            "files": answers.files,
            "groups": answers.groups,
            "correct": int(answers.correct.sum()),
            "left_out": answers.left_out,
            "drawn": drawn.how,
            "natural_rate": drawn.natural,
        }
    )


def heads_of(
    opened: Study, answers: Answers, fits: Sequence[Bool[ndarray, " n"]], config: PredictConfig
) -> dict[str, "HeadColumns | list[Float[ndarray, 'n c']]"]:
    """Columns of heads by the name of their features: one matrix, or a list of one for each split that is fitted."""
    heads = read_heads(opened, answers.prompt)
    return {
        "head entropy": heads.scores[:, :, SCORES.index("entropy")],
        "head scores": heads.scores.reshape(len(answers.prompt), -1),
        "tags": one_hot(heads.cluster),
        "representations": components(opened, heads, answers.prompt, fits, config.components),
    }


def print_prediction(found: Prediction) -> None:
    """Print how well each set of features predicts the outcome, and what that says."""
    terminal.print_prediction(found)
