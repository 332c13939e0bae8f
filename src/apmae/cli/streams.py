"""The output streams of a command: neither a reader that leaves nor a full disk stops its work.

A command writes its files before it prints. If the reader of its output leaves early, as ``head`` does, the rest is
dropped and the command ends as it would have. If output cannot be written for another reason, the command says so at
the end.
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
    """An output stream of this process that accepts everything, even after its reader has left.

    Attributes:
        failure: why something could not be written; None if nothing was lost, or only because the reader left.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: "Buffer", /) -> int:
        """Write; drop everything once that has failed."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # the descriptor too, for libraries that write to it
            os.close(nowhere)
            return memoryview(data).nbytes


@contextmanager
def drained() -> Iterator[Drain]:
    """Make standard output and standard error drains while the block runs; closed ones go to the null device.

    Yields:
        The drain of standard output.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes this number, which the next opened file would get
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
    # Characters that the encoding lacks are escaped: a symbol in a table is no reason to stop.
    return io.TextIOWrapper(io.BufferedWriter(drain), encoding, "backslashreplace", line_buffering=drain.isatty())
