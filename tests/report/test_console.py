"""Tables whose lines fit: what is wrapped, what is left out, and how wide a line is."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from apmae.report.console import Column, print_point, print_table, wrapped

NAMES = ["local band + previous token", "induction", "self"]
TABLE = (
    Column(header="cluster", cells=["0", "1", "2"]),
    Column(header="name", cells=NAMES, min_width=12),
    Column(header="patterns", cells=["400", "398", "255"], priority=1),
    Column(header="share", cells=["4.2%", "4.1%", "2.7%"], priority=3),
    Column(header="looks at", cells=["", "words", ""], priority=2),
)


def printed(columns, width, elsewhere="the report has them"):
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), columns, elsewhere)
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


def headers(lines):
    return [header for header in ("cluster", "name", "patterns", "share", "looks at") if header in lines[0]]


def test_a_table_with_room_is_whole():
    lines = printed(TABLE, 80)
    assert headers(lines) == ["cluster", "name", "patterns", "share", "looks at"]
    assert [line.split("  ")[1:] for line in lines[2:]][1] and len(lines) == 5
    assert all(name in line for name, line in zip(NAMES, lines[2:], strict=True))


@pytest.mark.parametrize(
    # 7 + 8 + 5 + 8 characters besides the name's, 3 for each of five columns and 1: 44; the name has 27, or 12
    ("width", "kept", "name"),
    [
        (71, "cluster name patterns share looks at", ["local band + previous token"]),
        (70, "cluster name patterns share looks at", ["local band + previous", "token"]),
        (56, "cluster name patterns share looks at", ["local band +", "previous", "token"]),
        (55, "cluster name share looks at", ["local band + previous", "token"]),
        (45, "cluster name share looks at", ["local band +", "previous", "token"]),
        (44, "cluster name share", ["local band + previous", "token"]),
        (33, "cluster name", ["local band +", "previous token"]),
        (23, "cluster name", ["local", "band +", "previous", "token"]),
    ],
)
def test_texts_are_wrapped_first_then_columns_are_left_out_by_priority(width, kept, name):
    lines = printed(TABLE, width)
    assert " ".join(headers(lines)) == kept
    start = lines[0].index("name")
    assert [re.split(r" {2,}", line[start:])[0] for line in lines[2 : 2 + len(name)]] == name
    assert [line[2] for line in lines[2:] if line[2] != " "][:3] == ["0", "1", "2"], "a number begins each row"
    assert all(len(line) <= width for line in lines)
    left = [header for header in ("patterns", "share", "looks at") if header not in kept]
    note = " ".join(line.strip() for line in lines[4 + len(name) :])
    assert note == (f"Left out to fit {width} characters: {', '.join(left)}; the report has them." if left else "")


@given(
    texts=st.lists(st.lists(st.text(st.characters(categories=["L", "N", "P", "Zs", "So"]), max_size=40), min_size=3,
                            max_size=3), min_size=1, max_size=6),
    width=st.integers(20, 120),
)  # fmt: skip
def test_lines_fit_and_no_text_is_cut_whatever_it_holds(texts, width):
    columns = [
        Column(header=f"h{number}", cells=cells, priority=number or None, min_width=2 if not number else None)
        for number, cells in enumerate(texts)
    ]
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), columns, "x")
    table = stream.getvalue().split("Left out")[0].splitlines()
    assert all(cell_len(line) <= width for line in table)
    found = "".join("".join(table).split())
    for column in columns[:1]:  # never left out
        for cell in column.cells:
            assert not Counter("".join(cell.split())) - Counter(found)


def test_brackets_are_text():
    assert "a[b]c [/bold]" in printed([Column(header="name", cells=["a[b]c [/bold]"])], 80)[2]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("local band", 10, ["local band"]),
        ("local band + induction", 12, ["local band +", "induction"]),
        ("local band, 41 to 53 %", 20, ["local band, 41 to", "53 %"]),
        ("3.4 (20%), 3.5 (19%)", 15, ["3.4 (20%),", "3.5 (19%)"]),
        ("3.4 (20%)", 5, ["3.4", "(20%)"]),
        ("bigcode/starcoder2-15b", 12, ["bigcode/star", "coder2-15b"]),
        ("a bigcode/starcoder2-15b", 12, ["a", "bigcode/star", "coder2-15b"]),
        ("\u540d\u524d\u540d\u524d\u540d\u524d", 7, ["\u540d\u524d\u540d", "\u524d\u540d\u524d"]),
        ("", 5, [""]),
    ],
)
def test_wrapped(text, width, lines):
    assert wrapped(text, width) == lines
    assert all(cell_len(line) <= width for line in lines)


def test_the_column_with_most_room_is_narrowed_first():
    long, short = "one two three four five six seven", "eight nine ten"
    columns = [Column(header="a", cells=[long], min_width=20), Column(header="b", cells=[short], min_width=5)]
    lines = printed(columns, 50)
    rows = [re.split(r" {2,}", line.strip()) for line in lines[2:]]
    assert rows == [["one two three four five six", short], ["seven"]]


def test_a_sentence_is_indented_after_its_mark_and_keeps_what_belongs_together():
    stream = io.StringIO()
    print_point(Console(file=stream, width=30), "Heads by distinct clusters: 1.4\u00a0(14), 5.1\u00a0(14)")
    assert stream.getvalue() == "  → Heads by distinct\n    clusters: 1.4\u00a0(14),\n    5.1\u00a0(14)\n"


WIDTH = "from apmae.report.console import open_console; print(open_console().width)"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(None, "80"), ("132", "132"), ("", "80"), ("wide", "80"), ("0", "80"), ("00", "80"), ("-5", "80"), ("²", "80")],
)
def test_without_a_terminal_a_line_has_eighty_characters_or_those_of_the_variable(columns, expected, environment):
    """Also if standard input is a terminal, of whatever width."""
    variables = {name: value for name, value in environment.items() if name != "COLUMNS"}
    variables |= {} if columns is None else {"COLUMNS": columns}
    ours, theirs = pty.openpty()
    run = subprocess.run([sys.executable, "-c", WIDTH], stdin=theirs, capture_output=True, text=True, env=variables)
    os.close(ours)
    os.close(theirs)
    assert run.stdout.strip() == expected, run.stderr


@pytest.mark.parametrize(
    ("terminal", "columns", "expected"),
    [(97, None, "97"), (97, "0", "97"), (97, "wide", "97"), (97, "132", "132"), (0, None, "80"), (0, "0", "80")],
)
def test_a_line_is_as_wide_as_the_terminal_unless_the_variable_says_otherwise(terminal, columns, expected, environment):
    variables = {name: value for name, value in environment.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    variables |= {} if columns is None else {"COLUMNS": columns}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, terminal))
    subprocess.run([sys.executable, "-c", WIDTH], stdout=theirs, env=variables, check=True)
    assert os.read(ours, 100).decode().strip() == expected
    os.close(ours)
    os.close(theirs)
