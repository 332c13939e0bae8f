"""Where an atlas's points came from, and which of them a pattern resembles most."""

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import read_json, sha256_file, write_json
from apmae.atlas.atlas import Atlas
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import ORIGINS


@pytest.fixture(scope="module")
def known(blobs):
    """An atlas that knows where its rows came from; some rows occur twice, with other origins."""
    z = np.concatenate([blobs[0], blobs[0][:10]])
    number = np.arange(len(z))
    origins = {"model": "opt", "path": [f"src/{i}.java" for i in number], "task": "eol"}
    return Atlas.fit(z, seed=0, where=(number % 6, number % 8), prompts=number // 4, origins=origins), z


def test_rows_have_what_was_given_and_what_where_and_prompts_say(known):
    atlas, z = known
    assert atlas.origins.schema.equals(ORIGINS) and len(atlas.origins) == len(z)
    row = atlas.origins.slice(37, 1).to_pylist()[0]
    expected = {"model": "opt", "prompt": 9, "path": "src/37.java", "task": "eol", "layer": 1, "head": 5}
    assert row == expected | {"variant": None}


def test_exemplars_are_the_nearest_members_of_the_cluster(known):
    """By brute force: distances to all kept points, in radii of their clusters."""
    atlas, z = known
    draw = np.random.default_rng(1)
    rows = np.concatenate([z[::9] + 0.05 * draw.normal(size=z[::9].shape), z[:3] * 50]).astype(np.float16)
    placed, points = atlas.place(rows), atlas._reference
    assert (placed.cluster >= 0).any() and (placed.cluster == -1).any()
    for number, row in enumerate(rows.astype(np.float64)):
        apart = np.abs(points.embeddings.astype(np.float64) - row).sum(1)
        voters = np.argsort(apart, kind="stable")[:15]
        own = points.labels[voters] == placed.cluster[number]
        own = own if placed.cluster[number] >= 0 else points.labels[voters] >= 0
        far = np.sort(apart[voters][own] / points.radii[voters][own])[:3]
        found = placed.exemplars[number] >= 0
        assert found.sum() == len(far)
        np.testing.assert_allclose(placed.exemplar_distances[number][found], far, rtol=1e-3)
        assert np.isinf(placed.exemplar_distances[number][~found]).all()
        for origin, cluster, distance in zip(
            placed.exemplars[number][found],
            placed.exemplar_clusters[number][found],
            placed.exemplar_distances[number][found],
            strict=True,
        ):
            (point,) = np.flatnonzero(points.origin == origin)
            assert points.labels[point] == cluster
            assert np.array_equal(points.embeddings[point], z[origin].astype(np.float16)), "the very row"
            assert distance == pytest.approx(apart[point] / points.radii[point], rel=1e-3)


def test_a_loaded_atlas_names_the_same_exemplars(known, tmp_path):
    atlas, z = known
    assert "origins.parquet" in atlas.save(tmp_path)
    loaded = Atlas.load(tmp_path)
    assert len(loaded.origins) == len(loaded._reference.labels)
    ours, theirs = atlas.place(z), loaded.place(z)
    shown = ours.exemplars >= 0
    assert shown.any() and np.array_equal(theirs.exemplars >= 0, shown)
    assert loaded.origins.take(pa.array(theirs.exemplars[shown])).equals(
        atlas.origins.take(pa.array(ours.exemplars[shown]))
    )


def test_patterns_that_fail_the_gate_have_none(known):
    atlas, z = known
    passing = np.arange(len(z)) % 2 == 0
    placed = atlas.place(z, structured=passing)
    assert (placed.exemplars[~passing] == -1).all() and (placed.exemplars[passing] >= 0).any()


def test_an_atlas_that_knows_nothing_of_its_rows_names_none(atlas, blobs, tmp_path):
    atlas.save(tmp_path)
    assert not (tmp_path / "origins.parquet").exists()
    for one in (atlas, Atlas.load(tmp_path)):
        assert one.origins is None and (one.place(blobs[0]).exemplars == -1).all()


def test_rows_that_are_added_have_origins_too(blobs, tmp_path):
    z = blobs[0]
    atlas = Atlas.fit(z, seed=0, prompts=np.arange(len(z)))
    far = z[:1] + 40
    atlas.extend(np.repeat(far, 3, 0), [0, 0, 0], np.zeros((3, 4)), origins={"variant": "first 8 tokens"})
    assert atlas.origins["prompt"].to_pylist()[-4:] == [len(z) - 1, None, None, None]
    atlas.save(tmp_path)
    for one in (atlas, Atlas.load(tmp_path)):
        shown = one.place(far).exemplars[0]
        assert one.origins.take(pa.array(shown[shown >= 0]))["variant"].to_pylist()[0] == "first 8 tokens"


@pytest.mark.parametrize(
    ("origins", "said"),
    [
        ({"colour": "red"}, "origins with columns among model, prompt, path, .*, got colour"),
        ({"path": ["a"]}, "a path for each of 250 rows, got 1"),
        ({"prompt": ["a"] * 250}, "a prompt of int64"),
    ],
)
def test_origins_that_do_not_fit_are_refused(blobs, origins, said):
    with pytest.raises(ConfigError, match=said):
        Atlas.fit(blobs[0], seed=0, origins=origins)


def test_origins_of_other_points_are_refused(known, tmp_path):
    atlas, _ = known
    atlas.save(tmp_path)
    path = tmp_path / "origins.parquet"
    Atlas.fit(known[1][:120], seed=0, prompts=np.arange(120)).save(tmp_path / "other")
    path.write_bytes((tmp_path / "other" / "origins.parquet").read_bytes())
    with pytest.raises(ArtifactError, match="as it was saved, its content has changed"):
        Atlas.load(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    record["files"]["origins.parquet"] = sha256_file(path)
    write_json(tmp_path / "atlas.json", record)
    with pytest.raises(ArtifactError, match="expected one row for each of .* it does not belong to them"):
        Atlas.load(tmp_path)
