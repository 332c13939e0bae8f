"""AP-MAE files: ``config.json`` and ``model.safetensors``, ours or published, of a folder or a hub.

``config.json`` has a format number, so that a newer layout is refused by number and not by the first field that does
not fit. Weights that are not finite are refused: every embedding would be NaN.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from apmae.artifacts import replacing, write_json, write_through
from apmae.config import APMAEConfig
from apmae.errors import ModelError
from apmae.model import released
from apmae.model.folder import CARD, CONFIG, FORMAT, MODEL_TYPE, WEIGHTS, find_encoder, weights_error


class Files(NamedTuple):
    """What a checkpoint says."""

    folder: Path
    config: APMAEConfig
    weights: dict[str, Tensor]
    """float32, under our names."""
    published: bool
    """Whether it was in the published layout."""


def save(
    folder: Path, config: APMAEConfig, weights: dict[str, Tensor], dtype: torch.dtype | None, card: str | None
) -> None:
    """Write a checkpoint in our layout, and a model card where there is one."""
    stored = {name: tensor.detach().cpu().to(dtype or tensor.dtype) for name, tensor in weights.items()}
    write_through(folder / WEIGHTS, lambda path: save_file(stored, path, metadata={"format": "pt"}))
    write_json(folder / CONFIG, {"model_type": MODEL_TYPE, "format": FORMAT, **config.model_dump(mode="json")})
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
        ModelError: if there is none, it is damaged, of a newer format, no AP-MAE, or its weights are not finite.
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
        weights = released.convert(found.config, weights)
    return Files(found.folder, found.config, weights, found.published)
