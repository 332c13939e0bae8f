"""``prompts``: from source files, for classic circuits, or the user's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import (
    OverwriteOption,
    SeedOption,
    SetOption,
    lm_config,
    loads_lm,
    say,
    settings,
)
from apmae.errors import ConfigError


@loads_lm
def prompts(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files, zips or tars of source code, or 'bundled'; or one file of prompts; or circuits, "
            "for instance circuit:ioi."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    language: Annotated[
        str, typer.Option(help="Language of the sources: java, python, cpp, javascript, typescript, go, rust, or text.")
    ] = "java",
    per_task: Annotated[int, typer.Option(help="Prompts per task.")] = 100,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; 'all' takes those of the language.")] = "all",
    lm: Annotated[str | None, typer.Option("--lm", help="Ask this model for each prompt's outcome.")] = None,
    outcome: Annotated[str | None, typer.Option(help="With --lm: balanced (default), correct, or any.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first prompts as a person reads them; needs no --out.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --preview: how many to show.")] = 5,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for your own prompts.")] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Make completion prompts from source files or for classic circuits; preview them, or your own."""
    if schema:
        from apmae.engine.prompts import own_schema

        say(own_schema())
        return
    if not sources:
        raise ConfigError("expected sources to draw prompts from, got none; give a folder, a file or 'bundled'")
    if out is None and not preview:
        raise ConfigError("expected --out to write prompts to, or --preview to look at some, got neither; give one")
    from apmae.config import CircuitsConfig, PromptsConfig, parse
    from apmae.engine.checks import expect_circuits, expect_source_files
    from apmae.engine.sources import parse_sources

    given = parse_sources(sources)
    shown = count if preview else 0
    if given.circuits:
        unfit = {"--tasks": tasks != "all", "--outcome": outcome is not None}
        unfit |= {} if given.files else {"--language": language != "java"}
        for option in (option for option, is_given in unfit.items() if is_given):
            raise ConfigError(f"expected no {option} with circuits, which bring their own; leave it out")
        circuits = {"circuits": given.circuits, "language": language, "per_task": per_task, "seed": seed}
        circuits |= settings(set_)
        config = parse(CircuitsConfig, circuits, "prompts")
        if lm is None:
            raise ConfigError("expected --lm MODEL with circuits: their prompts are made for a model's tokens")
        model = lm_config(lm, loading)
        expect_circuits(given.files, out, config, model, overwrite=overwrite)
        _circuits(given.files, config, model, out, shown, overwrite)
    elif given.prompts is not None:
        if lm is not None:
            raise ConfigError(
                f"expected sources with --lm, got the prompts {given.prompts}; encode asks the model about those"
            )
        from apmae.engine.prompts import own_prompts

        number = own_prompts(given.prompts, out, shown=shown)
        if out is not None:
            say(f"{number} prompts in {out}")
    else:
        values: dict[str, Any] = {
            "language": language,
            "per_task": per_task,
            **({} if tasks == "all" else {"tasks": tuple(task.strip() for task in tasks.split(","))}),
            "outcome": outcome or ("balanced" if lm is not None else "any"),
            "seed": seed,
            **settings(set_),
        }
        config = parse(PromptsConfig, values, "prompts")
        model = lm_config(lm, loading) if lm is not None else None
        expect_source_files(given.files, out, config, model, overwrite=overwrite)
        _source_files(given.files, config, model, out, shown, overwrite)


def _circuits(sources: Any, config: Any, lm: Any, out: Path | None, shown: int, overwrite: bool) -> None:
    from apmae.engine import prompts as engine

    if out is None:
        engine.preview_circuits(config, lm, shown, sources)
        return
    made = engine.make_circuits(out, config, lm, sources, overwrite=overwrite)
    counts = made["prompts"]
    if shown:
        engine.preview_file(out, shown)
    say(f"{sum(sum(counted.values()) for counted in counts.values())} prompts in {out}")
    for name, counted in counts.items():
        say(f"  {name}: {counted['correct']} of {sum(counted.values())} correct")
        if sum(counted.values()) < config.per_task:
            say(f"  short: {sum(counted.values())} of {config.per_task} pairs of {name}; give more source files")
        if made["rejected"].get(name):
            say("  not used: " + ", ".join(f"{why} {count}" for why, count in made["rejected"][name].items()))


def _source_files(sources: Any, config: Any, lm: Any, out: Path | None, shown: int, overwrite: bool) -> None:
    from apmae.engine import prompts as engine

    if out is None:
        engine.preview_prompts(sources, config, shown, lm=lm)
        return
    counts = engine.make_prompts(sources, out, config, lm=lm, overwrite=overwrite)
    if shown:
        engine.preview_file(out, shown)
    say(f"{sum(sum(counted.values()) for counted in counts['prompts'].values())} prompts in {out}")
    say_short(counts, config)
    if counts["rejected"]:
        say("  not used: " + ", ".join(f"{reason} {count}" for reason, count in counts["rejected"].items()))


def say_short(counts: dict[str, Any], config: Any) -> None:
    """Which tasks have too few prompts, and which settings would give more."""
    for line in counts["short"]:
        say(f"  short: {line}")
    if counts["short"]:
        ways = ["give more source files or a smaller --per-task"]
        if config.outcome != "any":
            ways.append("--outcome any, which takes both outcomes")
        if config.split != "all":
            ways.append("--set split=all, which leaves no file out")
        if config.per_file is not None:
            ways.append("a larger per_file")
        if counts["rejected"].get("near_identical"):
            ways.append("--set similar=1, which keeps windows that are much alike")
        say(f"  for more: {', or '.join(ways)}")
