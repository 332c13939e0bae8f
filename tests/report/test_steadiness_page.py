"""The page of what heads do over a corpus: what it shows is in the summary, and strangers' text stays text."""

import re

import pytest
from pages import check

from apmae.report.steadiness_page import summary_page

EVIL = "<script>alert(1)</script>\"'&"


def head(layer, number, name, steadiness, tasks=None, strength=0.8):
    """A head with ten tags; ``tasks`` are name, steadiness and number of tags by task."""
    return {
        "layer": layer,
        "head": number,
        "tags": 10,
        "name": name,
        "steadiness": steadiness,
        "known": 0.9 if name else 0.0,
        "strength": strength if name else None,
        "names": [{"name": name or "unknown", "share": 1.0}],
        "clusters": [],
        "unknown": [] if name else [{"reason": "far", "share": 1.0}],
        "measured": [{"kind": "local band", "share": 0.6}],
        "tasks": {
            task: {"name": own, "steadiness": share, "tags": tags, "known": 1.0}
            for task, (own, share, tags) in (tasks or {}).items()
        },
    }


def summary(heads, heads_by_layer, **changed):
    values = {
        "model": "opt",
        "note": "",
        "heads_by_layer": heads_by_layer,
        "prompts": 10,
        "short_prompts": 3,
        "shortest": 32,
        "correct": 4,
        "tasks": {"eol": 6, "closing_bracket": 4},
        "unused_files": {},
        "heads": heads,
    }
    return values | changed


def tables(page):
    """The cells of every table, without tags."""
    return [
        [
            [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
            for row in re.findall(r"<tr.*?</tr>", table, re.S)
        ]
        for table in re.findall(r"<table.*?</table>", page, re.S)
    ]


def test_it_shows_names_steadiness_and_heads_that_change():
    heads = [
        head(
            0, 0, "self", 0.9, {"eol": ("self", 1.0, 6), "closing_bracket": ("induction", 0.75, 4)}
        ),  # too few to tell
        head(0, 1, "self", 0.6, {"eol": ("self", 1.0, 5), "closing_bracket": ("induction", 0.8, 5)}),
        head(1, 0, None, 0.0, {"eol": (None, 0.0, 6)}),
        head(1, 1, "unusual", 0.7),
    ]
    page = summary_page(summary(heads, [2, 2], unused_files={"empty": 2, "no_span": 1})).decode()
    text = check(page).text
    assert "3 of 10 prompts (30%) have fewer than 32 tokens" in text
    assert "2 empty, 1 with nothing to complete" in text and "closing bracket 4" in text
    names, groups, steadiness, changing, listed = tables(page)
    assert names == [["layer \\ head", "0", "1"], ["0", "self", "self"], ["1", "unknown throughout", "unusual"]]
    assert groups[1] == ["0", "self", "2", "75%", "0.0 (90%), 0.1 (60%)"]
    assert [row[1] for row in groups[1:]] == ["self", "unknown throughout", "unusual"]
    assert [row[0] for row in groups[1:]] == ["0", "", "1"]
    assert steadiness[1:] == [["0", "90", "60"], ["1", "0", "70"]]
    assert changing[1:] == [["0.1", "self", "60.0%", "50.0%", "induction in closing bracket (80% of 5, of all 0%)"]]
    assert [row[:4] for row in listed[1:]] == [
        ["0.0", "self", "90.0%", "90.0%"],
        ["0.1", "self", "60.0%", "90.0%"],
        ["1.0", "unknown throughout", "0.0%", "0.0%"],
        ["1.1", "unusual", "70.0%", "90.0%"],
    ]
    assert listed[3][7] == "100% too far from the cluster that wins"


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (30, 9), (40, 48)])
def test_grids_of_small_and_large_models(layers, heads):
    every = [head(layer, number, "self", 0.5) for layer in range(layers) for number in range(heads)]
    page = summary_page(summary(every, [heads] * layers)).decode()
    check(page)
    for grid in re.findall(r'<table class="heads.*?</table>', page, re.S):
        assert grid.count("<td>") == layers * heads
    assert "On every task each head does mostly what it does on all prompts" in page


def test_a_model_that_answers_nothing_and_heads_that_were_not_captured():
    page = summary_page(summary([head(1, 0, "self", 1.0)], [0, 2], correct=None)).decode()
    text = check(page).text
    assert "answered correctly" not in text
    assert page.count('class="none"') == 2, "one head in each of the two maps"


def test_strangers_text_stays_text():
    one = head(0, 0, EVIL, 1.0, {"eol": (EVIL + "2", 1.0, 6)})
    page = summary_page(summary([one], [1], model=EVIL, note=EVIL)).decode()
    assert "<script" not in page
    assert check(page).text.count("<script>alert(1)</script>") >= 4
