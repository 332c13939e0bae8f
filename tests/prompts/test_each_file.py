"""One completion of each file of a folder, of whatever language, and why others give none."""

from collections import Counter
from importlib import resources

import pytest
from tokenizers import Tokenizer

from apmae.config import tasks_of
from apmae.corpus.parse import parse_source
from apmae.errors import SourceError
from apmae.prompts.each_file import files_by_language, prompts_of_files

TOKENIZER = Tokenizer.from_file(str(resources.files("apmae") / "bundled" / "language_model" / "tokenizer.json"))
JAVA = "class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n"
PYTHON = "def twice(x):\n    y = [x, 2]\n    return y[0] * y[1]\n"


@pytest.fixture
def folder(tmp_path):
    files = {"A.java": JAVA, "b/c.py": PYTHON, "b/d.js": "let x = f(1);\n", "README.md": "# Not code. At all.\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def prompts_of(folder, seed=0):
    rejected = Counter()
    found = prompts_of_files(parse_source(folder), TOKENIZER, length=256, seed=seed, rejected=rejected)
    return found, rejected


def test_each_file_gives_one_completion_of_a_task_of_its_language(folder):
    found, rejected = prompts_of(folder)
    root = folder.name
    assert [prompt.path for prompt in found] == [f"{root}/A.java", f"{root}/b/c.py", f"{root}/b/d.js"]
    assert [prompt.language for prompt in found] == ["java", "python", "javascript"]
    assert not rejected
    for prompt in found:
        text = (folder / prompt.path.removeprefix(f"{root}/")).read_text()
        assert prompt.prefix + prompt.completion + prompt.suffix == text and prompt.completion
        assert prompt.task in tasks_of(prompt.language) and prompt.answer is None


def test_a_draw_depends_on_the_seed_and_the_file_alone(folder):
    first, _ = prompts_of(folder)
    assert prompts_of(folder)[0] == first
    (folder / "B.java").write_text(JAVA.replace("A", "B"))
    assert [prompt for prompt in prompts_of(folder)[0] if not prompt.path.endswith("B.java")] == first
    drawn = {tuple((prompt.task, prompt.start) for prompt in prompts_of(folder, seed)[0]) for seed in range(5)}
    assert len(drawn) > 1
    tasks = {prompt.task for seed in range(12) for prompt in prompts_of(folder, seed)[0]}
    assert len(tasks) > 3, "a task is drawn too, not always the first"


def test_files_that_give_no_prompt_are_counted_by_their_reason(folder):
    (folder / "Bytes.java").write_bytes(b"class A { // \xff }")
    (folder / "Blank.java").write_text("\n\n")
    (folder / "Zero.java").write_bytes(b"class A {}\0")
    (folder / "one.py").write_text("x")
    (folder / "Marks.java").write_text('class A { String x = "<fim_middle>"; }\n')
    found, rejected = prompts_of(folder)
    assert len(found) == 3
    assert rejected == {"not_utf8": 1, "empty": 1, "binary": 1, "no_span": 1, "sentinel_in_text": 1}


def test_prose_counts_only_without_code(folder, tmp_path_factory):
    assert set(files_by_language(parse_source(folder))) == {"java", "python", "javascript"}
    prose = tmp_path_factory.mktemp("prose")
    (prose / "a.md").write_text("A sentence of some words ends here. Another one has 12 words and a Name in it.\n" * 3)
    assert [prompt.language for prompt in prompts_of(prose)[0]] == ["text"]


def test_a_folder_without_anything_to_complete_is_refused(tmp_path):
    with pytest.raises(SourceError, match="found none among 0 files"):
        prompts_of(tmp_path)
    (tmp_path / "a.py").write_text("\n")
    with pytest.raises(SourceError, match=r"expected a file with something to complete in .*, found none \(1 empty\)"):
        prompts_of(tmp_path)
