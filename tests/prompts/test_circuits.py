"""Sets of classic circuits with real tokenizers: the bundled one, and small ones made here like GPT-2's and Llama's."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from apmae.errors import ConfigError, ModelError, SourceError
from apmae.prompts.circuits import CIRCUITS, circuit_prompts
from apmae.prompts.fim import window
from apmae.prompts.prompt import SPLITS

FOLDER = resources.files("apmae.prompts") / "circuits"
DATA = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8")) for name in (*CIRCUITS, "names")}
GENDER = {name: gender for gender, names in DATA["names"].items() for name in names}
YEARS = [f"{century}{year:02}" for century in range(11, 18) for year in range(100)]

WORKS = {
    "bundled": ("greater_than", "docstring", "induction"),  # code: its names and "she" are several tokens
    "gpt2": CIRCUITS,
    "llama": CIRCUITS,
    "llama3": CIRCUITS,  # up to three digits per token
}
PAIRS = [(kind, name) for kind, names in WORKS.items() for name in names]
CHANGED = dict.fromkeys(CIRCUITS, 1) | {"docstring": 2}


def lines():
    """Text in which every word of the sets is frequent."""
    words = [
        *GENDER,
        "she",
        "he",
        *(word for data in DATA.values() for few in data.get("words", {}).values() for word in few),
    ]
    yield from ["The " + " and ".join(words)] * 30
    for data in DATA.values():
        yield from data.get("templates", [])
    yield from [f"the {century}" for century in range(11, 18)] * 900
    yield from [f"x{number}" for number in range(110, 180)] * 40
    yield from [f"x{year:02}" for year in range(100)] * 40


def trained(pre_tokenizer, decoder, alphabet):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(
        vocab_size=1600, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


@cache
def tokenizer_of(kind):
    if kind == "bundled":
        return Tokenizer.from_file(str(resources.files("apmae") / "bundled" / "language_model" / "tokenizer.json"))
    if kind == "gpt2":
        bytes_ = pre_tokenizers.ByteLevel.alphabet()
        return trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), bytes_)
    if kind == "llama3":
        threes = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated")
        split = pre_tokenizers.Sequence([threes, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        return trained(split, decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet())
    digits = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)])
    printable = ["\n", *map(chr, range(33, 127))]
    return trained(digits, decoders.Metaspace(), printable)


@cache
def drawn(kind, name, seed=0, count=60):
    return circuit_prompts(name, tokenizer_of(kind), count=count, seed=seed)


def tokens(kind, prefix, completion):
    """What the model sees, from the module that makes its windows."""
    return window(tokenizer_of(kind), prefix, completion, None, length=256, sentinels=None)


def ids(kind, text):
    return tokenizer_of(kind).encode(text, add_special_tokens=False).ids


# -- by hand -----------------------------------------------------------------------------------------------------------


SIGNATURE = "class planet_store:\n    def merge(self, name, cache, {0}):\n"
REST = """\
        \"\"\"harvest near a river.

        :param name: copper theory
        :param cache: ocean tunnel
        :param"""
GOLDEN = {
    "ioi": (
        "Last winter Kevin and Angela worked in the workshop, and Angela sent a lamp to",
        "Last winter Kevin and Angela worked in the workshop, and Kevin sent a lamp to",
        " Kevin",
        (),
        (" Angela",),
    ),
    "greater_than": (
        "According to the archive, the drought took place between the year 1357 and the year 135",
        "According to the archive, the drought took place between the year 1351 and the year 135",
        "8",
        ("9",),
        tuple("76543210"),
    ),
    "docstring": (
        SIGNATURE.format("level, key") + REST,
        SIGNATURE.format("key, level") + REST,
        " level",
        (),
        (" key", " name", " cache"),
    ),
    "gendered_pronouns": (
        "After all, Victoria is proud of the garden, isn't",
        "After all, Gary is proud of the garden, isn't",
        " she",
        (),
        (" he",),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_first_prompt(name):
    first = drawn("llama", name)[0]
    assert (first.prefix, first.counterfactual, first.completion, first.accepted, first.wrong) == GOLDEN[name]


def test_the_first_prompt_whose_year_ends_in_a_token_of_two_digits():
    first = drawn("gpt2", "greater_than")[0]
    text = "The town remembers the blockade, which lasted from the year 11{} up to the year 11"
    assert (first.prefix, first.counterfactual) == (text.format(26), text.format("01"))
    assert first.completion == "56"
    assert first.accepted == tuple(str(year) for year in range(27, 100) if year != 56)
    assert first.wrong == tuple(f"{year:02}" for year in range(26, -1, -1))


def test_the_document_shows_prompts_that_are_made():
    document = (Path(__file__).parents[2] / "docs" / "circuits.md").read_text()
    for kind, name in (
        ("gpt2", "greater_than"),
        ("llama", "ioi"),
        ("llama", "docstring"),
        ("llama", "gendered_pronouns"),
    ):
        first = drawn(kind, name)[0]
        assert first.prefix in document
        assert name == "docstring" or first.counterfactual in document
    assert all(f"\n## {name}" in document for name in CIRCUITS)


# -- every set, every tokenizer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_counterfactual_differs_only_in_the_tokens_it_should(kind, name):
    for prompt in drawn(kind, name):
        clean = tokens(kind, prompt.prefix, prompt.completion)
        other = tokens(kind, prompt.counterfactual, prompt.wrong[0])
        assert len(clean.ids) == len(other.ids)
        differing = [pair for pair in zip(clean.ids, other.ids, strict=True) if pair[0] != pair[1]]
        assert len(differing) == CHANGED[name]
        assert clean.expected != other.expected
        if name == "docstring":
            assert differing[0] == differing[1][::-1] == (clean.expected, other.expected)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_answers_are_one_token_each_and_no_token_crosses_into_them(kind, name):
    for prompt in drawn(kind, name):
        for answer in (prompt.completion, prompt.wrong[0]):
            for text in (prompt.prefix, prompt.counterfactual):
                whole = tokens(kind, text, answer)
                assert ids(kind, text + answer) == [*whole.ids, whole.expected]
        answers = [prompt.completion, *prompt.accepted, *prompt.wrong]
        firsts = [tokens(kind, prompt.prefix, answer).expected for answer in answers]
        assert len(set(firsts)) == len(firsts) == len(set(answers))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_prompts_have_task_group_and_split(kind, name):
    prompts = drawn(kind, name)
    assert len({prompt.prefix for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 60
    for prompt in prompts:
        assert (prompt.task, prompt.suffix, prompt.outcome) == (name, None, None)
        assert (prompt.start, prompt.line) == (len(prompt.prefix), len(prompt.prefix.splitlines()))
        assert prompt.path.startswith(f"circuit:{name}/")
        assert prompt.group == (None if name == "induction" else prompt.path.removeprefix("circuit:"))
    if name != "induction":
        split = {prompt.group: prompt.split for prompt in prompts}
        assert all(split[prompt.group] == prompt.split for prompt in prompts)
        assert len(split) == len(DATA[name]["templates"])
        held_out = sum(value == "held_out" for value in split.values())
        assert held_out == max(1, round(SPLITS["held_out"] * len(split)))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_larger_count_does_not_change_the_first_prompts(kind, name):
    assert circuit_prompts(name, tokenizer_of(kind), count=10) == drawn(kind, name)[:10]
    assert circuit_prompts(name, tokenizer_of(kind), count=10, seed=1) != drawn(kind, name)[:10]


# -- what each set is about, for any seed ------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32)
KINDS = st.sampled_from(["gpt2", "llama", "llama3"])


def occurrences(word, text):
    return len(re.findall(rf"\b{word}\b", text))


@settings(max_examples=25)
@given(kind=KINDS, seed=SEEDS)
def test_the_answer_of_ioi_is_the_name_that_occurs_once(kind, seed):
    orders = []
    for prompt in circuit_prompts("ioi", tokenizer_of(kind), count=4, seed=seed):
        answer, subject = prompt.completion.strip(), prompt.wrong[0].strip()
        named = [word for word in re.findall(r"\w+", prompt.prefix) if word in GENDER]
        assert sorted(set(named)) == sorted([answer, subject])
        assert [occurrences(answer, prompt.prefix), occurrences(subject, prompt.prefix)] == [1, 2]
        assert [occurrences(answer, prompt.counterfactual), occurrences(subject, prompt.counterfactual)] == [2, 1]
        assert named[2] == subject
        assert not prompt.prefix.rstrip().endswith((answer, subject))
        orders.append(named[0] == subject)
    assert sorted(orders) == [False, False, True, True]


@settings(max_examples=25)
@given(kind=st.sampled_from([*WORKS]), seed=SEEDS)
def test_greater_than_accepts_every_later_ending_and_no_other(kind, seed):
    digits = 2 if kind == "gpt2" else 1
    for prompt in circuit_prompts("greater_than", tokenizer_of(kind), count=4, seed=seed):
        start, stem = re.findall(r"\d+", prompt.prefix)
        begun, over = re.findall(r"\d+", prompt.counterfactual)
        assert start in YEARS
        assert len(stem) == 4 - digits
        assert start[: len(stem)] == begun[: len(stem)] == stem == over
        assert begun == stem + "01"[-digits:]
        right, wrong = {prompt.completion, *prompt.accepted}, set(prompt.wrong)
        assert all(int(stem + end) > int(start) for end in right)
        assert all(int(stem + end) <= int(start) for end in wrong)
        assert len(right) + len(wrong) == 10**digits
        assert int(stem + prompt.wrong[0]) > int(begun)


@settings(max_examples=25)
@given(kind=st.sampled_from([*WORKS]), seed=SEEDS)
def test_docstring_asks_for_the_third_argument(kind, seed):
    def arguments(text):
        signature = re.search(r"def \w+\((?:self|cls), (.*)\):", text)
        return signature[1].split(", ")

    for prompt in circuit_prompts("docstring", tokenizer_of(kind), count=4, seed=seed):
        first, second, third, fourth = arguments(prompt.prefix)
        assert arguments(prompt.counterfactual) == [first, second, fourth, third]
        documented = re.findall(r"[:@]param (\w+):", prompt.prefix)
        assert documented == [first, second]
        assert re.search(r"[:@]param\Z", prompt.prefix)
        assert (prompt.completion, prompt.wrong) == (f" {third}", (f" {fourth}", f" {first}", f" {second}"))
        assert occurrences(third, prompt.prefix) == occurrences(fourth, prompt.prefix) == 1
        compile(prompt.prefix + prompt.completion + ': it\n"""\n', "prompt", "exec")


