"""A mistake that can be seen without torch is reported without it: every command, by the modules that it loaded."""

import json
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from apmae import bundled
from apmae.artifacts import Stage, fingerprint, write_table
from apmae.config import (
    AnswersConfig,
    AtlasConfig,
    DimensionsConfig,
    EncodeConfig,
    PatchingConfig,
    PromptsConfig,
    TagsConfig,
    TrainConfig,
)
from apmae.prompts.files import read_prompts, to_table
from apmae.schema import ENCODED_PROMPTS

HEAVY = ["torch", "transformers", "accelerate", "umap", "numba", "hdbscan", "sklearn", "matplotlib"]

RUN = """
import importlib.util, json, os, sys
import apmae.cli, apmae.engine.checks

sys.modules["cuml"] = None  # as where it is not installed
importlib.util.find_spec = lambda name, *_, find=importlib.util.find_spec: None if name == "catboost" else find(name)
results = {}
for case, arguments in json.load(sys.stdin).items():
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with open(reading) as file:
            printed = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        results[case] = {"code": status, "printed": printed.splitlines()}
        continue
    os.close(reading)
    os.dup2(writing, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    sys.argv = ["apmae", *arguments]
    code = 70
    try:
        apmae.cli.main()
    except SystemExit as done:
        code = done.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    loaded = [name for name in HEAVY if name in sys.modules]
    print("loaded:", *loaded, file=sys.stderr, flush=True)
    os._exit(code)
json.dump(results, sys.stdout)
"""
"""Runs commands in forks of a process that has loaded no more than each of them loads before its first check."""

OUT = ("--out", "made")
PROMPTS = ("--prompts", "good.jsonl")
PAIRS = ("--prompts", "pairs.jsonl")
TWO = ("--prompts", "two.jsonl")
TAG = ("tag", "bundled", "A.java", "--line", "3")
TAGS = ("tag", "bundled", *PROMPTS)
FIGURE = ("--out", "made.png")
DIMENSIONS = ("dimensions", "old", *FIGURE)
PREDICT = ("predict", "bundled", "A.java", "--line", "3", "--column", "16", "--study", "three")
TRAIN = ("train", *PROMPTS, "--recipe", "debug", *OUT)

