"""``prune``: which heads a model can do without, and a model without them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SeedOption, SetOption, loads_lm, numbers, say, settings
from apmae.errors import ConfigError


@loads_lm
def prune(
    study: Annotated[
        Path | None, typer.Argument(help="A study's folder: its model, prompts, window and atlas are taken.")
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option("--lm", help="A model, as for encode; 'bundled' by default, of a study the study's own."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts, Parquet or JSONL; with a study only if its prompts are not in its folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; by default prune/ in the study.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="What stands in place of removed heads: mean (default) or zero.")
    ] = None,
    ranking: Annotated[
        list[str] | None,
        typer.Option(
            help="exact, gradient, attribution, unknown, flow, first_token, weight; repeatable; all by default."
        ),
    ] = None,
    doses: Annotated[str | None, typer.Option(help="How many heads are removed together, such as 8,16,24.")] = None,
    draws: Annotated[int | None, typer.Option(help="Random sets of each kind and size (default 4).")] = None,
    save: Annotated[Path | None, typer.Option(help="Write a model without heads to this folder.")] = None,
    remove: Annotated[int | None, typer.Option(help="How many heads the saved model lacks.")] = None,
    by: Annotated[
        str | None, typer.Option(help="The ranking they are chosen by; the first by default, exact if it is there.")
    ] = None,
    even: Annotated[
        bool, typer.Option(help="Choose whole key-value groups, as many in each layer, so that they can be taken out.")
    ] = False,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what is found as JSON.")] = None,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Rank heads, remove the first of each ranking together, and measure what is left; --save writes such a model.

    A killed run resumes after its last shard. With --save, --overwrite replaces that model and not the tables.
    """
    from apmae.config import PruneConfig, parse
    from apmae.engine.pruning_checks import Saving, expect_pruning, pruning_subject

    if (save is None) != (remove is None):
        raise ConfigError("expected --save FOLDER with --remove N, got one of the two; give both or neither")
    if save is None and (by is not None or even):
        raise ConfigError("expected --save with --by and --even, which choose the saved model's heads; give a folder")
    asked = {"mode": mode, "rankings": ranking, "doses": numbers(doses, "--doses"), "draws": draws, "seed": seed}
    values = {name: value for name, value in asked.items() if value is not None}
    config = parse(PruneConfig, {**values, **settings(set_)}, "prune")
    subject = pruning_subject(study, lm, prompts, out, config, loading)
    saving = None if save is None or remove is None else Saving(save, remove, by, even)
    expect_pruning(subject, saving, json_, overwrite=overwrite)
    from apmae.engine import pruned, pruning, stages

    opened = stages.opened(subject.lm)
    found = pruning.prune(
        opened,
        subject.prompts,
        subject.out,
        subject.config,
        study=subject.study,
        study_lm=subject.study_lm,
        study_lm_name=subject.study_lm_name,
        overwrite=overwrite and saving is None,
        json=json_,
    )
    pruning.print_pruning(found)
    say(f"tables in {subject.out}")
    if json_:
        say(f"JSON in {json_}")
    if saving is not None:
        made = pruned.save_pruned(opened, subject.prompts, subject.out, saving, overwrite=overwrite)
        for line in pruned.saved_lines(made, saving.folder):
            say(line)
