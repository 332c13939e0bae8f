"""Which prompts can be predicted, what stays together, where the prefix is, and what is refused."""

import numpy as np
import pytest

from apmae.analyze.answers import Drawn, answers_of, drawn_of, expect_files, first_token, prefix_of, together
from apmae.errors import ConfigError
from apmae.study.reader import Study

STARCODER = "<p>{prefix}<s>{suffix}<m>"
SUFFIX_FIRST = "<s>{suffix}<p>{prefix}<m>"


def test_files_that_share_a_prompt_stay_together():
    windows = ["a", "b", "b", "c", "d", "c"]
    found = together(["f", "f", "g", "g", "h", "i"], windows, 1)
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(together(["f", "g", "h"], ["a", "b", "c"], 1), [0, 1, 2])


def test_files_with_nearly_the_same_windows_stay_together(table_of_prompts):
    words = [[f"w{number}x{place}" for place in range(60)] for number in range(4)]
    windows = [words[0], words[1], [*words[0][:-2], "y", "z"], words[2], [*words[1][:30], *words[3][:30]]]
    rows = [
        {"path": f"f{number}", "tokens": [f"{word} " for word in own], "correct": number % 2 == 0}
        for number, own in enumerate(windows)
    ]
    table = table_of_prompts(rows)
    np.testing.assert_array_equal(answers_of(table).group, [0, 1, 0, 2, 3])
    np.testing.assert_array_equal(answers_of(table, similar=1).group, range(5))
    np.testing.assert_array_equal(answers_of(table, similar=0.25).group, [0, 1, 0, 2, 1])


def test_answers_are_cut_to_a_token_by_a_rule_that_knows_no_outcome(table_of_prompts):
    known = frozenset({" get", " getKey", "g"})
    cut = [first_token(text, known) for text in (" getName", " getKeys", " get", "get", "Foo", "")]
    assert cut == [" get", " getKey", " get", "g", "Foo", ""]
    rows = [
        {"predicted": " getName", "correct": right, "path": f"{right}", "tokens": [f"{right}", " get"]}
        for right in (True, False)
    ]
    assert answers_of(table_of_prompts(rows)).seen.predicted == (" get", " get")


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
    with pytest.raises(ConfigError, match=r"found one \(3 files, some with nearly the same windows\)"):
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
    assert drawn_of(study) == Drawn("unknown", None), "other prompts than those encoded"
