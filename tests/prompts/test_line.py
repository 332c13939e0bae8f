"""Prompts from one line of a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apmae.errors import SourceError
from apmae.prompts.line import line_prompt, task_prompt
from apmae.prompts.tasks import find_spans

JAVA = "class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n"


@pytest.fixture
def java(tmp_path):
    path = tmp_path / "A.java"
    path.write_text(JAVA)
    return path


def test_a_line_is_completed_after_its_indentation(java):
    prompt = line_prompt(java, 3)
    assert prompt.prefix == "class A {\n    int twice(int x) {\n        "
    assert prompt.completion == "return x * 2;"
    assert prompt.suffix == "\n    }\n}\n"
    assert (prompt.path, prompt.line, prompt.start) == (str(java), 3, len(prompt.prefix))


def test_a_line_is_completed_from_a_column(java):
    prompt = line_prompt(java, 3, column=16)
    assert (prompt.prefix[-7:], prompt.completion) == ("return ", "x * 2;")
    assert line_prompt(java, 3, column=22).completion == "\n", "after the last character the line end is completed"
    assert line_prompt(java, 1, column=7).prefix == "class "


@given(
    st.text(st.sampled_from("ab \t\n\r\f\v;\u2028\x1cé"), max_size=40),
    st.integers(1, 8),
    st.none() | st.integers(1, 6),
)
def test_prefix_completion_and_suffix_are_the_file(tmp_path_factory, text, line, column):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    ends = text.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    try:
        prompt = line_prompt(path, line, column)
    except SourceError as error:
        assert "\n" not in str(error)
        assert "\r" not in str(error)
        return
    assert prompt.prefix + prompt.completion + prompt.suffix == text
    assert prompt.prefix
    assert prompt.completion
    assert line <= ends + 1
    before = prompt.prefix.replace("\r\n", "\n").replace("\r", "\n")
    assert before.count("\n") == line - 1, "lines are counted as editors do: by \\n, \\r\\n and \\r"


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "A.java").write_bytes(b"\xef\xbb\xbf" + JAVA.encode())
    assert line_prompt(tmp_path / "A.java", 2).prefix.startswith("class A")


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        (0, None, "expected a line of .*A.java in 1-5, got 0; check --line"),
        (6, None, "in 1-5, got 6"),
        (3, 0, r"expected a column of line 3 in 1-22, got 0; check --column"),
        (3, 23, "in 1-22, got 23"),
        (1, None, "expected text before and after the cursor at .*A.java:1"),
    ],
)
def test_a_missing_line_is_refused(java, line, column, message):
    with pytest.raises(SourceError, match=message):
        line_prompt(java, line, column)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(SourceError, match="expected a source file at .*B.java: No such file"):
        line_prompt(tmp_path / "B.java", 1)
    with pytest.raises(SourceError, match="Is a directory"):
        line_prompt(tmp_path, 1)
    (tmp_path / "latin.java").write_bytes("class É {}\n".encode("latin-1"))
    with pytest.raises(SourceError, match="expected UTF-8 in .*latin.java, byte 6 is not; convert the file"):
        line_prompt(tmp_path / "latin.java", 1)
    (tmp_path / "empty.java").write_text("")
    with pytest.raises(SourceError, match="expected a line of .* in 1-0, got 1"):
        line_prompt(tmp_path / "empty.java", 1)


def test_the_task_at_the_cursor_is_that_of_the_spans(java):
    """Wherever a span of the language begins, the prompt is cut as one that is drawn would be."""
    by_place = {}
    for task, spans in find_spans(JAVA, "java").items():
        for span in spans:
            by_place.setdefault(span.start, {})[task] = span.end
    assert len(by_place) >= 5
    for start, ends in by_place.items():
        before = JAVA[:start]
        line, column = before.count("\n") + 1, start - before.rfind("\n")
        prompt = task_prompt(line_prompt(java, line, column))
        assert prompt.task in ends and (prompt.task != "eol" or len(ends) == 1)
        assert (prompt.prefix, prompt.completion) == (before, JAVA[start : ends[prompt.task]])
        assert prompt.prefix + prompt.completion + prompt.suffix == JAVA and prompt.language == "java"


def test_a_task_that_is_given_is_taken(java):
    cursor = line_prompt(java, 3, column=16)
    assert task_prompt(cursor, "identifier").completion == "x"
    other = task_prompt(cursor, "string_literal")
    assert (other.task, other.completion, other.suffix) == ("string_literal", cursor.completion, cursor.suffix)


def test_where_no_span_begins_a_task_is_asked_for(java, tmp_path):
    with pytest.raises(SourceError, match=r"no span of a task begins there; .* --column 16 \(identifier\), 18 \("):
        task_prompt(line_prompt(java, 3))
    onward = task_prompt(line_prompt(java, 3), onward=True)
    assert (onward.task, onward.completion, onward.start) == ("identifier", "x", line_prompt(java, 3, 16).start)
    assert onward == task_prompt(line_prompt(java, 3, 16)), "as if the cursor had been there"
    other = tmp_path / "notes.xyz"
    other.write_text("one\ntwo\n")
    with pytest.raises(SourceError, match="expected --task .* its language is not known"):
        task_prompt(line_prompt(other, 2))
    assert task_prompt(line_prompt(other, 2), "word").task == "word"
