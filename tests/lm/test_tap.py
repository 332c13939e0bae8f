"""The tap against transformers' eager attention, and against float64 softmax where eager's float32 gives up."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from families import cases
from matrix import tokens
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from apmae.errors import CaptureError
from apmae.lm.tap import capture
from apmae.patterns.patterns import Patterns

LAYERS, HEADS, VOCABULARY, WINDOW = 2, 4, 160, 24
FAMILIES = (
    "starcoder2",
    "starcoder2-window",
    "llama",
    "llama-one-kv",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gpt-neox",
    "gpt2",
)
STORY = (
    "Once upon a time there was a little fox named Tom. Tom lived in a big green forest with his mom. One day Tom "
    "saw a red kite in a tall tree. He wanted to play with it, but it was too high. Tom was sad. Then a bird came "
    'by. "Do not be sad," said the bird. "I can help you get the kite." The bird went up and took the kite in her '
    "beak. She gave it to Tom. Tom was very happy and said thank you. They played with the kite all day, and from "
    "then on the fox and the bird were best friends. The end."
)


@torch.no_grad()
def run(model, inputs, **keywords):
    """The captured patterns, and the logits of the same forward."""
    with capture(model, **keywords) as tap:
        logits = model(**inputs).logits
    return tap.patterns, logits


@torch.no_grad()
def eager(model, inputs):
    """float64 (b, l, h, t, t): the attention that transformers returns, each prompt from its first token on."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        attentions = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    return from_the_first_token(torch.stack(attentions, 1).double().numpy(), inputs["attention_mask"])


def from_the_first_token(dense, mask, fill=0):
    """(b, ..., t, t) with each prompt's own tokens in the upper left corner, ``fill`` elsewhere."""
    out = np.full_like(dense, fill)
    for prompt, own in enumerate(mask.bool() if mask.ndim == 2 else []):
        start, end = int(own.nonzero()[0]), int(own.nonzero()[-1]) + 1
        out[prompt, ..., : end - start, : end - start] = dense[prompt, ..., start:end, start:end]
    return out if mask.ndim == 2 else dense


def visible(mask, window=None):
    """(b, t, t): the keys that a query may attend to, entry by entry; none for padding."""
    batch, size = mask.shape
    out = np.zeros((batch, size, size), bool)
    for b in range(batch):
        for q in range(size):
            for k in range(q + 1):
                near = window is None or q - k < window
                out[b, q, k] = bool(mask[b, q]) and bool(mask[b, k]) and near
    return from_the_first_token(out, mask)


def scaled_by_loops(logs, allowed):
    """DESIGN section 4 for one pattern, in float64."""
    smallest = min(logs[allowed])
    out = np.zeros(logs.shape)
    for q, k in zip(*np.nonzero(allowed), strict=True):
        out[q, k] = 1.0 if smallest == 0 else (logs[q, k] - smallest) / -smallest
    return out


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", cases(FAMILIES))
def test_patterns_are_eagers_and_logits_are_sdpas(family, name, padding):
    model = family(name)
    inputs = tokens(3, 70, padding)
    with torch.no_grad():
        plain = model(**inputs).logits
    patterns, logits = run(model, inputs)
    assert torch.equal(plain, logits)

    theirs = eager(model, inputs)
    allowed = visible(inputs["attention_mask"], WINDOW if name.endswith("window") else None)
    ours = patterns.probabilities().reshape(theirs.shape)
    scaled = patterns.scaled().reshape(theirs.shape)
    assert np.array_equal(ours > 0, np.broadcast_to(allowed[:, None, None], ours.shape))
    for b, layer, head in np.ndindex(theirs.shape[:3]):
        visible_only = np.where(allowed[b], theirs[b, layer, head], 0)
        assert (visible_only > 0).sum() == allowed[b].sum(), "eager lost entries: not an oracle for this model"
        assert np.abs(ours[b, layer, head] - visible_only).max() <= 1e-5
        with np.errstate(divide="ignore"):
            expected = scaled_by_loops(np.log(visible_only), allowed[b])
        assert np.abs(scaled[b, layer, head] - expected).max() <= 1e-5
    # The comparison can distinguish heads, layers and prompts.
    for axis in range(3):
        assert np.abs(theirs - np.roll(theirs, 1, axis)).max() > 0.1
    assert np.array_equal(patterns.prompt, np.repeat(np.arange(3), LAYERS * HEADS))
    assert np.array_equal(patterns.layer, np.tile(np.repeat(np.arange(LAYERS), HEADS), 3))
    assert np.array_equal(patterns.head, np.tile(np.arange(HEADS), 3 * LAYERS))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("batch", [1, 2])
