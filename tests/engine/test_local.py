import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

import apmae
from apmae import bundled, recipes
from apmae.artifacts import fingerprint, read_json, read_manifest, read_table
from apmae.atlas.atlas import Atlas
from apmae.config import AtlasConfig, CircuitsConfig, EncodeConfig, PromptsConfig, StudyConfig
from apmae.engine import local
from apmae.errors import ApmaeError, ArtifactError, CaptureError, ConfigError, SourceError
from apmae.lm.load import load_lm
from apmae.model.mae import APMAE
from apmae.patterns.planted import planted
from apmae.prompts.circuits import circuit_prompts
from apmae.train import checkpoint

TINY = PromptsConfig(per_task=3, tasks=("identifier", "eol"))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def copy(real_study, tmp_path):
    """A copy of the study to write in."""
    folder = tmp_path / "study"
    shutil.copytree(real_study.folder, folder)
    return folder


def config_of(real_study, folder, **changes):
    return StudyConfig(**{**real_study.config.model_dump(), "out": folder, **changes})


# -- a whole study -----------------------------------------------------------------------------------------------------


def test_a_finished_study_is_reused_whole(real_study, copy):
    before = {path: when for path, when in files(copy).items() if path.suffix != ".html" and "report" not in path.parts}
    page = local.run_study(config_of(real_study, copy))
    after = files(copy)
    changed = {path.name for path, when in before.items() if after[path] != when}
    assert changed <= {"study.json"}
    assert page == copy / "report" / "index.html"
    assert read_json(copy / "study.json")["out"] == str(copy)


def test_stages_after_a_lost_one_are_reused_if_it_comes_out_the_same(real_study, copy):
    prompts = (copy / "prompts.parquet").read_bytes()
    for name in ("prompts.parquet", "prompts.manifest.json"):
        (copy / name).unlink()
    kept = files(copy / "embeddings")
    local.run_study(config_of(real_study, copy))
    assert (copy / "prompts.parquet").read_bytes() == prompts
    assert files(copy / "embeddings") == kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": {"per_task": 7}}, r"prompts.parquet was made from .*config.per_task was 6, now 7"),
        ({"train": {"steps": 30}}, r"encoder was made from .*config.steps was 20, now 30"),
        ({"encode": {"seed": 5}}, r"embeddings was made from .*config.seed was 0, now 5"),
        ({"atlas": {"neighbors": 9}}, r"atlas was made from .*config.neighbors was 15, now 9"),
    ],
)
def test_a_study_whose_configuration_changed_is_refused_and_loses_nothing(real_study, copy, change, said):
    values = real_study.config.model_dump()
    for section, fields in change.items():
        values[section] = {**values[section], **fields}
    before = files(copy)
    with pytest.raises(ArtifactError, match=said):
        local.run_study(StudyConfig(**{**values, "out": copy}))
    assert files(copy) == before


def test_a_study_takes_anyones_prompts(real_study, copy, tmp_path):
    rows = [{"prompt": "int a = ", "completion": "1", "suffix": ";\n"}, {"prompt": "String s = ", "completion": '"x"'}]
    jsonl = tmp_path / "mine.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = StudyConfig(
        out=tmp_path / "own",
        sources=(str(jsonl),),
        encoder=str(copy / "encoder"),
        encode=EncodeConfig(exemplars_per_head=1),
    )
    page = local.run_study(config)
    assert page.is_file()
    assert not (tmp_path / "own" / "prompts.parquet").exists()
    encoded = read_manifest(tmp_path / "own" / "embeddings", "encode")
    assert (encoded.counts["prompts"], encoded.counts["patterns"]) == (2, 96)
    assert encoded.inputs["prompts"] == fingerprint(jsonl)


def test_duckdb_opens_a_study_directly(real_study, monkeypatch):
    monkeypatch.chdir(real_study.folder)
    with duckdb.connect() as database:
        named = database.execute("""
            SELECT c.name, count(*) AS patterns, any_value(c.size), avg(p.max_probability), avg(e.score_previous)
            FROM 'atlas/points.parquet' AS a
            JOIN 'atlas/clusters.parquet' AS c USING (cluster)
            JOIN 'embeddings/prompts-*.parquet' AS p USING (prompt)
            JOIN 'embeddings/embeddings-*.parquet' AS e USING (prompt, layer, head)
            GROUP BY c.cluster, c.name
        """).fetchall()
        total, points = database.execute(
            "SELECT (SELECT count(*) FROM 'embeddings/embeddings-*.parquet'), "
            "(SELECT count(*) FROM 'atlas/points.parquet')"
        ).fetchone()
        tasks = database.execute("SELECT DISTINCT task FROM 'prompts.parquet' ORDER BY 1").fetchall()
    assert total == points == 12 * 48
    assert tasks == [("closing_bracket",), ("identifier",)]
    assert len(named) == read_manifest(real_study.folder / "atlas", "cluster").counts["clusters"]
    for _, patterns, size, probability, _ in named:
        assert patterns == size
        assert 0 < probability <= 1


