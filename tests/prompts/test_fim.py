"""Windows with the bundled StarCoder2 tokenizer, and with small ones made here like Llama's."""

import re
import unicodedata
from functools import partial
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from apmae.errors import ConfigError, SourceError
from apmae.prompts.fim import (
    CHARS_PER_TOKEN,
    check_plain,
    head,
    tail,
    window,
)
from apmae.prompts.sentinels import FAMILIES, find_sentinels, split_template

ROOT = resources.files("apmae") / "bundled"
TOKENIZER = Tokenizer.from_file(str(ROOT / "language_model" / "tokenizer.json"))
SENTINELS = find_sentinels(TOKENIZER)
FILES = [file.read_bytes().decode() for file in sorted((ROOT / "java").glob("**/*.java"))]


def encode(text):
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def parts(ids):
    """Left and right context of a fill-in-the-middle window."""
    assert (ids[0], ids[-1]) == (1, 2)
    cut = ids.index(3)
    return list(ids[1:cut]), list(ids[cut + 1 : -1])


def llama_like():
    """Puts a space before every text, as Llama's and CodeLlama's tokenizers do."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<unk>", "<s>", "\u2581", *letters, "\u2581foo", "foo", *[f"<0x{byte:02X}>" for byte in range(256)]]
    merges = [("o", "o"), ("f", "oo"), ("\u2581", "foo")]
    pieces.insert(-256, "oo")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def test_a_window_by_hand():
    cut = window(TOKENIZER, "int x = ", "1", ";\n", length=16, sentinels=SENTINELS)
    assert cut.tokens == ("<fim_prefix>", "int", " x", " =", " ", "<fim_suffix>", ";", "\n", "<fim_middle>")
    assert cut.ids == (1, *encode("int x = "), 3, *encode(";\n"), 2)
    assert (cut.expected, cut.text) == (encode("1")[0], "1")


_PLACED = {
    "santacoder": "S", "starcoder": "S", "codellama": "S", "qwen": "S", "deepseek": "S",
    "codestral": "P", "seedcoder": "P", "incoder": "S", "codegen2": "S",
}  # fmt: skip
"""Which context is the second one in each family's order, written by hand."""