def test_any_length(family, size, batch):
    inputs = tokens(batch, size, "left")
    patterns, _ = run(family("llama"), inputs)
    allowed = visible(inputs["attention_mask"])
    theirs = np.where(allowed[:, None, None], eager(family("llama"), inputs), 0)
    assert patterns.size == size
    assert np.abs(patterns.probabilities().reshape(theirs.shape) - theirs).max() <= 1e-5
    assert (
        np.abs(patterns.scaled() - Patterns.from_probabilities(theirs.reshape(-1, size, size)).scaled()).max() <= 1e-5
    )


def test_without_an_attention_mask(family):
    ids = tokens(2, 40)["input_ids"]
    with_mask, _ = run(family("starcoder2"), tokens(2, 40))
    without, _ = run(family("starcoder2"), {"input_ids": ids})
    assert torch.equal(with_mask.log_patches, without.log_patches)


def test_an_additive_mask_of_the_callers_own(family):
    """Rows of padding see what the mask lets them see: here the first token, because eager needs them to see one."""
    inputs = tokens(2, 40, "left")
    allowed = (inputs["attention_mask"][:, None, None] * torch.ones(40, 40).tril()).bool()
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    additive[1, :, :7, 0] = 0
    own = {**inputs, "attention_mask": additive, "position_ids": torch.arange(40).expand(2, -1)}
    theirs = eager(family("llama"), own)
    patterns, _ = run(family("llama"), own)
    assert np.abs(patterns.probabilities().reshape(theirs.shape) - theirs).max() <= 1e-5


# -- the trained model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(shared_folder):
    folder = shared_folder("models/stories260K")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def story_inputs(stories):
    """The story and its second half, padded on the left."""
    ids = stories[1](STORY, return_tensors="pt").input_ids[0][:200]
    assert len(ids) == 200
    half = torch.cat([torch.zeros(100, dtype=torch.long), ids[100:]])
    mask = torch.ones(2, 200, dtype=torch.long)
    mask[1, :100] = 0
    return {"input_ids": torch.stack([ids, half]), "attention_mask": mask}


def float64_log_patterns(model, inputs):
    """(b l h t t) log softmax in float64 of the scores that the model's SDPA forms."""
    found = []

    def attention(module, query, key, value, attention_mask, **kwargs):
        q, k = query.double().numpy(), key.double().numpy()
        logs = np.full((*q.shape[:3], q.shape[2]), -np.inf)
        for b, head, row in np.ndindex(q.shape[:3]):
            keys = range(row + 1) if attention_mask is None else np.flatnonzero(attention_mask[b, 0, row])
            if row not in keys:
                continue  # padding
            group = head // module.num_key_value_groups
            scores = np.array([q[b, head, row] @ k[b, group, j] for j in keys]) * kwargs["scaling"]
            logs[b, head, row, list(keys)] = scores - scores.max() - math.log(np.exp(scores - scores.max()).sum())
        found.append(logs)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("float64_oracle", attention)
    AttentionMaskInterface.register("float64_oracle", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("float64_oracle")
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        model.set_attn_implementation(before)
    return from_the_first_token(np.stack(found, 1), inputs["attention_mask"], -np.inf)


def test_the_trained_model_on_a_story(stories, story_inputs):
    model, _ = stories
    with torch.no_grad():
        plain = model(**story_inputs).logits
    patterns, logits = run(model, story_inputs)
    assert torch.equal(plain, logits)

    exact = float64_log_patterns(model, story_inputs)
    scaled = patterns.scaled().reshape(exact.shape)
    for place in np.ndindex(exact.shape[:3]):
        allowed = np.isfinite(exact[place])
        assert np.abs(scaled[place] - scaled_by_loops(exact[place], allowed)).max() <= 1e-5

    theirs = eager(model, story_inputs)
    allowed = np.isfinite(exact)
    assert np.abs(patterns.probabilities().reshape(exact.shape) - np.where(allowed, theirs, 0)).max() <= 1e-5
    # Eager is an oracle for a log only where float32 can hold the probability with all its digits.
    normal = np.finfo(np.float32).tiny
    whole = [place for place in np.ndindex(exact.shape[:3]) if (theirs[place][allowed[place]] >= normal).all()]
    assert len(whole) > exact.shape[1] * exact.shape[2]  # most heads of both prompts
    for place in whole:
        with np.errstate(divide="ignore"):
            expected = scaled_by_loops(np.log(np.where(allowed[place], theirs[place], 0)), allowed[place])
        assert np.abs(scaled[place] - expected).max() <= 1e-5


def test_log_patterns_reach_where_float32_probabilities_end(stories, story_inputs):
    """The design's reason for log space: here eager has entries of exactly 0, and the tap has their logs."""
    model, _ = stories
    patterns, _ = run(model, story_inputs)
    allowed = np.broadcast_to(visible(story_inputs["attention_mask"])[:, None, None], (2, 5, 8, 200, 200))
    assert (eager(model, story_inputs)[allowed] == 0).any()
    logs = patterns.log_patches
    assert int(logs.isfinite().sum()) == allowed.sum()
    assert float(logs[logs.isfinite()].min()) < -110


# -- choosing heads ----------------------------------------------------------------------------------------------------


def places(patterns):
    return list(zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True))


