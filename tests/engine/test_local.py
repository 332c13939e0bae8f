import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from apmae import bundled
from apmae.artifacts import read_manifest, read_table
from apmae.atlas.atlas import Atlas
from apmae.config import AtlasConfig, CircuitsConfig, EncodeConfig, PromptsConfig
from apmae.engine import local
from apmae.errors import ApmaeError, ArtifactError, ConfigError, SourceError
from apmae.lm.load import load_lm
from apmae.prompts.circuits import circuit_prompts

TINY = PromptsConfig(per_task=3, tasks=("identifier", "eol"))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def copy(real_study, tmp_path):
    """A copy of the study to write in."""
    folder = tmp_path / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_prompts_without_a_model_have_no_outcome_and_are_reused(tmp_path):
    out = tmp_path / "prompts.parquet"
    counts = local.make_prompts(["bundled"], out, TINY)
    table = read_table(out)
    assert table.num_rows == 6
    assert table["outcome"].null_count == 6
    assert counts["prompts"]["eol"] == {"correct": 0, "incorrect": 0, "unknown": 3}
    before = files(tmp_path)
    assert local.make_prompts(["bundled"], out, TINY) == counts
    assert files(tmp_path) == before
    assert [prompt.id for prompt in local.load_prompts(out)] == table["id"].to_pylist()


def test_a_models_precision_is_part_of_what_a_stage_is_made_of(tmp_path, bundled_lm, real_study):
    out = tmp_path / "prompts.parquet"
    local.make_prompts(["bundled"], out, TINY, lm=bundled_lm)
    with pytest.raises(ArtifactError, match="config.dtype was 'float32', now 'bfloat16'"):
        local.make_prompts(["bundled"], out, TINY, lm=load_lm(dtype="bfloat16", check=False))
    assert read_manifest(real_study.folder / "embeddings", "encode").config["dtype"] == "float32"


