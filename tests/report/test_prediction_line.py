"""What is said of one completion: to answer or to abstain, and why."""

import json

import pytest

from apmae.analyze.risk import Answering
from apmae.report.prediction_line import Said, decision_of, line_record, print_line

PASSED = Answering(coverage=0.43, threshold=0.81, risk=0.062, bound=0.0994)
LOWEST = Answering(coverage=0.2, threshold=0.9, risk=0.0, bound=0.27)


def said(**changes):
    own = dict(
        model="m", file="A.java", line=3, column=18, task="math_operator", answer=" +", expected="*",
        outcome="incorrect",
        probability=0.85, max_probability=0.7, risk=0.1, threshold=PASSED, lowest=LOWEST, prompts=1200,
        notes=("A note.",), measured_on="m", measured=True,
    )  # fmt: skip
    return Said(**{**own, **changes})


@pytest.mark.parametrize(
    ("changes", "answers", "words"),
    [
        ({}, True, "Answer: at or above the threshold of 0.81, from which at most 10% of answers are incorrect (95%"),
        ({"probability": 0.81}, True, "Answer: at or above the threshold of 0.81"),
        ({"probability": 0.8}, False, "Abstain: below the threshold of 0.81, from which at most 10%"),
        ({"threshold": None}, False, "Abstain: no threshold keeps a risk of 10% with the study's 1,200 prompts; the"),
        ({"threshold": None, "lowest": None}, False, "Abstain: nothing was measured of such prompts"),
    ],
)
def test_an_answer_is_used_from_the_threshold_on(changes, answers, words):
    found = said(**changes)
    assert found.answers == answers and decision_of(found).startswith(words)


def test_figures_are_in_the_sentences():
    assert "6.2% were, of the 43% of prompts that pass" in decision_of(said())
    assert decision_of(said(threshold=None)).endswith("the lowest that can be promised is 27%.")


def test_all_of_it_is_printed_and_written(capsys):
    print_line(said())
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "The model answers \u2423+ at column 18 (math operator).",
        "P(correct) 0.85",
        "A note.",
        "The file has *: incorrect.",
    ):
        assert words in text
    record = json.loads(json.dumps(line_record(said(threshold=None))))
    assert record["threshold"] is None and record["lowest"]["bound"] == 0.27 and record["answers"] is False
    assert record["decision"] == decision_of(said(threshold=None)) and record["confidence"] == 0.95


def test_no_risk_is_promised_for_a_model_that_was_not_measured():
    other = said(measured=False, measured_on="n")
    assert decision_of(other) == "Abstain: risk was measured on n, so none can be promised for this model."
    assert line_record(other)["answers"] is False and line_record(said())["answers"] is True