@pytest.mark.parametrize("bos", [None, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_knows_where_contexts_and_sentinels_are(family, bos):
    """Every token of the left context is " a", of the right one " b": what is where can be read off the ids."""
    names = _names_of(family)
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_special_tokens(names)
    marks = find_sentinels(tokenizer, family)
    ((a,), (b,)), special = (encode(" a"), encode(" b")), {tokenizer.token_to_id(name) for name in names} | {bos}
    for left, right, length in ((3, 2, 40), (30, 30, 24), (1, 30, 21), (30, 0, 20), (0, 9, 30), (0, 0, 20)):
        cut = window(tokenizer, " a" * left, "c", " b" * right, length=length, sentinels=marks, bos=bos)
        kinds = "".join("P" if i == a else "S" if i == b else "m" if i in special else "?" for i in cut.ids)
        found = ["?"] * len(cut.ids)
        for letter, places in (("P", [cut.prefix]), ("S", [cut.suffix]), ("m", cut.sentinels)):
            for place in (place for own in places for place in own):
                assert found[place] == "?", "in two parts"
                found[place] = letter
        assert "".join(found) == kinds
        assert cut.position == len(cut.ids) - 1 and cut.last == (a if left else None)
        if left and right:
            assert kinds.replace("m", "").lstrip("P" if _PLACED[family] == "S" else "S") == _PLACED[family] * len(
                cut.suffix if _PLACED[family] == "S" else cut.prefix
            )


def _names_of(family):
    return [name for part in split_template(family)[0] for name in re.findall(r"\u2581?<[^<>]+>|\[[A-Z]+\]", part)]


def test_without_infill_all_but_the_first_token_is_prefix():
    for suffix, sentinels in ((None, SENTINELS), (";", None)):
        cut = window(TOKENIZER, " a" * 30, "c", suffix, length=9, sentinels=sentinels, bos=0)
        assert (cut.prefix, cut.suffix, cut.sentinels) == (range(1, 9), range(0), (range(1),))
        assert window(TOKENIZER, " a a", "c", suffix, length=9, sentinels=sentinels).sentinels == ()


def test_without_sentinels_or_suffix_there_is_left_context_only():
    expected = tuple(encode("int x ="))
    assert window(TOKENIZER, "int x =", " 1", ";\n", length=16, sentinels=None).ids == expected
    assert window(TOKENIZER, "int x =", " 1", None, length=16, sentinels=SENTINELS).ids == expected


def test_an_empty_suffix_is_a_suffix():
    assert window(TOKENIZER, "int x = ", "1", "", length=16, sentinels=SENTINELS).ids == (1, *encode("int x = "), 3, 2)


def test_the_beginning_token_comes_first_and_counts():
    cut = window(TOKENIZER, "a b c d e f g h", "i", "j k l m", length=9, sentinels=SENTINELS, bos=0)
    assert cut.ids[:2] == (0, 1)
    assert len(cut.ids) == 9
    cut = window(TOKENIZER, "a b c d e f g h", "i", None, length=4, sentinels=None, bos=0)
    assert cut.ids == (0, *encode("a b c d e f g h")[-3:])


# budget 10, half 5; one token per word
@pytest.mark.parametrize(
    ("left", "right", "kept"),
    [
        (5, 20, (5, 5)),  # left fits half: whole, right fills
        (2, 20, (2, 8)),
        (0, 20, (0, 10)),
        (2, 3, (2, 3)),  # everything fits
        (20, 20, (5, 5)),  # neither fits: half each
        (6, 20, (5, 5)),
        (20, 3, (7, 3)),  # right is short: left gets the rest
        (20, 0, (10, 0)),
        (7, 3, (7, 3)),
        (6, 3, (6, 3)),
    ],
)
def test_the_published_rule(left, right, kept):
    before, after = " a" * left, " b" * right
    assert (len(encode(before)), len(encode(after))) == (left, right)
    cut = window(TOKENIZER, before, "c", after, length=13, sentinels=SENTINELS)
    assert tuple(map(len, parts(cut.ids))) == kept


def test_an_odd_budget_gives_the_odd_token_to_the_left():
    cut = window(TOKENIZER, " a" * 20, "c", " b" * 20, length=14, sentinels=SENTINELS)
    assert tuple(map(len, parts(cut.ids))) == (6, 5)
    cut = window(TOKENIZER, " a" * 5, "c", " b" * 20, length=14, sentinels=SENTINELS)
    assert tuple(map(len, parts(cut.ids))) == (5, 6)


@settings(deadline=None)
@given(
    prefix=st.text(max_size=60),
    completion=st.text(min_size=1, max_size=5),
    suffix=st.none() | st.text(max_size=60),
    length=st.integers(5, 60),
    bos=st.none() | st.just(0),
    infill=st.booleans(),
)
def test_any_text_gives_a_window_within_its_length(prefix, completion, suffix, length, bos, infill):
    sentinels = SENTINELS if infill else None
    if not prefix and bos is None and (suffix is None or not infill):
        with pytest.raises(SourceError, match="expected a prompt of at least one token"):
            window(TOKENIZER, prefix, completion, suffix, length=length, sentinels=sentinels, bos=bos)
        return
    cut = window(TOKENIZER, prefix, completion, suffix, length=length, sentinels=sentinels, bos=bos)
    assert 1 <= len(cut.ids) <= length
    assert len(cut.tokens) == len(cut.ids)
    blanks = cut.text.removesuffix(completion)
    assert not blanks.strip()
    assert prefix.endswith(blanks)
    assert not (blanks and infill and suffix is not None), "a model that infills sees its prefix as it is"
    prefix = prefix.removesuffix(blanks)
    assert cut.expected == encode(blanks + completion)[0]
    ids = list(cut.ids)
    if bos is not None:
        assert ids.pop(0) == bos
    if infill and suffix is not None:
        left, right = parts(ids)
        assert right == encode(suffix)[: len(right)]
        # no room is wasted while there is context
        assert len(cut.ids) == length or (left == encode(prefix) and right == encode(suffix))
    else:
        left = ids
        assert len(cut.ids) == length or left == encode(prefix)
    assert left == encode(prefix)[len(encode(prefix)) - len(left) :]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), length=st.sampled_from([16, 64, 256]))
def test_a_piece_of_a_long_file_has_the_tokens_of_the_whole(data, length):
    text = data.draw(st.sampled_from(FILES))
    start = data.draw(st.integers(1, len(text) - 2))
    before, after = encode(text[:start]), encode(text[start + 1 :])
    left, right = parts(
        window(TOKENIZER, text[:start], text[start], text[start + 1 :], length=length, sentinels=SENTINELS).ids
    )
    assert left == before[len(before) - len(left) :]
    assert right == after[: len(right)]
    assert len(left) + len(right) == min(length - 3, len(before) + len(after))


