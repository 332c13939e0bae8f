import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import kill_once
from transformers import BertConfig, BertForMaskedLM, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from apmae import bundled, recipes
from apmae.artifacts import read_json, read_manifest
from apmae.cli import app
from apmae.config import StudyConfig, parse
from apmae.engine.prompts import load_prompts
from apmae.model.mae import APMAE

COMMANDS = [command.callback.__name__ for command in app.registered_commands]
JAVA = "class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n"
ENCODE = ("--set", "batch=4", "--set", "shard_prompts=4", "--set", "exemplars_per_head=2")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def start(command_line):
    """Starts a command in the background; at the end it is killed if it still runs."""
    children = []

    def run(*arguments, **options):
        children.append(command_line.start(*arguments, **options))
        return children[-1]

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
            child.finish()


# -- help --------------------------------------------------------------------------------------------------------------

LOADED = """
import json, runpy, sys

heavy = {"torch", "transformers", "numpy", "pyarrow", "pydantic", "sklearn", "scipy", "umap", "hdbscan", "numba",
         "matplotlib", "jinja2", "tokenizers", "safetensors", "yaml"}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["apmae", *arguments]
    try:
        runpy.run_module("apmae.cli", run_name="__main__")
    except SystemExit as done:
        print("loaded:", *sorted(heavy & set(sys.modules)), "code:", done.code, flush=True)
"""
"""Command lines in a separate interpreter, which prints at the end of each what has been loaded so far."""


