"""``ablate``: what heads do for a model's answers, alone and in sets."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import OverwriteOption, SeedOption, SetOption, loads_lm, numbers, say, settings


@loads_lm
def ablate(
    study: Annotated[
        Path | None, typer.Argument(help="A study's folder: its model, prompts and window are taken.")
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option("--lm", help="A model, as for encode; 'bundled' by default, of a study the study's own."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts, Parquet or JSONL; with a study only if its prompts are not in its folder."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; by default ablate/ in the study.")] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="What stands in for a removed head: mean (default), zero, resample, or mean,zero."),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER.HEAD", help="Heads such as 3.5,4.0; repeatable; all by default."),
    ] = None,
    doses: Annotated[
        str | None, typer.Option(help="How many heads are removed together, such as 1,4,16; 'none': no sets.")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Random sets of each kind and size (default 4).")] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json_: Annotated[Path | None, typer.Option("--json", help="Write what is found as JSON.")] = None,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Remove heads one by one, then in ranked sets beside random ones, and measure what the model loses or gains.

    A killed run resumes after its last shard.
    """
    from apmae.config import AblateConfig, parse
    from apmae.engine.ablation_checks import expect_ablation, heads_asked, subject_of

    asked = {
        "modes": [part for text in mode for part in text.split(",")] if mode else None,
        "heads": heads_asked(heads),
        "doses": numbers(doses, "--doses"),
        "draws": draws,
        "seed": seed,
    }
    values = {name: value for name, value in asked.items() if value is not None}
    config = parse(AblateConfig, {**values, **settings(set_)}, "ablate")
    subject = subject_of(study, lm, prompts, out, config, loading)
    expect_ablation(subject, json_, overwrite=overwrite)
    from apmae.engine import ablation

    found = ablation.ablate(
        subject.lm,
        subject.prompts,
        subject.out,
        subject.config,
        study_lm=subject.study_lm,
        study_lm_name=subject.study_lm_name,
        overwrite=overwrite,
        json=json_,
    )
    ablation.print_ablation(found)
    say(f"tables in {subject.out}")
    if json_:
        say(f"JSON in {json_}")
