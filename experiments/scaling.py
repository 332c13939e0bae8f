"""What does scaling gain (the paper's ablation, Figures 3 to 5)? An encoder per scaling; same patterns, masks, steps.

    apmae prompts SOURCE --tasks random --per-task 800 --outcome correct --set split=train --out train.parquet
    apmae prompts SOURCE --tasks random --per-task 100 --outcome correct --set split=held_out --out held-out.parquet
    python experiments/scaling.py train.parquet held-out.parquet --out FOLDER [--steps 500] [--set encoder_dim=160]

Losses of different scalings cannot be compared. Writes one line of JSON per encoder, measured on held-out patterns: the
loss; the divergence of hidden attention in nats, beside that of a uniform prediction; the same with predictions cut at
higher probabilities, because small raw predictions are noise; the mean error of log p, where all hidden entries count
the same; how well 5 neighbours in embedding space tell the head that made a pattern, and the family of planted
patterns. Run again after a kill, it resumes.
"""

import argparse
import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from apmae.cli.options import settings
from apmae.config import CaptureConfig, TrainConfig, parse
from apmae.engine.prompts import load_prompts
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.model.masking import Masking
from apmae.patterns import geometry
from apmae.patterns.divergence import SMALLEST, divergence
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.patterns.scaling import SCALINGS
from apmae.recipes import train_settings
from apmae.report.figures import png
from apmae.train.evaluate import hidden, log_predictions, pattern_losses
from apmae.train.loop import fit
from apmae.train.source import ArraySource

FLOORS = (1e-2, 1e-3, 1e-4, 1e-5)
DARKEST = -4.0
"""log10 p at which the logarithmic colours begin."""


PAPERS: dict[str, Any] = {"objective": "mae", "pixels": "log", "batch_size": 48, "base_lr": 1e-3, "warmup_steps": 100}
"""Unguided, as in the paper, whatever the recipe does; and how the encoders of the study were trained."""


class Guess(NamedTuple):
    """Log patches of patterns, true and predicted; and which are hidden."""

    logs: torch.Tensor
    predicted: torch.Tensor
    hidden: torch.Tensor


def capture(lm: LM, prompts: Path) -> Patterns:
    stream = capture_prompts(lm, load_prompts(prompts), CaptureConfig(heads=0.25), size=256)
    return Patterns.concatenate([captured.patterns for captured in stream])


@torch.no_grad()
def guess(mae: APMAE, patterns: Patterns) -> Guess:
    """Predictions as in ``pattern_losses``, with the same patches hidden."""
    masking: Masking = hidden(patterns, mae.config.num_patches, mae.config.num_masked, 0)
    return Guess(*log_predictions(mae, patterns, mae(mae.scale(patterns), masking).predicted, masking))


def measure(mae: APMAE, held_out: Patterns, heads: int, steps: int) -> dict[str, float | str]:
    found = pattern_losses(mae, held_out)
    cut: dict[float, list[float]] = {floor: [] for floor in FLOORS}
    errors = []
    for begin in range(0, len(held_out), 128):
        logs, predicted, where = guess(mae, held_out[begin : begin + 128])
        for floor in FLOORS:
            cut[floor] += divergence(logs, predicted.clamp(min=math.log(floor)), where).tolist()
        asked = where[:, :, None, None] & logs.isfinite()
        low = math.log(SMALLEST)
        errors += (predicted.clamp(low, 0) - logs.clamp(low, 0))[asked].abs().double().split(100_000)
    truth, families = planted(40)
    mean = float(found.divergence.mean())
    return {
        "scaling": mae.config.scaling,
        "steps": steps,
        "patterns": len(held_out),
        "loss": float(f"{found.loss.mean():.4g}"),
        "divergence": round(mean, 4),
        "divergence_sd": round(float(found.divergence.std()), 4),
        "uniform": round(float(found.uniform_divergence.mean()), 4),
        "better_than_uniform": round(float((found.divergence < found.uniform_divergence).mean()), 3),
        **{f"cut_at_{floor:g}": round(float(np.mean(values)), 4) for floor, values in cut.items()},
        "log_error": round(torch.cat(errors).mean().item(), 4),
        "head_accuracy": round(neighbours_agree(mae.encode(held_out), held_out.layer * heads + held_out.head), 4),
        "planted_accuracy": round(neighbours_agree(mae.encode(truth), families), 4),
    }


