"""The report reads from disk what was written there, and a broken study is refused with its name."""

import json

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import manifest_path, read_table, read_tables, unpack_patches, write_table
from apmae.errors import ArtifactError
from apmae.report.examples import attended
from apmae.study.exemplars import dense, scaled, unpack
from apmae.study.reader import Study

SIZE, PATCH = 64, 16


@pytest.mark.parametrize("causal", [True, False])
def test_an_exemplar_is_unpacked_to_the_square_it_was_cut_from(planted, pack, causal):
    square = planted(1, np.random.default_rng(1), causal=causal).astype(np.float32)
    row = {"log_pattern": pack(square, causal=causal), "size": SIZE, "patch": PATCH, "causal": causal}
    found = unpack(row)
    assert found.dtype == np.float32
    assert np.array_equal(found, square.astype(np.float16).astype(np.float32))
    assert np.isneginf(found[np.triu_indices(SIZE, 1)]).all() == causal


def test_a_pattern_that_does_not_fill_its_patches_is_cut_to_its_size(pack):
    square = np.tril(np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE) % 7)
    assert np.array_equal(
        dense(unpack_patches(pack(square), SIZE, PATCH), SIZE - 5, 0.0), square[: SIZE - 5, : SIZE - 5]
    )


def test_bytes_of_another_size_are_refused():
    with pytest.raises(ArtifactError, match=r"expected 5120 bytes for a causal .* got 4"):
        unpack({"log_pattern": b"1234", "size": SIZE, "patch": PATCH, "causal": True})
    with pytest.raises(ArtifactError, match=r"expected 8192 bytes for a square .* got 5120"):
        unpack({"log_pattern": b"1" * 5120, "size": SIZE, "patch": PATCH, "causal": False})


def test_scaling_by_hand():
    log_pattern = np.log(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]) + 1e-300)
    log_pattern[np.triu_indices(3, 1)] = -np.inf
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 0.5]]
    assert np.allclose(scaled(log_pattern.astype(np.float32)), expected, atol=1e-6)


def test_a_pattern_with_one_key_per_row_scales_to_one():
    log_pattern = np.where(np.eye(4, dtype=bool), 0.0, -np.inf).astype(np.float32)
    assert np.array_equal(scaled(log_pattern), np.eye(4))


def test_scaling_is_that_of_the_encoder(study):
    import torch

    from apmae.patterns.scaling import log_normalize

    log_pattern = unpack(study.read_exemplars([3])[0])
    theirs = log_normalize(torch.from_numpy(log_pattern)[None, None])
    assert np.allclose(scaled(log_pattern), theirs[0, 0].numpy(), atol=1e-6)


def test_whole_patterns_are_found_by_their_place(folder, study):
    table = read_tables(folder / "embeddings", "encode", "exemplars").to_pylist()
    places = [(row["prompt"], row["layer"], row["head"]) for row in table]
    found = study.patterns_at([places[5], places[0], (10**6, 0, 0)])
    assert set(found) == {places[0], places[5]}
    for number in (0, 5):
        assert np.array_equal(found[places[number]], unpack(table[number]))
    assert study.patterns_at([]) == {}


def test_exemplars_find_their_points(folder, study):
    points = read_table(folder / "atlas" / "points.parquet").to_pylist()
    where = {(row["prompt"], row["layer"], row["head"]): row for row in points}
    exemplars = study.exemplars
    table = read_tables(folder / "embeddings", "encode", "exemplars")
    assert len(exemplars.cluster) == table.num_rows > 50
    for i, row in enumerate(table.to_pylist()):
        point = where[row["prompt"], row["layer"], row["head"]]
        assert exemplars.cluster[i] == point["cluster"]
        assert np.allclose(exemplars.coordinates[i], point["coordinates"])
    numbers = [len(exemplars.cluster) - 1, 0, 40, 0]
    assert study.read_exemplars(numbers) == [table.slice(n, 1).to_pylist()[0] for n in numbers]


