from itertools import combinations, permutations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import hypergeom

from apmae.analyze.occurrence import Prompts, files_of, occurrences, opened, prompts_of
from apmae.analyze.resampling import (
    enough,
    errors_by_file,
    movable,
    null_of,
    permuted_outcomes,
    rarefied,
    unique_by_chance,
)
from apmae.report.locations import significant
from apmae.schema import POINTS


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


def counted_of(seen, task, file):
    """Counted locations and their files of prompts, given which prompt has which location (p, l)."""
    rows = [(prompt, 0, 0, "abc"[own], "correct", -1, [0.0]) for prompt, own in enumerate(task)]
    rows += [
        (prompt, 0, int(head), "abc"[task[prompt]], "correct", int(cluster), [0.0])
        for prompt in range(len(task))
        for cluster, head in zip(*divmod(np.flatnonzero(seen[prompt]), 40), strict=True)
    ]
    columns = zip(zip(*rows, strict=True), POINTS, strict=True)
    points = pa.Table.from_arrays([pa.array(list(values), field.type) for values, field in columns], schema=POINTS)
    paths = pa.table({"prompt": pa.array(range(len(task)), pa.int32()), "path": [str(number) for number in file]})
    with opened(points, paths) as found:
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        return counted, own, *files_of(found, counted, own)


def counts_of(seen, task):
    """Locations of each task, and unique ones."""
    there = np.stack([seen[task == number].any(0) for number in range(3)])
    return np.stack([there.sum(1), (there & (there.sum(0) == 1)).sum(1)], axis=1)


@pytest.mark.parametrize(("rate", "alike"), [(0.004, 0.0), (0.02, 0.9)])
def test_errors_are_what_fresh_files_give(rate, alike):
    """Against the s.d. over studies of other files, whose prompts are single or, in fours, alike."""
    locations, task = 400, np.repeat([0, 1, 2], 40)
    file = np.arange(120) // (4 if alike else 1)
    favoured = np.random.default_rng(0).gamma(0.5, 2 * rate, (3, locations))
    counts, errors = [], []
    for seed in range(300):
        draw = np.random.default_rng([1, seed])
        of_file = draw.random((120, locations))[file]
        chance = np.where(draw.random((120, 1)) < alike, of_file, draw.random((120, locations)))
        seen = chance < favoured[task]
        counts.append(counts_of(seen, task))
        if seed % 15 == 0:
            errors.append(errors_by_file(*counted_of(seen, task, file)))
    ratio = np.mean(errors, axis=0) / np.std(counts, axis=0, ddof=1)
    assert ratio.min() > 0.8 and ratio.max() < 1.3


def test_errors_leave_out_each_file_of_each_task_in_turn(drawn):
    study = drawn(5, files=7)
    with opened(study.points, study.prompts) as found:
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        files, pairs = files_of(found, counted, own)
    variance = np.zeros((3, 2))
    for left in own.tasks:
        counts = []
        for name in {study.file[prompt] for prompt in range(40) if study.task[prompt] == left}:
            seen = [set() for _ in own.tasks]
            for prompt in range(40):
                if (study.task[prompt], study.file[prompt]) != (left, name):
                    seen[own.tasks.index(study.task[prompt])] |= study.places(prompt)
            counts.append([[len(one), len(one - set().union(*(o for o in seen if o is not one)))] for one in seen])
        variance += (len(counts) - 1) * np.var(counts, axis=0)
    np.testing.assert_allclose(errors_by_file(counted, own, files, pairs), variance**0.5, rtol=1e-6)


def test_a_task_of_one_file_has_no_error():
    task, file = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 3, 4])
    seen = np.eye(6, 8, dtype=bool)
    errors = errors_by_file(*counted_of(seen, task, file))
    assert np.isnan(errors[0]).all() and np.isfinite(errors[1:]).all()


def test_unique_locations_by_chance_are_the_mean_over_every_way_to_give_files_tasks():
    task, file = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 3, 4])
    seen = np.random.default_rng(3).random((6, 12)) < 0.4
    counted, own, files, pairs = counted_of(seen, task, file)
    units = np.stack([seen[file == number].any(0) for number in range(5)])
    of_unit, counts = [0, 0, 1, 1, 2], []
    for order in permutations(of_unit):
        there = np.stack([units[np.array(order) == number].any(0) for number in range(3)])
        counts.append((there & (there.sum(0) == 1)).sum(1))
    np.testing.assert_allclose(unique_by_chance(counted, own, files, pairs), np.mean(counts, axis=0))


def test_there_are_permutations_enough_for_a_test_to_stand():
    assert enough(1000, 20) == 1000 and enough(100, 20) == 400
    assert significant([1 / (1 + enough(20, 33))] * 33) == [True] * 33
