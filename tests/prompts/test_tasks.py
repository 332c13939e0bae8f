"""Spans are checked by hand on a file with every trap, then by their shape on the bundled sample."""

import re
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.config import TASKS
from apmae.errors import ConfigError
from apmae.prompts.spans import Span
from apmae.prompts.tasks import find_spans, lexemes, parse_spans, random_spans

BUNDLED = sorted((resources.files("apmae") / "bundled" / "java").glob("**/*.java"))

# one trap per line; the comment after it says which
TRAPS = '''package p; // é: two bytes, one character
/* 1 == 2; "a" = true
 } */
class A<T extends Comparable<T>> {
    long hex = 0x1F_FFL;
    double d = -1.5e-3;
    byte b = (byte) ~0b1010_1, o = 017;
    String s = """
        if (x) { return "日本" + 1; }
        """;
    List<Map<String, T[]>> list = a >> 2 > 3 ? t : !f;
    boolean ok = true && x instanceof T == false || 'x' != '"';

    void f() throws E {
        y >>>= i++ - --j % 2;   
        @Ann(v = 3) int q; // = 4
        try (R r = open("\\"", null)) { q += 1; }
    }
}
'''

EXPECTED = {
    "closing_bracket": "> > ) ] > > ) ) ) ) } } }",
    "boolean_literal": "true false",
    "numeric_literal": "0x1F_FFL 1.5e-3 0b1010_1 017 2 3 2 3 1",
    "identifier": "p A T Comparable T hex d b o String s List Map String T list a t f ok x T "
    "f E y i j Ann v q R r open q",
    "boolean_operator": "> ! && == || !=",
    "math_operator": "- ~ >> ++ - -- %",
    "assignment_operator": "= = = = = = = >>>= = = +=",
}


def pieces(text, task):
    return [text[start:end] for start, end in find_spans(text, "java")[task]]


@pytest.mark.parametrize("task", EXPECTED)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_spans_of_a_file_of_traps(task, newline):
    assert pieces(TRAPS.replace("\n", newline), task) == EXPECTED[task].split()


def test_a_text_block_is_one_string_and_a_character_is_not_a_string():
    block = '"""\n        if (x) { return "日本" + 1; }\n        """'
    assert pieces(TRAPS, "string_literal") == [block, '"\\""']


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_eol_is_the_end_of_a_line_of_code(newline):
    text = TRAPS.replace("\n", newline)
    ends = find_spans(text, "java")["eol"]
    assert [text[start:end] for start, end in ends] == [f"{last}{newline}" for last in "{;;;;;;{}}}"]
    numbers = [text.count("\n", 0, start) + 1 for start, _ in ends]
    # 1 and 16 end in a comment, 2 is one, 3 ends one, 8 and 9 are in the text block, 13 is blank, 15 ends in blanks
    assert numbers == [4, 5, 6, 7, 10, 11, 12, 14, 17, 18, 19]


def test_some_places_counted_by_hand():
    text = 'class é { String a = "日本"; int b = 7; }\n'
    spans = find_spans(text, "java")
    assert spans["identifier"] == [(6, 7), (10, 16), (17, 18), (31, 32)]
    assert spans["string_literal"] == [(21, 25)]
    assert spans["numeric_literal"] == [(35, 36)]
    assert spans["closing_bracket"] == [(38, 39)]
    assert spans["eol"] == [(38, 40)]


def test_eol_takes_the_last_lexeme_whole():
    text = "class A {\n  int é =\n    foo_1$x\n    + 20\n  ;\n}"
    assert pieces(text, "eol") == ["{\n", "=\n", "foo_1$x\n", "20\n", ";\n"]


def test_the_last_line_without_a_line_end_has_no_eol():
    assert find_spans("class A {\n}", "java")["eol"] == [(8, 10)]


def test_a_very_long_word_takes_no_time():
    """A table in a string, as in generated code: 0.1 s here, hours if every letter were tried as a start."""
    text = f'class A {{\n  String s = "{"x" * 900_000}";\n}}\n'
    assert pieces(text, "eol") == ["{\n", ";\n", "}\n"]


def test_spans_in_parts_that_do_not_parse_are_dropped():
    broken = "class A { int x = ; true ) }\nclass B { int y = 1; }\n"
    parsed = parse_spans(broken, "java")
    assert parsed.has_error
    assert [broken[start:end] for start, end in parsed.spans["numeric_literal"]] == ["1"]
    assert len(parsed.spans["boolean_literal"]) == 0
    text = "interface I { int q() default 3; int r = 4; }"  # the parser reads 3 as a number, q() as an error
    assert pieces(text, "numeric_literal") == ["4"]
    assert not parse_spans(TRAPS, "java").has_error


def test_a_bracket_that_the_parser_made_up_is_not_a_span():
    text = "class A { void f() { g(1; } }"
    assert parse_spans(text, "java").has_error
    assert pieces(text, "closing_bracket") == [")", "}", "}"]


