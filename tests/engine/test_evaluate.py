"""Real small language models and encoders, all with all: rows, resuming, whose an encoder is, mistakes."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from apmae import bundled
from apmae.artifacts import fingerprint, read_json, read_manifest, read_tables, write_json, write_table
from apmae.atlas.atlas import Atlas
from apmae.config import CaptureConfig, EvaluateConfig, LMConfig
from apmae.engine import evaluate as engine
from apmae.engine.checks import named_sources
from apmae.engine.evaluate import cross_evaluate
from apmae.engine.prompts import load_prompts
from apmae.engine.tag import tag_prompt
from apmae.errors import ArtifactError, ConfigError, ModelError, SourceError
from apmae.lm.load import load_lm
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.prompts.files import to_table, write_jsonl
from apmae.schema import LOSSES
from apmae.train.evaluate import pattern_losses

HEADS = {"bundled-small": (3, 4), "bundled-medium": (4, 6)}
CONFIG = EvaluateConfig(capture={"heads": "all", "batch": 2}, shard_prompts=2)
COUNT = 5


@pytest.fixture(scope="module")
def lms():
    return {name: load_lm(name) for name in HEADS}


@pytest.fixture(scope="module")
def given(real_study, tmp_path_factory):
    """Prompts, the study's encoder (of the bundled language model) and an untrained one of patterns of 64 tokens."""
    home = tmp_path_factory.mktemp("given")
    write_jsonl(home / "prompts.jsonl", load_prompts(real_study.folder / "prompts.parquet")[:COUNT])
    trained = APMAE.from_pretrained(real_study.folder / "encoder")
    small = APMAE(trained.config.model_copy(update={"pattern_size": 64, "patch_size": 16, "mask_ratio": 0.75}), seed=1)
    small.save_pretrained(home / "short")
    return SimpleNamespace(
        prompts=home / "prompts.jsonl", encoders=[str(real_study.folder / "encoder"), str(home / "short")]
    )


@pytest.fixture(scope="module")
def evaluated(given, lms, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("evaluation") / "out"
    found = cross_evaluate(list(lms.values()), given.encoders, given.prompts, out, CONFIG)
    return SimpleNamespace(out=out, found=found)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_encoder_has_a_row_for_every_pattern(evaluated):
    for name, (layers, heads) in HEADS.items():
        table = read_tables(evaluated.out / name, "losses", "losses")
        assert table.schema.equals(LOSSES)
        assert set(table["lm"].to_pylist()) == {name}
        for encoder in ("encoder", "short"):
            rows = [row for row in table.to_pylist() if row["encoder"] == encoder]
            assert [(row["prompt"], row["layer"], row["head"]) for row in rows] == [
                (p, layer, head) for p in range(COUNT) for layer in range(layers) for head in range(heads)
            ]
        assert read_manifest(evaluated.out / name, "losses").counts["rows"] == 2 * COUNT * layers * heads


@pytest.mark.parametrize(("number", "encoder", "size"), [(0, "encoder", 256), (1, "short", 64)])
def test_rows_are_losses_of_the_models_own_patterns(evaluated, given, lms, number, encoder, size):
    """Captured again, all prompts at once: batches and shards do not matter; half is hidden, whatever was trained."""
    mae = APMAE.from_pretrained(given.encoders[number])
    prompts = load_prompts(given.prompts)
    for name, lm in lms.items():
        (captured,) = capture_prompts(lm, prompts, CaptureConfig(batch=COUNT), size=size)
        wanted = pattern_losses(mae, captured.patterns, mask_ratio=0.5, seed=0)
        table = read_tables(evaluated.out / name, "losses", "losses")
        rows = [row for row in table.to_pylist() if row["encoder"] == encoder]
        np.testing.assert_allclose([row["loss"] for row in rows], wanted.loss, rtol=5e-3)
        np.testing.assert_allclose([row["published_loss"] for row in rows], wanted.published_loss, rtol=5e-3)
        for name in ("divergence", "uniform_divergence"):
            np.testing.assert_allclose([row[name] for row in rows], getattr(wanted, name), rtol=5e-3, atol=1e-3)
        heads = len(rows) // COUNT
        assert [row["task"] for row in rows] == [prompt.task for prompt in prompts for _ in range(heads)]
        said = [answer.outcome for answer in captured.answers for _ in range(heads)]
        assert [row["outcome"] for row in rows] == said
        assert len({row["measured"] for row in rows}) > 3


def test_names_are_those_that_tag_measures(evaluated, given, lms):
    prompt = load_prompts(given.prompts)[1]
    tags = tag_prompt(lms["bundled-small"], prompt, mae=APMAE.from_pretrained(), atlas=Atlas.load()).tags
    table = read_tables(evaluated.out / "bundled-small", "losses", "losses")
    rows = [row for row in table.to_pylist() if (row["encoder"], row["prompt"]) == ("encoder", 1)]
    same = sum(row["measured"] == name for row, name in zip(rows, tags["measured"].to_pylist(), strict=True))
    assert same >= len(rows) - 1  # scores in half precision may fall on the other side of a threshold


def test_the_second_run_computes_nothing(evaluated, given, lms):
    before = {path: path.stat().st_mtime_ns for path in evaluated.out.rglob("losses-*")}
    again = cross_evaluate(list(lms.values()), given.encoders, given.prompts, evaluated.out, CONFIG)
    assert again == evaluated.found
    assert {path: path.stat().st_mtime_ns for path in before} == before


class Killed(Exception):
    pass


@pytest.mark.parametrize("shards", [0, 1, 4])
def test_a_run_that_was_killed_ends_with_the_same_bytes(evaluated, given, lms, tmp_path, monkeypatch, shards):
    """Three shards a language model: 4 is in the second one."""
    write, done = engine.evaluate_shard, []

    def evaluate_shard(shard, **given):
        if len(done) == shards:
            raise Killed
        done.append(shard)
        return write(shard, **given)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "evaluate_shard", evaluate_shard)
        with pytest.raises(Killed):
            cross_evaluate(list(lms.values()), given.encoders, given.prompts, tmp_path / "out", CONFIG)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("losses-*.parquet")}
    assert len(kept) == shards
    assert not (tmp_path / "out" / "manifest.json").exists()
    cross_evaluate(list(lms.values()), given.encoders, given.prompts, tmp_path / "out", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path / "out") == contents(evaluated.out)


