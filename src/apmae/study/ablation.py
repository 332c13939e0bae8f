"""What the ablate stage made, in a study or alone, opened for reading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from apmae.artifacts import read_manifest, read_table
from apmae.schema import (
    ABLATION_FILE,
    ABLATION_TASKS_FILE,
    HEAD_EFFECTS_FILE,
    HEAD_SETS_FILE,
    RELIABILITY_FILE,
)

ABLATION_RESULTS = (HEAD_EFFECTS_FILE, RELIABILITY_FILE, ABLATION_FILE, ABLATION_TASKS_FILE, HEAD_SETS_FILE)
"""Files of the tables of an :class:`Ablation`."""


class Ablation(NamedTuple):
    """Heads removed alone and in sets: what that changes."""

    heads: pa.Table
    """``schema.HEAD_EFFECTS``."""
    reliability: pa.Table
    """``schema.RELIABILITY``."""
    sets: pa.Table
    """``schema.ABLATION``."""
    tasks: pa.Table
    """``schema.ABLATION_TASKS``."""
    removed: pa.Table
    """``schema.HEAD_SETS``."""
    counts: Mapping[str, Any]
    """Of the manifest."""

    @property
    def modes(self) -> list[str]:
        """In the order of the settings."""
        return list(dict.fromkeys(self.heads["mode"].to_pylist()))

    def ranked(self, mode: str, **fields: str) -> list[dict[str, Any]]:
        """Rows of ``sets`` of one mode: the ranked heads themselves, or what ``fields`` ask for."""
        wanted = {"mode": mode, "control": "", **fields}
        return [row for row in self.sets.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def read_ablation(folder: Path) -> Ablation:
    """Read the folder of a finished ablate stage.

    Raises:
        ArtifactError: if it is missing, unfinished or damaged.
    """
    counts = read_manifest(folder, "ablate").counts
    heads, reliability, sets, tasks, removed = (read_table(folder / name) for name in ABLATION_RESULTS)
    return Ablation(heads, reliability, sets, tasks, removed, counts)
