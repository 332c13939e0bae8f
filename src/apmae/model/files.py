"""AP-MAE files: ``config.json`` and ``model.safetensors``, in our layout or the published one, from a folder or a hub.

``config.json`` has a format number, so that a newer layout is refused by its number, not by the first field that does
not fit. Weights that are not finite are refused: every embedding would be NaN.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from apmae import bundled
from apmae.artifacts import fingerprint, read_json, replacing, write_json, write_through
from apmae.config import APMAEConfig, parse
from apmae.errors import ArtifactError, ConfigError, ModelError
from apmae.model import released

FORMAT = 1
"""Version of our layout, raised when older code cannot read the new one. Files without a number have format 1."""
MODEL_TYPE = "apmae"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"


class Files(NamedTuple):
    """A checkpoint that was read."""

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


def content_of(source: str) -> str:
    """A hash of an encoder's files; for a hub id, the id itself."""
    folder = _folder(source)
    return fingerprint(folder) if folder.is_dir() else source


def load(source: str | Path) -> Files:
    """Read a checkpoint.

    Args:
        source: a folder, a hub id, or "bundled".

    Raises:
        ModelError: if there is none, it is damaged, of a newer format or not an AP-MAE, or its weights are not finite.
    """
    folder = _find(source)
    values = _config(folder / CONFIG)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"expected whole AP-MAE weights in {folder / WEIGHTS}: {error}; copy, download or train them again"
        ) from None
    for name, tensor in weights.items():
        broken = int((~tensor.isfinite()).sum())
        if broken:
            raise ModelError(
                f"expected finite weights in {folder / WEIGHTS}, {name} has {broken} of {tensor.numel()} that are not; "
                "take an earlier checkpoint, or save in another dtype if these were float16"
            )
    published = values.pop("model_type", None) != MODEL_TYPE
    try:
        if published:
            config, weights = released.convert(values, weights)
        else:
            config = parse(APMAEConfig, {key: value for key, value in values.items() if key != "format"}, CONFIG)
    except ConfigError as error:
        raise ModelError(f"{folder}: {error}; is this an AP-MAE?") from None
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    return Files(folder, config, weights, published)


def _config(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ArtifactError as error:
        raise ModelError(f"{error}, or give another folder") from None
    if not isinstance(values, dict):
        raise ModelError(f"expected an AP-MAE's settings in {path}, got a JSON {type(values).__name__}; check the file")
    found = values.get("format", FORMAT)
    if values.get("model_type") == MODEL_TYPE and (type(found) is not int or not 1 <= found <= FORMAT):
        raise ModelError(
            f"expected an AP-MAE of format {FORMAT} or older in {path}, got format {found!r}; "
            "install the version of apmae that wrote it"
        )
    return values


def _folder(source: str | Path) -> Path:
    return bundled.encoder() if str(source) == "bundled" else Path(source)


def _find(source: str | Path) -> Path:
    folder = _folder(source)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ModelError(f"expected an AP-MAE in {folder}, it has no {CONFIG}; was its training finished?")
        return folder
    name = str(source)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ModelError(f"expected an AP-MAE's folder or hub id, found no folder {source}; check the path")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except Exception as error:  # the hub client raises many kinds of error; whichever it is, there is no model
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"expected an AP-MAE at {source}: no such folder, and the hub says: {reason[:200]}") from None
    if not (folder / CONFIG).is_file():
        raise ModelError(f"expected an AP-MAE at {source}, the repository has no {CONFIG}; check the id")
    return folder
