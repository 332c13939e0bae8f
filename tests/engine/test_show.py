"""Heads of real models, from prompt to picture."""

import json
import re
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import apmae
from apmae.atlas.kinds import measured_names
from apmae.engine.show import SIDE, parse_heads, sheet_of
from apmae.engine.sources import prompt_text
from apmae.errors import CaptureError, ConfigError, ModelError, SourceError
from apmae.lm.load import load_lm

PROMPT = "int total = 0;\nfor (int i = 0; i < n; i++) {\n    total += i;\n}\n"
WORDS = ("the", "cat", "sat", "on", "mat", "and", "saw", "dog")


def read_page(path):
    """Square patterns by (layer, head), and the labels, as in the page."""
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', path.read_text(), re.S)[1])
    count, found = len(data["labels"]), {}
    for entry in data["heads"]:
        codes = np.frombuffer(b64decode(entry["codes"]), "<u2").astype(float)
        square = np.zeros((count, count))
        inside = np.tri(count, dtype=bool) if data["causal"] else np.ones_like(square, dtype=bool)
        square[inside] = np.where(codes > 0, 10 ** (data["lowest"] * (65535 - codes) / 65534), 0)
        found[entry["layer"], entry["head"]] = square
    return found, data


def eager(lm, ids):
    """float64 (layer, head, query_pos, key_pos): the model's own eager attention."""
    before = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = lm.model(input_ids=torch.tensor([ids]), output_attentions=True)
    finally:
        lm.model.set_attn_implementation(before)
    return torch.stack(output.attentions)[:, 0].double().numpy()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with a tokenizer of words, saved and loaded."""
    folder = tmp_path_factory.mktemp("encoder")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    special = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = BertForMaskedLM(config)
    for name, weight in model.named_parameters():
        if "query" in name or "key" in name:
            weight.data *= 12  # so that heads differ
    model.save_pretrained(folder)
    return load_lm(folder)


def test_the_page_holds_the_models_own_attention(bundled_lm, tmp_path):
    shown = apmae.show(bundled_lm, PROMPT, tmp_path / "a.html")
    ids = bundled_lm.tokenizer(PROMPT).input_ids
    assert shown.summary == f"48 heads on {len(ids)} tokens in {tmp_path / 'a.html'}"
    found, data = read_page(shown.path)
    wanted = eager(bundled_lm, ids)
    assert sorted(found) == [(layer, head) for layer in range(6) for head in range(8)]
    for (layer, head), square in found.items():
        np.testing.assert_allclose(square, wanted[layer, head], rtol=5e-4, atol=2e-5)
    assert data["tokens"] == [bundled_lm.tokenizer.decode([i]).replace("\n", "\u21b5\n") for i in ids]


def test_names_are_those_that_tag_measures(bundled_lm, tmp_path):
    shown = apmae.show(bundled_lm, PROMPT, tmp_path / "a.html")
    tags = apmae.tag(bundled_lm, PROMPT).to_pylist()
    names = [re.sub(r" at \d+ \S+", "", entry.name) for entry in shown.sheet.heads]
    assert names == [row["measured"] for row in tags]


def test_a_later_sink_is_shown_with_its_place():
    """Heads whose queries attend to the line break, the fourth token, from there on, and to themselves before."""
    size = 40
    dense = np.zeros((2, size, size))
    dense[0, np.arange(size), np.where(np.arange(size) < 3, np.arange(size), 3)] = 1
    dense[1, :, 0] = 1
    tokens = {0: ["a", "b", ";", "\n", *["c"] * (size - 4)]}
    patterns = apmae.Patterns.from_probabilities(dense, prompt=[0, 0], head=[0, 1], tokens=tokens)
    names = [entry.name for entry in sheet_of(patterns, model="m").heads]
    assert names == ["later sink on newlines at 3 \u21b5", "first-token sink"]


def test_chosen_heads_come_once_and_in_order(bundled_lm, tmp_path):
    shown = apmae.show(bundled_lm, PROMPT, tmp_path / "a.png", heads=[(3, 5), (0, 1), (3, 5)])
    assert [entry[:2] for entry in shown.sheet.heads] == [(3, 5), (0, 1)]
    image = imread(shown.path)
    assert image.shape[1] > 1.4 * image.shape[0] > 700
    assert len(np.unique((image.reshape(-1, image.shape[2])[::7] * 255).astype(np.uint8), axis=0)) > 50


def test_a_suffix_comes_after_a_hole(bundled_lm, tmp_path):
    shown = apmae.show(bundled_lm, "int x = ", tmp_path / "a.png", suffix=";\n", heads=[(0, 0)])
    assert shown.sheet.tokens[0] == "<fim_prefix>"
    assert shown.sheet.tokens[-1] == "<fim_middle>"
    text = "".join(shown.sheet.tokens)
    assert text == "<fim_prefix>int x = <fim_suffix>;\n<fim_middle>"


@pytest.mark.parametrize("long", ["pool", "crop"])
def test_long_prompts_are_pooled_or_cropped(bundled_lm, tmp_path, long):
    text = "int a = 1;\n" * 70
    ids = bundled_lm.tokenizer(text).input_ids
    assert SIDE < len(ids) <= 512
    shown = apmae.show(bundled_lm, text, tmp_path / "a.html", heads=[(1, 1), (2, 6)], long=long)
    found, data = read_page(shown.path)
    wanted = eager(bundled_lm, ids)
    edges = np.arange(SIDE + 1) * len(ids) // SIDE
    for (layer, head), square in found.items():
        assert square.shape == (SIDE, SIDE)
        whole = wanted[layer, head]
        if long == "crop":
            own = whole[-SIDE:, -SIDE:]
            oracle = own / own.sum(1, keepdims=True)
        else:
            oracle = np.array(
                [
                    [whole[a:b, c:d].sum(1).mean() for c, d in zip(edges, edges[1:], strict=False)]
                    for a, b in zip(edges, edges[1:], strict=False)
                ]
            )
        np.testing.assert_allclose(square, oracle, rtol=1e-3, atol=2e-5)
    rows = f"pooled to {SIDE} blocks" if long == "pool" else f"the last {SIDE} shown"
    assert f"2 heads on {len(ids)} tokens, {rows} in " in shown.summary
    assert len(data["tokens"]) == SIDE


def test_more_tokens_than_the_model_was_made_for_are_cut_around_a_hole_and_otherwise_mentioned(bundled_lm, tmp_path):
    text = "int a = 1;\n" * 200
    shown = apmae.show(bundled_lm, text, tmp_path / "a.png", suffix=text, heads=[(0, 0)])
    assert shown.sheet.length == bundled_lm.max_length == 512
    assert "beyond" not in shown.summary
    shown = apmae.show(bundled_lm, text, tmp_path / "a.png", heads=[(0, 0)])
    assert shown.sheet.length == len(bundled_lm.tokenizer(text).input_ids) > 512
    assert shown.summary.endswith("; more than the 512 tokens that the model was made for")


@pytest.mark.parametrize("ending", ["html", "png"])
def test_an_encoder_shows_whole_squares(encoder, tmp_path, ending):
    prompt = "the cat sat on the mat and saw the dog"
    shown = apmae.show(encoder, prompt, tmp_path / f"a.{ending}")
    assert shown.sheet.tokens == ("[CLS]", *prompt.split(), "[SEP]")
    assert not shown.sheet.causal
    wanted = eager(encoder, encoder.tokenizer(prompt).input_ids)
    for entry in shown.sheet.heads:
        np.testing.assert_allclose(entry.probabilities, wanted[entry.layer, entry.head], atol=1e-5)
        assert np.triu(entry.probabilities, 1).max() > 0.05
    if ending == "html":
        found, _ = read_page(shown.path)
        for (layer, head), square in found.items():
            np.testing.assert_allclose(square, wanted[layer, head], rtol=5e-4, atol=2e-5)


def test_an_encoder_sees_a_mask_before_a_suffix(encoder, tmp_path):
    shown = apmae.show(encoder, "the cat sat on the", tmp_path / "a.html", suffix="and saw the dog")
    assert shown.sheet.tokens == (
        "[CLS]",
        *["the", "cat", "sat", "on", "the"],
        "[MASK]",
        *["and", "saw", "the", "dog"],
        "[SEP]",
    )


def test_heads_of_an_encoder_have_the_names_of_their_scores(encoder, tmp_path):
    """A row of the picture attends to both sides: what is measured is the mass on one key, wherever it is."""
    prompt = "the cat sat on the mat and saw the dog"
    shown = apmae.show(encoder, prompt, tmp_path / "a.html")
    ids = encoder.tokenizer(prompt).input_ids
    patterns = apmae.Patterns.from_probabilities(
        np.stack([entry.probabilities for entry in shown.sheet.heads]), prompt=[0] * 8, causal=False
    )
    scores = apmae.score(patterns, [ids], [shown.sheet.tokens])
    names = measured_names(scores.values, scores.key_kinds)
    assert [entry.name.split(" at ")[0].split(" + ")[0] for entry in shown.sheet.heads] == [
        name.split(" + ")[0] for name in names
    ]


def test_patterns_captured_elsewhere_are_drawn_by_their_positions():
    rows = np.tril(np.ones((2, 3, 3))) / np.arange(1, 4)[:, None]
    patterns = apmae.Patterns.from_probabilities(rows, prompt=[4, 4], layer=[0, 1], head=[7, 2])
    sheet = sheet_of(patterns, model="elsewhere", prompt=4)
    assert sheet.tokens == ("0", "1", "2")
    assert [entry[:2] for entry in sheet.heads] == [(0, 7), (1, 2)]
    np.testing.assert_allclose(sheet.heads[1].probabilities, rows[1], atol=1e-6)


def test_what_cannot_be_shown_is_refused(bundled_lm, encoder, tmp_path):
    with pytest.raises(SourceError, match="at least one token"):
        apmae.show(bundled_lm, "", tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"\.png or \.html, got .*a\.svg"):
        apmae.show(bundled_lm, "a", tmp_path / "a.svg")
    unmasked = replace(encoder, tokenizer=PreTrainedTokenizerFast.from_pretrained(encoder.source, mask_token=None))
    with pytest.raises(ModelError, match="a tokenizer with a mask token for BertForMaskedLM"):
        apmae.show(unmasked, "the cat", tmp_path / "a.png", suffix="sat")
    blind = replace(bundled_lm, sentinels=None)
    with pytest.raises(ConfigError, match="fill-in-the-middle tokens for a suffix"):
        apmae.show(blind, "a", tmp_path / "a.png", suffix="b")
    with pytest.raises(CaptureError, match="at most"):
        apmae.show(encoder, "cat " * 99, tmp_path / "a.png")
    with pytest.raises(CaptureError):
        apmae.show(bundled_lm, "a", tmp_path / "a.png", heads=[(9, 9)])
    assert not list(tmp_path.iterdir())


def test_heads_are_read_strictly(bundled_lm):
    assert parse_heads(["0.0", "5.7", "03.5"], bundled_lm) == [(0, 0), (5, 7), (3, 5)]
    for text in ("6.0", "0.8"):
        with pytest.raises(ConfigError, match=r"LAYER\.HEAD like 3\.5 with layers 0-5 and heads 0-7, got"):
            parse_heads([text], bundled_lm)
    for text in ("3", "3.", ".5", "-1.0", "3.5.1", "3,5", " 3.5", "\u0663.5", "9" * 99 + ".0"):
        with pytest.raises(ConfigError, match=r"LAYER\.HEAD like 3\.5, both from 0, got"):
            parse_heads([text], bundled_lm)


def test_the_text_is_given_or_read_from_a_file(tmp_path):
    file = tmp_path / "a.java"
    file.write_bytes(b"int a;\r\n  int b;\n")
    assert prompt_text("x", None, None, None) == ("x", None)
    assert prompt_text("", None, None, "y") == ("", "y")
    assert prompt_text(None, file, None, None) == ("int a;\r\n  int b;\n", None)
    assert prompt_text(None, file, 2, None) == ("int a;\r\n  ", "\n")
    for wrong in (("x", file, None, None), (None, None, None, None), ("x", None, 1, None), (None, file, 1, "y")):
        with pytest.raises(ConfigError):
            prompt_text(*wrong)
