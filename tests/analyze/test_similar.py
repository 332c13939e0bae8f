"""Nearest heads against brute force over a real study, and a copy of a study in which everything is found again."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.similar import Queries, find_similar, patterns_of, represented_of
from apmae.artifacts import fingerprint, matrix, read_table, read_tables, record_of, write_table
from apmae.config import SimilarConfig
from apmae.schema import SIMILAR, SIMILAR_HEADS
from apmae.study.reader import Study

CONFIG = SimilarConfig(count=6, controls=25, seed=3)
DISTANCES = {
    "manhattan": lambda a, b: np.abs(a - b).sum(),
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
    "cosine": lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)),
}


@pytest.fixture(scope="module")
def study(real_study):
    return Study(real_study.folder)


@pytest.fixture(scope="module")
def rows(study):
    table = read_tables(study.embeddings_folder, "encode", "embeddings", ["prompt", "layer", "head", "embedding"])
    where = list(zip(*(table[name].to_pylist() for name in ("prompt", "layer", "head")), strict=True))
    return dict(zip(where, matrix(table["embedding"]).astype(np.float64), strict=True))


def by_head(rows, z, metric, own):
    """Distances to all patterns of each head other than ``own``: (distance, prompt) pairs."""
    found = {}
    for (prompt, layer, head), other in rows.items():
        if (layer, head) != own:
            found.setdefault((layer, head), []).append((DISTANCES[metric](z, other), prompt))
    return found


@pytest.mark.parametrize("metric", list(DISTANCES))
def test_the_nearest_heads_are_those_of_brute_force(study, rows, metric):
    places = [(2, 3, 5), (0, 1, 0)]
    queries = Queries(represented_of(study, places)[0], ((0, 3, 5), None))
    found = find_similar(queries, {"mine": study}, metric, CONFIG)
    assert found.patterns.schema.equals(SIMILAR) and found.heads.schema.equals(SIMILAR_HEADS)
    table = found.patterns.to_pylist()
    assert len(table) == 12 and [row["query"] for row in table] == [0] * 6 + [1] * 6
    every = [by_head(rows, rows[place], metric, own) for place, own in zip(places, ((3, 5), None), strict=True)]
    for query, far in enumerate(every):
        expected = sorted((min(own), place) for place, own in far.items())[:6]
        for row, ((distance, prompt), place) in zip([r for r in table if r["query"] == query], expected, strict=True):
            assert (row["layer"], row["head"], row["prompt"]) == (*place, prompt)
            assert row["distance"] == pytest.approx(distance, rel=1e-5, abs=1e-6)
    assert (table[6]["layer"], table[6]["head"], table[6]["prompt"]) == (1, 0, 0), "itself, since it may"
    mean = {}
    for far in every:
        for place, own in far.items():
            mean.setdefault(place, []).append(np.mean([distance for distance, _ in own]))
    expected = sorted((np.mean(values), place) for place, values in mean.items() if len(values) == 2)[:6]
    own = [DISTANCES[metric](rows[2, 3, 5], z) for (prompt, *at), z in rows.items() if at == [3, 5] and prompt != 2]
    assert found.itself == pytest.approx(np.mean(own), rel=1e-5)
    for row, (value, place) in zip(found.heads.to_pylist(), expected, strict=True):
        assert (row["layer"], row["head"]) == place and row["mean"] == pytest.approx(value, rel=1e-5)
        assert row["nearest"] == pytest.approx(min(min(far[place])[0] for far in every), rel=1e-5, abs=1e-6)
        assert row["patterns"] == sum(key[1:] == place for key in rows)


def test_what_is_usual_is_what_drawn_patterns_have(study, rows):
    """All patterns are drawn, so that the draw need not be repeated here."""
    some = {place: z for place, z in rows.items()}
    config = SimilarConfig(count=3, controls=len(some))
    place = (1, 2, 4)
    found = find_similar(Queries(represented_of(study, [place])[0], ((0, 2, 4),)), {"mine": study}, "manhattan", config)
    keys, z = list(some), np.stack(list(some.values()))
    heads = np.array([layer * 100 + head for _, layer, head in keys])
    nearest = []
    for row in range(len(keys)):
        far = np.abs(z - z[row]).sum(1)
        own = sorted(far[heads == other].min() for other in set(heads.tolist()) - {heads[row]})
        nearest.append(own[:3])
    nearest = np.array(nearest)
    np.testing.assert_allclose(found.usual, np.quantile(nearest[:, 0], [0.05, 0.5, 0.95]), rtol=1e-6)
    table = found.patterns.to_pylist()
    for row in table:
        assert row["controls"] == pytest.approx((nearest[:, row["rank"] - 1] < row["distance"] - 1e-4).mean(), abs=2e-3)
    draw = np.random.default_rng(0)
    pairs = [(a, b) for a, b in draw.integers(len(keys), size=(4000, 2)) if heads[a] != heads[b]]
    distances = np.array([np.abs(z[a] - z[b]).sum() for a, b in pairs])
    for row in table:
        assert row["pairs"] == pytest.approx((distances < row["distance"]).mean(), abs=0.03)


def test_clusters_and_names_are_the_studys(study):
    places = [(number, 3, 5) for number in patterns_of(study, 3, 5).tolist()]
    queries = Queries(represented_of(study, places)[0], ((0, 3, 5),) * len(places))
    found = find_similar(queries, {"mine": study}, "manhattan", CONFIG)
    points = study.points.to_pylist()
    cluster = {(row["prompt"], row["layer"], row["head"]): row["cluster"] for row in points}
    for row in found.patterns.to_pylist():
        assert row["cluster"] == cluster[row["prompt"], row["layer"], row["head"]]
        assert row["name"] == study.names[row["cluster"]] and row["measured"]
        assert (row["study"], row["model"]) == ("mine", study.encoded.counts["lm"])
    for row in found.heads.to_pylist():
        own = [label for (_, *place), label in cluster.items() if place == [row["layer"], row["head"]]]
        assert own.count(row["cluster"]) == max(map(own.count, own))
        assert row["share"] == pytest.approx(own.count(row["cluster"]) / len(own))


def test_patterns_that_the_gate_does_not_judge_are_not_searched(real_study, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(real_study.folder, folder)
    path = folder / "embeddings" / "embeddings-00000.parquet"
    table = read_table(path)
    short = np.array(table["prompt"]) == 0
    values = np.where(short, np.nan, table["structure"].to_numpy()).astype(np.float32)
    place = table.schema.get_field_index("structure")
    write_table(path, table.set_column(place, table.schema.field(place), pa.array(values)))
    for part, stage in (("embeddings", "encode"), ("atlas", "cluster")):
        manifest = folder / part / "manifest.json"
        record = json.loads(manifest.read_text())
        if stage == "encode":
            record["files"][path.name] = record_of(path, table.num_rows)
        else:
            record["inputs"]["encode"] = fingerprint(folder / "embeddings")
        manifest.write_text(json.dumps(record))
    study = Study(folder)
    z, judged = represented_of(study, [(0, 3, 5), (1, 3, 5)])
    assert judged.tolist() == [False, True]
    found = find_similar(Queries(z, (None, None)), {"short": study}, "manhattan", CONFIG)
    assert all(row["prompt"] != 0 for row in found.patterns.to_pylist())
    assert found.patterns.to_pylist()[6]["distance"] == 0
    prompts = len(set(np.array(study.points["prompt"]).tolist()))
    assert {row["patterns"] for row in found.heads.to_pylist()} == {prompts - 1}


def test_a_copy_of_the_study_has_every_pattern_again(study, real_study, tmp_path):
    shutil.copytree(real_study.folder, tmp_path / "copy")
    places = [(0, 0, 3), (1, 4, 2), (2, 5, 7)]
    queries = Queries(represented_of(study, places)[0], tuple((0, layer, head) for _, layer, head in places))
    both = {"mine": study, "copy": Study(tmp_path / "copy")}
    first = [row for row in find_similar(queries, both, "manhattan", CONFIG).patterns.to_pylist() if row["rank"] == 1]
    assert [(row["study"], row["prompt"], row["layer"], row["head"]) for row in first] == [
        ("copy", *place) for place in places
    ]
    assert all(row["distance"] == row["controls"] == row["pairs"] == 0 for row in first)
