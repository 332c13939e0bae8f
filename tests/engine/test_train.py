"""The train stage: from prompts, a corpus or stored patterns to an encoder's folder."""

import json
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import apmae
from apmae import bundled, recipes
from apmae.artifacts import read_manifest
from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.engine.prompts import load_prompts
from apmae.engine.train import Corpus, train_encoder, train_on_patterns
from apmae.errors import ArtifactError, CaptureError
from apmae.model.mae import APMAE
from apmae.patterns.planted import planted
from apmae.prompts import epochs
from apmae.prompts.draw import build_prompts
from apmae.prompts.prompt import split_of
from apmae.train import checkpoint


def files_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


def test_training_again_gives_the_same_bytes_and_overwriting_starts_afresh(tmp_path, bundled_lm, train_prompts):
    config = recipes.train_recipe("debug").model_copy(update={"steps": 4, "checkpoint_every": 2, "panel_every": 2})
    prompts = train_prompts
    first = train_encoder(bundled_lm, prompts, tmp_path / "a", config)
    assert sorted(path.name for path in first.iterdir()) == sorted(
        ["config.json", "manifest.json", "metrics.jsonl", "model.safetensors", "panels", "reconstruction.png"]
        + ["reconstructions.parquet", "whitening.safetensors"]
    ), "no checkpoint is left"
    panels = {"panels/step-0000002.png", "panels/step-0000004.png"}
    assert panels == {name for name in read_manifest(first, "train").files if name.startswith("panels")}
    assert panels == {str(path.relative_to(first)) for path in first.glob("panels/*")}
    before = files_of(first)
    train_encoder(bundled_lm, prompts, tmp_path / "a", config)
    assert files_of(first) == before
    config = config.model_copy(update={"panel_every": 4})  # pictures change no weight
    # There is a checkpoint of another run: nothing of it may be used.
    apmae.train(planted(2)[0], config, seed=99, folder=tmp_path / "b")
    assert (tmp_path / "b" / checkpoint.NAME).is_file()
    second = train_encoder(bundled_lm, prompts, tmp_path / "b", config)
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    more = config.model_copy(update={"seed": 1})
    with pytest.raises(ArtifactError, match="config.seed was 0, now 1"):
        train_encoder(bundled_lm, prompts, tmp_path / "b", more)
    train_encoder(bundled_lm, prompts, tmp_path / "b", more, overwrite=True)
    assert (second / "model.safetensors").read_bytes() != (first / "model.safetensors").read_bytes()
    counts = read_manifest(second, "train").counts
    used = len(load_prompts(prompts))
    assert used == 8
    # the buffer of 256 patterns takes forwards of 8 prompts or fewer, 12 patterns each, until there is no room for one
    asked = counts.pop("asked")
    wrong = asked - counts.pop("correct")
    assert 0 < wrong < used, "nobody had asked the model about these; those it gets wrong come once"
    assert counts.pop("epochs") == 1 + -(-(asked - used) // (used - wrong))
    assert counts.pop("lm") == "bundled"
    assert counts == {"steps": 4, "prompts": used, "parameters": APMAE(config.model).num_parameters}


def test_training_leaves_out_what_the_model_gets_wrong(tmp_path, bundled_lm):
    with torch.no_grad():
        logits = bundled_lm.model(**bundled_lm.tokenizer("int a = ", return_tensors="pt")).logits
    answer = bundled_lm.tokenizer.decode(logits[0, -1].argmax())
    rows = [
        {"prompt": "int a = ", "completion": answer, "outcome": outcome} for outcome in ("correct", "incorrect", None)
    ]
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i, row in enumerate(rows)))
    config = recipes.train_recipe("debug").model_copy(update={"steps": 1, "batch_size": 4})
    everything = config.model_copy(update={"outcome": "any"})
    for out, settings, prompts in (("a", config, 2), ("b", everything, 3)):
        folder = train_encoder(bundled_lm, jsonl, tmp_path / out, settings)
        counts = read_manifest(folder, "train").counts
        assert counts["prompts"] == prompts
        assert counts["epochs"] == counts["asked"] // prompts > 1
        assert counts["correct"] == counts["asked"], "this model decides, whatever the file says"


def test_a_damaged_encoder_is_not_trained_again_without_overwrite(tmp_path, bundled_lm, real_study):
    shutil.copytree(real_study.folder / "encoder", tmp_path / "encoder")
    with (tmp_path / "encoder" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"1234")
    before = files_of(tmp_path)
    train, corpus = real_study.config.train, Corpus.of([parse_source("bundled")], real_study.config.train_prompts)
    with pytest.raises(
        ArtifactError, match="model.safetensors: its content has changed; put back a copy, or pass --over"
    ):
        train_encoder(bundled_lm, corpus, tmp_path / "encoder", train)
    assert files_of(tmp_path) == before


