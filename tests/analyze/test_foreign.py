import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.foreign import foreign_of, foreign_shares, halves
from apmae.analyze.occurrence import opened, prompts_of
from apmae.schema import POINTS


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_of_what_other_tasks_own_in_the_other_half(drawn, seed):
    study = drawn(seed, noise=0.6, clusters=5)
    with opened(study.points, study.prompts) as found:
        own = prompts_of(found, files=True)
        half = halves(own, seed)
        shares = foreign_shares(found, own, half)
    assert {study.file[prompt] for prompt in range(40) if half[prompt]}.isdisjoint(
        study.file[prompt] for prompt in range(40) if not half[prompt]
    )
    for prompt in range(40):
        there = [other for other in range(40) if half[other] != half[prompt]]

        def having(place, task, right=None, there=there):
            return [
                other
                for other in there
                if study.task[other] == task and place in study.places(other) and right in (None, study.correct[other])
            ]

        def share(place, task, there=there, having=having):
            return len(having(place, task)) / max(sum(study.task[other] == task for other in there), 1)

        places, mine, foreign = study.places(prompt), study.task[prompt], []
        for place in places:
            owners = [task for task in set(study.task) - {mine} if having(place, task, True)]
            if len(owners) == 1 and share(place, owners[0]) >= 2 * share(place, mine):
                foreign.append(place)
        if places:
            assert shares[prompt] == pytest.approx(len(foreign) / len(places))
        else:
            assert np.isnan(shares[prompt])
    assert np.nansum(shares) > 0


def planted(strength, seed=0):
    """Two tasks with locations of their own; incorrect prompts of the first now and then have the second's."""
    draw, rows = np.random.default_rng(seed), []
    for prompt in range(120):
        task, right = prompt % 2, bool(draw.random() < 0.5)
        swapped = task == 0 and not right and draw.random() < strength
        for head in range(4):
            rows.append(
                (
                    prompt,
                    0,
                    head,
                    ("eol", "random")[task],
                    "correct" if right else "incorrect",
                    1 - task if swapped else task,
                    [0.0],
                )
            )
    return pa.Table.from_arrays(
        [pa.array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), POINTS, strict=True)],
        schema=POINTS,
    )


def test_prompts_that_look_like_another_task_are_found():
    strength = 0.5
    prompts = pa.table({"prompt": pa.array(range(120), pa.int32()), "path": [f"f{number}" for number in range(120)]})
    with opened(planted(strength), prompts) as found:
        own = prompts_of(found, files=True)
        half = halves(own, 0)
        first, second = foreign_of(foreign_shares(found, own, half), own, half, 199, 0)
    assert (first.task, second.task) == ("eol", "random") and first.correct + first.incorrect == 60
    assert first.p <= 0.01 and first.share_correct == 0
    assert first.share_incorrect == pytest.approx(strength, abs=0.2)
    assert second.p > 0.9 and second.share_incorrect == 0


def test_outcomes_that_say_nothing_seldom_give_a_small_p():
    """Three tasks in files of two prompts, locations that tasks and files favour, outcomes by chance."""
    found_p = []
    for seed in range(60):
        draw, rows = np.random.default_rng(seed), []
        favoured = draw.random((3, 24))
        for prompt in range(90):
            task, file = prompt // 2 % 3, prompt // 2
            own = np.random.default_rng([seed, file]).random(24)  # one file's prompts are alike
            outcome = ("incorrect", "correct")[int(draw.random() < 0.6)]
            for head in np.flatnonzero(own * draw.random(24) < 0.4 * favoured[task]):
                rows.append((prompt, 0, int(head), "abc"[task], outcome, 0, [0.0]))
        columns = zip(zip(*rows, strict=True), POINTS, strict=True)
        points = pa.Table.from_arrays([pa.array(list(values), field.type) for values, field in columns], schema=POINTS)
        paths = [f"f{prompt // 2}" for prompt in range(90)]
        with opened(points, pa.table({"prompt": pa.array(range(90), pa.int32()), "path": paths})) as found:
            own = prompts_of(found, files=True)
            half = halves(own, seed)
            found_p += [row.p for row in foreign_of(foreign_shares(found, own, half), own, half, 99, seed)]
    for level in (0.1, 0.5):  # at most so often, and hardly less: shares are of few locations, so p has steps
        expected, error = level * len(found_p), 3 * (len(found_p) * level * (1 - level)) ** 0.5
        assert expected / 2 - error < np.count_nonzero(np.array(found_p) <= level) < expected + error


def test_a_task_with_one_outcome_has_no_row(drawn):
    study = drawn(2)
    index = POINTS.get_field_index("outcome")
    outcome = [
        "correct" if study.task[prompt] == "eol" or study.correct[prompt] else "incorrect" for prompt, *_ in study.rows
    ]
    with opened(study.points.set_column(index, POINTS.field("outcome"), [outcome]), study.prompts) as found:
        own = prompts_of(found, files=True)
        half = halves(own, 0)
        rows = foreign_of(foreign_shares(found, own, half), own, half, 20, 0)
    assert {row.task for row in rows} == {"identifier", "random"}
