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
        tasks_of = {}
        for other in range(40):
            if half[other] != half[prompt] and study.correct[other]:
                for place in study.places(other):
                    tasks_of.setdefault(place, set()).add(study.task[other])
        places = study.places(prompt)
        foreign = [
            place for place in places if len(tasks_of.get(place, ())) == 1 and study.task[prompt] not in tasks_of[place]
        ]
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


@pytest.mark.parametrize(("strength", "low", "high"), [(0.5, 0, 0.01), (0.0, 0.99, 1.01)])
def test_prompts_that_look_like_another_task_are_found(strength, low, high):
    prompts = pa.table({"prompt": pa.array(range(120), pa.int32()), "path": [f"f{number}" for number in range(120)]})
    with opened(planted(strength), prompts) as found:
        own = prompts_of(found, files=True)
        half = halves(own, 0)
        first, second = foreign_of(foreign_shares(found, own, half), own, half, 199, 0)
    assert (first.task, second.task) == ("eol", "random") and first.correct + first.incorrect == 60
    assert low <= first.p <= high and first.share_correct == 0
    assert first.share_incorrect == pytest.approx(strength, abs=0.2)
    assert second.p > 0.9 and second.share_incorrect == 0


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
