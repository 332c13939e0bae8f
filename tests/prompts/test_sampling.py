"""Drawing from the bundled Java sample and from small folders made here."""

import re
from collections import Counter, defaultdict
from dataclasses import fields, replace
from importlib import resources
from itertools import combinations, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from apmae.config import TASKS, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.errors import ConfigError
from apmae.prompts.prompt import SPLITS, Answer, Prompt, split_of
from apmae.prompts.sampling import REGION, Quota, candidates
from apmae.prompts.similar import Windows
from apmae.prompts.tasks import find_spans
from apmae.schema import PROMPTS

ROOT = resources.files("apmae") / "bundled"
JAVA = ROOT / "java"
TOKENIZER = Tokenizer.from_file(str(ROOT / "language_model" / "tokenizer.json"))
TEXTS = {f"java/{file.relative_to(JAVA).as_posix()}": file.read_bytes().decode() for file in JAVA.glob("**/*.java")}


def draw(config, *, source=JAVA, tokenizer=None, limit=None, wants=lambda task: True):
    rejected = Counter()
    files = parse_source(source).handles((".java",))
    drawn = candidates(files, config, tokenizer=tokenizer, rejected=rejected, wants=wants)
    return list(islice(drawn, limit)), rejected


@pytest.fixture(scope="module")
def drawn():
    return draw(PromptsConfig(seed=3), tokenizer=TOKENIZER, limit=3000)[0]


def test_the_fields_of_a_prompt_are_the_columns():
    absent = {"correct", "predicted_id", "second_id", "expected_id"}  # "outcome" says the first; tables hold no ids
    answer = [name for name in Answer._fields if name not in absent]
    names = [name for field in fields(Prompt) for name in (answer if field.name == "answer" else [field.name])]
    assert names == PROMPTS.names


def test_a_prompt_is_a_piece_of_its_file(drawn):
    for prompt in drawn:
        text = TEXTS[prompt.path]
        end = prompt.start + len(prompt.completion)
        assert text[prompt.start : end] == prompt.completion != ""
        assert text[: prompt.start].endswith(prompt.prefix)
        assert text[end:].startswith(prompt.suffix)
        assert prompt.prefix
        assert prompt.line == len(text[: prompt.start].split("\n"))
        assert (prompt.language, prompt.outcome) == ("java", None)
        assert prompt.split == split_of(prompt.path)


def test_contexts_are_whole_unless_they_are_long(drawn):
    limit = 32 * 256
    for prompt in drawn:
        before = TEXTS[prompt.path][: prompt.start]
        if len(before) <= limit:
            assert prompt.prefix == before
        else:
            assert limit // 2 <= len(prompt.prefix) <= limit
            assert before[: -len(prompt.prefix)].endswith("\n")


def test_a_span_is_one_of_its_task(drawn):
    spans = {path: find_spans(text, "java") for path, text in TEXTS.items()}
    for prompt in drawn:
        if prompt.task != "random":
            assert (prompt.start, prompt.start + len(prompt.completion)) in spans[prompt.path][prompt.task]
        else:
            assert prompt.completion.strip()
            assert 2 <= len(TOKENIZER.encode(prompt.completion, add_special_tokens=False).ids) <= 12


def test_ids_are_unique_and_no_span_comes_twice(drawn):
    assert len({prompt.id for prompt in drawn}) == len(drawn)
    assert len({(prompt.path, prompt.start, prompt.task) for prompt in drawn}) == len(drawn)


def test_the_first_round_visits_every_file_once_with_one_prompt_per_task():
    first, rejected = draw(PromptsConfig(), limit=500)
    order = list(dict.fromkeys(prompt.path for prompt in first))
    runs = [prompt.path for index, prompt in enumerate(first) if not index or first[index - 1].path != prompt.path]
    assert runs == order, "each file is visited once"
    by_file = defaultdict(list)
    for prompt in first:
        by_file[prompt.path].append(prompt.task)
    for tasks in list(by_file.values())[:-1]:
        assert tasks == [task for task in TASKS if task in tasks], "each task once, in turn"
    complete = list(by_file)[:-1]
    assert sum(len(by_file[path]) for path in complete) + rejected["no_span"] >= len(complete) * len(TASKS)
    assert order != sorted(order)


