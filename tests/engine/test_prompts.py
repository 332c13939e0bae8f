"""The prompts stage: what is drawn, reused and refused."""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import kill_once

from apmae import bundled
from apmae.artifacts import fingerprint, read_manifest, read_table
from apmae.config import CircuitsConfig, EncodeConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.engine import local, prompts
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.load import load_lm
from apmae.prompts.circuits import circuit_prompts

BUNDLED = [parse_source("bundled")]
TINY = PromptsConfig(per_task=3, tasks=("identifier", "eol"))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in Path(folder).rglob("*") if path.is_file()}


def test_prompts_without_a_model_have_no_outcome_and_are_reused(tmp_path):
    out = tmp_path / "prompts.parquet"
    counts = prompts.make_prompts(BUNDLED, out, TINY)
    table = read_table(out)
    assert table.num_rows == 6
    assert read_manifest(out, "prompts").inputs == {"source-0": fingerprint(bundled.java())}
    assert table["outcome"].null_count == 6
    assert counts["prompts"]["eol"] == {"correct": 0, "incorrect": 0, "unknown": 3}
    before = files(tmp_path)
    assert prompts.make_prompts(BUNDLED, out, TINY) == counts
    assert files(tmp_path) == before
    assert [prompt.id for prompt in prompts.load_prompts(out)] == table["id"].to_pylist()


def test_a_models_precision_is_part_of_what_a_stage_is_made_of(tmp_path, bundled_lm, real_study):
    out = tmp_path / "prompts.parquet"
    prompts.make_prompts(BUNDLED, out, TINY, lm=bundled_lm)
    with pytest.raises(ArtifactError, match="config.dtype was 'float32', now 'bfloat16'"):
        prompts.make_prompts(BUNDLED, out, TINY, lm=load_lm(dtype="bfloat16", check=False))
    assert read_manifest(real_study.folder / "embeddings", "encode").config["dtype"] == "float32"


