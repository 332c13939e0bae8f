"""Which files hold patterns, judged by their names before torch is imported."""

from pathlib import Path

from apmae.errors import CaptureError

SUFFIXES: tuple[str, ...] = (".npy", ".npz", ".safetensors")


def expect_patterns(path: Path) -> None:
    """Refuse a path that cannot be a file of patterns.

    Raises:
        CaptureError: if there is no such file, or its name says it is of another kind.
    """
    if not path.is_file():
        raise CaptureError(f"expected a file of patterns at {path}, found none; check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise CaptureError(
            f"expected patterns in {', '.join(SUFFIXES)}, got {path}; save the probabilities as one of them first "
            "(numpy.save)"
        )
