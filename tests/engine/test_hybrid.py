"""Models whose layers differ, in all stages: a hybrid that attends in two of four layers, and a model whose layers have
four heads and two in turn."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from matplotlib.image import imread

import apmae
from apmae.artifacts import read_manifest, read_table
from apmae.atlas.atlas import Atlas
from apmae.config import AtlasConfig, CaptureConfig, EncodeConfig
from apmae.engine import local
from apmae.engine.show import parse_heads
from apmae.engine.tag import tag
from apmae.errors import CaptureError, ConfigError
from apmae.model.mae import APMAE
from apmae.prompts.line import text_prompt
from apmae.report.page import report_of
from apmae.report.pictures import pictures_of
from apmae.report.tables import heads_table
from apmae.report.terminal import print_study, print_tags
from apmae.study.reader import Study
from apmae.train.lm_source import LMSource

COUNTS = {"hybrid": {1: 4, 3: 4}, "ragged": {0: 4, 1: 2, 2: 4, 3: 2}}
GREY = (0x8F, 0x8F, 0x8F)


@pytest.fixture(scope="module", params=["hybrid", pytest.param("ragged", marks=pytest.mark.slow)])
def lm(request, bundled_lm):
    """A small random model with the bundled tokenizer."""
    shape = {
        "vocab_size": len(bundled_lm.tokenizer),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "max_position_embeddings": 512,
    } | {name: 0 for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if request.param == "hybrid":
        linear = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
        linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        config = hf.Qwen3NextConfig(**shape, **linear, layer_types=["linear_attention", "full_attention"] * 2)
    else:
        config = hf.LagunaConfig(**shape, num_attention_heads_per_layer=[4, 2, 4, 2])
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    return replace(bundled_lm, model=model)


@pytest.fixture
def counts(lm):
    return COUNTS["hybrid" if len(lm.heads) == 2 else "ragged"]


@pytest.fixture
def places(counts):
    return [(layer, head) for layer, heads in counts.items() for head in range(heads)]


@pytest.fixture(scope="module")
def study(lm, tmp_path_factory):
    """Its embeddings of a few prompts, and an atlas over them."""
    folder = tmp_path_factory.mktemp("study")
    rows = [{"prompt": f"class A{i} {{ int x = ", "completion": str(i), "suffix": ";\n}\n"} for i in range(6)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    local.encode(lm, "bundled", folder / "mine.jsonl", folder / "embeddings", EncodeConfig())
    local.fit_atlas(folder / "embeddings", folder / "atlas", AtlasConfig(min_cluster_size=5))
    return Study(folder)


def test_the_model_says_what_it_has(lm, counts):
    assert lm.heads == counts
    assert (lm.num_layers, lm.num_heads) == (4, 4)
    assert lm.heads_by_layer == tuple(counts.get(layer, 0) for layer in range(4))


def test_in_every_table_every_prompt_has_the_existing_heads(study, places):
    for table in (
        study.points,
        *(read_table(study.embeddings_folder / name) for name in study.encoded.shards("embeddings")),
    ):
        rows = zip(*(table[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True)
        assert sorted(rows) == [(prompt, *place) for prompt in range(6) for place in places]
    assert [row[:2] for row in heads_table(study).rows] == places


def test_the_manifests_say_how_many_heads_each_layer_has(lm, study):
    for stage, folder in (("encode", study.embeddings_folder), ("cluster", study.atlas_folder)):
        assert read_manifest(folder, stage).counts["heads_by_layer"] == list(lm.heads_by_layer)
    assert study.heads_by_layer == lm.heads_by_layer


def test_pictures_are_grey_and_not_zero_where_there_is_no_head(lm, study):
    (maps,) = (picture.figure for picture in pictures_of(study) if picture.name == "head_maps")
    existing = np.arange(4) < np.array(lm.heads_by_layer)[:, None]
    clusters, share, distinct = maps.axes[:3]
    drawn = (clusters.images[0].get_array() * 255).round()
    assert np.array_equal((drawn == GREY).all(-1), ~existing)
    for axis in (share, distinct):
        values, cover = axis.images[0].get_array(), axis.images[1].get_array()
        assert np.array_equal(np.ma.getmaskarray(np.ma.masked_invalid(values)), ~existing)
        assert np.array_equal(cover[..., 3] == 1, ~existing)
        assert ((cover[~existing][:, :3] * 255).round() == GREY).all()
        assert len(axis.texts) == 16
        assert [text.get_text() != "" for text in axis.texts] == existing.ravel().tolist()


def test_the_report_and_the_terminal_name_layers_without_attention(lm, study, capsys):
    print_study(study, study.folder)
    output = capsys.readouterr().out
    hybrid = 0 in lm.heads_by_layer
    opening = "8 heads in 2 of 4 layers" if hybrid else "12 heads in 4 layers"
    assert opening in " ".join(output.split())
    assert len(re.findall(r"^ +[02] +no attention$", output, re.M)) == 2 * hybrid
    page = report_of(study).files["index.html"].decode()
    assert opening in page
    assert "Dark grey: there is no such head." in page
    assert page.count('title="layer 0 has no attention"') == 4 * hybrid
    assert page.count('title="layer 1 has 2 heads"') == 2 * (not hybrid)


def test_tags_are_of_the_existing_heads(lm, places, capsys):
    tags = tag(lm, "int x = ", suffix=";\n", mae=APMAE.from_pretrained(), atlas=Atlas.load())
    rows = tags.to_pylist()
    assert [(row["layer"], row["head"]) for row in rows] == places
    print_tags(rows, lm.heads_by_layer, predicted="1", expected="1", outcome="correct")
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "cluster of each head" in line)
    for layer, heads in enumerate(lm.heads_by_layer):
        cells = lines[start + 2 + layer].split()
        assert cells == [str(layer), "no", "attention"] if not heads else len(cells) == 1 + heads


def test_a_contact_sheet_is_grey_where_there_is_no_head(lm, places, tmp_path):
    shown = apmae.show(lm, "int total = 0;\nint x = 1;\n", tmp_path / "a.png")
    assert shown.heads == len(places)
    picture = (imread(tmp_path / "a.png")[..., :3] * 255).round()
    grey = (picture == GREY).all(-1).mean(1) > 0.2
    bands = int((np.diff(grey.astype(int)) == 1).sum())
    assert bands == 2  # layers 0 and 2 of the hybrid, the missing heads of layers 1 and 3 of the other
    apmae.show(lm, "int x = 1;\n", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count('class="absent">no attention') == 2 * (0 in lm.heads_by_layer)
    assert page.count('class="absent" title="no such head"') == 4 * (0 not in lm.heads_by_layer)
    apmae.show(lm, "int x = 1;\n", tmp_path / "b.html", heads=[(1, 0), (3, 1)])
    assert "absent" not in re.sub(r"<style>.*?</style>", "", (tmp_path / "b.html").read_text(), flags=re.S)


def test_heads_that_do_not_exist_are_refused(lm, tmp_path):
    message = (
        "layers 1, 3 and heads 0-3"
        if 0 in lm.heads_by_layer
        else "layers 0, 2 and heads 0-3, layers 1, 3 and heads 0-1"
    )
    text, place = ("0.0", (0, 0)) if 0 in lm.heads_by_layer else ("1.2", (1, 2))
    with pytest.raises(ConfigError, match=f"{message}, got '{text}'"):
        parse_heads([text], lm)
    assert parse_heads(["3.1"], lm) == [(3, 1)]
    with pytest.raises(CaptureError, match=message):
        apmae.show(lm, "int x", tmp_path / "a.png", heads=[place])


def test_training_counts_the_patterns_of_existing_heads(lm, counts):
    prompts = [text_prompt(f"int x{i} = ", "1", ";\n") for i in range(8)]
    for share in ("all", 0.5):
        config = CaptureConfig(heads=share, batch=2)
        of_a_prompt = sum(counts.values()) if share == "all" else sum(heads // 2 for heads in counts.values())
        source = LMSource(
            lm, prompts, config, size=32, batch_size=of_a_prompt, seed=0, buffer=4 * of_a_prompt, outcome="any"
        )
        assert source._most == 2 * of_a_prompt
        assert len(source.batch(0)) == of_a_prompt
