"""The command line: one command per stage, each from options to ``engine`` and nothing else. Heavy imports wait."""

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from apmae.cli import ablation, circuit, heads, hub, lookup, prediction, prompts, pruning, stages, study
from apmae.cli.examples import ABOUT, EXAMPLES
from apmae.cli.options import say
from apmae.cli.streams import drained
from apmae.errors import ApmaeError, MalformedError

app = typer.Typer(
    name="apmae",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=ABOUT,
)

_PANELS = {
    "Start here": (study.demo, study.run, study.recipes),
    "Stages": (
        prompts.prompts,
        stages.train,
        stages.evaluate,
        stages.encode,
        stages.dimensions,
        stages.locations,
        stages.answers,
        prediction.predict,
        ablation.ablate,
        pruning.prune,
        circuit.circuit,
        stages.cluster,
        stages.report,
    ),
    "Look heads up": (lookup.top, lookup.similar),
    "Use an atlas": (heads.tag,),
    "Use a model": (heads.show,),
    "Share": (hub.push,),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _example, _advice = EXAMPLES[_command.__name__]
        app.command(rich_help_panel=_panel, epilog=f"Example: {_example}\n\n{_advice}")(_command)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"apmae {version('apmae')}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Find, name and tag the attention patterns of a language model's heads."""


def main() -> NoReturn:
    """Entry point: a user's mistake is one line on stderr (one per mistake in a file of prompts) and exit code 2."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch(r"0*[1-9][0-9]{0,4}", os.environ.get(name, "")):
            os.environ.pop(name, None)  # Rich would print help of no width for 0, and fails at digits such as "²"
    with drained() as output:
        code = _code()
        sys.stdout.flush()
        if code == 0 and output.failure is not None:
            reason = output.failure.strerror
            code = _fail(f"cannot write standard output: {reason}; files that the command wrote are complete")
    sys.exit(code)


def _code() -> int:
    try:
        app()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except MalformedError as error:
        return _fail(error.heading if len(error.mistakes) > 1 else str(error), error.mistakes)
    except ApmaeError as error:
        return _fail(str(error))
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}"
        return _fail(
            f"cannot read or write{where}: {error.strerror or error}; check the path, its permissions and the disk"
        )
    return 0


def _fail(message: str, mistakes: Sequence[str] = ()) -> int:
    typer.echo(f"apmae: {' '.join(message.splitlines())}", err=True)
    for mistake in mistakes if len(mistakes) > 1 else ():
        typer.echo(f"  {mistake}", err=True)
    return 2
