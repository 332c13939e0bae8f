"""Kinds of tokens as the bundled, Llama's, GPT-2's and Qwen's tokenizers spell them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.patterns.tokens import token_kind, token_kinds
from apmae.schema import KINDS


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        (
            "sentinel",
            [
                "<fim_prefix>",
                "<|endoftext|>",
                "<s>",
                "</s>",
                "<unk>",
                "<|fim_middle|>",
                "[CLS]",
                "<\uff5cfim\u2581end\uff5c>",
                " <PRE>",
                "\u2581<SUF>",
                "[SUFFIX]",
                "<[fim-suffix]>",
            ],
        ),
        ("word", ["count", " myVariable", "_x", "$ref", "@Override", "\u2581name", "\u0120name", "Größe", "変数"]),
        ("keyword", ["return", " if", "True", "\u0120class", "None", "\u2581for", " public"]),
        ("number", ["0", " 42", "3.14", "0xFF", "1e-5"]),
        ("string", ['"', '"abc', "'", "x'", '"""', "`"]),
        ("operator", ["+", " ==", "&&", "<", ">>=", "<>", "!", "->", "//"]),
        ("open_bracket", ["(", " {", "["]),
        ("close_bracket", [")", "}", "]", "()", "))", "})"]),
        ("semicolon", [";", ");", " ;\n", "};"]),
        ("separator", [",", ".", ":", " ,", "::"]),
        ("newline", ["\n", "\n\n    ", "\r\n", " \n"]),
        ("space", [" ", "    ", "\t", "\u2581\u2581", "\u0120", ""]),
        ("other", ["#", "\\", "\u20ac", "\ufffd"]),
    ],
)
def test_kinds(kind, tokens):
    assert {token: token_kind(token) for token in tokens} == dict.fromkeys(tokens, kind)


def test_every_kind_occurs_and_none_is_unknown():
    named = test_kinds.pytestmark[0].args[1]
    assert {kind for kind, _ in named} == set(KINDS)


@given(st.lists(st.text(max_size=6)))
def test_any_text_has_a_kind(tokens):
    codes = token_kinds(tokens)
    assert codes.dtype == np.int8
    assert [KINDS[code] for code in codes] == [token_kind(token) for token in tokens]


@pytest.mark.parametrize("text", ["<T>", "a<b", "< s>", "<>", "<a b>", " <div>"])
def test_texts_that_only_look_like_sentinels(text):
    assert token_kind(text) != "sentinel"
