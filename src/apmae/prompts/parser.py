"""Parsing in separate processes: a file that takes all memory or time, or crashes the parser, costs only itself.

Workers (``prompts/worker.py``) start when there are files for them, stay for later calls and end with the process. They
never import a user's script again. Torch-free.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from apmae.errors import ApmaeError, ConfigError, ParserError
from apmae.prompts.languages import language_of
from apmae.prompts.tasks import ParsedSpans, parse_spans
from apmae.prompts.worker import READY, TOO_MUCH_MEMORY, TOO_SLOW

if TYPE_CHECKING:
    from apmae.corpus.source import SourceFile, SourceHandle

MOST_WORKERS = 4
"""The most workers, whatever the number of cores: with four, reading and drawing take as long as parsing."""

AHEAD, AHEAD_BYTES = 4, 4_000_000
"""Files read ahead for each worker, and bytes of text read ahead in all. The next file is read whatever its size."""

PATIENCE = 120.0
"""Seconds without a sign from a worker, while waiting for it, before it is given up."""

_REASONS = {TOO_SLOW: "too_slow", TOO_MUCH_MEMORY: "too_much_memory"}


@dataclass(slots=True)
class ParsedFile:
    """A file that was read and parsed, or the reason why it was not."""

    handle: "SourceHandle"
    file: "SourceFile | None" = None
    """None if it cannot be read."""
    spans: ParsedSpans | None = None
    """None if it cannot be read or parsed."""
    rejected: Counter[str] = field(default_factory=Counter)
    """One of the reasons of ``SourceHandle.read``, or "too_slow", "too_much_memory" or "crashed" for a file on which
    the parser takes too long or more than ``worker.MEMORY``, or ends in another way."""


def parse_in_order(
    handles: Iterable["SourceHandle"], language: str, tasks: Callable[[], Sequence[str]]
) -> Generator[ParsedFile, None, None]:
    """Read and parse files in worker processes, some of them ahead of the one that is asked for.

    The result depends neither on the number of workers nor on what happens to them: a file is given up only if a worker
    that has parsed no other file dies of it. Memory does not grow with the number of files.

    Args:
        handles: the files.
        language: a key of ``LANGUAGES``. Plain text needs no worker.
        tasks: says which tasks to look for, called as each file is read. Tasks may drop out but not join. The iterator
            ends when none are left.

    Yields:
        The files in the order given, with the spans of all tasks that are still wanted, perhaps of more.

    Raises:
        ConfigError: if the language is unknown, or its grammar is not installed.
        SourceError: as ``SourceHandle.read``, at the file's turn.
        ParserError: if a worker does not start.
    """
    if any(language_of(language).grammars.values()):
        crew = _Crew(handles, language, tasks)
        try:
            yield from crew.results()
        except GeneratorExit:  # between two files, so no message is torn
            crew.dismiss()
            raise
        except BaseException:
            crew.close()
            raise
        crew.dismiss()
        return
    for handle in handles:
        wanted = tasks()
        if not wanted:
            return
        parsed = ParsedFile(handle)
        parsed.file = handle.read(parsed.rejected)
        if parsed.file is not None:
            parsed.spans = parse_spans(parsed.file.text, language, wanted, path=handle.path)
        yield parsed


@dataclass(slots=True, eq=False)
class _Job:
    result: ParsedFile
    request: bytes = b""
    error: ApmaeError | None = None
    given: bool = False
    done: bool = False


class _Worker:
    """A parser process, with at most one file to parse."""

    def __init__(self) -> None:
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "apmae.prompts.worker"],  # -P: or a user's select.py would be imported
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # a Ctrl-C is for the parent only
            )
        except OSError as error:
            raise ParserError(f"expected a parser process to start ({sys.executable!r}): {error}") from None
        pipes = self.process.stdin, self.process.stdout, self.process.stderr
        self._input, self._output, self._errors = (pipe.fileno() for pipe in pipes if pipe is not None)
        for pipe in (self._input, self._output, self._errors):
            os.set_blocking(pipe, False)
        self.job: _Job | None = None
        self.busy = False
        self.ready = self.closed = False
        self.answered = 0
        self.waited = 0.0
        self._outbox = memoryview(b"")
        self._inbox = bytearray()
        _alive.add(self)

    def give(self, job: _Job) -> None:
        self.job, self.busy, self.waited, job.given = job, True, 0.0, True
        self._outbox = memoryview(job.request)
        self.write()

    def register(self, poll: select.poll) -> None:
        poll.register(self._output, select.POLLIN)
        if self._outbox:
            poll.register(self._input, select.POLLOUT)

    def signs(self, events: dict[int, int]) -> tuple[bool, bool]:
        """Whether it can be read from, and written to."""
        return self._output in events, self._input in events

    def write(self) -> None:
        try:
            while self._outbox:
                self._outbox = self._outbox[os.write(self._input, self._outbox) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # read() will see that its answers end
            self._outbox = memoryview(b"")

    def read(self) -> tuple[dict[str, Any], bytearray] | None:
        """Its answer once that is complete, None before; EOFError if the worker has ended."""
        piece = os.read(self._output, 1 << 20)
        if not piece:
            raise EOFError
        self._inbox += piece
        if not self.ready:
            noise, found, rest = self._inbox.partition(READY)  # a user's site hooks may print first
            self.ready, self._inbox = bool(found), rest if found else noise
        start = self._inbox.find(b"\n") + 1
        if not self.ready or not start:
            return None
        header = json.loads(self._inbox[:start])
        if len(self._inbox) < start + header["bytes"]:
            return None
        body, self._inbox = self._inbox[start:], bytearray()
        self.answered += 1
        self.busy = False
        return header, body

    def reap(self) -> tuple[str, str]:
        """Once it has ended: the reason, and the last line of its error output."""
        code = self.process.wait()
        try:
            errors = os.read(self._errors, 1 << 16).decode(errors="replace").strip()
        except BlockingIOError:
            errors = ""
        self.close()
        return _REASONS.get(code, "crashed"), errors.rpartition("\n")[2]

    def close(self) -> None:
        if not self.closed:
            if self.process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):  # it has already ended
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes. After a fork the worker is still the parent's."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.returncode = self.process.returncode or 0
        self.closed = True
        _alive.discard(self)


_alive: set[_Worker] = set()
_idle: deque[_Worker] = deque()
"""Workers that no iterator uses; at the left, those that still owe an earlier iterator an answer."""


def close_workers() -> None:
    """End all workers; later calls start new ones."""
    for worker in list(_alive):
        worker.close()
    _idle.clear()


def _forget_workers() -> None:
    for worker in list(_alive):
        worker.forget()
    _idle.clear()


atexit.register(close_workers)
os.register_at_fork(after_in_child=_forget_workers)


class _Crew:
    """The workers of one iterator, and the files that are read ahead."""

    def __init__(self, handles: Iterable["SourceHandle"], language: str, tasks: Callable[[], Sequence[str]]) -> None:
        self._handles = iter(handles)
        self._language = language
        self._tasks = tasks
        self._jobs: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._most = min(MOST_WORKERS, _cores())

    def results(self) -> Iterator[ParsedFile]:
        while self._tasks():
            self._read_ahead()
            if not self._jobs:
                return
            first = self._jobs[0]
            self._exchange(0.0 if first.done else 1.0)
            if not first.done:
                continue
            if first.error is not None:
                raise first.error
            yield self._jobs.popleft().result

    def dismiss(self) -> None:
        for worker in self._workers:
            worker.job = None
            if worker.closed:
                continue
            if worker.busy:  # its answer will be dropped when it comes
                _idle.appendleft(worker)
            else:
                _idle.append(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _read_ahead(self) -> None:
        wanted = self._tasks()
        size = sum(len(job.request) for job in self._jobs)
        while not self._jobs or (len(self._jobs) < AHEAD * self._most and size < AHEAD_BYTES):
            handle = next(self._handles, None)
            if handle is None:
                return
            job = _Job(ParsedFile(handle))
            try:
                file = job.result.file = handle.read(job.result.rejected)
            except ApmaeError as error:
                file, job.error = None, error
            if file is None:
                job.given = job.done = True
            else:
                text = file.text.encode()
                header = {"language": self._language, "path": file.path, "tasks": list(wanted), "bytes": len(text)}
                job.request = b"".join([json.dumps(header).encode(), b"\n", text])
                size += len(job.request)
            self._jobs.append(job)
            self._hand_out()

    def _hand_out(self) -> None:
        for job in self._jobs:
            if not job.given:
                worker = self._free_worker()
                if worker is None:
                    return
                worker.give(job)

    def _free_worker(self) -> _Worker | None:
        for worker in self._workers:
            if not worker.busy:
                return worker
        while len(self._workers) < self._most:
            try:
                worker = _idle.pop()
            except IndexError:
                worker = _Worker()
                self._workers.append(worker)
                return worker
            if worker.closed or worker.process.poll() is not None:
                worker.close()
                continue
            self._workers.append(worker)
            if not worker.busy:
                return worker
        return None

    def _exchange(self, seconds: float) -> None:
        """Take the answers that have come and hand out files; wait for a sign from a worker, at most ``seconds``."""
        for worker in [worker for worker in self._workers if worker.closed]:  # by a fork
            self._workers.remove(worker)
            if worker.job is not None:
                worker.job.given = False
        self._hand_out()
        poll = select.poll()
        busy = [worker for worker in self._workers if worker.busy]
        for worker in busy:
            worker.register(poll)
        start = time.monotonic()
        events = dict(poll.poll(seconds * 1000)) if busy else {}
        waited = time.monotonic() - start
        for worker in busy:
            readable, writable = worker.signs(events)
            # only time spent waiting counts: while nobody asks, an answer may wait here for long
            worker.waited = 0.0 if readable or writable else worker.waited + waited
            if writable:
                worker.write()
            if readable:
                self._take_answer(worker)
            elif worker.waited > PATIENCE:
                worker.close()
                self._give_up(worker, "too_slow", f"no sign in {PATIENCE:.0f} s")
        self._hand_out()

    def _take_answer(self, worker: _Worker) -> None:
        try:
            answer = worker.read()
        except EOFError:
            self._give_up(worker, *worker.reap())
            return
        if answer is None:
            return
        job, worker.job = worker.job, None
        if job is None:  # asked for by an earlier iterator, which was closed
            return
        header, body = answer
        if "error" in header:
            job.error = ConfigError(header["error"])
        elif "spans" in header:
            pairs = np.frombuffer(body, dtype="<i8").astype(np.int64, copy=False).reshape(-1, 2)
            ends = dict(zip(header["spans"], accumulate(header["spans"].values()), strict=True))
            spans = {task: pairs[end - header["spans"][task] : end] for task, end in ends.items()}
            job.result.spans = ParsedSpans(spans, header["has_error"])
        else:
            job.result.rejected["too_slow"] += 1
        job.done = True

    def _give_up(self, worker: _Worker, reason: str, message: str) -> None:
        self._workers.remove(worker)
        if not worker.ready:
            raise ParserError(
                f"expected a parser process to start, it did not: {message or reason}; "
                f"see what {sys.executable} -m apmae.prompts.worker says"
            )
        job = worker.job
        if job is None:
            return
        if worker.answered and reason != "too_slow":
            # earlier files may have left it little memory, and how many they were must not matter
            fresh = _Worker()
            self._workers.append(fresh)
            fresh.give(job)
        else:
            job.result.rejected[reason] += 1
            job.done = True


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
