"""Where a language model is, and whether it can be one. Torch-free: nothing heavy is imported to say so."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from apmae import bundled
from apmae.artifacts import read_json
from apmae.config import LMConfig
from apmae.errors import ArtifactError, ModelError, first_line
from apmae.prompts.sentinels import split_template

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_TOKENIZERS = ("*token*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json")


def path_of(config: LMConfig) -> str:
    """The folder of a language model, also of a bundled one, or its hub id."""
    return str(bundled.LANGUAGE_MODELS.get(config.source, config.source))


def expect_model(config: LMConfig) -> None:
    """Check a language model as far as that is possible without loading it.

    This covers its infill template, and the files of its folder or that the hub has it. For a hub model it fetches
    config.json, but no weights.

    Raises:
        ConfigError: if ``infill`` is no template.
        ModelError: if there is no such model, or its folder is incomplete.
    """
    split_template(config.infill)
    source = path_of(config)
    folder = Path(source)
    if source and folder.is_dir():
        _expect_complete(folder)
    elif not source:
        raise ModelError("expected a model folder or a hub id, got none; give one, or 'bundled'")
    elif folder.exists() or _looks_like_path(source):
        raise ModelError(f"expected a model folder or a hub id, found no folder {source}; check the path")
    else:
        _ask_hub(source)


def _expect_complete(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"expected a transformers model in {folder}, it has no {CONFIG}; check the folder")
    try:
        values = read_json(folder / CONFIG)
    except ArtifactError as error:
        raise ModelError(f"{error}, or give another folder") from None
    if not isinstance(values, dict):
        raise ModelError(
            f"expected a model's settings in {folder / CONFIG}, got a JSON {type(values).__name__}; check the file"
        )
    if not any(any(folder.glob(name)) for name in _WEIGHTS):
        raise ModelError(
            f"expected a model's weights in {folder}, found no .safetensors and no .bin file; give the complete model"
        )
    for path in _safetensors(folder):
        try:
            with safe_open(path, framework="numpy"):  # the header says how long the file should be
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(f"expected whole weights in {path}: {error}; copy or download them again") from None


def _safetensors(folder: Path) -> list[Path]:
    """The files that transformers reads; others in the folder may be of another layout."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    try:
        shards = set(read_json(folder / "model.safetensors.index.json")["weight_map"].values())
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return []  # none, or loading the model says what is wrong
    return sorted(folder / shard for shard in shards if isinstance(shard, str))


def expect_tokenizer(config: LMConfig) -> None:
    """Refuse a model's folder without any file of a tokenizer.

    Raises:
        ModelError: if there is none.
    """
    folder = Path(path_of(config))
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _TOKENIZERS):
        raise tokenizer_error(folder, "none")


def tokenizer_error(source: object, found: str) -> ModelError:
    """The error for a model without a tokenizer that prompts can use."""
    return ModelError(
        f"expected a fast tokenizer (tokenizer.json) in {source}, one that says which characters each token holds, "
        f"found {found}; add one"
    )


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    return (
        path.is_absolute()
        or source.startswith((".", "~"))
        or source.count("/") > 1
        or ("/" in source and path.parent.is_dir())
    )


def _ask_hub(name: str) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(name, CONFIG), str):
            hf_hub_download(name, CONFIG)
    except Exception as error:  # the hub client raises many kinds of error, and each means that there is no model
        raise ModelError(
            f"expected a language model at {name}: no such folder, and the hub says: {first_line(error).rstrip('.')}; "
            "check the name and the network"
        ) from None
