"""How a sheet shows tokens and probabilities."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.report.sheet import DECADES, LABEL, HeadPattern, Sheet, label, printable, shade

ANY_TEXT = st.text(st.characters(categories=None, codec=None), max_size=30)  # lone surrogates too


def shown(text):
    return all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


@given(ANY_TEXT)
def test_a_label_is_short_visible_and_in_one_line(token):
    text = label(token)
    assert 0 < len(text) <= max(LABEL, len("(nothing)"))
    assert shown(text)
    assert not any(character.isspace() for character in text)


@given(ANY_TEXT)
def test_running_text_keeps_its_lines_and_hides_nothing(token):
    text = printable(token)
    assert text.count("\n") == token.count("\n")
    assert shown(text.replace("\n", "").replace("\t", ""))
    assert len(text) >= len(token)


def test_labels_of_known_tokens():
    assert [label(token) for token in (" int", "\n\t", "\x00", "\u202e", "", "a" * 99)] == [
        *("\u2423int", "\u21b5\u21e5", "\\x00", "\\u202e", "(nothing)", "a" * 13 + "\u2026"),
    ]


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_shades_are_those_of_the_formula(scale):
    probabilities = np.float32([[1.0, 0.0, 0.5], [1e-2, 1e-4, 1e-9], [1.0000002, 0.1, 1e-3]])
    found = shade(probabilities, scale)
    for p, value in zip(probabilities.ravel().tolist(), found.ravel().tolist(), strict=True):
        if p == 0:
            assert np.isnan(value)
        else:
            wanted = min(p, 1) if scale == "linear" else min(max(1 + np.log10(p) / DECADES, 0), 1)
            assert value == pytest.approx(wanted, abs=1e-6)


def sheet(count, **more):
    pattern = HeadPattern(0, 0, "", np.eye(count, dtype=np.float32))
    return Sheet("m", tuple(f"t{i} " for i in range(count)), (pattern,), causal=True, **more)


def test_a_sheet_says_how_rows_represent_tokens():
    assert sheet(1).size == "1 token"
    assert sheet(3).size == sheet(3, reach="pool", length=3).size == "3 tokens"
    assert sheet(3, reach="pool", length=1200).size == "1,200 tokens, pooled to 3 blocks"
    assert sheet(3, reach="crop", length=9).size == "9 tokens, the last 3 shown"


def test_the_excerpt_is_one_short_line():
    assert sheet(3).excerpt == "t0 t1 t2"
    assert sheet(3, reach="pool", length=9).excerpt == "t0 \u00b7 t1 \u00b7 t2 \u00b7"
    assert len(sheet(60).excerpt) == 90
    assert sheet(60).excerpt.endswith("\u2026")