@pytest.mark.parametrize("keep", [0, 500])
def test_a_damaged_shard_is_made_again_alone(evaluated, given, lms, tmp_path, monkeypatch, keep):
    shutil.copytree(evaluated.out, tmp_path / "out")
    shard = tmp_path / "out" / "bundled-medium" / "losses-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:keep].ljust(shard.stat().st_size, b"x"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("losses-*.parquet") if path != shard}
    write, done = engine.evaluate_shard, []
    monkeypatch.setattr(
        engine, "evaluate_shard", lambda shard, **some: done.append(shard.number) or write(shard, **some)
    )
    cross_evaluate(list(lms.values()), given.encoders, given.prompts, tmp_path / "out", CONFIG)
    assert done == [1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(tmp_path / "out") == contents(evaluated.out)


def test_one_more_language_model_costs_its_own_patterns_only(evaluated, given, lms, tmp_path):
    out = tmp_path / "out"
    cross_evaluate([lms["bundled-medium"]], given.encoders, given.prompts, out, CONFIG)
    first = {path: path.stat().st_mtime_ns for path in out.glob("bundled-medium/*")}
    found = cross_evaluate(list(lms.values()), given.encoders, given.prompts, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert found == evaluated.found


def test_other_settings_and_other_encoders_are_refused(evaluated, given, lms):
    before = contents(evaluated.out)
    with pytest.raises(ArtifactError, match="config.mask_ratio was 0.5, now 0.75"):
        changed = CONFIG.model_copy(update={"mask_ratio": 0.75})
        cross_evaluate(list(lms.values()), given.encoders, given.prompts, evaluated.out, changed)
    with pytest.raises(ArtifactError, match="inputs.encoder-short was '.*', now None"):
        cross_evaluate(list(lms.values()), given.encoders[:1], given.prompts, evaluated.out, CONFIG)
    assert contents(evaluated.out) == before


# -- whose an encoder is -----------------------------------------------------------------------------------------------


def test_an_encoder_belongs_to_the_model_that_its_manifest_names(given, tmp_path):
    trained, bare = given.encoders

    def owners(names, lms):
        return engine._owners({name: APMAE.from_pretrained(source) for name, source in names.items()}, lms)

    names = {"a": "bundled", "b": trained, "c": bare}
    lms = {name: fingerprint(bundled.language_model(name)) for name in ("bundled-small", "bundled")}
    assert owners(names, lms) == {"a": "bundled", "b": "bundled"}
    assert owners({"c": bare, "b": trained}, lms) == {"c": "bundled-small", "b": "bundled"}
    assert owners({"b": trained, "c": bare}, {"other": "0", "more": "1"}) == {"c": "more"}
    strange = tmp_path / "strange"
    shutil.copytree(bare, strange)
    write_json(strange / "manifest.json", {"stage": "train", "inputs": {}})
    assert owners({"c": str(strange)}, {"other": "0"}) == {}


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["bundled", "x/encoder"], ["bundled", "encoder"]),
        (["a/encoder", "b/encoder/", "c/other"], ["a/encoder", "b/encoder", "other"]),
        (["z/a/encoder", "y/a/encoder"], ["z/a/encoder", "y/a/encoder"]),
        (["owner/model", "model"], ["owner/model", "model"]),
    ],
)
def test_names_are_the_ends_of_paths_that_differ(sources, names):
    assert list(named_sources(sources, "encoders")) == names
    assert list(named_sources(sources, "encoders").values()) == sources


