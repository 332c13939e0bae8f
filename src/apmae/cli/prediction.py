"""``predict``: which answers of a study are right, and whether one answer will be."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SetOption, lm_config, loads_lm, say, settings
from apmae.errors import ConfigError

_OF_STUDY = "STUDY alone, or MODEL FILE with --line and --study"


@loads_lm
def predict(
    study_or_model: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|MODEL",
            help="A study's folder, or one that apmae answers made; with FILE, a model's folder or hub id.",
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(help="Source file with a line to complete: will the answer be right?")
    ] = None,
    line: Annotated[int | None, typer.Option(help="With FILE: the line to complete, from 1.")] = None,
    column: Annotated[
        int | None, typer.Option(help="Where in the line, from 1; by default where its first completion begins.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="With FILE: the study whose predictor is used; apmae predict STUDY saves it.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="With FILE: task of the span at the cursor, if the language does not tell.")
    ] = None,
    risk: Annotated[
        float | None, typer.Option(help="With FILE: most of the answers that may be wrong (default 0.1).")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Parts of the files; each is predicted from the others (default 5).")
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(help="How often files are drawn anew, for intervals (default 1000).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random choices (default 0).")] = None,
    overwrite: OverwriteOption = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what is found as JSON.")] = None,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Predict which answers of a study are right, and what heads add; or whether one answer of a model will be."""
    loads = {f"--{name.replace('_', '-')}": value for name, value in loading.items()}
    of_line = {"FILE": file, "--line": line, "--column": column, "--study": study, "--task": task, "--risk": risk}
    of_study = {"--folds": folds, "--resamples": resamples, "--seed": seed, "--overwrite": overwrite or None}
    one = [name for name, value in (of_line | loads).items() if value is not None]
    many = [name for name, value in (of_study | {"--set": set_ or None}).items() if value is not None]
    if one and many:
        raise ConfigError(f"expected {_OF_STUDY}, got {one[0]} and {many[0]}; leave one of them out")
    if not one:
        given = {"folds": folds, "resamples": resamples, "seed": seed}
        values = {name: value for name, value in given.items() if value is not None}
        _predict_study(Path(study_or_model), {**values, **settings(set_)}, overwrite=overwrite, json=json_)
        return
    if file is None or line is None or study is None:
        lacking = [name for name in ("FILE", "--line", "--study") if of_line[name] is None]
        raise ConfigError(f"expected {_OF_STUDY}, got {one[0]} without {' and '.join(lacking)}; give all three")
    wanted: dict[str, Any] = {
        "study": study,
        "column": column,
        "task": task,
        "risk": 0.1 if risk is None else risk,
        "json": json_,
    }
    model = lm_config(study_or_model, loading)
    from apmae.engine.prediction_checks import expect_line

    expect_line(model, file, line, **wanted)
    from apmae.engine import prediction_line

    prediction_line.print_said(prediction_line.predict_line(model, file, line, **wanted))
    if json_:
        say(f"JSON in {json_}")


def _predict_study(study: Path, values: dict[str, Any], *, overwrite: bool, json: Path | None) -> None:
    from apmae.config import PredictConfig, parse

    config = parse(PredictConfig, values, "predict")
    from apmae.engine.prediction_checks import expect_prediction

    subject = expect_prediction(study, config, json, overwrite=overwrite)
    from apmae.engine import prediction

    prediction.print_prediction(prediction.predict_subject(subject, config, overwrite=overwrite, json=json))
    say(f"tables in {study / 'predict'}")
    if json:
        say(f"JSON in {json}")