def test_a_draw_depends_on_the_seed_alone():
    config = PromptsConfig(seed=1)
    again, _ = draw(config, limit=200)
    assert again == draw(config, limit=200)[0]
    assert again != draw(PromptsConfig(seed=2), limit=200)[0]


def test_other_tasks_and_other_files_change_no_draw(tmp_path):
    names = ["Fields.java", "Loop.java", "Names.java"]
    for name in names:
        (tmp_path / "src").mkdir(exist_ok=True)
        text = "class A {\n" + "".join(f"    int {name[0]}{n} = {n} + 2, b{n} = 3;\n" for n in range(99)) + "}\n"
        (tmp_path / "src" / name).write_text(text)
    few, _ = draw(PromptsConfig(tasks=("identifier",)), source=tmp_path / "src", limit=3)
    (tmp_path / "src" / "More.java").write_text("class More { int x = 4; }\n")
    more, _ = draw(PromptsConfig(tasks=("numeric_literal", "identifier")), source=tmp_path / "src", limit=8)
    kept = [prompt for prompt in more if prompt.task == "identifier" and not prompt.path.endswith("More.java")]
    assert kept == few


def test_rounds_continue_until_every_span_was_drawn_once(tmp_path):
    for name in "AB":
        (tmp_path / f"{name}.java").write_text(f"class {name} {{\n    int x = 10 + 20;\n    boolean y = true;\n}}\n")
    everything, rejected = draw(PromptsConfig(similar=1), source=tmp_path)
    for path in {prompt.path for prompt in everything}:
        mine = [prompt for prompt in everything if prompt.path == path]
        text = (tmp_path / path.split("/")[-1]).read_text()
        for task, spans in find_spans(text, "java").items():
            found = sorted((p.start, p.start + len(p.completion)) for p in mine if p.task == task)
            assert found == [tuple(span) for span in spans if span.start]
        assert len({p.start for p in mine if p.task == "random"}) == sum(p.task == "random" for p in mine) > 10
    # string_literal and boolean_operator, in two files, counted once
    assert rejected == {"no_span": 4}


def test_a_span_at_the_very_start_is_not_drawn(tmp_path):
    (tmp_path / "A.java").write_text("A a; int b = 2;")
    everything, _ = draw(PromptsConfig(), source=tmp_path)
    assert any(prompt.task == "random" for prompt in everything)
    assert [p.completion for p in everything if p.task == "identifier" and p.completion == "A"] == []
    assert min(prompt.start for prompt in everything) > 0


def test_broken_and_unreadable_files_are_counted_once(tmp_path):
    (tmp_path / "A.java").write_text("class A { int x = ; true ) }\nclass B { int y = 1, z = 2; }\n")
    (tmp_path / "B.java").write_bytes("class Ä {}".encode("latin-1"))
    everything, rejected = draw(PromptsConfig(tasks=("numeric_literal", "identifier")), source=tmp_path)
    assert {prompt.completion for prompt in everything if prompt.task == "numeric_literal"} == {"1", "2"}
    assert rejected == {"parse_error": 1, "not_utf8": 1}


@pytest.mark.parametrize(
    "name", ["<fim_suffix>", "<|fim_middle|>", "<｜fim▁hole｜>", "[SUFFIX]", "▁<MID>", "<|mask:0|>"]
)
def test_a_prompt_that_spells_a_sentinel_is_rejected_and_counted(tmp_path, name):
    """With or without a model: another model may encode the same table of prompts."""
    lines = "".join(f"    int field = {number}; // {'x' * 1000}\n" for number in range(20))
    (tmp_path / "A.java").write_text(f'class A {{\n    String s = "{name}";\n{lines}}}\n')
    drawn, rejected = draw(PromptsConfig(tasks=("numeric_literal",)), source=tmp_path)
    # contexts are whole lines within 32 * 256 characters
    assert sorted(int(prompt.completion) for prompt in drawn) == list(range(8, 20))
    assert rejected == {"sentinel_in_text": 8}
    assert not any(name in prompt.prefix + prompt.completion + (prompt.suffix or "") for prompt in drawn)


