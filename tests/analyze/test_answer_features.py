"""Columns of the answers stage on tables made by hand: of some prompts, in order."""

import numpy as np
import pyarrow as pa
import pytest

from apmae.analyze.answer_features import FLOW, LAPLACIAN, LAST_COPY, STATE, read_answer_sets
from apmae.artifacts import Stage, fixed_list
from apmae.errors import ArtifactError
from apmae.schema import answer_heads, answer_states

PROMPTS, PLACES, WIDTH = 9, [(0, 0), (0, 1), (2, 0)], 6


def value(prompt, layer, head, name):
    """Another number for each cell."""
    return prompt + layer / 10 + head / 100 + len(name) / 1000


def state(prompt, name):
    """A hidden state of numbers that fp16 holds."""
    return [prompt + place / 8 + (name == "final") * 100 for place in range(WIDTH)]


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
            columns = {"prompt": pa.array(list(prompts), pa.int32())}
            for name in ("middle", "final"):
                columns[name] = fixed_list(np.array([state(prompt, name) for prompt in prompts], np.float16))
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
    found = read_answer_sets(folder, kept)
    expected = [[value(prompt, *place, "flow") for place in PLACES] for prompt in kept]
    np.testing.assert_allclose(found[FLOW], expected, rtol=1e-6)
    names = ("copy_predicted", "copy_after_last", "copy_predicted_after_last", "copy_last")
    expected = [[value(prompt, *place, name) for place in PLACES for name in names] for prompt in kept]
    np.testing.assert_allclose(found[LAST_COPY], expected, rtol=1e-6)
    laplacian = found[LAPLACIAN].reshape(4, 3, 2)
    assert (laplacian[..., 0] == kept[:, None]).all() and np.isnan(laplacian[..., 1]).all()
    states = [state(prompt, "middle") + state(prompt, "final") for prompt in kept]
    assert np.array_equal(found[STATE], states)


def test_a_shard_may_have_no_prompt_with_an_outcome(folder):
    found = read_answer_sets(folder, np.array([2, 3]))
    assert {len(columns) for columns in found.values()} == {2}
    assert np.array_equal(found[STATE], [state(prompt, "middle") + state(prompt, "final") for prompt in (2, 3)])


def test_unfinished_answers_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="expected a finished answers artifact"):
        read_answer_sets(tmp_path, np.arange(3))
