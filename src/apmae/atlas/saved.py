"""The files of an atlas: safetensors, Parquet and JSON, without pickle."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from apmae.artifacts import read_json, read_table, sha256_file, write_json, write_table, write_through
from apmae.atlas.names import overlay, renamed
from apmae.atlas.origins import of_points
from apmae.atlas.place import Reference
from apmae.config import AtlasConfig, parse
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import ATLAS_FILE, CLUSTERS, CLUSTERS_FILE, NAMES_FILE, ORIGINS, ORIGINS_FILE

_REFERENCE = "reference.safetensors"
_FILES = (CLUSTERS_FILE, _REFERENCE, ORIGINS_FILE)
_FORMS: dict[str, tuple[type, ...]] = {
    "config": (dict,),
    "dropped": (dict,),
    "unstructured": (int,),
    "models": (list,),
    "constants": (str, type(None)),
    "encoder": (str, type(None)),
    "representation": (str, type(None)),
    "files": (dict,),
}
"""What the record in ``atlas.json`` holds."""


def write_atlas(
    folder: Path, record: dict[str, Any], clusters: pa.Table, reference: Reference, origins: pa.Table | None
) -> list[str]:
    """Write ``clusters.parquet``, ``reference.safetensors``, ``origins.parquet`` if they are known, and ``atlas.json``.

    Args:
        folder: where to.
        record: what ``atlas.json`` says.
        clusters: ``schema.CLUSTERS``.
        reference: the points to place among.
        origins: ``schema.ORIGINS`` of the rows that ``reference.origin`` names; None if nothing is known of them.

    Returns:
        The files' names; ``atlas.json`` is written last.
    """
    write_table(folder / CLUSTERS_FILE, clusters)
    write_through(folder / _REFERENCE, lambda path: save_file(reference.tensors(), path))
    if origins is not None:
        write_table(folder / ORIGINS_FILE, of_points(origins, reference.origin))
    written = [name for name in _FILES if name != ORIGINS_FILE or origins is not None]
    write_json(folder / ATLAS_FILE, record | {"files": {name: sha256_file(folder / name) for name in written}})
    return [*written, ATLAS_FILE]


def read_atlas(folder: Path) -> tuple[dict[str, Any], AtlasConfig, pa.Table, Reference, pa.Table | None]:
    """What an atlas was saved with: the record in ``atlas.json``, settings, clusters, the points to place among, and
    where they came from, if that was saved.

    Raises:
        ArtifactError: if it is missing, damaged, or from another version.
        ConfigError: if it has settings that this version does not know.
    """
    own = folder / "atlas"  # of a study
    if not (folder / ATLAS_FILE).is_file() and (own / ATLAS_FILE).is_file():
        raise ArtifactError(f"expected an atlas at {folder}, got a study; give {own}")
    record = read_json(folder / ATLAS_FILE)
    if not isinstance(record, dict) or not {"config", "dropped"} <= record.keys():
        raise ArtifactError(f"expected an atlas in {folder}, its {ATLAS_FILE} does not belong to one; fit it again")
    if not {"encoder", "representation", "unstructured"} <= record.keys():
        raise ArtifactError(
            f"expected an atlas that names its encoder and representation in {folder}, an earlier version made this "
            "one; make it again (apmae cluster EMBEDDINGS --overwrite, or Atlas.fit and save)"
        )
    damaged = [name for name, value in record.items() if not isinstance(value, _FORMS.get(name, (object,)))]
    if damaged or not all(isinstance(name, str) for name in record.get("models", [])):
        raise ArtifactError(
            f"expected an atlas in {folder}, {(damaged or ['models'])[0]} in its {ATLAS_FILE} is damaged; fit it again"
        )
    config = parse(AtlasConfig, record["config"], str(folder))
    for name, noted in record.get("files", {}).items():
        if name in _FILES and (folder / name).is_file() and sha256_file(folder / name) != noted:
            raise ArtifactError(f"expected {folder / name} as it was saved, its content has changed; fit it again")
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
    if clusters["cluster"].to_pylist() != list(range(len(clusters))) or not reference.is_sound(len(clusters), config):
        raise ArtifactError(
            f"expected points of {len(clusters)} clusters in {folder} that fit its settings, its {_REFERENCE} is "
            "damaged; fit it again"
        )
    origins = None
    if ORIGINS_FILE in record.get("files", {}):
        origins = read_table(folder / ORIGINS_FILE)
        if not origins.schema.equals(ORIGINS) or len(origins) != len(reference.labels):
            raise ArtifactError(
                f"expected one row for each of {len(reference.labels)} points in {folder / ORIGINS_FILE}, it does not "
                "belong to them; fit the atlas again"
            )
        reference = reference._replace(origin=np.arange(len(origins)))
    try:
        return record, config, renamed(clusters, overlay(folder)), reference, origins
    except ConfigError as error:
        raise ArtifactError(f"{folder / NAMES_FILE}: {error}; mend or remove it") from None
