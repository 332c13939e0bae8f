"""The training loop: AdamW, cosine, loss on masked patches (paper section 4, Training Setup)."""

import hashlib
import json
from collections.abc import Iterable
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from torch import nn

from apmae.artifacts import replacing
from apmae.config import TrainConfig, parse
from apmae.errors import TrainingError
from apmae.model.mae import APMAE
from apmae.model.masking import Masking, random_masking
from apmae.patterns.patterns import Patterns
from apmae.progress import progress
from apmae.recipes import train_recipe
from apmae.seeding import generator, subseed
from apmae.train import checkpoint
from apmae.train.source import ArraySource, ResumableSource, Source, StreamSource

METRICS = "metrics.jsonl"
_SHORTEST_CROP = 8
_HARMLESS = {"checkpoint_every", "log_every"}
"""Settings that change no weight."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + cos(pi * done))


def fit(
    config: TrainConfig, source: Source, *, folder: Path | None = None, device: str = "cpu", inputs: str = ""
) -> APMAE:
    """Train an AP-MAE.

    With a folder, ``metrics.jsonl`` grows there and a checkpoint is replaced every ``checkpoint_every`` steps; the same
    call after a kill goes on from it and ends with the same weights. A call with another configuration is refused.

    Args:
        config: model, steps, optimizer.
        source: patterns by step; a ``ResumableSource`` goes on where the checkpoint left it, and is counted in the log.
        folder: where checkpoints go; None keeps none.
        device: where to train.
        inputs: fingerprint of what the source reads, where the caller knows it; kept in the checkpoint.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        ArtifactError: if the folder's checkpoint is damaged, or of another configuration or other inputs.
        TrainingError: if the loss or its gradient is not finite; names the step and the batch's patterns. Weights and
            checkpoint stay as they were before that step.
    """
    model = APMAE(config.model, seed=config.seed).to(device).train()
    optimizer = _optimizer(model, config)
    run = config.model_dump(mode="json", exclude=_HARMLESS)
    run |= {**run.pop("model"), "inputs": inputs}
    first, state = checkpoint.load(folder, model, optimizer, run) if folder else (0, {})
    resumable = source if isinstance(source, ResumableSource) else None
    if resumable and state:
        resumable.restore(state)
    lines = _metrics_until(folder, first) if folder else []
    with progress("train", config.steps, done=first) as advance:
        for step in range(first, config.steps):
            patterns = source.batch(step)
            lr = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            result = model(model.scale(_cropped(patterns, config, step)), _masking(config, len(patterns), step, device))
            result.loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or float("inf"))
            if not torch.isfinite(norm + result.loss):
                _write_metrics(folder, lines)
                what = "gradient" if torch.isfinite(result.loss) else "loss"
                raise TrainingError(_not_finite(what, step, patterns, lr, folder, config))
            optimizer.step()
            if step % config.log_every == 0 or step + 1 == config.steps:
                line = {
                    "step": step,
                    "loss": round(result.loss.item(), 8),
                    "published_loss": round(result.published_loss.item(), 8),
                    "lr": lr,
                    "grad_norm": round(norm.item(), 6),
                    **(resumable.counts() if resumable else {}),
                }
                lines.append(json.dumps(line))
                epoch = f", epoch {line['epoch']}" if resumable else ""
                advance(0, note=f"loss {result.loss.item():.5f}{epoch}")
            advance()
            if folder and ((step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps):
                _write_metrics(folder, lines)
                checkpoint.save(folder, step + 1, model, optimizer, run, resumable.state() if resumable else None)
    return model.eval()


def train(
    patterns: Patterns | Iterable[Patterns],
    recipe: str | TrainConfig = "nano",
    *,
    steps: int | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    device: str = "cpu",
) -> APMAE:
    """Train an AP-MAE on patterns in memory, or on a stream of them.

    Args:
        patterns: patterns of at most the recipe's size; or an iterable of them, read once. In-memory patterns shorter
            than the recipe's get a model of their own size, cut into as many patches.
        recipe: a name from ``recipes.TRAIN`` or a whole configuration.
        steps: optimizer steps; None takes the recipe's.
        seed: decides initialisation, masks and order; None takes the recipe's, 0 for the named ones.
        folder: where to keep checkpoints; the same call goes on from them.
        device: where to train.

    Raises:
        ArtifactError: if the folder holds a checkpoint of another run.
        CaptureError: if the patterns are longer than the model's size.
        ConfigError: if the recipe is unknown or the steps are none.
        TrainingError: if the loss is not finite or the stream ends early.
    """
    config = train_recipe(recipe) if isinstance(recipe, str) else recipe
    changed = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    config = parse(TrainConfig, {**config.model_dump(), **changed}, "train")
    folder = Path(folder) if folder else None
    inputs = ""
    if isinstance(patterns, Patterns):
        if patterns.size < config.model.pattern_size:
            patch = -(-patterns.size // config.model.grid_size)
            shape = {"pattern_size": patch * config.model.grid_size, "patch_size": patch}
            config = config.model_copy(update={"model": config.model.model_copy(update=shape)})
        source: Source = ArraySource(patterns, config.batch_size, config.seed)
        inputs = _fingerprint(patterns) if folder else ""
    else:
        source = StreamSource(patterns, config.batch_size)
    return fit(config, source, folder=folder, device=device, inputs=inputs)


def _fingerprint(patterns: Patterns) -> str:
    """SHA-256 of the patterns' pixels."""
    pixels = patterns.log_patches.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


