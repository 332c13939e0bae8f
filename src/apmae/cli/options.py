"""What the commands have in common: options, ``--set``, and how the model is loaded.

A decorator gives a command the options of loading a model, so that the commands cannot drift apart.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar, cast

import typer

from apmae.errors import ConfigError, SourceError

LMOption = Annotated[
    str,
    typer.Option("--lm", help="Folder or hub id of a transformers model; or bundled, bundled-medium or -small."),
]
EncoderOption = Annotated[str, typer.Option(help="Folder or hub id of an AP-MAE, or 'bundled'.")]
AtlasOption = Annotated[str, typer.Option(help="Folder of an atlas, or 'bundled'.")]
SeedOption = Annotated[int, typer.Option(help="Seed of all random choices.")]
_LOADING = {
    "device": Annotated[
        str | None, typer.Option(help="Where models run: cpu (default), cuda, cuda:1; auto spreads the language model.")
    ],
    "dtype": Annotated[
        str | None, typer.Option(help="The language model's precision: float32 (default), bfloat16, float16.")
    ],
    "infill": Annotated[
        str | None,
        typer.Option(
            help="How right context is given: auto (default), none, a family, or a template with {prefix} and {suffix}."
        ),
    ],
    "outcome_rule": Annotated[
        str | None,
        typer.Option(help="What makes an answer correct: its text (default), or its first token, as in the paper."),
    ],
    "attention": Annotated[
        str | None,
        typer.Option(help="What computes the model's output: sdpa if it has it (default), flash_attention_2, ..."),
    ],
}
"""Options of how a language model is loaded: the fields of ``LMConfig`` other than its source."""
_ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an artifact made from something else.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the stage; docs/pipeline.md has them."),
]


Command = TypeVar("Command", bound=Callable[..., None])


def loads_lm(command: Command) -> Command:
    """Give a command the options of how a language model is loaded; it gets the values given as ``loading``."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        given = {name: options.pop(name) for name in _LOADING}
        _expect_attention(given["attention"])
        command(**options, loading={name: value for name, value in given.items() if value is not None})

    signature = inspect.signature(command)
    own = [parameter for name, parameter in signature.parameters.items() if name != "loading"]
    last = own.pop() if own[-1].name == "set_" else None
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _LOADING.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters += [*added, *([last.replace(kind=inspect.Parameter.KEYWORD_ONLY)] if last else [])]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    return cast(Command, wrapped)


def _expect_attention(name: str | None) -> None:
    """Refuse what no transformers offers. A library's user may have registered other names; a command has no such."""
    if name is None or "/" in name or name.removeprefix("paged|") in _ATTENTIONS:  # a kernel on the hub has a /
        return
    raise ConfigError(
        f"expected --attention to be one of {', '.join(_ATTENTIONS)}, or a kernel on the hub (OWNER/NAME), got {name!r}"
    )


def lm_config(source: str, loading: Mapping[str, Any]) -> Any:
    """The language model that a command's options ask for."""
    from apmae.config import LMConfig, parse

    return parse(LMConfig, {"source": source, **loading}, "language model")


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


def read_input() -> str:
    """All of standard input, as text."""
    if sys.stdin is None:
        raise SourceError("expected text on standard input, it is closed; pipe some, or give the text itself")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"expected UTF-8 on standard input, byte {error.start} is not; convert it") from None


def say(line: str) -> None:
    """Print a line on standard output."""
    typer.echo(line)


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Whole numbers separated by commas; none of them for "none".

    Raises:
        ConfigError: if one is no number.
    """
    if text is None or text == "none":
        return None if text is None else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"expected {option} as whole numbers such as 1,4,16, or 'none', got {text!r}") from None
