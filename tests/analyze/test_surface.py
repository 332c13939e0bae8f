"""Features without attention: by loops, by hand, and that nothing is known of a prompt from its own file."""

import numpy as np
import pytest

from apmae.analyze.answers import answers_of
from apmae.analyze.judging import stratified_auroc
from apmae.analyze.surface import PRIOR, copies, statistics_of, sureness, surface, task_terms, token_statistics


def statistics_by_loops(token, correct, part):
    rows = []
    for i in range(len(token)):
        used = [j for j in range(len(token)) if part[j] >= 0 and part[j] != part[i]]
        rate = (sum(correct[j] for j in used) + 0.5) / (len(used) + 1)
        same = [j for j in used if token[j] == token[i]]
        right = sum(correct[j] for j in same)
        odds = (right + PRIOR * rate) / (len(same) - right + PRIOR * (1 - rate)) / (rate / (1 - rate))
        known = sum(own >= 0 for own in part)
        rows.append([np.log(odds), np.log(1 + len(same) * known / len(used))])
    return rows


def test_token_statistics_are_of_the_other_parts():
    draw = np.random.default_rng(0)
    token, correct, part = draw.integers(5, size=60), draw.random(60) < 0.6, draw.integers(-1, 3, size=60)
    np.testing.assert_allclose(
        token_statistics(token, correct, part), statistics_by_loops(token, correct, part), atol=1e-12
    )
    changed = correct.copy()
    changed[part == 1] = ~changed[part == 1]
    same = token_statistics(token, changed, part)[part == 1]
    np.testing.assert_array_equal(same, token_statistics(token, correct, part)[part == 1])
    changed = correct.copy()
    changed[part == -1] = ~changed[part == -1]
    np.testing.assert_array_equal(token_statistics(token, changed, part), token_statistics(token, correct, part))


def test_a_token_of_one_file_says_nothing_out_of_fold(table_of_prompts):
    """Each file has a token of its own and an outcome of its own: within the file it tells all, elsewhere nothing."""
    file = np.arange(200) // 4
    correct = np.random.default_rng(1).random(50)[file] < 0.5
    rows = [
        {"path": f"f{own}", "predicted": f"t{own}", "correct": right} for own, right in zip(file, correct, strict=True)
    ]
    answers = answers_of(table_of_prompts(rows))
    fit = file % 5 > 0
    found = statistics_of(answers, 4, 0)(fit)
    np.testing.assert_array_equal(found, 0)
    ours = stratified_auroc(found[:, 0], answers.correct, np.zeros(200, np.int64))
    assert ours[0] == 0.5


def test_a_token_that_is_mostly_right_everywhere_has_large_odds(table_of_prompts):
    draw = np.random.default_rng(2)
    good = draw.random(400) < 0.5
    correct = draw.random(400) < np.where(good, 0.9, 0.1)
    rows = [
        {"path": f"f{number // 2}", "predicted": "good" if own else "bad", "correct": right}
        for number, (own, right) in enumerate(zip(good, correct, strict=True))
    ]
    found = statistics_of(answers_of(table_of_prompts(rows)), 4, 0)(np.arange(400) < 300)
    assert found[good, 0].min() > 1 and found[~good, 0].max() < -1


def test_copies_by_hand(table_of_prompts):
    tokens = ["<p>", "a", "b", "a", "c", "a", "<s>", "b", "a", "b", "<m>"]
    rows = [{"tokens": tokens, "predicted": "b", "correct": True}, {"path": "g", "correct": False}]
    answers = answers_of(table_of_prompts(rows), "<p>{prefix}<s>{suffix}<m>")
    # b is there three times; after an a there are b, c, <s> and b; both twice; five of eleven tokens are prefix
    np.testing.assert_allclose(copies(answers.seen)[0], [*np.log([4, 5, 3]), 5 / 11, np.log(11)])


def test_task_terms():
    values, task = np.array([[1.0], [3.0], [5.0]]), np.array([0, 1, 1])
    found = task_terms(values, np.ones(3, bool), 2).of(values, task)
    spread = np.sqrt(8 / 3)
    expected = [[1, 1, 0, -2 / spread, 0], [3, 0, 1, 0, 0], [5, 0, 1, 0, 2 / spread]]
    np.testing.assert_allclose(found, expected)
    centred = task_terms(values, task == 1, 2).of(values, np.array([0, 1, -1]))
    expected = [[1, 1, 0, -3, 0], [3, 0, 1, 0, -1], [5, 0, 0, 0, 0]]
    np.testing.assert_allclose(centred, expected), "by the prompts that are fitted; an unknown task has no terms"


def test_every_feature_is_finite_where_the_model_is_sure(table_of_prompts):
    rows = [{"max_probability": p, "correct": p > 0.5, "path": f"f{p}"} for p in (1.0, 0.0)]
    seen = answers_of(table_of_prompts(rows)).seen
    found = surface(seen)
    assert all(np.isfinite(values).all() and len(values) == 2 for values in (*found.values(), sureness(seen)))
    assert found["max_probability"].ravel().tolist() == pytest.approx([1.0, 0.0])
