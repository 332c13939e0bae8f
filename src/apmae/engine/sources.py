"""What a user gives as input: source files, a file of prompts, circuits, or a text. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from apmae.config import CodeCircuit
from apmae.corpus.parse import parse_source
from apmae.corpus.source import Source
from apmae.errors import ConfigError
from apmae.prompts.circuits import SCHEME
from apmae.prompts.each_file import files_by_language
from apmae.prompts.files import SUFFIXES
from apmae.prompts.line import line_prompt, read_source


class Given(NamedTuple):
    """Sources by kind: one of the three is given, or circuits of code and source files."""

    files: tuple[Source, ...] = ()
    """Where prompts are drawn from."""
    prompts: Path | None = None
    """A file of prompts, which are used as they are."""
    circuits: tuple[str, ...] = ()
    """Names of circuits, whose prompts are made for a model's tokens."""

    def expect_files(self) -> tuple[Source, ...]:
        """The source files.

        Raises:
            ConfigError: if the sources are something else.
        """
        if self.circuits:
            circuit = SCHEME + self.circuits[0]
            raise ConfigError(
                f"expected source files, got {circuit}: make its prompts with apmae prompts {circuit} --lm MODEL "
                "--out circuit.parquet, and give that file as the only source"
            )
        if self.prompts is not None:
            raise ConfigError(
                f"expected source files, got the prompts {self.prompts}; give folders, files, zips or tars, "
                "or 'bundled'"
            )
        return self.files


def parse_sources(given: Sequence[str]) -> Given:
    """Find out of which kind sources are.

    Args:
        given: any number of what ``parse_source`` takes; or one ``.jsonl`` or ``.parquet`` file; or any number of
            ``circuit:NAME``, with source files if circuits of code are among them.

    Raises:
        ConfigError: if nothing is given, circuits of code without source files, or other circuits with them.
        SourceError: if there is nothing at the path of a source file.
    """
    if not given:
        raise ConfigError("expected sources, got none; give folders, files, zips or tars, or 'bundled'")
    circuits = tuple(source.removeprefix(SCHEME) for source in given if source.startswith(SCHEME))
    if circuits:
        others = [source for source in given if not source.startswith(SCHEME)]
        code = [name for name in circuits if name in get_args(CodeCircuit)]
        if others and not code:
            raise ConfigError(f"expected circuits only, got {others[0]} as well: make two files of prompts")
        if code and not others:
            raise ConfigError(
                f"expected source files with {SCHEME}{code[0]}, whose prompts are drawn from them, got none; give "
                "folders, files, zips or tars, or 'bundled'"
            )
        return Given(files=tuple(map(parse_source, others)), circuits=circuits)
    if len(given) == 1 and Path(given[0]).suffix in SUFFIXES:
        return Given(prompts=Path(given[0]))
    return Given(files=tuple(map(parse_source, given)))


def files_to_tag(path: Path) -> Source | None:
    """The source files at a path: a folder, file, zip or tar; None if its suffix is that of a file of prompts.

    Raises:
        SourceError: if nothing is there, or no file of a language that prompts are drawn from.
    """
    if path.suffix in SUFFIXES:
        return None
    source = parse_source(path)
    files_by_language(source)
    return source


def prompt_text(text: str | None, file: Path | None, line: int | None, suffix: str | None) -> tuple[str, str | None]:
    """The text that the options of the command line name, and the text after the completion position.

    Raises:
        ConfigError: if the text is given twice or not at all, or ``line`` without a file.
        SourceError: if the file cannot be read.
    """
    if (text is None) == (file is None):
        raise ConfigError("expected one of --prompt and --file, got " + ("both" if file else "neither"))
    if line is not None:
        if file is None or suffix is not None:
            raise ConfigError("expected --line with --file and without --suffix: the lines below it are the suffix")
        prompt = line_prompt(file, line)
        return prompt.prefix, prompt.suffix
    return (text if file is None else read_source(file)) or "", suffix