def started(environment, *runs, **options):
    """What each of the runs printed, what had been loaded at its end, and its exit code."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED, json.dumps(runs)]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    printed = subprocess.run(command, text=True, env=environment, **both, **options).stdout
    *pieces, rest = re.split(r"^loaded:(.*) code: (\d+)\n", printed, flags=re.MULTILINE)
    assert len(pieces) == 3 * len(runs) and not rest, printed
    return [(pieces[i], set(pieces[i + 1].split()), int(pieces[i + 2])) for i in range(0, len(pieces), 3)]


def test_help_loads_nothing_heavy(environment):
    short, long, *helps = started(environment, [], ["--help"], *([command, "--help"] for command in COMMANDS))
    for (printed, loaded, code), expected in ((short, 2), (long, 0)):
        assert (loaded, code) == (set(), expected)
        assert all(f" {command} " in printed for command in COMMANDS)
    for command, (printed, loaded, code) in zip(COMMANDS, helps, strict=True):
        assert f" {command} " in printed and code == 0
        assert loaded <= {"pydantic"}, command  # typer itself asks it for the types of a command's options


def test_the_installed_command_is_the_module(environment):
    script = Path(sys.executable).with_name("apmae")
    if not script.is_file():
        pytest.skip("the package is not installed with its scripts here")
    helps = []
    for command in ([script], [sys.executable, "-m", "apmae"], [sys.executable, "-m", "apmae.cli"]):
        result = subprocess.run([*command, "encode", "--help"], capture_output=True, text=True, env=environment)
        helps.append([line.strip() for line in result.stdout.splitlines() if "Usage" not in line and line.strip()])
    assert len(helps[0]) > 10
    assert helps[0] == helps[1] == helps[2]


# -- the stages --------------------------------------------------------------------------------------------------------


def test_run_makes_a_whole_study_and_prints_what_it_found(real_study):
    assert real_study.result.returncode == 0, real_study.result.stderr
    made = {path.name for path in real_study.folder.iterdir()}
    assert made == {
        *("prompts.parquet", "prompts.manifest.json"),
        *("encoder", "embeddings", "atlas", "report", "study.json"),
    }
    assert (real_study.folder / "report" / "index.html").stat().st_size > 1000
    printed = real_study.result.stdout
    assert "576 patterns of 12 prompts" in printed
    assert str(real_study.folder / "report" / "index.html") in printed
    assert "Traceback" not in real_study.result.stderr


def test_prompts_by_hand_are_the_studys(real_study, apmae_command, tmp_path):
    config = real_study.config.prompts
    result = apmae_command(
        *("prompts", "bundled", "--language", "java", "--per-task", config.per_task, "--out", "prompts.parquet"),
        *("--tasks", "closing_bracket, identifier", "--lm", "bundled", "--outcome", "any", "--set", "split=atlas"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("12 prompts in prompts.parquet")
    assert contents(tmp_path) == {
        name: (real_study.folder / name).read_bytes() for name in ("prompts.parquet", "prompts.manifest.json")
    }


def test_prompts_from_a_folder_need_no_model(apmae_command, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "A.java").write_text(JAVA)
    (tmp_path / "src" / "B.java").write_bytes(b"class B { /* \xff */ }")
    result = apmae_command("prompts", "src", "--language", "java", "--per-task", 2, "--out", "p.parquet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    prompts = load_prompts(tmp_path / "p.parquet")
    assert result.stdout.splitlines()[0] == f"{len(prompts)} prompts in p.parquet"
    assert "short: boolean_literal: 0 of 2 prompts found" in result.stdout
    assert "for more: give more source files or a smaller --per-task\n" in result.stdout
    assert "not_utf8 1" in result.stdout
    assert {prompt.path for prompt in prompts} == {"src/A.java"}


def test_a_shortfall_names_settings_that_would_give_more(apmae_command, tmp_path):
    (tmp_path / "src").mkdir()
    for name in "ABCDEFGH":
        (tmp_path / "src" / f"{name}.java").write_text("class A {\n" + "    int field = 1;\n" * 30 + "}\n")
    command = ("prompts", "src", "--tasks", "numeric_literal", "--per-task", 30, "--out", "p.parquet")
    result = apmae_command(*command, "--set", "split=train", "--set", "per_file=3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (advice,) = [line for line in result.stdout.splitlines() if line.startswith("  for more: ")]
    ways = advice.split(", or ")[1:]
    assert [way.split(",")[0] for way in ways] == ["--set split=all", "a larger per_file", "--set similar=1"]
    more = apmae_command(*command, "--set", "similar=1", "--overwrite", cwd=tmp_path)
    assert more.stdout.splitlines()[0] == "30 prompts in p.parquet"
    assert "short" not in more.stdout


def test_run_reports_a_shortfall(real_study, apmae_command, tmp_path):
    shutil.copytree(real_study.folder, tmp_path / "mine")
    study = real_study.config.model_copy(update={"out": Path("mine")})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    assert "short:" not in real_study.result.stdout
    manifest = tmp_path / "mine" / "prompts.manifest.json"
    noted = read_json(manifest)
    noted["counts"]["short"] = ["eol: 3 of 6 prompts found"]
    manifest.write_text(json.dumps(noted))
    result = apmae_command("run", "mine.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "prompts: fewer than asked for\n  short: eol: 3 of 6 prompts found\n  for more: " in result.stdout


def test_prompts_of_circuits(apmae_command, tmp_path):
    command = ["prompts", "circuit:induction", "circuit:docstring", "--lm", "bundled", "--per-task", 5]
    result = apmae_command(*command, "--out", "p.parquet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    prompts = load_prompts(tmp_path / "p.parquet")
    assert [prompt.task for prompt in prompts] == ["induction"] * 5 + ["docstring"] * 5
    right = [sum(prompt.outcome == "correct" for prompt in prompts[start : start + 5]) for start in (0, 5)]
    assert result.stdout.splitlines() == [
        "10 prompts in p.parquet",
        f"  induction: {right[0]} of 5 correct",
        f"  docstring: {right[1]} of 5 correct",
    ]


def test_circuits_can_be_looked_at(apmae_command, tmp_path):
    command = ["prompts", "circuit:greater_than", "--lm", "bundled", "--per-task", 3, "--preview", "--count", 1]
    result = apmae_command(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "between the year 1357 and the year 135\u27e68\u27e7" in result.stdout
    assert "counterfactual: " in result.stdout
    assert result.stdout.splitlines()[-1] == "2 more"
    assert list(tmp_path.iterdir()) == []


def test_training_that_was_killed_ends_with_the_same_weights(real_study, start, apmae_command, tmp_path):
    out = tmp_path / "encoder"
    command = ["train", "--lm", "bundled", "--corpus", "bundled"]
    command += ["--recipe", "debug", "--steps", "20", "--out", out]
    kill_once(start(*command), (out / "checkpoint.safetensors").is_file)
    assert not (out / "manifest.json").exists()
    again = apmae_command(*command)
    assert again.returncode == 0, again.stderr
    assert f"encoder in {out}: loss " in again.stdout
    assert contents(out) == contents(real_study.folder / "encoder")


def test_training_from_a_corpus_is_one_command(apmae_command, tmp_path):
    out = tmp_path / "encoder"
    arguments = ["train", "--recipe", "debug", "--corpus", "bundled", "--out", out, "--set", "outcome=any"]
    result = apmae_command(*arguments, "--steps", "3")
    assert result.returncode == 0, result.stderr
    assert f"encoder in {out}: loss" in result.stdout
    manifest = read_manifest(out, "train")
    counts = manifest.counts
    assert counts["steps"] == 3 and counts["files"] > 30 and counts["asked"] >= 16
    said = f"{counts['asked']} prompts asked, from {counts['files']} files, {counts['correct']} answered correctly"
    assert said in result.stdout
    assert (out / "panels" / "step-0000003.png").is_file()
    again = apmae_command(*arguments, "--steps", "3")
    assert again.returncode == 0 and "train:" not in again.stderr, "nothing is drawn or trained again"


def test_a_damaged_shard_is_made_again_by_the_same_command(real_study, apmae_command, tmp_path):
    shutil.copytree(real_study.folder, tmp_path / "study")
    shard = tmp_path / "study" / "embeddings" / "embeddings-00001.parquet"
    whole = contents(tmp_path / "study" / "embeddings")
    os.truncate(shard, 1000)
    command = ["encode", "--lm", "bundled", "--encoder", tmp_path / "study" / "encoder", *ENCODE]
    command += ["--prompts", tmp_path / "study" / "prompts.parquet", "--out", tmp_path / "study" / "embeddings"]
    result = apmae_command(*command)
    assert result.returncode == 0, result.stderr
    assert f"encode: making {shard} again: it has 1000 of {len(whole[shard.name])} bytes" in result.stderr
    assert contents(tmp_path / "study" / "embeddings") == whole
    report = apmae_command("report", tmp_path / "study")
    assert report.returncode == 0, report.stderr


def test_an_atlas_of_another_encoder_is_refused(real_study, apmae_command, tmp_path):
    (tmp_path / "A.java").write_text("class A {\n    int x = 1;\n}\n")
    tag = ("tag", "bundled", tmp_path / "A.java", "--line", "2")
    for pair in (("--encoder", real_study.folder / "encoder"), ("--atlas", real_study.folder / "atlas")):
        result = apmae_command(*tag, *pair)
        assert result.returncode == 2
        assert "expected the encoder that the atlas was fitted with" in result.stderr
        assert f"{pair[0]} {pair[1]}" in result.stderr and result.stderr.count("\n") == 1
    both = ("--encoder", real_study.folder / "encoder", "--atlas", real_study.folder / "atlas")
    assert apmae_command(*tag, *both).returncode == 0


def test_recipes_are_listed_and_printed_as_studies(apmae_command, tmp_path):
    listed = apmae_command("recipes")
    rows = [line.split() for line in listed.stdout.splitlines() if line.strip()][2:]
    assert [row[0] for row in rows] == list(recipes.RECIPES)
    assert all(recipes.recipe(row[0]).digest == row[-1] for row in rows)
    printed = apmae_command("recipes", "paper-7b").stdout
    assert parse(StudyConfig, yaml.safe_load(printed), "printed") == recipes.paper("7b")
    (tmp_path / "study.yaml").write_text(printed)
    refused = apmae_command("run", tmp_path / "study.yaml")
    assert refused.returncode == 2 and refused.stderr.count("apmae: ") == 1


def test_encoding_that_was_killed_ends_with_the_same_tables(real_study, start, apmae_command, tmp_path):
    out = tmp_path / "embeddings"
    command = ["encode", "--lm", "bundled", "--encoder", real_study.folder / "encoder"]
    command += ["--prompts", real_study.folder / "prompts.parquet", "--out", out, *ENCODE]
    journal = out / "journal.jsonl"
    kill_once(start(*command), lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 1)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*-00000.parquet")}
    assert len(kept) == 3
    assert not (out / "manifest.json").exists()
    again = apmae_command(*command)
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"576 patterns of 12 prompts in {out}\n"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(out) == contents(real_study.folder / "embeddings")


def test_clustering_by_hand_is_the_studys(real_study, apmae_command, tmp_path):
    result = apmae_command("cluster", real_study.folder / "embeddings", "--out", tmp_path / "atlas")
    assert result.returncode == 0, result.stderr
    counts = read_manifest(tmp_path / "atlas", "cluster").counts
    assert result.stdout.startswith(f"{counts['clusters']} clusters ({counts['unstable']} unstable) hold ")
    assert "looked for" not in result.stdout, "all of them"
    assert contents(tmp_path / "atlas") == contents(real_study.folder / "atlas")


def test_clustering_says_in_how_many_patterns_it_looked(real_study, apmae_command, tmp_path):
    settings = "--set", "fit_points=300"
    result = apmae_command("cluster", real_study.folder / "embeddings", "--out", tmp_path / "atlas", *settings)
    assert result.returncode == 0, result.stderr
    counts = read_manifest(tmp_path / "atlas", "cluster").counts
    structured = counts["patterns"] - counts["unstructured"]
    assert (counts["patterns"], counts["fitted"]) == (576, 300) and structured > 300
    assert f" of 576 patterns, looked for in 300 of {structured}; atlas in " in result.stdout


def test_report_by_hand(real_study, apmae_command, tmp_path):
    for name in ("embeddings", "atlas"):
        shutil.copytree(real_study.folder / name, tmp_path / name)
    result = apmae_command("report", tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "report" / "index.html") in result.stdout
    assert (tmp_path / "report" / "index.html").is_file()


def test_tags_over_prompts_are_written_and_printed(real_study, apmae_command, tmp_path):
    lines = [json.dumps({"prompt": f"int x{i} = ", "completion": "0", "task": f"t{i % 2}"}) for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    command = (
        *("tag", "bundled", "--prompts", "mine.jsonl", "--out", "tags", "--set", "shard_prompts=2"),
        *("--encoder", real_study.folder / "encoder", "--atlas", real_study.folder / "atlas"),
    )
    result = apmae_command(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "tags").iterdir()} == {
        *(f"{table}-{shard}.parquet" for table in ("tags", "prompts", "embeddings") for shard in ("00000", "00001")),
        *("summary.json", "index.html", "manifest.json"),
    }
    assert "192 tags of 48 heads, on 4 prompts" in " ".join(result.stdout.split())
    assert result.stdout.endswith("tags in tags; see tags/index.html and tags/summary.json\n")
    assert apmae_command(*command, cwd=tmp_path).stdout == result.stdout
    changed = apmae_command(*command, "--set", "batch=1", cwd=tmp_path)
    assert changed.returncode == 2 and "config.capture.batch was 8, now 1" in changed.stderr


def test_tag_gives_a_table_json_and_a_page(real_study, apmae_command, tmp_path):
    (tmp_path / "A.java").write_text(JAVA)
    result = apmae_command(
        *("tag", "bundled", "A.java", "--line", 3, "--json", "tags.json", "--html", "out/tags.html"),
        *("--encoder", real_study.folder / "encoder", "--atlas", real_study.folder / "atlas"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "return" in result.stdout

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    tags = json.loads((tmp_path / "tags.json").read_text(), parse_constant=refuse)
    assert (tags["model"], tags["file"], tags["line"], tags["layers"], tags["heads_by_layer"]) == (
        *("bundled", "A.java", 3, 6, [8] * 6),
    )
    assert (tags["predicted"], tags["expected"], tags["outcome"]) == ("return", "return x * 2;", "correct")
    assert [(row["layer"], row["head"]) for row in tags["heads"]] == [(i, j) for i in range(6) for j in range(8)]
    assert {"cluster", "name", "strength", "measured", "coordinates", "score_induction"} <= tags["heads"][0].keys()
    page = (tmp_path / "out" / "tags.html").read_text()
    assert "A.java" in page
    assert "<script src" not in page


def test_show_draws_pictures_and_pages(apmae_command, tmp_path):
    (tmp_path / "A.java").write_text(JAVA)
    page = apmae_command("show", "bundled", "--prompt", "int x = 1;\nint y = x", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    tokens = int(re.fullmatch(r"48 heads on (\d+) tokens in show.html\n", page.stdout)[1])
    assert (tmp_path / "show.html").read_text().count('alt="pattern of head ') == 48
    one = apmae_command(
        *("show", "bundled", "--prompt", "-", "--head", "3.5", "--head", "0.1", "--out", "deep/x.PNG"),
        *("--scale", "linear", "--attention", "eager"),
        input="int x = 1;\nint y = x",
        cwd=tmp_path,
    )
    assert one.returncode == 0, one.stderr
    assert one.stdout == f"2 heads on {tokens} tokens in deep/x.PNG\n"
    assert (tmp_path / "deep" / "x.PNG").read_bytes().startswith(b"\x89PNG")
    line = apmae_command("show", "bundled", "--file", "A.java", "--line", "3", "--head", "1.1", cwd=tmp_path)
    assert line.returncode == 0, line.stderr
    assert "fim_suffix" in (tmp_path / "show.html").read_text()


def test_run_takes_a_file_and_puts_the_study_beside_it(real_study, apmae_command, tmp_path):
    for name in ("embeddings", "atlas", "encoder"):
        shutil.copytree(real_study.folder / name, tmp_path / "mine" / name)
    # The study's own prompts are given: everything after them is reused.
    shutil.copy(real_study.folder / "prompts.parquet", tmp_path / "given.parquet")
    study = {"sources": ["given.parquet"], "encoder": "mine/encoder"}
    study["encode"] = real_study.config.encode.model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(study))
    before = contents(tmp_path / "mine")
    result = apmae_command("run", "mine.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after = contents(tmp_path / "mine")
    assert {name: after[name] for name in before} == before
    assert read_json(tmp_path / "mine" / "study.json")["out"] == "mine"
    assert "encode:" not in result.stderr, "nothing was made again"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def without_attention(folder):
    """A language model without attention, with the bundled tokenizer."""
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(bundled.language_model()).save_pretrained(folder)
    return folder


def an_encoder(folder):
    """A model that fills in words, with the bundled tokenizer."""
    config = BertConfig(
        vocab_size=4096, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundled.language_model())
    tokenizer.save_pretrained(folder)
    return folder


def long_encoder(folder):
    config = recipes.train_recipe("debug").model.model_copy(update={"pattern_size": 1024, "patch_size": 128})
    APMAE(config.model_copy(update={"encoder_mlp_dim": 64, "decoder_mlp_dim": 64})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def refused(real_study, apmae_command, tmp_path_factory):
    """Commands that are refused after their model is loaded or their work has begun; those refused earlier are in
    ``cli/test_mistakes.py``. ``{case: (result, folder, what was there before)}``.
    """
    home = tmp_path_factory.mktemp("refused")
    study, encoder = real_study.folder, real_study.folder / "encoder"
    prompts = study / "prompts.parquet"
    given = home / "given"
    given.mkdir()
    mamba = without_attention(given / "mamba")
    bert = an_encoder(given / "bert")
    long = long_encoder(given / "long")

    changed = real_study.config.model_dump(mode="json")
    changed["encode"]["seed"] = 7
    hand = ("--prompts", prompts, "--out", "embeddings")
    train = ("train", "--corpus", "bundled", "--recipe", "debug")
    cases = {
        "no attention": ("encode", "--lm", mamba, "--encoder", encoder, *hand),
        "encoder": ("encode", "--lm", bert, "--encoder", encoder, *hand),
        "pattern size": ("encode", "--encoder", long, *hand),
        "truncated shard": ("cluster", "study/embeddings", "--out", "atlas"),
        "changed study": ("run", "changed.yaml"),
        "full disk, encode": ("encode", "--encoder", encoder, *hand, *ENCODE),
        "full disk, train": (*train, "--out", "encoder"),
        "no such head": ("show", "bundled", "--prompt", "a b", "--head", "6.0"),
        "an empty prompt": ("show", "bundled", "--prompt", ""),
        "names in pieces": ("prompts", "circuit:ioi", "--lm", "bundled", "--out", "p.parquet"),
        "no such sentinels": ("encode", "--infill", "codestral", *hand),
    }

    def prepare(case):
        folder = home / case.replace(" ", "-").replace(",", "")
        folder.mkdir()
        if case in ("truncated shard", "changed study"):
            shutil.copytree(study, folder / "study")
        if case == "truncated shard":
            shard = folder / "study" / "embeddings" / "embeddings-00001.parquet"
            os.truncate(shard, shard.stat().st_size // 2)
        elif case == "changed study":
            (folder / "changed.yaml").write_text(yaml.safe_dump({**changed, "out": "study"}))
        return folder, contents(folder)

    done = {}
    for case, arguments in cases.items():
        folder, before = prepare(case)
        room = {"full disk, encode": 20_000, "full disk, train": 200_000}.get(case)
        done[case] = apmae_command(*arguments, cwd=folder, room=room), folder, before
    return done


SAID = {
    "no attention": ("MambaForCausalLM",),
    "encoder": ("got square ones of an encoder", "apmae train --lm MODEL"),
    "pattern size": ("at most 512", "got 1024", "smaller pattern_size"),
    "truncated shard": ("embeddings-00001.parquet", "expected", "bytes", "run encode again as before"),
    "changed study": ("embeddings", "config.seed was 0, now 7", "--overwrite"),
    "full disk, encode": ("the disk is full", "embeddings", "run the same command again"),
    "full disk, train": ("the disk is full", "checkpoint.safetensors", "run the same command again"),
    "no such head": ("LAYER.HEAD like 3.5 with layers 0-5 and heads 0-7, got '6.0'",),
    "an empty prompt": ("at least one token",),
    "names in pieces": ("8 names whole", "keeps 0 of 84", "another circuit"),
    "no such sentinels": ("[SUFFIX] and [PREFIX] not found", "<fim_prefix>", "infill 'none'"),
}


def test_every_mistake_in_own_prompts_has_a_line(apmae_command, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": 1}\n{"prompt": "a", "completion": "b"}\n{\n')
    result = apmae_command("prompts", "mine.jsonl", "--preview", cwd=tmp_path)
    assert result.returncode == 2
    heading, *mistakes = result.stderr.splitlines()
    assert heading == "apmae: mine.jsonl: 3 mistakes:"
    assert [mistake.split(":")[0] for mistake in mistakes] == ["  line 1", "  line 1", "  line 3"]
    assert all(field in mistake for field, mistake in zip(("'prompt'", "'completion'", "JSON"), mistakes, strict=True))


def test_own_prompts_are_shown_and_become_parquet_and_come_back(apmae_command, environment, tmp_path):
    example = Path(__file__).parents[1] / "docs" / "prompts.jsonl"
    command = ["prompts", str(example), "--preview", "--count", "2", "--out", "p.parquet"]
    ((printed, loaded, code),) = started(environment, command, cwd=tmp_path)
    assert code == 0, printed
    assert not {"torch", "transformers", "sklearn", "matplotlib"} & loaded, "these prompts need no model"
    assert "int x = ⟦1⟧;" in printed
    assert "2 more" in printed
    assert printed.splitlines()[-1] == "4 prompts in p.parquet"
    assert apmae_command("prompts", "p.parquet", "--out", "back.jsonl", cwd=tmp_path).returncode == 0
    assert load_prompts(tmp_path / "back.jsonl") == load_prompts(example)


def test_prompts_are_shown_without_being_written(apmae_command, tmp_path):
    result = apmae_command("prompts", "bundled", "--tasks", "eol", "--per-task", 3, "--preview", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("⟦") == result.stdout.count("⟧") == 3
    assert not list(tmp_path.iterdir())


def test_the_schema_is_printed(apmae_command):
    result = apmae_command("prompts", "--schema")
    assert json.loads(result.stdout)["required"] == ["prompt", "completion"]


def test_a_mistake_is_one_line_and_code_2_and_loses_nothing(refused):
    assert SAID.keys() == refused.keys()
    for case, (result, folder, before) in refused.items():
        assert result.returncode == 2, (case, result.stderr)
        assert "Traceback" not in result.stderr, case
        lines = result.stderr.splitlines()
        progress = [
            line for line in lines if line.startswith(("train: ", "encode: ", "prompts: ", "fill the buffer: "))
        ]
        assert case.startswith("full disk") or all(": 0 of " in line for line in progress), case
        assert len(lines) == len(progress) + 1, (case, result.stderr)
        assert lines[-1].startswith("apmae: "), case
        for part in SAID[case]:
            assert part in lines[-1], case
        after = contents(folder)
        assert {name: after.get(name) for name in before} == before, case
        left = sorted(after.keys() - before.keys())
        allowed = {
            "full disk, encode": ["embeddings/journal.jsonl"],
            "full disk, train": ["encoder/journal.jsonl", "encoder/metrics.jsonl"],
        }
        assert set(left) <= set(allowed.get(case, [])), f"{case}: nothing incomplete is left"


def test_a_run_keeps_its_shards_when_the_disk_fills_up_and_resumes(real_study, apmae_command, small_disk):
    disk = small_disk("190k")
    out = disk / "embeddings"
    command = ["encode", "--encoder", real_study.folder / "encoder", "--prompts", real_study.folder / "prompts.parquet"]
    command += ["--out", out, "--set", "exemplars_per_head=0", "--set", "shard_prompts=2", "--set", "batch=2"]
    full = apmae_command(*command)
    assert full.returncode == 2, full.stdout
    assert "the disk is full (No space left on device)" in full.stderr.splitlines()[-1]
    assert sum(line.startswith("apmae: ") for line in full.stderr.splitlines()) == 1
    kept = {path: path.stat().st_mtime_ns for path in out.glob("embeddings-*.parquet")}
    assert 1 <= len(kept) < 6
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    again = apmae_command(*command)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert read_manifest(out, "encode").counts["patterns"] == 576
