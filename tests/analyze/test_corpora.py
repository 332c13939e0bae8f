"""Corpora side by side: counts by plain loops, nulls by combinatorics, planted differences found again."""

from math import comb
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apmae.analyze.corpora import compare_corpora
from apmae.analyze.foreign import halves
from apmae.analyze.locations import against_chance
from apmae.analyze.occurrence import Prompts
from apmae.config import LocationsConfig
from apmae.schema import CORPORA, CORPORA_FOREIGN, CORPORA_LOCATIONS, CORPORA_TASKS

CONFIG = LocationsConfig(permutations=400)
CLUSTERS = pa.table({"stability": np.linspace(0.2, 1, 9), "unstable": np.arange(9) < 2})


def written(folder, study, cut=15):
    """A drawn study as two shards of tags and prompts."""
    folder.mkdir()
    tags = study.points
    inside = np.array(tags["prompt"]) < cut
    parts = []
    for number, chosen in enumerate((inside, ~inside)):
        pq.write_table(tags.filter(pa.array(chosen)), folder / f"tags-0000{number}.parquet")
        own = study.prompts.slice(0, cut) if number == 0 else study.prompts.slice(cut)
        pq.write_table(own, folder / f"prompts-0000{number}.parquet")
        parts.append(number)
    return SimpleNamespace(
        point_files=sorted(folder.glob("tags-*")),
        prompt_files=sorted(folder.glob("prompts-*")),
        clusters=CLUSTERS,
        per_head=False,
    )


@pytest.fixture
def two(drawn, tmp_path):
    studies = {"java": drawn(0, noise=0.8, clusters=9), "it's python": drawn(1, noise=0.8, clusters=9, prompts=30)}
    corpora = {name: written(tmp_path / name, study) for name, study in studies.items()}
    return studies, corpora


def test_unique_locations_are_those_of_plain_loops(two):
    studies, corpora = two
    found = compare_corpora(corpora, CONFIG)
    assert found.corpora.schema.equals(CORPORA)
    rows = {(row["corpus"], row["task"]): row for row in found.corpora.to_pylist()}
    tasks = {None, *(task for study in studies.values() for task in study.task)}
    assert rows.keys() == {(name, task) for name in studies for task in tasks}
    for (name, task), row in rows.items():
        seen = {}
        for corpus, study in studies.items():
            for prompt, of in enumerate(study.task):
                if task in (None, of):
                    for place in study.places(prompt):
                        seen.setdefault(place, []).append(corpus)
        own = [places for places in seen.values() if name in places]
        unique = [places for places in own if set(places) == {name}]
        assert (row["total"], row["unique"]) == (len(own), len(unique))
        assert row["unique_once"] == sum(len(places) == 1 for places in unique)
        mine = [prompt for prompt, of in enumerate(studies[name].task) if task in (None, of)]
        assert row["prompts"] == len(mine) and row["files"] == len({studies[name].file[prompt] for prompt in mine})
    assert sum(row["unique"] for row in rows.values()) > 20


def test_each_corpus_by_itself_is_as_a_study(two):
    studies, corpora = two
    found = compare_corpora(corpora, CONFIG)
    assert found.locations.schema.equals(CORPORA_LOCATIONS) and found.tasks.schema.equals(CORPORA_TASKS)
    for name, study in studies.items():
        alone, foreign = against_chance(study.points, study.prompts, CLUSTERS, CONFIG)
        own = [row for row in found.locations.to_pylist() if row.pop("corpus") == name]
        assert own == alone.to_pylist()
        assert [row for row in found.tasks.to_pylist() if row.pop("corpus") == name] == foreign.to_pylist()


