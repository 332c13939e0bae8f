"""The saved predictor: it says of a prompt what the model fitted on all says, by loops; and it is read back whole."""

import math

import numpy as np
import pytest

from apmae.analyze.answers import Drawn, answers_of
from apmae.analyze.columns import Columns
from apmae.analyze.fitting import LOGISTIC, Choice, fit_at
from apmae.analyze.prediction import BASELINES, PREDICTOR, forecast, plain_columns
from apmae.analyze.predictor import fit_predictor
from apmae.analyze.saved_predictor import predictor_of, record_of
from apmae.analyze.surface import PRIOR
from apmae.config import PredictConfig

CONFIG = PredictConfig(folds=2, choice_folds=2, trees=())
COUNT = 160


@pytest.fixture(scope="module")
def planted(table_of_prompts):
    """The predicted token tells the outcome, max-probability too."""
    draw = np.random.default_rng(0)
    good, sure = draw.random(COUNT) < 0.5, draw.random(COUNT)
    odds = 2 * (2 * good - 1) + 3 * (2 * sure - 1)
    rows = [
        {
            "task": ("eol", "identifier")[number % 2],
            "path": f"f{number // 2}",
            "tokens": ["good", "bad", f"t{number}"],
            "predicted": "good" if good[number] else "bad",
            "max_probability": float(sure[number]),
            "correct": bool(draw.random() < 1 / (1 + math.exp(-odds[number]))),
        }
        for number in range(COUNT)
    ]
    return answers_of(table_of_prompts(rows))


def fitted(answers, how="any", natural=0.5, config=CONFIG):
    plain = plain_columns(answers, config)
    found = forecast(answers, {}, config)
    made, choice = fit_predictor(answers, plain, found, Drawn(how, natural), config)
    return made, choice, plain, found


def one(seen, place, **changes):
    """One prompt of many."""
    kept = {name: getattr(seen, name)[place : place + 1] for name in seen._fields}
    return seen._replace(**{**kept, **changes})


@pytest.mark.parametrize("recalibration", ["platt", "isotonic"])
def test_it_says_what_a_model_of_all_prompts_says_and_is_read_back_whole(planted, recalibration):
    config = CONFIG.model_copy(update={"recalibration": recalibration})
    made, choice, plain, _ = fitted(planted, config=config)
    assert "tokens" in BASELINES[made.features] and choice.model == LOGISTIC
    record, arrays = record_of(made)
    again = predictor_of(record, arrays)
    seen = planted.seen
    decision = again.decisions(seen)
    np.testing.assert_array_equal(decision, made.decisions(seen))
    assert again.verdict(one(seen, 3)) == made.verdict(one(seen, 3)) and again.bounds == made.bounds
    p = [again.verdict(one(seen, place)).probability for place in range(COUNT)]
    np.testing.assert_allclose(p, again.recalibration.of(decision), atol=1e-12)

    def columns(fit):
        """As the model was fitted, with token statistics of all prompts in place of those of other parts."""
        values = plain.columns(BASELINES[made.features], fit)
        place = values.shape[1] - 2 if made.features == "probabilities, tokens" else None
        if place is not None:
            values = values.copy()
            rate = (planted.correct.sum() + 0.5) / (COUNT + 1)
            for row, token in enumerate(seen.predicted):
                same = [planted.correct[other] for other in range(COUNT) if seen.predicted[other] == token]
                right, wrong = sum(same) + PRIOR * rate, len(same) - sum(same) + PRIOR * (1 - rate)
                values[row, place:] = [math.log(right / wrong) - math.log(rate / (1 - rate)), math.log1p(len(same))]
        return values

    assert made.features == "probabilities, tokens"
    every = np.ones(COUNT, bool)
    assert isinstance(choice, Choice)
    trained = fit_at(
        choice, lambda fit: Columns(plain.columns(BASELINES[made.features], fit), None), planted.correct, every, 9
    )
    own = plain.columns(BASELINES[made.features], every)
    np.testing.assert_allclose(made.model.of(made.scale.of(own)), trained, atol=1e-9)
    np.testing.assert_allclose(decision, made.model.of(made.scale.of(columns(every))), atol=1e-9)


def test_a_good_token_counts_only_where_tokens_do(planted):
    made, *_ = fitted(planted)
    seen = one(planted.seen, 0)
    good, bad, new = (one(seen, 0, predicted=(token,)) for token in ("good", "bad", "never"))
    assert made.verdict(good).probability > made.verdict(new).probability > made.verdict(bad).probability
    said = {made.verdict(own, counted=False).probability for own in (good, bad, new)}
    assert said == {made.verdict(new).probability}


def test_a_task_that_is_not_known_has_the_bounds_of_left_out_tasks(planted):
    made, _, _, found = fitted(planted)
    other = one(planted.seen, 0, task=np.array([made.task_of("string_literal")]))
    verdict = made.verdict(other)
    assert (
        verdict.bounds == made.other_bounds != made.bounds and made.verdict(one(planted.seen, 0)).bounds == made.bounds
    )
    decision = made.decisions(other)[0]
    assert verdict.probability == pytest.approx(made.other_tasks.of(np.array([decision]))[0])
    transferred = made.other_tasks.of(found.by_name[PREDICTOR].transferred)
    last = made.other_bounds[-1]
    assert last.threshold == pytest.approx(transferred.min()) and last.risk == pytest.approx(1 - planted.correct.mean())


def test_of_a_study_with_one_task_nothing_is_known_of_others(table_of_prompts, planted):
    rows = [{"path": f"f{number}", "correct": number % 3 > 0, "max_probability": number / 30} for number in range(30)]
    answers = answers_of(table_of_prompts(rows))
    made, *_ = fitted(answers)
    verdict = made.verdict(one(answers.seen, 0, task=np.array([-1])))
    assert made.other_tasks is None and verdict.bounds == () and 0 < verdict.probability < 1


def test_half_correct_prompts_are_moved_to_the_natural_rate(planted):
    at_half, *_ = fitted(planted, "balanced", 0.5)
    often, *_ = fitted(planted, "balanced", 0.9)
    drawn, *_ = fitted(planted, "any", 0.9)
    p, moved, same = (own.verdict(one(planted.seen, 1)).probability for own in (at_half, often, drawn))
    assert (
        moved > p
        and drawn.natural is None
        and same == pytest.approx(drawn.recalibration.of(drawn.decisions(one(planted.seen, 1)))[0])
    )
    share = planted.correct.mean()
    odds = lambda value: math.log(value / (1 - value))  # noqa: E731
    assert odds(moved) - odds(same) == pytest.approx(odds(0.9) - odds(share))
    assert often.bounds[-1].risk == pytest.approx(0.1) and drawn.bounds[-1].risk == pytest.approx(1 - share)