def test_an_encoder_longer_than_the_models_inputs_is_refused(tmp_path, bundled_lm, train_prompts):
    tiny = recipes.train_recipe("debug").model.model_copy(update={"pattern_size": 1024, "patch_size": 128})
    config = recipes.train_recipe("debug").model_copy(update={"model": tiny})
    with pytest.raises(CaptureError, match="at most 512, .* got 1024; use or train an encoder with a smaller"):
        train_encoder(bundled_lm, train_prompts, tmp_path / "a", config)
    assert not (tmp_path / "a").exists()


def test_prompts_of_a_corpus_are_drawn_during_training(tmp_path, bundled_lm, monkeypatch):
    """Training gets the prompts that the prompts stage would draw, and no more of them than it needs."""
    config = PromptsConfig(per_task=5000, tasks=("random",), split="train")
    drawn, original = [], epochs.candidates
    monkeypatch.setattr(epochs, "candidates", lambda *a, **b: (drawn.append(p) or p for p in original(*a, **b)))
    train = recipes.train_recipe("debug").model_copy(update={"steps": 4, "outcome": "any"})
    folder = train_encoder(bundled_lm, Corpus.of([parse_source("bundled")], config), tmp_path / "drawn", train)
    counts = read_manifest(folder, "train").counts
    files = {
        path
        for path in bundled.java().rglob("*.java")
        if split_of(f"java/{path.relative_to(bundled.java())}") == "train"
    }
    assert (counts["files"], counts["epochs"]) == (len(files), 1)
    assert 256 <= len(drawn) <= 3 * 256, "a stretch is trained on, one is drawn ahead"
    # the same from a file that holds the first stretch, which is all that four steps need
    few = build_prompts(
        parse_source("bundled").handles((".java",)),
        config.model_copy(update={"per_task": 256}),
        tokenizer=bundled_lm.backend_tokenizer,
    )[0]
    assert [prompt.id for prompt in few] == [prompt.id for prompt in drawn[:256]]
    manifest = read_manifest(folder, "train")
    assert manifest.config["corpus"] == config.model_dump(mode="json")
    assert manifest.inputs["source-0"] == parse_source("bundled").fingerprint()
    before = files_of(folder)
    train_encoder(bundled_lm, Corpus.of([parse_source("bundled")], config), tmp_path / "drawn", train)
    assert files_of(folder) == before
    other = Corpus.of([parse_source("bundled")], config.model_copy(update={"per_task": 9}))
    with pytest.raises(ArtifactError, match="config.corpus.per_task was 5000, now 9"):
        train_encoder(bundled_lm, other, tmp_path / "drawn", train)


def test_stored_patterns_train_the_same_encoder_as_patterns_in_memory(tmp_path):
    config = recipes.train_recipe("debug").model_copy(update={"steps": 5, "crop": 0.3})
    patterns = planted(4, seed=3)[0]
    half = len(patterns) // 2
    patterns[:half].save(tmp_path / "a.safetensors")
    patterns[half:].save(tmp_path / "b.safetensors")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    folder = train_on_patterns(paths, tmp_path / "encoder", config)
    expected = apmae.train(patterns, config)
    assert APMAE.from_pretrained(folder).fingerprint == expected.fingerprint
    counts = read_manifest(folder, "train").counts
    assert (counts["patterns"], counts["epochs"], counts["steps"]) == (len(patterns), 1, 5)
    before = files_of(folder)
    train_on_patterns(paths, tmp_path / "encoder", config)
    assert files_of(folder) == before
    with pytest.raises(ArtifactError, match="inputs.patterns-0"):
        train_on_patterns(paths[::-1], tmp_path / "encoder", config)


def test_panels_show_what_the_decoder_makes_of_patterns(tmp_path):
    patterns = planted(2, seed=1)[0]
    patterns.save(tmp_path / "p.safetensors")
    config = recipes.train_recipe("debug").model_copy(update={"steps": 3, "panel_every": 2, "ema": 0.5})
    folder = train_on_patterns([tmp_path / "p.safetensors"], tmp_path / "encoder", config)
    found = sorted(folder.glob("panels/*.png"))
    assert [path.name for path in found] == ["step-0000002.png", "step-0000003.png"]
    first, second = (plt.imread(path) for path in found)
    assert first.shape == second.shape and np.ptp(first) > 0.5
    assert not np.array_equal(first, second)
