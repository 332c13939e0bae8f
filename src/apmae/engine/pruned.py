"""Saving a model without heads: its weights are loaded again and compared with the edit before the folder is there."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from apmae.ablation import Windows, batches
from apmae.analyze.effects import Head, Prompts, cells
from apmae.analyze.jackknife import ratio, weighted
from apmae.analyze.pruning import even_choice, order_of
from apmae.artifacts import fingerprint, manifest_path, read_manifest, read_tables, write_error, write_json
from apmae.config import LMConfig, PruneConfig, parse
from apmae.engine.ablation import halved, read_means
from apmae.engine.prompts import load_prompts
from apmae.engine.pruning_checks import PRUNED_FILE, Saving, expect_savable
from apmae.engine.stages import decisive, opened
from apmae.errors import ArtifactError, ConfigError
from apmae.lm.language_model import LM
from apmae.lm.load import load
from apmae.lm.pruned import PrunedModel, head_groups, pruned_model
from apmae.lm.removal import Removal, Reply, replies_under
from apmae.progress import progress
from apmae.prompts.fim import Window
from apmae.report.pruned_card import CARD_FILE, card_of
from apmae.schema import MEANS_FILE
from apmae.study.pruning import Pruning, read_pruning

_COMPARED = 8
"""Prompts on which the saved model's log-probabilities are compared with the edit's."""
_TIMED = 12
"""Forwards of each model that are timed, in turn."""
_LIMITS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}
"""Largest difference of a log-probability between the saved model and the edit, in nats, by the weights' precision.
Both compute in float32; what differs is how biases were rounded."""


class _Compared(NamedTuple):
    """The saved model beside the edit."""

    difference: float
    answers: int


def save_pruned(
    lm: LM | LMConfig,
    prompts_path: Path,
    out: Path,
    saving: Saving,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model without heads, as transformers loads it; measure it, and time it beside the original.

    Args:
        lm: the model of the prune stage.
        prompts_path: its prompts.
        out: its folder.
        saving: how many heads go, by which ranking, and where to.
        overwrite: replace an earlier pruned model.

    Returns:
        What ``pruning.json`` in the folder says.

    Raises:
        ArtifactError: if the folder holds something, the stage is unfinished or of another model or prompts, or the
            saved model does not do what the edit does.
        CaptureError: if heads cannot be removed from this model's weights.
        ConfigError: if there is no such ranking or number of heads.
    """
    manifest, made = read_manifest(out, "prune"), read_pruning(out)
    settings = {name: manifest.config[name] for name in PruneConfig.model_fields}
    config = parse(PruneConfig, settings, str(manifest_path(out)))
    expect_savable(saving, config, out, overwrite=overwrite)
    prompts = load_prompts(prompts_path)
    lm = opened(lm)
    given = {"lm": lm.fingerprint, "prompts": fingerprint(prompts_path)}
    other = [name for name, value in given.items() if manifest.inputs.get(name) != value]
    if decisive(config, lm) != manifest.config:
        other.append("precision, windows or outcome rule")
    if other:
        raise ArtifactError(
            f"expected tables of this model and these prompts in {out}, they have another {' and '.join(other)}; "
            "run apmae prune on it first"
        )
    by = made.rankings[0] if saving.by is None else saving.by
    heads = _chosen(lm, made, saving, by)
    means = read_means(out / MEANS_FILE) if config.mode == "mean" else None
    pruned = pruned_model(lm, heads, means)
    windows, split = halved(lm, prompts, config)
    folder = saving.folder
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        _write(lm, pruned, temporary)
        record = _looked_at(lm, pruned, heads, means, windows, split, temporary, config, out)
        record |= {"ranking": by, "even": saving.even, "original": {"name": lm.name, "fingerprint": lm.fingerprint}}
        record |= {"heads": [list(head) for head in heads], "of": sum(lm.heads.values()), "apmae": version("apmae")}
        record |= {"prompts": manifest.inputs["prompts"], "seed": config.seed}
        write_json(temporary / PRUNED_FILE, record)
        (temporary / CARD_FILE).write_text(card_of(record))
        _put(temporary, folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _chosen(lm: LM, made: Pruning, saving: Saving, by: str) -> list[Head]:
    """The heads that go."""
    order = order_of(made.ranked, by)
    if not order:
        raise ConfigError(f"expected --by one of the rankings {', '.join(made.rankings)}, got {by}")
    if saving.remove >= len(order):
        raise ConfigError(f"expected --remove of less than all {len(order)} heads, got {saving.remove}")
    if not saving.even:
        return sorted(order[: saving.remove])
    less, more = even_choice(order, lm.heads, head_groups(lm), saving.remove)
    if len(less) == saving.remove:
        return less
    near = " or ".join(str(len(own)) for own in (less, more) if own) or "none"
    raise ConfigError(
        f"expected --remove of a number of heads that is whole key-value groups, as many in each layer, got "
        f"{saving.remove}; the nearest: {near}. Or leave out --even: heads are then zeroed"
    )


def _write(lm: LM, pruned: PrunedModel, folder: Path) -> None:
    folder.mkdir(parents=True)
    pruned.model.save_pretrained(folder)
    if lm.tokenizer is not None:
        lm.tokenizer.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for file in folder.glob("*.safetensors"):  # which safetensors makes readable by their owner only
        file.chmod(mode)


def _looked_at(
    lm: LM,
    pruned: PrunedModel,
    heads: Sequence[Head],
    means: Mapping[Head, Any] | None,
    windows: Windows,
    split: Prompts,
    folder: Path,
    config: PruneConfig,
    out: Path,
) -> dict[str, Any]:
    """The folder's model beside the edit and the original: logits, accuracy on the measuring half, time and size."""
    saved = load(lm.config.model_copy(update={"source": str(folder)}), check=False)
    removal = Removal("zero") if pruned.mode == "zero" else Removal("mean", means=dict(means or {}))
    numbers = split.measuring.tolist()
    seen = windows.of(numbers[:_COMPARED])
    compared = _compare(
        replies_under(_exactly(saved), seen), replies_under(_exactly(lm), seen, removal.edits(heads, seen, [], []))
    )
    limit = _LIMITS[lm.config.dtype]
    if not compared.difference <= limit:
        raise ArtifactError(
            f"expected the saved model to do what the edit does, log-probabilities differ by {compared.difference:.2g} "
            f"nats (limit {limit:g}); nothing was saved; remove these heads by apmae.edit"
        )
    correct = []
    with progress("prune saved model", len(numbers), unit="prompts") as advance:
        for batch in batches(windows, numbers, config.batch):
            correct += [reply.answer.correct for reply in replies_under(saved, batch.windows)]
            advance(len(batch.numbers))
    before = read_tables(out, "prune", "unedited")["correct"].to_numpy()[numbers].astype(np.float64)
    after, group = np.array(correct, np.float64)[:, None], split.group[numbers]
    return {
        "mode": pruned.mode,
        "taken_out": pruned.zeroed_because is None,
        "zeroed_because": pruned.zeroed_because,
        "biases_added": pruned.biased,
        "no_mean_because": pruned.no_mean_because,
        "compared": {"prompts": len(seen), **compared._asdict()},
        "accuracy": {
            "original": float(before.mean()),
            **cells("pruned", weighted(after, group)),
            **cells("kept", ratio(after, before, group)),
            "prompts": len(numbers),
            "groups_of_files": len(set(group.tolist())),
        },
        "size": {"original": _size(lm), "pruned": _size(saved)},
        "seconds_per_forward": _times(lm, saved, seen[:4]),
    }


def _exactly(lm: LM) -> LM:
    """The model computing in float32: rounding in a half precision moves log-probabilities by tenths of a nat."""
    if lm.model.dtype == torch.float32:
        return lm
    return replace(lm, model=deepcopy(lm.model).float())


def _compare(saved: Sequence[Reply], edited: Sequence[Reply]) -> _Compared:
    """Largest difference in log-probability of the expected token, in nats, and how many answers are the same."""
    pairs = list(zip(saved, edited, strict=True))
    difference = max(abs(one.log_probability - other.log_probability) for one, other in pairs)
    return _Compared(difference, sum(one.answer.predicted_id == other.answer.predicted_id for one, other in pairs))


def _size(lm: LM) -> dict[str, int]:
    """Parameters, and their bytes."""
    own = list(lm.model.parameters())
    return {"parameters": sum(w.numel() for w in own), "bytes": sum(w.numel() * w.element_size() for w in own)}


@torch.no_grad()
def _times(lm: LM, saved: LM, windows: Sequence[Window]) -> dict[str, float]:
    """Median seconds of a forward of a few prompts, the two models in turn, and the median of their ratio."""
    found: dict[str, list[float]] = {"original": [], "pruned": []}
    for turn in range(_TIMED + 1):
        for name, model in (("original", lm), ("pruned", saved))[:: 1 if turn % 2 else -1]:
            begun = time.perf_counter()
            replies_under(model, windows)
            if turn:  # the first of each warms up
                found[name].append(time.perf_counter() - begun)
    ratios = [after / before for after, before in zip(found["pruned"], found["original"], strict=True)]
    return {
        **{name: median(own) for name, own in found.items()},
        "ratio": median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "prompts": float(len(windows)),
    }


def _put(temporary: Path, folder: Path) -> None:
    """Move a whole folder to its place; an earlier pruned model goes when the new one is there."""
    if not folder.exists():
        temporary.rename(folder)
        return
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside)


def saved_lines(record: Mapping[str, Any], folder: Path) -> list[str]:
    """What was saved, in a few lines."""
    accuracy, size, seconds = (record[name] for name in ("accuracy", "size", "seconds_per_forward"))
    how = "taken out" if record["taken_out"] else f"zeroed ({record['zeroed_because']})"
    kept = "" if accuracy["kept"] is None else f", {accuracy['kept']:.1%} of it kept"
    return [
        f"model without {len(record['heads'])} of {record['of']} heads ({record['ranking']}, {record['mode']}) in "
        f"{folder}: {how}",
        *([f"no mean in their place: {record['no_mean_because']}"] if record["no_mean_because"] else []),
        f"accuracy {accuracy['pruned']:.3f} on {accuracy['prompts']} measuring prompts, {accuracy['original']:.3f} "
        f"with all heads{kept}",
        f"{size['pruned']['parameters']:,} of {size['original']['parameters']:,} parameters; a forward takes "
        f"{seconds['ratio']:.2f} of the original's time ({seconds['ratio_least']:.2f} to {seconds['ratio_most']:.2f})",
    ]