@settings(max_examples=25)
@given(kind=st.sampled_from([*WORKS]), seed=SEEDS)
def test_induction_repeats_random_tokens(kind, seed):
    for prompt in circuit_prompts("induction", tokenizer_of(kind), count=4, seed=seed):
        clean = tokens(kind, prompt.prefix, prompt.completion)
        other = tokens(kind, prompt.counterfactual, prompt.wrong[0])
        last = [position for position, token in enumerate(clean.ids) if token == clean.ids[-1]]
        assert len(last) == 2
        period = last[1] - last[0]
        assert 16 <= period <= 32
        again = len(clean.ids) - period
        assert clean.ids[:again] == clean.ids[period:]
        assert len(set(clean.ids)) == period
        assert clean.expected == clean.ids[again]
        assert other.expected == other.ids[again]
        assert other.expected not in clean.ids
        assert clean.ids[:again] + clean.ids[again + 1 :] == other.ids[:again] + other.ids[again + 1 :]


def test_induction_periods_vary():
    assert len({len(re.findall(r"\w+", prompt.prefix)) for prompt in drawn("bundled", "induction")}) > 10


@settings(max_examples=25)
@given(kind=KINDS, seed=SEEDS)
def test_gendered_pronouns_follow_the_name(kind, seed):
    pronoun = {"female": " she", "male": " he"}
    asked = []
    for prompt in circuit_prompts("gendered_pronouns", tokenizer_of(kind), count=4, seed=seed):
        (mine,) = [word for word in re.findall(r"\w+", prompt.prefix) if word in GENDER]
        (other,) = [word for word in re.findall(r"\w+", prompt.counterfactual) if word in GENDER]
        assert prompt.prefix.replace(mine, other) == prompt.counterfactual
        assert (prompt.completion, prompt.wrong) == (pronoun[GENDER[mine]], (pronoun[GENDER[other]],))
        assert not {"she", "he", "her", "his", "him"} & set(re.findall(r"\w+", prompt.prefix))
        asked.append(GENDER[mine])
    assert sorted(asked) == ["female", "female", "male", "male"]


