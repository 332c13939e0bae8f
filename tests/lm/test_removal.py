"""Heads removed, against hooks on the output projections; what is said elsewhere, against a loop over the logits."""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch

from apmae.engine.prompts import load_prompts
from apmae.errors import CaptureError
from apmae.lm.load import load_lm
from apmae.lm.outcome import answer, window_of
from apmae.lm.record import mean_outputs, sample_outputs
from apmae.lm.removal import Removal, elsewhere_places, replies_under
from apmae.lm.restart import Restart
from apmae.prompts.prompt import undecided

HEADS = [(1, 2), (4, 0), (4, 7)]
WIDTH = 24


@pytest.fixture(scope="module")
def windows(bundled_lm, train_prompts):
    """Windows of several lengths, so that batches are padded."""
    prompts = load_prompts(train_prompts)[:6]
    cut = [replace(own, prefix=own.prefix[-60 * n - 30 :], suffix=own.suffix[:50]) for n, own in enumerate(prompts)]
    return [window_of(bundled_lm, prompt, 96) for prompt in cut]


@contextmanager
def projections(lm, change):
    """Calls ``change(layer, heads)`` with what each output projection reads, (prompt, query, head, width)."""
    with ExitStack() as stack:
        for layer, block in enumerate(lm.model.model.layers):

            def before(_module, inputs, layer=layer):
                heads = inputs[0].unflatten(-1, (8, WIDTH)).clone()
                change(layer, heads)
                return (heads.flatten(2),)

            stack.callback(block.self_attn.o_proj.register_forward_pre_hook(before).remove)
        yield


@torch.no_grad()
def outputs_of(lm, window):
    """Every head's output on one window, by layer."""
    found = {}
    with projections(lm, lambda layer, heads: found.__setitem__(layer, heads[0])):
        lm.model(input_ids=torch.tensor([window.ids]))
    return found


def replies_by_hooks(lm, window, values):
    """Replies to one window with heads' outputs replaced: ``values[head]`` is a vector, or a function of the position
    counted from where the model answers."""

    def change(layer, heads):
        for (own, head), value in values.items():
            if own == layer:
                for place in range(heads.shape[1]):
                    made = value(place - window.position) if callable(value) else value
                    heads[:, place, head] = made

    with projections(lm, change):
        return answer(lm, [window], spans=True)[0]


def expect_same(replies, expected):
    for reply, one in zip(replies, expected, strict=True):
        assert reply.answer.correct == one.correct and reply.answer.predicted_id == one.predicted_id
        assert reply.answer.log_probability == pytest.approx(one.log_probability, abs=2e-3)
        assert math.exp(reply.log_probability) == pytest.approx(one.expected_probability, rel=1e-3, abs=1e-9)


def under(lm, windows, removal, groups=(0, 1, 2, 3, 4, 5), numbers=(0, 1, 2, 3, 4, 5), **some):
    return replies_under(lm, windows, removal.edits(HEADS, windows, numbers, groups), **some)


def test_without_edits_replies_are_answers_and_elsewhere_is_what_the_logits_say(bundled_lm, windows):
    replies = replies_under(bundled_lm, windows, every=3)
    assert [reply.answer for reply in replies] == answer(bundled_lm, windows, spans=True)
    for window, reply in zip(windows, replies, strict=True):
        with torch.no_grad():
            logits = bundled_lm.model(input_ids=torch.tensor([window.ids])).logits[0]
        sentinels = {place for run in window.sentinels for place in run}
        lost = [
            float(torch.nn.functional.cross_entropy(logits[place], torch.tensor(window.ids[place + 1])))
            for place in range(0, len(window.ids) - 1, 3)
            if place + 1 not in sentinels
        ]
        assert reply.elsewhere == pytest.approx(sum(lost) / len(lost), abs=1e-3) and len(lost) > 5
        assert len(elsewhere_places(window, 3)) == len(lost)
    assert all(math.isnan(reply.elsewhere) for reply in replies_under(bundled_lm, windows))
    assert elsewhere_places(replace(windows[0], ids=windows[0].ids[:1], prefix=range(1), suffix=range(0)), 1) == []


def test_zero_is_nothing_in_place_of_the_head(bundled_lm, windows):
    expected = [replies_by_hooks(bundled_lm, window, dict.fromkeys(HEADS, 0)) for window in windows]
    expect_same(under(bundled_lm, windows, Removal("zero")), expected)