CASES = {
    # -- tag
    "tag: no such file": (("tag", "bundled", "none.java", "--line", "3"), "none.java: No such file", "check the path"),
    "tag: a folder": (("tag", "bundled", "folder", "--line", "3"), "folder: Is a directory"),
    "tag: not UTF-8": (("tag", "bundled", "latin.java", "--line", "1"), "expected UTF-8 in latin.java", "convert"),
    "tag: a line too many": (("tag", "bundled", "A.java", "--line", "99"), "1-5, got 99", "--line"),
    "tag: line 0": (("tag", "bundled", "A.java", "--line", "0"), "1-5, got 0"),
    "tag: a column too many": ((*TAG, "--column", "99"), "1-22, got 99", "--column"),
    "tag: nothing before": (("tag", "bundled", "A.java", "--line", "1"), "text before and after the cursor"),
    "tag: no such model": (("tag", "./none", "A.java", "--line", "3"), "found no folder ./none", "check the path"),
    "tag: a file as model": (("tag", "A.java", "A.java", "--line", "3"), "found no folder A.java"),
    "tag: no model anywhere": (("tag", "no-such-model", "A.java", "--line", "3"), "no-such-model", "the hub says"),
    "tag: no name of a model": (("tag", "no such", "A.java", "--line", "3"), "no such", "the hub says"),
    "tag: an empty name": (("tag", "", "A.java", "--line", "3"), "a model folder or a hub id, got none"),
    "tag: a model without its config": (("tag", "./folder", "A.java", "--line", "3"), "it has no config.json"),
    "tag: a broken config": (("tag", "./broken", "A.java", "--line", "3"), "expected JSON in broken/config.json"),
    "tag: a config of something else": (("tag", "./listed", "A.java", "--line", "3"), "got a JSON list"),
    "tag: a model without weights": (("tag", "./hollow", "A.java", "--line", "3"), "weights in hollow", "complete"),
    "tag: no such encoder": ((*TAG, "--encoder", "./none"), "an AP-MAE's folder or hub id", "check the path"),
    "tag: an encoder without its config": ((*TAG, "--encoder", "folder"), "AP-MAE in folder", "config.json"),
    "tag: an encoder without weights": ((*TAG, "--encoder", "weightless"), "whole AP-MAE weights", "train them again"),
    "tag: an encoder cut short": ((*TAG, "--encoder", "short"), "whole AP-MAE weights in short"),
    "tag: a language model as encoder": (
        (*TAG, "--encoder", bundled.language_model()),
        "an AP-MAE config, ours or the published one",
    ),
    "tag: an encoder of the future": ((*TAG, "--encoder", "newer"), "format 2 or older", "got format 99"),
    "tag: no such atlas": ((*TAG, "--atlas", "none"), "none/atlas.json: No such file"),
    "tag: an atlas without its files": ((*TAG, "--atlas", "folder"), "folder/atlas.json: No such file"),
    "tag: another thing as atlas": ((*TAG, "--atlas", "mapless"), "its atlas.json does not belong to one"),
    "tag: a folder in the way": ((*TAG, "--json", "folder"), "folder is a folder", "add a file name"),
    "tag: a file as folder": ((*TAG, "--html", "A.java/x.html"), "A.java is a file"),
    "tag: nowhere to write": ((*TAG, "--json", "/proc/none/x.json"), "cannot write /proc/none/x.json"),
    "tag: one file for two": ((*TAG, "--json", "x", "--html", "x"), "two files for --json and --html"),
    "tag: no such device": ((*TAG, "--device", "gpu"), "a device such as cpu", "'gpu'"),
    "tag: no such dtype": ((*TAG, "--dtype", "int4"), "'float32', 'bfloat16' or 'float16'", "int4"),
    "tag: no such infill": ((*TAG, "--infill", "middle"), "'middle'", "starcoder", "{prefix}"),
    "tag: nothing": (("tag", "bundled"), "FILE with --line, or --prompts with --out, got neither"),
    "tag: a file without a line": (("tag", "bundled", "A.java"), "got FILE alone", "give both"),
    "tag: a line without a file": (("tag", "bundled", "--line", "3"), "got --line alone"),
    "tag: prompts without a folder": (TAGS, "got --prompts alone", "give both"),
    "tag: a folder without prompts": (("tag", "bundled", *OUT), "got --out alone"),
    "tag: a setting without prompts": ((*TAG, "--set", "batch=2"), "got FILE and --set", "leave one of them out"),
    "tag: a file and prompts": ((*TAG, *PROMPTS, *OUT), "got FILE and --prompts"),
    "tag: JSON of prompts": ((*TAGS, *OUT, "--json", "x.json"), "got --json and --prompts"),
    "tag: no such prompts": (("tag", "bundled", "--prompts", "none.jsonl", *OUT), "none.jsonl, found none"),
    "tag: prompts with a mistake": (
        ("tag", "bundled", "--prompts", "bad.jsonl", *OUT),
        "bad.jsonl: line 2",
        "give one",
    ),
    "tag: no such source files": (("tag", "bundled", "--prompts", "nowhere", *OUT), "at nowhere, found nothing there"),
    "tag: no source files": (("tag", "bundled", "--prompts", "mapless", *OUT), "found none among 1 files"),
    "tag: no such setting": ((*TAGS, *OUT, "--set", "colour=red"), "colour", "'red'"),
    "tag: a file for the tags": ((*TAGS, "--out", "tags.parquet"), "a folder for the tags", "leave the suffix out"),
    "tag: a file in the way of the tags": ((*TAGS, "--out", "A.java"), "A.java is a file"),
    "tag: other settings of tags": (
        (*TAGS, "--set", "seed=7", "--out", "old-tags"),
        "config.seed was 0, now 7",
        "--overwrite",
    ),
    "tag: another stage's folder": ((*TAGS, "--out", "old-atlas"), "stage was 'cluster', now 'tag'"),
    "tag: no such encoder for prompts": ((*TAGS, *OUT, "--encoder", "./none"), "AP-MAE's folder"),
    "tag: no such atlas for prompts": ((*TAGS, *OUT, "--atlas", "none"), "none/atlas.json: No such file"),
    "tag: no such model for prompts": (("tag", "./none", *PROMPTS, *OUT), "found no folder ./none"),
    "tag: prompts of more tokens than positions": (
        (*TAGS, *OUT, "--set", "context=100000"),
        "a context of at most 512",
    ),
    # -- show
    "show: no text": (("show", "bundled"), "one of --prompt and --file, got neither"),
    "show: two texts": (("show", "bundled", "--prompt", "a", "--file", "A.java"), "got both"),
    "show: a line of no file": (("show", "bundled", "--prompt", "a", "--line", "1"), "--line with --file"),
    "show: no such file": (("show", "bundled", "--file", "none.java"), "none.java: No such file"),
    "show: a line too many": (("show", "bundled", "--file", "A.java", "--line", "9"), "1-5, got 9"),
    "show: no head": (("show", "bundled", "--prompt", "a", "--head", "3,5"), "LAYER.HEAD like 3.5", "'3,5'"),
    "show: neither picture nor page": (("show", "bundled", "--prompt", "a", "--out", "x.jpg"), ".png or .html, got x"),
    "show: a folder in the way": (("show", "bundled", "--prompt", "a", "--out", "way.png"), "way.png is a folder"),
    "show: no such scale": (("show", "bundled", "--prompt", "a", "--scale", "loud"), "log, linear", "'loud'"),
    "show: no such reach": (("show", "bundled", "--prompt", "a", "--long", "fold"), "pool, crop", "'fold'"),
    "show: too many heads": (
        *(("show", "bundled", "--prompt", "a", "--out", "x.png", *(f"--head=0.{n}" for n in range(13))),),
        "at most 12 heads in one PNG, got 13",
    ),
    "show: no such model": (("show", "a/b/c", "--prompt", "a"), "found no folder a/b/c"),
    # -- prompts
    "prompts: no sources": (("prompts", "--out", "p.parquet"), "expected sources", "'bundled'"),
    "prompts: nothing to do": (("prompts", "bundled"), "--out", "--preview"),
    "prompts: no such source": (("prompts", "none", "--out", "p.parquet"), "found nothing there", "check the path"),
    "prompts: a folder without source files": (
        ("prompts", "folder", "--out", "p.parquet"),
        ".java files",
        "give anoth",
    ),
    "prompts: not UTF-8": (("prompts", "latin.java", "--out", "p.parquet"), "latin.java", "expected UTF-8"),
    "prompts: no such task": (("prompts", "bundled", "--tasks", "verbs", "--out", "p.parquet"), "tasks.0", "'verbs'"),
    "prompts: no such language": (("prompts", "bundled", "--language", "perl", "--preview"), "language", "'perl'"),
    "prompts: another kind of file": (("prompts", "bundled", "--out", "p.csv"), "a .parquet file, got p.csv"),
    "prompts: a folder in the way": (("prompts", "bundled", "--out", "way.parquet"), "way.parquet is a folder"),
    "prompts: other settings": (
        ("prompts", "bundled", "--lm", "bundled", "--per-task", "7", "--out", "old.parquet"),
        "config.per_task was 1000, now 7",
        "--overwrite",
    ),
    "prompts: no such model": (
        ("prompts", "bundled", "--lm", "./none", "--out", "p.parquet"),
        "found no folder ./none",
    ),
    "prompts: an empty model": (("prompts", "bundled", "--lm", "", "--out", "p.parquet"), "hub id, got none"),
    "prompts: no files for the model": (
        ("prompts", "folder", "--lm", "bundled", "--out", "p.parquet"),
        "expected .java files under folder",
    ),
    "prompts: a circuit without a model": (("prompts", "circuit:ioi", "--out", "p.parquet"), "--lm MODEL", "tokens"),
    "prompts: a circuit and files": (
        ("prompts", "circuit:ioi", "bundled", "--lm", "bundled", "--out", "p.parquet"),
        "circuits only, got bundled",
    ),
    "prompts: a circuit of code without files": (
        ("prompts", "circuit:closing_bracket", "--lm", "bundled", "--out", "p.parquet"),
        "source files with circuit:closing_bracket",
    ),
    "prompts: a circuit of code and no such folder": (
        ("prompts", "circuit:closing_bracket", "none", "--lm", "bundled", "--out", "p.parquet"),
        "none",
    ),
    "prompts: no such circuit": (
        ("prompts", "circuit:acronyms", "--lm", "bundled", "--out", "p.parquet"),
        "'ioi'",
        "got 'acronyms'",
    ),
    "prompts: a circuit twice": (
        ("prompts", "circuit:ioi", "circuit:ioi", "--lm", "bundled", "--out", "p.parquet"),
        "each once, got ioi, ioi",
    ),
    "prompts: a circuit with tasks": (
        ("prompts", "circuit:ioi", "--tasks", "eol", "--lm", "bundled", "--out", "p.parquet"),
        "no --tasks with circuits",
    ),
    "prompts: a circuit for no model": (
        ("prompts", "circuit:ioi", "--lm", "./none", "--out", "p.parquet"),
        "found no folder ./none",
    ),
    "prompts: own ones with a mistake": (("prompts", "bad.jsonl", "--preview"), "line 2", "'completion'"),
    "prompts: own ones and a model": (("prompts", "good.jsonl", "--lm", "bundled", "--preview"), "encode asks"),
    "prompts: own ones to text": (("prompts", "good.jsonl", "--out", "p.txt"), ".jsonl", "p.txt"),
    # -- train
    "train: nothing to train on": (("train", *OUT), "one of --prompts, --corpus and --patterns, got none"),
    "train: two things to train on": ((*TRAIN, "--corpus", "bundled"), "got prompts and corpus"),
    "train: no such prompts": (("train", "--prompts", "none.jsonl", *OUT), "prompts at none.jsonl, found none"),
    "train: prompts with a mistake": (("train", "--prompts", "bad.jsonl", *OUT), "line 2", "'completion'"),
    "train: another kind of file": (("train", "--prompts", "A.java", *OUT), ".parquet or .jsonl file, got A.java"),
    "train: no such corpus": (("train", "--corpus", "none", *OUT), "found nothing there"),
    "train: a corpus without source files": (("train", "--corpus", "folder", *OUT), ".java files under folder"),
    "train: prompts as corpus": (("train", "--corpus", "good.jsonl", *OUT), "source files, got the prompts good.jsonl"),
    "train: no such language": (("train", "--corpus", "bundled", "--language", "klingon", *OUT), "'klingon'"),
    "train: no such patterns": (("train", "--patterns", "none.npy", *OUT), "patterns at none.npy, found none"),
    "train: patterns that are none": (("train", "--patterns", "A.java", *OUT), "patterns in .npy", "A.java"),
    "train: patterns of a model": (
        ("train", "--patterns", "A.java", "--lm", "bundled", "--attention", "eager", *OUT),
        "expected no --lm and no --attention with --patterns",
    ),
    "train: no such model": ((*TRAIN, "--lm", "./none"), "found no folder ./none"),
    "train: no such recipe": (("train", *PROMPTS, "--recipe", "huge", *OUT), "nano", "'huge'"),
    "train: no steps": ((*TRAIN, "--steps", "0"), "steps", "got 0"),
    "train: no model": ((*TRAIN, "--set", "model=3"), "model", "got 3"),
    "train: a batch that cannot be cut": ((*TRAIN, "--set", "accumulate=3"), "accumulate 3", "got 16; take 15"),
    "train: no such device": ((*TRAIN, "--device", "gpu"), "a device such as cpu", "'gpu'"),
    "train: no such tracker": ((*TRAIN, "--track", "paper"), "a tracker, one of aim", "'paper'"),
    "train: a tracker that is not here": ((*TRAIN, "--track", "swanlab"), "pip install swanlab"),
    "train: a file in the way": (("train", *PROMPTS, "--out", "A.java"), "A.java is a file"),
    "train: other settings": (
        ("train", *PROMPTS, "--recipe", "debug", "--out", "old-encoder"),
        "config.batch_size was 480, now 16",
        "--overwrite",
    ),
    # -- encode
    "encode: no such prompts": (("encode", "--prompts", "none.parquet", *OUT), "none.parquet, found none"),
    "encode: prompts with a mistake": (("encode", "--prompts", "bad.jsonl", *OUT), "bad.jsonl: line 2", "give one"),
    "encode: a folder as prompts": (("encode", "--prompts", "folder", *OUT), ".parquet or .jsonl file, got folder"),
    "encode: no such model": (("encode", *PROMPTS, "--lm", "./none", *OUT), "found no folder ./none"),
    "encode: no such encoder": (("encode", *PROMPTS, "--encoder", "./none", *OUT), "AP-MAE's folder"),
    "encode: no share": (("encode", *PROMPTS, "--heads", "most", *OUT), "--heads", "'most'"),
    "encode: a share of more than all": (("encode", *PROMPTS, "--heads", "1.5", *OUT), "heads is 1.5"),
    "encode: a share that is none": (("encode", *PROMPTS, "--heads", "nan", *OUT), "heads"),
    "encode: a share in its part": (("encode", *PROMPTS, "--set", "capture={heads: 2}", *OUT), "capture.heads"),
    "encode: a file in the way": (("encode", *PROMPTS, "--out", "A.java"), "A.java is a file"),
    "encode: a file in the path": (("encode", *PROMPTS, "--out", "A.java/x"), "A.java is a file"),
    "encode: other settings": (("encode", *PROMPTS, "--seed", "7", "--out", "old"), "config.seed was 0, now 7"),
    "encode: another stage's folder": (("encode", *PROMPTS, "--out", "old-atlas"), "stage was 'cluster', now 'encode'"),
    "encode: no setting": (("encode", *PROMPTS, "--set", "colour=red", *OUT), "colour", "'red'"),
    # -- evaluate
    "evaluate: no such prompts": (("evaluate", "--prompts", "none.jsonl", *OUT), "none.jsonl, found none"),
    "evaluate: a model twice": (
        ("evaluate", *PROMPTS, "--lm", "bundled", "--lm", "bundled", *OUT),
        "got bundled twice",
    ),
    "evaluate: no such model": (("evaluate", *PROMPTS, "--lm", "bundled", "--lm", "./none", *OUT), "folder ./none"),
    "evaluate: no such encoder": (("evaluate", *PROMPTS, "--encoder", "./none", *OUT), "AP-MAE's folder"),
    "evaluate: a file in the way": (("evaluate", *PROMPTS, "--out", "A.java"), "A.java is a file"),
    # -- cluster
    "cluster: no embeddings": (("cluster", "folder", *OUT), "a finished encode artifact at folder", "run encode first"),
    "cluster: another stage's folder": (("cluster", "old-atlas", *OUT), "expected stage 'encode'", "'cluster'"),
    "cluster: half a setting": (("cluster", "old", *OUT, "--set", "seed"), "KEY=VALUE", "'seed'"),
    "cluster: no YAML": (("cluster", "old", *OUT, "--set", "seed=["), "seed=["),
    "cluster: no setting": (("cluster", "old", *OUT, "--set", "colour=red"), "colour", "'red'"),
    "cluster: a file in the way": (("cluster", "old", "--out", "A.java"), "A.java is a file"),
    "cluster: other settings": (("cluster", "old", "--seed", "7", "--out", "old-atlas"), "config.seed was 0, now 7"),
    "cluster: no such device": (("cluster", "old", *OUT, "--set", "device=gpu"), "'cpu' or 'cuda'", "got 'gpu'"),
    "cluster: no cuML": (("cluster", "old", *OUT, "--set", "device=cuda"), "cuML", "pip install 'apmae[gpu]'"),
    # -- dimensions
    "dimensions: no embeddings": (("dimensions", "folder", *FIGURE), "encode artifact at folder", "run encode first"),
    "dimensions: another stage's folder": (("dimensions", "old-atlas", *FIGURE), "expected stage 'encode'"),
    "dimensions: no number": ((*DIMENSIONS, "--dimensions", "2,many"), "dimensions.1", "got 'many'"),
    "dimensions: a line": ((*DIMENSIONS, "--dimensions", "1,2"), "each from 2 and once, got 1, 2"),
    "dimensions: one twice": ((*DIMENSIONS, "--dimensions", "4,4"), "each from 2 and once, got 4, 4"),
    "dimensions: more than there are": (
        ("dimensions", "narrow", *FIGURE),
        "at most 6 dimensions, as many as embeddings in narrow have, got 10",
    ),
    "dimensions: no neighbours": ((*DIMENSIONS, "--neighbors", "0"), "neighbors", "got 0"),
    "dimensions: no seeds": ((*DIMENSIONS, "--seeds", "0"), "seeds", "got 0"),
    "dimensions: no points": ((*DIMENSIONS, "--points", "0"), "points", "got 0"),
    "dimensions: no picture": (("dimensions", "old", "--out", "x.pdf"), "ends in .png, got x.pdf", "another name"),
    "dimensions: a folder in the way": (("dimensions", "old", "--out", "way.png"), "way.png is a folder"),
    "dimensions: a folder where the numbers go": (
        ("dimensions", "old", "--out", "block.png"),
        "block.parquet is a folder",
    ),
    "dimensions: another table where the numbers go": (
        ("dimensions", "old", "--out", "mine.png"),
        "no other table at mine.parquet, where the numbers of mine.png go",
        "--overwrite",
    ),
    "dimensions: other settings": (
        ("dimensions", "old", "--seeds", "7", "--out", "figure.png"),
        "figure.parquet was made with",
        "config.seeds was 3, now 7",
    ),
    "dimensions: no cuML": ((*DIMENSIONS, "--set", "atlas={device: cuda}"), "cuML", "pip install 'apmae[gpu]'"),
    # -- report
    "report: no study": (("report", "folder"), "a finished encode artifact at folder/embeddings", "run encode first"),
    "report: nothing there": (("report", "none"), "none/embeddings"),
    # -- locations
    "locations: no study": (("locations", "folder"), "a finished encode artifact at folder/embeddings", "encode first"),
    "locations: no atlas": (("locations", "study"), "a finished cluster artifact at study/atlas", "run cluster first"),
    "locations: few permutations": (("locations", "study", "--permutations", "3"), "permutations", "got 3"),
    "locations: no tags": (
        ("locations", "folder", "old-tags", *OUT),
        "a finished tag artifact at folder",
        "run tag first",
    ),
    "locations: one folder of tags": (("locations", "old-tags", *OUT), "two folders of tags or more, got 1"),
    "locations: tags twice": (("locations", "old-tags", "old-tags", *OUT), "each once, got old-tags twice"),
    "locations: tags and no place": (("locations", "old-tags", "folder"), "expected --out", "give a folder"),
    "locations: a file for tables": (("locations", "old-tags", "folder", "--out", "x.parquet"), "leave the suffix out"),
    "locations: tags of an earlier version": (
        ("locations", "old-tags"),
        "a count of 'heads_by_layer' in the manifest of old-tags",
        "run tag again",
    ),
    # -- top
    "top: no study": (("top", "folder"), "a finished encode artifact at folder/embeddings", "encode first"),
    "top: no atlas": (("top", "study"), "a finished cluster artifact at study/atlas", "run cluster first"),
    "top: no such score": (
        ("top", "three", "--by", "loudness"),
        "strength or a score, one of first_token",
        "'loudness'",
    ),
    "top: no head": (("top", "three", "--head", "3,5"), "LAYER.HEAD like 3.5", "'3,5'"),
    "top: no such head": (("top", "three", "--head", "0.1"), "layers 0-0 with up to 1 heads, got '0.1'"),
    "top: none of them": (("top", "three", "--count", "0"), "count", "got 0"),
    "top: no such values": (("top", "three", "--values", "none.parquet", "--by", "effect"), "none.parquet, found none"),
    "top: values that are none": (("top", "three", "--values", "mine.parquet", "--by", "x"), "mine.parquet has none"),
    "top: a folder without a model": (
        ("top", "three", "--by", "self", *OUT),
        "expected --lm with --out",
        "leave the option out",
    ),
    "top: no prompts": (("top", "three", "--by", "self", "--lm", "bundled"), "the prompts of three", "--prompts"),
    "top: other prompts": (
        ("top", "three", "--by", "self", "--lm", "bundled", "--prompts", "good.jsonl"),
        "good.jsonl has others",
    ),
    "top: another model": (
        ("top", "told", "--by", "self", "--lm", "bundled"),
        "the language model that told was made with (none, ",
        "bundled is another",
    ),
    "top: no such model": (("top", "told", "--by", "self", "--lm", "./none"), "found no folder ./none"),
    "top: a file in the way": (
        ("top", "told", "--by", "self", "--lm", "bundled", "--out", "A.java"),
        "A.java is a file",
    ),
    # -- similar
    "similar: no study": (("similar", "folder:1.2", "--in", "folder"), "encode artifact at folder/embeddings"),
    "similar: a study twice": (("similar", "told:1.2", "--in", "told", "--in", "told"), "each once, got told twice"),
    "similar: nothing to look for": (("similar", "none.npy", "--in", "told"), "patterns at none.npy, found none"),
    "similar: no patterns": (("similar", "A.java", "--in", "told"), "patterns in .npy", "A.java"),
    "similar: no such study": (("similar", "none:1.2", "--in", "told"), "none/embeddings", "run encode first"),
    "similar: no heads": (("similar", "told:1.2", "--in", "told", "--count", "0"), "count", "got 0"),
    "similar: few controls": (("similar", "told:1.2", "--in", "told", "--set", "controls=3"), "controls", "got 3"),
    "similar: another kind of picture": (
        ("similar", "told:1.2", "--in", "told", "--picture", "x.pdf"),
        "ends in .png, got x.pdf",
    ),
    "similar: JSON in the way": (("similar", "told:1.2", "--in", "told", "--json", "folder"), "folder is a folder"),
    # -- answers
    "answers: no such prompts": (("answers", "--prompts", "none.parquet", *OUT), "none.parquet, found none"),
    "answers: prompts with a mistake": (("answers", "--prompts", "bad.jsonl", *OUT), "bad.jsonl: line 2"),
    "answers: no such model": (("answers", *PROMPTS, "--lm", "./none", *OUT), "found no folder ./none"),
    "answers: no tokenizer": (("answers", *PROMPTS, "--lm", "./wordless", *OUT), "a fast tokenizer", "wordless"),
    "answers: an encoder without a head": (
        ("answers", *PROMPTS, "--lm", "./headless", *OUT),
        "a model that says which tokens are probable",
        "without a head",
    ),
    "answers: no such sentinels": (("answers", *PROMPTS, "--infill", "<a>{prefix}<b>{suffix}", *OUT), "<a>"),
    "answers: a file in the way": (("answers", *PROMPTS, "--out", "A.java"), "A.java is a file"),
    "answers: a name like a file": (("answers", *PROMPTS, "--out", "made.parquet"), "folder for the tables", "suffix"),
    "answers: other settings": (
        ("answers", *PROMPTS, "--set", "eigenvalues=3", "--out", "old-answers"),
        "eigenvalues was 10, now 3",
    ),
    "answers: another stage's folder": (("answers", *PROMPTS, "--out", "old"), "stage was 'encode', now 'answers'"),
    "answers: more tokens than positions": (("answers", *PROMPTS, "--set", "context=100000", *OUT), "positions"),
    "answers: no setting": (("answers", *PROMPTS, "--set", "heads=0.5", *OUT), "heads"),
    "answers: other prompts than the study's": (
        ("answers", *PROMPTS, "--set", "context=64", "--out", "three/answers"),
        "the prompts of the study for --out three/answers, got",
        "another --out",
    ),
    # -- circuit
    "circuit: neither study nor prompts": (("circuit", "--lm", "bundled"), "expected a study, or --prompts", "--out"),
    "circuit: no such prompts": (("circuit", "--prompts", "none.parquet", *OUT), "none.parquet, found none"),
    "circuit: no counterfactuals": (("circuit", *PROMPTS, *OUT), "none of 1 has both", "apmae prompts circuit:NAME"),
    "circuit: no such model": (("circuit", *PAIRS, "--lm", "./none", *OUT), "found no folder ./none"),
    "circuit: an encoder": (
        ("circuit", *PAIRS, "--lm", "./headless", *OUT),
        "a model that continues text",
        "a decoder",
    ),
    "circuit: no such head": (("circuit", *PAIRS, "--head", "6.0", *OUT), "layers 0-5", "got '6.0'"),
    "circuit: a head in words": (("circuit", *PAIRS, "--head", "last", *OUT), "LAYER.HEAD", "got 'last'"),
    "circuit: all heads and one": (
        ("circuit", *PAIRS, "--exact", "all", "--head", "1.1", *OUT),
        "single heads (--head), got both",
    ),
    "circuit: exact in other words": (("circuit", *PAIRS, "--exact", "some", *OUT), "--exact shortlist", "got some"),
    "circuit: no such filter": (("circuit", *PAIRS, "--filter", "entropy", *OUT), "filter", "got 'entropy'"),
    "circuit: no share": (("circuit", *PAIRS, "--share", "0", *OUT), "share", "got 0"),
    "circuit: tags without an atlas": (("circuit", *PAIRS, "--filter", "tags", *OUT), "--atlas for the filter 'tags'"),
    "circuit: a name like a file": (("circuit", *PAIRS, "--out", "made.parquet"), "folder for the tables", "suffix"),
    "circuit: other settings": (
        ("circuit", *PAIRS, "--set", "direction=denoising", "--out", "old-circuit"),
        "direction was 'noising', now 'denoising'",
    ),
    "circuit: more tokens than positions": (("circuit", *PAIRS, "--set", "context=100000", *OUT), "positions"),
    "circuit: other prompts than the study's": (
        ("circuit", "told", "--lm", "bundled", *PAIRS),
        "expected the prompts that told was made from",
    ),
    "circuit: a study that does not say its model": (("circuit", "told"), "expected --lm for told", "stage by stage"),
    # -- predict
    "predict: unfinished answers": (("predict", "unread"), "a finished answers artifact at unread/answers"),
    "predict: answers without outcomes": (("predict", "mute"), "prompts with outcomes in mute"),
    "predict: answers to other prompts": (("predict", "mixed"), "2 prompts instead of 3", "from mixed/answers alone"),
    "predict: no study": (("predict", "folder"), "or a folder that apmae answers made, got folder, a folder with"),
    "predict: a model alone": (("predict", "bundled"), "a study", "bundled, a model", "predict bundled FILE --line"),
    "predict: nothing there": (("predict", "nosuch"), "a study", "got nosuch, no folder", "nosuch FILE --line N"),
    "predict: an atlas": (("predict", "three/atlas"), "a study", "what apmae cluster made; give three"),
    "predict: no atlas": (("predict", "study"), "a finished cluster artifact at study/atlas", "run cluster first"),
    "predict: no outcomes": (
        ("predict", "silent"),
        "prompts with outcomes in silent/embeddings",
        "a model that answers",
    ),
    "predict: one outcome": (("predict", "right"), "correct and incorrect prompts", "eol: all correct 3", "balanced"),
    "predict: one file": (("predict", "one"), "two files or more", "found one", "of more files"),
    "predict: fewer files than folds": (("predict", "three"), "files as folds, 5, found 3", "--folds 3"),
    "predict: one fold": (("predict", "three", "--folds", "1"), "folds", "got 1"),
    "predict: few resamples": (("predict", "three", "--resamples", "1"), "resamples", "got 1"),
    "predict: no such recalibration": (
        ("predict", "three", "--set", "recalibration=x"),
        "'platt' or 'isotonic'",
        "'x'",
    ),
    "predict: JSON in the way": (("predict", "three", "--folds", "3", "--json", "folder"), "folder is a folder"),
    "predict: no such setting": (("predict", "three", "--set", "fold=3"), "fold"),
    "predict: no such trees": (("predict", "three", "--set", "trees=[oak]"), "'histogram' or 'catboost'", "'oak'"),
    "predict: trees twice": (("predict", "three", "--set", "trees=[histogram,histogram]"), "each kind of trees once"),
    "predict: no share": (("predict", "three", "--set", "similar=0"), "similar", "got 0"),
    "predict: trees that are not installed": (
        ("predict", "three", "--folds", "3", "--set", "trees=[catboost]"),
        "not installed",
        "apmae[catboost]",
    ),
    "predict: nothing but a file": (
        ("predict", "bundled", "A.java"),
        "got FILE without --line and --study",
        "all three",
    ),
    "predict: a line of a study": (("predict", "three", "--line", "3"), "got --line without FILE and --study"),
    "predict: no study for a line": (PREDICT[:-2], "got FILE without --study"),
    "predict: a risk of a study": (("predict", "three", "--risk", "0.1"), "got --risk without FILE and --line and"),
    "predict: a device of a study": (("predict", "three", "--device", "cpu"), "got --device without FILE"),
    "predict: a line and folds": ((*PREDICT, "--folds", "3"), "got FILE and --folds", "leave one of them out"),
    "predict: a line and a setting": ((*PREDICT, "--set", "bins=3"), "got FILE and --set"),
    "predict: a line and --overwrite": ((*PREDICT, "--overwrite"), "got FILE and --overwrite"),
    "predict: no risk": ((*PREDICT, "--risk", "0"), "--risk between 0 and 1", "got 0"),
    "predict: no such file": (("predict", "bundled", "none.java", *PREDICT[3:]), "none.java: No such file"),
    "predict: a line too many": ((*PREDICT[:3], "--line", "99", *PREDICT[5:]), "1-5, got 99"),
    "predict: a line whose task nobody knows": (
        (*PREDICT[:3], "--line", "3", "--column", "9", *PREDICT[7:]),
        "--task for the cursor at A.java:3",
        "--column 16 (identifier), 18 (math_operator)",
    ),
    "predict: a language that nobody knows": (
        ("predict", "bundled", "notes.xyz", "--line", "2", *PREDICT[7:]),
        "its language is not known",
    ),
    "predict: no predictor": (PREDICT, "a saved predictor in three/predict, found none", "run apmae predict three"),
    "predict: no such model": (("predict", "./none", *PREDICT[2:]), "found no folder ./none"),
    "predict: JSON of a line in the way": ((*PREDICT, "--json", "folder"), "folder is a folder"),
    # -- prune
    "prune: nothing": (("prune",), "a STUDY, or --lm MODEL with --prompts", "no STUDY and no --prompts and no --out"),
    "prune: no such ranking": (("prune", *TWO, "--ranking", "luck", *OUT), "rankings", "'luck'"),
    "prune: tags without a study": (("prune", *TWO, "--ranking", "unknown", *OUT), "a STUDY for the ranking unknown"),
    "prune: no doses": (("prune", *TWO, "--doses", "few", *OUT), "whole numbers such as 1,4,16", "'few'"),
    "prune: prompts of one file": (("prune", *PROMPTS, *OUT), "prompts of two files or more", "found one"),
    "prune: a name like a file": (("prune", *TWO, "--out", "made.parquet"), "folder for the tables", "suffix"),
    "prune: another stage's folder": (("prune", *TWO, "--out", "old"), "stage was 'encode', now 'prune'"),
    "prune: a model of no size": (("prune", *TWO, *OUT, "--save", "model"), "--save FOLDER with --remove N"),
    "prune: a ranking for nothing": (("prune", *TWO, *OUT, "--by", "flow"), "expected --save with --by and --even"),
    "prune: a model over something else": (
        ("prune", *TWO, *OUT, "--save", "old", "--remove", "3", "--overwrite"),
        "old exists and is no model that apmae pruned",
    ),
    "prune: a model over tables": (("prune", *TWO, "--out", "t", "--save", "t", "--remove", "3"), "other than that of"),
    # -- ablate
    "ablate: nothing": (("ablate",), "a STUDY, or --lm MODEL with --prompts", "no STUDY and no --prompts and no --out"),
    "ablate: no folder": (("ablate", *PROMPTS), "no STUDY and no --out"),
    "ablate: no study": (("ablate", "folder"), "a finished encode artifact at folder/embeddings", "encode first"),
    "ablate: a study whose model nobody knows": (("ablate", "told"), "told/study.json", "with --lm, and an --out"),
    "ablate: another model in a study": (("ablate", "told", "--lm", "bundled"), "expected --out with --lm and a STUDY"),
    "ablate: a study without its prompts": (
        ("ablate", "three", "--lm", "bundled", *OUT),
        "the prompts of three at three/prompts.parquet",
        "(--prompts)",
    ),
    "ablate: prompts of another study": (
        ("ablate", "three", "--lm", "bundled", *PROMPTS, *OUT),
        "the prompts that three was made from",
    ),
    "ablate: prompts of one file": (("ablate", *PROMPTS, *OUT), "prompts of two files or more", "found one"),
    "ablate: prompts with a mistake": (("ablate", "--prompts", "bad.jsonl", *OUT), "bad.jsonl: line 2"),
    "ablate: no such model": (("ablate", *TWO, "--lm", "./none", *OUT), "found no folder ./none"),
    "ablate: an encoder without a head": (("ablate", *TWO, "--lm", "./headless", *OUT), "says which tokens are"),
    "ablate: more tokens than positions": (("ablate", *TWO, "--set", "context=100000", *OUT), "positions"),
    "ablate: no head": (("ablate", *TWO, "--heads", "first", *OUT), "LAYER.HEAD like 3.5", "got 'first'"),
    "ablate: a layer too many": (("ablate", *TWO, "--heads", "0.1,99.0", *OUT), "layers 0-5", "got '99.0'"),
    "ablate: no doses": (("ablate", *TWO, "--doses", "few", *OUT), "whole numbers such as 1,4,16, or 'none'", "'few'"),
    "ablate: a dose of nothing": (("ablate", *TWO, "--doses", "0", *OUT), "doses from 1", "got 0"),
    "ablate: no such mode": (("ablate", *TWO, "--mode", "noise", *OUT), "modes", "'noise'"),
    "ablate: a file in the way": (("ablate", *TWO, "--out", "A.java"), "A.java is a file"),
    "ablate: a name like a file": (("ablate", *TWO, "--out", "made.parquet"), "folder for the tables", "suffix"),
    "ablate: another stage's folder": (("ablate", *TWO, "--out", "old"), "stage was 'encode', now 'ablate'"),
    "ablate: JSON in the way": (("ablate", *TWO, *OUT, "--json", "folder"), "folder is a folder"),
    # -- run and demo
    "run: no such file": (("run", "none.yaml"), "none.yaml: No such file", "check the path"),
    "run: no YAML": (("run", "bad.yaml"), "expected YAML in bad.yaml"),
    "run: not a study": (("run", "list.yaml"), "list.yaml, got list"),
    "run: unknown fields": (("run", "colour.yaml"), "colour", "'red'", "prompts.per_task", "got 0"),
    "run: no such recipe": (("run", "huge.yaml"), "nano", "'huge'"),
    "run: no such source": (("run", "sourceless.yaml"), "found nothing there"),
    "run: a language without files": (("run", "rusty.yaml"), "expected .rs files"),
    "run: no such model": (("run", "modelless.yaml"), "found no folder ./none"),
    "run: no such encoder": (("run", "encoderless.yaml"), "AP-MAE's folder"),
    "run: an encoder that has no atlas after it": (
        ("run", "changed.yaml"),
        "study/embeddings",
        "config.seed was 0, now 7",
    ),
    "run: no cuML": (("run", "gpu.yaml"), "cuML", "pip install 'apmae[gpu]'"),
    "run: a file in the way": (("run", "in-the-way.yaml"), "A.java is a file"),
    "demo: a file in the way": (("demo", "--out", "A.java"), "A.java is a file"),
    "demo: other settings": (("demo", "--seed", "7", "--out", "study"), "study/embeddings", "config.seed was 0, now 7"),
    # -- what a model's files say
    "tag: no such sentinels": ((*TAG, "--infill", "qwen"), "<|fim_prefix|>", "<fim_prefix>{prefix}"),
    "show: no such sentinels": (("show", "bundled", "--prompt", "a", "--infill", "codestral"), "[SUFFIX]", "starcoder"),
    "encode: no such sentinels": (("encode", *PROMPTS, "--infill", "<a>{prefix}<b>{suffix}", *OUT), "<a>", "starcoder"),
    "tag: no such attention": ((*TAG, "--attention", "eagr"), "eager, sdpa, flex_attention", "'eagr'"),
    "encode: no such attention": (
        ("encode", *PROMPTS, "--attention", "paged|a", *OUT),
        "flash_attention_2",
        "'paged|a'",
    ),
    "show: no such layer": (("show", "bundled", "--prompt", "a", "--head", "6.1"), "layers 0-5 and heads 0-7", "'6.1'"),
    "show: no such head anywhere": (("show", "bundled", "--prompt", "a", "--head", "5.8"), "heads 0-7", "'5.8'"),
    "show: no such layer of the part that reads text": (
        ("show", "./nested", "--prompt", "a", "--head", "2.0"),
        "layers 0-1 and heads 0-3",
    ),
    "prompts: more tokens than positions": (
        ("prompts", "bundled", "--lm", "bundled", "--set", "length=100000", "--out", "p.parquet"),
        "a window of at most the model's 512 positions, got 100000",
    ),
    "prompts: a circuit with more tokens than positions": (
        ("prompts", "circuit:ioi", "--lm", "bundled", "--set", "length=100000", "--out", "p.parquet"),
        "a window of at most the model's 512 positions, got 100000",
    ),
    "encode: more tokens than positions": (
        ("encode", *PROMPTS, "--set", "context=100000", *OUT),
        "a context of at most 512, the positions of the language model, got 100000",
    ),
    "encode: patterns larger than the positions": (
        ("encode", *PROMPTS, "--lm", "./nested", *OUT),
        "an encoder with a pattern_size of at most 16",
    ),
    "train: more tokens than positions": ((*TRAIN, "--set", "context=100000"), "a context of at most 512"),
    "evaluate: more tokens than positions": (
        ("evaluate", *PROMPTS, "--set", "context=100000", *OUT),
        "a context of at most 512",
    ),
    "run: more tokens than positions": (("run", "wide.yaml"), "a context of at most 512"),
    "tag: no tokenizer": (("tag", "./wordless", "A.java", "--line", "3"), "a fast tokenizer", "wordless", "found none"),
    "prompts: no tokenizer": (
        ("prompts", "bundled", "--lm", "./wordless", "--out", "p.parquet"),
        "a fast tokenizer",
        "wordless",
    ),
    "train: no tokenizer": ((*TRAIN, "--lm", "./wordless"), "a fast tokenizer", "wordless"),
    "encode: no tokenizer": (("encode", *PROMPTS, "--lm", "./wordless", *OUT), "a fast tokenizer", "wordless"),
    "tag: a model cut short": (("tag", "./cut", "A.java", "--line", "3"), "whole weights in cut/model", "again"),
    "show: a shard cut short": (("show", "./shards", "--prompt", "a"), "whole weights in shards/model-2.safe"),
    "show: a shard too few": (("show", "./fewer", "--prompt", "a"), "whole weights in fewer/model-2.safe"),
    # -- recipes
    "recipes: no such recipe": (("recipes", "huge"), "nano", "'huge'"),
    # -- push
    "push: no such folder": (("push", "none", "a/b"), "found no folder none"),
    "push: no encoder": (("push", "folder", "a/b"), "AP-MAE in folder", "config.json"),
    "push: another stage's folder": (("push", "old", "a/b"), "expected stage 'train'"),
    "push: no name": (("push", bundled.encoder(), "a/b/c"), "a/b/c", "check the name"),
    "push: no token": (("push", bundled.encoder(), "a/b"), "hf auth login", "HF_TOKEN"),
    "push: no license": (
        ("push", bundled.encoder(), "a/b", "--license", "Mine!", "--dry-run"),
        "apache-2.0",
        "'Mine!'",
    ),
}
"""What is wrong -> the command, and what its one line says."""


