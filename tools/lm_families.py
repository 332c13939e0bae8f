"""The families of tiny language models that ``train_lm.py`` trains, and the settings of a training.

``starcoder2`` is what the package bundles. The others attend in other ways. Encoders and atlases that are to hold on
any model are trained on their patterns too; the models themselves are not kept.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Starcoder2Config,
)

from apmae.seeding import subseed

INFILLING_SPECIAL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"]  # as in StarCoder2
PLAIN_SPECIAL = ["<|endoftext|>"]
END, PREFIX, MIDDLE, SUFFIX, PAD = range(5)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stretch of training with its own cosine."""

    name: str
    tokens: int  # to train on, padding included
    rows: int  # in a batch
    learning_rates: tuple[float, float]  # of Muon and of AdamW, at their highest
    infilling: float  # share of rows that are infilling, 0 to 1; the rest are plain
    repeated: float = 0.0  # share of plain rows that say their beginning twice, 0 to 1
    samples: tuple[float, ...]  # chance that an infilling row holds 1, 2, ... samples
    moved_space: float  # share of cuts after a lone space that move it into the middle, as byte-level BPE joins it
    weights: tuple[float, float, float, float]  # in the loss, by role


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights, except the sources and a given tokenizer; by default the size "large"."""

    family: str = "starcoder2"
    texts: str = "java"
    seed: int = 0
    vocab_size: int = 4096
    context: int = 256
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 4  # where a family has them; elsewhere every head has keys of its own
    hidden: int = 192
    feed_forward: int = 512
    parts: tuple[Part, ...] = (
        Part(name="from scratch", tokens=6_107_136, rows=8, learning_rates=(0.02, 4e-3), infilling=0.5,
             samples=(1.0,), moved_space=0.0, weights=(0.0, 1.0, 1.0, 1.0)),
        Part(name="continued, infilling-weighted", tokens=13_176_832, rows=16, learning_rates=(0.013, 2.5e-3),
             infilling=0.78, samples=(0.3, 0.4, 0.3), moved_space=0.5, weights=(0.0, 1.0, 4.0, 16.0)),
    )  # fmt: skip

    @property
    def special(self) -> list[str]:
        """The special tokens; their ids are their places in the list."""
        return INFILLING_SPECIAL if FAMILIES[self.family].infilling else PLAIN_SPECIAL


def with_tokens(parts: tuple[Part, ...], *tokens: int) -> tuple[Part, ...]:
    """The parts of a training, on the given numbers of tokens."""
    return tuple(dataclasses.replace(part, tokens=n) for part, n in zip(parts, tokens, strict=True))


SIZES = {
    "small": Settings(
        layers=3, heads=4, key_value_heads=2, hidden=96, feed_forward=256,
        parts=with_tokens(Settings().parts, 2_359_296, 5_111_808),
    ),
    "medium": Settings(
        layers=4, heads=6, key_value_heads=3, hidden=144, feed_forward=384,
        parts=with_tokens(Settings().parts, 4_096_000, 8_847_360),
    ),
    "large": Settings(),
}  # fmt: skip
"""The bundled sizes: 0.63, 1.29 and 2.64 M parameters; 24 dimensions per head and two heads per key in all of them.

There are 12, 10 and 7 tokens per parameter, always fewer than the 20 of Hoffmann et al. 2022, "Training Compute-Optimal
Large Language Models": as many as one core trains on in 25 minutes, an hour and three hours.
"""

TINY = Settings(
    vocab_size=2048, layers=4, heads=6, key_value_heads=2, hidden=96, feed_forward=256,
    parts=(
        Part(name="plain rows", tokens=2_048_000, rows=4, learning_rates=(0.02, 4e-3), infilling=0.0, repeated=0.15,
             samples=(1.0,), moved_space=0.0, weights=(0.0, 1.0, 1.0, 1.0)),
    ),
)  # fmt: skip
"""The one size of the families that do not infill: 0.6 M parameters, minutes of one core.

So few tokens hardly teach induction, which larger models have, unless some rows repeat what they said.
"""


def _starcoder2(settings: Settings) -> PreTrainedConfig:
    return Starcoder2Config(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads, tie_word_embeddings=True, sliding_window=None,
        max_position_embeddings=2 * settings.context,  # rotary: text may be generated past the trained length
        bos_token_id=END, eos_token_id=END, pad_token_id=PAD, initializer_range=0.02,
    )  # fmt: skip


def _opt(settings: Settings) -> PreTrainedConfig:
    return OPTConfig(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, word_embed_proj_dim=settings.hidden,
        ffn_dim=settings.feed_forward, num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        max_position_embeddings=settings.context, dropout=0.0, bos_token_id=END, eos_token_id=END, pad_token_id=None,
    )  # fmt: skip


def _bloom(settings: Settings) -> PreTrainedConfig:
    return BloomConfig(  # its feed-forward is always four times as wide as the model
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, n_layer=settings.layers, n_head=settings.heads,
        bos_token_id=END, eos_token_id=END,
    )  # fmt: skip


def _llama(settings: Settings) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads, tie_word_embeddings=True,
        max_position_embeddings=2 * settings.context, bos_token_id=END, eos_token_id=END,
    )  # fmt: skip


def _gpt_oss(settings: Settings) -> PreTrainedConfig:
    return GptOssConfig(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads, head_dim=settings.hidden // settings.heads,
        num_local_experts=1, num_experts_per_tok=1,  # one expert is a dense feed-forward
        tie_word_embeddings=True, sliding_window=settings.context // 2,  # in every other layer, as the family has it
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        max_position_embeddings=2 * settings.context, bos_token_id=END, eos_token_id=END,
    )  # fmt: skip


def _gpt_neox(settings: Settings) -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        max_position_embeddings=2 * settings.context, bos_token_id=END, eos_token_id=END,
    )  # fmt: skip


class Family(NamedTuple):
    """How a family attends, and on what rows it is trained."""

    config: Callable[[Settings], PreTrainedConfig]
    infilling: bool = False  # its tokenizer has sentinels, and some of its rows are infilling
    opened: bool = False  # every row begins with the end-of-text token, as a beginning-of-sequence token does


FAMILIES = {
    "starcoder2": Family(_starcoder2, infilling=True, opened=True),
    "opt": Family(_opt),  # learned positions
    "bloom": Family(_bloom),  # ALiBi
    "llama": Family(_llama, opened=True),  # rotary, three heads per key
    "gpt_oss": Family(_gpt_oss),  # a learned sink in the softmax, so rows sum to less than 1; sliding windows
    "gpt_neox": Family(_gpt_neox),  # rotary in half of the dimensions, attention beside the feed-forward
}


def build_model(settings: Settings) -> PreTrainedModel:
    """The untrained model: matrices from N(0, 0.02), biases and sinks 0, norms 1, drawn from a separate generator.

    Learned positions begin as sinusoids.
    """
    model = AutoModelForCausalLM.from_config(FAMILIES[settings.family].config(settings))
    draw = torch.Generator().manual_seed(subseed(settings.seed, "weights"))
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=draw)
        if name.endswith("embed_positions.weight"):
            parameter.data = _sinusoids(*parameter.shape)
    return model


def _sinusoids(positions: int, width: int) -> Tensor:
    """Learned positions to begin with, ``[positions, width]``, as large as the tokens' vectors soon become.

    From noise, no head of a GPT-2 found the previous token in 2 M tokens. Source: Vaswani et al. 2017, "Attention Is
    All You Need", section 3.5.
    """
    angles = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return 0.2 * 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
