"""What is said of one completion: to answer or to abstain, and why."""

import json

import pytest

from apmae.analyze.risk import Answering
from apmae.report.prediction_line import Said, decision_of, line_record, print_line

PASSED = Answering(coverage=0.43, threshold=0.81, risk=0.062, bound=0.0994)
ALL = Answering(coverage=1 - 1e-16, threshold=0.12, risk=0.031, bound=0.07)
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
        (
            {"threshold": ALL},
            True,
            "Answer: even if nothing is abstained from, at most 10% of answers are incorrect (95%",
        ),
        ({"threshold": ALL, "probability": 0.1}, False, "Abstain: below 0.12, the lowest of the study's prompts; from"),
        (
            {"threshold": None, "prompts": 1, "risk": 0.005},
            False,
            "Abstain: no threshold keeps a risk of 0.5% with the",
        ),
        ({"threshold": None, "lowest": None}, False, "Abstain: nothing was measured of such prompts"),
    ],
)
def test_an_answer_is_used_from_the_threshold_on(changes, answers, words):
    found = said(**changes)
    assert found.answers == answers and decision_of(found).startswith(words)


def test_figures_are_in_the_sentences():
    assert "6.2% were, of the 43% of prompts that pass" in decision_of(said())
    assert decision_of(said(threshold=None)).endswith("promised is 27.0%, if 20% is answered.")
    nothing = said(threshold=None, lowest=LOWEST._replace(bound=1.0), prompts=1)
    assert decision_of(nothing).endswith("the study's 1 prompt; no lower risk than 100% can be promised at all.")
    assert "3.1% were" in decision_of(said(threshold=ALL)) and "that pass" not in decision_of(said(threshold=ALL))


@pytest.mark.parametrize(("coverage", "words"), [(0.004, "less than 1%"), (0.998, "99%"), (0.43, "43%"), (1.0, "all")])
def test_a_share_is_not_rounded_to_all_or_nothing(coverage, words):
    lowest = LOWEST._replace(coverage=coverage)
    assert decision_of(said(threshold=None, lowest=lowest)).endswith(f"if {words} is answered.")


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
    assert (record["format"], record["version"]) == ("apmae.prediction_line", 1)
    assert record["threshold"] is None and record["lowest"]["bound"] == 0.27 and record["answers"] is False
    assert record["decision"] == decision_of(said(threshold=None)) and record["confidence"] == 0.95


def test_no_risk_is_promised_for_a_model_that_was_not_measured():
    other = said(measured=False, measured_on="n")
    assert decision_of(other) == "Abstain: risk was measured on n, so none can be promised for this model."
    assert line_record(other)["answers"] is False and line_record(said())["answers"] is True
