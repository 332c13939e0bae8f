"""A folder of tags is read as a study is: what both have is the same, what only one has is refused by name."""

import shutil

import numpy as np
import pytest

from apmae.artifacts import matrix, read_json, read_tables
from apmae.errors import ArtifactError
from apmae.study.reader import Study
from apmae.study.tags import Tags, is_tags, open_placed, tags_of


def test_tags_have_what_a_study_of_the_same_prompts_has(real_study, real_tags):
    study, tags = open_placed(real_study.folder), open_placed(str(real_tags.folder))
    assert isinstance(study, Study) and isinstance(tags, Tags)
    for name in ("model", "layers", "heads", "heads_by_layer", "metric", "per_head"):
        assert getattr(tags, name) == getattr(study, name), name
    assert tags.prompts["id"].to_pylist() == study.prompts["id"].to_pylist()[:6]
    assert tags.tokens(5) == study.tokens(5) and tags.tokens(6) == []
    assert (
        tags.names == study.names and set(tags.made_from) == {"tag"} and set(study.made_from) == {"encode", "cluster"}
    )
    ours, theirs = ({row["cluster"]: row for row in one.clusters.to_pylist()} for one in (tags, study))
    for number, row in ours.items():
        assert row["unstable"] == theirs[number]["unstable"]
        assert row["stability"] == min(theirs[number]["stability"], theirs[number]["seed_stability"])
    assert ours.keys() == theirs.keys() and len(tags.exemplars.prompt) == 0 == len(tags.read_exemplars([]))
    where = [one.points.select(["prompt", "layer", "head"]).to_pylist() for one in (tags, study)]
    assert where[0] == [row for row in where[1] if row["prompt"] < 6]


def test_their_embeddings_are_those_of_the_study(real_study, real_tags):
    ours = read_tables(real_tags.folder, "tag", "embeddings")
    theirs = read_tables(real_study.folder / "embeddings", "encode", "embeddings").slice(0, len(ours))
    assert ours.schema.equals(theirs.schema)
    for name in ("prompt", "layer", "head", "task", "outcome"):
        assert ours[name].to_pylist() == theirs[name].to_pylist()
    for name in ("score_induction", "score_first_token", "score_blocks"):
        np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), atol=2e-3)
    z, other = (matrix(one["embedding"]).astype(float) for one in (ours, theirs))
    assert np.abs(z - other).mean() < 0.02 * np.abs(other).mean()


def test_folders_that_are_neither_are_refused_by_name(real_study, real_tags, tmp_path):
    assert is_tags(real_tags.folder) and not is_tags(real_study.folder) and not is_tags(tmp_path)
    with pytest.raises(ArtifactError, match="expected a finished encode artifact"):
        open_placed(tmp_path)
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(ArtifactError, match="expected a finished tag artifact at .* it is unfinished"):
        open_placed(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="it is damaged"):
        open_placed(tmp_path)


def test_a_study_has_the_tags_that_were_made_with_its_atlas(real_study, real_tags, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(real_study.folder, study, ignore=shutil.ignore_patterns("encoder", "report"))
    assert tags_of(Study(study)) == {}
    shutil.copytree(real_tags.folder, study / "tags" / "mine")
    shutil.copytree(real_tags.folder, study / "tags" / "other")
    manifest = study / "tags" / "other" / "manifest.json"
    atlas = read_json(manifest)["inputs"]["atlas"]
    manifest.write_text(manifest.read_text().replace(atlas, "0" * 64))
    assert list(tags_of(Study(study))) == ["mine"]