def by_place(patterns):
    return dict(zip(places(patterns), patterns.log_patches, strict=True))


@pytest.mark.parametrize(
    ("heads", "count"), [(0.25, 1), (0.5, 2), (0.6, 2), (0.01, 1), (1, 4), (1.0, 4), (np.float32(0.5), 2)]
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_share_takes_as_many_of_every_layer_and_prompt(family, name, heads, count):
    inputs = tokens(5, 40, "left")
    patterns, _ = run(family(name), inputs, heads=heads)
    every = by_place(run(family(name), inputs)[0])
    assert len(set(places(patterns))) == len(patterns) == 5 * LAYERS * count
    assert places(patterns) == sorted(places(patterns))
    for prompt in range(5):
        for layer in range(LAYERS):
            assert ((patterns.prompt == prompt) & (patterns.layer == layer)).sum() == count
    for place, logs in by_place(patterns).items():
        assert torch.equal(logs, every[place])


def test_the_draw_of_heads_is_the_seeds(family):
    inputs = tokens(8, 20)

    def drawn(**keywords):
        return places(run(family("llama"), inputs, heads=0.5, **keywords)[0])

    assert drawn(seed=1) == drawn(seed=1)
    assert drawn(seed=1) != drawn(seed=2)
    chosen = [tuple(head for p, _, head in drawn(seed=1) if p == prompt) for prompt in range(8)]
    assert len(set(chosen)) > 1  # redrawn for each prompt


def test_the_draw_depends_on_the_number_of_the_prompt_alone(family):
    """So that a resumed run draws the heads that it would have drawn."""
    model = family("llama")
    first, second = tokens(4, 20, seed=1), tokens(4, 30, seed=2)
    with torch.no_grad(), capture(model, heads=0.5) as tap:
        model(**first)
        model(**second)
    both = tap.patterns
    alone, _ = run(model, second, heads=0.5, first_prompt=4)
    assert places(both[both.prompt >= 4]) == places(alone)
    assert torch.equal(both[both.prompt >= 4].log_patches, alone.log_patches)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ([(1, 3), (0, 2), (1, 0)], [(0, 2), (1, 0), (1, 3)]),
        ([(1, 1), (1, 1), (0, 0), (1, 1)], [(0, 0), (1, 1)]),
        ([(1, 2)], [(1, 2)]),
        (((0, 1),), [(0, 1)]),
        (np.array([[1, 3], [0, 0]]), [(0, 0), (1, 3)]),
    ],
)
def test_a_list_of_heads(family, heads, expected):
    inputs = tokens(3, 40, "right")
    patterns, _ = run(family("mistral-window"), inputs, heads=heads)
    every = by_place(run(family("mistral-window"), inputs)[0])
    assert places(patterns) == [(prompt, *pair) for prompt in range(3) for pair in expected]
    for place, logs in by_place(patterns).items():
        assert torch.equal(logs, every[place])


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (1.5, r"share of heads in \(0, 1\], got 1.5"),
        (0, "got 0"),
        (-0.25, "got -0.25"),
        (float("nan"), "got nan"),
        (2, "got 2"),
        ("some", "got 'some'"),
        ([], "at least one"),
        ([(2, 0)], r"layers 0-1 and heads 0-3, got \(2, 0\)"),
        ([(0, 4)], r"got \(0, 4\)"),
        ([(0, -1)], r"got \(0, -1\)"),
        ([(-1, 0)], r"got \(-1, 0\)"),
        ([3, 5], r"\(layer, head\) pairs or .*, got \[3, 5\]"),
        ([(0, 1, 2)], "pairs or a function of layer and head, got"),
        (None, "head, got None"),
        (lambda layer, head: False, "at least one head, it wants none"),
    ],
)
def test_heads_that_do_not_exist(family, heads, message):
    model = family("llama")
    with pytest.raises(CaptureError, match=message), capture(model, heads=heads):
        raise AssertionError("the block must not run")
    assert model.config._attn_implementation == "sdpa"


