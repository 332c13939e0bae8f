"""``generate`` inside the block: the rows of its steps against one forward over the whole text."""

from inspect import signature

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin

from apmae.errors import CaptureError
from apmae.lm.inputs import generation
from apmae.lm.tap import capture

GENERATING = ["llama", "gpt2", "mistral-window", "gemma2", "gpt-oss", "bloom", "deepseek-v3", "qwen3-next", "laguna"]
SLOWLY = ["lfm2", "jamba", "nemotron-h", "minimax", "zamba2", "falcon-h1", "recurrent-gemma", "kimi-linear", "gemma3n"]
SLOWLY += ["qwen2.5-vl", "llava", "gemma3-vision", "step-3.7", "exaone4", "olmo3"]
GENERATING += ["gemma4"]
LENGTHS = [(12,), (40, 33, 7)]
"""Below a patch, and above it padded, with a window of some of the families in between."""
EDGES = [(1,), (32,), (5, 5)]
"""How rows are kept does not depend on the family: by default one is enough."""
CASES = [*((name, lengths) for name in GENERATING for lengths in LENGTHS), *(("llama", lengths) for lengths in EDGES)]
CASES += [
    pytest.param(name, lengths, marks=pytest.mark.slow)
    for names, several in ((GENERATING[1:], EDGES), (SLOWLY, LENGTHS + EDGES))
    for name in names
    for lengths in several
]
SETTINGS = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}


