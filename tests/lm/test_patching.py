"""Patching against models whose circuit is known, and against plain hooks, loops and small differences."""

from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from known_circuit import DISTRACTORS, HEADS, LAYERS, make_known

from apmae.engine.prompts import load_prompts
from apmae.errors import CaptureError
from apmae.lm.edit import edited_heads
from apmae.lm.load import load_lm
from apmae.lm.pairs import Batch, pairs_of
from apmae.lm.patching import attribute, edges_among, forwards_of, patch_each, patch_edges, see_clean
from apmae.lm.restart import Restart

ALL = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
HALF = -(-len(ALL) // 2)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The known circuit of a seed, and a batch of its pairs."""

    @cache
    def make(seed, distractors=DISTRACTORS):
        made = make_known(tmp_path_factory.mktemp(f"known-{seed}"), seed, 8, distractors)
        lm = load_lm(made.folder)
        pairs, left_out = pairs_of(lm, load_prompts(made.prompts), 24)
        assert not left_out
        return made, Batch(lm, pairs)

    return make


@pytest.fixture(scope="module")
def induction(bundled_lm):
    """Pairs of the bundled model, of several lengths."""
    from apmae.prompts.circuits import circuit_prompts

    prompts = circuit_prompts("induction", bundled_lm.backend_tokenizer, count=3)
    return Batch(bundled_lm, pairs_of(bundled_lm, prompts, 256)[0])


def ranks_of(scores, heads):
    order = np.argsort(-np.abs(scores), kind="stable")
    return {int(np.flatnonzero(order == ALL.index(head))[0]) for head in heads}


@pytest.mark.parametrize("seed", range(10))
def test_a_known_circuit_is_found_exactly(known, seed):
    made, batch = known(seed)
    exact, denoised = (patch_each(batch, ALL, denoising=way).mean(0).numpy() for way in (False, True))
    attributed = attribute(batch)
    total = float((attributed.clean - attributed.counterfactual).mean())
    assert total > 5
    inside = [ALL.index(head) for head in made.circuit]
    others = np.setdiff1d(np.arange(len(ALL)), inside)
    for effects in (exact, denoised):  # each head carries all of it, no other head anything
        np.testing.assert_allclose(effects[inside], total, rtol=0.01)
        assert np.abs(effects[others]).max() < 0.01 * total
    for steps in (1, 8):
        scores = attribute(batch, steps=steps).effects.mean(0).numpy()
        assert ranks_of(scores, made.circuit) == {0, 1, 2}
        assert np.abs(scores[others]).max() < 0.01 * total < 0.1 * total < scores[inside].min()
    assert max(ranks_of(see_clean(batch).flow.mean(0).numpy(), made.circuit)) < HALF


def test_the_way_between_prompt_and_counterfactual_mends_a_gradient_at_its_end(known):
    """The previous token head acts through a softmax: the gradient at one end sees a third of its effect."""
    made, batch = known(0)
    place = ALL.index(made.circuit[0])
    exact = float(patch_each(batch, [made.circuit[0]]).mean())
    one, many = (float(attribute(batch, steps=steps).effects[:, place].mean()) for steps in (1, 16))
    assert one < 0.5 * exact and many == pytest.approx(exact, rel=0.02)


def test_diffuse_heads_push_the_circuit_down_in_flow_but_not_in_patching(known):
    """Heads that look evenly at half of the text reach the changed tokens too."""
    late, alone = [], []
    for seed in range(4):
        made, batch = known(seed, (*DISTRACTORS, "even"))
        assert ranks_of(patch_each(batch, ALL).mean(0).numpy(), made.circuit) == {0, 1, 2}
        assert ranks_of(attribute(batch).effects.mean(0).numpy(), made.circuit) == {0, 1, 2}
        late.append(max(ranks_of(see_clean(batch).flow.mean(0).numpy(), made.circuit)))
        made, batch = known(seed)
        alone.append(max(ranks_of(see_clean(batch).flow.mean(0).numpy(), made.circuit)))
    assert np.mean(late) > np.mean(alone) + 1


def test_edges_of_a_known_circuit(known):
    made, batch = known(1)
    heads = [*made.circuit, next(head for head in ALL if head[0] == 1 and head not in made.circuit)]
    total = float(patch_each(batch, made.circuit).mean())
    effects = dict(zip(edges_among(heads), patch_edges(batch, heads).mean(0).tolist(), strict=True))
    before, induction, copy = made.circuit
    for edge, effect in effects.items():
        expected = total if edge in ((before, induction), (induction, copy)) else 0.0
        assert effect == pytest.approx(expected, abs=0.02 * total), edge
    backward = dict(zip(edges_among(heads), patch_edges(batch, heads, denoising=True).mean(0).tolist(), strict=True))
    assert backward[before, induction] == pytest.approx(total, rel=0.02)


class Hooked:
    """Heads of the bundled model through hooks on its output projections, without apmae."""

    def __init__(self, batch):
        self.batch, self.model = batch, batch.lm.model
        self.projections = [layer.self_attn.o_proj for layer in self.model.model.layers]
        self.width = self.projections[0].in_features // 8

    def columns(self, head):
        return slice(head * self.width, (head + 1) * self.width)

    @contextmanager
    def hooks(self, change):
        """``change(layer, inputs)`` returns what each projection reads."""
        with ExitStack() as stack:
            for layer, part in enumerate(self.projections):
                hook = lambda _module, inputs, layer=layer: (change(layer, inputs[0]),)  # noqa: E731
                stack.callback(part.register_forward_pre_hook(hook).remove)
            yield

    def record(self, ids):
        kept = {}
        with torch.no_grad(), self.hooks(lambda layer, own: kept.setdefault(layer, own.clone())):
            measure = self.measure(ids)
        return kept, measure

    def measure(self, ids):
        """Of each prompt alone, without padding."""
        found = []
        for row, pair in enumerate(self.batch.pairs):
            logits = self.model(input_ids=ids[row : row + 1, : len(pair.clean.ids)]).logits[0, -1]
            found.append(logits[pair.right] - logits[pair.wrong])
        return torch.stack(found)


def putting(at, part, values):
    """A change of some columns that one projection reads."""

    def put(layer, own):
        if layer == at:
            own = own.clone()
            own[..., part] = values
        return own

    return put


def test_exact_effects_are_those_of_plain_hooks(induction):
    hooked = Hooked(induction)
    for denoising in (False, True):
        base, source = (induction.other, induction.clean) if denoising else (induction.clean, induction.other)
        with torch.no_grad():
            before = hooked.measure(base)
        heads = [(0, 0), (3, 4), (5, 2)]
        expected = torch.zeros(len(before), len(heads))
        for row in range(len(before)):
            single = Batch(induction.lm, [induction.pairs[row]])
            one = Hooked(single)
            ours, theirs = (single.other, single.clean) if denoising else (single.clean, single.other)
            kept, _ = one.record(theirs)
            for place, (at, head) in enumerate(heads):
                part = one.columns(head)
                with torch.no_grad(), one.hooks(putting(at, part, kept[at][..., part])):
                    after = one.measure(ours)
                expected[row, place] = (after - before[row]) if denoising else (before[row] - after)
        found = patch_each(induction, heads, denoising=denoising)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
        assert expected.abs().max() > 1, "these heads matter"


def test_attribution_is_the_slope_of_a_small_step(induction):
    """Central differences: the measure when a head's output goes a little way to what it is on the other side."""
    single = Batch(induction.lm, induction.pairs[:1])
    hooked, size = Hooked(single), 0.02
    for denoising in (False, True):
        base, source = (single.other, single.clean) if denoising else (single.clean, single.other)
        own_side, _ = hooked.record(base)
        other_side, _ = hooked.record(source)
        scores = attribute(single, denoising=denoising).effects[0]
        for at, head in [(0, 3), (3, 4), (4, 2), (5, 3)]:
            part = hooked.columns(head)
            measures = []
            for step in (size, -size):
                between = own_side[at] + step * (other_side[at] - own_side[at])
                with torch.no_grad(), hooked.hooks(putting(at, part, between[..., part])):
                    measures.append(float(hooked.measure(base)))
            slope = (measures[0] - measures[1]) / (2 * size)
            expected = slope if denoising else -slope
            assert float(scores[at * 8 + head]) == pytest.approx(expected, rel=0.02, abs=5e-3), (denoising, at, head)


def test_integrated_gradients_are_the_mean_over_inputs_on_the_way(induction):
    single = Batch(induction.lm, induction.pairs[:1])
    hooked, steps = Hooked(single), 3
    sides = [hooked.record(ids)[0] for ids in (single.clean, single.other)]
    embed = single.lm.model.get_input_embeddings()
    one, other = (embed(ids).detach() for ids in (single.clean, single.other))
    expected = torch.zeros(48)
    for step in range(steps):
        mixed = other + (step + 0.5) / steps * (one - other)
        leaves = {}

        def keep(layer, own, leaves=leaves):
            leaves[layer] = own if own.requires_grad else own.detach().requires_grad_()
            return leaves[layer]

        with hooked.hooks(keep):
            logits = single.lm.model(inputs_embeds=mixed).logits[0, -1]
        measure = logits[single.pairs[0].right] - logits[single.pairs[0].wrong]
        gradients = torch.autograd.grad(measure, list(leaves.values()))
        for layer, gradient in enumerate(gradients):
            for head in range(8):
                part = hooked.columns(head)
                product = (sides[0][layer] - sides[1][layer])[..., part] * gradient[..., part]
                expected[layer * 8 + head] += product.sum() / steps
    torch.testing.assert_close(attribute(single, steps=steps).effects[0], expected, atol=2e-3, rtol=2e-3)


def test_edges_are_those_of_plain_hooks(induction):
    single = Batch(induction.lm, induction.pairs[:1])
    hooked, heads = Hooked(single), [(0, 0), (3, 4), (5, 2)]
    put_in, _ = hooked.record(single.other)
    held, before = hooked.record(single.clean)
    found = dict(zip(edges_among(heads), patch_edges(single, heads)[0].tolist(), strict=True))
    assert list(found) == [((0, 0), (3, 4)), ((0, 0), (5, 2)), ((3, 4), (5, 2))]
    for (sender, receiver), effect in found.items():
        would = {}

        def hold(layer, own, sender=sender, receiver=receiver, would=would):
            if layer == receiver[0]:
                would[receiver] = own[..., hooked.columns(receiver[1])].clone()
            own = held[layer].clone()
            if layer == sender[0]:
                own[..., hooked.columns(sender[1])] = put_in[layer][..., hooked.columns(sender[1])]
            return own

        with torch.no_grad(), hooked.hooks(hold):
            hooked.measure(single.clean)
        with torch.no_grad(), hooked.hooks(putting(receiver[0], hooked.columns(receiver[1]), would[receiver])):
            after = hooked.measure(single.clean)
        assert effect == pytest.approx(float(before - after), abs=2e-3)
    assert found[(0, 0), (5, 2)] > 0.1


def test_the_last_row_is_the_mass_on_changed_tokens(induction):
    looks, eager = see_clean(induction), load_lm(attention="eager").model
    for row, pair in enumerate(induction.pairs):
        with torch.no_grad():
            patterns = eager(input_ids=torch.tensor([pair.clean.ids]), output_attentions=True).attentions
        mass = torch.cat([own[0, :, -1] for own in patterns])[:, pair.changed].sum(1)
        torch.testing.assert_close(looks.last_row[row], mass, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "steps"), [("attribution", 1), ("attribution", 4), ("flow", 1)])
