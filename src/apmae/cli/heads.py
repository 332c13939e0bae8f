"""A model's heads on one prompt: ``tag`` and ``show``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from apmae.cli.options import AtlasOption, DeviceOption, DtypeOption, EncoderOption, InfillOption, load, say
from apmae.errors import ConfigError


def tag(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    file: Annotated[Path, typer.Argument(help="Source file with the line to complete.")],
    line: Annotated[int, typer.Option(help="Line whose completion is tagged, from 1.")],
    column: Annotated[
        int | None, typer.Option(help="Where in the line, from 1; by default its first character.")
    ] = None,
    encoder: EncoderOption = "bundled",
    atlas: AtlasOption = "bundled",
    json_: Annotated[Path | None, typer.Option("--json", help="Write every head's tag as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
) -> None:
    """Tag every head of a model on one completion, in one forward pass."""
    from apmae.analyze.tag import tag_prompt
    from apmae.artifacts import write_json
    from apmae.atlas.atlas import Atlas
    from apmae.model.mae import APMAE
    from apmae.prompts.line import line_prompt
    from apmae.report.page import write_tag_page
    from apmae.report.terminal import print_tags

    prompt = line_prompt(file, line, column)
    mae = APMAE.from_pretrained(encoder)
    if atlas == "bundled" and not mae.equals(APMAE.from_pretrained()):
        raise ConfigError(
            f"expected an atlas fitted with the encoder {encoder}, the bundled one is of another: give --atlas"
        )
    places = Atlas.load(atlas)
    lm = load(model, device, dtype, infill)
    tagged = tag_prompt(lm, prompt, mae=mae, atlas=places)
    rows = tagged.tags.to_pylist()
    predicted = tagged.answer.predicted
    print_tags(rows, lm.num_layers, lm.num_heads, predicted=predicted, expected=tagged.window.expected_text)
    if json_:
        # JSON knows no NaN, which a score is where the prompt has no row to measure it on.
        finite = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        write_json(
            json_,
            {
                "model": model,
                "file": str(file),
                "line": line,
                "expected": tagged.window.expected_text,
                "predicted": predicted,
                "outcome": tagged.answer.outcome,
                "layers": lm.num_layers,
                "heads_per_layer": lm.num_heads,
                "heads": finite,
            },
        )
        say(f"JSON in {json_}")
    if html:
        write_tag_page(
            html,
            title=f"{model}: {file.name}, line {line}",
            tokens=list(tagged.window.tokens),
            rows=rows,
            layers=lm.num_layers,
            heads=lm.num_heads,
            predicted=predicted,
            expected=tagged.window.expected_text,
        )
        say(f"page in {html}")


def show(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a transformers model, or 'bundled'.")],
    prompt: Annotated[str | None, typer.Option(help="Text to show attention on; '-' reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Take the text from a file instead.")] = None,
    line: Annotated[int | None, typer.Option(help="With --file: complete this line, from 1, as tag does.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Text behind the completion position.")] = None,
    head: Annotated[
        list[str] | None, typer.Option(metavar="LAYER.HEAD", help="A head to draw large, such as 3.5; repeat it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A .png, or an .html page with numbers under the pointer.")] = Path(
        "show.html"
    ),
    scale: Annotated[str, typer.Option(help="Colours by log or linear probability.")] = "log",
    long: Annotated[
        str, typer.Option(help="Over 256 tokens: pool joins tokens to blocks, crop shows the last ones.")
    ] = "pool",
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    infill: InfillOption = "auto",
    attention: Annotated[
        str | None, typer.Option(help="What computes the model's output, for instance flash_attention_2.")
    ] = None,
) -> None:
    """Draw what heads attend to on one prompt: chosen ones large, or a contact sheet of all."""
    from apmae.engine.show import expect_options, parse_heads, prompt_text
    from apmae.engine.show import show as draw

    expect_options(out, scale, long)
    before, after = prompt_text(sys.stdin.read() if prompt == "-" else prompt, file, line, suffix)
    lm = load(model, device, dtype, infill, attention)
    heads = parse_heads(head, lm) if head else "all"
    shown = draw(lm, before, out, suffix=after, heads=heads, scale=scale, long=long)
    say(shown.summary)