def test_mean_is_the_mean_over_all_tokens_of_other_prompts(bundled_lm, windows):
    every = [outputs_of(bundled_lm, window) for window in windows[:4]]
    values = {(layer, head): torch.cat([own[layer][:, head] for own in every]).mean(0) for layer, head in HEADS}
    removal = Removal("mean", means=mean_outputs(bundled_lm, windows[:4]))
    expected = [replies_by_hooks(bundled_lm, window, values) for window in windows]
    expect_same(under(bundled_lm, windows, removal), expected)


def resampling(lm, windows, groups=(10, 11, 12), seed=3):
    return Removal(
        "resample",
        donors=sample_outputs(lm, windows[:3], count=3),
        positions=[window.position for window in windows[:3]],
        groups=groups,
        seed=seed,
    )


def test_resample_takes_another_prompt_and_meets_it_where_the_model_answers(bundled_lm, windows):
    removal, every = resampling(bundled_lm, windows), [outputs_of(bundled_lm, window) for window in windows[:3]]
    expected = []
    for number, window in enumerate(windows):
        donor = removal.donor(number, number)
        last = windows[donor].position

        def value(ahead, layer, head, own=every[donor], last=last):
            return own[layer][min(max(last + ahead, 0), len(own[layer]) - 1), head]

        values = {
            (layer, head): lambda ahead, layer=layer, head=head, value=value: value(ahead, layer, head)
            for layer, head in HEADS
        }
        expected.append(replies_by_hooks(bundled_lm, window, values))
    expect_same(under(bundled_lm, windows, removal), expected)


def test_a_prompt_takes_nothing_from_its_own_file(bundled_lm, windows):
    removal = resampling(bundled_lm, windows)
    drawn = {group: {removal.donor(number, group) for number in range(60)} for group in (10, 11, 12, 99)}
    assert drawn == {10: {1, 2}, 11: {0, 2}, 12: {0, 1}, 99: {0, 1, 2}}
    with pytest.raises(CaptureError, match="a prompt of another file to resample from, got none"):
        resampling(bundled_lm, windows, groups=(5, 5, 5)).donor(0, 5)


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_restarted_forwards_say_the_same(bundled_lm, windows, mode):
    removal = {
        "zero": Removal("zero"),
        "mean": Removal("mean", means=mean_outputs(bundled_lm, windows)),
        "resample": resampling(bundled_lm, windows),
    }[mode]
    restart, layers = Restart(bundled_lm), []
    hook = bundled_lm.model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: layers.append(0))
    try:
        assert restart.reason is None
        plain = replies_under(bundled_lm, windows, every=4, restart=restart)
        assert plain == replies_under(bundled_lm, windows, every=4)
        layers.clear()
        restarted = under(bundled_lm, windows, removal, every=4, restart=restart)
        assert not layers, "the first edited layer is 1"
        assert restarted == under(bundled_lm, windows, removal, every=4)
    finally:
        hook.remove()


def test_an_accepted_completion_is_asked_under_the_same_edits(bundled_lm, train_prompts):
    """Accepted: the token that the model answers without the heads, and one that makes it a longer word."""
    prompts = load_prompts(train_prompts)
    windows = [window_of(bundled_lm, prompt, length) for prompt in prompts for length in (24, 40, 64)]
    removal, found = Removal("mean", means=mean_outputs(bundled_lm, windows[:3])), 0
    values = {head: removal.means[head].values for head in HEADS}
    for number, window in enumerate(windows):
        edits = removal.edits(HEADS, [window], [number], [number])
        first = replies_under(bundled_lm, [window], edits)[0].answer
        text = window.text_of([first.predicted_id])
        longer = (two for two in range(300, 4096) if undecided(text, window.text_of([first.predicted_id, two])))
        second = None if first.text_correct else next(longer, None)
        if second is None:
            continue
        both = (first.predicted_id, second)
        said = replies_under(bundled_lm, [replace(window, accepted=(both,))], edits)[0].answer
        expected = replies_by_hooks(bundled_lm, replace(window, completion=both), values)
        assert said.text_correct == expected.text_correct
        found += 1
        if found == 4:
            break
    assert found == 4


def test_an_encoder_is_asked_at_its_mask_and_has_nothing_elsewhere(encoder_folder, train_prompts):
    lm = load_lm(encoder_folder("bert"))
    seen = [window_of(lm, prompt, 64) for prompt in load_prompts(train_prompts)[:3]]
    removal = Removal("zero")
    replies = replies_under(lm, seen, removal.edits([(0, 0)], seen, [0, 1, 2], [0, 1, 2]), every=1)
    assert all(math.isnan(reply.elsewhere) for reply in replies)
    assert [one.answer for one in replies] != [one.answer for one in replies_under(lm, seen)]
