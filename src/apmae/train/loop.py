"""The training loop: AdamW, cosine schedule, loss on masked patches (paper section 4, Training Setup).

Any number of processes train like one with the whole batch: the mean is over the masked pixels of all of them. Guided
training is the exception: contrast compares the patterns of one forward of one process.

Panels show the step's own batch, after the step: fixed patterns would have to be kept for resumed runs.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from math import cos, pi
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apmae.config import SQUARE, TrainConfig, parse
from apmae.errors import TrainingError
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.progress import progress
from apmae.recipes import train_recipe
from apmae.seeding import subseed
from apmae.train import checkpoint
from apmae.train.batch import cropped, real_pixels, rows_of, step_masking
from apmae.train.launch import drawn_share, share_of
from apmae.train.metrics import METRICS, Metrics
from apmae.train.objectives import CONTRAST, DESCRIPTION, Guided, described, labels_of
from apmae.train.processes import device_of, expect_agreement, gathered, start
from apmae.train.programs import Programs
from apmae.train.source import ArraySource, PatternSource, ResumableSource, StreamSource

__all__ = ["METRICS", "fit", "learning_rate", "train"]

HARMLESS = {"checkpoint_every", "log_every", "panel_every"}
"""Settings that do not change any weight."""

Panel = Callable[[int, APMAE, Patterns], None]
"""Draws how the decoder reconstructs some patterns; gets the number of steps done, the model and the patterns."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + cos(pi * done))


