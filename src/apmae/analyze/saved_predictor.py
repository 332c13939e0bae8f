"""The predictor of a study on disk: JSON and safetensors, with what was asked to make it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from apmae.analyze.answers import Seen
from apmae.analyze.columns import Scale
from apmae.analyze.fitting import LOGISTIC, TREES, Choice
from apmae.analyze.forest import Forest
from apmae.analyze.prediction import BASELINES
from apmae.analyze.predictor import Predictor
from apmae.analyze.recalibration import Recalibration
from apmae.analyze.risk import Answering
from apmae.analyze.sparse_logistic import Line
from apmae.analyze.surface import TaskTerms, TokenCounts
from apmae.artifacts import Manifest, manifest_path, read_json, read_manifest
from apmae.errors import ArtifactError
from apmae.schema import PREDICTOR_FILES

FORMAT, VERSION = "apmae.predictor", 2
"""What the JSON says of itself. Version 2 has trees; version 1 had no format and logistic regression alone."""
_NODES = ("root", "feature", "threshold", "left", "right", "missing_left", "value")
"""Arrays of trees, as in :class:`Forest`."""


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
    chosen = {"setting": str(choice.setting), "loss": choice.loss}
    about = {"format": FORMAT, "version": VERSION, "origin": origin._asdict(), "chosen": chosen}
    text = json.dumps({**about, **record}, indent=2, ensure_ascii=True)
    return dict(zip(PREDICTOR_FILES, (text.encode() + b"\n", save(arrays)), strict=True))


def read_predictor(folder: Path) -> tuple[Predictor, Origin]:
    """The predictor of a study.

    Args:
        folder: what the predict stage made.

    Raises:
        ArtifactError: if it was not made, is unfinished or damaged, or was made by another version.
    """
    if not manifest_path(folder).is_file():
        raise ArtifactError(
            f"expected a saved predictor in {folder}, found none; run apmae predict {folder.parent} first"
        )
    read_manifest(folder, "predict")
    settings, weights = (folder / name for name in PREDICTOR_FILES)
    again = f"run apmae predict {folder.parent} with --overwrite"
    if not settings.is_file():
        raise ArtifactError(
            f"expected a saved predictor in {folder}, it was made by an earlier version, which saved none; {again}"
        )
    record: Any = read_json(settings)
    _expect_version(record, settings, again)
    try:
        predictor, origin = predictor_of(record, load_file(weights)), Origin(**record["origin"])
        flaw = _flaw(predictor)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}", again) from None
    if flaw is not None:
        raise _damaged(folder, flaw, again)
    return predictor, origin


def _damaged(folder: Path, flaw: str, again: str) -> ArtifactError:
    return ArtifactError(f"expected a whole predictor in {folder}, it is damaged ({flaw}); {again}")


def record_of(predictor: Predictor) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """A predictor as what JSON and safetensors hold; :func:`predictor_of` reads it back."""
    other, model = predictor.other_tasks, predictor.model
    record = {
        "model": TREES["histogram"] if isinstance(model, Forest) else LOGISTIC,
        "features": predictor.features,
        "tasks": list(predictor.tasks),
        "recalibration": predictor.recalibration.how,
        "share": predictor.share,
        "natural_rate": predictor.natural,
        "bounds": [one._asdict() for one in predictor.bounds],
        "bounds_other_tasks": [one._asdict() for one in predictor.other_bounds],
        "tokens": list(predictor.tokens),
        "vocabulary": sorted(predictor.vocabulary),
    }
    arrays = {
        "terms.mean": predictor.terms.mean,
        "terms.spread": predictor.terms.spread,
        "scale.kept": predictor.scale.kept,
        "scale.mean": predictor.scale.mean,
        "scale.spread": predictor.scale.spread,
        "recalibration.at": predictor.recalibration.at,
        "recalibration.probability": predictor.recalibration.probability,
        "other_tasks.at": np.zeros(0) if other is None else other.at,
        "tokens.seen": predictor.counts.seen.astype(np.float64),
        "tokens.right": predictor.counts.right,
        "tokens.rate": np.array([predictor.counts.rate]),
    }
    if isinstance(model, Forest):
        arrays["trees.baseline"] = np.array([model.baseline])
        arrays |= {f"trees.{name}": getattr(model, name) for name in _NODES}
    else:
        arrays |= {"line.slope": model.slope, "line.intercept": np.array([model.intercept])}
    return record, {name: np.ascontiguousarray(values) for name, values in arrays.items()}


def predictor_of(record: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> Predictor:
    """A predictor of what :func:`record_of` made.

    Raises:
        KeyError: if a part is missing.
        TypeError: if a part is something else.
        ValueError: if the model is of no known kind.
    """
    other = arrays["other_tasks.at"]
    if record["model"] == TREES["histogram"]:
        parts = {name: arrays[f"trees.{name}"] for name in _NODES}
        model = Forest(float(arrays["trees.baseline"][0]), **parts)
    elif record["model"] == LOGISTIC:
        model = Line(arrays["line.slope"], float(arrays["line.intercept"][0]))
    else:
        raise ValueError(f"a model called {record['model']}")
    return Predictor(
        features=record["features"],
        tasks=tuple(record["tasks"]),
        terms=TaskTerms(arrays["terms.mean"], arrays["terms.spread"], len(record["tasks"])),
        scale=Scale(arrays["scale.kept"], arrays["scale.mean"], arrays["scale.spread"]),
        model=model,
        recalibration=Recalibration(
            record["recalibration"], arrays["recalibration.at"], arrays["recalibration.probability"]
        ),
        other_tasks=Recalibration("platt", other, np.zeros(0)) if len(other) else None,
        tokens=tuple(record["tokens"]),
        counts=TokenCounts(arrays["tokens.seen"], arrays["tokens.right"], float(arrays["tokens.rate"][0])),
        vocabulary=frozenset(record["vocabulary"]),
        share=float(record["share"]),
        natural=record["natural_rate"],
        bounds=tuple(Answering(**one) for one in record["bounds"]),
        other_bounds=tuple(Answering(**one) for one in record["bounds_other_tasks"]),
    )


def _expect_version(record: Any, settings: Path, again: str) -> None:
    """Refuse the JSON of another version, and what is no predictor at all."""
    if not isinstance(record, dict) or record.get("format", FORMAT) != FORMAT:
        found = record.get("format") if isinstance(record, dict) else "something else"
        raise ArtifactError(f"expected a saved predictor in {settings}, found {found}; {again}")
    version = record.get("version")
    if version != VERSION:
        when = "a later" if isinstance(version, int) and version > VERSION else "an earlier"
        raise ArtifactError(
            f"expected a saved predictor of format {VERSION} in {settings}, it was made by {when} version of apmae; "
            f"{again}"
        )


def _flaw(predictor: Predictor) -> str | None:
    """What does not fit together, by shapes and values; None if a prompt can be judged."""
    scale, counts, correction = predictor.scale, predictor.counts, predictor.recalibration
    columns = int(scale.kept.sum())
    shapes = {
        "terms": (len(predictor.terms.mean), len(predictor.terms.spread)) == (4, 4),
        "scale": scale.kept.dtype == bool and len(scale.mean) == len(scale.spread) == columns,
        "tokens": len(predictor.tokens) == len(counts.seen) == len(counts.right),
        "recalibration": correction.how in ("platt", "isotonic")
        and (len(correction.at), len(correction.probability))
        == ((2, 0) if correction.how == "platt" else (max(len(correction.at), 1),) * 2),
        "features": predictor.features in BASELINES,
    }
    if wrong := [name for name, whole in shapes.items() if not whole]:
        return f"its parts for {wrong[0]} do not fit together"
    spreads = np.concatenate([predictor.terms.spread, scale.spread])
    numbers = [predictor.terms.mean, scale.mean, spreads, *counts[:2], *correction[1:], [counts.rate, predictor.share]]
    numbers.append([] if predictor.other_tasks is None else predictor.other_tasks.at)
    numbers.append([] if predictor.natural is None else [predictor.natural])
    numbers.extend(list(one) for one in (*predictor.bounds, *predictor.other_bounds))
    if isinstance(predictor.model, Line):
        numbers += [predictor.model.slope, [predictor.model.intercept]]
    elif (flaw := predictor.model.flaw(columns)) is not None:
        return flaw
    if not all(np.isfinite(np.asarray(values, np.float64)).all() for values in numbers):
        return "it has numbers that are not finite"
    rates = (counts.rate, predictor.share, 0.5 if predictor.natural is None else predictor.natural)
    if (spreads <= 0).any() or not all(0 < rate < 1 for rate in rates):
        return "it has spreads or rates that cannot be"
    return None if np.isfinite(predictor.decisions(_nothing()))[0] else "what it says of a prompt is not finite"


def _nothing() -> Seen:
    """A prompt of one token, which any whole predictor can judge."""
    half = np.array([0.5])
    return Seen(np.array([-1]), half, half, half, ("",), (("",),), np.array([[0, 1]]))
