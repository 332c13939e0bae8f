"""Import of checkpoints in the published layout (``LaughingLogits/AP-MAE-SC2-*``): rename weights, and add identities.

They become an :class:`~apmae.model.mae.APMAE` with ``grid="square"`` and ``decoder_input="cls"``. Where the published
code has no projection because both sides are equally wide, as at paper size between encoder and decoder, ours gets the
identity.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from apmae.config import APMAEConfig

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


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published checkpoint's weights under our names."""
    ours = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in _WEIGHTS:
            new, hits = re.subn(rf"^{pattern}(?=\.|$)", replacement, name)
            if hits:
                break
        ours[new] = tensor
    return ours


def completed(config: APMAEConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, with the layers that the published code leaves out where they would change nothing.

    Args:
        config: as :mod:`apmae.model.folder` reads it.
        weights: of :func:`renamed`.
    """
    added = {}
    for name, width in _identities(config):
        if not any(key.startswith(f"{name}.") for key in weights):
            added |= {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}
    return weights | added


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