@pytest.mark.parametrize("sources", [[], ["bundled", "bundled"], ["a/b", "c", "a/b/"]])
def test_none_or_one_twice_is_refused(sources):
    with pytest.raises(ConfigError, match="expected encoders, each once, got (none|bundled twice|a/b twice)"):
        named_sources(sources, "encoders")


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_an_encoder_that_predicts_no_numbers_is_named(given, lms, tmp_path):
    mae = APMAE.from_pretrained(given.encoders[1])
    with torch.no_grad():
        mae.to_pixels.weight.fill_(3e38)  # finite; what comes of it is not
    mae.save_pretrained(tmp_path / "broken")
    encoders = [given.encoders[0], str(tmp_path / "broken")]
    with pytest.raises(ModelError, match=r"the encoder broken, 24 of 24 patterns have none \(prompt 0 head 0.0\)"):
        cross_evaluate([lms["bundled-small"]], encoders, given.prompts, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists() or not contents(tmp_path / "out")


def test_no_prompts_are_refused(given, lms, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(SourceError, match="prompts"):
        cross_evaluate([lms["bundled-small"]], given.encoders, tmp_path / "none.jsonl", tmp_path / "out", CONFIG)


def test_a_model_that_is_not_there_leaves_what_the_others_gave(given, lms, tmp_path):
    missing = LMConfig(source=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="check the path"):
        cross_evaluate([lms["bundled-small"], missing], given.encoders, given.prompts, tmp_path / "out", CONFIG)
    assert read_manifest(tmp_path / "out" / "bundled-small", "losses").counts["layers"] == 3


def test_prompts_of_training_files_are_said(evaluated, given, lms, train_prompts, tmp_path):
    assert evaluated.found.notes == ()
    prompts = load_prompts(train_prompts)[:2]
    assert {prompt.split for prompt in prompts} == {"train"}
    write_table(tmp_path / "train.parquet", to_table(prompts))
    found = cross_evaluate([lms["bundled-small"]], given.encoders, tmp_path / "train.parquet", tmp_path / "out", CONFIG)
    (note,) = found.notes
    assert note.startswith("2 of 2 prompts are of the split 'train'")


def test_the_command_says_the_table_and_the_finding(given, real_study, apmae_command, tmp_path):
    result = apmae_command(
        *(
            "evaluate",
            "--lm",
            "bundled",
            "--lm",
            "bundled-small",
            "--encoder",
            given.encoders[0],
            "--encoder",
            "bundled",
        ),
        *("--prompts", given.prompts, "--out", "evaluation", "--set", "batch=5"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    counts = read_json(tmp_path / "evaluation" / "manifest.json")["counts"]
    assert len(counts["losses"]) == 4
    for cell in counts["losses"]:
        assert f"{100 * cell['mean']:.2f} ± {100 * cell['sd']:.2f}" in result.stdout
    assert "One encoder, moved to another model's patterns" in " ".join(result.stdout.split())
    assert (tmp_path / "evaluation" / "cross_evaluation.png").is_file()
    twice = apmae_command("evaluate", "--lm", "bundled", "--lm", "bundled", "--prompts", given.prompts, "--out", "x")
    assert twice.returncode == 2
    assert twice.stderr.strip() == "apmae: expected language models, each once, got bundled twice"