def prompts(*lengths, seed=0):
    """Random prompts padded on the left, as generate wants them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 160, (len(lengths), max(lengths)), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generated(model, inputs, new, use_cache=True, **keywords):
    """The patterns of a generation, and of one forward over what it made."""
    settings = GenerationConfig(max_new_tokens=new, min_new_tokens=new, use_cache=use_cache, **SETTINGS)
    with capture(model, **keywords) as tap:
        ids = model.generate(**inputs, generation_config=settings)
    patterns = tap.patterns
    text = ids[:, :-1]  # the last token was made, not read
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(ids), new - 1, dtype=torch.long)], dim=1)
    with torch.no_grad(), capture(model, **keywords) as whole:
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # as generate numbers positions
        own = {"position_ids": positions} if "position_ids" in signature(model.forward).parameters else {}
        model(input_ids=text, attention_mask=mask, use_cache=False, **own)
    return patterns, whole.patterns, ids


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("name", "lengths"), CASES, ids=str)
def test_a_generation_is_one_pattern(family, name, lengths, use_cache):
    if name == "minimax":  # its lightning attention lets padding decay the state: steps and one forward differ
        lengths = (max(lengths),) * len(lengths)
    patterns, whole, _ = generated(family(name), prompts(*lengths), 36, use_cache)
    assert patterns.size == whole.size == max(lengths) + 35
    assert np.array_equal(patterns.head, whole.head)
    limit = 1e-4 if name == "zamba2" else 1e-5  # whose logits differ by 4e-5 between steps and one forward
    assert np.abs(patterns.probabilities() - whole.probabilities()).max() <= limit
    real = whole.log_patches.isfinite()
    assert torch.equal(patterns.log_patches.isfinite(), real)
    assert patterns.lengths == {row: length + 35 for row, length in enumerate(lengths)}


def test_layers_that_share_keys_are_captured_whole_where_few_logits_are_kept(family):
    """In its last layers, Gemma 4 reads only the tokens whose logits are asked for."""
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


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_share_of_heads_is_the_same_in_every_step(family, use_cache):
    patterns, whole, _ = generated(family("llama"), prompts(20, 12), 20, use_cache, heads=0.5, seed=3)
    assert np.array_equal(patterns.head, whole.head)
    assert np.abs(patterns.probabilities() - whole.probabilities()).max() <= 1e-5


def test_what_was_generated_is_what_the_model_generates(family):
    inputs = prompts(20, 12)
    plain = family("llama").generate(**inputs, generation_config=GenerationConfig(max_new_tokens=20, **SETTINGS))
    _, _, ids = generated(family("llama"), inputs, 20)
    assert torch.equal(plain, ids)


@pytest.mark.parametrize("use_cache", [True, False])
def test_several_generations_in_one_block(family, use_cache):
    model, settings = family("llama"), GenerationConfig(max_new_tokens=5, use_cache=use_cache, **SETTINGS)
    with capture(model) as tap:
        model.generate(**prompts(10, seed=1), generation_config=settings)
        model.generate(**prompts(20, 15, seed=2), generation_config=settings)
    patterns = tap.patterns
    alone, _, _ = generated(model, prompts(20, 15, seed=2), 5, use_cache)
    assert sorted(set(patterns.prompt.tolist())) == [0, 1, 2]
    assert patterns.lengths == {0: 14, 1: 24, 2: 19}
    assert np.array_equal(patterns[patterns.prompt > 0].probabilities(), alone.probabilities())


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_generation_that_resumes_another_is_another_prompt(family, use_cache):
    """Turns of a chat, or a loop that generates one token per call: each begins with all that was read before."""
    model, settings = family("llama"), GenerationConfig(max_new_tokens=1, use_cache=use_cache, **SETTINGS)
    ids = prompts(10)["input_ids"]
    with capture(model) as tap:
        for _ in range(3):
            ids = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    assert tap.patterns.lengths == {0: 10, 1: 11, 2: 12}


def test_a_loop_without_generate_or_cache_has_one_prompt_per_forward(family):
    model, ids = family("llama"), prompts(13)["input_ids"]
    with torch.no_grad(), capture(model) as tap:
        for count in (10, 11, 13):
            model(ids[:, :count], use_cache=False)
    assert tap.patterns.lengths == {0: 10, 1: 11, 2: 13}


@pytest.mark.parametrize("use_cache", [True, False])
def test_samples_of_one_prompt_are_separate_prompts(family, use_cache):
    model, torch_state = family("llama"), torch.random.get_rng_state()
    settings = GenerationConfig(
        max_new_tokens=8, use_cache=use_cache, **{**SETTINGS, "do_sample": True, "num_return_sequences": 3}
    )
    try:
        torch.manual_seed(0)
        with capture(model, heads=[(0, 0), (1, 1)]) as tap:
            made = model.generate(**prompts(10, 6), generation_config=settings)
    finally:
        torch.random.set_rng_state(torch_state)
    assert len({tuple(row) for row in made.tolist()}) == 6
    assert tap.patterns.lengths == {0: 17, 1: 17, 2: 17, 3: 13, 4: 13, 5: 13}
    padded = [0, 0, 0, 4, 4, 4]
    for number, start in enumerate(padded):
        with torch.no_grad(), capture(model, heads=[(0, 0), (1, 1)]) as alone:
            model(made[number : number + 1, start:-1], use_cache=False)
        rows = tap.patterns.num_rows(number)
        found = tap.patterns[tap.patterns.prompt == number].probabilities()[:, :rows, :rows]
        assert np.abs(found - alone.patterns.probabilities()).max() <= 1e-5


def test_sequences_that_end_early_grow_by_padding_as_they_do_with_a_cache(family):
    model, inputs = family("llama"), prompts(10, 8)
    free = model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=12, **SETTINGS))
    settings = {**SETTINGS, "eos_token_id": int(free[1, 12])}  # the second ends with its third token, or before
    found = []
    for use_cache in (True, False):
        with capture(model) as tap:
            model.generate(
                **inputs, generation_config=GenerationConfig(max_new_tokens=12, use_cache=use_cache, **settings)
            )
        found.append(tap.patterns)
    assert found[0].lengths == found[1].lengths
    assert np.abs(found[0].probabilities() - found[1].probabilities()).max() <= 1e-5


@pytest.mark.parametrize("reach", [{"pool": 8}, {"crop": 8}], ids=str)
def test_without_a_cache_a_generation_is_pooled_and_cropped(family, reach):
    patterns, whole, _ = generated(family("llama"), prompts(20, 12), 6, use_cache=False, **reach)
    assert patterns.lengths == whole.lengths == {0: 25, 1: 17}
    assert np.abs(patterns.probabilities() - whole.probabilities()).max() <= 1e-5


def test_a_second_text_that_a_generation_reads_grows_beside_the_first(family):
    """Classifier-free guidance runs the model on the prompt and on a negative prompt, in turn."""
    model, inputs = family("llama"), prompts(10)
    negative = prompts(6, seed=5)["input_ids"]
    settings = GenerationConfig(max_new_tokens=5, guidance_scale=1.5, use_cache=False, **SETTINGS)
    with capture(model) as tap:
        made = model.generate(**inputs, negative_prompt_ids=negative, generation_config=settings)
    assert tap.patterns.lengths == {0: 14, 1: 10}
    for number, text in enumerate((made[:, :-1], torch.cat([negative, made[:, 10:-1]], dim=1))):
        with torch.no_grad(), capture(model) as alone:
            model(text, use_cache=False)
        rows = tap.patterns.num_rows(number)
        found = tap.patterns[tap.patterns.prompt == number].probabilities()[:, :rows, :rows]
        assert np.abs(found - alone.patterns.probabilities()).max() <= 1e-5


def test_generate_is_left_as_it_was(family):
    model, plain = family("llama"), GenerationMixin.generate
    with pytest.raises(RuntimeError, match="stop"), capture(model), capture(model):
        assert signature(model.generate) == signature(plain.__get__(model))
        raise RuntimeError("stop")
    assert GenerationMixin.generate is plain
    assert generation() is None


def test_a_long_prompt_read_in_pieces(family):
    """Chunked prefill: each piece continues from the cache of those before."""
    model, ids = family("llama"), prompts(70)["input_ids"]
    with torch.no_grad(), capture(model) as tap:
        cache = model(ids[:, :30], use_cache=True).past_key_values
        cache = model(ids[:, 30:45], past_key_values=cache, use_cache=True).past_key_values
        model(ids[:, 45:], past_key_values=cache, use_cache=True)
    with torch.no_grad(), capture(model) as whole:
        model(ids, use_cache=False)
    assert tap.patterns.size == 70
    assert np.abs(tap.patterns.probabilities() - whole.patterns.probabilities()).max() <= 1e-5


@pytest.mark.parametrize("use_cache", [True, False])
def test_tokens_of_a_generation(bundled_lm, use_cache):
    tokenizer = bundled_lm.tokenizer
    ids = tokenizer("public int size() { return", return_tensors="pt").input_ids
    settings = GenerationConfig(max_new_tokens=6, use_cache=use_cache, **SETTINGS)
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


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_beam_search_is_refused(family, name, use_cache):
    model = family(name)
    settings = GenerationConfig(max_new_tokens=12, num_beams=4, use_cache=use_cache, **SETTINGS)
    with capture(model) as tap:
        model.generate(**prompts(10, 8), generation_config=settings)
    with pytest.raises(CaptureError, match="changed places .* num_beams=1"):
        tap.patterns  # noqa: B018


@pytest.mark.parametrize("how", ["keyword", "config", "assistant"])
def test_drafts_are_refused(family, how):
    """Rows of draft tokens that are dropped in the end would stay."""
    model = family("llama")
    given = {
        "keyword": {"prompt_lookup_num_tokens": 3},
        "config": {"generation_config": GenerationConfig(prompt_lookup_num_tokens=3, **SETTINGS)},
        "assistant": {"assistant_model": model},
    }[how]
    with capture(model), pytest.raises(CaptureError, match="expected generate without drafts.*capture one forward"):
        model.generate(**prompts(12), max_new_tokens=6, **({} if how == "config" else SETTINGS), **given)


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


def test_prompts_padded_on_the_right_cannot_be_continued(family):
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


def test_layers_passed_on_one_by_one_cannot_grow(family):
    settings = GenerationConfig(max_new_tokens=4, use_cache=False, **SETTINGS)
    with (
        capture(family("llama"), each_layer=lambda _: None),
        pytest.raises(CaptureError, match="each_layer needs .* step of generate without a cache; generate first"),
    ):
        family("llama").generate(**prompts(10), generation_config=settings)


def test_steps_without_a_cache_and_without_token_ids_are_refused(family):
    """After prompt tuning a model reads embeddings in every step."""
    model, ids = family("llama"), prompts(10)["input_ids"]

    def prepare(input_ids, **_):
        return {"inputs_embeds": model.get_input_embeddings()(input_ids), "use_cache": False}

    settings = GenerationConfig(max_new_tokens=4, use_cache=False, **SETTINGS)
    model.prepare_inputs_for_generation = prepare
    try:
        with capture(model), pytest.raises(CaptureError, match="token ids in every step .* use_cache=True"):
            model.generate(ids, generation_config=settings)
    finally:
        del model.prepare_inputs_for_generation


@pytest.mark.parametrize("change", [lambda c: c.batch_repeat_interleave(2), lambda c: c.batch_select_indices([0, 2])])
def test_another_number_of_prompts_is_refused(family, change):
    """Contrastive search changes a cache like this, and so does dropping prompts that have ended."""
    model = family("llama")
    with torch.no_grad(), capture(model):
        cache = model(prompts(10, 10, 10)["input_ids"], use_cache=True).past_key_values
        change(cache)
        count = cache.layers[0].keys.shape[0]
        with pytest.raises(CaptureError, match=f"the 3 prompts captured so far, got {count} that continue"):
            model(torch.full((count, 1), 5), past_key_values=cache)
