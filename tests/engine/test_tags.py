"""Tags over a corpus: as those of each prompt alone, resumed to the same bytes, and summed up as in plain Python."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from apmae import bundled
from apmae.artifacts import read_json, read_manifest, read_tables, sha256_file
from apmae.atlas.atlas import Atlas
from apmae.config import TagsConfig
from apmae.engine import tags as engine
from apmae.engine.prompts import load_prompts
from apmae.engine.tag import tag_prompt
from apmae.engine.tags import tag_corpus
from apmae.errors import ArtifactError, ConfigError, SourceError
from apmae.model.mae import APMAE
from apmae.prompts.files import write_jsonl
from apmae.report.steadiness_page import summary_page
from apmae.schema import CORPUS_TAGS, ENCODED_PROMPTS, NOISE

CONFIG = TagsConfig(batch=3, shard_prompts=3)
PROMPTS = 7


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def given(real_study, tmp_path_factory):
    """A file of prompts of several lengths and tasks, and what to tag with: the arguments after the model."""
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    prompts = load_prompts(real_study.folder / "prompts.parquet")
    step = len(prompts) // PROMPTS
    write_jsonl(path, prompts[::step][:PROMPTS])
    return str(real_study.folder / "encoder"), str(real_study.folder / "atlas"), path


@pytest.fixture(scope="module")
def made(bundled_lm, given, tmp_path_factory):
    """The folder of the tags."""
    out = tmp_path_factory.mktemp("tags") / "out"
    tag_corpus(bundled_lm, *given, out, CONFIG)
    return out


@pytest.fixture(scope="module")
def rows(made):
    return read_tables(made, "tag", "tags")


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tags_are_those_of_each_prompt_alone(bundled_lm, given, rows):
    encoder, folder, path = given
    mae, atlas = APMAE.from_pretrained(encoder), Atlas.load(folder)
    prompts = load_prompts(path)
    assert rows.schema.equals(CORPUS_TAGS) and rows.num_rows == PROMPTS * 48
    table = rows.to_pylist()
    numbers = {name: number for number, name in atlas.names.items()}
    same, same_measured = 0, 0
    for number, prompt in enumerate(prompts):
        alone = tag_prompt(bundled_lm, prompt, mae=mae, atlas=atlas)
        own = table[48 * number : 48 * number + 48]
        for ours, theirs in zip(own, alone.tags.to_pylist(), strict=True):
            assert ours["prompt"] == number and ours["task"] == prompt.task
            assert ours["outcome"] == alone.answer.outcome
            assert (ours["layer"], ours["head"]) == (theirs["layer"], theirs["head"])
            # In a batch shorter prompts have padding, and fp16 rounds: a head at a border may fall on its other side.
            fields = ("cluster", "name", "reason", "unstable")
            same += all(ours[field] == theirs[field] for field in fields)
            same_measured += ours["measured"] == theirs["measured"]
            assert ours["strength"] == pytest.approx(theirs["strength"], abs=0.1)
            np.testing.assert_allclose(ours["structure"], theirs["structure"], rtol=0.02, atol=0.05)
            if ours["nearest"] == [numbers[name] for name in theirs["nearest"]]:
                np.testing.assert_allclose(ours["distances"], theirs["distances"], rtol=0.05, atol=0.02)
    assert same > 0.95 * rows.num_rows and same_measured > 0.95 * rows.num_rows
    assert len({prompt.task for prompt in prompts}) > 1


def test_each_tag_has_its_clusters_stability_and_exemplars(given, rows):
    atlas = Atlas.load(given[1])
    clusters = {row["cluster"]: min(row["stability"], row["seed_stability"]) for row in atlas.clusters.to_pylist()}
    origins, known = atlas.origins.to_pylist(), 0
    for row in rows.to_pylist():
        assert row["stability"] == (None if row["cluster"] == NOISE else clusters[row["cluster"]])
        assert len(row["exemplars"]) == len(row["exemplar_distances"]) <= 3
        assert row["exemplar_distances"] == sorted(row["exemplar_distances"])
        if row["cluster"] != NOISE:
            known += 1
            assert row["exemplars"] and row["exemplar_distances"][0] <= 1.001, "within the cluster's radius"
        for number in row["exemplars"]:
            assert origins[number]["model"] == "bundled" and origins[number]["path"].startswith("java/")
    assert known > 0.5 * rows.num_rows


def test_a_page_is_beside_the_summary(made):
    page = (made / "index.html").read_bytes()
    assert page == summary_page(read_json(made / "summary.json"))
    assert "index.html" in read_manifest(made, "tag").files


@pytest.mark.parametrize("name", ["index.html", "summary.json"])
def test_a_page_or_summary_that_was_lost_is_made_again(bundled_lm, given, made, tmp_path, name):
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    tag_corpus(bundled_lm, *given, tmp_path / "out", CONFIG)
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_folder_of_source_files_is_tagged_by_one_completion_of_each(bundled_lm, given, tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for number, path in enumerate(sorted(bundled.java().rglob("*.java"))[:3]):
        shutil.copy(path, folder / f"F{number}.java")
    (folder / "Empty.java").write_text(" ")
    summary = tag_corpus(bundled_lm, *given[:2], folder, tmp_path / "out", CONFIG)
    asked = read_tables(tmp_path / "out", "tag", "prompts")
    assert asked["path"].to_pylist() == [f"src/F{number}.java" for number in range(3)]
    assert summary["prompts"] == 3 and summary["unused_files"] == {"empty": 1}
    assert read_tables(tmp_path / "out", "tag", "tags").num_rows == 3 * 48
    before = bytes_of(tmp_path / "out")
    assert tag_corpus(bundled_lm, *given[:2], folder, tmp_path / "out", CONFIG) == summary
    assert bytes_of(tmp_path / "out") == before
    (folder / "F0.java").write_text("class Other { int x = 1; }\n")
    with pytest.raises(ArtifactError, match="prompts"):
        tag_corpus(bundled_lm, *given[:2], folder, tmp_path / "out", CONFIG)


def test_the_prompts_are_there_with_their_answers(bundled_lm, given, made):
    asked = read_tables(made, "tag", "prompts")
    prompts = load_prompts(given[2])
    assert asked.schema.equals(ENCODED_PROMPTS)
    assert asked["id"].to_pylist() == [prompt.id for prompt in prompts]
    assert set(asked["outcome"].to_pylist()) <= {"correct", "incorrect"}
    assert asked["log_probability"].null_count == asked.num_rows, "whole completions need a second forward"


def test_one_forward_for_each_batch_and_nothing_else(bundled_lm, given, tmp_path):
    forwards = []
    hook = bundled_lm.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        tag_corpus(bundled_lm, *given, tmp_path / "out", CONFIG)
    finally:
        hook.remove()
    assert len(forwards) == 3


@pytest.mark.parametrize("shards", [0, 2])
def test_a_run_that_was_killed_ends_with_the_same_bytes(bundled_lm, given, made, tmp_path, monkeypatch, shards):
    write, done = engine.tag_shard, []

    def tag_shard(shard, **some):
        if len(done) == shards:
            raise Killed
        done.append(shard)
        return write(shard, **some)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "tag_shard", tag_shard)
        with pytest.raises(Killed):
            tag_corpus(bundled_lm, *given, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("tags-*")}
    assert len(kept) == shards and not (tmp_path / "out" / "manifest.json").exists()
    tag_corpus(bundled_lm, *given, tmp_path / "out", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_second_run_reads_and_other_settings_or_names_are_refused(bundled_lm, given, made, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    assert tag_corpus(bundled_lm, *given, made, CONFIG) == read_json(made / "summary.json")
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before
    with pytest.raises(ArtifactError, match="shard_prompts was 3, now 4"):
        tag_corpus(bundled_lm, *given, made, CONFIG.model_copy(update={"shard_prompts": 4}))
    shutil.copytree(given[1], tmp_path / "atlas")
    (tmp_path / "atlas" / "names.json").write_text(json.dumps({"0": "mine"}))
    with pytest.raises(ArtifactError, match="names"):
        tag_corpus(bundled_lm, given[0], str(tmp_path / "atlas"), given[2], made, CONFIG)


def test_the_summary_is_the_count_of_the_tags(bundled_lm, given, made, rows):
    summary, table = read_json(made / "summary.json"), rows.to_pylist()
    assert (summary["format"], summary["version"], summary["model"]) == ("apmae.heads", 1, bundled_lm.name)
    assert summary["inputs"] == read_manifest(made, "tag").inputs
    assert summary["inputs"]["atlas"] == sha256_file(Path(given[1]) / "atlas.json")
    assert summary["inputs"]["encoder"] == APMAE.from_pretrained(given[0]).fingerprint
    prompts = load_prompts(given[2])
    assert summary["prompts"] == PROMPTS and summary["heads_by_layer"] == [8] * 6
    assert summary["tasks"] == Counter(prompt.task for prompt in prompts)
    outcomes = read_tables(made, "tag", "prompts")["outcome"].to_pylist()
    assert summary["correct"] == outcomes.count("correct")
    assert summary["unused_files"] == {}
    names = {one["cluster"]: one["name"] for one in summary["clusters"]}
    assert names == {number: name for number, name in Atlas.load(given[1]).names.items() if number != NOISE}
    assert [(one["layer"], one["head"]) for one in summary["heads"]] == [(la, he) for la in range(6) for he in range(8)]
    for one in summary["heads"]:
        own = [row for row in table if (row["layer"], row["head"]) == (one["layer"], one["head"])]
        called = [row["name"].split(", ")[0] for row in own]
        assert one["tags"] == len(own) == PROMPTS
        assert {entry["name"]: round(entry["share"] * PROMPTS) for entry in one["names"]} == Counter(called)
        assert one["known"] == sum(row["cluster"] != NOISE for row in own) / PROMPTS
        often = Counter(name for name in called if name != "unknown")
        assert one["steadiness"] == max(often.values(), default=0) / PROMPTS
        assert one["name"] is None if not often else often[one["name"]] == max(often.values())


def test_an_atlas_of_another_encoder_is_refused_before_the_model_is_loaded(given, tmp_path):
    with pytest.raises(ConfigError, match="--atlas bundled: expected the encoder that the atlas was fitted with"):
        tag_corpus(None, given[0], "bundled", given[2], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_prompts_are_refused(given, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SourceError):
        tag_corpus(None, *given[:2], tmp_path / "none.jsonl", tmp_path / "out")
