import os
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

from apmae import bundled
from apmae.artifacts import matrix, read_json, read_manifest, read_table, read_tables, write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig, EncodeConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.engine import local
from apmae.engine.prompts import make_prompts
from apmae.errors import ApmaeError, ArtifactError, ConfigError, SourceError
from apmae.lm.load import load_lm
from apmae.model.mae import APMAE
from apmae.schema import SCORES
from apmae.study.reader import Study

TINY = PromptsConfig(per_task=3, tasks=("identifier", "eol"))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def copy(real_study, tmp_path):
    """A copy of the study to write in."""
    folder = tmp_path / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


# -- encode ------------------------------------------------------------------------------------------------------------


def test_answers_of_a_prompts_stage_hold_for_its_own_model_and_window_only(tmp_path, bundled_lm, real_study):
    prompts = real_study.folder / "prompts.parquet"
    other = load_lm(bundled.language_model(), dtype="bfloat16")
    left = load_lm(bundled.language_model(), infill="none")
    assert local._asked(prompts, bundled_lm, 256)
    assert not local._asked(prompts, bundled_lm, 128)
    assert not local._asked(prompts, other, 256)
    assert not local._asked(prompts, left, 256)
    shutil.copy(prompts, tmp_path / "anyones.parquet")
    assert not local._asked(tmp_path / "anyones.parquet", bundled_lm, 256)
    make_prompts([parse_source("bundled")], tmp_path / "unasked.parquet", PromptsConfig(per_task=1))
    assert not local._asked(tmp_path / "unasked.parquet", bundled_lm, 256)


def test_a_repaired_input_is_not_mistaken_for_a_changed_one(tmp_path, bundled_lm, real_study):
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text('{"prompt": "int x = "}\n')
    encoder = str(real_study.folder / "encoder")
    config = EncodeConfig(capture={"context": 300}, exemplars_per_head=0)
    arguments = (bundled_lm, encoder, jsonl, tmp_path / "embeddings", config)
    with pytest.raises(SourceError, match="line 1: expected text in field 'completion', it is missing"):
        local.encode(*arguments)
    jsonl.write_text('{"prompt": "int x = ", "completion": "1"}\n')
    counts = local.encode(*arguments)
    assert (counts["prompts"], counts["patterns"], counts["pattern_size"], counts["context"]) == (1, 48, 256, 300)


DAMAGE = {
    "cut": lambda path: os.truncate(path, path.stat().st_size - 100),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-200] + bytes(100) + path.read_bytes()[-100:]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["embeddings-00001", "prompts-00000", "exemplars-00002", "reconstructions"])
def test_a_damaged_file_of_embeddings_is_made_again_alone(copy, real_study, bundled_lm, name, damage, monkeypatch):
    """The bytes are the same, so the atlas still belongs to them and the report can be made at once."""
    torch.set_num_threads(1)
    out, asked = copy / "embeddings", []
    shard_of = local.encode_shard
    monkeypatch.setattr(
        local, "encode_shard", lambda shard, **given: asked.append(shard.number) or shard_of(shard, **given)
    )
    path = out / f"{name}.parquet"
    damage(path)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir() if file != path}
    config = real_study.config.encode
    counts = local.encode(bundled_lm, str(copy / "encoder"), copy / "prompts.parquet", out, config)
    assert asked == ([] if name == "reconstructions" else [int(name[-5:])])
    assert path.read_bytes() == (real_study.folder / "embeddings" / path.name).read_bytes()
    assert {file: file.stat().st_mtime_ns for file in out.iterdir() if file != path} == before
    assert counts == Study(copy).encoded.counts


# -- cluster -----------------------------------------------------------------------------------------------------------


