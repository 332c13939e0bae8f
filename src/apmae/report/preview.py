"""Prompts as a person reads them, in a terminal: the context with the span highlighted, its task, its source."""

import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from apmae.prompts.prompt import Prompt
from apmae.report.console import open_console

LINES = 6
"""Lines of context shown on each side."""
_WIDTH = 160
"""Most characters shown of a line."""
_SPAN = 400
"""Most characters shown of a span or a field."""
_OPEN, _CLOSE = "\u27e6", "\u27e7"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that cannot be seen, or that move the text around them."""


def print_prompts(prompts: Sequence[Prompt], count: int, console: Console | None = None) -> None:
    """Print the first prompts: a heading, then the text with the span in double brackets.

    This works without colour and into a file: colour only repeats what the brackets and headings say.

    Args:
        prompts: any.
        count: how many to show.
        console: where to print; standard output by default.
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
    """A text in which every character is visible, and none reorders the text around it.

    A tab becomes an arrow and blanks, another control character its sign or a code such as ``<U+202E>``. A line break
    gets a sign before it.

    Args:
        text: any, including lone surrogates.
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
    fields = [prompt.task, prompt.language, prompt.outcome or "no model asked", f"{prompt.path}:{prompt.line}"]
    fields += [prompt.split, f"id {prompt.id}", *([f"group {prompt.group}"] if prompt.group is not None else [])]
    if prompt.answer is not None:
        fields.append(f"answered {prompt.answer.predicted} at {prompt.answer.max_probability:.0%}")
    task, *rest = (readable(text[:_SPAN], breaks=False) for text in fields)
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
    """Context, whose line breaks need no sign."""
    return "\n".join(readable(line) for line in text.split("\n"))


def _print(console: Console, text: Text) -> None:
    """Print lines unwrapped, so that code stays as it is; characters that the terminal lacks are escaped."""
    encoding = console.encoding or "utf-8"
    known = text.plain.encode(encoding, "backslashreplace").decode(encoding)
    if known != text.plain:
        text = Text(known)
    console.print(text, soft_wrap=True, highlight=False, emoji=False, markup=False)


def _tail(text: str) -> str:
    """The last lines of a text, with an ellipsis for the rest."""
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