def test_special_tokens_of_the_tokenizer_are_rejected_too_but_no_others(tmp_path):
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_special_tokens([AddedToken("<turn>"), AddedToken("    ")])
    tokenizer.add_tokens([AddedToken("int")])
    for name, spelled in {"A": "<turn>", "B": "<PRE>", "C": "fim_suffix"}.items():
        (tmp_path / f"{name}.java").write_text(f"/** {spelled} */\nclass {name} {{\n    int x = 1;\n}}\n")
    config = PromptsConfig(tasks=("numeric_literal",))
    drawn, rejected = draw(config, source=tmp_path, tokenizer=tokenizer)
    assert sorted(prompt.path[-6:] for prompt in drawn) == ["B.java", "C.java"]
    assert rejected == {"sentinel_in_text": 1}
    assert len(draw(config, source=tmp_path)[0]) == 3


def test_a_task_that_is_not_wanted_is_not_drawn():
    some, _ = draw(PromptsConfig(), limit=60, wants=lambda task: task in ("eol", "random"))
    assert {prompt.task for prompt in some} == {"eol", "random"}
    assert draw(PromptsConfig(), wants=lambda task: False) == ([], {})


def test_reading_stops_when_nothing_is_wanted(tmp_path):
    (tmp_path / "A.java").write_text("class A { int x = 1; }\n")
    (tmp_path / "B.java").write_text("class B { int x = 1; }\n")
    config = PromptsConfig(per_task=1, tasks=("identifier",))
    quota, rejected = Quota(config), Counter()
    files = parse_source(tmp_path).handles((".java",))
    drawn = candidates(files, config, rejected=rejected, wants=quota.wants)
    first = next(drawn)
    assert quota.offer(first)
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xff")
    assert list(drawn) == []
    assert not rejected, "no further file was opened"


def test_every_file_is_in_one_split():
    drawn = {split: draw(PromptsConfig(split=split, seed=5), limit=300)[0] for split in SPLITS}
    paths = {split: {prompt.path for prompt in prompts} for split, prompts in drawn.items()}
    for split, prompts in drawn.items():
        assert {prompt.split for prompt in prompts} == {split}
    assert not paths["train"] & paths["atlas"] | paths["train"] & paths["held_out"] | paths["atlas"] & paths["held_out"]
    shares = Counter(split_of(f"src/File{index}.java") for index in range(5000))
    assert shares == {split: pytest.approx(5000 * share, abs=150) for split, share in SPLITS.items()}


def repositories(folder, count, files=3):
    """A folder of repositories, some of them deeper than others."""
    for number in range(count):
        root = folder / ("forks" if number % 2 else "") / f"repository{number}"
        (root / ".git").mkdir(parents=True)
        for index in range(files if number else 40):
            (root / "src").mkdir(exist_ok=True)
            words = " ".join(f"int x{number}_{index}_{word} = {word};" for word in range(60))
            (root / "src" / f"F{index}.java").write_text(f"class F{number} {{ {words} }}\n")
    return folder


def test_no_draw_puts_a_file_into_two_splits(tmp_path):
    """Whatever the seed, the tasks, the numbers and the other files."""
    folder = repositories(tmp_path / "code", 6)
    other = tmp_path / "other"
    other.mkdir()
    for name in range(30):
        (other / f"O{name}.java").write_text(f"class O{name} {{ int o{name} = {name}; }}\n")
    found = defaultdict(set)
    for seed, tasks, sources in (
        *((seed, ("identifier",), [folder, other]) for seed in range(4)),
        (0, ("random", "numeric_literal"), [other, folder]),
        (1, ("eol", "identifier"), [other]),
        (2, ("identifier",), [folder]),
    ):
        for split in SPLITS:
            config = PromptsConfig(tasks=tasks, split=split, seed=seed, similar=1)
            listed = list_sources(map(parse_source, sources), suffixes=(".java",))
            for prompt in islice(candidates(listed, config, rejected=Counter()), 40):
                found[prompt.path].add(split)
                found[prompt.repository or prompt.path].add(split)
    assert len(found) > 40
    assert all(len(splits) == 1 for splits in found.values())


