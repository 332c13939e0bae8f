"""Arrangements by family: found by their tokens, asked for by name or template, refused if absent."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import CodeLlamaTokenizer

from apmae.errors import ConfigError
from apmae.prompts.fim import window
from apmae.prompts.sentinels import FAMILIES, find_sentinels, spelled, split_template

# Written down by hand from model cards and papers: prefix L, suffix R.
SEEN = {
    "starcoder": ["<fim_prefix>", "L", "<fim_suffix>", "R", "<fim_middle>"],
    "santacoder": ["<fim-prefix>", "L", "<fim-suffix>", "R", "<fim-middle>"],
    "codellama": ["▁<PRE>", "L", "▁<SUF>", "R", "▁<MID>"],
    "qwen": ["<|fim_prefix|>", "L", "<|fim_suffix|>", "R", "<|fim_middle|>"],
    "deepseek": ["<｜fim▁begin｜>", "L", "<｜fim▁hole｜>", "R", "<｜fim▁end｜>"],
    "codestral": ["[SUFFIX]", "R", "[PREFIX]", "L"],
    "seedcoder": ["<[fim-suffix]>", "R", "<[fim-prefix]>", "L", "<[fim-middle]>"],
    "incoder": ["L", "<|mask:0|>", "R", "<|mask:1|>", "<|mask:0|>"],
    "codegen2": ["L", "<mask_1>", "R", "<|endoftext|>", "<sep>", "<mask_1>"],
}


def with_tokens(*names):
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "L": 1, "R": 2, "M": 3}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens([AddedToken(name) for name in names])
    return tokenizer


def seen(tokenizer, sentinels, length=16):
    ids = window(tokenizer, "L", "M", "R", length=length, sentinels=sentinels).ids
    return [tokenizer.id_to_token(token) for token in ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_its_tokens_and_arranged_as_it_was_trained(family):
    tokenizer = with_tokens("<s>", *reversed([token for token in SEEN[family] if len(token) > 1]))
    found = find_sentinels(tokenizer)
    assert seen(tokenizer, found) == SEEN[family]
    assert find_sentinels(tokenizer, family) == found
    assert find_sentinels(tokenizer, FAMILIES[family]) == found
    assert find_sentinels(tokenizer, "none") is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sentinel_of_every_family_is_found_where_it_is_spelled(family):
    for name in (token for token in SEEN[family] if len(token) > 1):
        assert spelled().fullmatch(name)
        assert spelled().search(f'x = "{name}"')
        assert spelled().search(name[:-1]) is None


def test_text_that_only_looks_like_a_sentinel_is_not_one():
    assert not any(map(spelled().search, ["<PRE>", "* <pre>", "List<T>", "[1]", "fim_prefix", "< fim_prefix >", "<s>"]))
    assert spelled(with_tokens("<s>")).search("<s>")


def test_every_family_is_checked():
    assert set(SEEN) == set(FAMILIES)


@pytest.mark.parametrize("names", [(), ("<fim_prefix>", "<fim_suffix>"), ("[PREFIX]", "[MIDDLE]")])
def test_models_without_sentinels_see_left_context_only(names):
    assert find_sentinels(with_tokens(*names)) is None


def test_a_template_sets_another_order():
    tokenizer = with_tokens("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")
    mellum = find_sentinels(tokenizer, "<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>")
    assert seen(tokenizer, mellum) == ["<fim_suffix>", "R", "<fim_prefix>", "L", "<fim_middle>"]
    joint = find_sentinels(tokenizer, "<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}")
    assert seen(tokenizer, joint) == ["<fim_prefix>", "<fim_suffix>", "R", "<fim_middle>", "L"]
    assert len(joint) == 3


def test_only_the_sentinels_of_the_template_take_room():
    tokenizer = with_tokens("[SUFFIX]", "[PREFIX]")
    sentinels = find_sentinels(tokenizer)
    assert len(seen(tokenizer, sentinels, length=4)) == 4
    with pytest.raises(ConfigError, match="room for context, got 2 tokens"):
        seen(tokenizer, sentinels, length=2)


def test_sentinels_without_embeddings_in_the_model_do_not_count():
    """CodeLlama 34B's tokenizer has them past its 32 000 tokens; it was not trained to infill."""
    tokenizer = with_tokens("▁<PRE>", "▁<SUF>", "▁<MID>")
    assert find_sentinels(tokenizer, vocabulary=7) is not None
    assert find_sentinels(tokenizer, vocabulary=6) is None
    with pytest.raises(ConfigError, match="▁<MID> not found"):
        find_sentinels(tokenizer, "codellama", vocabulary=6)