def test_a_sample_of_everything_is_everything(folder, study):
    sample = study.sample()
    table = read_tables(folder / "embeddings", "encode", "embeddings")
    points = read_table(folder / "atlas" / "points.parquet")
    assert np.array_equal(sample.head, table["head"].to_numpy())
    assert np.array_equal(sample.cluster, points["cluster"].to_numpy())
    assert np.allclose(sample.raw, np.array(table["embedding"].to_pylist())[:, :2])
    assert np.allclose(sample.coordinates, np.array(points["coordinates"].to_pylist())[:, :2])


def test_a_small_sample_is_some_whole_rows_and_the_same_each_time(study):
    whole, sample = study.sample(), study.sample(rows=30, seed=4)
    assert len(sample.layer) == 30
    assert all(np.array_equal(a, b) for a, b in zip(sample, study.sample(rows=30, seed=4), strict=True))
    assert not np.array_equal(sample.raw, study.sample(rows=30, seed=5).raw)
    rows, taken = ({tuple(row) for row in np.column_stack(some)} for some in (whole, sample))
    assert taken <= rows
    assert len(taken) == 30


def test_tokens_of_a_prompt_in_a_later_shard(study):
    assert study.tokens(39)[1:4] == ["int ", "x", " = "]
    assert study.tokens(400) == []


def test_a_missing_or_unfinished_study_is_refused(tmp_path, folder, write_study):
    with pytest.raises(ArtifactError, match="finished encode artifact"):
        Study(tmp_path)
    other = write_study(tmp_path / "half", prompts=8)
    manifest_path(other / "atlas").unlink()
    with pytest.raises(ArtifactError, match="finished cluster artifact"):
        Study(other)


def test_an_atlas_of_other_embeddings_is_refused(tmp_path, write_study):
    study = write_study(tmp_path, prompts=8)
    path = manifest_path(study / "embeddings")
    record = json.loads(path.read_text())
    record["config"]["seed"] = 8
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="made from other embeddings; run cluster again"):
        Study(study)


def test_an_atlas_that_names_another_encoder_is_refused(tmp_path, write_study):
    study = write_study(tmp_path, prompts=8)
    path = study / "atlas" / "atlas.json"
    path.write_text(path.read_text().replace("c" * 64, "d" * 64))
    with pytest.raises(ArtifactError, match="expected an atlas fitted with the encoder of .* names dddddddddddd"):
        Study(study)


def test_damaged_points_are_refused(tmp_path, write_study):
    study = write_study(tmp_path, prompts=8)
    path = study / "atlas" / "points.parquet"
    size = path.stat().st_size
    path.write_bytes(b"x" * size)
    with pytest.raises(ArtifactError, match="damaged"):
        _ = Study(study).points
    with pytest.raises(ArtifactError, match="damaged"):
        _ = Study(study).exemplars


def test_too_few_points_are_refused(tmp_path, write_study):
    study = write_study(tmp_path, prompts=8)
    path = study / "atlas" / "points.parquet"
    write_table(path, read_table(path).slice(0, 10))
    record = json.loads(manifest_path(study / "atlas").read_text())
    record["files"]["points.parquet"]["bytes"] = path.stat().st_size
    manifest_path(study / "atlas").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="expected 64 points .* found 10"):
        _ = Study(study).points
    with pytest.raises(ArtifactError, match="a point for each exemplar"):
        _ = Study(study).exemplars


def test_a_short_prompt_is_shown_without_its_empty_rows():
    log_pattern = np.where(np.tri(8, dtype=bool), -1.0, -np.inf)
    log_pattern[5:] = -np.inf
    assert attended(log_pattern) == 5


def test_a_study_without_exemplars(tmp_path, write_study):
    study = Study(write_study(tmp_path, prompts=8, exemplars=0.0))
    assert len(study.exemplars.cluster) == 0
    assert isinstance(study.points, pa.Table)
