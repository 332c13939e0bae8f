"""``generate`` inside the block: the rows of its steps against one forward over the whole text."""

from inspect import signature

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from apmae.errors import CaptureError
from apmae.lm.tap import capture

GENERATING = ["llama", "gpt2", "mistral-window", "gemma2", "gpt-oss", "bloom", "deepseek-v3", "qwen3-next", "laguna"]
SLOWLY = ["lfm2", "jamba", "nemotron-h", "minimax", "zamba2", "falcon-h1", "recurrent-gemma", "kimi-linear", "gemma3n"]
SLOWLY += ["qwen2.5-vl", "llava", "gemma3-vision", "step-3.7", "exaone4", "olmo3"]
GENERATING += ["gemma4", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)]
SETTINGS = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}


def prompts(*lengths, seed=0):
    """Random prompts padded on the left, as generate wants them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 160, (len(lengths), max(lengths)), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generated(model, inputs, new, **keywords):
    """The patterns of a generation, and of one forward over what it made."""
    settings = GenerationConfig(max_new_tokens=new, min_new_tokens=new, **SETTINGS)
    with capture(model, **keywords) as tap:
        ids = model.generate(**inputs, generation_config=settings)
    patterns = tap.patterns
    text = ids[:, :-1]  # the last token was made, not read
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(ids), new - 1, dtype=torch.long)], dim=1)
    with torch.no_grad(), capture(model, **keywords) as whole:
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # as generate numbers them
        own = {"position_ids": positions} if "position_ids" in signature(model.forward).parameters else {}
        model(input_ids=text, attention_mask=mask, use_cache=False, **own)
    return patterns, whole.patterns, ids


@pytest.mark.parametrize("lengths", [(1,), (12,), (32,), (40, 33, 7), (5, 5)], ids=str)
@pytest.mark.parametrize("name", GENERATING)
def test_a_generation_is_one_pattern(family, name, lengths):
    if name == "minimax":  # its lightning attention lets padding decay the state: steps and one forward differ
        lengths = (max(lengths),) * len(lengths)
    patterns, whole, _ = generated(family(name), prompts(*lengths), 36)
    assert patterns.size == whole.size == max(lengths) + 35
    assert np.array_equal(patterns.head, whole.head)
    limit = 1e-4 if name == "zamba2" else 1e-5  # whose logits differ by 4e-5 between steps and one forward
    assert np.abs(patterns.probabilities() - whole.probabilities()).max() <= limit
    real = whole.log_patches.isfinite()
    assert torch.equal(patterns.log_patches.isfinite(), real)
    assert patterns.lengths == {row: length + 35 for row, length in enumerate(lengths)}


def test_layers_that_share_keys_are_captured_whole_where_few_logits_are_kept(family):
    """Gemma 4 reads only the tokens whose logits are asked for in its last layers."""
    model, inputs = family("gemma4"), prompts(40, 33)
    with torch.no_grad():
        plain = model(**inputs, logits_to_keep=1).logits
        with capture(model) as tap:
            logits = model(**inputs, logits_to_keep=1).logits
        with capture(model) as whole:
            model(**inputs)
        again = model(**inputs, logits_to_keep=1).logits
    assert logits.shape == plain.shape
    assert torch.allclose(logits, plain, atol=1e-5)
    assert torch.equal(again, plain)
    assert torch.equal(tap.patterns.log_patches, whole.patterns.log_patches)


def test_a_share_of_heads_is_the_same_in_every_step(family):
    patterns, whole, _ = generated(family("llama"), prompts(20, 12), 20, heads=0.5, seed=3)
    assert np.array_equal(patterns.head, whole.head)
    assert np.abs(patterns.probabilities() - whole.probabilities()).max() <= 1e-5


def test_what_was_generated_is_what_the_model_generates(family):
    inputs = prompts(20, 12)
    plain = family("llama").generate(**inputs, generation_config=GenerationConfig(max_new_tokens=20, **SETTINGS))
    _, _, ids = generated(family("llama"), inputs, 20)
    assert torch.equal(plain, ids)


def test_several_generations_in_one_block(family):
    model, settings = family("llama"), GenerationConfig(max_new_tokens=5, **SETTINGS)
    with capture(model) as tap:
        model.generate(**prompts(10, seed=1), generation_config=settings)
        model.generate(**prompts(20, 15, seed=2), generation_config=settings)
    patterns = tap.patterns
    alone, _, _ = generated(model, prompts(20, 15, seed=2), 5)
    assert sorted(set(patterns.prompt.tolist())) == [0, 1, 2]
    assert patterns.lengths == {0: 14, 1: 24, 2: 19}
    assert np.array_equal(patterns[patterns.prompt > 0].probabilities(), alone.probabilities())


def test_a_long_prompt_read_in_pieces(family):
    """Chunked prefill: each piece goes on from the cache of those before."""
    model, ids = family("llama"), prompts(70)["input_ids"]
    with torch.no_grad(), capture(model) as tap:
        cache = model(ids[:, :30], use_cache=True).past_key_values
        cache = model(ids[:, 30:45], past_key_values=cache, use_cache=True).past_key_values
        model(ids[:, 45:], past_key_values=cache, use_cache=True)
    with torch.no_grad(), capture(model) as whole:
        model(ids, use_cache=False)
    assert tap.patterns.size == 70
    assert np.abs(tap.patterns.probabilities() - whole.patterns.probabilities()).max() <= 1e-5


def test_tokens_of_a_generation(bundled_lm):
    tokenizer = bundled_lm.tokenizer
    ids = tokenizer("public int size() { return", return_tensors="pt").input_ids
    settings = GenerationConfig(max_new_tokens=6, **SETTINGS)
    with capture(bundled_lm.model, heads=[(0, 0)], tokenizer=tokenizer) as tap:
        made = bundled_lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    assert tap.patterns.tokens == {0: tuple(tokenizer.decode([int(token)]) for token in made[0, :-1])}
    assert len(tap.patterns.labels(0)) == tap.patterns.size == len(made[0]) - 1


def test_a_prompt_given_as_embeddings_has_no_tokens(bundled_lm):
    model, tokenizer = bundled_lm.model, bundled_lm.tokenizer
    ids = tokenizer("public int size() { return", return_tensors="pt").input_ids
    settings = GenerationConfig(max_new_tokens=4, **SETTINGS)
    with capture(model, heads=[(0, 0)], tokenizer=tokenizer) as tap:
        model.generate(inputs_embeds=model.get_input_embeddings()(ids), generation_config=settings)
    assert tap.patterns.tokens is None
    assert tap.patterns.lengths == {0: ids.shape[1] + 3}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_beam_search_is_refused(family):
    model = family("llama")
    settings = GenerationConfig(max_new_tokens=12, num_beams=4, **SETTINGS)
    with capture(model) as tap:
        model.generate(**prompts(10, 8), generation_config=settings)
    with pytest.raises(CaptureError, match="changed places .* num_beams=1"):
        tap.patterns  # noqa: B018


def test_a_cache_from_before_the_block_is_refused(family):
    model, ids = family("llama"), prompts(20)["input_ids"]
    with torch.no_grad():
        cache = model(ids[:, :12], use_cache=True).past_key_values
        with (
            capture(model),
            pytest.raises(CaptureError, match="got 20 keys and 8 queries in layer 0; open the capture before"),
        ):
            model(ids[:, 12:], past_key_values=cache)


def test_a_cropped_cache_is_refused(family):
    model, ids = family("llama"), prompts(20)["input_ids"]
    with torch.no_grad(), capture(model):
        cache = model(ids, use_cache=True).past_key_values
        cache.crop(-10)
        with pytest.raises(CaptureError, match="cache of the 20 tokens .* got 10"):
            model(ids[:, :2], past_key_values=cache)


def test_a_static_cache_is_refused(family):
    settings = GenerationConfig(max_new_tokens=4, cache_implementation="static", disable_compile=True, **SETTINGS)
    with capture(family("llama")), pytest.raises(CaptureError, match="dynamic"):
        family("llama").generate(**prompts(10), generation_config=settings)


def test_padding_on_the_right_cannot_go_on(family):
    inputs = prompts(20, 12)
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    with torch.no_grad(), capture(family("llama")):
        cache = family("llama")(**inputs, use_cache=True).past_key_values
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
        with pytest.raises(CaptureError, match="padded on the left"):
            family("llama")(inputs["input_ids"][:, :1], attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("keywords", [{"pool": 8}, {"crop": 8}, {"each_layer": print}], ids=list)
def test_what_needs_the_whole_text(family, keywords):
    with capture(family("llama"), **keywords), pytest.raises(CaptureError, match="need a text's whole forward"):
        family("llama").generate(**prompts(10), generation_config=GenerationConfig(max_new_tokens=4, **SETTINGS))


@pytest.mark.parametrize("change", [lambda c: c.batch_repeat_interleave(2), lambda c: c.batch_select_indices([0, 2])])
def test_another_number_of_prompts_is_refused(family, change):
    """As contrastive search makes of a cache, or someone who drops prompts that have ended."""
    model = family("llama")
    with torch.no_grad(), capture(model):
        cache = model(prompts(10, 10, 10)["input_ids"], use_cache=True).past_key_values
        change(cache)
        count = cache.layers[0].keys.shape[0]
        with pytest.raises(CaptureError, match=f"the 3 prompts captured so far, got {count} that go on"):
            model(torch.full((count, 1), 5), past_key_values=cache)