def test_fewer_tasks_give_the_same_spans_of_those():
    every = find_spans(TRAPS, "java")
    assert set(every) == set(TASKS) - {"random"}
    for task, spans in every.items():
        found = parse_spans(TRAPS, "java", [task]).spans
        assert list(found) == [task]
        assert found[task].tolist() == [list(span) for span in spans]


def test_an_empty_file_has_no_spans():
    assert not any(find_spans("", "java").values())


def test_an_unknown_language_is_refused():
    with pytest.raises(ConfigError, match="expected a language among cpp, go, java, .*, got 'cobol'"):
        find_spans("", "cobol")


@pytest.mark.parametrize("file", BUNDLED, ids=lambda file: file.name)
def test_spans_of_real_java_look_like_their_task(file):
    text = file.read_bytes().decode()
    parsed = parse_spans(text, "java")
    assert not parsed.has_error
    looks = {
        "closing_bracket": r"[)\]}>]",
        "boolean_literal": "true|false",
        "string_literal": r'".*"',
        "numeric_literal": r"\.?\d[\w.+-]*",
        "identifier": r"[\w$]+",
        "boolean_operator": r"&&|\|\||[=!<>]=|[<>!]",
        "math_operator": r"[-+*/%&|^~]|<<|>>>?|\+\+|--",
        "assignment_operator": r"([-+*/%&|^]|<<|>>>?)?=",
        "eol": r"([\w$]+|[^\w\s])\r?\n",
    }
    assert set(looks) == set(parsed.spans)
    for task, pattern in looks.items():
        spans = [Span(*pair) for pair in parsed.spans[task].tolist()]
        assert spans == sorted(set(spans))
        assert all(re.fullmatch(pattern, text[start:end], re.DOTALL) for start, end in spans), task
    # an independent count: outside comments and quotes, brackets open as often as they close
    code = re.sub(r'"""[\s\S]*?"""|"(\\.|[^"\\\n])*"|\'(\\.|[^\'\\\n])*\'|//[^\n]*|/\*[\s\S]*?\*/', " ", text)
    closing = [start for start, _ in parsed.spans["closing_bracket"].tolist() if text[start] != ">"]
    assert len(closing) == sum(code.count(bracket) for bracket in ")]}")


NAMES = st.text(alphabet="abé日𝒳ж_", min_size=1, max_size=5).filter(lambda name: name != "_")  # a keyword


@given(names=st.lists(NAMES, min_size=1, max_size=8), comment=st.text(alphabet="x é日\U0001f600", max_size=10))
def test_offsets_are_exact_after_any_text(names, comment):
    text, places = f"// {comment}\nclass K {{\n", []
    for name in names:
        text += f'    String s = "{comment}"; int '
        places.append((len(text), len(text) + len(name)))
        text += f"{name} = 1;\n"
    text += "}\n"
    identifiers = find_spans(text, "java")["identifier"]
    assert identifiers[3::3] == places  # K, then String, s and the name


@given(lengths=st.lists(st.integers(1, 6), max_size=40), count=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_random_spans_are_three_to_ten_whole_tokens_with_different_starts(lengths, count, seed):
    ends = np.cumsum([0, *lengths]).tolist()
    offsets = list(zip(ends, ends[1:], strict=False))
    spans = random_spans(offsets, count, np.random.default_rng(seed))
    assert len(spans) == min(count, max(len(lengths) - 2, 0))
    assert len({span.start for span in spans}) == len(spans)
    for start, end in spans:
        assert 3 <= ends.index(end) - ends.index(start) <= 10
    longer = random_spans(offsets, count + 1, np.random.default_rng(seed))
    assert longer[: len(spans)] == spans


def test_random_spans_have_every_length_and_come_from_everywhere():
    offsets = [(i, i + 1) for i in range(500)]
    spans = random_spans(offsets, 500, np.random.default_rng(0))
    assert {end - start for start, end in spans} == set(range(3, 11))
    assert {start for start, _ in spans} == set(range(498))


def test_tokens_of_one_character_give_no_empty_span():
    offsets = [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (2, 2), (2, 2), (2, 2)]
    spans = random_spans(offsets, 10, np.random.default_rng(1))
    assert {span.start for span in spans} == {0, 1}
    assert all(span.end > span.start for span in spans)


def test_lexemes_by_hand():
    text = '  int x_1 = 1.5e3;\n\n\tfoo("a b");  '
    expected = ["  int", " x_1", " =", " 1.5e3", ";", "\n\n\tfoo", "(", '"', "a", " b", '"', ")", ";", "  "]
    assert [text[start:end] for start, end in lexemes(text)] == expected


@given(st.text())
def test_lexemes_cover_the_text(text):
    assert "".join(text[start:end] for start, end in lexemes(text)) == text


def test_the_rooms_load_without_torch_or_transformers():
    code = (
        "import sys, apmae.prompts.draw, apmae.prompts.files, apmae.prompts.line, apmae.corpus.parse; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
