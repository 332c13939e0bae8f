"""Flow against float64 loops over eager patterns, eigenvalues against those that LAPACK finds of the whole matrix."""

import numpy as np
import pytest
import torch
from families import FAMILIES, cases
from matrix import eager_attentions, family_model, tokens

from apmae.errors import CaptureError
from apmae.lm.flow import Flow
from apmae.lm.observe import observing

COUNT = 5


def flow_by_loops(layers, wanted, position, share=0.5):
    """float64, of one prompt: for each layer (h, t, t) patterns; every number of the definition in its own loop."""
    size = len(wanted)
    reach = [wanted.astype(float)]
    for patterns in layers:
        mean = patterns.mean(0)
        reach.append(
            np.array(
                [
                    (1 - share) * reach[-1][q] + share * sum(mean[q, k] * reach[-1][k] for k in range(size))
                    for q in range(size)
                ]
            )
        )
    back, found = np.zeros(size), []
    back[position] = 1
    for number in range(len(layers) - 1, -1, -1):
        patterns, mean = layers[number], layers[number].mean(0)
        found.append([sum(back[q] * pattern[q] @ reach[number] for q in range(size)) for pattern in patterns])
        back = np.array(
            [(1 - share) * back[k] + share * sum(mean[q, k] * back[q] for q in range(size)) for k in range(size)]
        )
    return np.concatenate(found[::-1])


def eigenvalues_by_lapack(pattern):
    """The largest of D - A, descending; D by a loop."""
    size = len(pattern)
    degree = [np.mean([pattern[later, token] for later in range(token, size)]) for token in range(size)]
    return np.sort(np.linalg.eigvals(np.diag(degree) - pattern).real)[::-1][:COUNT]


def watched(name, inputs, wanted, positions, share=0.5):
    flow = Flow(wanted, COUNT, share)
    with torch.no_grad(), observing(family_model(name), flow.see, positions):
        family_model(name)(**inputs)
    return flow


@pytest.mark.parametrize("name", cases())
def test_every_family_padded_on_any_side(name):
    family = FAMILIES[name]
    places = np.cumsum([0, *family.counts.values()])
    for padding in ("none", "right", "left"):
        inputs = tokens(size=30, padding=padding)
        spans = [(int(own.argmax()), int(own.argmax() + own.sum())) for own in inputs["attention_mask"]]
        wanted = torch.zeros(3, 30, dtype=torch.bool)
        for row, (start, end) in enumerate(spans):
            wanted[row, row : end - start : 3] = True
        positions = [end - start - 1 - 2 * row for row, (start, end) in enumerate(spans)]
        flow = watched(name, inputs, wanted, positions)
        eager = eager_attentions(name, inputs).double().numpy()
        for row, (start, end) in enumerate(spans):
            own = eager[row, :, start:end, start:end]
            layers = [own[begin:stop] for begin, stop in zip(places, places[1:], strict=False)]
            expected = flow_by_loops(layers, wanted[row, : end - start].numpy(), positions[row])
            np.testing.assert_allclose(flow.flow()[row], expected, atol=1e-5)
            found = flow.eigenvalues()[row].numpy()
            if family.square:
                assert np.isnan(found).all()
            else:
                np.testing.assert_allclose(found, [eigenvalues_by_lapack(pattern) for pattern in own], atol=1e-5)


def test_a_smaller_share_of_attention():
    inputs, wanted = tokens(size=20), torch.zeros(3, 20, dtype=torch.bool)
    wanted[:, ::4] = True
    flow = watched("llama", inputs, wanted, [19] * 3, share=0.1)
    eager = eager_attentions("llama", inputs).double().numpy()
    for row in range(3):
        expected = flow_by_loops(eager[row].reshape(2, -1, 20, 20), wanted[row].numpy(), 19, share=0.1)
        np.testing.assert_allclose(flow.flow()[row], expected, atol=1e-5)


def test_nothing_flows_from_tokens_that_are_not_there():
    flow = watched("llama", tokens(size=20), torch.zeros(3, 20, dtype=torch.bool), [19] * 3)
    assert not flow.flow().any()


def test_all_that_reaches_the_position_flows_from_all_tokens():
    """With every token looked for, reach is 1 everywhere, and so is each head's flow."""
    flow = watched("llama", tokens(size=20), torch.ones(3, 20, dtype=torch.bool), [19, 4, 0])
    np.testing.assert_allclose(flow.flow(), np.ones((3, 8)), atol=1e-5)


def test_a_prompt_of_fewer_tokens_than_eigenvalues_has_no_more():
    inputs = tokens(size=9, padding="right", shorter=4)  # of 9, 3 and 1 tokens
    found = watched("llama", inputs, torch.ones(3, 9, dtype=torch.bool), [0] * 3).eigenvalues()
    assert found.isfinite().sum(-1).tolist() == [[5] * 8, [3] * 8, [1] * 8]


def test_a_second_forward_or_another_batch_is_refused(family):
    flow = Flow(torch.ones(3, 20, dtype=torch.bool), COUNT)
    with pytest.raises(CaptureError, match="expected a forward inside the block"):
        flow.flow()
    with torch.no_grad(), observing(family("llama"), flow.see):
        family("llama")(**tokens(size=20))
        with pytest.raises(CaptureError, match="or a second forward; make a new Flow"):
            family("llama")(**tokens(size=20))
    other = Flow(torch.ones(2, 20, dtype=torch.bool), COUNT)
    refused = pytest.raises(CaptureError, match="expected one forward of 2 prompts of at most 20 tokens, got 3")
    with torch.no_grad(), observing(family("llama"), other.see), refused:
        family("llama")(**tokens(size=20))


def test_scores_that_are_not_finite_are_noticed(fresh):
    model, flow = fresh(), Flow(torch.ones(3, 20, dtype=torch.bool), COUNT)
    model.model.layers[1].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with torch.no_grad(), observing(model, flow.see):
        model(**tokens(size=20))
    with pytest.raises(CaptureError, match="layer 1 has NaN"):
        flow.eigenvalues()
