import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from apmae.artifacts import read_json, write_json
from apmae.atlas.atlas import Atlas
from apmae.errors import ArtifactError, ConfigError


def test_a_loaded_atlas_places_as_the_saved_one(atlas, blobs, tmp_path):
    draw = np.random.default_rng(2)
    z = np.concatenate([blobs[0], blobs[0] + draw.normal(size=blobs[0].shape)])
    names = atlas.save(tmp_path / "atlas")
    assert sorted(names) == sorted(path.name for path in (tmp_path / "atlas").iterdir())
    loaded = Atlas.load(tmp_path / "atlas")
    for ours, theirs in zip(loaded.place(z), atlas.place(z), strict=True):
        assert np.array_equal(ours, theirs)
    assert loaded.clusters.equals(atlas.clusters)
    assert (loaded.config, loaded.names, loaded.dropped) == (atlas.config, atlas.names, atlas.dropped)


def test_a_saved_atlas_is_the_same_bytes_twice_and_without_pickle(atlas, tmp_path):
    for name in atlas.save(tmp_path / "a") and atlas.save(tmp_path / "b"):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert data[:1] != b"\x80", "the first byte of every pickle since protocol 2"
    code = """
import pickle, sys
def refuse(*_, **__): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from apmae.atlas.atlas import Atlas
print(len(Atlas.load(sys.argv[1]).clusters), "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True)
    assert result.stdout.split() == ["5", "False"], result.stderr


@pytest.mark.parametrize("name", ["atlas.json", "clusters.parquet", "reference.safetensors"])
def test_a_damaged_or_missing_atlas_is_refused(atlas, tmp_path, name):
    with pytest.raises(ArtifactError, match="expected a JSON file"):
        Atlas.load(tmp_path / "nothing")
    atlas.save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArtifactError) as refused:
        Atlas.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
    path.unlink()
    with pytest.raises(ArtifactError):
        Atlas.load(tmp_path)


@pytest.mark.parametrize("name", ["clusters.parquet", "reference.safetensors"])
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_single_flipped_bit_is_refused(atlas, tmp_path, name, place):
    atlas.save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} as it was saved, its content has changed; fit it again"):
        Atlas.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models", None),
        ("models", "opt"),
        ("models", [3]),
        ("config", None),
        ("dropped", []),
        ("unstructured", "14"),
        ("encoder", 3),
        ("constants", ["x"]),
        ("representation", 1),
        ("files", []),
    ],
)
def test_a_damaged_record_is_refused_by_its_key(atlas, tmp_path, key, value):
    atlas.save(tmp_path)
    write_json(tmp_path / "atlas.json", {**read_json(tmp_path / "atlas.json"), key: value})
    with pytest.raises(ArtifactError, match=f"{key} in its atlas.json is damaged; fit it again"):
        Atlas.load(tmp_path)


def test_an_atlas_of_another_version_is_refused(atlas, tmp_path):
    atlas.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    record["config"]["colour"] = "red"
    write_json(tmp_path / "atlas.json", record)
    with pytest.raises((ConfigError, ArtifactError), match="colour"):
        Atlas.load(tmp_path)
    (tmp_path / "atlas.json").write_text(json.dumps(["no", "atlas"]))
    with pytest.raises(ArtifactError):
        Atlas.load(tmp_path)


@pytest.mark.parametrize("key", ["encoder", "representation", "unstructured"])
def test_an_atlas_of_an_earlier_version_is_made_again(atlas, tmp_path, key):
    atlas.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    assert not record.pop(key), "bare arrays: neither was given, and all pass the gate"
    write_json(tmp_path / "atlas.json", record)
    with pytest.raises(ArtifactError, match="an earlier version made this one; make it again .apmae cluster"):
        Atlas.load(tmp_path)


def test_an_atlas_refuses_rows_of_another_representation(blobs, tmp_path):
    z = blobs[0]
    Atlas.fit(z, seed=0, representation="descriptor").save(tmp_path)
    loaded = Atlas.load(tmp_path)
    assert loaded.representation == read_json(tmp_path / "atlas.json")["representation"] == "descriptor"
    assert np.array_equal(loaded.place(z, representation="descriptor").cluster, loaded.place(z).cluster)
    with pytest.raises(ConfigError, match=r"expected descriptor rows, .* got cls: .*kind='descriptor'\), or fit"):
        loaded.place(z, representation="cls")
    with pytest.raises(ConfigError, match=r"got 2 \(joint\); use its encoder and representation, which is not noted"):
        Atlas.fit(z, seed=0).place(z[:, :2], representation="joint")
    with pytest.raises(ConfigError, match=r"of 24 dimensions, .* got 2; make descriptor rows .* kind='descriptor'\)"):
        loaded.place(z[:, :2])


def test_a_representation_that_does_not_exist_is_refused(blobs, tmp_path):
    said = "expected a representation, one of joint, descriptor, cls, got 'pixels'"
    with pytest.raises(ConfigError, match=said):
        Atlas.fit(blobs[0], seed=0, representation="pixels")
    Atlas.fit(blobs[0], seed=0).save(tmp_path)
    write_json(tmp_path / "atlas.json", {**read_json(tmp_path / "atlas.json"), "representation": "pixels"})
    with pytest.raises(ConfigError, match=said):
        Atlas.load(tmp_path)


def test_an_encoder_is_known_by_its_fingerprint(blobs, tmp_path):
    fitted = Atlas.fit(blobs[0], seed=0, encoder="a" * 64)
    fitted.save(tmp_path)
    loaded = Atlas.load(tmp_path)
    loaded.expect_encoder("a" * 64)
    with pytest.raises(ConfigError, match=r"\(aaaaaaaaaaaa\), got another \(bbbbbbbbbbbb\)"):
        loaded.place(blobs[0], encoder="b" * 64)
    assert np.array_equal(loaded.place(blobs[0], encoder="a" * 64).cluster, fitted.place(blobs[0]).cluster)


def test_the_bundled_atlas_knows_named_clusters():
    bundled = Atlas.load()
    assert len(bundled.clusters) > 3
    assert isinstance(bundled.clusters, pa.Table)
    assert not any(name.startswith("cluster ") for name in bundled.clusters["name"].to_pylist())


def test_a_study_is_not_taken_for_its_atlas(atlas, tmp_path):
    atlas.save(tmp_path / "demo" / "atlas")
    with pytest.raises(ArtifactError, match="expected an atlas at .*demo, got a study; give .*demo/atlas$"):
        Atlas.load(tmp_path / "demo")
