"""The predictor of a study on disk: JSON and safetensors, with what was asked to make it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from apmae.analyze.fitting import Choice
from apmae.analyze.predictor import Predictor, predictor_of, record_of
from apmae.artifacts import Manifest, manifest_path, read_json, read_manifest
from apmae.errors import ArtifactError
from apmae.schema import PREDICTOR_FILES


class Origin(NamedTuple):
    """Whose answers a predictor knows, and how they were asked for."""

    lm: str
    """Name of the language model."""
    fingerprint: str
    """SHA-256 of the language model."""
    dtype: str
    infill: str
    """Template of the windows, or "none"."""
    outcome_rule: str
    length: int
    """Most tokens of a window."""
    prompts: int
    files: int
    drawn: str
    """How prompts were chosen by outcome: "balanced", "any", "correct" or "unknown"."""


def origin_of(asked: Manifest, prompts: int, files: int, drawn: str) -> Origin:
    """What was asked, and of whom, by the manifest of the stage that asked it."""
    config, counts = asked.config, asked.counts
    return Origin(
        lm=str(counts.get("lm", "unknown")),
        fingerprint=str(asked.inputs.get("lm", "")),
        dtype=str(config.get("dtype", "unknown")),
        infill=str(config.get("infill", "none")),
        outcome_rule=str(config.get("outcome_rule", "text")),
        length=int(counts.get("context", counts.get("pattern_size", 256))),
        prompts=prompts,
        files=files,
        drawn=drawn,
    )


def predictor_files(predictor: Predictor, choice: Choice, origin: Origin) -> dict[str, bytes]:
    """The content of a predictor's files, by name."""
    record, arrays = record_of(predictor)
    chosen = {"model": choice.model, "setting": str(choice.setting), "loss": choice.loss}
    text = json.dumps({"origin": origin._asdict(), "chosen": chosen, **record}, indent=2, ensure_ascii=True)
    return dict(zip(PREDICTOR_FILES, (text.encode() + b"\n", save(arrays)), strict=True))


def read_predictor(folder: Path) -> tuple[Predictor, Origin]:
    """The predictor of a study.

    Args:
        folder: what the predict stage made.

    Raises:
        ArtifactError: if it was not made, is unfinished or damaged.
    """
    if not manifest_path(folder).is_file():
        raise ArtifactError(
            f"expected a saved predictor in {folder}, found none; run apmae predict {folder.parent} first"
        )
    read_manifest(folder, "predict")
    settings, weights = (folder / name for name in PREDICTOR_FILES)
    if not settings.is_file():
        raise ArtifactError(
            f"expected a saved predictor in {folder}, it was made by an earlier version, which saved none; run apmae "
            f"predict {folder.parent} with --overwrite"
        )
    try:
        record: dict[str, Any] = read_json(settings)
        return predictor_of(record, load_file(weights)), Origin(**record["origin"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"expected a whole predictor in {folder}, it is damaged ({type(error).__name__}: {error}); run apmae "
            f"predict {folder.parent} again with --overwrite"
        ) from None