def test_only_a_piece_of_a_long_file_is_tokenised():
    """A window of a text of 40 MB takes no time; tokenising all of it would take a minute and gigabytes."""
    text = "int x = 1;\n" * 4_000_000
    cut = window(TOKENIZER, text, "1", text, length=256, sentinels=SENTINELS)
    assert len(cut.ids) == 256
    assert parts(cut.ids)[1] == encode(text[:5000])[:126]


def test_a_cut_within_a_word_leaves_no_half_token_in_the_window():
    text = " this" * 1000 + " continue"
    full = encode(text)
    assert len(full) == 1001
    # the last 5 * 64 characters are 64 tokens, the first of them "his"
    assert len(encode(text[-CHARS_PER_TOKEN * 64 :])) == 64
    assert window(TOKENIZER, text, "x", None, length=64, sentinels=None).ids == tuple(full[-64:])


def test_few_tokens_in_many_characters_still_fill_the_window():
    blanks = " " * 40_000
    full = encode(blanks)
    assert len(blanks) / len(full) > CHARS_PER_TOKEN
    cut = window(TOKENIZER, blanks, "x", None, length=256, sentinels=None)
    assert len(cut.ids) == 256


def test_a_tokenizer_that_puts_a_space_first_expects_the_completion_without_it():
    tokenizer = llama_like()
    assert tokenizer.encode("foo").tokens == ["\u2581foo"]
    cut = window(tokenizer, "foo", "foo", None, length=8, sentinels=None)
    assert cut.expected == tokenizer.token_to_id("foo")
    assert [tokenizer.id_to_token(i) for i in cut.ids] == ["\u2581foo"]
    assert cut.tokens == (" foo",)
    cut = window(tokenizer, "foo ", "foo", None, length=8, sentinels=None, accepted=["oo"])
    assert (cut.expected, cut.text) == (tokenizer.token_to_id("\u2581foo"), " foo")
    assert cut.accepted == ((tokenizer.token_to_id("\u2581"), tokenizer.token_to_id("oo")),)
    assert cut.right_texts == (" foo", " oo")
    assert cut.tokens == (" foo",)
    assert cut == window(tokenizer, "foo", " foo", None, length=8, sentinels=None, accepted=[" oo"])


@pytest.mark.parametrize(
    ("prefix", "completion", "moved"),
    [
        ("int x ", "= 1;", " "),
        ("f(a, ", '"s"', " "),
        ("class A {\n    ", "return", " "),  # the last of an indentation: words have one space
        ("x =    ", "foo", " "),
        ("x;\n  ", "  y", "\n  "),  # a cursor inside an indentation, which is one token
        ("int x = ", "1", ""),  # digits stand alone
        ("if (a", " && b", ""),
        ("foo(", ")", ""),  # "()" is one token, but only blanks move
        ("x;\n", "y", ""),
        ("x;\n\t", "y", ""),
        (" ", "foo", ""),  # nothing would be left
    ],
)
def test_without_infill_a_space_goes_with_the_word_after_it(prefix, completion, moved):
    cut = window(TOKENIZER, prefix, completion, ";", length=64, sentinels=None)
    assert cut.text == moved + completion
    assert TOKENIZER.decode(list(cut.ids)) + moved == prefix
    if prefix.strip() and completion != ")":  # the tokens are those of the text as a model reads it
        assert [*cut.ids, *cut.completion] == encode(prefix + completion)
    else:
        assert cut.completion == tuple(encode(completion))


@settings(deadline=None)
@given(data=st.data())
def test_blanks_move_no_further_than_a_token_reaches(data):
    text = data.draw(st.sampled_from(FILES))
    place = data.draw(st.integers(1, len(text) - 20))
    cut = window(TOKENIZER, text[:place], text[place : place + 20], None, length=64, sentinels=None)
    moved = len(cut.text) - 20
    start, crossing = 0, 0
    for token in TOKENIZER.encode(text[max(0, place - 40) : place + 20], add_special_tokens=False).tokens:
        text_of = TOKENIZER.decoder.decode([token])
        if start < place - max(0, place - 40) < start + len(text_of):
            crossing = place - max(0, place - 40) - start
        start += len(text_of)
    blank = not text[place - crossing : place].strip()
    assert moved == (crossing if blank else 0)