# -- the block ---------------------------------------------------------------------------------------------------------


def test_prompts_are_numbered_over_the_forwards_of_a_block(family):
    model = family("llama")
    with torch.no_grad(), capture(model, first_prompt=10) as tap:
        model(**tokens(2, 20, seed=1))
        inside = tap.patterns
        model(**tokens(1, 50, seed=2))
    patterns = tap.patterns
    assert (inside.size, len(inside)) == (20, 2 * LAYERS * HEADS)
    assert sorted(set(patterns.prompt.tolist())) == [10, 11, 12]
    assert patterns.size == 50
    alone, _ = run(model, tokens(2, 20, seed=1))
    short = patterns[patterns.prompt < 12].probabilities()
    assert np.array_equal(short[:, :20, :20], alone.probabilities())
    assert not short[:, 20:].any()


def test_half_precision_is_the_same_rounded(family):
    inputs = tokens(2, 256)
    exact, _ = run(family("llama"), inputs)
    half, logits = run(family("llama"), inputs, dtype=torch.float16)
    assert torch.equal(half.log_patches, exact.log_patches.half())
    assert half.log_patches.nbytes == len(half) * 73_728
    assert torch.equal(logits, run(family("llama"), inputs)[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_keeps_its_logits(fresh, dtype):
    model = fresh().to(dtype)
    inputs = tokens(2, 40, "left")
    with torch.no_grad():
        plain = model(**inputs).logits
    patterns, logits = run(model, inputs)
    assert torch.equal(plain, logits)
    assert patterns.log_patches.dtype == torch.float32
    sums = patterns.probabilities().sum(-1)
    assert np.abs(sums[sums > 0] - 1).max() < 1e-5


def test_nothing_is_captured_outside_the_block(fresh):
    model = fresh()
    with torch.no_grad():
        with capture(model) as tap:
            model(**tokens(1, 10))
        model(**tokens(1, 10))
        assert len(tap.patterns) == LAYERS * HEADS
        with pytest.raises(CaptureError, match="at least one forward inside the capture"), capture(model) as empty:
            empty.patterns  # noqa: B018


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_implementation_is_restored(fresh, attention):
    model = fresh(attention=attention)
    inputs = tokens(2, 30, "left")
    with torch.no_grad():
        before = model(**inputs).logits
    patterns, _ = run(model, inputs)
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    with pytest.raises(ZeroDivisionError), capture(model):
        assert model.config._attn_implementation == attention
        1 / 0  # noqa: B018
    assert model.config._attn_implementation == attention
    again, _ = run(model, inputs)
    assert torch.equal(again.log_patches, patterns.log_patches)


def test_each_of_two_nested_blocks_captures_its_own_heads(fresh):
    model = fresh()
    inputs = tokens(2, 30)
    with torch.no_grad(), capture(model) as outer:
        with capture(model, heads=[(1, 2)]) as inner:
            model(**inputs)
        model(**inputs)
    assert model.config._attn_implementation == "sdpa"
    every, _ = run(model, inputs)
    assert len(outer.patterns) == 2 * len(every)
    assert torch.equal(outer.patterns[: len(every)].log_patches, every.log_patches)
    assert places(inner.patterns) == [(0, 1, 2), (1, 1, 2)]
    assert torch.equal(inner.patterns.log_patches, every[(every.layer == 1) & (every.head == 2)].log_patches)


def test_two_models_at_once(family):
    inputs = tokens(1, 30)
    with torch.no_grad(), capture(family("llama")) as one, capture(family("gpt2")) as two:
        family("gpt2")(**inputs)
        family("llama")(**inputs)
    assert torch.equal(one.patterns.log_patches, run(family("llama"), inputs)[0].log_patches)
    assert torch.equal(two.patterns.log_patches, run(family("gpt2"), inputs)[0].log_patches)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_several_threads_use_the_model_at_once(family, name):
    model, texts = family(name), [tokens(1, 64, seed=seed) for seed in range(4)]
    alone = [run(model, text)[0].log_patches for text in texts]

    def work(text):
        with torch.no_grad():
            for _ in range(10):
                model(**text)

    with capture(model) as tap, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, texts))
    patterns = tap.patterns
    assert patterns.prompt.tolist() == sorted([*range(40)] * LAYERS * HEADS)
    found = patterns.log_patches.unflatten(0, (40, -1))
    counts = [sum(torch.equal(each, expected) for each in found) for expected in alone]
    assert counts == [10] * 4