def test_the_atlas_on_disk_is_the_librarys(real_study, tmp_path):
    # Both are fitted in this process: between processes UMAP may differ in the last bits, and so in its layout.
    counts = local.fit_atlas(real_study.folder / "embeddings", tmp_path / "atlas", AtlasConfig())
    with duckdb.connect() as database:
        z = database.execute(
            f"SELECT embedding FROM '{real_study.folder}/embeddings/embeddings-*.parquet' "
            "ORDER BY filename, file_row_number"
        ).fetchnumpy()["embedding"]
    points = read_table(tmp_path / "atlas" / "points.parquet")
    table = read_tables(real_study.folder / "embeddings", "encode", "embeddings")
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in SCORES], axis=1)
    measured = Measured(scores, matrix(table["key_kinds"]), matrix(table["query_kinds"]))
    passing = ~(table["structure"].to_numpy() < 4.5)
    prompts = table["prompt"].to_numpy()
    atlas = Atlas.fit(np.stack(z), num_heads=48, seed=0, measured=measured, structured=passing, prompts=prompts)
    assert atlas.labels_.tolist() == points["cluster"].to_pylist()
    np.testing.assert_array_equal(matrix(points["coordinates"]), atlas.coordinates_)
    assert counts["clustered"] == int((atlas.labels_ >= 0).sum())
    assert counts["clusters"] == len(atlas.clusters)
    saved = Atlas.load(tmp_path / "atlas")
    assert saved.models == ("bundled",) and atlas.models == ()
    for ours, theirs in zip(saved.place(np.stack(z)), atlas.place(np.stack(z)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_on_disk_are_those_of_all_shards_in_order_and_leave_no_file(real_study, tmp_path):
    rows = local.rows_on_disk(real_study.folder / "embeddings", tmp_path)
    assert isinstance(rows, np.memmap) and not list(tmp_path.iterdir())
    table = read_tables(real_study.folder / "embeddings", "encode", "embeddings")
    np.testing.assert_array_equal(rows, np.array(table["embedding"].to_pylist(), np.float16))
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_patterns_that_fail_the_gate_are_in_no_cluster_and_are_counted(folder, tmp_path):
    """Of the planted study, in which they have a structure of 2 and all others one of 50."""
    out = tmp_path / "atlas"
    counts = local.fit_atlas(folder / "embeddings", out, AtlasConfig())
    with duckdb.connect() as database:
        failed, clustered = database.execute(
            "SELECT count(*), count(*) FILTER (cluster >= 0) "
            f"FROM '{folder}/embeddings/embeddings-*.parquet' e JOIN '{out}/points.parquet' p "
            "USING (prompt, layer, head) WHERE structure < 4.5"
        ).fetchone()
    assert failed > 0 == clustered < counts["clustered"]
    assert failed == counts["unstructured"] == read_manifest(out, "cluster").counts["unstructured"]
    assert failed == read_json(out / "atlas.json")["unstructured"] == Atlas.load(out).unstructured_


def test_an_atlas_names_the_representation_of_its_embeddings(real_study, folder, tmp_path):
    assert Atlas.load(real_study.folder / "atlas").representation == "joint"
    local.fit_atlas(folder / "embeddings", tmp_path / "atlas", AtlasConfig())
    assert Atlas.load(tmp_path / "atlas").representation == "cls"


@pytest.mark.parametrize("damage", ["cut", "gone", "unfinished"])
def test_damaged_embeddings_are_refused_before_an_atlas_is_begun(copy, tmp_path, damage):
    shard = copy / "embeddings" / "embeddings-00001.parquet"
    if damage == "cut":
        os.truncate(shard, shard.stat().st_size - 100)
    elif damage == "gone":
        shard.unlink()
    else:
        (copy / "embeddings" / "manifest.json").unlink()
    with pytest.raises(ApmaeError) as refused:
        local.fit_atlas(copy / "embeddings", tmp_path / "atlas", AtlasConfig())
    assert str(copy / "embeddings") in str(refused.value)
    assert not (tmp_path / "atlas").exists()


@pytest.mark.parametrize("name", ["points.parquet", "clusters.parquet", "reference.safetensors", "atlas.json"])
def test_a_damaged_file_of_an_atlas_is_fitted_again_and_the_others_stay(copy, tmp_path, name):
    """The atlas was fitted in this process: between processes UMAP may differ in the last bits, which is refused."""
    out = tmp_path / "atlas"
    local.fit_atlas(copy / "embeddings", out, AtlasConfig())
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if path.name != name}
    os.truncate(out / name, 30)
    local.fit_atlas(copy / "embeddings", out, AtlasConfig())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_damaged_embeddings_of_another_encoder_are_refused_with_the_reason(copy, bundled_lm, real_study):
    os.truncate(copy / "embeddings" / "embeddings-00001.parquet", 50)
    prompts, config = copy / "prompts.parquet", real_study.config.encode
    with pytest.raises(
        ArtifactError, match=r"inputs.encoder was '\w+', now '\w+'.; embeddings-00001.parquet is damaged"
    ):
        local.encode(bundled_lm, "bundled", prompts, copy / "embeddings", config)


def test_an_atlas_names_the_constants_of_its_descriptors(real_study, tmp_path):
    folder = real_study.folder / "atlas"
    noted = read_manifest(real_study.folder / "embeddings", "encode").inputs["constants"]
    assert noted == Atlas.load(folder).constants == bundled.constants()
    copy = Path(shutil.copytree(folder, tmp_path / "atlas"))
    write_json(copy / "atlas.json", {**read_json(copy / "atlas.json"), "constants": "c" * 64})
    with pytest.raises(ConfigError, match="this version's constants .* with others .cccccccccccc.; encode and cluster"):
        Atlas.load(copy).expect_constants()


def test_an_atlas_names_the_encoder_of_its_embeddings(real_study):
    atlas = Atlas.load(real_study.folder / "atlas")
    mae = APMAE.from_pretrained(real_study.folder / "encoder")
    assert atlas.encoder == mae.fingerprint
    with pytest.raises(ConfigError, match="expected the encoder that the atlas was fitted with"):
        atlas.expect_encoder(APMAE.from_pretrained())
