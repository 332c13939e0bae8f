"""AP-MAE files: ``config.json`` and ``model.safetensors``, in our layout or the published one, from a folder or a hub.

``config.json`` has a format number, so that a newer layout is refused by its number, not by the first field that does
not fit. Weights that are not finite are refused: every embedding would be NaN.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from apmae.artifacts import replacing, write_json, write_through
from apmae.config import APMAEConfig
from apmae.errors import ModelError
from apmae.model import released
from apmae.model.folder import (
    CARD,
    CONFIG,
    FORMAT,
    MODEL_TYPE,
    WEIGHTS,
    WHITENING,
    Encoder,
    find_encoder,
    weights_error,
)
from apmae.patterns.whitening import Whitening


class Files(NamedTuple):
    """A checkpoint that was read."""

    folder: Path
    config: APMAEConfig
    weights: dict[str, Tensor]
    """float32, under our names."""
    published: bool
    """Whether it was in the published layout."""
    whitening: Whitening | None = None
    """Constants of its CLS, if the folder has them."""


def save(
    folder: Path,
    config: APMAEConfig,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    card: str | None,
    whitening: Whitening | None = None,
) -> None:
    """Write a checkpoint in our layout, and a model card and the constants of its CLS where there are any."""
    stored = {name: tensor.detach().cpu().to(dtype or tensor.dtype) for name, tensor in weights.items()}
    write_through(folder / WEIGHTS, lambda path: save_file(stored, path, metadata={"format": "pt"}))
    write_json(folder / CONFIG, {"model_type": MODEL_TYPE, "format": FORMAT, **config.model_dump(mode="json")})
    if whitening is not None:
        whitening.save(folder / WHITENING)
    else:
        (folder / WHITENING).unlink(missing_ok=True)  # those of other weights
    if card is not None:
        with replacing(folder / CARD) as file:
            file.write(card.encode())


def content_of(config: APMAEConfig, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's settings and float32 weights: the same wherever its files are, and whoever wrote them."""
    # Only what differs from the defaults: a setting that is new in a later version leaves the hash as it was.
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    digest = sha256(settings.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"\0{name}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def load(source: str | Path) -> Files:
    """Read a checkpoint.

    Args:
        source: a folder, a hub id, or "bundled".

    Raises:
        ModelError: if there is none, it is damaged, of a newer format or not an AP-MAE, or its weights are not finite.
    """
    found = find_encoder(source)
    path = found.folder / WEIGHTS
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise weights_error(found.folder, error) from None
    for name, tensor in weights.items():
        broken = int((~tensor.isfinite()).sum())
        if broken:
            raise ModelError(
                f"expected finite weights in {path}, {name} has {broken} of {tensor.numel()} that are not; "
                "take an earlier checkpoint, or save in another dtype if these were float16"
            )
    if found.published:
        weights = released.renamed(weights)
    _expect_room(found.config, weights, found.folder)
    if found.published:
        weights = released.completed(found.config, weights)
    return Files(found.folder, found.config, weights, found.published, _whitening(found))


def _whitening(found: Encoder) -> Whitening | None:
    path = found.folder / WHITENING
    if not path.is_file():
        return None
    try:
        whitening = Whitening.load(path)
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(
            f"expected the constants of a CLS in {path}: {error}; delete it to compute them again"
        ) from None
    wanted = found.config.encoder_dim
    shapes = [array.shape for array in whitening]
    if shapes != [(wanted,), (wanted,), (wanted, wanted)]:
        raise ModelError(
            f"expected constants for {wanted} dimensions in {path}, got shapes {shapes}; delete it to compute them "
            "again"
        )
    if not all(np.isfinite(array).all() for array in whitening):
        raise ModelError(f"expected finite constants in {path}, some are not; delete it to compute them again")
    return whitening


def _expect_room(c: APMAEConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse settings that ask for more numbers than the weights have, before memory is taken for them.

    Raises:
        ModelError: if they do, or the widths and the number of positions differ from those of the weights.
    """
    slots = 1 + (c.grid_size**2 if c.grid == "square" else c.num_patches)
    for name, wanted in (
        ("positions", (1, slots, c.encoder_dim)),
        ("decoder_positions", (1, slots, c.decoder_dim)),
        ("to_pixels.weight", (c.channels * c.patch_size**2, c.decoder_dim)),
    ):
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted:
            raise ModelError(
                f"expected weights that fit {folder / CONFIG}, they do not: {name} has shape {found}, not {wanted}"
            )
    # the published code has no projection after a single head as wide as the model
    needed = c.encoder_layers * c.encoder_dim * (3 * c.encoder_heads * c.encoder_head_dim + 2 * c.encoder_mlp_dim)
    needed += c.decoder_layers * c.decoder_dim * (3 * c.decoder_heads * c.decoder_head_dim + 2 * c.decoder_mlp_dim)
    held = sum(tensor.numel() for tensor in weights.values())
    if needed > held:
        raise ModelError(
            f"expected weights that fit {folder / CONFIG}, they do not: its layers have at least {needed} numbers, all "
            f"weights together {held}"
        )
