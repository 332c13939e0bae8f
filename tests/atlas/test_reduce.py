import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apmae.atlas.reduce import Reducer
from apmae.config import AtlasConfig
from apmae.errors import ConfigError


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(2, 5))
def test_few_rows_and_few_dimensions_get_coordinates_too(rows, dim, dimensions):
    z = np.random.default_rng(rows).normal(size=(rows, dim)).astype(np.float32)
    found = Reducer(AtlasConfig(dimensions=dimensions)).fit(z)
    assert found.coordinates_.shape == (rows, dimensions)
    assert np.isfinite(found.coordinates_).all()
    assert found.neighbors_.indices.shape == (rows, min(15, rows))


@pytest.mark.parametrize("rows", [5, 6])
def test_too_few_rows_for_a_layout_keep_their_distances(rows):
    z = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    found = Reducer(AtlasConfig(dimensions=4)).fit(z)
    between = np.linalg.norm(z[:, None] - z[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(found.coordinates_[:, None] - found.coordinates_[None], axis=-1), between, atol=1e-5
    )


def test_the_layout_is_a_function_of_rows_and_seed():
    draw = np.random.default_rng(0)
    z = np.concatenate([draw.normal(size=(60, 8)) * 0.2, draw.normal(size=(60, 8)) * 0.2 + 5]).astype(np.float32)
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    first = Reducer(AtlasConfig(seed=0)).fit(z).coordinates_
    np.random.seed(4)  # noqa: NPY002
    assert np.array_equal(Reducer(AtlasConfig(seed=0)).fit(z).coordinates_, first)
    assert not np.array_equal(Reducer(AtlasConfig(seed=1)).fit(z).coordinates_, first)
    between = np.linalg.norm(first[:60].mean(0) - first[60:].mean(0))
    within = max(np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (first[:60], first[60:]))
    assert between > 2 * within


# -- cuML --------------------------------------------------------------------------------------------------------------

CUML = {
    "__init__": "",
    "neighbors": """
from sklearn.neighbors import NearestNeighbors as Search

class NearestNeighbors:
    def __init__(self, *, n_neighbors=5, algorithm="auto", metric="euclidean", output_type=None):
        assert algorithm == "brute" and output_type == "numpy"
        self.search = Search(n_neighbors=n_neighbors, metric=metric, algorithm=algorithm)

    def fit(self, X):
        self.search.fit(X)
        return self

    def kneighbors(self, X):
        return self.search.kneighbors(X)
""",
    "manifold": """
from umap import UMAP as Layout

class UMAP:
    def __init__(
        self, *, n_neighbors=15, n_components=2, metric="euclidean", min_dist=0.1, init="spectral", random_state=None,
        output_type=None,
    ):
        assert output_type == "numpy"
        if isinstance(init, str):
            assert init in ("spectral", "random")  # there is no "pca"
        else:
            assert abs(abs(init).max() - 10) < 1e-4 and init.dtype == "float32"
        self.layout = Layout(
            n_neighbors=n_neighbors, n_components=n_components, metric=metric, min_dist=min_dist, init=init,
            random_state=random_state, n_jobs=1,
        )

    def fit_transform(self, X):
        return self.layout.fit_transform(X)
""",
}
"""A library on the CPU with the parameters of cuML 26.10 that are used: how cuML is called, not what it does."""


@pytest.fixture
def cuml(tmp_path, monkeypatch):
    """Installs a library of that name; takes what its modules say."""

    def install(**modules):
        (tmp_path / "cuml").mkdir()
        for name, code in modules.items():
            (tmp_path / "cuml" / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "cuml"]:
        del sys.modules[name]


@pytest.fixture
def halves():
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(size=(60, 8)) * 0.2, draw.normal(size=(60, 8)) * 0.2 + 5]).astype(np.float32)


def apart(coordinates):
    between = np.linalg.norm(coordinates[:60].mean(0) - coordinates[60:].mean(0))
    return between / max(np.linalg.norm(part - part.mean(0), axis=1).mean() for part in np.split(coordinates, [60]))


def test_without_cuml_a_gpu_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml", None)
    with pytest.raises(ConfigError, match=r"cuML for device=cuda, it is not installed; .* pip install 'apmae\[gpu\]'"):
        Reducer(AtlasConfig(device="cuda"))


def test_cuml_is_imported_only_if_it_is_asked_for(cuml, halves):
    cuml(__init__="raise RuntimeError('imported')")
    Reducer(AtlasConfig()).fit(halves)
    assert "cuml" not in sys.modules


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("__init__", "ImportError('no libcuda.so.1')"),
        ("neighbors", "RuntimeError('cudaErrorNoDevice:\\n no device')"),
        ("manifold", "MemoryError('std::bad_alloc: out_of_memory')"),
    ],
)
def test_a_gpu_that_is_missing_or_full_is_reported_in_one_line(cuml, halves, module, error):
    cuml(**{**CUML, module: f"raise {error}"})
    with pytest.raises(ConfigError, match=r"a GPU that cuML can use .*(libcuda|: no device|out_of).*; leave device at"):
        Reducer(AtlasConfig(device="cuda")).fit(halves)


@pytest.mark.filterwarnings("ignore")  # what umap warns about is hidden in Reducer, not in the library above
@pytest.mark.parametrize("metric", ["manhattan", "cosine"])
@pytest.mark.parametrize(("width", "dimensions"), [(8, 3), (2, 3)])
def test_cuml_is_called_with_what_it_takes_and_gives_the_same_attributes(cuml, halves, metric, width, dimensions):
    cuml(**CUML)
    config = AtlasConfig(device="cuda", metric=metric, dimensions=dimensions)
    z = halves[:, :width]
    found, wanted = Reducer(config).fit(z), Reducer(config.model_copy(update={"device": "cpu"})).fit(z)
    assert sys.modules["cuml.manifold"]
    assert found.coordinates_.shape == (120, dimensions) and found.coordinates_.dtype == np.float32
    assert np.array_equal(found.neighbors_.indices, wanted.neighbors_.indices)
    np.testing.assert_allclose(found.neighbors_.distances, wanted.neighbors_.distances)
    assert found.neighbors_.indices.dtype == np.int64 and found.neighbors_.distances.dtype == np.float32
    if width == 8:
        assert apart(found.coordinates_) > 2


@pytest.mark.gpu
def test_cuml_on_a_gpu_separates_what_is_apart(halves):
    pytest.importorskip("cuml", reason="cuML is not installed: pip install 'apmae[gpu]'")
    found = Reducer(AtlasConfig(device="cuda")).fit(halves)
    exact = Reducer(AtlasConfig()).fit(halves)
    assert apart(found.coordinates_) > 2
    assert (np.sort(found.neighbors_.indices) == np.sort(exact.neighbors_.indices)).mean() > 0.99
