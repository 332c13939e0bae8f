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
        ("<a>{prefix}<b> {suffix}", "<b>  not found"),
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
    tokenizer = CodeLlamaTokenizer(vocab=model["vocab"], merges=merges)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.set_infilling_processor(reset=True)
    return tokenizer


@settings(deadline=None, max_examples=40)
@given(
    prefix=st.sampled_from(["int x = ", "return", "a\tb\r\n ", "é", " {"]),
    suffix=st.sampled_from([";\n", "foo bar", " )", "}\r\n\r\n"]),
)
def test_a_code_llama_window_is_what_transformers_makes(code_llama, prefix, suffix):
    sentinels = find_sentinels(code_llama.backend_tokenizer)
    ours = window(
        code_llama.backend_tokenizer, prefix, "x", suffix, length=64, sentinels=sentinels, bos=code_llama.bos_token_id
    )
    theirs = code_llama(prefix, suffix=suffix).input_ids
    assert list(ours.ids) == theirs
