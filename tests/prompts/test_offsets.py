"""Characters of tokens, checked against the bytes of each token."""

from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from apmae.prompts.offsets import offsets_of

BUNDLED = Tokenizer.from_file(str(resources.files("apmae") / "bundled" / "language_model" / "tokenizer.json"))
PIECES = [
    "a",
    "int",
    "x1",
    " ",
    "  ",
    "\t",
    "\r\n",
    "\n",
    "é",
    "e\u0301",
    "\u0323\u0301",
    "日",
    "\U0001d4b3",
    "👩\u200d👧",
    "ﬁ",
]
PIECES += ["½", "\u1100\u1161", "\u202e", "\u00a0", "\x00", "\u2581", "<s>", ";", "İ", "\ufeff", "\ufffd", "ก็"]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
NAMES = ["bundled", "byte level", "trimmed", "composing", "metaspace"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request, small_tokenizers):
    return {"bundled": BUNDLED, **small_tokenizers}[request.param]


@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_every_character_belongs_to_a_token_and_tokens_are_in_order(tokenizer, text):
    found = offsets_of(tokenizer)(text)
    assert len(found) == len(tokenizer.encode(text, add_special_tokens=False).ids)
    reached = begun = 0
    for start, end in found:
        assert begun <= start <= reached <= end <= len(text), "no gap before a token, and neither end decreases"
        begun, reached = start, end
    assert reached == (len(text) if found else 0)


def characters_of_bytes(tokenizer, text):
    """Oracle: a byte-level token's characters are those that own its bytes, counted from the start."""
    owner = [place for place, character in enumerate(text) for _ in character.encode()]
    at, spans = 0, []
    for token in tokenizer.encode(text, add_special_tokens=False).tokens:
        spans.append((owner[at], owner[at + len(token) - 1] + 1))  # one sign per byte
        at += len(token)
    assert at == len(owner)
    return spans


@settings(deadline=None, max_examples=60)
@given(text=TEXT.filter(lambda text: "<s>" not in text))
@pytest.mark.parametrize("name", ["bundled", "byte level", "trimmed"])
def test_byte_level_offsets_follow_from_the_bytes(small_tokenizers, name, text):
    tokenizer = {"bundled": BUNDLED, **small_tokenizers}[name]
    assert offsets_of(tokenizer)(text) == characters_of_bytes(tokenizer, text)


def test_blanks_that_a_tokenizer_trims_stay_in_the_token(small_tokenizers):
    given = small_tokenizers["trimmed"].encode("int  x").offsets
    assert any(start == end for start, end in given), "the tokenizer would drop this token"
    assert "".join("int  x"[start:end] for start, end in offsets_of(small_tokenizers["trimmed"])("int  x")) == "int  x"


def test_an_accent_stays_with_its_letter(small_tokenizers):
    text = "ae\u0301o"
    assert (2, 3) not in small_tokenizers["composing"].encode(text).offsets
    found = offsets_of(small_tokenizers["composing"])(text)
    assert {text[start:end] for start, end in found} == {"a", "e\u0301", "o"}


def test_the_tokenizer_is_left_as_it_was(small_tokenizers):
    tokenizer = small_tokenizers["trimmed"]
    before = tokenizer.to_str()
    offsets_of(tokenizer)("int x")
    assert tokenizer.to_str() == before


def test_no_text_has_no_tokens(tokenizer):
    assert offsets_of(tokenizer)("") == []
