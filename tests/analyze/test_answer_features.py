"""Columns of the answers stage on tables made by hand: of some prompts, in order; states as scikit-learn has them."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from apmae.analyze.answer_features import FLOW, LAPLACIAN, LAST_COPY, read_answer_features, state_components
from apmae.artifacts import Stage, fixed_list
from apmae.errors import ArtifactError
from apmae.schema import answer_heads, answer_states

PROMPTS, PLACES, WIDTH = 9, [(0, 0), (0, 1), (2, 0)], 6


def value(prompt, layer, head, name):
    """Another number for each cell."""
    return prompt + layer / 10 + head / 100 + len(name) / 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards: prompts 0 to 4 and 5 to 8."""
    out, states = tmp_path_factory.mktemp("answers") / "out", answer_states(WIDTH)
    with Stage.open(out, "answers", {}, {}) as stage:
        for shard, prompts in enumerate((range(5), range(5, PROMPTS))):
            rows = []
            for prompt in prompts:
                for layer, head in PLACES:
                    row = {name: value(prompt, layer, head, name) for name in answer_heads(2).names}
                    rows.append({**row, "prompt": prompt, "layer": layer, "head": head, "laplacian": [prompt, np.nan]})
            draw = np.random.default_rng(shard)
            columns = {"prompt": pa.array(list(prompts), pa.int32())}
            for name in ("middle", "final"):
                columns[name] = fixed_list(draw.normal(size=(len(prompts), WIDTH)).astype(np.float16))
            stage.write_tables(
                {
                    f"heads-{shard:05d}.parquet": pa.Table.from_pylist(rows, schema=answer_heads(2)),
                    f"states-{shard:05d}.parquet": pa.table(columns, schema=states),
                }
            )
        stage.finish({})
    return out


def test_prompts_without_an_outcome_are_left_out(folder):
    kept = np.array([1, 4, 5, 8])
    found = read_answer_features(folder, kept)
    expected = [[value(prompt, *place, "flow") for place in PLACES] for prompt in kept]
    np.testing.assert_allclose(found.heads[FLOW], expected, rtol=1e-6)
    names = ("copy_predicted", "copy_after_last", "copy_predicted_after_last", "copy_last")
    expected = [[value(prompt, *place, name) for place in PLACES for name in names] for prompt in kept]
    np.testing.assert_allclose(found.heads[LAST_COPY], expected, rtol=1e-6)
    laplacian = found.heads[LAPLACIAN].reshape(4, 3, 2)
    assert (laplacian[..., 0] == kept[:, None]).all() and np.isnan(laplacian[..., 1]).all()
    every = read_answer_features(folder, np.arange(PROMPTS))
    for name in ("middle", "final"):
        assert np.array_equal(getattr(found, name), getattr(every, name)[kept])


def test_components_of_states_are_of_the_fitting_prompts(folder):
    found = read_answer_features(folder, np.arange(PROMPTS))
    fit = np.arange(PROMPTS) < 7
    (made,) = state_components(found, [fit], 6)
    assert made.shape == (PROMPTS, 6)
    for begin, states in ((0, found.middle), (3, found.final)):
        theirs = PCA(3).fit(states[fit].astype(np.float64)).transform(states)
        own = made[:, begin : begin + 3]
        np.testing.assert_allclose(np.abs(own), np.abs(theirs), atol=1e-4)


def test_unfinished_answers_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="expected a finished answers artifact"):
        read_answer_features(tmp_path, np.arange(3))
