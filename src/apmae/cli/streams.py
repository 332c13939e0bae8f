"""Where a command prints to: a reader that leaves, or a full disk, stops no work.

A command writes its files before it prints. When the reader of its output has enough, as ``head`` has, the rest is
dropped and the command ends as it would have. Output that cannot be written for another reason is told at the end.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Drain(io.FileIO):
    """A stream of this process that takes everything, even when nobody reads it any more.

    Attributes:
        failure: why something could not be written, unless its reader left.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: "Buffer", /) -> int:
        """Write; once that failed, drop."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # the number itself, for libraries that write to that
            os.close(nowhere)
            return memoryview(data).nbytes


@contextmanager
def drained() -> Iterator[Drain]:
    """While the block runs, standard output and standard error are drains; one that is closed leads nowhere.

    Yields:
        That of standard output.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: the next file would have taken it
    before = sys.stdout, sys.stderr
    drains = Drain(1), Drain(2)
    sys.stdout, sys.stderr = map(_text, drains, before)
    try:
        yield drains[0]
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _text(drain: Drain, before: TextIO | None) -> TextIO:
    if before is not None:
        before.flush()
    encoding = "utf-8" if before is None else before.encoding
    # What the encoding lacks is spelled out: a sign in a table is no reason to stop.
    return io.TextIOWrapper(io.BufferedWriter(drain), encoding, "backslashreplace", line_buffering=drain.isatty())