def test_points_are_the_embeddings_rows_in_order(real_study):
    points = read_table(real_study.folder / "atlas" / "points.parquet")
    with duckdb.connect() as database:
        rows = database.execute(
            f"SELECT prompt, layer, head, task, outcome FROM '{real_study.folder}/embeddings/embeddings-*.parquet' "
            "ORDER BY filename, file_row_number",
        ).fetchall()
    ours = points.select(["prompt", "layer", "head", "task", "outcome"]).to_pylist()
    assert [tuple(row.values()) for row in ours] == rows


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


# -- train -------------------------------------------------------------------------------------------------------------


def test_training_again_is_the_same_bytes_and_overwriting_begins_anew(tmp_path, bundled_lm, real_study):
    config = recipes.TRAIN["debug"].model_copy(update={"steps": 4, "checkpoint_every": 2})
    prompts = real_study.folder / "train-prompts.parquet"
    first = local.train_encoder(bundled_lm, prompts, tmp_path / "a", config)
    assert sorted(path.name for path in first.iterdir()) == sorted(
        ["config.json", "manifest.json", "metrics.jsonl", "model.safetensors", "reconstruction.png"]
        + ["reconstructions.parquet"]
    ), "no checkpoint is left"
    before = files(first)
    local.train_encoder(bundled_lm, prompts, tmp_path / "a", config)
    assert files(first) == before
    # A checkpoint of another run lies there: nothing of it may get in.
    apmae.train(planted(2)[0], config, seed=99, folder=tmp_path / "b")
    assert (tmp_path / "b" / checkpoint.NAME).is_file()
    second = local.train_encoder(bundled_lm, prompts, tmp_path / "b", config)
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    more = config.model_copy(update={"seed": 1})
    with pytest.raises(ArtifactError, match="config.seed was 0, now 1"):
        local.train_encoder(bundled_lm, prompts, tmp_path / "b", more)
    local.train_encoder(bundled_lm, prompts, tmp_path / "b", more, overwrite=True)
    assert (second / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()
    counts = read_manifest(second, "train").counts
    used = sum(prompt.outcome != "incorrect" for prompt in local.load_prompts(prompts))
    assert 0 < used < 8
    # the buffer of 256 patterns takes forwards of 8 prompts or fewer, 12 patterns each, until there is no room for one
    asked = counts.pop("asked")
    assert counts.pop("correct") == asked, "these prompts were drawn with the same model"
    assert counts.pop("epochs") == -(-asked // used)
    assert counts == {"steps": 4, "prompts": used, "parameters": APMAE(config.model).num_parameters}


def test_training_leaves_out_what_the_model_gets_wrong(tmp_path, bundled_lm):
    with torch.no_grad():
        logits = bundled_lm.model(**bundled_lm.tokenizer("int a = ", return_tensors="pt")).logits
    said = bundled_lm.tokenizer.decode(logits[0, -1].argmax())
    rows = [
        {"prompt": "int a = ", "completion": said, "outcome": outcome} for outcome in ("correct", "incorrect", None)
    ]
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i, row in enumerate(rows)))
    config = recipes.TRAIN["debug"].model_copy(update={"steps": 1, "batch_size": 4})
    everything = config.model_copy(update={"outcome": "any"})
    for out, settings, prompts in (("a", config, 2), ("b", everything, 3)):
        folder = local.train_encoder(bundled_lm, jsonl, tmp_path / out, settings)
        counts = read_manifest(folder, "train").counts
        assert counts["prompts"] == prompts
        assert counts["epochs"] == counts["asked"] // prompts > 1
        assert counts["correct"] == counts["asked"], "this model says so, whatever the file does"


def test_an_encoder_longer_than_the_models_inputs_is_refused(tmp_path, bundled_lm, real_study):
    tiny = recipes.TRAIN["debug"].model.model_copy(update={"pattern_size": 1024, "patch_size": 128})
    config = recipes.TRAIN["debug"].model_copy(update={"model": tiny})
    with pytest.raises(CaptureError, match="at most 512, .* got 1024; use or train an encoder with a smaller"):
        local.train_encoder(bundled_lm, real_study.folder / "train-prompts.parquet", tmp_path / "a", config)
    assert not (tmp_path / "a").exists()


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
