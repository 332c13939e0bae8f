"""Progress without a terminal: few lines, which say what the stage is waiting for and how long it will take."""

import os
import pty
import re
import subprocess
import sys

import pytest

from apmae.progress import Advance, Log, duration, progress


class Clock:
    """Time that passes only when a test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_says_the_count_the_note_and_the_time_left(capsys):
    clock = Clock()
    log = Log("encode", 200, 40, "prompts", clock=clock)
    assert lines(capsys) == ["encode: 40 of 200 prompts"]
    clock.now += 30
    log.advance(16, note="48 heads per prompt")
    # 16 prompts took 30 s, so the remaining 144 take 270 s, however long an earlier run took for its 40
    assert lines(capsys) == ["encode: 56 of 200 prompts, 48 heads per prompt, about 4 min left"]
    clock.now += 270
    log.advance(144)
    assert lines(capsys) == ["encode: 200 of 200 prompts, 48 heads per prompt"]
    log.close()
    assert lines(capsys) == []


def test_a_note_alone_is_printed_from_time_to_time(capsys):
    clock = Clock()
    log = Log("prompts", 1000, 0, "", clock=clock)
    for candidate in range(1, 101):
        clock.now += 1
        log.advance(0, note=f"{candidate} candidates asked")
    printed = [int(line.split()[4]) for line in lines(capsys)[1:]]
    assert printed == [10, 30, 70]


def test_an_hour_of_work_is_a_page_of_lines(capsys):
    clock = Clock()
    log = Log("train", None, 0, "steps", clock=clock)
    for _ in range(36_000):
        clock.now += 0.1
        log.advance()
    assert 10 < len(lines(capsys)) < 25


def test_a_thousand_quick_steps_are_a_few_lines(capsys):
    clock = Clock()
    log = Log("train", 1000, 0, "steps", clock=clock)
    for _ in range(1000):
        clock.now += 0.001
        log.advance()
    log.close()
    assert lines(capsys) == ["train: 0 of 1000 steps", "train: 1000 of 1000 steps"]


def test_each_of_a_few_steps_gets_a_line(capsys):
    log = Log("cluster", 3, 0, "", clock=Clock())
    log.advance(note="UMAP of 9600 patterns")
    log.advance(note="39 clusters")
    log.advance()
    log.close()
    assert [line.split(",")[0] for line in lines(capsys)] == [f"cluster: {done} of 3" for done in range(4)]


def test_a_total_that_becomes_known(capsys):
    log = Log("read", None, 0, "files", clock=Clock())
    log.advance(4)
    log.advance(1, total=5)
    assert lines(capsys) == ["read: 0 files", "read: 5 of 5 files"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (95, "2 min"), (45 * 60, "45 min"), (3 * 3600 + 20 * 60, "3 h 20 min")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_without_stderr_work_is_done_all_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress("encode", 2) as advance:
        assert isinstance(advance, Advance)
        advance(2)


SCRIPT = """
from apmae.progress import progress
with progress("encode", 4, unit="prompts") as advance:
    for step in range(4):
        advance(note="48 heads per prompt, and more that does not fit a narrow terminal " * 2)
"""


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}])
def test_a_log_has_no_cursor_codes(variables, environment):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={**environment, **variables}
    )
    assert "\x1b" not in result.stderr
    assert [line.split(",")[0] for line in result.stderr.splitlines()] == [
        f"encode: {n} of 4 prompts" for n in range(5)
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_stays_on_one_line(width, environment):
    ours, theirs = pty.openpty()
    variables = {**environment, "COLUMNS": str(width), "TERM": "xterm"}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux raises it when the other end is closed
        pass
    assert child.wait() == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    drawn = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert "4/4" in drawn[-1] and "prompts" in drawn[-1] and drawn[-1].startswith(("  encode", " encode"))
    assert all(len(line) <= width for line in drawn)
