"""Measurements against scikit-learn's, on a planted study; what an interruption costs; what is refused."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from sklearn import manifold

from apmae.artifacts import Stage, matrix, read_manifest, read_table, read_tables, write_table
from apmae.atlas.reduce import Reducer
from apmae.config import AtlasConfig, DimensionsConfig
from apmae.engine.dimensions import measure_dimensions
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import DIMENSIONS

CONFIG = DimensionsConfig(dimensions=(3, 2), neighbors=20, points=5000, seeds=2, queries=5000, seed=4)


@pytest.fixture
def fits(monkeypatch):
    """Counts the reductions, as (dimensions, seed, rows), and stops the run before the number ``stop``."""
    fit = Reducer.fit

    class Fits(list):
        stop = None

    found = Fits()

    def counted(self, z):
        if len(found) == found.stop:
            raise KeyboardInterrupt
        found.append((self.config.dimensions, self.config.seed, z))
        return fit(self, z)

    monkeypatch.setattr(Reducer, "fit", counted)
    return found


@pytest.fixture(scope="module")
def passing(folder):
    """The planted patterns that pass the gate."""
    table = read_tables(folder / "embeddings", "encode", "embeddings", ["embedding", "structure"])
    return matrix(table["embedding"]).astype(np.float32)[table["structure"].to_numpy() >= 4.5]


@pytest.fixture
def shrunk(folder, tmp_path):
    """A copy of the planted embeddings in which only some patterns pass the gate."""

    def make(patterns):
        out = tmp_path / "shrunk"
        table = read_tables(folder / "embeddings", "encode", "embeddings")
        structure = np.where(np.arange(table.num_rows) < patterns, 50, 2).astype(np.float32)
        field = table.schema.get_field_index("structure")
        table = table.set_column(field, table.schema.field(field), pa.array(structure))
        with Stage.open(out, "encode", {}, {}) as stage:
            stage.write_tables({"embeddings-00000.parquet": table})
            stage.finish(read_manifest(folder / "embeddings", "encode").counts)
        return out

    return make


def test_every_measurement_is_scikit_learns(folder, passing, tmp_path, fits):
    measure_dimensions(folder / "embeddings", tmp_path / "figure.png", CONFIG)
    table = read_table(tmp_path / "figure.parquet")
    assert table.schema == DIMENSIONS
    rows = table.to_pylist()
    assert [(row["dimensions"], row["seed"]) for row in rows] == [(2, 4), (2, 5), (3, 4), (3, 5)]
    assert sorted((dimensions, seed) for dimensions, seed, _ in fits) == [(2, 4), (2, 5), (3, 4), (3, 5)]
    for row in rows:
        config = AtlasConfig(dimensions=row["dimensions"], seed=row["seed"])
        reduced = Reducer(config).fit(passing).coordinates_
        wanted = manifold.trustworthiness(passing, reduced, n_neighbors=20, metric="manhattan")
        assert row["trustworthiness"] == pytest.approx(wanted, abs=5e-5)  # in fp16 some distances are equal
        assert (row["error"], row["points"], row["queries"]) == (0, len(passing), len(passing))
        assert row["neighbors"] == 20


def test_each_seed_draws_other_patterns_that_pass_and_asks_some(folder, passing, tmp_path, fits):
    config = CONFIG.model_copy(update={"points": 100, "queries": 30})
    found = measure_dimensions(folder / "embeddings", tmp_path / "figure.png", config)
    assert (found.points, found.queries, found.neighbors) == (100, 30, 20)
    assert all(row.error > 0 for row in found.rows)
    known = {row.tobytes() for row in passing}
    drawn = {(dimensions, seed): {row.tobytes() for row in z} for dimensions, seed, z in fits}
    assert all(len(rows) == 100 and rows <= known for rows in drawn.values())
    assert drawn[2, 4] == drawn[3, 4] != drawn[2, 5]


def test_equal_patterns_are_one(shrunk, tmp_path, fits):
    embeddings = shrunk(60)
    file = embeddings / "embeddings-00000.parquet"
    table = read_table(file)
    write_table(tmp_path / "twice.parquet", pa.concat_tables([table.slice(0, 60), table.slice(0, 60)]))
    twice = tmp_path / "twice"
    with Stage.open(twice, "encode", {}, {}) as stage:
        stage.write_tables({"embeddings-00000.parquet": read_table(tmp_path / "twice.parquet")})
        stage.finish(read_manifest(embeddings, "encode").counts)
    assert measure_dimensions(twice, tmp_path / "figure.png", CONFIG).points == 60


def test_with_few_patterns_there_are_fewer_neighbours_and_the_command_says_so(shrunk, tmp_path, capsys):
    config = CONFIG.model_copy(update={"neighbors": 1000})
    found = measure_dimensions(shrunk(41), tmp_path / "figure.png", config)
    assert (found.neighbors, found.points) == (20, 41)
    said = "20 neighbours instead of 1,000, fewer than half of the 41 different patterns that are reduced"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_run_measures_only_what_is_missing_and_ends_with_the_same_bytes(folder, tmp_path, fits, stop):
    whole, out = tmp_path / "whole.png", tmp_path / "stopped.png"
    measure_dimensions(folder / "embeddings", whole, CONFIG)
    fits.clear()
    fits.stop = stop
    with pytest.raises(KeyboardInterrupt):
        measure_dimensions(folder / "embeddings", out, CONFIG)
    assert len(fits) == stop and not out.exists()
    fits.clear()
    fits.stop = None
    measure_dimensions(folder / "embeddings", out, CONFIG)
    assert len(fits) == 4 - stop
    for suffix in (".png", ".parquet"):
        assert out.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert sorted(path.name for path in tmp_path.glob("stopped.*")) == [
        *("stopped.manifest.json", "stopped.parquet", "stopped.png")
    ]


def test_what_is_finished_is_reused_and_something_else_is_refused(folder, tmp_path, fits):
    out = tmp_path / "figure.png"
    first = measure_dimensions(folder / "embeddings", out, CONFIG)
    picture = out.read_bytes()
    out.unlink()
    fits.clear()
    assert measure_dimensions(folder / "embeddings", out, CONFIG) == first
    assert out.read_bytes() == picture and not fits
    other = CONFIG.model_copy(update={"neighbors": 10})
    with pytest.raises(ArtifactError, match="config.neighbors was 20, now 10.*--overwrite"):
        measure_dimensions(folder / "embeddings", out, other)
    assert measure_dimensions(folder / "embeddings", out, other, overwrite=True).neighbors == 10
    assert len(fits) == 4


def test_what_cannot_be_reduced_is_refused(folder, shrunk, tmp_path):
    out = tmp_path / "figure.png"
    with pytest.raises(ConfigError, match="at least 6 different patterns with structure to reduce to 3 .* found 5"):
        measure_dimensions(shrunk(5), out, CONFIG)
    with pytest.raises(ConfigError, match="at most 6 dimensions, as many as embeddings in .* have, got 7"):
        measure_dimensions(folder / "embeddings", out, CONFIG.model_copy(update={"dimensions": (2, 7)}))
    with pytest.raises(ConfigError, match="ends in .png, got .*figure.pdf"):
        measure_dimensions(folder / "embeddings", out.with_suffix(".pdf"), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["shrunk"]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_embeddings_are_refused(folder, tmp_path, damage):
    copy = tmp_path / "embeddings"
    shutil.copytree(folder / "embeddings", copy)
    shard = copy / "embeddings-00001.parquet"
    if damage == "cut":
        os.truncate(shard, shard.stat().st_size - 100)
    else:
        shard.unlink()
    with pytest.raises(ArtifactError, match=str(copy)):
        measure_dimensions(copy, tmp_path / "figure.png", CONFIG)


def test_the_command_writes_the_picture_and_prints_the_numbers(folder, tmp_path, apmae_command):
    settings = ("--dimensions", "2, 3", "--neighbors", "20", "--seeds", "1", "--points", "60", "--set", "queries=50")
    result = apmae_command("dimensions", folder / "embeddings", "--out", tmp_path / "figure.png", *settings)
    assert result.returncode == 0, result.stderr
    assert "20 neighbours of 50 of 60 patterns, 1 seed" in result.stdout
    assert f"picture in {tmp_path / 'figure.png'}, numbers in {tmp_path / 'figure.parquet'}" in result.stdout
    assert "1 of 2 fits, UMAP of 60 patterns to 3 dimensions, seed 0" in result.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(tmp_path / "figure.parquet")["dimensions"].to_pylist() == [2, 3]