def neighbours_agree(z: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of 5 nearest neighbours (Manhattan), fitted on every other row."""
    model = KNeighborsClassifier(5, metric="manhattan", algorithm="brute").fit(z[::2], labels[::2])
    return float(model.score(z[1::2], labels[1::2]))


def draw(maes: dict[str, APMAE], pattern: Patterns) -> Figure:
    """One pattern as each encoder reconstructs it: original, masked, predicted, combined."""
    rows = [(name, f"trained on {name}", True) for name in SCALINGS]
    rows.insert(2, ("raw", "trained on raw,\nlinear colours", False))
    figure = Figure(figsize=(6.6, 1.45 * len(rows) + 0.2), layout="constrained")
    for axes, (name, title, logarithmic) in zip(figure.subplots(len(rows), 4), rows, strict=True):
        logs, predicted, where = guess(maes[name], pattern)
        size = pattern.size
        shown = torch.where(where[:, :, None, None], predicted, torch.nan)
        true, shown = (geometry.unpack(each, size, torch.nan)[0].numpy() for each in (logs, shown))
        covered = geometry.unpack(where[:, :, None, None].expand_as(logs).float(), size, 0.0)[0].numpy() > 0
        low, high = (DARKEST, 0.0) if logarithmic else (0.0, 1.0)
        scale = math.log(10) if logarithmic else 1.0
        colors = colormaps["viridis"].with_extremes(bad="white")
        pictures = (true, np.where(covered, np.nan, true), shown, np.where(covered, shown, true))
        for axis, logs_of in zip(axes, pictures, strict=True):
            values = logs_of / scale if logarithmic else np.exp(logs_of)
            axis.imshow(np.clip(values, low, high), vmin=low, vmax=high, cmap=colors)
            axis.set(xticks=[], yticks=[])
        axes[1].imshow(np.where(covered, 0.72, np.nan), vmin=0, vmax=1, cmap="gray")
        axes[0].set_ylabel(title, fontsize=8)
        bar = figure.colorbar(axes[0].images[0], ax=axes, shrink=0.85, pad=0.01)
        bar.set_label("log10 p" if logarithmic else "p", fontsize=7)
    for axis, title in zip(figure.axes[:4], ("original", "masked", "predicted", "combined"), strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="prompts to train on")
    parser.add_argument("held_out", type=Path, help="prompts to measure on")
    parser.add_argument("--out", type=Path, required=True, help="folder of encoders, results.jsonl and scaling.png")
    parser.add_argument("--lm", default="bundled")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--recipe", default="nano")
    parser.add_argument("--set", action="append", dest="changes", help="any other setting of the recipe, KEY=VALUE")
    arguments = parser.parse_args()
    lm = load_lm(arguments.lm)
    held_out = capture(lm, arguments.held_out)
    results = arguments.out / "results.jsonl"
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["scaling"] for line in results.read_text().splitlines()} if results.is_file() else set()
    patterns = capture(lm, arguments.train) if set(SCALINGS) - done else held_out
    maes = {}
    for scaling in SCALINGS:
        folder = arguments.out / scaling
        if scaling in done:
            maes[scaling] = APMAE.from_pretrained(folder)
            continue
        changes = {**PAPERS, **settings(arguments.changes), "steps": arguments.steps, "scaling": scaling}
        config = parse(TrainConfig, train_settings(arguments.recipe, changes), "train")
        mae = fit(config, ArraySource(patterns, config.batch_size, config.seed), folder=folder)
        mae.save_pretrained(folder)
        line = json.dumps(measure(mae, held_out, lm.num_heads, config.steps))
        with results.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
        maes[scaling] = mae
    # The pattern with the first encoder's median divergence: chosen by a rule, not by taste.
    order = np.argsort(pattern_losses(maes["log_normalize"], held_out).divergence)
    picture = Image.open(io.BytesIO(png(draw(maes, held_out[[order[len(order) // 2]]]))))
    picture = picture.convert("RGB").quantize(96, Image.Quantize.MAXCOVERAGE)  # a tenth of the bytes
    picture.save(arguments.out / "scaling.png", optimize=True)


if __name__ == "__main__":
    main()
