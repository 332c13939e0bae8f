"""A model's heads on one prompt: ``tag`` and ``show``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from apmae.cli.options import (
    AtlasOption,
    EncoderOption,
    OverwriteOption,
    SetOption,
    lm_config,
    loads_lm,
    read_input,
    say,
    settings,
)
from apmae.errors import ConfigError


@loads_lm
def tag(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    file: Annotated[Path | None, typer.Argument(help="Source file with the line to complete.")] = None,
    line: Annotated[int | None, typer.Option(help="Line whose completion is tagged, from 1.")] = None,
    column: Annotated[
        int | None, typer.Option(help="Where in the line, from 1; by default its first character that is no blank.")
    ] = None,
    encoder: EncoderOption = "bundled",
    atlas: AtlasOption = "bundled",
    json_: Annotated[Path | None, typer.Option("--json", help="Write every head's tag as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Tag on many prompts instead, Parquet or JSONL, or on one completion of each file in a folder, zip or "
            "tar; needs --out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --prompts: folder of the tags, their summary and its page.")
    ] = None,
    overwrite: OverwriteOption = False,
    set_: SetOption = None,
    *,
    loading: dict[str, Any],
) -> None:
    """Tag every head of a model, on one completion or on many prompts, in one forward pass for each."""
    of_one = {"FILE": file, "--line": line, "--column": column, "--json": json_, "--html": html}
    of_many = {"--prompts": prompts, "--out": out, "--overwrite": overwrite or None, "--set": set_ or None}
    one, many = ([name for name, value in given.items() if value is not None] for given in (of_one, of_many))
    if one and many:
        raise ConfigError(
            f"expected FILE with --line, or --prompts with --out, got {one[0]} and {many[0]}; leave one of them out"
        )
    if prompts is not None and out is not None:
        _tag_many(lm_config(model, loading), prompts, out, encoder, atlas, overwrite=overwrite, set_=set_)
        return
    if file is None or line is None:
        raise ConfigError(
            f"expected FILE with --line, or --prompts with --out, got {(one or many or ['neither'])[0]}"
            f"{' alone' if one or many else ''}; give both"
        )
    config = lm_config(model, loading)
    wanted: dict[str, Any] = {"column": column, "encoder": encoder, "atlas": atlas, "json": json_, "html": html}
    from apmae.engine.checks import expect_tag

    expect_tag(config, file, line, **wanted)
    from apmae.engine.tag import tag_file

    tag_file(config, file, line, **wanted)
    if json_:
        say(f"JSON in {json_}")
    if html:
        say(f"page in {html}")


def _tag_many(
    model: Any, prompts: Path, out: Path, encoder: str, atlas: str, *, overwrite: bool, set_: list[str] | None
) -> None:
    from apmae.config import TagsConfig, parse

    config = parse(TagsConfig, settings(set_), "tag")
    from apmae.engine.checks import expect_tags

    expect_tags(model, encoder, atlas, prompts, out, config, overwrite=overwrite)
    from apmae.engine.tags import print_summary, tag_corpus

    print_summary(tag_corpus(model, encoder, atlas, prompts, out, config, overwrite=overwrite))
    say(f"tags in {out}; see {out / 'index.html'} and {out / 'summary.json'}")


@loads_lm
def show(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    prompt: Annotated[str | None, typer.Option(help="Text to show attention on; '-' reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Take the text from a file instead.")] = None,
    line: Annotated[int | None, typer.Option(help="With --file: complete this line, from 1, as tag does.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Text after the completion position.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="LAYER.HEAD", help="A head to draw large, such as 3.5; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A .png, or an .html page with numbers under the pointer.")] = Path(
        "show.html"
    ),
    scale: Annotated[str, typer.Option(help="Colours by log or linear probability.")] = "log",
    long: Annotated[
        str, typer.Option(help="With over 256 tokens: pool joins tokens to blocks, crop shows the last ones.")
    ] = "pool",
    *,
    loading: dict[str, Any],
) -> None:
    """Draw what heads attend to on one prompt: chosen heads large, or a contact sheet of all."""
    config = lm_config(model, loading)
    from apmae.engine.checks import expect_show
    from apmae.engine.sources import prompt_text

    expect_show(config, out, scale, long, head or ())
    before, after = prompt_text(read_input() if prompt == "-" else prompt, file, line, suffix)
    from apmae.engine.show import show_heads

    say(show_heads(config, before, out, suffix=after, heads=head or (), scale=scale, long=long).summary)
