"""What an atlas is fitted on: more rows than are fitted, rows that cannot be fitted, and arrays damaged after a fit."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import adjusted_rand_score

import apmae.atlas.atlas
import apmae.atlas.rows
from apmae.artifacts import read_json, write_json, write_table
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured, measured_of_rows
from apmae.atlas.rows import prompts_of_rows, sample_of
from apmae.config import AtlasConfig
from apmae.errors import ArtifactError, ConfigError
from apmae.schema import KINDS, SCORES

DIM = 24
CLUSTERERS = ["stable", "paper"]


# -- more rows than are fitted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusterer", CLUSTERERS)
def test_rows_that_are_not_fitted_are_placed(plant, clusterer):
    z, truth, _ = plant(sizes=(500, 400, 300, 200, 100))
    config = AtlasConfig(clusterer=clusterer, fit_points=300)
    found = Atlas.fit(z, seed=0, config=config, prompts=np.arange(len(z)) % 30)
    assert found.fitted_ == 300
    assert found.labels_.shape == (1500,)
    assert adjusted_rand_score(truth, found.labels_) > 0.95
    known = found.labels_ >= 0
    assert adjusted_rand_score(truth[known], found.labels_[known]) == 1
    assert known.mean() > 0.97
    assert len(found._reference.labels) == 300
    sizes = np.bincount(found.labels_[known])
    assert found.clusters["size"].to_pylist() == sizes.tolist(), "sizes are of all rows"
    again = Atlas.fit(z, seed=0, config=config, prompts=np.arange(len(z)) % 30)
    assert np.array_equal(again.labels_, found.labels_)
    spread = np.linalg.norm(found.coordinates_ - found.coordinates_.mean(0), axis=1).mean()
    for number in range(5):
        own = found.coordinates_[truth == number]
        assert np.linalg.norm(own - own.mean(0), axis=1).mean() < spread / 3, "placed near what is like them"


def test_the_largest_cluster_comes_first_whatever_the_sample_says(plant):
    """Of sizes so close that a sample has them in another order; what belongs to a cluster moves with it."""
    z, truth, _ = plant(sizes=(420, 410, 400, 390, 380))
    width = np.array([0.5, 1, 2, 4, 8])[truth]
    z = z + 0.05 * width[:, None] * np.random.default_rng(3).normal(size=z.shape)
    moved = 0
    for seed in range(3):
        found = Atlas.fit(z, seed=seed, config=AtlasConfig(fit_points=200))
        sizes = np.bincount(found.labels_[found.labels_ >= 0]).tolist()
        assert found.clusters["size"].to_pylist() == sizes == sorted(sizes, reverse=True)
        assert adjusted_rand_score(truth, found.labels_) > 0.95
        assert adjusted_rand_score(found.labels_, found.place(z).cluster) > 0.95
        assert (found.place(z).cluster == found.labels_).mean() > 0.95, "the reference has the same numbers"
        rows = sample_of(np.arange(len(z)), 200, z.shape[1], seed)
        fitted = np.bincount(found.labels_[rows][found.labels_[rows] >= 0])
        moved += fitted.tolist() != sorted(fitted.tolist(), reverse=True)
        own = [found.coordinates_[rows][found.labels_[rows] == number] for number in range(5)]
        spread = [np.linalg.norm(part - part.mean(0), axis=1).mean() for part in own]
        assert found.clusters["mean_distance"].to_pylist() == pytest.approx(spread, rel=1e-3)
    assert moved, "else this shows nothing"


def test_if_all_rows_fit_all_are_fitted(atlas, blobs):
    assert atlas.fitted_ == len(blobs[0])
    exact = Atlas.fit(blobs[0], seed=0, config=AtlasConfig(fit_points=len(blobs[0])))
    assert np.array_equal(exact.labels_, atlas.labels_)


def test_far_rows_that_are_not_fitted_stay_unknown_and_those_that_fail_are_in_no_cluster(plant):
    z, truth, _ = plant(sizes=(500, 400, 300))
    passing = np.arange(len(z)) % 4 > 0
    found = Atlas.fit(z, seed=0, config=AtlasConfig(fit_points=200), structured=passing)
    assert (found.fitted_, found.unstructured_) == (200, 300)
    assert (found.labels_[~passing] == -1).all()
    assert adjusted_rand_score(truth[passing], found.labels_[passing]) > 0.95


@pytest.mark.parametrize("points", [1, 99, 100, 1000])
def test_the_sample_is_seeded_distinct_and_ascending(points):
    rows = np.arange(0, 200, 2)
    found = sample_of(rows, points, 8, 0)
    assert len(found) == min(points, 100)
    assert set(found.tolist()) <= set(rows.tolist())
    assert (np.diff(found) > 0).all()
    assert np.array_equal(found, sample_of(rows, points, 8, 0))
    assert points >= 100 or points == 1 or not np.array_equal(found, sample_of(rows, points, 8, 1))


def test_where_memory_is_short_fewer_rows_are_fitted_and_a_line_says_so(monkeypatch, capsys):
    rows = np.arange(50_000)
    monkeypatch.setattr(apmae.atlas.rows, "free_memory", lambda: 1e12)
    assert len(sample_of(rows, 20_000, 512, 0)) == 20_000
    monkeypatch.setattr(apmae.atlas.rows, "free_memory", lambda: float("inf"))
    assert len(sample_of(rows, 20_000, 512, 0)) == 20_000
    assert capsys.readouterr().err == "", "fit_points is a setting, of which nothing has to be said"
    monkeypatch.setattr(apmae.atlas.rows, "free_memory", lambda: 250e6)
    some = len(sample_of(rows, 20_000, 512, 0))
    assert 5_000 < some < 10_000, "25 kB and a little more for each"
    said = capsys.readouterr().err
    assert said == f"clusters are looked for in {some:,} of 50,000 patterns: there is no memory for 20,000\n"
    monkeypatch.setattr(apmae.atlas.rows, "free_memory", lambda: 1e6)
    assert len(sample_of(rows, 20_000, 512, 0)) == 2_000
    capsys.readouterr()
    assert len(sample_of(rows[:1500], 20_000, 512, 0)) == 1500
    assert capsys.readouterr().err == "", "all of them"


def test_measured_scores_are_one_row_per_embedding(blobs, monkeypatch):
    """In the fit and in placing, and before anything is fitted."""
    z = blobs[0]
    whole = Measured(*(np.zeros((250, width), np.float32) for width in (len(SCORES), len(KINDS), len(KINDS))))
    found = Atlas.fit(z, seed=0, measured=whole)
    monkeypatch.setattr(apmae.atlas.atlas, "fit_rows", lambda *_, **__: pytest.fail("fitted"))
    for measured, said in (
        (whole.of(slice(249)), rf"measured.values of {len(SCORES)} numbers per embedding, .* shape \(249, "),
        (
            whole._replace(values=whole.values[:, 1:]),
            rf"measured.values .* got float32 of shape \(250, {len(SCORES) - 1}",
        ),
        (whole._replace(key_kinds=whole.key_kinds[:10]), r"measured.key_kinds .* got float32 of shape \(10, "),
        (whole._replace(query_kinds=whole.values[:, :2]), "measured.query_kinds of"),
        (whole._replace(values=whole.values.astype(str)), "measured.values .* got <U"),
    ):
        for use in (lambda given: Atlas.fit(z, seed=0, measured=given), lambda given: found.place(z, measured=given)):
            with pytest.raises(ConfigError, match=said):
                use(measured)
    with pytest.raises(ConfigError, match="measured.values"):
        found.names_of(np.zeros(3, np.int64), whole)
    for other, said in ((whole.values, "got ndarray; apmae.score"), (whole[:2], "got tuple"), (3, "got int")):
        with pytest.raises(ConfigError, match=said):
            measured_of_rows(other, 250)
    assert measured_of_rows(None, 250) is None
    assert all(np.array_equal(*pair) for pair in zip(measured_of_rows(tuple(whole), 250), whole, strict=True))


# -- rows that are hard to fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusterer", CLUSTERERS)
@pytest.mark.parametrize("metric", ["manhattan", "euclidean", "cosine"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rows_that_are_all_equal_are_one_cluster(clusterer, metric, value):
    z = np.full((40, DIM), value)
    found = Atlas.fit(z, seed=0, config=AtlasConfig(clusterer=clusterer, metric=metric))
    assert found.clusters["size"].to_pylist() == [40]
    assert found.clusters["unstable"].to_pylist() == [False]
    assert (found.labels_ == 0).all()
    assert np.isfinite(found.coordinates_).all()


@pytest.mark.parametrize("clusterer", CLUSTERERS)
@pytest.mark.parametrize("rows", [2, 3, 5, 9, 14])
def test_fewer_rows_than_neighbours_have_an_answer(clusterer, rows):
    z = np.random.default_rng(rows).normal(size=(rows, DIM))
    found = Atlas.fit(z, seed=0, config=AtlasConfig(clusterer=clusterer), prompts=np.zeros(rows, int))
    assert found.labels_.shape == found.place(z).cluster.shape == (rows,)
    assert np.isfinite(found.coordinates_).all()


@pytest.mark.parametrize("clusterer", [*CLUSTERERS, "per_head"])
def test_one_prompt_and_one_head_suffice(blobs, clusterer):
    z, truth, _ = blobs
    where = (np.zeros(len(z), int), np.zeros(len(z), int))
    config = AtlasConfig(clusterer=clusterer, min_cluster_size=10)
    found = Atlas.fit(z, seed=0, where=where, prompts=np.zeros(len(z), int), config=config)
    assert adjusted_rand_score(truth, found.labels_) == 1
    assert not any(found.clusters["unstable"].to_pylist()), "rows are halved instead"
    assert np.array_equal(found.place(z, where=where).cluster, found.labels_)


@pytest.mark.parametrize("clusterer", [*CLUSTERERS, "per_head"])
def test_rows_that_are_not_finite_are_refused_and_counted(blobs, clusterer):
    z = blobs[0].copy()
    z[3, 0], z[7, 1], z[8] = np.nan, np.inf, -np.inf
    where = (np.zeros(len(z), int), np.zeros(len(z), int))
    with pytest.raises(ConfigError, match="expected finite embeddings, 3 of 250 rows are not; check the encoder"):
        Atlas.fit(z, seed=0, where=where, config=AtlasConfig(clusterer=clusterer))


@pytest.mark.parametrize(
    ("prompts", "found"),
    [
        (np.zeros(249, int), r"got int64 of shape \(249,\)"),
        (np.zeros((250, 1), int), r"got int64 of shape \(250, 1\)"),
        (np.zeros(250), r"got float64 of shape \(250,\)"),
        (np.zeros(250, bool), r"got bool of shape \(250,\)"),
        (3, r"got int64 of shape \(\)"),
        (["a"] * 250, r"got <U1 of shape \(250,\)"),
    ],
)
def test_prompts_are_one_integer_per_row(blobs, prompts, found):
    with pytest.raises(ConfigError, match=rf"prompts to hold one integer per embedding \(250\), {found}"):
        Atlas.fit(blobs[0], seed=0, prompts=prompts)


def test_prompts_may_be_any_kind_of_integers():
    assert prompts_of_rows(None, 3) is None
    for given in ([4, 0, 2], np.array([4, 0, 2], np.uint8), np.array([4, 0, 2], np.int32)):
        found = prompts_of_rows(given, 3)
        assert (found.dtype, found.tolist()) == (np.int64, [4, 0, 2])
    assert prompts_of_rows([], 0).tolist() == []


# -- arrays that were damaged ------------------------------------------------------------------------------------------


def save_unhashed(atlas, folder):
    """An atlas in which nothing but its values shows what is damaged."""
    atlas.save(folder)
    record = read_json(folder / "atlas.json")
    assert set(record.pop("files")) == {"clusters.parquet", "reference.safetensors"}
    write_json(folder / "atlas.json", record)
    Atlas.load(folder)


def _nan(values):
    values.flat[0] = np.nan


def _set(number):
    def put(values):
        values.flat[0] = number

    return put


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("embeddings", _nan),
        ("coordinates", _nan),
        ("radii", _nan),
        ("scale", _nan),
        ("labels", _set(5)),
        ("labels", _set(-2)),
        ("counts", _set(0)),
        ("counts", _set(-4)),
        ("scale", _set(0)),
        ("heads", _set(4096)),
        ("heads", _set(-2)),
        ("radii", _set(-1)),
        ("labels", _set(-1)),
    ],
)
def test_damaged_values_are_refused(atlas, tmp_path, name, damage):
    """Also without hashes."""
    save_unhashed(atlas, tmp_path)
    tensors = {key: values.copy() for key, values in load_file(tmp_path / "reference.safetensors").items()}
    damage(tensors[name])
    save_file(tensors, tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match=r"reference.safetensors is damaged; fit it again"):
        Atlas.load(tmp_path)


@pytest.mark.parametrize("name", ["embeddings", "labels", "counts", "coordinates", "radii", "heads", "scale"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "wider", "text"])
def test_arrays_that_do_not_fit_together_are_refused(atlas, tmp_path, name, damage):
    save_unhashed(atlas, tmp_path)
    tensors = load_file(tmp_path / "reference.safetensors")
    whole = tensors.pop(name)
    if damage != "missing":
        changed = {"shorter": whole[1:], "wider": whole[..., None], "text": whole.astype(bool)}
        tensors[name] = np.ascontiguousarray(changed[damage])
    save_file(tensors, tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match="its arrays or columns are of another; fit it again"):
        Atlas.load(tmp_path)


def test_settings_that_do_not_fit_the_arrays_are_refused(atlas, tmp_path):
    atlas.save(tmp_path)
    record = read_json(tmp_path / "atlas.json")
    for changed in ({"dimensions": 3}, {"clusterer": "per_head"}):
        write_json(tmp_path / "atlas.json", {**record, "config": {**record["config"], **changed}})
        with pytest.raises(ArtifactError, match="expected points of 5 clusters .* that fit its settings"):
            Atlas.load(tmp_path)
    write_json(tmp_path / "atlas.json", record)
    tensors = load_file(tmp_path / "reference.safetensors")
    save_unhashed(atlas, tmp_path)
    save_file({**tensors, "coordinates": tensors["coordinates"][:, :3].copy()}, tmp_path / "reference.safetensors")
    with pytest.raises(ArtifactError, match="that fit its settings"):
        Atlas.load(tmp_path)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 0, 2, 3, 4]])
def test_a_table_of_other_clusters_is_refused(atlas, tmp_path, rows):
    save_unhashed(atlas, tmp_path)
    write_table(tmp_path / "clusters.parquet", atlas.clusters.take(rows))
    with pytest.raises(ArtifactError, match="is damaged; fit it again"):
        Atlas.load(tmp_path)


def test_a_table_of_another_version_is_refused(atlas, tmp_path):
    save_unhashed(atlas, tmp_path)
    write_table(tmp_path / "clusters.parquet", atlas.clusters.drop_columns([f"score_{SCORES[0]}"]))
    with pytest.raises(ArtifactError, match="expected an atlas of this version"):
        Atlas.load(tmp_path)
