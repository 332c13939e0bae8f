"""The command lines under the help: every command has one, and its options exist."""

import re
import shlex

import typer

from apmae.cli import app
from apmae.cli.examples import EXAMPLES

COMMANDS = typer.main.get_command(app).commands


def test_every_command_has_an_example_of_its_own():
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert all(line.split()[:2] == ["apmae", name] for name, (line, _) in EXAMPLES.items())


def test_an_example_parses():
    """As click parses arguments and options; nothing is run."""
    for name, (line, _) in EXAMPLES.items():
        words = shlex.split(line.partition(" > ")[0])[2:]
        COMMANDS[name].make_context(name, words)


def test_options_and_commands_that_the_advice_names_exist():
    options = {option for command in COMMANDS.values() for own in command.params for option in own.opts}
    for _, advice in EXAMPLES.values():
        assert set(re.findall(r"--[a-z-]+", advice)) <= options
        assert set(re.findall(r"apmae ([a-z]+)", advice)) <= COMMANDS.keys()


def test_the_help_shows_it(apmae_command, command_line):
    for name, (line, advice) in EXAMPLES.items():
        printed = " ".join(apmae_command(name, "--help").stdout.split())
        assert f"Example: {line}" in printed and " ".join(advice.split()) in printed


def test_the_version_is_the_packages(apmae_command):
    from importlib.metadata import version

    assert apmae_command("--version").stdout == f"apmae {version('apmae')}\n"
