"""Whole studies: ``demo`` and ``run``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SeedOption, say
from apmae.cli.prompts import say_short
from apmae.errors import ConfigError


def demo(
    out: Annotated[Path, typer.Option(help="The study's folder.")] = Path("demo-study"),
    train: Annotated[
        bool, typer.Option("--train", help="Train the encoder now instead of taking the bundled one.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Discover the patterns of the bundled model on the bundled Java, and write a report of them."""
    from apmae import recipes

    _study(recipes.demo(out, train=train, seed=seed), overwrite)


def recipes(
    name: Annotated[str | None, typer.Argument(help="One of them: prints it as a study's file, for apmae run.")] = None,
) -> None:
    """List the named configurations, or print one."""
    import yaml

    from apmae.recipes import RECIPES, recipe

    if name is not None:
        say(f"# recipe {name}, {recipe(name).digest}")
        say(yaml.safe_dump(recipe(name).model_dump(mode="json"), sort_keys=False).rstrip())
        return
    for known in RECIPES:
        found = recipe(known)
        assert found.train is not None, "recipes train"
        model, train = found.train.model, found.train
        say(
            f"{known:<10} {found.digest}  encoder {model.encoder_layers} x {model.encoder_dim}, {train.steps} steps of "
            f"{train.batch_size} patterns, for {found.lm} on {found.device}"
        )


def run(
    study: Annotated[Path, typer.Argument(help="STUDY.yaml: the fields of StudyConfig (docs/pipeline.md).")],
    overwrite: OverwriteOption = False,
) -> None:
    """Run every stage of a study described in one file."""
    import yaml

    from apmae.config import StudyConfig, parse
    from apmae.recipes import study_settings

    try:
        values = yaml.safe_load(study.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected a study file at {study}: {error.strerror}; check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected YAML in {study}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"expected fields of a study in {study}, got {type(values).__name__}; see docs/pipeline.md")
    _study(parse(StudyConfig, {"out": str(study.with_suffix("")), **study_settings(values)}, str(study)), overwrite)


def _study(config: Any, overwrite: bool) -> None:
    from apmae.artifacts import manifest_path, read_manifest
    from apmae.engine.sources import parse_sources
    from apmae.engine.study import run_study
    from apmae.report.terminal import print_study

    page = run_study(config, overwrite=overwrite)
    print_study(config.out, page)
    drawn_here = parse_sources(config.sources).prompts is None
    for name, drawn in (("prompts", config.prompts), ("train-prompts", config.train_prompts)):
        path = config.out / f"{name}.parquet"
        if drawn is None or not drawn_here or not manifest_path(path).is_file():
            continue
        counts = read_manifest(path, "prompts").counts
        if counts["short"]:
            say(f"\n{name}: fewer than asked for")
            say_short(counts, drawn)
