"""Import of checkpoints in the published layout (``LaughingLogits/AP-MAE-SC2-*``): rename weights, and add identities.

They become an :class:`~apmae.model.mae.APMAE` with ``grid="square"`` and ``decoder_input="cls"``. Where the published
code has no projection because both sides are equally wide, as at paper size between encoder and decoder, ours gets the
identity.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from apmae.config import APMAEConfig, parse
from apmae.errors import ModelError

_CONFIG = {
    "max_length": "pattern_size",
    "patch_size": "patch_size",
    "mask_ratio": "mask_ratio",
    "layer_norm_eps": "layer_norm_eps",
    "encoder_layers": "encoder_layers",
    "encoder_dim": "encoder_dim",
    "encoder_heads": "encoder_heads",
    "encoder_dim_head": "encoder_head_dim",
    "encoder_mlp_dim": "encoder_mlp_dim",
    "decoder_layers": "decoder_layers",
    "decoder_dim": "decoder_dim",
    "decoder_heads": "decoder_heads",
    "decoder_dim_head": "decoder_head_dim",
    "decoder_mlp_dim": "decoder_mlp_dim",
}
_WEIGHTS = (
    (r"(encoder|decoder)\.transformer\.norm", r"\1.norm"),
    (r"(encoder|decoder)\.transformer\.layers\.(\d+)\.0\.to_out\.0", r"\1.attentions.\2.to_out"),
    (r"(encoder|decoder)\.transformer\.layers\.(\d+)\.0", r"\1.attentions.\2"),
    (r"(encoder|decoder)\.transformer\.layers\.(\d+)\.1\.net\.0", r"\1.mlps.\2.norm"),
    (r"(encoder|decoder)\.transformer\.layers\.(\d+)\.1\.net\.1", r"\1.mlps.\2.up"),
    (r"(encoder|decoder)\.transformer\.layers\.(\d+)\.1\.net\.4", r"\1.mlps.\2.down"),
    (r"encoder\.patches_to_embedding", "embed"),
    (r"encoder\.cls_token", "cls"),
    (r"encoder\.pos_embedding", "positions"),
    (r"decoder\.pos_embedding", "decoder_positions"),
    (r"decoder\.enc_to_dec", "to_decoder"),
    (r"decoder\.mask_token", "mask_token"),
    (r"decoder\.to_pixels", "to_pixels"),
)


def convert(values: dict[str, Any], weights: dict[str, Tensor]) -> tuple[APMAEConfig, dict[str, Tensor]]:
    """A published checkpoint's config and weights under our names.

    Raises:
        ConfigError: if a size is out of range.
        ModelError: if they are not those of a published AP-MAE.
    """
    missing = sorted(set(_CONFIG) - set(values))
    if missing:
        raise ModelError(f"expected an AP-MAE config, ours or the published one; this has no {', '.join(missing[:3])}")
    if values.get("hidden_act") != "gelu" or values.get("qkv_bias") or values.get("encoder_pool", "cls") != "cls":
        raise ModelError("expected a published AP-MAE with gelu, no qkv bias and CLS pooling; this one differs")
    ours = {own: values[theirs] for theirs, own in _CONFIG.items()}
    ours |= {"grid": "square", "decoder_input": "cls", "scaling": "log_normalize"}
    config = parse(APMAEConfig, ours, "config.json")
    renamed = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in _WEIGHTS:
            new, hits = re.subn(rf"^{pattern}(?=\.|$)", replacement, name)
            if hits:
                break
        renamed[new] = tensor
    for name, width in _identities(config):
        if not any(key.startswith(f"{name}.") for key in renamed):
            renamed |= {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}
    return config, renamed


def _identities(config: APMAEConfig) -> Iterator[tuple[str, int]]:
    """The linear layers that the published code leaves out, and their width."""
    c = config
    if c.encoder_dim == c.decoder_dim:
        yield "to_decoder", c.decoder_dim
    for part, layers, dim, heads, head_dim in (
        ("encoder", c.encoder_layers, c.encoder_dim, c.encoder_heads, c.encoder_head_dim),
        ("decoder", c.decoder_layers, c.decoder_dim, c.decoder_heads, c.decoder_head_dim),
    ):
        if heads == 1 and head_dim == dim:
            for layer in range(layers):
                yield f"{part}.attentions.{layer}.to_out", dim