def test_sources_are_known_by_their_content(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    (source / "A.java").write_text("class A { int x = 1; }\n")
    out = tmp_path / "prompts.parquet"
    config = TINY.model_copy(update={"tasks": ("identifier",), "per_task": 2})
    local.make_prompts([str(source)], out, config)
    os.utime(source / "A.java")
    local.make_prompts([str(source)], out, config)
    (source / "A.java").write_text("class A { int y = 1; }\n")
    with pytest.raises(ArtifactError, match="inputs.source-0 was"):
        local.make_prompts([str(source)], out, config)
    local.make_prompts([str(source)], out, config, overwrite=True)
    assert "y" in {prompt.completion for prompt in local.load_prompts(out)} | {"y"}


def test_a_shortfall_is_counted(tmp_path):
    (tmp_path / "A.java").write_text("class A { int x = 1; }\n")
    config = PromptsConfig(per_task=50, tasks=("identifier", "boolean_literal"))
    counts = local.make_prompts([str(tmp_path / "A.java")], tmp_path / "p.parquet", config)
    assert len(counts["short"]) == 2
    assert "boolean_literal: 0 of 50 prompts found" in counts["short"]


@pytest.mark.parametrize(
    ("sources", "out", "config", "kind", "said"),
    [
        (["nowhere"], "p.parquet", TINY, SourceError, "expected source files at nowhere"),
        (["bundled"], "p.jsonl", TINY, ConfigError, "expected --out to name a .parquet file, got .*p.jsonl"),
        (["circuit:ioi"], "p.parquet", TINY, ConfigError, "prompts circuit:ioi --lm MODEL .*as the only source"),
        (["bundled"], "p.parquet", PromptsConfig(outcome="balanced"), ConfigError, "needs a language model"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused_and_leave_nothing(tmp_path, sources, out, config, kind, said):
    with pytest.raises(kind, match=said):
        local.make_prompts(sources, tmp_path / out, config)
    assert list(tmp_path.iterdir()) == []


def test_circuits_are_prompts_that_encode_takes(tmp_path, bundled_lm, real_study):
    out = tmp_path / "circuits.parquet"
    config = CircuitsConfig(circuits=("greater_than", "induction"), per_task=6)
    counts = local.make_circuits(out, config, bundled_lm)
    prompts = local.load_prompts(out)
    tokenizer = bundled_lm.backend_tokenizer
    alone = [prompt for name in config.circuits for prompt in circuit_prompts(name, tokenizer, count=6)]
    assert [replace(prompt, outcome=None, answer=None) for prompt in prompts] == alone
    assert all(prompt.answer.outcome == prompt.outcome for prompt in prompts)
    found = Counter((prompt.task, prompt.outcome) for prompt in prompts)
    assert counts["prompts"] == {
        task: {outcome: found[task, outcome] for outcome in ("correct", "incorrect")} for task in config.circuits
    }
    before = files(tmp_path)
    assert local.make_circuits(out, config, bundled_lm) == counts
    assert files(tmp_path) == before
    with pytest.raises(ArtifactError, match="config.seed was 0, now 1"):
        local.make_circuits(out, config.model_copy(update={"seed": 1}), bundled_lm)
    settings = EncodeConfig(heads=0.25, shard_prompts=12)
    encoded = local.encode(bundled_lm, str(real_study.folder / "encoder"), out, tmp_path / "embeddings", settings)
    rows = read_table(tmp_path / "embeddings" / "prompts-00000.parquet").to_pylist()
    assert encoded["prompts"] == 12
    assert [row["outcome"] for row in rows] == [prompt.outcome for prompt in prompts]


def test_a_prompts_stage_answers_for_its_own_model_and_window_alone(tmp_path, bundled_lm, real_study):
    prompts = real_study.folder / "prompts.parquet"
    other = load_lm(bundled.language_model(), dtype="bfloat16")
    left = load_lm(bundled.language_model(), infill="none")
    assert local._asked(prompts, bundled_lm, 256)
    assert not local._asked(prompts, bundled_lm, 128)
    assert not local._asked(prompts, other, 256)
    assert not local._asked(prompts, left, 256)
    shutil.copy(prompts, tmp_path / "anyones.parquet")
    assert not local._asked(tmp_path / "anyones.parquet", bundled_lm, 256)
    local.make_prompts(["bundled"], tmp_path / "unasked.parquet", PromptsConfig(per_task=1))
    assert not local._asked(tmp_path / "unasked.parquet", bundled_lm, 256)


def test_a_mended_input_is_not_mistaken_for_a_changed_one(tmp_path, bundled_lm, real_study):
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text('{"prompt": "int x = "}\n')
    encoder = str(real_study.folder / "encoder")
    arguments = (bundled_lm, encoder, jsonl, tmp_path / "embeddings", EncodeConfig(exemplars_per_head=0))
    with pytest.raises(SourceError, match="line 1: expected text in field 'completion', it is missing"):
        local.encode(*arguments)
    jsonl.write_text('{"prompt": "int x = ", "completion": "1"}\n')
    assert local.encode(*arguments)["prompts"] == 1


# -- cluster -----------------------------------------------------------------------------------------------------------


def test_the_atlas_on_disk_is_the_librarys(real_study, tmp_path):
    # Both fits in this process: between processes UMAP may differ in the last bits, and with them its layout.
    counts = local.fit_atlas(real_study.folder / "embeddings", tmp_path / "atlas", AtlasConfig())
    with duckdb.connect() as database:
        z = database.execute(
            f"SELECT embedding FROM '{real_study.folder}/embeddings/embeddings-*.parquet' "
            "ORDER BY filename, file_row_number"
        ).fetchnumpy()["embedding"]
    points = read_table(tmp_path / "atlas" / "points.parquet")
    atlas = Atlas.fit(np.stack(z), num_heads=48, seed=0)
    assert atlas.labels_.tolist() == points["cluster"].to_pylist()
    np.testing.assert_array_equal(local.matrix(points["coordinates"]), atlas.coordinates_)
    assert counts["clustered"] == int((atlas.labels_ >= 0).sum())
    assert counts["clusters"] == len(atlas.clusters)
    saved = Atlas.load(tmp_path / "atlas")
    for ours, theirs in zip(saved.place(np.stack(z)), atlas.place(np.stack(z)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