def test_an_interrupted_forward_leaves_nothing_behind(family):
    """Ctrl-C in a notebook: torch runs the hooks of a forward after errors, but not after a KeyboardInterrupt."""
    from torch.overrides import _get_current_function_mode_stack

    model = family("bloom")
    expected, _ = run(model, tokens(1, 10))

    def interrupt(*_):
        raise KeyboardInterrupt

    hook = model.transformer.h[1].self_attention.dense.register_forward_pre_hook(interrupt)
    try:
        with torch.no_grad(), capture(model):
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    model(**tokens(1, 10))
    finally:
        hook.remove()
    assert not _get_current_function_mode_stack()
    assert torch.equal(run(model, tokens(1, 10))[0].log_patches, expected.log_patches)


def test_an_interrupted_forward_is_not_mistaken_for_a_whole_one(fresh):
    model = fresh()

    def stop(*_):
        raise ZeroDivisionError

    hook = model.model.layers[1].register_forward_pre_hook(stop)
    with torch.no_grad(), capture(model) as tap:
        with pytest.raises(ZeroDivisionError):
            model(**tokens(1, 10))
        with pytest.raises(CaptureError, match="expected patterns of 2 layers, the forward reached 1"):
            tap.patterns  # noqa: B018
    hook.remove()
    assert len(run(model, tokens(1, 10))[0]) == LAYERS * HEADS


def test_a_forward_that_fills_a_cache_is_fine(family):
    patterns, _ = run(family("llama"), {**tokens(2, 20), "use_cache": True})
    assert torch.equal(patterns.log_patches, run(family("llama"), {**tokens(2, 20), "use_cache": False})[0].log_patches)


def test_gradients_flow_as_without_the_tap(fresh):
    model = fresh().requires_grad_(True)
    inputs = tokens(2, 20)
    model(**inputs).logits.square().sum().backward()
    plain = model.model.layers[0].self_attn.q_proj.weight.grad.clone()
    model.zero_grad()
    with capture(model) as tap:
        model(**inputs).logits.square().sum().backward()
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight.grad, plain)
    assert not tap.patterns.log_patches.requires_grad


def test_patterns_of_inference_mode_can_be_used_after_it(family):
    model = family("llama")
    with torch.inference_mode(), capture(model) as tap:
        model(**tokens(2, 20))
    scaled = tap.patterns.scaled_patches()
    weight = torch.ones((), requires_grad=True)
    (weight * scaled).sum().backward()
    assert float(weight.grad) == pytest.approx(float(scaled.sum()), rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "falcon", "bert", "modernbert"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_text_of_one_token_joins_longer_ones(family, name, masked):
    inputs = [tokens(1, size) if masked else {"input_ids": tokens(1, size)["input_ids"]} for size in (1, 5)]
    with torch.no_grad(), capture(family(name)) as tap:
        for each in inputs:
            family(name)(**each)
    patterns = tap.patterns
    assert patterns.causal != ("bert" in name)
    assert np.array_equal(
        patterns[patterns.prompt == 0].probabilities()[:, 0, 0], np.ones((patterns.prompt == 0).sum())
    )


# -- what is refused --------------------------------------------------------------------------------------------------


def test_anything_but_a_language_model_is_refused():
    with (
        pytest.raises(CaptureError, match="expected a transformers model, Linear contains none"),
        capture(torch.nn.Linear(2, 2)),
    ):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize("dtype", [torch.int8, "float16", None])
def test_a_dtype_that_cannot_hold_logs_is_refused(family, dtype):
    with pytest.raises(CaptureError, match="a floating dtype of torch"), capture(family("llama"), dtype=dtype):
        raise AssertionError("the block must not run")


def test_a_model_from_load_lm_knows_its_tokens(bundled_lm):
    ids = bundled_lm.tokenizer("int x = 1;", return_tensors="pt").input_ids
    with torch.no_grad(), capture(bundled_lm, heads=[(0, 0)]) as tap:
        bundled_lm.model(ids, use_cache=False)
    assert "".join(tap.patterns.labels(0)) == "int x = 1;"


def test_patterns_that_were_read_are_in_memory_once(family):
    model = family("llama")
    with torch.no_grad(), capture(model) as tap:
        for number in range(3):
            model(**tokens(2, 20 + 20 * number, seed=number))
        first = tap.patterns
        again = tap.patterns
    assert torch.equal(first.log_patches, again.log_patches)
    held = {forward.patches.untyped_storage().data_ptr() for forward in tap._forwards}
    assert len(held) == 1
    for number in range(3):
        alone, _ = run(model, tokens(2, 20 + 20 * number, seed=number))
        own = first[(first.prompt // 2) == number].probabilities()
        assert np.array_equal(own[:, : alone.size, : alone.size], alone.probabilities())
