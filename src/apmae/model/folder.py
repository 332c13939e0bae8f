"""Finds an AP-MAE and reads its ``config.json``, ours or published, before torch is imported."""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from apmae import bundled
from apmae.artifacts import read_json
from apmae.config import APMAEConfig, parse
from apmae.errors import ArtifactError, CaptureError, ConfigError, ModelError, first_line

FORMAT = 2
"""Version of our layout, raised when older code cannot read the new one. Files without a number have format 1."""
MODEL_TYPE = "apmae"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WHITENING = "whitening.safetensors"
CARD = "README.md"
_PUBLISHED = {
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
"""The published layout's names for our settings."""


class Encoder(NamedTuple):
    """An AP-MAE that was found, with weights that are not read yet."""

    folder: Path
    config: APMAEConfig
    published: bool
    """Whether it is in the published layout."""


def expect_shape(*, causal: bool, found: bool) -> None:
    """Refuse patterns that an AP-MAE was not made for.

    Args:
        causal: whether it reads causal patterns, or square ones.
        found: whether those at hand are causal.

    Raises:
        CaptureError: if the two differ.
    """
    if causal and not found:
        raise CaptureError(
            "expected causal patterns for this AP-MAE, got square ones of an encoder; take one that was trained on "
            "such patterns: apmae train --lm MODEL makes it"
        )
    if found and not causal:
        raise CaptureError(
            "expected square patterns for this AP-MAE, which was trained on an encoder's, got causal ones; take "
            "another, such as the bundled one"
        )


def find_encoder(source: str | Path) -> Encoder:
    """Find an AP-MAE and read its settings. One on a hub is downloaded.

    Args:
        source: a folder, a hub id, or "bundled".

    Raises:
        ModelError: if there is none, its weights are cut short, or it is of a newer format or not an AP-MAE.
    """
    folder = _find(source)
    values = _read(folder / CONFIG)
    published = values.pop("model_type", None) != MODEL_TYPE
    try:
        if published:
            config = _published_config(values)
        else:
            config = parse(APMAEConfig, {key: value for key, value in values.items() if key != "format"}, CONFIG)
    except ConfigError as error:
        raise ModelError(f"{folder}: {error}; is this an AP-MAE?") from None
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    try:
        with safe_open(folder / WEIGHTS, framework="numpy"):  # the header says how long the file should be
            pass
    except (OSError, SafetensorError) as error:
        raise weights_error(folder, error) from None
    return Encoder(folder, config, published)


def weights_error(folder: Path, error: Exception) -> ModelError:
    """The error for weights that cannot be read."""
    return ModelError(
        f"expected whole AP-MAE weights in {folder / WEIGHTS}: {error}; copy, download or train them again"
    )


def _published_config(values: dict[str, Any]) -> APMAEConfig:
    missing = sorted(set(_PUBLISHED) - set(values))
    if missing:
        raise ModelError(f"expected an AP-MAE config, ours or the published one; this has no {', '.join(missing[:3])}")
    if values.get("hidden_act") != "gelu" or values.get("qkv_bias") or values.get("encoder_pool", "cls") != "cls":
        raise ModelError("expected a published AP-MAE with gelu, no qkv bias and CLS pooling; this one differs")
    ours = {own: values[theirs] for theirs, own in _PUBLISHED.items()}
    ours |= {"grid": "square", "decoder_input": "cls", "scaling": "log_normalize"}
    return parse(APMAEConfig, ours, CONFIG)


def _read(path: Path) -> dict[str, Any]:
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


def _find(source: str | Path) -> Path:
    folder = bundled.encoder() if str(source) == "bundled" else Path(source)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ModelError(f"expected an AP-MAE in {folder}, it has no {CONFIG}; was its training finished?")
        return folder
    name = str(source)
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1 or folder.exists():
        raise ModelError(f"expected an AP-MAE's folder or hub id, found no folder {source}; check the path")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, WHITENING, CARD]))
    except Exception as error:  # the hub client raises many kinds of error; whichever it is, there is no model
        raise ModelError(
            f"expected an AP-MAE at {source}: no such folder, and the hub says: {first_line(error).rstrip('.')}; "
            "check the name and the network"
        ) from None
    if not (folder / CONFIG).is_file():
        raise ModelError(f"expected an AP-MAE at {source}, the repository has no {CONFIG}; check the id")
    return folder
