"""The tasks of plain text, in addition to ``test_golden.py``."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.config import TEXT_TASKS
from apmae.prompts.tasks import find_spans
from apmae.prompts.text import NEAR


def pieces(text, task):
    return [text[start:end] for start, end in find_spans(text, "text")[task]]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("It rains. We stay.", [8, 17]),
        ("Is it? No! Well", [5, 9]),
        ("Mr. Lee met Dr. Ito, i.e. a friend, at no. 3.", [44]),
        ("By J. K. Ray.", [12]),
        ("It costs 3.50 at v1.2.", [21]),
        ("Wait... what", []),
        ('He said "go." Then he went.', [11, 26]),
        ("Stop.\n\nGo on", [4]),
        ("at 5 p.m. they left", []),
        ("今日は雨。明日も。", [4, 8]),
        ("see www.example.org for more", []),
    ],
)
def test_sentence_ends_by_hand(text, places):
    assert [start for start, _ in find_spans(text, "text")["sentence_end"]] == places


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("In 1999, 3 of 1,250.75 left.", [" 1999", " 3", " 1,250.75"]),
        ("7 of B2, the 2nd at 10:30 and -4%", ["7", " 10", "30", "4"]),
        ("v1.2 x_3 3D", []),
    ],
)
def test_numbers_by_hand(text, found):
    assert pieces(text, "number") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Then Ada Lovelace wrote to Babbage.", [" Ada Lovelace", " Babbage"]),
        ("Paris is big. London, too, says Élodie", [" Élodie"]),
        ("I saw NASA and I left with Jean-Luc O'Hara", [" Jean-Luc O'Hara"]),
        ('She said "Maybe" to Tom', [" Tom"]),
        ("# Title Case Here\nand then Rome", [" Case Here", " Rome"]),
    ],
)
def test_names_by_hand(text, found):
    assert pieces(text, "capitalised_name") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('He said "no way" and “yes”.', [' "no way"', " “yes”"]),
        ('a 5" pipe and a 6" one', []),
        ('("quoted")', ['"quoted"']),
        ('open "but never closed\nnext" line', []),
    ],
)
def test_quotes_by_hand(text, found):
    assert pieces(text, "quote") == found


def test_a_repeated_word_is_spelled_the_same_and_near():
    assert pieces("The river bends. A River, the rivers and the river.", "repeated_word") == [" river"]
    assert pieces("some some some", "repeated_word") == []
    filler = "ab " * (NEAR // 3)
    assert pieces(f"harbour {filler[:-31]} harbour", "repeated_word") == [" harbour"]
    assert pieces(f"harbour {filler}harbour", "repeated_word") == []


def test_one_space_before_a_span_is_included_and_more_are_not():
    assert pieces("so 4, so  5,\n6 and\n 7 (8", "number") == [" 4", "5", "6", "7", "8"]


PROSE = st.text(alphabet="aB c.!?\"“”1,2\n\r'’-(é日。\U0001f600 ", max_size=200)


@given(PROSE)
def test_spans_of_any_text_are_sorted_and_do_not_overlap(text):
    spans = find_spans(text, "text")
    assert set(spans) == set(TEXT_TASKS) - {"random"}
    for task, found in spans.items():
        assert all(0 <= start < end <= len(text) for start, end in found)
        assert all(before.end <= after.start for before, after in zip(found, found[1:], strict=False)), task
        assert all(text[start:end].strip() for start, end in found)


@pytest.mark.parametrize("piece", ["a", "A", ".", '"', "“", "1,", "A'", "A ", "a b", "Mr. ", "1", "日", "harbour "])
def test_a_megabyte_of_anything_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    find_spans(text, "text")
    assert time.process_time() - start < 10
