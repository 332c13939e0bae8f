"""Which prompts can be predicted, what stays together, where the prefix is, and what is refused."""

import numpy as np
import pytest

from apmae.analyze.answers import answers_of, drawn_of, expect_files, prefix_of, together
from apmae.errors import ConfigError
from apmae.study.reader import Study

STARCODER = "<p>{prefix}<s>{suffix}<m>"
SUFFIX_FIRST = "<s>{suffix}<p>{prefix}<m>"


def test_files_that_share_a_prompt_stay_together():
    tokens = [("a",), ("b",), ("b",), ("c",), ("d",), ("c",)]
    found = together(["f", "f", "g", "g", "h", "i"], tokens)
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(together(["f", "g", "h"], [("a",), ("b",), ("c",)]), [0, 1, 2])


def test_tasks_with_one_outcome_and_prompts_without_are_left_out_and_counted(table_of_prompts):
    rows = [
        {"task": "eol", "correct": True},
        {"task": "random", "correct": True, "path": "g"},
        {"task": "eol", "correct": False},
        {"task": "eol", "correct": None},
        {"task": "random", "correct": True},
        {"task": "boolean_literal", "correct": False},
    ]
    found = answers_of(table_of_prompts(rows))
    assert found.prompt.tolist() == [0, 2] and found.correct.tolist() == [True, False]
    assert found.tasks == ("eol",) and found.files == 1
    assert found.left_out == {"random: all correct": 2, "boolean_literal: all incorrect": 1, "without an outcome": 1}


def test_what_cannot_be_predicted_is_refused(table_of_prompts):
    with pytest.raises(ConfigError, match="expected prompts with outcomes in the study, found none"):
        answers_of(table_of_prompts([{"correct": None}]))
    with pytest.raises(ConfigError, match=r"found none \(eol: all correct 2\)"):
        answers_of(table_of_prompts([{"correct": True}, {"correct": True}]))
    one = answers_of(table_of_prompts([{"correct": True}, {"correct": False}]))
    with pytest.raises(ConfigError, match="expected prompts of two files or more, .* found one; encode"):
        expect_files(one, 2)
    rows = [{"correct": number % 2 == 0, "path": f"f{number}"} for number in range(3)]
    three = answers_of(table_of_prompts(rows))
    expect_files(three, 3)
    with pytest.raises(ConfigError, match="at least as many files as folds, 4, found 3; take --folds 3"):
        expect_files(three, 4)
    alike = answers_of(table_of_prompts([{**row, "tokens": ["a"]} for row in rows]))
    with pytest.raises(ConfigError, match=r"found one \(3 files, some with the same prompts\)"):
        expect_files(alike, 2)


@pytest.mark.parametrize(
    ("tokens", "infill", "expected"),
    [
        (["a", "b"], "none", (0, 2)),
        (["<p>", "a", "b", "<s>", "c", "<m>"], STARCODER, (1, 3)),
        (["<s>", "c", "<p>", "a", "b", "<m>"], SUFFIX_FIRST, (3, 5)),
        (["<s>", "c", "<p>", "a", "b"], "<s>{suffix}<p>{prefix}", (3, 5)),
        (["a", "b", "c"], STARCODER, (0, 3)),
        (["bos", "<", "p>", "a", "<", "s>", "c", "<m>"], STARCODER, (3, 4)),
        (["<p>", "<s>", "c", "<m>"], STARCODER, (1, 1)),
    ],
)
def test_where_the_prefix_is(tokens, infill, expected):
    assert prefix_of(tuple(tokens), infill) == expected


def test_how_prompts_were_drawn_is_read_beside_them(real_study):
    study = Study(real_study.folder)
    outcomes = study.prompts["outcome"].to_pylist()
    found = drawn_of(study)
    assert found.how == "any" and found.natural == pytest.approx(outcomes.count("correct") / len(outcomes))
    study.encoded.inputs["prompts"] = "0" * 64
    assert drawn_of(study) == ("unknown", None), "other prompts than those encoded"
