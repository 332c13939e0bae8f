"""How much memory there is: what the system has left, and what the process's control group allows it."""

from collections.abc import Iterator
from pathlib import Path

_SYSTEM = Path("/")


def free_memory(root: Path = _SYSTEM) -> float:
    """Bytes that are available, file caches included; infinite where nothing says (``/proc`` is Linux's).

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    return max(0.0, min([_free_of_system(root), *_free_of_groups(root)]))


def _free_of_system(root: Path) -> float:
    found = _fields(root / "proc/meminfo").get("MemAvailable:")
    return float("inf") if found is None else 1024.0 * found


def _free_of_groups(root: Path) -> Iterator[float]:
    """What each control group that the process is in has left, of version 2 and of version 1."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        # In a container the path may be the host's, while the container's own group is at the top.
        for group in (own, *own.parents):
            limit, used = (_number(group / name) for name in names[:2])
            if limit is not None and used is not None:
                yield float(limit - used + _fields(group / "memory.stat").get(names[2], 0))
            if group == top:
                break


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no such file, or it says "max"."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """The first number on each line of a file, by the word before it."""
    words = (line.split() for line in _lines(path))
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return []
