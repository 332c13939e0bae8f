"""``prompts``: from source files, of classic circuits, or one's own."""

import json
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

_CIRCUIT = "circuit:"
"""What a source of prompts begins with that is a classic circuit, not files."""


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
        str, typer.Option(help="Of the sources: java, python, cpp, javascript, typescript, go, rust, or text.")
    ] = "java",
    per_task: Annotated[int, typer.Option(help="Prompts a task.")] = 100,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; 'all' for those of the language.")] = "all",
    lm: Annotated[str | None, typer.Option("--lm", help="Ask this model for each prompt's outcome.")] = None,
    outcome: Annotated[str | None, typer.Option(help="With --lm: balanced (default), correct, or any.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first prompts as a person reads them; needs no --out.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="With --preview: how many to show.")] = 5,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of your own prompts.")] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Build completion prompts from source files or of classic circuits; look at them, or at your own."""
    if schema:
        from apmae.prompts import own

        say(json.dumps(own.schema(), indent=2))
        return
    if not sources:
        raise ConfigError("expected sources to draw prompts from, got none; give a folder, a file or 'bundled'")
    if out is None and not preview:
        raise ConfigError("expected --out to write prompts to, or --preview to look at some, got neither; give one")
    from apmae.config import CircuitsConfig, PromptsConfig, parse

    if any(source.startswith(_CIRCUIT) for source in sources):
        given = {"--language": language != "java", "--tasks": tasks != "all", "--outcome": outcome is not None}
        circuits = {"circuits": _circuits(sources, given), "per_task": per_task, "seed": seed, **settings(set_)}
        config = parse(CircuitsConfig, circuits, "prompts")
        if lm is None:
            raise ConfigError("expected --lm MODEL with circuits: their prompts are made for a model's tokens")
        from apmae.engine.stages import opened

        _circuit_prompts(config, opened(lm_config(lm, loading)), out, count if preview else 0, overwrite)
        return
    if len(sources) == 1 and Path(sources[0]).suffix in (".jsonl", ".parquet"):
        _own_prompts(Path(sources[0]), out, count if preview else 0, asked=lm is not None)
        return
    values: dict[str, Any] = {
        "language": language,
        "per_task": per_task,
        **({} if tasks == "all" else {"tasks": tuple(task.strip() for task in tasks.split(","))}),
        "outcome": outcome or ("balanced" if lm else "any"),
        "seed": seed,
        **settings(set_),
    }
    config = parse(PromptsConfig, values, "prompts")
    from apmae.engine import local
    from apmae.engine.stages import opened

    model = opened(lm_config(lm, loading)) if lm else None
    if out is None:
        # the first prompts are the same ones, and a model is not asked about thousands to show a few
        config = config.model_copy(update={"per_task": min(config.per_task, 2 * count)})
        _preview(local.preview_prompts(sources, config, lm=model)[:count], count)
        return
    counts = local.make_prompts(sources, out, config, lm=model, overwrite=overwrite)
    if preview:
        _preview(local.load_prompts(out), count)
    say(f"{sum(sum(found.values()) for found in counts['prompts'].values())} prompts in {out}")
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
            ways.append("--outcome any, which takes what comes")
        if config.split != "all":
            ways.append("--set split=all, which leaves no file out")
        if config.per_file is not None:
            ways.append("a larger per_file")
        if counts["rejected"].get("near_identical"):
            ways.append("--set similar=1, which keeps windows that are much alike")
        say(f"  for more: {', or '.join(ways)}")


def _own_prompts(path: Path, out: Path | None, shown: int, *, asked: bool) -> None:
    if asked:
        raise ConfigError(f"expected sources with --lm, got the prompts {path}; encode asks the model about those")
    from apmae.engine import local

    found = local.load_prompts(path) if out is None else local.convert_prompts(path, out)
    if shown:
        _preview(found, shown)
    if out is not None:
        say(f"{len(found)} prompts in {out}")


def _circuits(sources: list[str], given: dict[str, bool]) -> tuple[str, ...]:
    """Names of circuits, where they are all there is."""
    files = [source for source in sources if not source.startswith(_CIRCUIT)]
    if files:
        raise ConfigError(f"expected circuits only, got {files[0]} as well: make two files of prompts")
    for option in (option for option, is_given in given.items() if is_given):
        raise ConfigError(f"expected no {option} with circuits, which bring their own; leave it out")
    return tuple(source.removeprefix(_CIRCUIT) for source in sources)


def _circuit_prompts(config: Any, lm: Any, out: Path | None, shown: int, overwrite: bool) -> None:
    from apmae.engine import local

    if out is None:
        _preview(local.draw_circuits(config, lm), shown)
        return
    counts = local.make_circuits(out, config, lm, overwrite=overwrite)["prompts"]
    if shown:
        _preview(local.load_prompts(out), shown)
    say(f"{sum(sum(found.values()) for found in counts.values())} prompts in {out}")
    for name, found in counts.items():
        say(f"  {name}: {found['correct']} of {sum(found.values())} correct")


def _preview(found: list[Any], count: int) -> None:
    from apmae.report.preview import print_prompts

    print_prompts(found, count)
