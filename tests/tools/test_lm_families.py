"""The families that tools/train_lm.py trains: a few steps of each, loaded as the package loads any model."""

import dataclasses

import numpy as np
import pytest
import torch
from lm_families import END, FAMILIES, TINY, build_model
from lm_optimizers import build_optimizers
from lm_rows import CONTEXT, Texts, draw_rows, plain_row, train_tokenizer
from tokenizers import Tokenizer
from train_lm import evaluate, save_model, train_step
from transformers import AutoTokenizer

import apmae
from apmae import bundled
from apmae.seeding import generator

OTHERS = [name for name in FAMILIES if name != "starcoder2"]
CODE = ["".join(f"x{number} = {line} + f(y)\n" for line in range(100)) for number in range(10)]


def shrunk(family):
    """Settings of a family: the same shape of attention, narrower."""
    return dataclasses.replace(TINY, family=family, context=128, layers=2, hidden=48, feed_forward=48, vocab_size=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model of every other family after a few steps, and what was measured before and after them."""
    folder, measured = tmp_path_factory.mktemp("families"), {}
    for family in OTHERS:
        settings = shrunk(family)
        model, tokenizer, part = build_model(settings), train_tokenizer(CODE, settings), settings.parts[0]
        rows = draw_rows(Texts(CODE, tokenizer), part, 128, FAMILIES[family].opened, 4, generator(0, family))
        optimizers = build_optimizers(model, part)
        before = evaluate(model, settings, *rows)
        for _ in range(4):
            train_step(model, optimizers, part, *rows, done=0.0)
        measured[family] = before, evaluate(model, settings, *rows)
        save_model(model, tokenizer, settings, folder / family, "float32")
    return folder, measured


@pytest.fixture(params=OTHERS)
def family(request):
    return request.param


def test_every_family_learns_plain_text(trained, family):
    before, after = trained[1][family]
    assert before["loss"].keys() == {"all", "plain"}
    assert after["loss"]["all"] < before["loss"]["all"] - 0.1


def test_every_family_is_captured_and_has_no_infill(trained, family):
    lm = apmae.load_lm(str(trained[0] / family))  # compares captured with eager patterns
    assert (lm.num_layers, lm.num_heads, lm.sentinels) == (2, 6, None)


def test_only_llama_opens_every_text(trained, family):
    ids = AutoTokenizer.from_pretrained(trained[0] / family)("x = 1").input_ids
    assert ids.count(END) == (family == "llama")


def test_learned_positions_end_with_the_context(trained):
    model = apmae.load_lm(str(trained[0] / "opt")).model
    assert model.get_parameter("model.decoder.embed_positions.weight").shape == (130, 48)  # the family adds two


def rows_of(trained, family):
    lm = apmae.load_lm(str(trained[0] / family))
    with apmae.capture(lm.model) as tap, torch.no_grad():
        lm.model(torch.arange(2, 130)[None])
    return tap.patterns.probabilities(), tap.patterns.layer


def test_only_sinks_take_from_the_rows(trained, family):
    probabilities, _ = rows_of(trained, family)
    sums = np.asarray(probabilities).sum(-1)
    assert (sums[:, 0] < 0.9).all() if family == "gpt_oss" else np.allclose(sums, 1, atol=1e-3)


def test_every_other_layer_of_gpt_oss_has_a_window(trained):
    probabilities, layer = rows_of(trained, "gpt_oss")
    seen = (np.asarray(probabilities)[:, -1] > 0).sum(-1)
    assert set(seen[layer == 0]) == {64}
    assert set(seen[layer == 1]) == {128}


def test_weights_follow_from_the_seed_alone(family):
    torch.manual_seed(1)
    first = build_model(shrunk(family)).state_dict()
    torch.manual_seed(2)
    second = build_model(shrunk(family)).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = build_model(dataclasses.replace(shrunk(family), seed=1)).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def texts():
    tokenizer = Tokenizer.from_file(str(bundled.language_model() / "tokenizer.json"))
    return Texts(["int a = 1;\n" * 40, "return b;\n" * 40], tokenizer)


def test_a_row_begins_with_text_unless_it_is_opened(texts):
    bare, opened = (plain_row(texts, 512, opened, generator(0, "row")) for opened in (False, True))
    assert [len(bare), len(opened)] == [512, 512]
    assert opened[0][0] == END != bare[0][0]
    assert bare[:-1] == opened[1:]
    assert END in [token for token, _ in bare]  # another file follows


def test_repeated_rows_say_their_beginning_twice(texts):
    part = dataclasses.replace(TINY.parts[0], repeated=1.0)
    repeated, roles = draw_rows(texts, part, 64, False, 8, generator(0, "rows"))
    assert (roles == CONTEXT).all()
    for row in repeated.tolist():
        assert any(row[:said] == row[said : 2 * said] for said in range(8, 32))
