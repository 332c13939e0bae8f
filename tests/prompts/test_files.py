"""Prompts are written and read back; whatever is not a prompt is refused by file, line and field."""

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.artifacts import write_table
from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.errors import ArtifactError, MalformedError, SourceError
from apmae.prompts.draw import build_prompts
from apmae.prompts.files import from_table, read_prompts, to_table, write_jsonl
from apmae.prompts.own import schema
from apmae.prompts.prompt import Answer, Prompt
from apmae.schema import PROMPTS

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
ROWS = st.lists(
    st.builds(
        Prompt,
        id=TEXT,
        task=TEXT,
        language=TEXT,
        path=TEXT,
        split=st.sampled_from(["train", "held_out"]),
        line=st.integers(1, 2**31 - 1),
        start=st.integers(0, 2**31 - 1),
        prefix=TEXT,
        completion=TEXT.filter(bool),
        suffix=st.none() | TEXT,
        outcome=st.sampled_from([None, "correct", "incorrect"]),
        accepted=st.lists(TEXT, max_size=2).map(tuple),
        wrong=st.lists(TEXT, max_size=2).map(tuple),
        group=st.none() | TEXT,
        counterfactual=st.none() | TEXT,
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda prompt: prompt.id,
)


@pytest.fixture(scope="module")
def prompts():
    return build_prompts(parse_source("bundled").handles((".java",)), PromptsConfig(per_task=5))[0]


@given(rows=ROWS)
def test_any_prompts_are_read_back_from_a_table(rows):
    table = to_table(rows)
    assert table.schema == PROMPTS
    assert from_table(table) == rows


@given(rows=ROWS)
def test_any_prompts_are_read_back_from_jsonl(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "prompts.jsonl"
    write_jsonl(path, rows)
    assert read_prompts(path) == rows


def test_drawn_prompts_are_read_back_from_parquet(tmp_path, prompts):
    write_table(tmp_path / "prompts.parquet", to_table(prompts))
    assert read_prompts(tmp_path / "prompts.parquet") == prompts
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts


def test_the_order_of_columns_and_additional_ones_do_not_matter(tmp_path, prompts):
    table = to_table(prompts)
    table = table.select(table.column_names[::-1]).append_column("score", pa.array([0.5] * len(prompts)))
    write_table(tmp_path / "prompts.parquet", table)
    assert read_prompts(tmp_path / "prompts.parquet") == prompts


def lines(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def test_a_line_needs_only_a_prompt_and_a_completion(tmp_path):
    path = lines(
        tmp_path, {"prompt": "int x =\n ", "completion": "1"}, b"", {"prompt": "", "completion": "b", "mine": 3}
    )
    first, second = read_prompts(path)
    assert first == Prompt(
        id="line-1",
        task="custom",
        language="unknown",
        path="mine.jsonl:1",
        split=first.split,
        line=2,
        start=9,
        prefix="int x =\n ",
        completion="1",
        suffix=None,
        outcome=None,
    )
    assert (second.id, second.path) == ("line-3", "mine.jsonl:3")


def test_lines_of_one_group_count_as_one_file(tmp_path):
    path = lines(tmp_path, {**GOOD, "group": "t"}, {**GOOD, "group": "t"}, {**GOOD, "group": "t", "path": "own"}, GOOD)
    assert [prompt.path for prompt in read_prompts(path)] == ["mine.jsonl:t", "mine.jsonl:t", "own", "mine.jsonl:4"]


def test_a_line_may_have_further_fields(tmp_path):
    row = {"prompt": "a", "completion": "b", "suffix": "", "task": "my own", "id": "é", "path": "x/Y.java", "line": 7}
    others = [{**row, "id": str(number), "suffix": None} for number in range(20)]
    first, second, *rest = read_prompts(lines(tmp_path, b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r", *others))
    assert (first.suffix, first.task, first.id, first.path, first.line) == ("", "my own", "é", "x/Y.java", 7)
    assert second.suffix is None
    assert {prompt.split for prompt in rest} == {first.split}, "prompts of one file share its split"


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, r"line 2: expected text in field 'completion', it is missing"),
        ({"completion": "a"}, r"line 2: expected a string in field 'prompt', it is missing"),
        ({**GOOD, "completion": ""}, r"line 2: expected text in field 'completion', it is empty"),
        ({**GOOD, "completion": None}, r"line 2: expected text in field 'completion', got None"),
        ({**GOOD, "suffix": 3}, r"line 2: expected a string in field 'suffix', got 3"),
        ({**GOOD, "id": 3}, r"line 2: expected a string in field 'id', got 3"),
        ({**GOOD, "line": -1}, r"line 2: expected a count from 1 in field 'line', got -1"),
        ({**GOOD, "line": True}, r"line 2: expected a count from 1 in field 'line', got True"),
        ({**GOOD, "start": 2**31}, r"line 2: expected a count from 0 in field 'start'"),
        ({**GOOD, "split": "test"}, r"line 2: expected train, atlas or held_out in field 'split', got 'test'"),
        ({**GOOD, "outcome": "yes"}, r"line 2: expected correct or incorrect in field 'outcome', got 'yes'"),
        ({**GOOD, "prompt": "\ud800"}, r"line 2: expected Unicode text in field 'prompt'"),
        ({**GOOD, "group": 3}, r"line 2: expected a string in field 'group', got 3"),
        ({**GOOD, "counterfactual": "\udc00"}, r"line 2: expected Unicode text in field 'counterfactual'"),
        ({**GOOD, "wrong": "c"}, r"line 2: expected a list of strings in field 'wrong', got 'c'"),
        ({**GOOD, "accepted": ["c", 3]}, r"line 2: expected a list of strings in field 'accepted', got 3"),
        ({**GOOD, "line": 0}, r"line 2: expected a count from 1 in field 'line', got 0"),
        ({**GOOD, "sufix": "c"}, r"line 2: expected a known field, got 'sufix'; is it 'suffix'\?"),
        ({**GOOD, "id": "line-1"}, r"line 2: expected a unique id, 'line-1' is also that of line 1"),
        (b'{"prompt": "a", "completion"', r"line 2: expected a JSON object"),
        (b"[1, 2]", r"line 2: expected a JSON object, got '\[1, 2\]';"),
        ('"日"'.encode(), r"line 2: expected a JSON object, got '\"日\"';"),
        (b'"\x1b[2J', r"line 2: expected a JSON object"),
        (
            b'{"prompt": "a", "completion": "b", "prompt": "c"}',
            r"line 2: expected field 'prompt' once, it is there 2",
        ),
        (b'{"prompt": "\xff"}', r"line 2: expected UTF-8"),
        (b"[" * 100_000, r"line 2: expected a JSON object"),
    ],
)
def test_a_line_that_is_not_a_prompt_is_refused_by_line_and_field(tmp_path, row, message):
    path = lines(tmp_path, GOOD, row)
    with pytest.raises(SourceError, match=r"mine\.jsonl: " + message) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_every_mistake_of_a_file_is_named(tmp_path):
    path = lines(tmp_path, {"prompt": 1, "suffix": 2, "langage": "x"}, GOOD, b"{", GOOD | {"id": "line-2"})
    with pytest.raises(MalformedError) as caught:
        read_prompts(path)
    assert not caught.value.more
    places = [re.match(r"line \d+", mistake)[0] for mistake in caught.value.mistakes]
    fields = [(re.findall(r"'([\w-]+)'", mistake) or [None])[0] for mistake in caught.value.mistakes]
    assert list(zip(places, fields, strict=True)) == [
        ("line 1", "prompt"),
        ("line 1", "completion"),
        ("line 1", "suffix"),
        ("line 1", "langage"),
        ("line 3", None),
        ("line 4", "line-2"),
    ]
    assert str(caught.value).startswith(f"{path}: 6 mistakes: line 1: ")
    assert "\n" not in str(caught.value)


def test_twenty_mistakes_are_enough(tmp_path):
    with pytest.raises(MalformedError, match=r"20 mistakes and perhaps more: line 1: ") as caught:
        read_prompts(lines(tmp_path, *[{"prompt": "a"}] * 50))
    assert len(caught.value.mistakes) == 20
    assert caught.value.more
    assert caught.value.mistakes[-1].startswith("line 20: ")


def test_the_schema_describes_a_line():
    found = schema()
    assert found["required"] == ["prompt", "completion"]
    assert list(found["properties"])[:7] == [
        *("prompt", "completion", "suffix", "task", "id", "group", "counterfactual"),
    ]
    written = {"prompt" if field.name == "prefix" else field.name for field in dataclasses.fields(Prompt)} - {"answer"}
    assert set(found["properties"]) == written
    assert all(field["description"] for field in found["properties"].values())
    assert found["properties"]["completion"]["minLength"] == 1
    assert {"enum": ["train", "atlas", "held_out"], "type": "string"} in found["properties"]["split"]["anyOf"]
    line = {"exclusiveMaximum": 2**31, "minimum": 1, "type": "integer"}
    assert found["properties"]["line"]["anyOf"] == [line, {"type": "null"}]


def test_the_example_of_the_documents_is_prompts():
    prompts = read_prompts(Path(__file__).parents[2] / "docs" / "prompts.jsonl")
    assert {prompt.group for prompt in prompts} > {None}
    assert any(prompt.counterfactual for prompt in prompts)
    assert any(prompt.suffix is None for prompt in prompts)


def test_tables_without_the_newest_columns_are_read(prompts):
    table = to_table(prompts).drop_columns(["group", "counterfactual", "accepted", "wrong"])
    assert from_table(table) == prompts


ANSWER = Answer(
    predicted=";", correct=False, text_correct=False, token_correct=True, max_probability=0.5,
    expected_probability=0.25, margin=0.125, entropy=1.5,
    log_probability=-3.5, exact=False,
)  # fmt: skip


def test_parquet_keeps_an_answer_and_jsonl_its_outcome(tmp_path, prompts):
    asked = [
        replace(prompts[0], outcome="incorrect", answer=ANSWER),
        replace(prompts[1], outcome="correct", answer=ANSWER._replace(correct=True, log_probability=None, exact=None)),
        replace(prompts[2], outcome="correct"),
        prompts[3],
    ]
    write_table(tmp_path / "asked.parquet", to_table(asked))
    assert read_prompts(tmp_path / "asked.parquet") == asked
    some = to_table(asked).drop_columns(["margin", "repository"])  # as a user might write it
    assert from_table(some) == [replace(prompt, answer=None) for prompt in asked]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    assert read_prompts(tmp_path / "asked.jsonl") == [replace(prompt, answer=None) for prompt in asked]


def test_jsonl_and_parquet_hold_the_same_prompts(tmp_path):
    path = lines(tmp_path, {**GOOD, "group": "g", "counterfactual": "c"}, GOOD)
    write_table(tmp_path / "mine.parquet", to_table(read_prompts(path)))
    write_jsonl(tmp_path / "back.jsonl", read_prompts(tmp_path / "mine.parquet"))
    assert read_prompts(tmp_path / "back.jsonl") == read_prompts(path)


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(SourceError, match="expected a file of prompts at .*, found none"):
        read_prompts(tmp_path / "gone.jsonl")
    with pytest.raises(SourceError, match=r"expected prompts in a \.parquet or \.jsonl file"):
        read_prompts(tmp_path / "prompts.csv")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(SourceError, match=r"empty\.jsonl: expected at least one prompt"):
        read_prompts(tmp_path / "empty.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(ArtifactError, match="damaged"):
        read_prompts(tmp_path / "bad.parquet")


def change(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.drop_columns(["suffix", "completion"]), "missing completion, suffix"),
        (lambda t: change(t, "completion", [None] * len(t)), "column completion, found nulls"),
        (lambda t: change(t, "line", ["x"] * len(t)), "column types"),
        (lambda t: change(t, "start", [2**40] * len(t)), "column types"),
        (lambda t: change(t, "completion", [""] * len(t)), "row 0: expected a completion"),
        (lambda t: change(t, "id", ["same"] * len(t)), "row 1: expected a unique id, 'same' is also that of row 0"),
        (lambda t: change(t, "wrong", [["x", None]] * len(t)), "strings in columns accepted and wrong, found nulls"),
        (lambda t: t.slice(0, 0), "expected at least one prompt"),
    ],
)
def test_a_table_that_does_not_hold_prompts_is_refused_in_one_line(tmp_path, prompts, edit, message):
    pq.write_table(edit(to_table(prompts)), tmp_path / "bad.parquet")
    with pytest.raises(SourceError, match=r"bad\.parquet: .*" + message) as caught:
        read_prompts(tmp_path / "bad.parquet")
    assert "\n" not in str(caught.value)
