"""Pairs from code: what is changed, checked against tree-sitter and plain text; what is kept, against the model."""

import re
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial

import numpy as np
import pytest
import torch
import tree_sitter
import tree_sitter_java
from hypothesis import given
from hypothesis import strategies as st

from apmae.config import CircuitsConfig, parse
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.errors import ConfigError, SourceError
from apmae.lm.outcome import AskLM, window_of
from apmae.prompts.counterfactuals import LEAST_DROP, _brackets, _opener, code_pairs
from apmae.prompts.line import text_prompt
from apmae.prompts.pairs import REASONS, Pair, _aligned, pair_of

CONFIG = CircuitsConfig(circuits=("copied_identifier", "closing_bracket"), per_task=6)


@pytest.fixture(scope="module")
def files():
    return list_sources([parse_source("bundled")], suffixes=(".java",))


@pytest.fixture(scope="module")
def drawn(bundled_lm, files):
    """Six pairs of each kind, and why others were not used."""
    rejected = {name: Counter() for name in CONFIG.from_code}
    ask = AskLM(bundled_lm)
    return {name: code_pairs(name, ask, files, CONFIG, rejected=rejected[name]) for name in CONFIG.from_code}, rejected


@torch.no_grad()
def difference(lm, prompt, prefix, right, wrong):
    """The logit of one answer less that of another, in a forward of the prompt alone."""
    ids = window_of(lm, replace(prompt, prefix=prefix), 256).ids
    logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return float(logits[right] - logits[wrong])


def test_pairs_differ_by_the_identifier_everywhere(drawn):
    for prompt in drawn[0]["copied_identifier"]:
        own, other = prompt.completion, prompt.wrong[0]
        assert own != other and own[0].isupper() == other[0].isupper()
        before, after = (text.replace("$", "_").split() for text in (prompt.prefix, prompt.counterfactual))
        words = [np.array(re.findall(r"\w+", text)) for text in (prompt.prefix, prompt.counterfactual)]
        changed = words[0] != words[1]
        assert len(before) == len(after) and changed.any()
        assert set(words[0][changed]) == {own} and set(words[1][changed]) == {other}
        assert own not in words[1] and other not in words[0], "all copies, and the other is new"
        assert prompt.suffix is None and prompt.task == "copied_identifier" and prompt.group is None


def test_brackets_are_those_that_the_parser_matches(drawn):
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_java.language()))
    closes = {"(": ")", "[": "]", "{": "}"}
    matched = 0
    for prompt in drawn[0]["closing_bracket"]:
        (place,) = [
            at for at, (one, two) in enumerate(zip(prompt.prefix, prompt.counterfactual, strict=True)) if one != two
        ]
        assert closes[prompt.prefix[place]] == prompt.completion
        assert closes[prompt.counterfactual[place]] == prompt.wrong[0]
        tree = parser.parse(f"{prompt.prefix}{prompt.completion}".encode())
        at = len(prompt.prefix[:place].encode())
        node = tree.root_node.descendant_for_byte_range(at, at + 1)
        parent = node.parent
        if parent is None or parent.type == "ERROR":
            continue  # the text breaks off there
        end = len(prompt.prefix.encode()) + 1
        assert any((own.type, own.end_byte) == (prompt.completion, end) for own in parent.children)
        matched += 1
    assert matched > 2


@pytest.mark.parametrize("name", CONFIG.from_code)
def test_what_is_kept_drops_by_more_than_a_logit(bundled_lm, drawn, name):
    window = partial(window_of, bundled_lm, length=256)
    for prompt in drawn[0][name]:
        pair = pair_of(window, prompt)
        assert isinstance(pair, Pair) and len(pair.clean.completion) == 1
        clean, other = (
            difference(bundled_lm, prompt, prefix, pair.right, pair.wrong)
            for prefix in (prompt.prefix, prompt.counterfactual)
        )
        assert clean > 0 and clean - other > LEAST_DROP
    assert drawn[1][name].total() > 0, "and some are not"
    assert len({prompt.id for prompt in drawn[0][name]}) == 6


@pytest.mark.parametrize("name", CONFIG.from_code)
def test_more_pairs_begin_with_the_same(bundled_lm, files, drawn, name):
    fewer = CONFIG.model_copy(update={"per_task": 3})
    again = code_pairs(name, AskLM(bundled_lm), files, fewer, rejected=Counter())
    assert again == drawn[0][name][:3]
    other = CONFIG.model_copy(update={"per_task": 3, "seed": 1})
    assert code_pairs(name, AskLM(bundled_lm), files, other, rejected=Counter()) != again