def test_forwards_are_counted_as_they_run(induction, name, steps):
    """A backward counts as two."""
    forwards, backwards = [], []
    model = induction.lm.model
    hooks = [model.register_forward_pre_hook(lambda *_: forwards.append(1))]
    norm = torch.autograd.grad

    def counted(*arguments, **keywords):
        backwards.append(1)
        return norm(*arguments, **keywords)

    torch.autograd.grad = counted
    try:
        attribute(induction, steps=steps) if name == "attribution" else see_clean(induction)
    finally:
        torch.autograd.grad = norm
        hooks[0].remove()
    assert len(forwards) + 2 * len(backwards) == forwards_of(name, steps)


def test_heads_that_do_not_exist_are_refused_and_nothing_stays(induction):
    with pytest.raises(CaptureError, match=r"got \(6, 0\)"):
        patch_each(induction, [(6, 0)])
    assert not edited_heads(induction.lm.model)
    assert patch_each(induction, []).shape == (3, 0) and patch_edges(induction, [(0, 0)]).shape == (3, 0)
    assert all(parameter.grad is None for parameter in induction.lm.model.parameters())


def test_forwards_that_begin_at_the_heads_layer_give_the_same(induction):
    heads = [(0, 3), (3, 4), (5, 2)]
    restart = Restart(induction.lm)
    assert restart.reason is None
    for denoising in (False, True):
        for work in (patch_each, patch_edges):
            whole = work(induction, heads, denoising=denoising)
            torch.testing.assert_close(
                work(induction, heads, denoising=denoising, restart=restart), whole, atol=1e-4, rtol=1e-4
            )
