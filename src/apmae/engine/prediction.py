"""The predict stage: will the model's answer be right, by what can be known without attention and by its heads."""

from pathlib import Path

from apmae.analyze.answers import drawn_of, expect_files, read_answers
from apmae.analyze.head_features import components, one_hot, read_heads
from apmae.analyze.prediction import folds, forecast
from apmae.analyze.prediction_tables import judge
from apmae.artifacts import Stage, fingerprint, read_manifest, read_table, write_json
from apmae.config import PredictConfig
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
from apmae.study.layout import Layout
from apmae.study.reader import Study

FILES = (PREDICTION_FILE, PREDICTION_TASKS_FILE, CALIBRATION_FILE, COVERAGE_FILE, FORECASTS_FILE)


def predict(
    study: Path, config: PredictConfig | None = None, *, overwrite: bool = False, json: Path | None = None
) -> Prediction:
    """Predict which of a study's answers are right, from features without attention and from those of heads.

    Writes ``predict/`` in the study. Runs no model.

    Args:
        study: folder with ``embeddings/`` and ``atlas/``.
        config: folds, columns, resamples, seed.
        overwrite: replace what was made with other settings or from another atlas.
        json: where to write findings and tables as JSON too.

    Raises:
        ConfigError: if there are no outcomes, no task with both, one file, or fewer files than folds.
        ArtifactError: if the study is unfinished or damaged, or was analysed with other settings.
    """
    config, opened = config or PredictConfig(), Study(study)
    answers = read_answers(opened)
    expect_files(answers, config.folds)
    out = Layout(opened.folder).prediction
    inputs = {"encode": fingerprint(opened.embeddings_folder), "cluster": fingerprint(opened.atlas_folder)}
    with Stage.open(out, "predict", config.model_dump(mode="json"), inputs, overwrite=overwrite) as stage:
        if not stage.finished:
            fold = folds(answers, config)
            fits = [fold != number for number in range(int(fold.max()) + 1)]
            with progress("predict", len(fits) + 2, unit="steps") as advance:
                advance(0, note="read heads")
                heads = read_heads(opened, answers.prompt)
                advance(1, note="principal components")
                parts = components(opened, heads, answers.prompt, fits, config.components)

                def tell(what: str) -> None:
                    advance(1, note=what)

                found = forecast(
                    answers,
                    {
                        "head entropy": heads.scores[:, :, SCORES.index("entropy")],
                        "head scores": heads.scores.reshape(len(answers.prompt), -1),
                        "tags": one_hot(heads.cluster),
                        "representations": parts,
                    },
                    config,
                    tell,
                )
                drawn = drawn_of(opened)
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
                    "drawn": drawn.how,
                    "natural_rate": drawn.natural,
                }
            )
    counts = read_manifest(out, "predict").counts
    made = Prediction(read_table(out / PREDICTION_FILE), read_table(out / PREDICTION_TASKS_FILE), counts)
    if json:
        write_json(json, prediction_record(made))
    return made


def print_prediction(found: Prediction) -> None:
    """Print how well each set of features predicts the outcome, and what that says."""
    terminal.print_prediction(found)
