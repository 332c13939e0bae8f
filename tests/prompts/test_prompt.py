"""When a predicted text continues a prompt as the expected one does: each rule by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.prompts.prompt import continues, undecided

RIGHT = [
    (")", ")"),
    (");", ")"),
    ("},", "}"),
    (" =", "="),  # leading blanks are not compared
    ("=", " ="),
    ("\n    }", "}"),
    ('"', '"key"'),  # the quote does not decide the string, but does not contradict it
    ('"key', '"key value"'),
    ("foo", "foo(bar)"),
    ("foo(", "foo(bar)"),
    (";", ";\n"),
    (";\n\n", ";\n"),
    ("don't", "don't go"),
    ("1", "1;"),
    ("0", "0..n"),
    ("1.5", "1.5)"),
    ("e\u0301", "e\u0301"),
    ("\n", "\n"),  # nothing but blanks is expected
    ("\n    ", "\n"),
    (" ", "  "),
]
WRONG = [
    ("(", ")"),
    ("get", "getName"),
    ("getName", "get"),
    ("1", "10"),
    ("10", "1"),
    ("1", "1.5"),
    ("1.5", "1"),
    ("1", "1e-5"),
    ("1e", "1e-5"),
    ("0x", "0xFF"),
    ("a", "a_b"),
    ("$", "$el"),
    ("don", "don't"),
    ("Mar", "Mary"),
    ("e", "e\u0301"),
    ("", ")"),
    (" ", ")"),
    ("\n", "foo"),
    ("\t", "\n"),
    (";}", ";\n"),
    ("\ufffd", "é"),
]


@pytest.mark.parametrize(("predicted", "expected"), RIGHT)
def test_right(predicted, expected):
    assert continues(predicted, expected)


@pytest.mark.parametrize(("predicted", "expected"), WRONG)
def test_wrong(predicted, expected):
    assert not continues(predicted, expected)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [("get", "getName"), ("1", "10"), (" ", "foo"), ("", "foo"), (" 1", "1.5"), ("\ufffd", "é"), ("a\ufffd", "aé")],
)
def test_a_prediction_that_agrees_but_ends_inside_a_word_is_undecided(predicted, expected):
    assert undecided(predicted, expected)
    assert not continues(predicted, expected)


@pytest.mark.parametrize(
    ("predicted", "expected"), [("getN", "get"), ("set", "getName"), ("foo", "foo("), ("\n", "\n"), ("x", "")]
)
def test_a_prediction_that_disagrees_or_is_complete_is_decided(predicted, expected):
    assert not undecided(predicted, expected)


TEXT = st.text(alphabet="ab1. \n_(=e-'é\u0301", max_size=6)


@given(predicted=TEXT, expected=TEXT)
def test_no_text_is_both_right_and_undecided(predicted, expected):
    assert not (continues(predicted, expected) and undecided(predicted, expected))
    assert continues(expected, expected) == bool(expected)
    assert continues(predicted, expected) == continues(" " + predicted, expected) or not expected.strip()