def fit(
    config: TrainConfig,
    source: PatternSource,
    *,
    folder: Path | None = None,
    device: str = "cpu",
    inputs: str = "",
    accelerator: Accelerator | None = None,
    panel: Panel | None = None,
) -> APMAE:
    """Train an AP-MAE.

    With a folder, ``metrics.jsonl`` grows there and a checkpoint is replaced every ``checkpoint_every`` steps. After a
    kill, the same call resumes from it and ends with the same weights; a call with another configuration is refused.
    Several processes need a folder that all of them see.

    Args:
        config: model, steps, optimizer.
        source: this process's share of the patterns of each step. A ``ResumableSource`` resumes where the checkpoint
            left it, and its counts are in the log.
        folder: where checkpoints go; None keeps none.
        device: where to train.
        inputs: fingerprint of what the source reads, if the caller knows it; kept in the checkpoint.
        accelerator: from ``train.processes.start``; needed for several processes or a tracker.
        panel: called every ``panel_every`` steps and after the last, in the first process.

    Returns:
        The trained model, with the running average of its weights if ``ema`` is set, in evaluation mode.

    Raises:
        ArtifactError: if the folder's checkpoint is damaged, or has another configuration or other inputs.
        ConfigError: if the batch cannot be divided among processes and forwards.
        TrainingError: if the loss or its gradient is not finite (the message names the step and the batch's patterns;
            weights and checkpoint stay as they were before that step), or if the processes were started differently.
    """
    accelerator = accelerator or start(device)
    device = device_of(accelerator, device)
    share_of(config, accelerator.num_processes)
    mae = APMAE(config.model, seed=config.seed).to(device).train()
    whole: APMAE | Guided = Guided(mae, seed=config.seed).to(device) if config.objective == "guided" else mae
    optimizer = _optimizer(whole, config)
    programs = _programs(config, accelerator)
    average = AveragedModel(mae, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    trained = mae if average is None else cast(APMAE, average.module)
    run = config.model_dump(mode="json", exclude=HARMLESS)
    run |= {**run.pop("model"), "inputs": inputs, "processes": accelerator.num_processes}
    expect_agreement(accelerator, run)
    kept = checkpoint.State(whole, optimizer, average)
    first, states = checkpoint.load(folder, kept, run) if folder else (0, [])
    expect_agreement(accelerator, {"steps done": first})
    resumable = source if isinstance(source, ResumableSource) else None
    if resumable and states:
        resumable.restore(states[accelerator.process_index])
    # Compiled and parallel modules share their parameters with the plain model, which is what checkpoints keep.
    model = cast(nn.Module, torch.compile(whole)) if config.compile else whole
    if accelerator.num_processes > 1:
        model = accelerator.prepare_model(model, device_placement=False)
    real = mae.real.sum(1).cpu()
    metrics = Metrics(folder if accelerator.is_main_process else None, accelerator, first, run)
    bar = (
        progress("train", config.steps, done=first, unit="steps")
        if accelerator.is_main_process
        else nullcontext(_no_bar)
    )
    with bar as advance:
        for step in range(first, config.steps):
            patterns = source.batch(step)
            if programs is not None:
                patterns = _joined(patterns.without_texts(), programs.batch(step), config.accumulate)
            lr = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            losses, norm = _step(model, mae, optimizer, patterns, real, config, step, accelerator)
            if not torch.isfinite(norm + losses[0]):
                what = "gradient" if torch.isfinite(losses[0]) else "loss"
                seen = gathered(accelerator, _not_finite(what, step, patterns, lr, folder, config))
                # A process with broken patterns knows the cause.
                raise TrainingError(next((message for broken, message in seen if broken), seen[0][1]))
            optimizer.step()
            if average is not None:
                average.update_parameters(mae)
            last = step + 1 == config.steps
            if step % config.log_every == 0 or last:
                line = metrics.log(step, losses, lr, norm, resumable.counts() if resumable else {})
                epoch = f", epoch {line['epoch']}" if resumable else ""
                advance(0, note=f"loss {line['loss']:.5f}{epoch}")
            advance()
            if panel and accelerator.is_main_process and ((step + 1) % config.panel_every == 0 or last):
                panel(step + 1, trained, patterns)
            if folder and ((step + 1) % config.checkpoint_every == 0 or last):
                states = gathered(accelerator, dict(resumable.state()) if resumable else {})
                if accelerator.is_main_process:
                    checkpoint.save(folder, step + 1, kept, run, states)
    accelerator.wait_for_everyone()
    return trained.eval()


def _step(
    model: nn.Module,
    mae: APMAE,
    optimizer: torch.optim.Optimizer,
    patterns: Patterns,
    real: torch.Tensor,
    config: TrainConfig,
    step: int,
    accelerator: Accelerator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of one batch, over all processes and forwards; ``real`` is the number of real pixels of each patch.

    Returns:
        ``metrics.LOSSES`` of this process's part, weighted so that the sums over all processes are those of the batch;
        and the norm of the gradient.
    """
    processes, device = accelerator.num_processes, mae.cls.device
    count = len(patterns) * processes
    if processes > 1 and count != config.batch_size:
        raise TrainingError(
            f"expected {config.batch_size // processes} patterns from each of {processes} processes for step {step}, "
            f"got {len(patterns)} in process {accelerator.process_index}; give every process its own share of the batch"
        )
    begin = accelerator.process_index * len(patterns)
    patterns = cropped(patterns, config, step, first=begin, count=count)
    masking = step_masking(config, count, step)
    pixels = real_pixels(real, masking)
    guided = config.objective == "guided"
    losses = torch.zeros(4 if guided else 2, device=device)
    labels = wanted = torch.empty(0)
    if guided:
        labels = torch.from_numpy(labels_of(patterns, heads=config.head_labels)).to(device)
        wanted = described(patterns).to(device)
    optimizer.zero_grad(set_to_none=True)
    parts = torch.arange(len(patterns)).chunk(config.accumulate)
    for number, rows in enumerate(parts):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        everywhere = slice(begin + some.start, begin + some.stop)
        # Masked patches have different numbers of real pixels, so the means of the parts must be weighted.
        weight = float(pixels[everywhere].sum() / pixels.sum())
        with accelerator.no_sync(model) if number + 1 < len(parts) else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                own = patterns if len(parts) == 1 else patterns[some]
                seen = mae.scale(own), rows_of(masking, everywhere, str(device))
                result = model(*seen, labels[some], wanted[some]) if guided else model(*seen)
            share = len(rows) / count
            found = result.reconstruction if guided else result
            terms = [found.loss * weight, found.published_loss.detach() * share]
            total = terms[0]
            if guided:
                terms += [result.contrast * share, result.description * share]
                total = total + CONTRAST * terms[2] + DESCRIPTION * terms[3]
            (total * processes).backward()  # parallel training averages gradients over the processes
        losses += torch.stack(terms).detach()
    trained = list(model.parameters())
    if config.clip_norm is None:
        return losses, nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    return losses, nn.utils.clip_grad_norm_(trained, config.clip_norm)


def _programs(config: TrainConfig, accelerator: Accelerator) -> Programs | None:
    """What the grammar adds to this process's part of a batch; None if training is not guided."""
    if config.objective != "guided":
        return None
    processes, number = accelerator.num_processes, accelerator.process_index
    count = share_of(config, processes) - drawn_share(config, processes)
    seed = config.seed if processes == 1 else subseed(config.seed, "process", number)
    return Programs(count, size=config.model.pattern_size, seed=seed, causal=config.model.causal) if count else None


def _joined(drawn: Patterns, made: Patterns, parts: int) -> Patterns:
    """A batch in which each forward has its share of both, in the drawn ones' patches."""
    made, total = made.repacked(drawn.patch), len(drawn) + len(made)
    pieces, drawn_before, made_before = [], 0, 0
    for rows in torch.arange(total).chunk(parts):
        end = int(rows[-1]) + 1
        drawn_end = round(end * len(drawn) / total)
        pieces += [drawn[drawn_before:drawn_end], made[made_before : end - drawn_end]]
        drawn_before, made_before = drawn_end, end - drawn_end
    return Patterns.concatenate(pieces)


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
        patterns: patterns of at most the recipe's size, or an iterable of them, which is read once. If patterns in
            memory are smaller than the recipe's, the model gets their size, with the same number of patches; if they
            are square, all patches of the grid, and nothing is cropped.
        recipe: a name from ``recipes.RECIPES`` or a whole configuration.
        steps: optimizer steps; None takes the recipe's.
        seed: decides initialisation, masks and order; None takes the recipe's, which is 0 for named recipes.
        folder: where to keep checkpoints; the same call resumes from them.
        device: where to train.

    Raises:
        ArtifactError: if the folder holds another run's checkpoint.
        CaptureError: if the patterns are longer than the model's size.
        ConfigError: if the recipe is unknown or ``steps`` is not positive.
        TrainingError: if the loss is not finite or the stream ends early.
    """
    config = train_recipe(recipe) if isinstance(recipe, str) else recipe
    changed = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    config = parse(TrainConfig, {**config.model_dump(), **changed}, "train")
    folder = Path(folder) if folder else None
    accelerator = start(device)
    inputs = ""
    if isinstance(patterns, Patterns):
        if patterns.size < config.model.pattern_size:
            patch = -(-patterns.size // config.model.grid_size)
            shape = {"pattern_size": patch * config.model.grid_size, "patch_size": patch}
            config = config.model_copy(update={"model": config.model.model_copy(update=shape)})
        if not patterns.causal:
            config = parse(TrainConfig, config.changed(SQUARE), "train")
        number, processes = accelerator.process_index, accelerator.num_processes
        source: PatternSource = ArraySource(
            patterns,
            drawn_share(config, processes) * processes,
            config.seed,
            process=number,
            processes=processes,
            pairs=config.objective == "guided",
        )
        inputs = _fingerprint(patterns) if folder else ""
    elif accelerator.num_processes > 1:
        raise TrainingError(
            "expected patterns in memory with several processes, got a stream, which cannot be shared among them"
        )
    else:
        source = StreamSource(patterns, drawn_share(config, 1))
    return fit(config, source, folder=folder, device=device, inputs=inputs, accelerator=accelerator)


def _fingerprint(patterns: Patterns) -> str:
    """SHA-256 of the patterns' pixels."""
    pixels = patterns.log_patches.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, as in ViTMAE's own code."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _not_finite(
    what: str, step: int, patterns: Patterns, lr: float, folder: Path | None, config: TrainConfig
) -> tuple[int, str]:
    """How many of the batch's patterns are not finite themselves, and the error message."""
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
    return len(broken), (
        f"the {what} is not finite at step {step} (learning rate {lr:.3g}), batch of {len(patterns)} patterns "
        f"({', '.join(which)}{', ...' if len(named) > 3 else ''}), {cure}{kept}"
    )


def _no_bar(amount: int = 1, *, note: str = "", total: int | None = None) -> None:
    """Advances nothing: only the first process shows a bar."""
