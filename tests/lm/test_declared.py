"""What config.json says, against what transformers makes of it."""

import json
import shutil

import pytest
from families import FAMILIES, config_of
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from apmae import bundled
from apmae.config import LMConfig
from apmae.errors import ConfigError
from apmae.lm.declared import Declared, expect_infill

DECODERS = sorted((set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING)) - {"musicgen", "musicgen_melody"})
"""All but music, whose configurations are of two texts."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", DECODERS)
def test_nothing_is_declared_that_transformers_would_not_allow(family, tmp_path):
    """A layer, head or position that the model has is never refused."""
    try:
        config = CONFIG_MAPPING[family]()
    except Exception as error:  # some have no defaults
        pytest.skip(f"no default configuration: {error}")
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    text = config.get_text_config()
    text.allow_global_per_layer_attribute_access = True  # a single family has other numbers for single layers
    declared = Declared.of(LMConfig(source=str(tmp_path)))
    for found, name in ((declared.layers, "num_hidden_layers"), (declared.heads, "num_attention_heads")):
        wanted = getattr(text, name, None)
        assert found is None or not isinstance(wanted, int) or found >= wanted, name
    assert declared.positions in (None, getattr(text, "max_position_embeddings", None))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (None, None, None)),
        ({"num_hidden_layers": 30, "num_attention_heads": 9, "max_position_embeddings": 8192}, (30, 9, 8192)),
        ({"n_layer": 12, "n_head": 6, "n_positions": 1024}, (12, 6, 1024)),
        ({"num_hidden_layers": 4, "text_config": {"num_layers": 2, "num_attention_heads": 3}}, (2, 3, None)),
        ({"num_attention_heads": [2, 8, 4]}, (None, 8, None)),
        ({"num_attention_heads": 4, "other": {"num_attention_heads": 6}}, (None, 6, None)),
        ({"num_attention_heads": "many", "num_hidden_layers": None}, (None, None, None)),
    ],
)
def test_declared(values, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert Declared.of(LMConfig(source=str(tmp_path))) == (*expected, False, True)


def test_heads_are_refused_only_where_the_file_says_so():
    Declared(None, None, None).expect_heads([(99, 99)])
    Declared(3, 4, None).expect_heads([(0, 0), (2, 3)])
    with pytest.raises(ConfigError, match=r"with layers 0-2, got '3\.0'"):
        Declared(3, None, None).expect_heads([(3, 0)])
    with pytest.raises(ConfigError, match=r"with heads 0-3, got '0\.4'"):
        Declared(None, 4, None).expect_heads([(0, 4)])


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_sentinels_may_be_in_either_file_of_a_tokenizer(file, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled.LANGUAGE_MODELS["bundled"] / name, tmp_path)
    config = LMConfig(source=str(tmp_path), infill="[A]{prefix}[B]{suffix}")
    with pytest.raises(ConfigError, match=r"\[A\] and \[B\] not found"):
        expect_infill(config)
    values = json.loads((tmp_path / file).read_text())
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = {9_998: {"content": "[A]", **common}, 9_999: {"content": "[B]", **common}}
    if file == "tokenizer.json":
        values["added_tokens"] += [{"id": number, **token} for number, token in tokens.items()]
    else:
        values["added_tokens_decoder"] = values.get("added_tokens_decoder", {}) | tokens
    (tmp_path / file).write_text(json.dumps(values))
    expect_infill(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_of_the_matrix_is_allowed(name, tmp_path):
    config = config_of(FAMILIES[name])
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    Declared.of(LMConfig(source=str(tmp_path))).expect_heads(FAMILIES[name].places)