@pytest.mark.parametrize(
    ("text", "closer", "place"),
    [
        ("f(a, g(b)", ")", 1),
        ("int[] a = {1, b[2], (3)", "}", 10),
        ("x = a[i", "]", 5),
        ("f(a]", ")", None),
        ("a + b", ")", None),
        ('f("(" + a', ")", None),
        ("f('a', b", ")", None),
        ("f(a, // (b)\n c", ")", None),
        ("// f(\n  a", ")", None),
        (" * see f(\n * a", ")", None),
        ("# f(\n a", ")", None),
        ("List<T", ">", None),
    ],
)
def test_a_bracket_is_found_unless_text_stands_around_it(text, closer, place):
    assert _opener(text, closer) == place


def test_other_brackets_come_with_their_closers():
    prompt = text_prompt("f(a, g[b]", ")", None)
    found = dict(_brackets(prompt, np.random.default_rng(0)))
    assert found == {"f[a, g[b]": "]", "f{a, g[b]": "}"}


def test_no_pair_is_a_pair_with_a_reason(bundled_lm):
    window = partial(window_of, bundled_lm, length=64)
    good = replace(text_prompt("int a = b + ", "c", None), counterfactual="int a = d + ", wrong=("e",))
    assert isinstance(pair_of(window, good), Pair) and pair_of(window, good).changed
    cases = {
        "no_counterfactual": {"counterfactual": None},
        "no_wrong": {"wrong": ()},
        "length": {"counterfactual": "int a = d + d + "},
        "same": {"counterfactual": good.prefix},
        "answers": {"wrong": ("c",)},
    }
    for reason, change in cases.items():
        assert pair_of(window, replace(good, **change)) == reason in REASONS


def test_a_cut_window_does_not_hide_a_counterfactual_of_another_length(bundled_lm):
    """Both windows are full, so they have as many tokens either way."""
    window = partial(window_of, bundled_lm, length=32)
    before = "".join(f"int x{number} = {number};\n" for number in range(40))
    good = replace(text_prompt(before + "return b + ", "c", None), counterfactual=before + "return d + ", wrong=("e",))
    pair = pair_of(window, good)
    assert isinstance(pair, Pair) and len(pair.clean.ids) == len(pair.other.ids) == 32
    assert len(pair.changed) == 1
    assert pair_of(window, replace(good, counterfactual=before + "return d + d + ")) == "length"


def test_drawn_pairs_differ_by_tokens_in_their_places(bundled_lm, drawn):
    """By another edit script: that of difflib."""
    window = partial(window_of, bundled_lm, length=256)
    for prompt in (prompt for own in drawn[0].values() for prompt in own):
        pair = pair_of(window, prompt)
        script = SequenceMatcher(None, pair.clean.ids, pair.other.ids, autojunk=False).get_opcodes()
        assert all(end - begin == stop - start for _, begin, end, start, stop in script)


@given(st.lists(st.integers(0, 2), max_size=7), st.lists(st.integers(0, 2), max_size=7))
def test_tokens_are_in_their_places_if_no_other_edits_are_fewer(one, other):
    distance = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, j in np.ndindex(distance.shape):
        ways = [i + j] if not (i and j) else [distance[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
        ways += [distance[i - 1, j] + 1] * bool(i) + [distance[i, j - 1] + 1] * bool(j)
        distance[i, j] = min(ways)
    replaced = sum(a != b for a, b in zip(one, other, strict=False))
    assert _aligned(tuple(one), tuple(other)) == (len(one) == len(other) and replaced == distance[-1, -1])


def test_files_without_a_pair_are_refused(bundled_lm, tmp_path):
    (tmp_path / "A.java").write_text("class A { int x; }\n")
    files = list_sources([parse_source(tmp_path)], suffixes=(".java",))
    with pytest.raises(SourceError, match="expected pairs of circuit:copied_identifier from 1 files, found none"):
        code_pairs("copied_identifier", AskLM(bundled_lm), files, CONFIG, rejected=Counter())
    with pytest.raises(ConfigError, match="circuits of code have no language 'text'"):
        parse(CircuitsConfig, {"circuits": ["closing_bracket"], "language": "text"}, "prompts")
