"""Output with real pipes: a reader that leaves is no failure, and a full disk is reported when the work is done."""

import json
import shlex
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from apmae.cli import app, main
from apmae.cli.options import say

@app.command()
def work(lines: int, out: Path) -> None:
    "Says many lines, then writes a file."
    for number in range(lines):
        say(f"line {number} " + "x" * 100)
        print(f"{number}", file=sys.stderr)
    out.write_text("done")
    say("\\u2192 done")

sys.argv = ["apmae", "work", *sys.argv[1:]]
main()
"""
"""A command that prints before it works: a closed pipe could keep it from working."""


def shell(command, environment, **options):
    variables = {**environment, "APMAE": f"{sys.executable} -m apmae", "WORK": f"{sys.executable} -W error -c"}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**variables, "SCRIPT": SCRIPT}, **options
    )


@pytest.mark.parametrize("lines", [1, 5, 20_000])
def test_a_reader_that_leaves_stops_no_work(lines, environment, tmp_path):
    command = f'set -o pipefail; $WORK "$SCRIPT" {lines} done 2>errors | head -3; echo ${{PIPESTATUS[*]}}'
    result = shell(command, environment, cwd=tmp_path)
    *printed, codes = result.stdout.splitlines()
    assert codes == "0 0"
    assert [" ".join(line.split()[:2]) for line in printed[:2]] == ["line 0", "line 1" if lines > 1 else "→ done"]
    assert (tmp_path / "done").read_text() == "done"
    assert (tmp_path / "errors").read_text().splitlines() == [str(number) for number in range(lines)]


def test_errors_into_the_same_pipe_stop_no_work_either(environment, tmp_path):
    command = 'set -o pipefail; $WORK "$SCRIPT" 20000 done |& head -3 > seen; echo ${PIPESTATUS[*]}'
    assert shell(command, environment, cwd=tmp_path).stdout == "0 0\n"
    assert (tmp_path / "done").is_file()


@pytest.mark.parametrize("lines", [0, 5, 2000])
def test_a_full_disk_under_the_output_is_reported_when_the_work_is_done(lines, environment, tmp_path):
    result = shell(f'$WORK "$SCRIPT" {lines} done > /dev/full', environment, cwd=tmp_path)
    assert result.returncode == 2
    *before, last = result.stderr.splitlines()
    assert (
        last
        == "apmae: cannot write standard output: No space left on device; files that the command wrote are complete"
    )
    assert before == [str(number) for number in range(lines)]
    assert (tmp_path / "done").is_file()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_drop_what_is_written(closed, environment, tmp_path):
    """And no file takes their numbers: the command would print into it."""
    result = shell(f'$WORK "$SCRIPT" 3 done {closed}; echo $? > code', environment, cwd=tmp_path)
    assert (tmp_path / "code").read_text() == "0\n", result.stderr
    assert (tmp_path / "done").read_text() == "done"
    assert ("line 0" in result.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_characters_that_the_encoding_lacks_are_escaped(environment, tmp_path):
    result = shell('PYTHONIOENCODING=latin-1 $WORK "$SCRIPT" 0 done', environment, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "\\u2192 done\n")


def test_a_mistake_keeps_its_exit_code_whatever_its_reader_does(environment):
    for sink in ("| true", "> /dev/full", "2>&1 | true", ">&-"):
        result = shell(f"$APMAE recipes huge {sink}; exit ${{PIPESTATUS[0]}}", environment)
        assert result.returncode == 2, sink


@pytest.mark.parametrize("command", ["--help", "tag --help", "recipes", "recipes paper-3b", "prompts --schema"])
def test_everything_that_prints_can_be_cut_short(command, environment):
    result = shell(f"set -o pipefail; $APMAE {command} | head -1; echo ${{PIPESTATUS[*]}}", environment)
    assert result.stdout.splitlines()[-1] == "0 0", result.stderr
    assert result.stderr == ""


PIPED = """
import os, subprocess, sys
import apmae.cli

reader = subprocess.Popen({reader!r}, stdin=subprocess.PIPE)
os.dup2(reader.stdin.fileno(), 1)
reader.stdin.close()
if {gone}:
    reader.wait()
sys.argv = ["apmae", *{arguments!r}]
apmae.cli.main()
"""
"""A command whose standard output is a pipe to a reader."""


def test_tags_are_written_before_they_are_printed(command_line, tmp_path):
    (tmp_path / "A.java").write_text("class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n")
    arguments = shlex.split("tag bundled A.java --line 3 --json t.json --html t.html")
    script = PIPED.format(reader=["head", "-1"], gone=False, arguments=arguments)
    result = command_line.run(cwd=tmp_path, code=script)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads((tmp_path / "t.json").read_text())["heads"]) == 48
    assert (tmp_path / "t.html").stat().st_size > 1000


def test_a_reader_that_leaves_while_a_file_is_written_stops_no_work(command_line, tmp_path):
    (tmp_path / "A.java").write_text("class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n")
    arguments = shlex.split("tag bundled A.java --line 3 --json /dev/stdout --html t.html")
    result = command_line.run(cwd=tmp_path, code=PIPED.format(reader=["true"], gone=True, arguments=arguments))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "t.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--json /dev/stdout --html t.html | true", "--json >(true) --html t.html"])
def test_a_shells_pipes_are_pipes(command, environment, tmp_path):
    """As the tests above, by a shell and a new interpreter."""
    (tmp_path / "A.java").write_text("class A {\n    int twice(int x) {\n        return x * 2;\n    }\n}\n")
    command = f"$APMAE tag bundled A.java --line 3 {command}; echo ${{PIPESTATUS[0]}}"
    result = shell(command, environment, cwd=tmp_path)
    assert (result.stdout.splitlines()[-1], result.stderr) == ("0", "")
    assert (tmp_path / "t.html").stat().st_size > 1000


@pytest.mark.parametrize(("given", "message"), [(b"\xff", "UTF-8 on standard input, byte 0"), (None, "it is closed")])
def test_standard_input_that_cannot_be_read(given, message, environment):
    redirect = "<&-" if given is None else ""
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m apmae show bundled --prompt - {redirect}"],
        input=given,
        capture_output=True,
        env=environment,
    )
    assert run.returncode == 2
    assert message in run.stderr.decode() and run.stderr.count(b"\n") == 1


@pytest.mark.parametrize("size", ["COLUMNS=0", "COLUMNS=²", "LINES=²"])
def test_help_has_words_whatever_the_size_of_the_screen_is_said_to_be(size, environment):
    result = shell(f"{size} $APMAE --help", environment)
    assert result.returncode == 0, result.stderr
    assert "Start here" in result.stdout