def test_the_files_of_a_repository_share_a_split(tmp_path):
    folder = repositories(tmp_path / "code", 20)
    config = PromptsConfig(tasks=("identifier",), per_file=1)
    splits, drawn = defaultdict(set), Counter()
    for split in SPLITS:
        for prompt in draw(config.model_copy(update={"split": split}), source=folder)[0]:
            assert prompt.split == split
            assert prompt.path.startswith(f"{prompt.repository}/src/")
            splits[prompt.repository].add(split)
            drawn[prompt.repository] += 1
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values()), "no repository is in two splits"
    assert {split for found in splits.values() for split in found} == set(SPLITS)
    assert sum(drawn.values()) == 40 + 19 * 3


def test_a_draw_is_spread_over_repositories(tmp_path):
    folder = repositories(tmp_path / "code", 5)
    order = [prompt.repository for prompt in draw(PromptsConfig(tasks=("identifier",)), source=folder, limit=20)[0]]
    assert Counter(order[:15]) == dict.fromkeys(set(order), 3), "one has 40 files, the others three"
    assert all(len(set(order[turn * 5 : turn * 5 + 5])) == 5 for turn in range(3))
    assert len(set(order[15:])) == 1


def test_a_copy_of_a_file_gives_no_prompt(tmp_path):
    text = TEXTS[next(path for path, text in TEXTS.items() if len(text) > 3000)]
    (tmp_path / "A.java").write_text(text)
    config = PromptsConfig(tasks=("identifier", "eol"), per_file=1)
    alone, rejected = draw(config, source=tmp_path)
    assert (len(alone), rejected) == (2, {})
    (tmp_path / "A.java").unlink()
    for name in ("A", "B", "C"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "A.java").write_text(text.replace("\n", "\r\n") if name == "B" else text)
    # each copy draws its own spans, which may be far apart: no window may come twice
    drawn, rejected = draw(PromptsConfig(tasks=("identifier",)), source=tmp_path)
    assert rejected["near_identical"] > len(drawn) > 1
    for one, other in combinations(drawn, 2):
        assert jaccard(one, other) < 0.93, "the estimate is off by three standard errors at most"


