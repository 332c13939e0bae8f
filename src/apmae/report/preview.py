"""Prompts as a person reads them, in a terminal: the context with the span highlighted, its task, where it is from."""

import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from apmae.prompts.prompt import Prompt
from apmae.report.console import open_console

LINES = 6
"""Lines of context shown on each side."""
_WIDTH = 160
"""Characters of a line shown."""
_SPAN = 400
"""Characters of a span or a field shown."""
_OPEN, _CLOSE = "\u27e6", "\u27e7"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of what shows as nothing, or moves what stands around it."""


def print_prompts(prompts: Sequence[Prompt], count: int, console: Console | None = None) -> None:
    """Print the first prompts: a heading, then the text around the span, which stands in double brackets.

    Works without colour and into a file: colour only repeats what the brackets and headings say.

    Args:
        prompts: any.
        count: how many to show.
        console: where to; standard output by default.
    """
    console = console or open_console()
    for number, prompt in enumerate(prompts[:count], start=1):
        _print(console, _heading(prompt, number, len(prompts)))
        _print(console, _context(prompt))
        if prompt.counterfactual is not None:
            _print(console, Text.assemble(("counterfactual: ", "dim"), _plain(_tail(prompt.counterfactual))))
        _print(console, Text())
    if len(prompts) > count:
        _print(console, Text(f"{len(prompts) - count} more", style="dim"))


def readable(text: str, *, breaks: bool = True) -> str:
    """A text with everything that would show as nothing, or reorder what stands around it, made visible.

    Tabs become an arrow and blanks, other control characters their signs or ``<U+202E>``; a line break gets a sign
    before it.

    Args:
        text: any, half surrogate pairs included.
        breaks: whether a line break still breaks the line.
    """
    return "".join(_readable(character, breaks) for character in text)


def _readable(character: str, breaks: bool) -> str:
    if character == "\n":
        return "\u21b5\n" if breaks else "\u21b5"
    if character == "\t":
        return "\u21e5   "
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def _heading(prompt: Prompt, number: int, total: int) -> Text:
    said = [prompt.task, prompt.language, prompt.outcome or "no model asked", f"{prompt.path}:{prompt.line}"]
    said += [prompt.split, f"id {prompt.id}", *([f"group {prompt.group}"] if prompt.group is not None else [])]
    if prompt.answer is not None:
        said.append(f"answered {prompt.answer.predicted} at {prompt.answer.max_probability:.0%}")
    task, *rest = (readable(text[:_SPAN], breaks=False) for text in said)
    return Text.assemble((f"{number}/{total}  ", "dim"), (task, "bold cyan"), (f"  {'  '.join(rest)}", "dim"))


def _context(prompt: Prompt) -> Text:
    span = prompt.completion if len(prompt.completion) <= _SPAN else f"{prompt.completion[:_SPAN]}\u2026"
    after = "" if prompt.suffix is None else _plain(_head(prompt.suffix))
    return Text.assemble(
        _plain(_tail(prompt.prefix)),
        (f"{_OPEN}{readable(span)}{_CLOSE}", "bold black on yellow"),
        after,
        ("  (no right context)" if prompt.suffix is None else "", "dim"),
    )


def _plain(text: str) -> str:
    """Context: its line breaks are seen without a sign."""
    return "\n".join(readable(line) for line in text.split("\n"))


def _print(console: Console, text: Text) -> None:
    """Lines are not wrapped, so that code stays as it is; what the terminal cannot write is spelled out."""
    encoding = console.encoding or "utf-8"
    known = text.plain.encode(encoding, "backslashreplace").decode(encoding)
    if known != text.plain:
        text = Text(known)
    console.print(text, soft_wrap=True, highlight=False, emoji=False, markup=False)


def _tail(text: str) -> str:
    """The last lines of a text; what is left out is an ellipsis."""
    cut = "\n".join(text[-LINES * 4 * _WIDTH :].split("\n")[-LINES:])
    *lines, last = cut.split("\n")
    last = last if len(last) <= _WIDTH else f"\u2026{last[-_WIDTH:]}"
    joined = "\n".join([*(_short(line) for line in lines), last])
    return joined if len(cut) == len(text) else f"\u2026\n{joined}"


def _head(text: str) -> str:
    cut = "\n".join(text[: LINES * 4 * _WIDTH].split("\n")[:LINES])
    joined = "\n".join(_short(line) for line in cut.split("\n"))
    return joined if len(cut) == len(text) else f"{joined}\n\u2026"


def _short(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}\u2026"
