"""What the prune stage made, in a study or alone, opened for reading."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from apmae.artifacts import read_manifest, read_table
from apmae.schema import PRUNED_SETS_FILE, PRUNING_FILE, RANKED_FILE

PRUNING_RESULTS = (PRUNING_FILE, RANKED_FILE, PRUNED_SETS_FILE)
"""Files of the tables of a :class:`Pruning`."""


class Pruning(NamedTuple):
    """Heads removed together in several orders: what is left of the model's answers."""

    curves: pa.Table
    """``schema.PRUNING``."""
    ranked: pa.Table
    """``schema.RANKED_HEADS``."""
    removed: pa.Table
    """``schema.PRUNED_SETS``."""
    counts: Mapping[str, Any]
    """Of the manifest."""

    @property
    def rankings(self) -> list[str]:
        """In the order of the tables, without random sets."""
        return list(dict.fromkeys(self.ranked["ranking"].to_pylist()))

    def rows(self, **fields: Any) -> list[dict[str, Any]]:
        """Rows of ``curves`` by dose: of the ranked heads and of random sets, or what ``fields`` ask for."""
        wanted = {"control": "", **fields}
        found = [row for row in self.curves.to_pylist() if all(row[name] == value for name, value in wanted.items())]
        return sorted(found, key=lambda row: row["dose"])


def read_pruning(folder: Path) -> Pruning:
    """Read the folder of a finished prune stage.

    Raises:
        ArtifactError: if it is missing, unfinished or damaged.
    """
    counts = read_manifest(folder, "prune").counts
    curves, ranked, removed = (read_table(folder / name) for name in PRUNING_RESULTS)
    return Pruning(curves, ranked, removed, counts)
