from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from apmae.analyze.occurrence import Prompts, files_of, occurrences, opened, prompts_of
from apmae.analyze.resampling import errors_by_file, movable, null_of, permuted_outcomes, rarefied


def prompts(task, file, correct):
    numbers = np.arange(len(task))
    return Prompts(numbers, np.array(task), np.array(correct, bool), np.array(file), ("a", "b")[: max(task) + 1], True)


def test_outcomes_move_between_files_of_equally_many_prompts_of_the_task():
    #         a: files of two, two, one, one and three; b: one file
    own = prompts(
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 1, 1, 2, 3, 4, 4, 4, 0, 0],
        [1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0],
    )
    blocks = list(permuted_outcomes(own, 120, 0))
    assert [block.shape for block in blocks] == [(11, 50), (11, 50), (11, 20)]
    seen = {tuple(column) for block in blocks for column in block.T.tolist()}
    pairs, ones = [(True, False, True, True), (True, True, True, False)], [(True, False), (False, True)]
    rest = (True, False, True, True, False)  # alone in its size, and the only file of the other task
    assert seen == {(*pair, *one, *rest) for pair in pairs for one in ones}, "prompts of a file stay together"
    assert movable(own).tolist() == [6 / 9, 0]
    again = np.concatenate(list(permuted_outcomes(own, 120, 0)), axis=1)
    assert np.array_equal(again, np.concatenate(blocks, axis=1))
    assert not np.array_equal(again, np.concatenate(list(permuted_outcomes(own, 120, 1)), axis=1))


def test_p_counts_what_is_as_far_on_either_side():
    assert null_of(3.0, np.array([0.0, 1.0, 2.0, 1.0])) == (1.0, pytest.approx(0.5**0.5), 1 / 5)
    assert null_of(2.0, np.array([0.0, 1.0, 2.0, 1.0]))[2] == 3 / 5
    assert null_of(1.0, np.ones(9)) == (1.0, 0.0, 1.0)


def test_p_is_uniform_if_nothing_is_there():
    draw, below = np.random.default_rng(0), []
    for seed in range(60):
        own = prompts([0] * 40, list(range(40)), draw.random(40) < 0.5)
        values = draw.normal(size=40)
        null = np.concatenate([values @ right for right in permuted_outcomes(own, 99, seed)])
        below.append(null_of(float(values @ own.correct), null)[2])
    assert 0.35 < np.mean(below) < 0.65 and np.mean(np.array(below) <= 0.2) < 0.4


@pytest.mark.parametrize("drawn_prompts", [(2, 3), (4, 5), (0, 1)])
def test_expected_counts_are_the_mean_over_every_choice_of_prompts(drawn, drawn_prompts):
    study = drawn(3, prompts=9, clusters=3, noise=0.7)
    study.task = ["eol"] * 4 + ["random"] * 5
    index = study.points.schema.get_field_index("task")
    points = study.points.set_column(index, "task", [[study.task[prompt] for prompt, *_ in study.rows]])
    with opened(points) as found:
        own = prompts_of(found, files=False)
        counted = occurrences(found, own.tasks)
    ours = rarefied(counted, np.array([4, 5]), np.array(drawn_prompts))
    places, counts = [study.places(prompt) for prompt in range(9)], []
    for first in combinations(range(4), drawn_prompts[0]):
        for second in combinations(range(4, 9), drawn_prompts[1]):
            seen = [set().union(*(places[prompt] for prompt in chosen)) for chosen in (first, second)]
            counts.append([[len(one), len(one - other)] for one, other in (seen, seen[::-1])])
    np.testing.assert_allclose(ours, np.mean(counts, axis=0), atol=1e-9)


def test_with_all_prompts_the_expected_counts_are_those_found(drawn):
    study = drawn(4)
    with opened(study.points) as found:
        own = prompts_of(found, files=False)
        counted = occurrences(found, own.tasks)
    everything = np.bincount(own.task)
    total = [np.count_nonzero(counted.task == task) for task in range(3)]
    unique = [np.count_nonzero((counted.task == task) & counted.unique) for task in range(3)]
    np.testing.assert_allclose(rarefied(counted, everything, everything), np.stack([total, unique], 1), atol=1e-9)
    place = int(np.argmax(counted.seen < everything[counted.task]))
    chance = hypergeom(everything[counted.task[place]], counted.seen[place], 5).pmf(0)
    only = counted._replace(
        task=np.zeros(1, int), location=np.zeros(1, int), seen=counted.seen[[place]], places=counted.places[:1]
    )
    fewer = rarefied(only, everything[counted.task[[place]]], np.array([5]))
    np.testing.assert_allclose(fewer, [[1 - chance, 1 - chance]])


def test_errors_are_the_spread_of_counts_over_files_drawn_anew(drawn):
    study = drawn(5, files=7)
    with opened(study.points, study.prompts) as found:
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        files, pairs = files_of(found, counted, own)
    ours = errors_by_file(counted, files, pairs, 7, 400, 0)
    draw, counts = np.random.default_rng(9), []
    names = list(dict.fromkeys(study.file))
    for _ in range(400):
        chosen = {names[number] for number in draw.integers(len(names), size=len(names))}
        seen = [
            set().union(
                *(
                    study.places(prompt)
                    for prompt in range(40)
                    if study.task[prompt] == task and study.file[prompt] in chosen
                )
            )
            for task in own.tasks
        ]
        counts.append([[len(one), len(one - set().union(*(o for o in seen if o is not one)))] for one in seen])
    np.testing.assert_allclose(ours, np.std(counts, axis=0), rtol=0.25)
    assert np.array_equal(ours, errors_by_file(counted, files, pairs, 7, 400, 0))


def test_files_without_a_location_are_drawn_too(drawn):
    """Of twenty files one has a location: it is in a resample with the chance 1 - (19 / 20)^20."""
    study = drawn(6, prompts=4, noise=0.9, files=1)
    with opened(study.points, study.prompts) as found:
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        files, pairs = files_of(found, counted, own)
    one = counted._replace(
        task=np.zeros(1, int), location=np.zeros(1, int), seen=np.ones(1, int), places=counted.places[:1]
    )
    one = one._replace(tasks=("a",))
    chance = 1 - (19 / 20) ** 20
    errors = errors_by_file(one, files[:1], np.zeros(1, int), 20, 2000, 0)
    np.testing.assert_allclose(errors, (chance * (1 - chance)) ** 0.5, rtol=0.05)