def test_a_tokenizer_that_puts_a_space_first_has_none_in_the_suffix_or_a_cut_prefix():
    tokenizer = llama_like()
    tokenizer.add_special_tokens(["\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"])
    marks = find_sentinels(tokenizer)
    cut = window(tokenizer, "foo" * 500, "a", "foo", length=12, sentinels=marks)
    assert [tokenizer.id_to_token(i) for i in cut.ids[-3:]] == ["\u2581<SUF>", "foo", "\u2581<MID>"]
    assert [tokenizer.id_to_token(i) for i in cut.ids[1:-3]] == ["foo"] * 8


PIECES = [
    "int",
    "x",
    "foo",
    " ",
    "\t",
    "\r\n",
    "é",
    "\u0301",
    "日",
    "\U0001d4b3",
    "👩\u200d👧",
    "ﬁ",
    ";",
    "_1",
    "\u2581",
]
BITS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@pytest.mark.parametrize("name", ["byte level", "trimmed", "composing", "metaspace"])
@settings(deadline=None, max_examples=60)
@given(prefix=BITS, completion=BITS.filter(bool), suffix=BITS)
def test_no_token_crosses_the_borders_of_a_span(small_tokenizers, name, prefix, completion, suffix):
    """For any texts, the tokens of each piece decode to that piece."""
    tokenizer = Tokenizer.from_str(small_tokenizers[name].to_str())
    tokenizer.add_special_tokens(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
    if name == "metaspace":  # it reads the sign of a blank as a blank, and puts none before a text that begins with one
        prefix, completion, suffix = (text.replace("\u2581", " ") for text in (prefix, completion, suffix))
        prefix = prefix.lstrip(" ")
    marks = find_sentinels(tokenizer)
    ids = list(window(tokenizer, prefix, completion, suffix, length=400, sentinels=marks).ids)
    cut = ids.index(*marks.between)
    assert (ids[0], ids[-1]) == (*marks.before, *marks.after)
    compose = partial(unicodedata.normalize, "NFC") if name == "composing" else str
    anchor = tokenizer.encode("☺").ids
    assert tokenizer.decode(ids[1:cut]) == compose(prefix)
    # after other text a decoder removes no blank
    assert tokenizer.decode([*anchor, *ids[cut + 1 : -1]]) == "☺" + compose(suffix)
    first = window(tokenizer, "a", completion, None, length=8, sentinels=None).expected
    alone = tokenizer.decode([*anchor, first])
    assert alone.endswith("\ufffd") or ("☺" + compose(completion)).startswith(alone)


def test_bytes_that_are_half_a_character_have_a_token_text_each():
    cut = window(TOKENIZER, "日本", "x", None, length=8, sentinels=None)
    assert len(cut.tokens) == len(encode("日本")) == 6
    assert all(cut.tokens)


@pytest.mark.parametrize("switch", ["truncation", "padding"])
def test_a_tokenizer_that_truncates_or_pads_is_refused(switch):
    tokenizer = llama_like()
    check_plain(tokenizer)
    if switch == "truncation":
        tokenizer.enable_truncation(4)
    else:
        tokenizer.enable_padding()
    with pytest.raises(ConfigError, match="neither truncates nor pads"):
        window(tokenizer, "foo", "a", None, length=8, sentinels=None)


def test_a_window_without_room_or_a_completion_without_token_is_refused():
    with pytest.raises(ConfigError, match="got 3 tokens"):
        window(TOKENIZER, "a", "b", "c", length=3, sentinels=SENTINELS)
    with pytest.raises(SourceError, match="expected a completion of at least one token"):
        window(TOKENIZER, "a", "", "c", length=8, sentinels=SENTINELS)


@given(text=st.text(alphabet="ab\n", max_size=60), limit=st.integers(1, 70))
def test_head_and_tail_keep_an_end_and_at_least_half(text, limit):
    end, start = tail(text, limit), head(text, limit)
    assert text.endswith(end)
    assert text.startswith(start)
    for piece in (end, start):
        assert len(piece) <= limit
        assert len(piece) >= min(len(text), limit // 2)


def test_head_and_tail_cut_at_lines():
    text = "aaa\nbbb\nccc\nddd\n"
    assert tail(text, 10) == "ccc\nddd\n"
    assert tail(text, 8) == "ccc\nddd\n"
    assert head(text, 10) == "aaa\nbbb\n"
    assert head(text, 8) == "aaa\nbbb\n"
    assert tail("a" * 20 + "\nb", 10) == "a" * 8 + "\nb"
    assert head("a\n" + "b" * 20, 10) == "a\n" + "b" * 8