def test_shares_of_other_corpora_are_those_of_plain_loops(two):
    studies, corpora = two
    found = compare_corpora(corpora, CONFIG)
    assert found.foreign.schema.equals(CORPORA_FOREIGN)
    prompts = [(name, prompt) for name, study in studies.items() for prompt in range(len(study.task))]
    files = list(dict.fromkeys((name, studies[name].file[prompt]) for name, prompt in prompts))
    number = np.array([files.index((name, studies[name].file[prompt])) for name, prompt in prompts])
    empty = np.zeros(len(number), int)
    half = dict(zip(prompts, halves(Prompts(empty, empty, empty, number, (), True), CONFIG.seed), strict=True))
    shares = {}
    for name, prompt in prompts:
        there = [(other, at) for other, at in prompts if half[other, at] != half[name, prompt]]

        def having(place, corpus, right=None, there=there):
            return [at for other, at in there if other == corpus and place in studies[corpus].places(at)
                    and right in (None, studies[corpus].correct[at])]  # fmt: skip

        def share(place, corpus, there=there, having=having):
            return len(having(place, corpus)) / max(sum(other == corpus for other, _ in there), 1)

        places, foreign = studies[name].places(prompt), []
        for place in places:
            owners = [corpus for corpus in studies if corpus != name and having(place, corpus, True)]
            if len(owners) == 1 and share(place, owners[0]) >= 2 * share(place, name):
                foreign.append(place)
        if places:
            shares[name, prompt] = len(foreign) / len(places)
    assert any(shares.values())
    rows = found.foreign.to_pylist()
    assert {row["task"] for row in rows} > {None}
    for row in rows:
        study = studies[row["corpus"]]
        own = [key for key in shares if key[0] == row["corpus"] and row["task"] in (None, study.task[key[1]])]
        for right, which in ((True, "correct"), (False, "incorrect")):
            values = [shares[key] for key in own if study.correct[key[1]] == right]
            assert row[which] == len(values) and row[f"share_{which}"] == pytest.approx(np.mean(values), rel=1e-5)


def test_the_null_of_files_with_a_prompt_each_is_hypergeometric(drawn, tmp_path):
    """A location in n of N prompts is in a's prompts only with the chance that all n are among them."""
    studies = {"a": drawn(3, noise=0.7, clusters=6, prompts=16), "b": drawn(4, noise=0.7, clusters=6, prompts=24)}
    for study in studies.values():
        study.prompts = pa.table({"prompt": study.prompts["prompt"], "path": [f"f{i}" for i in range(len(study.task))]})
    corpora = {name: written(tmp_path / name, study, 10) for name, study in studies.items()}
    config = LocationsConfig(permutations=2000)
    rows = {(row["corpus"], row["task"]): row for row in compare_corpora(corpora, config).corpora.to_pylist()}
    for (name, task), row in rows.items():
        chosen = [
            (corpus, prompt)
            for corpus, study in studies.items()
            for prompt, of in enumerate(study.task)
            if task in (None, of)
        ]
        many, mine = len(chosen), sum(corpus == name for corpus, _ in chosen)
        times = {}
        for corpus, prompt in chosen:
            for place in studies[corpus].places(prompt):
                times[place] = times.get(place, 0) + 1
        expected = sum(comb(many - n, mine - n) / comb(many, mine) for n in times.values() if n <= mine)
        assert row["unique_null"] == pytest.approx(expected, abs=5 * row["unique_null_sd"] / 2000**0.5 + 1e-6)
        assert row["movable"] == 1


def test_a_planted_difference_is_found_and_none_where_there_is_none(drawn, tmp_path):
    for name, shift in (("same", 0), ("other", 6)):
        studies = {"a": drawn(5, prompts=40, clusters=6), "b": drawn(6, prompts=40, clusters=6)}
        for study in studies.values():
            study.prompts = pa.table({"prompt": study.prompts["prompt"], "path": [f"f{i}" for i in range(40)]})
        points = studies["b"].points
        moved = pa.array([c + shift if c == 0 else c for c in points["cluster"].to_pylist()], pa.int32())
        studies["b"].points = points.set_column(5, points.schema.field("cluster"), moved)
        (tmp_path / name).mkdir()
        corpora = {key: written(tmp_path / name / key, study) for key, study in studies.items()}
        rows = compare_corpora(corpora, CONFIG).corpora.to_pylist()
        p = [row["unique_p"] for row in rows if row["task"] is None]
        assert max(p) < 0.01 if shift else min(p) > 0.05


def test_without_outcomes_there_is_no_conjecture(drawn, tmp_path):
    corpora = {name: written(tmp_path / name, drawn(seed, asked=False)) for seed, name in enumerate("ab")}
    found = compare_corpora(corpora, CONFIG)
    assert found.foreign.num_rows == found.tasks.num_rows == 0 and found.corpora.num_rows == 8
