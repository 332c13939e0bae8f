"""The program of a worker (``python -m apmae.prompts.worker``): parses the files that ``prompts/parser.py`` gives it.

Each message is a line of JSON and then as many bytes as that line says: a file's text in UTF-8 on the way in, its spans
as little-endian int64, task by task, on the way out. Nothing is pickled. Torch-free.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from apmae.errors import ConfigError
from apmae.prompts.tasks import parse_spans

MEMORY = 1_500_000_000
"""Bytes of address space that a worker may add to its first; a megabyte of code takes 0.3 GB. Linux only."""

FILE_SECONDS = 20.0
"""Seconds of processor time for a whole file. Parsing has a lower limit (``tasks.PARSE_SECONDS``), but queries have
none: on broken text, such as 400 000 opening brackets, they take minutes."""

READY = b"apmae parser ready\n"
"""What a worker writes first."""

TOO_SLOW, TOO_MUCH_MEMORY = 2, 3
"""Exit statuses."""


def main() -> None:
    """Be a worker: answer requests until there are no more."""
    for number in (signal.SIGCHLD, signal.SIGPROF):  # a parent may have set them to be ignored
        signal.signal(number, signal.SIG_DFL)
    child = os.fork()
    if not child:
        _serve()
        return
    # The child parses. Only the process that waits for it learns how much memory it used, and tree-sitter reports
    # nothing when an allocation fails. The waiting process is small, because a program's count starts at its parent's.
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
        code = TOO_SLOW
    elif code < 0:
        used = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        code = TOO_MUCH_MEMORY if used > MEMORY / 2 else 1
    os._exit(code)


def _serve() -> None:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _limit_memory()
    try:
        answers.write(READY)
        answers.flush()
        for line in iter(requests.readline, b""):
            header = json.loads(line)
            text = requests.read(header["bytes"]).decode()
            signal.setitimer(signal.ITIMER_PROF, FILE_SECONDS)
            answer, body = _answer(text, header)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps({**answer, "bytes": len(body)}).encode() + b"\n" + body)
            answers.flush()
    except MemoryError:
        os._exit(TOO_MUCH_MEMORY)
    except BrokenPipeError:  # the parent is gone
        os._exit(0)


def _answer(text: str, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        parsed = parse_spans(text, header["language"], header["tasks"], path=header["path"])
    except ConfigError as error:
        return {"error": str(error)}, b""
    if parsed is None:
        return {}, b""
    counts = {task: len(spans) for task, spans in parsed.spans.items()}
    body = b"".join(spans.astype("<i8").tobytes() for spans in parsed.spans.values())
    return {"spans": counts, "has_error": parsed.has_error}, body


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        wanted = pages * resource.getpagesize() + MEMORY
        limits = resource.getrlimit(resource.RLIMIT_AS)
        lowest = min([wanted, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])
        resource.setrlimit(resource.RLIMIT_AS, (lowest, limits[1]))


if __name__ == "__main__":
    main()
