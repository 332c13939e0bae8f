"""Outcomes planted in a real study, where the model's own leave nothing to tell apart."""

import pyarrow as pa

from apmae.artifacts import fingerprint, read_json, read_manifest, read_table, write_json, write_table
from apmae.artifacts.manifest import record_of


def with_outcomes(folder, outcome):
    """Give a study's prompts other outcomes, by their number; the manifests agree."""
    manifest = read_json(folder / "embeddings" / "manifest.json")
    for name in read_manifest(folder / "embeddings", "encode").shards("prompts"):
        path = folder / "embeddings" / name
        rows = read_table(path).to_pylist()
        schema = read_table(path).schema
        write_table(path, pa.Table.from_pylist([{**row, "outcome": outcome(row)} for row in rows], schema=schema))
        manifest["files"][name] = record_of(path, len(rows))
    write_json(folder / "embeddings" / "manifest.json", manifest)
    clustered = read_json(folder / "atlas" / "manifest.json")
    own = [name for name, digest in clustered["inputs"].items() if name != "encoder"]
    clustered["inputs"][own[0]] = fingerprint(folder / "embeddings")
    write_json(folder / "atlas" / "manifest.json", clustered)
