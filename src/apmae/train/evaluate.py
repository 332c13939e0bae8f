"""Evaluating encoders on hidden patches of a language model's patterns, one by one (paper Table 3).

Every encoder gets the same patterns with the same patches hidden. Patterns are captured, evaluated and dropped; a shard
is some consecutive prompts. Axes: n patterns, k patches.

Which patches are hidden depends only on seed, prompt, layer and head, not on batches, shards or the other encoders.
Patches hidden at a smaller ratio are also hidden at larger ones.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from apmae.artifacts import Records, Shard, write_tables
from apmae.config import EvaluateConfig
from apmae.errors import ModelError
from apmae.lm.language_model import LM
from apmae.lm.stream import Captured, capture_prompts
from apmae.model.mae import APMAE
from apmae.model.masking import Masking
from apmae.patterns.divergence import divergence, uniform_divergence
from apmae.patterns.patterns import Patterns
from apmae.patterns.scaling import INVERSES, smallest_finite
from apmae.progress import Advance
from apmae.prompts.prompt import Prompt
from apmae.schema import LOSSES
from apmae.seeding import generator

_BATCH = 128
"""Patterns that an encoder sees at a time."""


class Losses(NamedTuple):
    """How wrong an encoder's decoder is in the hidden patches of each pattern."""

    loss: Float[ndarray, " n"]
    """Mean squared error over their real pixels, in the square of the scaling's unit: what training minimises
    (``model.mae.Reconstruction``)."""
    published_loss: Float[ndarray, " n"]
    """Mean squared error over all their pixels, including the constant upper halves of diagonal patches."""
    divergence: Float[ndarray, " n"]
    """Divergence of true from predicted attention, in nats per unit of hidden mass, whatever the scaling
    (:func:`apmae.patterns.divergence.divergence`); NaN where no attention is hidden."""
    uniform_divergence: Float[ndarray, " n"]
    """Divergence of true attention from attention that is even over a row's hidden keys: what knowing nothing gives."""


def evaluate_shard(
    shard: Shard,
    *,
    lm: LM,
    encoders: Mapping[str, APMAE],
    prompts: Sequence[Prompt],
    config: EvaluateConfig,
    root: Path,
    name: str,
    measured: Callable[[Captured], Sequence[str]],
    advance: Advance | None = None,
) -> Records:
    """Write the losses of encoders on the language model's patterns of one shard's prompts.

    Args:
        shard: which prompts, and the one file for their ``schema.LOSSES``.
        lm: the language model. It runs each prompt once for every pattern size among the encoders.
        encoders: the encoders, by name.
        prompts: all prompts of the stage, in the order that numbers them.
        config: settings of capture and masks.
        root: the folder for the file.
        name: name of the language model.
        measured: gives the name of each captured pattern.
        advance: called with the prompts of each batch.

    Returns:
        The file's record.

    Raises:
        CaptureError: if an encoder's pattern size does not fit the model.
        ModelError: if an encoder predicts anything that is not finite.
    """
    tables: dict[str, list[pa.Table]] = {encoder: [] for encoder in encoders}
    for size in pattern_sizes(encoders):
        of_size = {encoder: mae for encoder, mae in encoders.items() if mae.config.pattern_size == size}
        chosen = prompts[shard.first : shard.stop]
        for captured in capture_prompts(lm, chosen, config.capture, size=size, seed=config.seed, first=shard.first):
            where = _columns(captured, measured(captured), name)
            for encoder, mae in of_size.items():
                tables[encoder].append(_table(encoder, mae, captured.patterns, where, config))
            if advance:
                advance(len(captured.prompts))
    (file,) = shard.files
    return write_tables(root, {file: pa.concat_tables([table for parts in tables.values() for table in parts])})


def pattern_sizes(encoders: Mapping[str, APMAE]) -> list[int]:
    """The different pattern sizes among encoders; each needs separate forwards."""
    return list(dict.fromkeys(mae.config.pattern_size for mae in encoders.values()))


