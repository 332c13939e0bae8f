"""Artifacts: what a stage writes to disk. Shards come first, ``manifest.json`` last and atomically; reused by hash."""

from apmae.artifacts.columns import fixed_list, matrix, pack_patches, unpack_patches
from apmae.artifacts.files import (
    expect_place,
    read_json,
    read_table,
    replacing,
    sha256_file,
    write_json,
    write_table,
    write_through,
)
from apmae.artifacts.manifest import (
    FileRecord,
    Manifest,
    Records,
    fingerprint,
    is_shard,
    journal_path,
    manifest_path,
    read_manifest,
    read_tables,
    record_of,
    shard_file,
    write_tables,
)
from apmae.artifacts.shards import Shard, Work, add_shard, cut, missing, run_shards
from apmae.artifacts.stage import Stage, expect_stage

__all__ = [
    "FileRecord",
    "Manifest",
    "Records",
    "Shard",
    "Stage",
    "Work",
    "add_shard",
    "cut",
    "expect_place",
    "expect_stage",
    "fingerprint",
    "fixed_list",
    "is_shard",
    "journal_path",
    "manifest_path",
    "matrix",
    "missing",
    "pack_patches",
    "read_json",
    "read_manifest",
    "read_table",
    "read_tables",
    "record_of",
    "replacing",
    "run_shards",
    "sha256_file",
    "shard_file",
    "unpack_patches",
    "write_json",
    "write_table",
    "write_tables",
    "write_through",
]