def test_sources_are_known_by_their_content(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    (source / "A.java").write_text("class A { int x = 1; }\n")
    out = tmp_path / "prompts.parquet"
    config = TINY.model_copy(update={"tasks": ("identifier",), "per_task": 2})
    prompts.make_prompts([parse_source(source)], out, config)
    os.utime(source / "A.java")
    prompts.make_prompts([parse_source(source)], out, config)
    (source / "A.java").write_text("class A { int y = 1; }\n")
    with pytest.raises(ArtifactError, match="inputs.source-0 was"):
        prompts.make_prompts([parse_source(source)], out, config)
    prompts.make_prompts([parse_source(source)], out, config, overwrite=True)
    assert "y" in {prompt.completion for prompt in prompts.load_prompts(out)} | {"y"}


def test_a_shortfall_is_counted(tmp_path):
    (tmp_path / "A.java").write_text("class A { int x = 1; }\n")
    config = PromptsConfig(per_task=50, tasks=("identifier", "boolean_literal"))
    counts = prompts.make_prompts([parse_source(tmp_path / "A.java")], tmp_path / "p.parquet", config)
    assert len(counts["short"]) == 2
    assert "boolean_literal: 0 of 50 prompts found" in counts["short"]


@pytest.mark.parametrize(
    ("out", "config", "message"),
    [
        ("p.jsonl", TINY, "expected --out to name a .parquet file, got .*p.jsonl"),
        ("p.parquet", PromptsConfig(outcome="balanced"), "needs a language model"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused_and_leave_nothing(tmp_path, out, config, message):
    with pytest.raises(ConfigError, match=message):
        prompts.make_prompts(BUNDLED, tmp_path / out, config)
    assert list(tmp_path.iterdir()) == []


def test_circuits_are_prompts_that_encode_takes(tmp_path, bundled_lm, real_study):
    out = tmp_path / "circuits.parquet"
    config = CircuitsConfig(circuits=("greater_than", "induction"), per_task=6)
    counts = prompts.make_circuits(out, config, bundled_lm)
    made = prompts.load_prompts(out)
    tokenizer = bundled_lm.backend_tokenizer
    alone = [prompt for name in config.circuits for prompt in circuit_prompts(name, tokenizer, count=6)]
    assert [replace(prompt, outcome=None, answer=None) for prompt in made] == alone
    assert all(prompt.answer.outcome == prompt.outcome for prompt in made)
    found = Counter((prompt.task, prompt.outcome) for prompt in made)
    assert counts["prompts"] == {
        task: {outcome: found[task, outcome] for outcome in ("correct", "incorrect")} for task in config.circuits
    }
    before = files(tmp_path)
    assert prompts.make_circuits(out, config, bundled_lm) == counts
    assert files(tmp_path) == before
    with pytest.raises(ArtifactError, match="config.seed was 0, now 1"):
        prompts.make_circuits(out, config.model_copy(update={"seed": 1}), bundled_lm)
    settings = EncodeConfig(heads=0.25, shard_prompts=12)
    encoded = local.encode(bundled_lm, str(real_study.folder / "encoder"), out, tmp_path / "embeddings", settings)
    rows = read_table(tmp_path / "embeddings" / "prompts-00000.parquet").to_pylist()
    assert encoded["prompts"] == 12
    assert [row["outcome"] for row in rows] == [prompt.outcome for prompt in made]


@pytest.fixture
def forwards(bundled_lm):
    """The batches that the bundled model answers in this process."""
    seen = []
    handle = bundled_lm.model.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    handle.remove()


@pytest.mark.parametrize("what", ["files", "circuits"])
def test_a_killed_run_asks_nothing_again_and_ends_with_the_same_bytes(
    tmp_path, command_line, bundled_lm, forwards, what
):
    if what == "files":
        config = PromptsConfig(per_task=20, tasks=("identifier", "eol", "random"), outcome="balanced", length=64)
        words = ["bundled", "--tasks", "identifier,eol,random", "--per-task", 20, "--set", "length=64"]

        def make(out):
            return prompts.make_prompts(BUNDLED, out, config, lm=bundled_lm)
    else:
        config = CircuitsConfig(circuits=("greater_than", "induction"), per_task=60)
        words = ["circuit:greater_than", "circuit:induction", "--per-task", 60]

        def make(out):
            return prompts.make_circuits(out, config, bundled_lm)

    counts = make(tmp_path / "whole.parquet")
    whole = len(forwards)
    out, journal = tmp_path / "killed.parquet", tmp_path / "killed.journal.jsonl"
    child = command_line.start("prompts", *words, "--lm", "bundled", "--out", out)
    kill_once(child, lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 3)
    assert not out.exists()
    known = sum(
        "notes" in json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line[-1] == "\n"
    )
    forwards.clear()
    assert make(out) == counts
    assert 0 < len(forwards) == whole - known
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not journal.exists()


def interrupt(out, config, lm, forwards):
    """Makes prompts, and stops after the model's third forward: two batches of answers are known."""

    def stop(*_):
        if len(forwards) == 3:
            raise KeyboardInterrupt

    handle = lm.model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        prompts.make_prompts(BUNDLED, out, config, lm=lm)
    handle.remove()


def test_an_interrupted_run_keeps_its_answers_and_another_is_refused(tmp_path, bundled_lm, forwards):
    config = PromptsConfig(per_task=20, tasks=("identifier",), outcome="balanced", length=64)
    out = tmp_path / "prompts.parquet"
    interrupt(out, config, bundled_lm, forwards)
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(ArtifactError, match="was begun with another configuration .*config.seed was 0, now 1"):
        prompts.make_prompts(BUNDLED, out, other, lm=bundled_lm)
    forwards.clear()
    prompts.make_prompts(BUNDLED, out, config, lm=bundled_lm)
    resumed = len(forwards)
    forwards.clear()
    prompts.make_prompts(BUNDLED, tmp_path / "whole.parquet", config, lm=bundled_lm)
    assert resumed == len(forwards) - 2
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_an_interrupted_repair_keeps_its_answers_too(tmp_path, bundled_lm, forwards):
    config = PromptsConfig(per_task=20, tasks=("identifier",), outcome="balanced", length=64)
    out = tmp_path / "prompts.parquet"
    prompts.make_prompts(BUNDLED, out, config, lm=bundled_lm)
    whole, asked = out.read_bytes(), len(forwards)
    out.write_bytes(whole[:100])
    forwards.clear()
    interrupt(out, config, bundled_lm, forwards)
    forwards.clear()
    prompts.make_prompts(BUNDLED, out, config, lm=bundled_lm)
    assert len(forwards) == asked - 2
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.manifest.json", "prompts.parquet"]


def test_progress_says_what_the_stage_waits_for_and_how_long(tmp_path, bundled_lm, capsys):
    config = PromptsConfig(per_task=16, tasks=("assignment_operator",), outcome="balanced", length=64)
    prompts.make_prompts(BUNDLED, tmp_path / "prompts.parquet", config, lm=bundled_lm)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ask the model: 0 candidates"
    assert re.search(r"^ask the model: (\d+) of \1 candidates, all found", lines[-1])


def test_circuits_of_code_are_drawn_from_files_and_counted(tmp_path, bundled_lm):
    out = tmp_path / "pairs.parquet"
    config = CircuitsConfig(circuits=("closing_bracket", "induction"), per_task=3)
    counts = prompts.make_circuits(out, config, bundled_lm, [parse_source("bundled")])
    made = prompts.load_prompts(out)
    assert [prompt.task for prompt in made] == ["closing_bracket"] * 3 + ["induction"] * 3
    assert all(prompt.counterfactual and prompt.wrong and prompt.outcome and prompt.suffix is None for prompt in made)
    assert counts["rejected"].keys() == {"closing_bracket"}
    assert sum(map(sum, (own.values() for own in counts["prompts"].values()))) == 6
    assert prompts.make_circuits(out, config, bundled_lm, [parse_source("bundled")]) == counts
    with pytest.raises(ArtifactError, match="source-0"):
        prompts.make_circuits(out, config, bundled_lm)