# -- data files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CIRCUITS)
def test_every_set_has_a_source_and_says_what_its_counterfactual_is(name):
    data = DATA[name]
    assert re.search(r"20\d\d", data["source"])
    assert data["counterfactual"]
    assert data["language"] in ("text", "python")
    for words in data.get("words", {}).values():
        assert len(set(words)) == len(words)
    assert len(set(data.get("templates", []))) == len(data.get("templates", []))


def test_every_name_has_one_gender():
    assert not set(DATA["names"]["female"]) & set(DATA["names"]["male"])
    assert all(len(set(names)) == len(names) for names in DATA["names"].values())


def test_words_of_a_docstring_are_never_arguments():
    words = DATA["docstring"]["words"]
    assert not set(words["argument"]) & {*words["description"], *words["function"]}


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ioi", "at least 8 names whole, this one keeps 0 of 84: take a model with a larger vocabulary"),
        ("gendered_pronouns", "at least 2 pronouns whole, this one keeps 1 of 2"),
    ],
)
def test_a_tokenizer_that_splits_the_words_a_circuit_needs_is_refused(name, message):
    with pytest.raises(ModelError, match=f"circuit:{name} expected a tokenizer that keeps {message}"):
        drawn("bundled", name)


def test_a_tokenizer_of_letters_is_refused_by_every_circuit():
    letters = Tokenizer(models.BPE(unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<unk>"], show_progress=False))
    for name in CIRCUITS:
        with pytest.raises(ModelError, match=f"circuit:{name} expected a tokenizer"):
            circuit_prompts(name, letters, count=1)


def test_an_unknown_circuit_is_refused():
    with pytest.raises(ConfigError, match="expected a circuit, one of ioi, .*got 'acronyms'"):
        circuit_prompts("acronyms", tokenizer_of("gpt2"), count=1)


def test_a_tokenizer_that_truncates_is_refused():
    tokenizer = Tokenizer.from_str(tokenizer_of("gpt2").to_str())
    tokenizer.enable_truncation(8)
    with pytest.raises(ConfigError, match="neither truncates nor pads"):
        circuit_prompts("ioi", tokenizer, count=1)


def test_a_count_that_the_words_cannot_give_is_refused():
    with pytest.raises(SourceError, match=r"expected 10000 different .* found \d+ .*repeated.*ask for fewer"):
        circuit_prompts("gendered_pronouns", tokenizer_of("gpt2"), count=10_000)


def with_token(*texts):
    """A tokenizer like GPT-2's that makes each of these texts one token, wherever it occurs."""
    tokenizer = Tokenizer.from_str(tokenizer_of("gpt2").to_str())
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return tokenizer


def test_pairs_of_unequal_length_are_left_out():
    joined = [f" {name} sent a" for name in sorted(GENDER)[::2]]

    def uneven(prompts):
        return [p for p in prompts if any((text in p.prefix) != (text in p.counterfactual) for text in joined)]

    assert uneven(drawn("gpt2", "ioi"))
    tokenizer = with_token(*joined)
    kept = circuit_prompts("ioi", tokenizer, count=60)
    for prompt in kept:
        lengths = {len(tokenizer.encode(text).ids) for text in (prompt.prefix, prompt.counterfactual)}
        assert len(lengths) == 1


def test_pairs_whose_answer_merges_with_the_prompt_are_left_out():
    with pytest.raises(SourceError, match="found 0 with this tokenizer .*answer_merges 100"):
        circuit_prompts("gendered_pronouns", with_token("isn't she"), count=1)


def test_prompts_longer_than_a_window_are_left_out():
    lengths = [len(ids("gpt2", prompt.prefix)) for prompt in drawn("gpt2", "induction")]
    short = circuit_prompts("induction", tokenizer_of("gpt2"), count=60, length=40)
    assert max(lengths) > 40 >= max(len(ids("gpt2", prompt.prefix)) for prompt in short)
    with pytest.raises(SourceError, match="found 0 with this tokenizer .*too_long 100"):
        circuit_prompts("induction", tokenizer_of("gpt2"), count=1, length=8)