MODELS = ("nested", "wordless", "headless", "cut", "shards", "fewer")


def artifact(out, stage, config, **counts):
    with Stage.open(out, stage, config.model_dump(mode="json"), {}) as opened:
        opened.finish({"layers": 1, "heads": 1, **counts})


def prompts(outcomes, files):
    """As many prompts of one task."""
    rows = [
        {"prompt": number, "id": str(number), "task": "eol", "path": f"f{number % files}", "split": "all"}
        | {"tokens": [str(number)], "expected": "a", "predicted": "a", "outcome": outcome}
        for number, outcome in enumerate(outcomes)
    ]
    return {"prompts-00000.parquet": pa.Table.from_pylist(rows, schema=ENCODED_PROMPTS)}


def asked(out, outcomes):
    """Answers to as many prompts, of which no head was read."""
    with Stage.open(out, "answers", AnswersConfig().model_dump(mode="json"), {}) as opened:
        opened.write_tables(prompts(outcomes, 3))
        opened.finish({"drawn": "any", "natural_rate": None})


def answered(out, outcomes, files, **made_from):
    """A study of as many prompts of one task, whose embeddings and atlas have what is checked and no more."""
    with Stage.open(out / "embeddings", "encode", EncodeConfig().model_dump(mode="json"), made_from) as opened:
        opened.write_tables(prompts(outcomes, files))
        opened.finish({"layers": 1, "heads": 1, "heads_by_layer": [1], "lm": "none"})
    inputs = {"encode": fingerprint(out / "embeddings")}
    with Stage.open(out / "atlas", "cluster", AtlasConfig().model_dump(mode="json"), inputs) as opened:
        opened.write_files({"atlas.json": b"{}"})
        opened.finish()


