"""Parsing in workers: real processes, real files that break a parser, and the same call in this process to compare."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from apmae.config import PromptsConfig, tasks_of
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.errors import ApmaeError, ConfigError, ParserError, SourceError
from apmae.prompts import parser
from apmae.prompts.languages import LANGUAGES, language_of
from apmae.prompts.parser import close_workers, parse_in_order
from apmae.prompts.sampling import candidates
from apmae.prompts.tasks import parse_spans

SOURCES = Path(__file__).parent / "sources"
JAVA = resources.files("apmae") / "bundled" / "java"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited, and processes are listed, on Linux")
GREEDY = "x=>" * 3000  # nine kilobytes for which tree-sitter takes 2.8 GB
GOOD = "class A { int x = 3; }\n"


def handles(source, language="java"):
    return parse_source(source).handles(language_of(language).suffixes)


def parsed(source, language="java", tasks=None):
    wanted = list(tasks or tasks_of(language))
    return list(parse_in_order(handles(source, language), language, lambda: wanted))


def write(folder, *texts, suffix=".java"):
    for number, text in enumerate(texts):
        (folder / f"{number:03}{suffix}").write_text(text)
    return folder


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def parsers():
    """The processes that parse; each is the child of one that waits for it."""
    return [child for worker in parser._alive for child in children(worker.process.pid)]


def same(found, expected):
    assert found.has_error == expected.has_error
    assert list(found.spans) == list(expected.spans)
    for task, spans in expected.spans.items():
        assert found.spans[task].dtype == spans.dtype
        np.testing.assert_array_equal(found.spans[task], spans)


@pytest.mark.parametrize("language", LANGUAGES)
def test_workers_find_the_same_spans_as_this_process(language):
    suffixes = language_of(language).suffixes
    source = JAVA if language == "java" else SOURCES
    files = parsed(source, language)
    assert [item.handle.path for item in files] == [handle.path for handle in handles(source, language)]
    assert files and all(item.handle.path.endswith(suffixes) for item in files)
    for item in files:
        assert not item.rejected
        same(item.spans, parse_spans(item.file.text, language, path=item.file.path))


def test_any_characters_keep_their_offsets(tmp_path):
    texts = ['class Ä { String s = "日本 \U0001d4b3"; }\r\n', "\ufeffclass B { int x = 1; }", "x = (", "// é" * 50_000]
    for item, text in zip(parsed(write(tmp_path, *texts)), texts, strict=True):
        same(item.spans, parse_spans(item.file.text, "java"))
        assert item.file.text == text.removeprefix("\ufeff")


def test_one_task_alone_and_random_which_no_parser_finds(tmp_path):
    write(tmp_path, GOOD)
    assert [list(item.spans.spans) for item in parsed(tmp_path, tasks=["random"])] == [[]]
    assert parsed(tmp_path, tasks=["numeric_literal"])[0].spans.spans["numeric_literal"].tolist() == [[18, 19]]


@LINUX
def test_a_file_that_takes_all_memory_costs_only_itself(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = parsed(write(tmp_path, GOOD, GREEDY, *[GOOD] * 20))
    reasons = [dict(item.rejected) for item in files]
    assert reasons == [{}, {"too_much_memory": 1}, *[{}] * 20]
    for item in files:
        assert (item.spans is None) == bool(item.rejected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kB"


@LINUX
@pytest.mark.slow
def test_a_greedy_file_is_rejected_once_and_the_draws_of_others_do_not_change(tmp_path):
    def draw():
        rejected = Counter()
        drawn = candidates(handles(tmp_path), PromptsConfig(), rejected=rejected)
        return list(drawn), rejected

    write(tmp_path, GOOD, GOOD.replace("A", "B"))
    alone, before = draw()
    (tmp_path / "greedy.java").write_text(GREEDY)
    beside, after = draw()
    assert beside == alone
    assert after - before == {"too_much_memory": 1}


def test_a_query_that_no_callback_stops_ends_at_the_time_limit_of_the_file(tmp_path, monkeypatch):
    # the limit is the worker's own: a site hook of this test makes it short
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "import signal\nreal = signal.setitimer\n"
        "signal.setitimer = lambda which, seconds: real(which, min(seconds, 0.5))\nprint('a site hook that talks')\n"
    )
    close_workers()
    monkeypatch.syspath_prepend(tmp_path / "hook")
    source = tmp_path / "source"
    source.mkdir()
    files = parsed(write(source, GOOD, "(" * 400_000, GOOD))
    close_workers()
    assert [dict(item.rejected) for item in files] == [{}, {"too_slow": 1}, {}]


@pytest.mark.parametrize("nested", ["()", "(", "{", "A<"])
def test_ten_thousand_brackets(tmp_path, nested):
    write(tmp_path, GOOD, nested * 10_000, GOOD)
    files = parsed(tmp_path)
    assert files[0].spans and files[2].spans
    assert not files[0].rejected and not files[2].rejected


@LINUX
def test_a_worker_that_is_killed_loses_no_file(tmp_path):
    write(tmp_path, *[GOOD * 200] * 60)
    expected = parse_spans(GOOD * 200, "java")
    killed = 0
    for item in parse_in_order(handles(tmp_path), "java", lambda: tasks_of("java")):
        if item.handle.path.endswith(("5.java", "8.java")):
            for pid in parsers():
                with suppress(ProcessLookupError):  # if an earlier kill ended the worker
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                    break
        assert not item.rejected
        same(item.spans, expected)
    assert killed == 12


@LINUX
def test_a_file_is_given_up_if_a_fresh_worker_dies_of_it(tmp_path):
    write(tmp_path, "(" * 200_000, GOOD)  # a minute of work
    close_workers()

    def kill():
        while not any(worker.ready for worker in list(parser._alive)):
            time.sleep(0.05)
        time.sleep(0.3)
        busy = [worker for worker in list(parser._alive) if worker.busy]
        killed.extend(child for worker in busy for child in children(worker.process.pid))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killed = []
    thread = threading.Thread(target=kill)
    thread.start()
    files = [item for handle in handles(tmp_path) for item in parse_in_order([handle], "java", lambda: ["identifier"])]
    thread.join()
    assert len(killed) == 1
    assert [dict(item.rejected) for item in files] == [{"crashed": 1}, {}]


def test_a_later_call_never_sees_an_answer_meant_for_an_earlier_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    write(one, *[GOOD * 500] * 20)
    write(two, *["class B { boolean b = true; }"] * 5)
    expected = parse_spans("class B { boolean b = true; }", "java")
    for _ in range(5):
        with closing(parse_in_order(handles(one), "java", lambda: tasks_of("java"))) as left:
            next(left)
        for item in parsed(two):
            same(item.spans, expected)
    assert len(parser._alive) <= parser.MOST_WORKERS


def test_two_iterators_at_once_do_not_mix(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    write(one, *[GOOD] * 10)
    write(two, *["class B { boolean b = true; }"] * 10)
    tasks = tasks_of("java")
    both = [parse_in_order(handles(source), "java", lambda: tasks) for source in (one, two)]
    for first, second in zip(*both, strict=True):
        same(first.spans, parse_spans(first.file.text, "java"))
        same(second.spans, parse_spans(second.file.text, "java"))


def test_workers_are_kept_and_no_more_start_than_there_are_files(tmp_path):
    close_workers()
    write(tmp_path, GOOD)
    parsed(tmp_path)
    first = {worker.process.pid for worker in parser._alive}
    assert len(first) == 1
    parsed(tmp_path)
    assert {worker.process.pid for worker in parser._alive} == first
    parsed(SOURCES, "text")
    assert {worker.process.pid for worker in parser._alive} == first, "plain text needs none"


def test_a_fork_has_its_own_workers(tmp_path):
    write(tmp_path, *[GOOD] * 30)
    expected = parse_spans(GOOD, "java")
    files = parse_in_order(handles(tmp_path), "java", lambda: tasks_of("java"))
    same(next(files).spans, expected)
    mine = {worker.process.pid for worker in parser._alive}
    child = os.fork()
    if not child:
        status = 1
        try:
            rest = list(files)
            for item in rest:
                same(item.spans, expected)
            theirs = {worker.process.pid for worker in parser._alive}
            status = 0 if len(rest) == 29 and theirs and not theirs & mine else 2
            close_workers()
        finally:
            os._exit(status)
    rest = list(files)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(rest) == 29
    for item in rest:
        same(item.spans, expected)
    assert {worker.process.pid for worker in parser._alive} == mine


def test_the_iterator_ends_when_no_task_is_wanted(tmp_path):
    write(tmp_path, *[GOOD] * 5)
    wanted = ["identifier"]
    files = parse_in_order(handles(tmp_path), "java", lambda: wanted)
    assert len(list(islice(files, 2))) == 2
    wanted.clear()
    assert list(files) == []


def test_a_file_that_cannot_be_read_raises_at_its_turn(tmp_path):
    write(tmp_path, GOOD, "", GOOD)
    assert [dict(item.rejected) for item in parsed(tmp_path)] == [{}, {"empty": 1}, {}]
    sources = [parse_source(tmp_path / name) for name in ("000.java", "001.java")]
    named = list_sources(sources, suffixes=(".java",))
    files = parse_in_order(named, "java", lambda: ["identifier"])
    assert next(files).spans is not None
    with pytest.raises(SourceError, match=r"cannot use 001\.java"):
        next(files)


def test_a_grammar_that_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "tree_sitter_go.py").write_text("raise ImportError\n")
    close_workers()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="expected the grammar tree-sitter-go.*pip install tree-sitter-go"):
        parsed(SOURCES, "go")
    close_workers()


def test_a_worker_that_cannot_import_is_an_error_and_not_restarted_forever(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise ImportError('this numpy is broken')\n")
    close_workers()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ParserError, match="expected a parser process to start, it did not: .*this numpy is broken"):
        parsed(JAVA)
    assert not parser._alive
    assert issubclass(ParserError, ApmaeError)


def test_a_script_without_a_main_guard_ends_quietly(tmp_path):
    """In a folder whose files are named like modules, with a quota that leaves workers busy, and warnings as errors."""
    (tmp_path / "select.py").write_text("raise SystemExit('not this one')\n")
    (tmp_path / "script.py").write_text(
        "print('once')\n"
        "from apmae.config import PromptsConfig\n"
        "from apmae.corpus.parse import parse_source\n"
        "from apmae.prompts.draw import build_prompts\n"
        "prompts, _ = build_prompts(parse_source('bundled').handles(['.java']), PromptsConfig(per_task=3))\n"
        "print(len(prompts))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-P", "-W", "error", str(tmp_path / "script.py")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr, result.returncode) == ("once\n30\n", "", 0)
