"""The files of an atlas: safetensors, Parquet and JSON, without pickle."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from apmae.artifacts import read_json, read_table, write_json, write_table, write_through
from apmae.atlas.names import overlay, renamed
from apmae.atlas.place import Reference
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import ATLAS_FILE, CLUSTERS, CLUSTERS_FILE, NAMES_FILE

_REFERENCE = "reference.safetensors"


def write_atlas(folder: Path, record: dict[str, Any], clusters: pa.Table, reference: Reference) -> list[str]:
    """Write ``clusters.parquet``, ``reference.safetensors`` and, last, ``atlas.json``.

    Returns:
        The files' names.
    """
    write_table(folder / CLUSTERS_FILE, clusters)
    write_through(folder / _REFERENCE, lambda path: save_file(reference._asdict(), path))
    write_json(folder / ATLAS_FILE, record)
    return [CLUSTERS_FILE, _REFERENCE, ATLAS_FILE]


def read_atlas(folder: Path) -> tuple[dict[str, Any], pa.Table, Reference]:
    """What an atlas was saved with: the record in ``atlas.json``, its clusters, and the points to place among.

    Raises:
        ArtifactError: if it is missing, damaged, or from another version.
    """
    record = read_json(folder / ATLAS_FILE)
    if not isinstance(record, dict) or not {"config", "dropped"} <= record.keys():
        raise ArtifactError(f"expected an atlas in {folder}, its {ATLAS_FILE} does not belong to one; fit it again")
    if not {"encoder", "representation", "unstructured"} <= record.keys():
        raise ArtifactError(
            f"expected an atlas that names its encoder and representation in {folder}, an earlier version made this "
            "one; make it again (apmae cluster EMBEDDINGS --overwrite, or Atlas.fit and save)"
        )
    try:
        tensors = load_file(folder / _REFERENCE)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"expected an atlas in {folder}: {error}; fit it again") from None
    clusters = read_table(folder / CLUSTERS_FILE)
    reference = Reference.from_tensors(tensors)
    if reference is None or not clusters.schema.equals(CLUSTERS):
        raise ArtifactError(
            f"expected an atlas of this version in {folder}, its arrays or columns are of another; fit it again"
        )
    if not reference.is_sound(len(clusters)):
        raise ArtifactError(
            f"expected finite arrays and labels of {len(clusters)} clusters in {folder}, its {_REFERENCE} is damaged; "
            "fit it again"
        )
    try:
        return record, renamed(clusters, overlay(folder)), reference
    except ConfigError as error:
        raise ArtifactError(f"{folder / NAMES_FILE}: {error}; mend or remove it") from None
