import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from small_stage import CONFIG, INPUTS, contents, make, table

from apmae.artifacts import (
    Stage,
    fingerprint,
    manifest_path,
    read_json,
    read_manifest,
    read_tables,
    sha256_file,
)
from apmae.errors import ArtifactError
from apmae.schema import FORMAT

SHARDS = 12


def test_a_manifest_says_what_the_artifact_was_made_from(tmp_path):
    make(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out", "encode")
    assert (manifest.config, manifest.inputs, manifest.counts) == (CONFIG, INPUTS, {"shards": 3})
    assert sorted(manifest.files) == sorted(contents(tmp_path / "out").keys() - {"manifest.json"})
    for name, file in manifest.files.items():
        path = tmp_path / "out" / name
        assert file == {"bytes": path.stat().st_size, "sha256": sha256_file(path), "rows": 50}
    versions = read_json(tmp_path / "out" / "manifest.json")["versions"]
    assert versions["pyarrow"] == pa.__version__
    assert versions["numpy"] == np.__version__


def test_equal_runs_leave_equal_bytes(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_unfinished_artifact_has_no_manifest(tmp_path):
    make(tmp_path / "out", stop_after=2)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(ArtifactError, match="unfinished: run its command again"):
        read_manifest(tmp_path / "out", "encode")
    with pytest.raises(ArtifactError, match=r"found none; run encode first"):
        read_manifest(tmp_path / "nothing", "encode")


def test_an_artifact_of_one_file_has_its_manifest_beside_it(tmp_path):
    out = tmp_path / "prompts.parquet"
    with Stage.open(out, "prompts", CONFIG, {}) as stage:
        stage.write_tables({out.name: table(0)})
        stage.finish()
    assert sorted(contents(tmp_path)) == ["prompts.manifest.json", "prompts.parquet"]
    assert manifest_path(out) == tmp_path / "prompts.manifest.json"
    assert list(read_manifest(out, "prompts").files) == ["prompts.parquet"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: {**record, "format": 999},
        lambda record: {**record, "stage": "train"},
        lambda record: ["nothing", "of", "ours"],
        lambda record: {"name": "a web page's manifest"},
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, spoil):
    make(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(spoil(read_json(path))))
    with pytest.raises(ArtifactError, match=f"expected stage 'encode' of format {FORMAT} at"):
        read_manifest(tmp_path / "out", "encode")


def test_a_cut_or_missing_shard_is_named_with_both_sizes(tmp_path):
    make(tmp_path / "out")
    shard = tmp_path / "out" / "rows-00001.parquet"
    whole = shard.stat().st_size
    os.truncate(shard, whole - 7)
    with pytest.raises(
        ArtifactError, match=rf"expected {whole} bytes in \S*rows-00001.parquet, it has {whole - 7}; run"
    ):
        read_tables(tmp_path / "out", "encode", "rows")
    shard.unlink()
    with pytest.raises(ArtifactError, match="it is missing; run encode again as before: it makes damaged files"):
        read_manifest(tmp_path / "out", "encode")


def test_tables_are_read_in_the_order_of_their_shards(tmp_path):
    make(tmp_path / "out", shards=SHARDS)
    read = read_tables(tmp_path / "out", "encode", "rows", ["number"])
    assert read["number"].to_pylist() == np.repeat(np.arange(SHARDS), 50).tolist()
    with pytest.raises(ArtifactError, match=r"expected files points-\*.parquet"):
        read_tables(tmp_path / "out", "encode", "points")


def test_a_fingerprint_depends_on_the_content_alone(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "one.txt").write_text("1")
        (tmp_path / name / "sub" / "two.txt").write_text("2")
    same = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "b") == same
    changes = [
        lambda folder: (folder / "one.txt").write_text("2"),
        lambda folder: (folder / "three.txt").write_text("2"),
        lambda folder: (folder / "one.txt").rename(folder / "uno.txt"),
        lambda folder: (folder / "sub" / "two.txt").rename(folder / "two.txt"),
    ]
    seen = {same}
    for number, change in enumerate(changes):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "a", copy)
        change(copy)
        seen.add(fingerprint(copy))
    assert len(seen) == 1 + len(changes)


def test_an_artifacts_fingerprint_hashes_its_manifest_and_a_files_its_bytes(tmp_path):
    make(tmp_path / "out")
    assert fingerprint(tmp_path / "out") == sha256_file(tmp_path / "out" / "manifest.json")
    assert fingerprint(tmp_path / "out" / "rows-00000.parquet") == sha256_file(tmp_path / "out" / "rows-00000.parquet")
    with pytest.raises(ArtifactError, match=r"expected a file or folder at \S*none, found none"):
        fingerprint(tmp_path / "none")
