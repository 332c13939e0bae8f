"""Named arrays against loops over heads."""

import sys

import numpy as np
import pytest

from apmae.errors import ApmaeError, CaptureError, DependencyError
from apmae.patterns.patterns import Patterns

HEADS = [(2, 5), (0, 1), (2, 0)]


def dense(count, size, seed=0):
    weights = np.tril(np.exp(np.random.default_rng(seed).normal(0, 2, (count, size, size))))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def patterns():
    """Prompts 4 (five tokens in seven rows) and 9; the heads are not in order."""
    array = dense(6, 7)
    array[:3, 5:] = 0
    layers, heads = zip(*HEADS, strict=True)
    return Patterns.from_probabilities(
        array,
        patch=4,
        prompt=[4] * 3 + [9] * 3,
        layer=layers * 2,
        head=heads * 2,
        tokens={4: tuple("if(x)"), 9: tuple("return;")},
    )


@pytest.mark.parametrize(("prompt", "first", "rows"), [(4, 0, 5), (9, 3, 7)])
def test_an_array_holds_each_head_at_its_place(patterns, prompt, first, rows):
    array = patterns.to_numpy(prompt)
    assert array.dtype == np.float32
    assert array.shape == (2, 3, rows, rows)  # layers 0 and 2, heads 0, 1 and 5
    for i, layer in enumerate([0, 2]):
        for j, head in enumerate([0, 1, 5]):
            if (layer, head) in HEADS:
                number = first + HEADS.index((layer, head))
                assert np.array_equal(array[i, j], patterns.probabilities()[number, :rows, :rows])
                assert np.abs(array[i, j].sum(-1) - 1).max() < 1e-5
            else:
                assert np.isnan(array[i, j]).all()


def test_the_only_prompt_needs_no_number(patterns):
    one = patterns[patterns.prompt == 9]
    assert np.array_equal(one.to_numpy(), patterns.to_numpy(9), equal_nan=True)
    with pytest.raises(CaptureError, match="expected one of the prompts 4, 9, got None"):
        patterns.to_numpy()
    with pytest.raises(CaptureError, match="expected one of the prompts 4, 9, got 5"):
        patterns.to_numpy(5)
    with pytest.raises(CaptureError, match=r"\(there is none\), got None"):
        patterns[:0].to_numpy()


def test_a_head_that_occurs_twice_is_refused(patterns):
    with pytest.raises(CaptureError, match=r"got 2\.5 of prompt 4 2 times"):
        patterns[[0, 1, 0]].to_numpy()


def test_a_square_pattern_keeps_both_sides():
    array = np.array([[[0.5, 0.125, 0.375], [0, 0, 1], [0.25, 0.5, 0.25]]])
    assert np.abs(Patterns.from_probabilities(array, causal=False).to_numpy()[0] - array).max() < 1e-6


def test_an_xarray_has_names_on_every_axis(patterns):
    pytest.importorskip("xarray")
    named = patterns.to_xarray(4)
    assert named.dims == Patterns.dims == ("layer", "head", "query_pos", "key_pos")
    found = {name: coordinate.values.tolist() for name, coordinate in named.coords.items()}
    tokens = list("if(x)")
    assert found == {
        "layer": [0, 2],
        "head": [0, 1, 5],
        "query_pos": [0, 1, 2, 3, 4],
        "key_pos": [0, 1, 2, 3, 4],
        "query_token": tokens,
        "key_token": tokens,
    }
    assert np.array_equal(named.values, patterns.to_numpy(4), equal_nan=True)
    cell = named.sel(layer=2, head=5, query_pos=3, key_pos=1)
    assert float(cell) == patterns.probabilities()[0, 3, 1]
    assert (str(cell.query_token.values), str(cell.key_token.values)) == ("x", "f")


def test_without_xarray_the_extra_is_named(patterns, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(DependencyError, match=r"pip install 'apmae\[arrays\]'") as caught:
        patterns.to_xarray(4)
    assert isinstance(caught.value, ApmaeError)