@pytest.fixture(scope="module")
def results(tmp_path_factory, environment):
    """What every command of the table printed, its exit code, and the modules that it had loaded by then."""
    home = tmp_path_factory.mktemp("mistakes")
    (home / "A.java").write_text("class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n")
    (home / "notes.xyz").write_text("a\nb\n")
    (home / "latin.java").write_bytes("class É { int x = 1; }\n".encode("latin-1"))
    (home / "good.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    pair = {"prompt": "int a = b + ", "completion": "c", "counterfactual": "int a = d + ", "wrong": ["e"]}
    (home / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (home / "two.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    (home / "mine.parquet").write_bytes(b"mine")
    (home / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "int x = "}\n')
    for folder in (
        "folder",
        "way.png",
        "way.parquet",
        "block.parquet",
        "broken",
        "listed",
        "hollow",
        "weightless",
        "short",
        "newer",
    ):
        (home / folder).mkdir()
    (home / "broken" / "config.json").write_text("{")
    (home / "listed" / "config.json").write_text("[]")
    (home / "hollow" / "config.json").write_text('{"model_type": "llama"}')
    encoder = bundled.encoder()
    settings = json.loads((encoder / "config.json").read_text())
    for folder in ("weightless", "short"):
        (home / folder / "config.json").write_text(json.dumps(settings))
    (home / "short" / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes()[:100_000])
    for folder in MODELS:
        (home / folder).mkdir()
        for file in bundled.LANGUAGE_MODELS["bundled-small"].iterdir():
            if file.name != "model.safetensors":
                shutil.copy(file, home / folder)
    weights = (bundled.LANGUAGE_MODELS["bundled-small"] / "model.safetensors").read_bytes()
    (home / "cut" / "model.safetensors").write_bytes(weights[:-1])
    for folder in ("nested", "wordless", "headless"):
        (home / folder / "model.safetensors").write_bytes(weights)
    for folder in ("shards", "fewer"):
        (home / folder / "model-1.safetensors").write_bytes(weights)
        shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (home / folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    (home / "shards" / "model-2.safetensors").write_bytes(weights[:100_000])
    text = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    (home / "nested" / "config.json").write_text(json.dumps({"num_hidden_layers": 9, "text_config": text}))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (home / "wordless" / file).unlink()
    (home / "newer" / "config.json").write_text(json.dumps({**settings, "format": 99}))
    (home / "mapless").mkdir()
    (home / "mapless" / "atlas.json").write_text("{}")
    studies = {
        "bad": "prompts: [\n",
        "list": "- a\n",
        "colour": "colour: red\nprompts: {per_task: 0}\n",
        "huge": "encoder: train\ntrain: {recipe: huge}\ntrain_prompts: {}\n",
        "sourceless": "sources: [none]\n",
        "rusty": "prompts: {language: rust}\n",
        "modelless": "lm: ./none\n",
        "encoderless": "encoder: ./none\n",
        "changed": "out: study\nencode: {seed: 7}\n",
        "in-the-way": "out: A.java\n",
        "gpu": "out: gpu\natlas: {device: cuda}\n",
        "wide": "out: wide\nencode: {context: 100000}\n",
    }
    for name, text in studies.items():
        (home / f"{name}.yaml").write_text(text)
    artifact(home / "old.parquet", "prompts", PromptsConfig())
    artifact(home / "old-encoder", "train", TrainConfig())
    artifact(home / "old", "encode", EncodeConfig())
    artifact(home / "narrow", "encode", EncodeConfig(), dim=6)
    artifact(home / "figure.parquet", "dimensions", DimensionsConfig())
    artifact(home / "old-atlas", "cluster", AtlasConfig())
    artifact(home / "old-tags", "tag", TagsConfig())
    artifact(home / "old-answers", "answers", AnswersConfig())
    artifact(home / "old-circuit", "circuit", PatchingConfig())
    bert = {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 512}
    (home / "headless" / "config.json").write_text(json.dumps(bert))
    answered(home / "unread", ["correct", "incorrect", "correct"], 3)
    (home / "unread" / "answers").mkdir()
    answered(home / "mixed", ["correct", "incorrect", "correct"], 3)
    asked(home / "mixed" / "answers", ["correct", "incorrect"])
    asked(home / "mute", [None] * 3)
    artifact(home / "study" / "embeddings", "encode", EncodeConfig())
    answered(home / "silent", [None] * 3, 3)
    answered(home / "right", ["correct"] * 3, 3)
    answered(home / "one", ["correct", "incorrect", "correct"], 1)
    answered(home / "three", ["correct", "incorrect", "correct"], 3)
    (home / "told").mkdir()
    write_table(home / "told" / "prompts.parquet", to_table(read_prompts(home / "good.jsonl")))
    answered(home / "told", ["correct"], 1, lm="0" * 64, prompts=fingerprint(home / "told" / "prompts.parquet"))
    before = sorted(home.rglob("*"))
    commands = {case: list(map(str, arguments)) for case, (arguments, *_) in CASES.items()}
    variables = {name: value for name, value in environment.items() if name not in ("HF_TOKEN", "WORLD_SIZE")}
    script = f"HEAVY = {HEAVY}\n{RUN}"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=home,
        env={**variables, "HF_HOME": str(tmp_path_factory.mktemp("hub"))},
    )
    assert run.returncode == 0, run.stderr
    assert sorted(home.rglob("*")) == before, "nothing was made"
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_reported_in_one_line_before_anything_heavy_is_imported(results, case):
    *lines, loaded = results[case]["printed"]
    assert loaded == "loaded:", lines
    assert results[case]["code"] == 2
    assert len(lines) == 1 and lines[0].startswith("apmae: "), lines
    assert [part for part in CASES[case][1:] if part not in lines[0]] == [], lines[0]


def test_every_command_is_in_the_table():
    from apmae.cli import app

    commands = {command.callback.__name__ for command in app.registered_commands}
    assert {case.split(":")[0] for case in CASES} == commands
