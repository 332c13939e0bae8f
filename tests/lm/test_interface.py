"""The result of a function of AttentionInterface is passed on unchanged, and what cannot be read is refused."""

import pytest
import torch
from families import FAMILIES, config_of
from matrix import family_model, random_model, tokens
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import apmae
from apmae.errors import CaptureError


def test_eager_attention_still_returns_its_patterns_inside_a_capture():
    model = random_model(config_of(FAMILIES["llama"]), attention="eager")
    inputs = {**tokens(), "use_cache": False, "output_attentions": True}
    plain = model(**inputs).attentions
    with apmae.capture(model) as tap:
        inside = model(**inputs).attentions
    assert len(inside) == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inside, plain, strict=True))
    captured = torch.from_numpy(tap.patterns.probabilities()).unflatten(0, (len(inside[0]), 2, -1))
    assert torch.allclose(captured[:, 1], inside[1], atol=1e-6)


@pytest.mark.parametrize(
    ("argument", "meaning"),
    [
        ("cache", "uses a paged cache"),
        ("cu_seq_lens_q", "uses packed sequences"),
        ("sinks", "has attention sinks that differ by query"),  # Inkling2's
    ],
)
def test_attention_over_anything_but_a_batch_of_prompts_is_refused(argument, meaning):
    model = family_model("llama")
    module = model.model.layers[0].self_attn
    query, key = torch.zeros(1, 4, 3, 12), torch.zeros(1, 2, 3, 12)
    with apmae.capture(model):
        attend = ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)
        with pytest.raises(CaptureError, match=f"{type(module).__name__} {meaning}"):
            attend(module, query, key, key, None, scaling=1.0, **{argument: torch.tensor([0, 3])})
