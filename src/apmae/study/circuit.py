"""What the circuit stage made, read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from apmae.artifacts import read_manifest, read_table
from apmae.schema import CIRCUIT_EDGES_FILE, CIRCUIT_FILE, CIRCUIT_RECALL_FILE, CIRCUIT_TASKS_FILE

TABLES = (CIRCUIT_FILE, CIRCUIT_RECALL_FILE, CIRCUIT_TASKS_FILE, CIRCUIT_EDGES_FILE)
"""The files of a circuit's tables, in their order there."""


class Circuit(NamedTuple):
    """The circuit of each task."""

    heads: pa.Table
    """``schema.CIRCUIT``."""
    recall: pa.Table
    """``schema.CIRCUIT_RECALL``; no rows unless all heads were patched."""
    tasks: pa.Table
    """``schema.CIRCUIT_TASKS``."""
    edges: pa.Table
    """``schema.CIRCUIT_EDGES``; no rows unless edges were asked for."""
    counts: Mapping[str, Any]
    """Of the manifest: pairs, what was left out, heads patched, forwards, seconds."""


def read_circuit(folder: Path) -> Circuit:
    """Read the tables of a finished circuit stage.

    Raises:
        ArtifactError: if it is unfinished or damaged.
    """
    counts = read_manifest(folder, "circuit").counts
    heads, recall, tasks, edges = (read_table(folder / name) for name in TABLES)
    return Circuit(heads, recall, tasks, edges, counts)
