"""What the commands share: options, ``--set``, and how the model is loaded."""

from typing import Annotated, Any

import typer

from apmae.errors import ConfigError

LMOption = Annotated[
    str,
    typer.Option("--lm", help="Folder or hub id of a transformers model; or bundled, bundled-medium or -small."),
]
EncoderOption = Annotated[str, typer.Option(help="Folder or hub id of an AP-MAE, or 'bundled'.")]
AtlasOption = Annotated[str, typer.Option(help="Folder of an atlas, or 'bundled'.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every random choice.")]
DeviceOption = Annotated[
    str, typer.Option(help="Where models run: cpu, cuda, cuda:1; auto spreads the language model.")
]
DtypeOption = Annotated[str, typer.Option(help="Precision of the language model: float32, bfloat16, float16.")]
InfillOption = Annotated[
    str, typer.Option(help="How it sees right context: auto, none, a family, or a template with {prefix} and {suffix}.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an artifact made from something else.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the stage, for instance mask_ratio=0.75."),
]


def load(source: str, device: str, dtype: str, infill: str, attention: str | None = None) -> Any:
    """The language model that a command's options ask for."""
    from apmae.lm.load import load_lm

    return load_lm(source, device=device, dtype=dtype, attention=attention, infill=infill)


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """``--set key=value``: values are YAML scalars, checked by the stage's configuration."""
    import yaml

    values = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"expected --set KEY=VALUE, got {pair!r}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"expected YAML in --set {pair}: {' '.join(str(error).split())[:200]}") from None
    return values


def say(line: str) -> None:
    """A line on standard output."""
    typer.echo(line)
