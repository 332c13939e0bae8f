"""Looking heads up in finished studies: ``top`` and ``similar``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import (
    EncoderOption,
    OverwriteOption,
    SeedOption,
    SetOption,
    lm_config,
    loads_lm,
    say,
    settings,
)


@loads_lm
def top(
    study: Annotated[Path, typer.Argument(help="A study, or a folder of tags (apmae tag --prompts).")],
    head: Annotated[
        list[str] | None, typer.Option(metavar="LAYER.HEAD", help="A head, such as 3.5; repeatable; all by default.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="A score of docs/scores.md, 'strength', or a column of --values.")
    ] = "strength",
    count: Annotated[int, typer.Option(help="Prompts of each head with the largest value.")] = 10,
    per_decile: Annotated[int, typer.Option(help="Prompts drawn from each tenth of a head's prompts.")] = 2,
    values: Annotated[
        Path | None, typer.Option(help="A Parquet table of your own: prompt, layer, head and the column --by.")
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option("--lm", help="The study's model, to see what is attended to and to write tables and pages."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="The study's prompts, if they are not in its folder; of tags, what was tagged.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; by default top/ and the value's name in the study.")] = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Show the prompts on which heads do something most, and some of all others."""
    from apmae.config import TopConfig, parse
    from apmae.engine.head_checks import expect_top, parse_top_heads

    asked = {"by": by, "heads": parse_top_heads(head), "count": count, "per_decile": per_decile, "seed": seed}
    config = parse(TopConfig, {**asked, **settings(set_)}, "top")
    model = None if lm is None else lm_config(lm, loading)
    expect_top(model, study, config, out=out, prompts=prompts, values=values, overwrite=overwrite)
    if model is None:
        from apmae.engine.chosen import choose_top, print_chosen

        print_chosen(study, config, choose_top(study, config, values=values))
        say("Tables, pages and what is attended to: give the study's model (--lm)")
        return
    from apmae.engine.top import make_top, print_made

    made = make_top(model, study, config, out=out, prompts=prompts, values=values, overwrite=overwrite)
    print_made(study, config, made)
    say(f"see {made.page}")


def similar(
    query: Annotated[
        str,
        typer.Argument(
            help="STUDY:PROMPT.LAYER.HEAD, STUDY:LAYER.HEAD for all its prompts (of tags likewise), or a file of "
            "patterns (.npy, .npz, .safetensors)."
        ),
    ],
    in_: Annotated[list[Path], typer.Option("--in", help="A study to search, or a folder of tags; repeatable.")],
    count: Annotated[int, typer.Option(help="Heads shown.")] = 10,
    encoder: EncoderOption = "bundled",
    json_: Annotated[Path | None, typer.Option("--json", help="Write all rows as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of the query and of its nearest heads.")] = None,
    seed: SeedOption = 0,
    set_: SetOption = None,
) -> None:
    """Find the heads of studies whose patterns are nearest to some, of the same or of other models."""
    from apmae.config import SimilarConfig, parse
    from apmae.engine.similar_checks import expect_similar

    config = parse(SimilarConfig, {"count": count, "seed": seed, **settings(set_)}, "similar")
    expect_similar(query, in_, encoder, json_, picture)
    from apmae.engine.similar import print_similar, write_similar

    print_similar(write_similar(query, in_, config, encoder=encoder, json=json_, picture=picture))
    for what, path in (("JSON", json_), ("picture", picture)):
        if path is not None:
            say(f"{what} in {path}")
