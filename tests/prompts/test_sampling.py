"""Drawing from the bundled Java sample and from small folders made here."""

from collections import Counter, defaultdict
from dataclasses import fields, replace
from importlib import resources
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from apmae.config import TASKS, PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.errors import ConfigError, SourceError
from apmae.prompts.sampling import REGION, Prompt, Quota, build_prompts, candidates, split_of
from apmae.prompts.tasks import find_spans
from apmae.schema import PROMPTS

ROOT = resources.files("apmae") / "bundled"
JAVA = ROOT / "java"
TOKENIZER = Tokenizer.from_file(str(ROOT / "language_model" / "tokenizer.json"))
TEXTS = {f"java/{file.relative_to(JAVA).as_posix()}": file.read_bytes().decode() for file in JAVA.glob("**/*.java")}


def draw(config, *, source=JAVA, tokenizer=None, limit=None, wants=lambda task: True):
    rejected = Counter()
    files = list_sources([source], suffixes=(".java",))
    drawn = candidates(files, config, tokenizer=tokenizer, rejected=rejected, wants=wants)
    return list(islice(drawn, limit)), rejected


@pytest.fixture(scope="module")
def drawn():
    return draw(PromptsConfig(seed=3), tokenizer=TOKENIZER, limit=3000)[0]


def test_the_fields_of_a_prompt_are_the_columns():
    assert [field.name for field in fields(Prompt)] == PROMPTS.names


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
        assert prompt.split == split_of(prompt.path, 3)


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


def test_the_first_round_visits_every_file_once_with_one_prompt_a_task():
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
        (tmp_path / "src" / name).write_text("class A {\n" + "    int a = 1 + 2, b = 3;\n" * 30 + "}\n")
    few, _ = draw(PromptsConfig(tasks=("identifier",)), source=tmp_path / "src", limit=3)
    (tmp_path / "src" / "More.java").write_text("class More { int x = 4; }\n")
    more, _ = draw(PromptsConfig(tasks=("numeric_literal", "identifier")), source=tmp_path / "src", limit=8)
    kept = [prompt for prompt in more if prompt.task == "identifier" and not prompt.path.endswith("More.java")]
    assert kept == few


def test_rounds_go_on_until_every_span_was_drawn_once(tmp_path):
    for name in "AB":
        (tmp_path / f"{name}.java").write_text(f"class {name} {{\n    int x = 10 + 20;\n    boolean y = true;\n}}\n")
    everything, rejected = draw(PromptsConfig(), source=tmp_path)
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
    """With or without a model: a table of prompts may be encoded by another one."""
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
    files = list_sources([tmp_path], suffixes=(".java",))
    drawn = candidates(files, config, rejected=rejected, wants=quota.wants)
    first = next(drawn)
    assert quota.offer(first)
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xff")
    assert list(drawn) == []
    assert not rejected, "no further file was opened"


def test_the_splits_part_the_files_one_to_four():
    train, _ = draw(PromptsConfig(split="train", seed=5), limit=900)
    held_out, _ = draw(PromptsConfig(split="held_out", seed=5), limit=300)
    assert {prompt.split for prompt in train} == {"train"}
    assert {prompt.split for prompt in held_out} == {"held_out"}
    assert not {prompt.path for prompt in train} & {prompt.path for prompt in held_out}
    shares = [split_of(f"src/File{index}.java", 0) == "held_out" for index in range(5000)]
    assert 0.18 < sum(shares) / len(shares) < 0.22


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
        text = "class A {\n" + "    int field = 1;\n" * 5000 + "}\n"
        (tmp_path / f"F{name}.java").write_text(text)
    drawn, _ = draw(PromptsConfig(tasks=("random",)), source=tmp_path, tokenizer=TOKENIZER, limit=40)
    assert len({prompt.path for prompt in drawn}) == 40
    for prompt in drawn:
        assert text[prompt.start : prompt.start + len(prompt.completion)] == prompt.completion
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


def test_build_prompts_fills_every_task():
    config = PromptsConfig(per_task=12, seed=9)
    prompts, counts = build_prompts([JAVA], config, tokenizer=TOKENIZER)
    assert Counter(prompt.task for prompt in prompts) == dict.fromkeys(TASKS, 12)
    assert counts["files"] == len(TEXTS)
    assert counts["prompts"] == dict.fromkeys(TASKS, {"correct": 0, "incorrect": 0, "unknown": 12})
    assert prompts == build_prompts([JAVA], config, tokenizer=TOKENIZER)[0]


def test_build_prompts_says_what_is_short(tmp_path):
    (tmp_path / "A.java").write_text("class A { boolean x = true; }\n")
    _, counts = build_prompts([tmp_path], PromptsConfig(per_task=5))
    assert counts["prompts"]["boolean_literal"]["unknown"] == 1
    assert counts["prompts"]["string_literal"]["unknown"] == 0
    assert counts["rejected"]["no_span"] > 0


def test_build_prompts_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ConfigError, match="outcome 'balanced' needs a language model"):
        build_prompts([JAVA], PromptsConfig(outcome="balanced"))
    (tmp_path / "A.java").write_text("// nothing\n")
    with pytest.raises(SourceError, match=r"in 1 files, found none \(no_span: 1\)"):
        build_prompts([tmp_path], PromptsConfig(tasks=("identifier",)))


def test_a_tokenizer_that_truncates_is_refused():
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(8)
    with pytest.raises(ConfigError, match="neither truncates nor pads"):
        draw(PromptsConfig(), tokenizer=tokenizer, limit=1)