@pytest.mark.parametrize(
    ("infill", "message"),
    [
        ("codestral", r"infill 'codestral' .*\[SUFFIX\] and \[PREFIX\] not found; its special tokens are <a>, <b>"),
        ("<a>{prefix}<c>{suffix}", "<c> not found"),
        ("<a>{prefix}<b> {suffix}", "'<b> ' not found; is it infill '<a>{prefix}<b>{suffix}'"),
        ("mellum", "a family .* got 'mellum'"),
        ("<a>{prefix}<b>", "once each"),
        ("<a>{prefix}<b>{prefix}", "once each"),
        ("<a>{prefix}{suffix}<b>", "a sentinel between them"),
        ("<a>{prefix}<b>{suffix}<a>{suffix}", "once each"),
        ("", "got ''"),
    ],
)
def test_sentinels_that_are_asked_for_and_absent_are_refused(infill, message):
    with pytest.raises(ConfigError, match=message):
        find_sentinels(with_tokens("<a>", "<b>"), infill)


NEAR = {
    "bars and underscores": lambda name: name.replace("\uff5c", "|").replace("\u2581", "_"),
    "wide bars": lambda name: name.replace("|", "\uff5c"),
    "box bars": lambda name: name.replace("|", "\u2502").replace("\uff5c", "\u2502"),
    "no word sign": lambda name: name.replace("\u2581", ""),
    "a space for a word sign": lambda name: name.replace("\u2581", " "),
    "upper case": str.upper,
    "lower case": str.lower,
    "hyphens": lambda name: name.replace("_", "-"),
    "underscores": lambda name: name.replace("-", "_"),
    "a space before": lambda name: f" {name}",
    "a space after": lambda name: f"{name} ",
    "a carriage return after": lambda name: f"{name}\r",
    "a line end after": lambda name: f"{name}\r\n",
    "a letter less": lambda name: f"{name[:2]}{name[3:]}",
}
"""What hands and keyboards, editors and YAML make of a sentinel."""


def typed(family, way):
    """A family's template with each of its sentinels changed."""
    tokens = list(dict.fromkeys(token for token in SEEN[family] if len(token) > 1))
    template = FAMILIES[family]
    for number, token in sorted(enumerate(tokens), key=lambda entry: -len(entry[1])):
        template = template.replace(token, f"\0{number}\0")
    for number, token in enumerate(tokens):
        template = template.replace(f"\0{number}\0", NEAR[way](token))
    return template


@pytest.mark.parametrize(("family", "way"), [(f, w) for f in FAMILIES for w in NEAR if typed(f, w) != FAMILIES[f]])
def test_a_near_miss_is_refused_with_the_template_that_was_meant(family, way):
    tokenizer = with_tokens("<s>", "</s>", "<pad>", *dict.fromkeys(token for token in SEEN[family] if len(token) > 1))
    with pytest.raises(ConfigError) as refused:
        find_sentinels(tokenizer, typed(family, way))
    assert str(refused.value).endswith(f"not found; is it infill {FAMILIES[family]!r}?")


def test_one_near_miss_among_right_ones_is_named_alone():
    tokenizer = with_tokens("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>")
    template = FAMILIES["deepseek"].replace("\u2581hole\uff5c", "_hole|")
    with pytest.raises(ConfigError, match=r"tokens, <\uff5cfim_hole\|> not found; is it infill"):
        find_sentinels(tokenizer, template)


def test_of_two_that_are_alike_the_nearer_one_is_meant():
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim-prefix>", "<fim-suffix>", "<fim-middle>")
    for family in ("starcoder", "santacoder"):
        with pytest.raises(ConfigError, match=FAMILIES[family].replace("{", r"\{")):
            find_sentinels(
                with_tokens(*names),
                FAMILIES[family].upper().replace("PREFIX}", "prefix}").replace("SUFFIX}", "suffix}"),
            )


def test_another_familys_sentinels_lead_to_ones_own():
    tokenizer = with_tokens(*[token for token in SEEN["deepseek"] if len(token) > 1])
    with pytest.raises(ConfigError, match="take infill 'deepseek', which it has, or infill 'none'"):
        find_sentinels(tokenizer, "qwen")
    with pytest.raises(ConfigError, match="take these, or infill 'none'"):
        find_sentinels(tokenizer, "qwen", vocabulary=4)


def test_what_is_far_from_everything_is_not_guessed():
    with pytest.raises(ConfigError, match="its special tokens are <a>, <b>; take these"):
        find_sentinels(with_tokens("<a>", "<b>"), "<start of the left side>{prefix}<b>{suffix}")


