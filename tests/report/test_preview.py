"""Prompts in a terminal: what a person reads, with and without colour, whatever is in the text."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from apmae.prompts.prompt import Answer, Prompt
from apmae.report.preview import LINES, print_prompts, readable

GIVEN = {"id": "a", "task": "eol", "language": "java", "path": "x/A.java", "split": "train", "line": 7, "start": 3}


def shown(*prompts, count=10, color=False, encoding="utf-8"):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, newline="")
    print_prompts(prompts, count, Console(file=stream, force_terminal=color, width=80, legacy_windows=False))
    stream.flush()
    return buffer.getvalue().decode(encoding)


def prompt(prefix="int x = ", completion="1", suffix=";\n", **fields):
    return Prompt(**{**GIVEN, **fields}, prefix=prefix, completion=completion, suffix=suffix)


def test_a_prompt_as_a_person_reads_it():
    printed = shown(prompt(outcome="correct", group="g"), prompt("a\nb\n", "c", None, id="b", counterfactual="a\nd\n"))
    assert printed == (
        "1/2  eol  java  correct  x/A.java:7  train  id a  group g\n"
        "int x = ⟦1⟧;\n\n\n"
        "2/2  eol  java  no model asked  x/A.java:7  train  id b\n"
        "a\nb\n⟦c⟧  (no right context)\n"
        "counterfactual: a\nd\n\n\n"
    )


def test_a_models_answer_is_shown():
    answer = Answer("\x1b[2J", False, False, False, 0.25, 0.1, 0.1, 1.0)
    assert shown(prompt(outcome="incorrect", answer=answer)).startswith(
        "1/1  eol  java  incorrect  x/A.java:7  train  id a  answered \u241b[2J at 25%\n"
    )


def test_colour_only_repeats_the_text():
    plain, colored = shown(prompt()), shown(prompt(), color=True)
    assert "\x1b" not in plain
    assert re.search(r"\x1b\[[\d;]*43m⟦1⟧\x1b\[0m", colored), "the span is highlighted"
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain


def test_markup_and_emoji_names_are_text():
    assert "⟦[/bold] :smile:⟧ [red]" in shown(prompt("", "[/bold] :smile:", " [red]"))


def test_long_contexts_are_cut_around_the_span():
    code = "".join(f"line {number};\n" for number in range(100))
    lines = shown(prompt(code + "x = ", "1", ";\n" + code)).splitlines()
    span = lines.index("x = ⟦1⟧;")
    assert lines[span - LINES : span] == ["…", *[f"line {number};" for number in range(95, 100)]]
    assert lines[span + 1 : span + LINES + 1] == [*[f"line {number};" for number in range(5)], "…"]


@pytest.mark.parametrize("side", ["prefix", "completion", "suffix", "task", "path", "counterfactual"])
def test_a_line_without_end_is_cut(side):
    printed = shown(prompt(**{side: "y" * 1_000_000}))
    assert "…" in printed or side in ("task", "path")
    assert len(printed) < 1500


def test_the_end_before_and_the_start_after_the_span_are_kept():
    printed = shown(prompt("a" * 999 + "b", "1", "c" + "d" * 999))
    assert "b⟦1⟧c" in printed
    assert printed.splitlines()[1].startswith("…a")


def test_invisible_characters_are_made_visible():
    hidden = "\x1b[31m\r\x00\x7f\x9b\u202e\u200b\ufeff\u2028\ud800\ue000"
    printed = shown(prompt(hidden, "x\r\n", hidden, path="a\nb", id="\x1b"))
    assert "⟦x␍↵\n⟧" in printed
    assert printed.count("␛[31m␍␀␡<U+009B><U+202E><U+200B><U+FEFF><U+2028><U+D800><U+E000>") == 2
    assert "a↵b:7" in printed
    assert "id ␛" in printed
    assert readable("a\tb") == "a⇥   b"


@settings(deadline=None)
@given(
    st.builds(prompt, *[st.text(st.characters(), max_size=20)] * 3, id=st.text(max_size=5), path=st.text(max_size=5))
)
def test_no_text_reaches_the_terminal_as_control(item):
    printed = shown(item)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]", printed)
    assert printed.count("⟦") == 1 + sum(
        text.count("⟦") for text in (item.prefix, item.completion, item.suffix, item.id, item.path)
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_the_terminal_lacks_are_escaped(encoding):
    printed = shown(prompt("日 = "), encoding=encoding)
    assert r"\u65e5 = \u27e61\u27e7;" in printed


def test_more_than_shown_are_counted():
    assert shown(*[prompt()] * 3, count=1).endswith("2 more\n")