def _optimizer(model: APMAE, config: TrainConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only, as ViTMAE's own code does."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _masking(config: TrainConfig, patterns: int, step: int, device: str) -> Masking:
    draw = torch.Generator().manual_seed(subseed(config.seed, "mask", step))
    masking = random_masking(patterns, config.model.num_patches, config.model.num_masked, draw)
    return Masking(*(index.to(device) for index in masking))


def _cropped(patterns: Patterns, config: TrainConfig, step: int) -> Patterns:
    """Empty the rows after a random token in a share of the patterns.

    In a causal model the first t rows are exactly the pattern of the first t tokens, so these are true short prompts.
    """
    if not config.crop:
        return patterns
    draw = generator(config.seed, "crop", step)
    chosen = draw.random(len(patterns)) < config.crop
    lengths = np.where(
        chosen, draw.integers(min(_SHORTEST_CROP, patterns.size), patterns.size + 1, len(patterns)), patterns.size
    )
    return patterns.cropped(lengths)


def _metrics_until(folder: Path, step: int) -> list[str]:
    path = folder / METRICS
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line for line in lines if json.loads(line)["step"] < step]


def _write_metrics(folder: Path | None, lines: list[str]) -> None:
    if folder:
        with replacing(folder / METRICS) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())


def _not_finite(what: str, step: int, patterns: Patterns, lr: float, folder: Path | None, config: TrainConfig) -> str:
    logs = patterns.log_patches.flatten(1)
    broken = patterns[(~(logs.isfinite() | logs.isneginf())).any(1).cpu().numpy()]
    named = broken if len(broken) else patterns
    which = [
        f"prompt {prompt} head {layer}.{head}"
        for prompt, layer, head in zip(named.prompt[:3], named.layer[:3], named.head[:3], strict=True)
    ]
    kept = f"; the checkpoint in {folder} is kept" if folder and (folder / checkpoint.NAME).is_file() else ""
    cure = (
        f"{len(broken)} of them are not finite themselves: capture them again"
        if len(broken)
        else f"all finite: lower base_lr from {config.base_lr:g} or set clip_norm"
    )
    return (
        f"the {what} is not finite at step {step} (learning rate {lr:.3g}), batch of {len(patterns)} patterns "
        f"({', '.join(which)}{', ...' if len(named) > 3 else ''}), {cure}{kept}"
    )