def test_a_long_list_of_special_tokens_is_cut():
    with pytest.raises(ConfigError, match="and 88 more; take"):
        find_sentinels(with_tokens(*[f"<{n}>" for n in range(100)]), "qwen")


@given(template=st.text(alphabet="{}prefixsuffix<>", max_size=30))
def test_any_text_is_a_template_or_refused(template):
    try:
        (before, between, after), suffix_first = split_template(template)
    except ConfigError:
        return
    first, second = ("{suffix}", "{prefix}") if suffix_first else ("{prefix}", "{suffix}")
    assert template == f"{before}{first}{between}{second}{after}"


@pytest.fixture(scope="module")
def code_llama(small_tokenizers):
    """transformers' own tokenizer of the family on a small vocabulary, with the steps of the published tokenizer.json:
    those that the class itself makes put a space before the suffix, which the authors' code takes off.
    """
    model = json.loads(small_tokenizers["metaspace"].to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    # As in the published vocabulary: a carriage return is a token, and one behind the sign of a space another.
    vocab = {**model["vocab"], "\r": len(model["vocab"]), "\u2581\r": len(model["vocab"]) + 1}
    tokenizer = CodeLlamaTokenizer(vocab=vocab, merges=[*merges, ("\u2581", "\r")])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.set_infilling_processor(reset=True)
    return tokenizer


@settings(deadline=None, max_examples=40)
@given(
    prefix=st.sampled_from(["int x = ", "return", "a\tb\r\n ", "é", " {"]),
    suffix=st.sampled_from([";\n", "foo bar", " )", "}\r\n\r\n", "\r\n}", "\rx", "\nx", " \r\n", "\t", "\u263a"]),
)
def test_a_code_llama_window_is_what_transformers_makes(code_llama, prefix, suffix):
    sentinels = find_sentinels(code_llama.backend_tokenizer)
    ours = window(
        code_llama.backend_tokenizer, prefix, "x", suffix, length=64, sentinels=sentinels, bos=code_llama.bos_token_id
    )
    theirs = code_llama(prefix, suffix=suffix).input_ids
    assert list(ours.ids) == theirs


EDGES = ["", " ", "  ", "\r", "\n", "\r\n", "\t", "\u263a", "\u0301", "\ufeff", "<", "|", "\U0001d4b3"]


def text_of(tokenizer, ids):
    """What tokens stand for, by their names alone; a sentinel is its name."""
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    if "\u0120" in tokenizer.get_vocab():  # byte level: each character of a name is a byte, by GPT-2's table
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in plain]
        table = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
        pieces = [bytes(table[sign] for sign in tokenizer.id_to_token(n)) for n in ids if n not in added]
    else:
        names = [tokenizer.id_to_token(n) for n in ids if n not in added]
        pieces = [
            bytes([int(n[3:5], 16)]) if len(n) == 6 and n[:3] == "<0x" else n.replace("\u2581", " ").encode()
            for n in names
        ]
    pieces = iter(pieces)
    return b"".join(added[n].encode() if n in added else next(pieces) for n in ids).decode()


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["byte level", "trimmed", "metaspace"]),
    strips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    left=st.tuples(st.sampled_from(EDGES), st.sampled_from(EDGES)),
    right=st.tuples(st.sampled_from(EDGES), st.sampled_from(EDGES)),
)
def test_what_stands_next_to_a_sentinel_is_its_own_tokens(small_tokenizers, kind, strips, left, right):
    """Whatever a sentinel's own token does to blanks around it in a text: a window is put together of ids."""
    tokenizer = Tokenizer.from_str(small_tokenizers[kind].to_str())
    lstrip, rstrip, normalized = strips
    names = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokenizer.add_special_tokens([AddedToken(n, lstrip=lstrip, rstrip=rstrip, normalized=normalized) for n in names])
    prefix, suffix = f"{left[0]}int x{left[1]}", f"{right[0]}y;{right[1]}"
    seen = window(tokenizer, prefix, "1", suffix, length=256, sentinels=find_sentinels(tokenizer)).ids
    places = [seen.index(tokenizer.token_to_id(name)) for name in names]
    # the left context opens the input: a SentencePiece tokenizer puts a space before it, and only there
    space = " " if kind == "metaspace" else ""
    assert places[0] == 0 and places[2] == len(seen) - 1
    assert text_of(tokenizer, seen[1 : places[1]]) in (prefix, space + prefix)
    assert text_of(tokenizer, seen[places[1] + 1 : -1]) == suffix