def jaccard(one, other):
    """The exact share of runs of five words that two prompts' surroundings have in common."""
    sets = []
    for prompt in (one, other):
        half = 4 * 256 // 2
        right = prompt.suffix[: max(half, 2 * half - len(prompt.prefix))]
        left = prompt.prefix[-(2 * half - len(right)) :]
        words = re.findall(r"\w+|[^\w\s]", f"{left}\ufffc{prompt.completion}\ufffc{right}")
        sets.append({tuple(words[at : at + 5]) for at in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_windows_that_differ_are_kept(drawn):
    """Over the bundled sources: windows that are left out are alike, those that are kept are not."""
    kept = [prompt for prompt in drawn if prompt.task == "identifier"][:120]
    assert len({prompt.path for prompt in kept}) > 60
    assert max(jaccard(one, other) for one, other in combinations(kept, 2)) < 0.93


def test_a_file_that_repeats_itself_is_given_up(tmp_path):
    (tmp_path / "A.java").write_text("class A {\n" + "    int field = 1;\n" * 5000 + "}\n")
    drawn, rejected = draw(PromptsConfig(tasks=("numeric_literal",)), source=tmp_path)
    assert 1 <= len(drawn) < 10
    assert rejected["near_identical"] < 60


def test_at_1_only_identical_windows_are_left_out(tmp_path):
    """Also in text that repeats itself, or differs in one word of hundreds, which no estimate can tell."""
    lines = [f"    int field = {number // 90}; // {'x' * 9}\n" for number in range(99)]
    for name in "ABB":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "A.java").write_text("class A {\n" + "".join(lines) + "}\n")
    drawn, rejected = draw(PromptsConfig(tasks=("numeric_literal",), similar=1), source=tmp_path)
    assert len(drawn) > 20
    assert rejected["near_identical"] > 0
    assert len({prompt.path for prompt in drawn}) == 2
    texts = [Windows(256, 1, 0)._text(prompt) for prompt in drawn]
    assert len(set(texts)) == len(texts)
    one = next(prompt for prompt in drawn if len(prompt.prefix) > 600)
    other = replace(one, prefix=one.prefix[:-300] + "y" + one.prefix[-299:])
    seen = Windows(256, 1, 0)
    assert [seen.add(one), seen.add(other), seen.add(one), seen.add(replace(one, task="eol"))] == [
        True,
        True,
        False,
        True,
    ]


def test_a_file_gives_at_most_per_file_prompts():
    for most in (1, 2):
        drawn, _ = draw(PromptsConfig(per_file=most))
        assert max(Counter((prompt.path, prompt.task) for prompt in drawn).values()) == most


def test_a_random_span_is_not_blank(tmp_path):
    text = "class A {" + "".join("\n" + " " * (index % 7) for index in range(300)) + "int b; }"
    (tmp_path / "A.java").write_text(text)
    drawn, _ = draw(PromptsConfig(tasks=("random",)), source=tmp_path, tokenizer=TOKENIZER)
    offsets = TOKENIZER.encode(text, add_special_tokens=False).offsets
    assert not text[offsets[5][0] : offsets[15][1]].strip()
    assert drawn
    assert all(prompt.completion.strip() for prompt in drawn)


def test_random_spans_of_a_long_file_come_from_anywhere_in_it(tmp_path):
    starts = set()
    for name in range(40):
        text = "class A {\n" + "".join(f"    int field{name}_{line:04d};\n" for line in range(4000)) + "}\n"
        (tmp_path / f"F{name}.java").write_text(text)
    drawn, _ = draw(PromptsConfig(tasks=("random",)), source=tmp_path, tokenizer=TOKENIZER, limit=40)
    assert len({prompt.path for prompt in drawn}) == 40
    for prompt in drawn:
        own = (tmp_path / prompt.path.rpartition("/")[2]).read_text()
        assert own[prompt.start : prompt.start + len(prompt.completion)] == prompt.completion
        starts.add(prompt.start * 4 // len(text))
    assert starts == {0, 1, 2, 3}
    assert len(text) > 4 * REGION


PROMPT = Prompt(
    id="0",
    task="eol",
    language="java",
    path="A.java",
    split="train",
    line=1,
    start=1,
    prefix="a",
    completion="b",
    suffix=None,
)
OUTCOMES = st.sampled_from([None, "correct", "incorrect"])


@given(
    offers=st.lists(st.tuples(st.sampled_from(["eol", "identifier", "custom"]), OUTCOMES), max_size=60),
    per_task=st.integers(1, 7),
    outcome=st.sampled_from(["any", "balanced", "correct"]),
)
def test_a_quota_takes_what_it_needs_and_no_more(offers, per_task, outcome):
    quota = Quota(PromptsConfig(tasks=("eol", "identifier"), per_task=per_task, outcome=outcome))
    offered, accepted = Counter(), Counter()
    for task, result in offers:
        wanted = quota.wants(task)
        offered[task, result] += 1
        taken = quota.offer(replace(PROMPT, task=task, outcome=result))
        assert wanted or not taken, "what is not wanted is not taken"
        accepted[task, result] += taken
    for task in ("eol", "identifier"):
        right, wrong, unknown = (accepted[task, result] for result in ("correct", "incorrect", None))
        sent = {result: offered[task, result] for result in ("correct", "incorrect", None)}
        half = per_task // 2
        if outcome == "any":
            assert right + wrong + unknown == min(per_task, sum(sent.values()))
        elif outcome == "correct":
            assert (right, wrong, unknown) == (min(per_task, sent["correct"]), 0, 0)
        else:
            assert right == min(per_task - half, sent["correct"])
            assert wrong == min(half, sent["incorrect"])
            assert unknown == 0
        assert quota.counts()[task] == {"correct": right, "incorrect": wrong, "unknown": unknown}
        assert quota.wants(task) == (right + wrong + unknown < per_task)
    assert not quota.wants("custom")
    assert not accepted["custom", "correct"]
    assert quota.full == (sum(accepted.values()) == 2 * per_task)


def test_a_tokenizer_that_truncates_is_refused():
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(8)
    with pytest.raises(ConfigError, match="neither truncates nor pads"):
        draw(PromptsConfig(), tokenizer=tokenizer, limit=1)
