"""One completion of each source file, whatever its language: prompts of a folder as it is. Torch-free."""

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from apmae.config import PromptsConfig, parse
from apmae.corpus.source import Source, SourceHandle
from apmae.errors import SourceError
from apmae.prompts.fim import check_plain
from apmae.prompts.languages import LANGUAGES
from apmae.prompts.offsets import offsets_of
from apmae.prompts.parser import parse_in_order
from apmae.prompts.prompt import Prompt
from apmae.prompts.sampling import from_file
from apmae.prompts.sentinels import spelled
from apmae.seeding import unit_hash

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PROSE = "text"


def files_by_language(source: Source) -> dict[str, list[SourceHandle]]:
    """The source files of each language that a source has. Prose counts only where there is no code: a README beside
    code is not what its reader wants to know about.

    Raises:
        SourceError: if it cannot be listed, or has no file of any language.
    """
    every = {suffix: name for name, language in LANGUAGES.items() for suffix in language.suffixes}
    found: dict[str, list[SourceHandle]] = {}
    for handle in source.handles(tuple(every)):
        ends = [suffix for suffix in every if handle.path.endswith(suffix)]
        found.setdefault(every[max(ends, key=len)] if ends else _PROSE, []).append(handle)
    code = {language: handles for language, handles in found.items() if language != _PROSE}
    return code or found


def prompts_of_files(
    source: Source, tokenizer: "Tokenizer", *, length: int, seed: int, rejected: Counter[str]
) -> list[Prompt]:
    """A completion of each file: of the tasks that the file has a span of, one is drawn, and then a span of it.

    Args:
        source: where the files are.
        tokenizer: of the model; ``random`` spans are made of its tokens.
        length: tokens of the window.
        seed: decides the draws, which depend on a file's path alone.
        rejected: counts files that give no prompt, by reason: those of :meth:`SourceHandle.read`, "too_slow",
            "too_much_memory" or "crashed" (the parser gave up), "sentinel_in_text" and "no_span".

    Returns:
        Prompts, ordered by path.

    Raises:
        SourceError: as :func:`files_by_language`, if no file gives a prompt, and if the source is a single file that
            cannot be used.
        ConfigError: if a language's grammar is not installed, or the tokenizer truncates or pads.
    """
    check_plain(tokenizer)
    offsets, sentinels = offsets_of(tokenizer), spelled(tokenizer)
    prompts: list[Prompt] = []
    own = Counter[str]()
    for language, handles in files_by_language(source).items():
        config = parse(PromptsConfig, {"language": language, "length": length, "seed": seed}, "prompts")
        with closing(parse_in_order(handles, language, lambda tasks=config.tasks: tasks)) as files:
            for parsed in files:
                reasons = Counter[str]()
                found, _ = from_file(parsed, config.tasks, 0, config, offsets, sentinels, reasons)
                if found:
                    prompts.append(min(found, key=lambda one: unit_hash(seed, "file", one.path, one.task)))
                else:
                    own[_reason(reasons)] += 1
    rejected.update(own)
    if not prompts:
        said = ", ".join(f"{count} {reason}" for reason, count in own.most_common())
        raise SourceError(f"expected a file with something to complete in {source.name}, found none ({said})")
    return sorted(prompts, key=lambda one: one.path)


def _reason(reasons: Counter[str]) -> str:
    """Why a file gave no prompt: that it cannot be read or parsed, else what was wrong with its spans."""
    for reason in reasons:
        if reason not in ("parse_error", "no_span", "sentinel_in_text"):
            return reason
    return "sentinel_in_text" if reasons["sentinel_in_text"] else "no_span"
