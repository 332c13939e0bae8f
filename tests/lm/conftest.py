"""Small random models of every supported family."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

LAYERS, HEADS, VOCABULARY, WINDOW = 2, 4, 160, 24
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}

FAMILIES = {
    "starcoder2": lambda: Starcoder2Config(**_GROUPED),
    "starcoder2-window": lambda: Starcoder2Config(**_GROUPED, sliding_window=WINDOW),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "llama-one-kv": lambda: LlamaConfig(**{**_GROUPED, "num_key_value_heads": 1}),
    "mistral-window": lambda: MistralConfig(**_GROUPED, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=16),
    "gpt-neox": lambda: GPTNeoXConfig(**_COMMON),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
        scale_attn_by_inverse_layer_idx=True,
    ),
}


def random_model(config, seed=0, attention="sdpa", sharpen=5.0):
    """A random model whose attention is not flat: its matrices are larger than at initialisation."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharpen)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def family():
    """A small random model of a family, made once; tests leave it as it is."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = random_model(FAMILIES[name]())
        return made[name]

    return make


@pytest.fixture
def fresh():
    """A new small Llama, for tests that change it; keywords go to ``random_model``."""
    return lambda **keywords: random_model(FAMILIES["llama"](), **keywords)
