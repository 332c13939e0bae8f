"""Whole studies: ``demo`` and ``run``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SeedOption, say
from apmae.cli.prompts import say_short


def demo(
    out: Annotated[Path, typer.Option(help="The study's folder.")] = Path("demo-study"),
    train: Annotated[
        bool, typer.Option("--train", help="Train the encoder now instead of taking the bundled one.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Find the patterns of the bundled model on the bundled Java, and write a report."""
    from apmae.engine.settings import demo_study

    _study(demo_study(out, train=train, seed=seed), overwrite)


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one, as a study's file for apmae run.")] = None,
) -> None:
    """List the named configurations, or print one."""
    from apmae.engine.settings import print_recipes, recipe_file

    if name is None:
        print_recipes()
    else:
        say(recipe_file(name))


def run(
    study: Annotated[Path, typer.Argument(help="STUDY.yaml: the fields of StudyConfig (docs/pipeline.md).")],
    overwrite: OverwriteOption = False,
) -> None:
    """Run all stages of a study that is described in one file."""
    from apmae.engine.settings import read_study

    _study(read_study(study), overwrite)


def _study(config: Any, overwrite: bool) -> None:
    from apmae.engine.checks import expect_study

    expect_study(config, overwrite=overwrite)
    from apmae.engine.report import print_report
    from apmae.engine.study import run_study, short_prompts

    page = run_study(config, overwrite=overwrite)
    print_report(config.out, page)
    counts = short_prompts(config)
    if counts is not None:
        say("\nprompts: fewer than asked for")
        say_short(counts, config.prompts)
