"""The stage on a real study: its tables, what it costs to ask again, what the report shows of it."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.locations import against_chance, task_locations
from apmae.artifacts import read_json, read_manifest, read_table, read_tables
from apmae.config import LocationsConfig
from apmae.engine.locations import locate, print_locations
from apmae.engine.report import write_report
from apmae.errors import ArtifactError
from apmae.schema import FOREIGN, LOCATIONS, LOCATIONS_FILE, POINTS_FILE
from apmae.study.reader import Study

CONFIG = LocationsConfig(permutations=40)


@pytest.fixture(scope="module")
def study(real_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("locations") / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


@pytest.fixture(scope="module")
def found(study):
    return locate(study, CONFIG)


def test_the_counts_are_those_of_table_5_and_of_the_study(study, found):
    locations, foreign = found
    assert locations.schema.equals(LOCATIONS) and foreign.schema.equals(FOREIGN)
    rows = {row["task"]: row for row in locations.to_pylist()}
    points = read_table(study / "atlas" / POINTS_FILE)
    for row in task_locations(points):
        assert {name: rows[row.task][name] for name in row._fields} == row._asdict()
    prompts = read_tables(study / "embeddings", "encode", "prompts", ["task", "path"]).to_pylist()
    opened = Study(study)
    places = len({*zip(points["layer"].to_pylist(), points["head"].to_pylist(), strict=True)})
    for task, row in rows.items():
        files = [prompt["path"] for prompt in prompts if prompt["task"] == task]
        assert (row["prompts"], row["files"]) == (len(files), len(set(files)))
        assert row["possible"] == len(opened.clusters) * places >= row["total"]
        assert row["unique_once"] <= row["unique"] and row["unique_stable"] <= row["unique"]
        assert row["unique_weighted"] <= row["unique"] + 1e-4
        means = [row[f"{which}_null"] for which in ("correct", "incorrect", "overlap")]
        assert sum(means) == pytest.approx(row["unique"], abs=1e-3), "outcomes move, locations stay unique"


def test_asked_again_it_is_read_and_other_settings_are_refused(study, found):
    file = study / "locations" / LOCATIONS_FILE
    before = file.stat()
    again = locate(study, CONFIG)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert all(ours.equals(theirs) for ours, theirs in zip(again, found, strict=True))
    with pytest.raises(ArtifactError, match="permutations was 40, now 41"):
        locate(study, CONFIG.model_copy(update={"permutations": 41}))
    prompts = [study / "embeddings" / name for name in Study(study).encoded.shards("prompts")]
    made = against_chance(study / "atlas" / POINTS_FILE, prompts, Study(study).clusters, CONFIG)
    assert made[0].equals(found[0]) and made[1].equals(found[1]), "same inputs, same tables"


def test_the_report_shows_them_if_they_are_of_this_atlas(study, found, capsys):
    assert "Locations against chance" in write_report(study).read_text()
    print_locations(found)
    assert "tests:" in capsys.readouterr().out.replace("\n    ", " ")
    Study(study)
    manifest = study / "locations" / "manifest.json"
    text = manifest.read_text()
    own = Study(study).located
    assert own is not None and own[0].equals(found[0])
    cluster = text.split('"cluster": "')[1][:64]
    manifest.write_text(text.replace(cluster, "0" * 64))
    assert Study(study).located is None, "another atlas's"
    assert "apmae locations" in write_report(study).read_text()
    manifest.write_text(text)


def test_without_outcomes_nothing_is_said_of_them(study, capsys):
    points = read_table(study / "atlas" / POINTS_FILE)
    index = points.schema.get_field_index("outcome")
    points = points.set_column(index, points.schema.field("outcome"), pa.nulls(len(points), pa.string()))
    prompts = read_tables(study / "embeddings", "encode", "prompts", ["prompt", "path"])
    locations, foreign = against_chance(points, prompts, Study(study).clusters, CONFIG)
    assert foreign.num_rows == 0
    for row in locations.to_pylist():
        assert row["correct"] is row["incorrect_null"] is row["overlap_p"] is row["movable"] is None
        assert np.isfinite(row["unique_error"]) and row["total"] > 0
    print_locations((locations, foreign))
    assert "No outcome is known" in " ".join(capsys.readouterr().out.split())


def test_a_study_without_clusters_has_no_locations(study):
    points = read_table(study / "atlas" / POINTS_FILE)
    index = points.schema.get_field_index("cluster")
    points = points.set_column(index, points.schema.field("cluster"), pa.array([-1] * len(points), pa.int32()))
    prompts = read_tables(study / "embeddings", "encode", "prompts", ["prompt", "path"])
    found = against_chance(points, prompts, Study(study).clusters.slice(0, 0), CONFIG)
    rows = found[0].to_pylist()
    assert rows and all(row["possible"] == row["total"] == row["unique"] == row["correct"] == 0 for row in rows)
    assert all(row["unique_error"] == row["unique_half"] == 0 and row["correct_p"] == 1 for row in rows)
    assert found[1].num_rows == 0
    print_locations(found)


def test_a_folder_of_tags_has_the_tables_of_a_study(real_tags, tmp_path, capsys):
    folder = tmp_path / "tags"
    shutil.copytree(real_tags.folder, folder)
    locations, foreign = locate(folder, CONFIG)
    assert locations.schema.equals(LOCATIONS) and foreign.schema.equals(FOREIGN)
    stability = {row["cluster"]: row["stability"] for row in read_json(folder / "summary.json")["clusters"]}
    seen = {}
    for row in read_tables(folder, "tag", "tags").to_pylist():
        if row["cluster"] >= 0:
            place = seen.setdefault((row["cluster"], row["layer"], row["head"]), {})
            place.setdefault(row["task"], set()).add(row["outcome"])
    for row in locations.to_pylist():
        assert row["total"] == sum(row["task"] in tasks for tasks in seen.values())
        unique = [(place, tasks[row["task"]]) for place, tasks in seen.items() if set(tasks) == {row["task"]}]
        outcomes = [found for _, found in unique]
        assert row["unique"] == len(unique) and row["correct"] == outcomes.count({"correct"})
        assert row["incorrect"] == outcomes.count({"incorrect"})
        assert row["overlap"] == outcomes.count({"correct", "incorrect"})
        assert row["unique_weighted"] == pytest.approx(sum(stability[place[0]] for place, _ in unique), rel=1e-5)
    assert set(read_manifest(folder / "locations", "locations").inputs) == {"tag"}
    print_locations((locations, foreign))
    assert "are unique to a task" in " ".join(capsys.readouterr().out.split())
