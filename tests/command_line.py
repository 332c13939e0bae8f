"""Commands in separate processes, without the seconds that imports take in each: forked from one that has imported.

A child behaves like ``python -m apmae.cli``: it has its own arguments, folder, streams, limits and exit code, and can
be killed. ``test_cli.py`` starts the interpreter itself where the question is what gets imported.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = """
import gc, json, os, resource, sys
import apmae.cli, apmae.engine.evaluate, apmae.engine.push, apmae.engine.show, apmae.engine.study, apmae.engine.tag
import hdbscan, umap

gc.freeze()  # children share what is imported; their garbage collection does not copy it
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        done, status = os.waitpid(order["wait"], 0 if order["block"] else os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if done else None), flush=True)
        continue
    child = os.fork()
    if child:
        print(json.dumps(child), flush=True)
        continue
    os.chdir(order["folder"])
    for number, name in enumerate(order["streams"]):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    os.environ["WORLD_SIZE"] = "1"
    if order["room"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["room"], order["room"]))
    sys.argv = ["apmae", *order["arguments"]]
    code = 0
    try:
        if order["code"]:
            exec(compile(order["code"], "example", "exec"), {"__name__": "__main__"})
        else:
            apmae.cli.main()
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips the second that shutting the interpreter down takes
"""


class Child:
    """One running command."""

    def __init__(self, line, number, arguments, folder):
        self._line, self.pid, self._arguments, self._folder = line, number, arguments, folder
        self.returncode = None

    def poll(self):
        """Its exit code, negative if a signal ended it; None while it runs."""
        return self._wait(block=False)

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def finish(self):
        """Waits for it; returns what ``subprocess.run`` would."""
        code = self._wait(block=True)
        said = [(self._folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self._arguments, code, *said)

    def _wait(self, *, block):
        if self.returncode is None:
            self.returncode = self._line.ask({"wait": self.pid, "block": block})
        return self.returncode


class CommandLine:
    """Forks commands from one process; use as a context manager."""

    def __init__(self, environment):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, "-c", SERVER], **pipes, text=True, env=environment)
        self._home = tempfile.TemporaryDirectory()

    def ask(self, order):
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *arguments, cwd=None, input="", room=None, code=None):
        """Starts a command in the background.

        Args:
            cwd: its working folder.
            input: the text of its standard input.
            room: bytes of the largest file that it may write, to imitate a full disk.
            code: a script to run instead, with these arguments.
        """
        folder = Path(tempfile.mkdtemp(dir=self._home.name))
        (folder / "stdin").write_text(input, encoding="utf-8")
        words = list(map(str, arguments))
        streams = [str(folder / name) for name in ("stdin", "stdout", "stderr")]
        order = {"folder": str(cwd or os.getcwd()), "arguments": words, "streams": streams, "room": room, "code": code}
        return Child(self, self.ask(order), words, folder)

    def run(self, *arguments, **options):
        """Runs a command; what ``subprocess.run`` returns."""
        return self.start(*arguments, **options).finish()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()
        self._home.cleanup()


def kill_once(child, seen):
    """SIGKILL a child as soon as ``seen()``; it must not have finished before that."""
    deadline = time.monotonic() + 200
    while not seen():
        assert child.poll() is None, child.finish().stderr
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    assert child.finish().returncode == -signal.SIGKILL
