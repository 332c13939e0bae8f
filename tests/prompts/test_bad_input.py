"""Files that nobody would call source code: each is counted by reason or gives what it can, and none takes long."""

import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from apmae.config import PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.prompts.languages import LANGUAGES
from apmae.prompts.sampling import candidates
from apmae.prompts.tasks import DEEPEST, find_spans, parse_spans

CODE = [name for name in LANGUAGES if name != "text"]
NESTED = ["()", "[]", "{}", "<>", "(", "[", "{", "<", "({[", "A<", "f(a=", "`${"]


def draw(folder, language):
    rejected = Counter()
    handles = parse_source(folder).handles(LANGUAGES[language].suffixes)
    prompts = list(candidates(handles, PromptsConfig(language=language), rejected=rejected))
    return prompts, rejected


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_that_cannot_be_used_are_counted_by_reason(tmp_path, language):
    suffix = LANGUAGES[language].suffixes[0]
    bad = {
        "binary": b"\x7fELF\x02\x01\x00\x00" * 1000,
        "utf16": "class A {}".encode("utf-16"),  # ASCII has a NUL in every character there
        "latin1": "x = 'Käse'".encode("latin-1"),
        "empty": b"",
        "blank": b" \n\t\r\n" * 50,
    }
    for name, data in bad.items():
        (tmp_path / f"{name}{suffix}").write_bytes(data)
    with (tmp_path / f"one_line{suffix}").open("wb") as file:
        for _ in range(50):
            file.write(b"a = [1, 2]; " * 83_334)
    prompts, rejected = draw(tmp_path, language)
    assert prompts == []
    assert rejected == {"binary": 2, "not_utf8": 1, "empty": 2, "too_large": 1}


@pytest.mark.parametrize("language", CODE)
def test_a_long_line_is_as_good_as_many(tmp_path, language):
    text = "x = [1, 2]; " * 20_000
    (tmp_path / f"one_line{LANGUAGES[language].suffixes[0]}").write_text(text)
    start = time.process_time()
    handles = parse_source(tmp_path).handles(LANGUAGES[language].suffixes)
    drawn = candidates(handles, PromptsConfig(language=language), rejected=Counter())
    assert next(drawn).completion
    assert time.process_time() - start < 10


@pytest.mark.parametrize("language", CODE)
@pytest.mark.parametrize("nested", NESTED)
def test_ten_thousand_levels_neither_crash_nor_hang(language, nested):
    depth = 10_000
    text = f"{nested[0] * depth}{nested[1] * depth}\n" if nested in ("()", "[]", "{}", "<>") else nested * depth
    start = time.process_time()
    parsed = parse_spans(text, language)
    assert time.process_time() - start < 15
    if parsed is not None:
        assert all(len(spans) == 0 or spans.max() <= len(text) for spans in parsed.spans.values())


def test_a_table_as_one_expression_gives_the_spans_near_its_end():
    """Generated code: a query without a limit takes time cubic in the depth, a minute for a real file of this kind."""
    text = (
        'class A { String s = "0"\n' + "".join(f'    + "{number}" // {number}\n' for number in range(20_000)) + ";}\n"
    )
    start = time.process_time()
    spans = find_spans(text, "java")
    assert time.process_time() - start < 10
    assert DEEPEST // 2 < len(spans["string_literal"]) < DEEPEST
    assert text[slice(*spans["string_literal"][-1])] == '"19999"'
    # each line ends in a comment, at any depth: none of them is code
    assert [text[start:end] for start, end in spans["eol"]] == ['"\n', "}\n"]


def test_a_file_that_takes_too_long_to_parse_is_counted(tmp_path):
    text = "\\\n" * 100_000  # for each of these the Python scanner looks through all that follow
    assert parse_spans(text, "python", seconds=0.5) is None
    assert find_spans("\\\n" * 100, "python")["eol"] == []
    (tmp_path / "slow.py").write_text(text)
    (tmp_path / "good.py").write_text("a = 1\nb = a + 2\n")
    prompts, rejected = draw(tmp_path, "python")
    assert {prompt.path.rpartition("/")[2] for prompt in prompts} == {"good.py"}
    assert rejected["too_slow"] == 1, "though the others are read again and again"


def test_broken_code_gives_the_spans_outside_the_broken_part():
    header = "#define API(x) x\nclass API(dll) Ring : {\n  @@ 1 2 )\n};\nint after = 3;\nbool ok = !after;\n"
    parsed = parse_spans(header, "cpp")
    assert parsed is not None and parsed.has_error
    found = {task: [header[start:end] for start, end in spans.tolist()] for task, spans in parsed.spans.items()}
    assert found["numeric_literal"] == ["3"]
    assert found["boolean_operator"] == ["!"]
    assert found["assignment_operator"] == ["=", "="]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read as Linux tells it")
def test_no_file_stays_in_memory():
    """tree-sitter 0.26 keeps a reference to what it reads by a callback: 200 MB over the source of a JDK."""
    text = "class A {\n" + "    int number = 1; // and a comment\n" * 3000 + "}\n"
    grown = []
    for _ in range(3):
        before = resident()
        for _ in range(60):
            parse_spans(text, "java", ["boolean_literal"])
        grown.append(resident() - before)
    assert min(grown) < 20 * len(text)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