@torch.no_grad()
def pattern_losses(mae: APMAE, patterns: Patterns, *, mask_ratio: float = 0.5, seed: int = 0) -> Losses:
    """How wrong an encoder's decoder is in hidden patches, pattern by pattern.

    An encoder with scaling ``log_normalize`` predicts shares of the pattern's smallest log. The true smallest log is
    used to turn them into probabilities.

    Args:
        mae: an encoder with its decoder.
        patterns: of at most ``pattern_size`` tokens.
        mask_ratio: share of the patches to hide, in (0, 1); at least one is hidden, and at least one is not.
        seed: for the masks (:func:`hidden`).

    Raises:
        CaptureError: as for ``APMAE.scale``.
    """
    masked = mae.config.model_copy(update={"mask_ratio": mask_ratio}).num_masked
    parts = []
    for begin in range(0, len(patterns), _BATCH):
        some = patterns[begin : begin + _BATCH]
        patches = mae.scale(some)
        masking = Masking(*(index.to(patches.device) for index in hidden(some, mae.config.num_patches, masked, seed)))
        predicted = mae(patches, masking).predicted
        error, real = mae.errors(patches, predicted, masking)
        error = error.double()
        of_real = (error * real).sum((1, 2)) / real.sum((1, 2))  # never 0: diagonal patches have real pixels too
        logs, guess, where = log_predictions(mae, some, predicted, masking)
        causal = mae.config.causal
        divergences = [divergence(logs, guess, where, causal), uniform_divergence(logs, where, causal)]
        parts.append(torch.stack([of_real, error.mean((1, 2)), *divergences]).cpu().numpy())
    return Losses(*(np.concatenate(parts, axis=1) if parts else np.zeros((len(Losses._fields), 0))))


def log_predictions(
    mae: APMAE, patterns: Patterns, predicted: Float[Tensor, "n m q"], masking: Masking
) -> tuple[Float[Tensor, "n k p p"], Float[Tensor, "n k p p"], Bool[Tensor, "n k"]]:
    """True log patches, predicted ones (0 in visible patches), and which patches are hidden.

    Args:
        mae: the encoder that predicted.
        patterns: of at most its ``pattern_size`` tokens.
        predicted: scaled pixels of the hidden patches.
        masking: which patches are hidden.
    """
    patch = mae.config.patch_size
    fitted = patterns.repacked(patch).resized(mae.config.pattern_size)
    logs = fitted.log_patches.float().to(predicted.device)
    guess = INVERSES[mae.config.scaling](predicted.unflatten(2, (patch, patch)), smallest_finite(logs))
    where = masking.masked[:, :, None, None].expand_as(guess)
    hidden = torch.zeros(logs.shape[:2], dtype=torch.bool, device=logs.device).scatter(1, masking.masked, True)
    return logs, torch.zeros_like(logs).scatter(1, where, guess), hidden


def hidden(patterns: Patterns, patches: int, masked: int, seed: int) -> Masking:
    """Which patches of each pattern are hidden: a draw that depends only on the seed and its prompt, layer and head.

    The patches of a pattern that are hidden at a smaller ratio are also hidden at a larger one.

    Args:
        patterns: n patterns.
        patches: k, patches per pattern.
        masked: how many to hide, from 1 to k-1.
        seed: decides the draw.
    """
    places = zip(patterns.prompt.tolist(), patterns.layer.tolist(), patterns.head.tolist(), strict=True)
    orders = [generator(seed, "evaluate", *place).permutation(patches) for place in places]
    order = torch.from_numpy(np.stack(orders))
    return Masking(visible=order[:, masked:], masked=order[:, :masked])


def _columns(captured: Captured, measured: Sequence[str], name: str) -> dict[str, Any]:
    """The columns that say which pattern a row belongs to."""
    patterns = captured.patterns
    per_prompt = len(patterns) // len(captured.prompts)
    return {
        "lm": [name] * len(patterns),
        "prompt": patterns.prompt.astype(np.int32),
        "layer": patterns.layer.astype(np.int16),
        "head": patterns.head.astype(np.int16),
        "task": [prompt.task for prompt in captured.prompts for _ in range(per_prompt)],
        "outcome": [answer and answer.outcome for answer in captured.answers for _ in range(per_prompt)],
        "measured": list(measured),
    }


def _table(encoder: str, mae: APMAE, patterns: Patterns, where: Mapping[str, Any], config: EvaluateConfig) -> pa.Table:
    losses = pattern_losses(mae, patterns, mask_ratio=config.mask_ratio, seed=config.seed)
    broken = np.flatnonzero(~np.isfinite(losses.loss))
    if len(broken):
        i = broken[0]
        raise ModelError(
            f"expected finite predictions of the encoder {encoder}, {len(broken)} of {len(patterns)} patterns have "
            f"none (prompt {patterns.prompt[i]} head {patterns.layer[i]}.{patterns.head[i]}); is its training finished?"
        )
    columns = {"encoder": [encoder] * len(patterns), **where}
    columns |= {name: values.astype(np.float32) for name, values in losses._asdict().items()}
    return pa.table({name: pa.array(columns[name], from_pandas=True) for name in LOSSES.names}, schema=LOSSES)
