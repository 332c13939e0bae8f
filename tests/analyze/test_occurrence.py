import numpy as np
import pyarrow.parquet as pq
import pytest

from apmae.analyze.occurrence import files_of, occurrences, opened, prompts_of, prompts_with


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_location_is_counted_in_every_task(drawn, on_disk, tmp_path):
    study = drawn(0)
    points, prompts = study.points, study.prompts
    if on_disk:
        points, prompts = tmp_path / "points.parquet", [tmp_path / "one.parquet", tmp_path / "two.parquet"]
        pq.write_table(study.points, points)
        pq.write_table(study.prompts.slice(0, 15), prompts[0])
        pq.write_table(study.prompts.slice(15), prompts[1])
    with opened(points, prompts) as found:
        own = prompts_of(found, files=True)
        counted = occurrences(found, own.tasks)
        files, pairs = files_of(found, counted, own)
        chosen = np.arange(len(counted.task)) % 3 == 0
        some, rows = prompts_with(found, counted, own, chosen)
    assert own.number.tolist() == list(range(40)) and own.asked
    assert list(own.tasks) == list(dict.fromkeys(study.task))
    assert [own.tasks[number] for number in own.task] == study.task and own.correct.tolist() == study.correct
    names = list(dict.fromkeys(study.file))
    assert [names[number] for number in own.file] == study.file
    expected = {}
    for prompt, task in enumerate(study.task):
        for place in study.places(prompt):
            expected.setdefault((task, *place), []).append(prompt)
    keys = [
        (counted.tasks[task], *counted.places[location].tolist())
        for task, location in zip(counted.task, counted.location, strict=True)
    ]
    assert len(keys) == len(set(keys)) == len(expected)
    tasks_of = {}
    for key in expected:
        tasks_of.setdefault(key[1:], set()).add(key[0])
    for number, key in enumerate(keys):
        assert counted.seen[number] == len(expected[key])
        assert counted.correct[number] == sum(study.correct[prompt] for prompt in expected[key])
        assert counted.unique[number] == (len(tasks_of[key[1:]]) == 1)
        assert {names[file] for file in files[pairs == number]} == {study.file[prompt] for prompt in expected[key]}
        assert sorted(rows[some == number].tolist()) == (expected[key] if number % 3 == 0 else [])
    assert len(files) == len({(file, pair) for file, pair in zip(files, pairs, strict=True)})
    assert counted.heads == 12


def test_without_outcomes_no_prompt_is_correct(drawn):
    study = drawn(1, asked=False)
    with opened(study.points) as found:
        own = prompts_of(found, files=False)
        counted = occurrences(found, own.tasks)
    assert not own.asked and not own.correct.any() and not counted.correct.any()
    assert own.file.tolist() == list(range(40)), "each prompt stands alone"
