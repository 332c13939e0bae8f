"""What does the size of an AP-MAE gain? Nano, small and base, at the same steps and at the same compute.

    python experiments/sizes.py quality FOLDER [--steps 400] [--batch 32]
    python experiments/sizes.py table FOLDER cost.json PICTURE.png

``quality`` trains nano, small and base on the same stored patterns of the bundled language model on the bundled Java:
not at all, for the same steps (same batches, same masks), and for as long as a larger size takes, by the cost of a
step. Each is measured on files that no encoder saw: loss on hidden patches, and a linear probe, fitted on the training
files, for the layer and the head that made a pattern. Writes one JSON line per variant to FOLDER/quality.jsonl; a
second call resumes.

``table`` compares that with what each size costs, as measured by ``benchmarks/sizes.py --out cost.json``.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import apmae
from apmae.config import CaptureConfig, PromptsConfig, TrainConfig
from apmae.corpus.parse import parse_source
from apmae.lm.load import load_lm
from apmae.lm.outcome import AskLM
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import draw_prompts
from apmae.recipes import train_recipe
from apmae.seeding import generator
from apmae.train.evaluate import pattern_losses

LENGTH = 256
BASE_LR = {"nano": 1e-3, "small": 8e-4, "base": 5e-4}
SIZES = {name: train_recipe(name).model.model_copy(update={"pixels": "log"}) for name in BASE_LR}
"""All see the same pixels, so that their losses can be compared."""


def stored(folder: Path, split: str, prompts: int, heads: float) -> Patterns:
    """Patterns of the bundled language model on one split of the bundled Java, captured once and kept."""
    path = folder / f"{split}.safetensors"
    if not path.is_file():
        lm = load_lm()
        files = parse_source("bundled").handles((".java",))
        config = PromptsConfig(per_task=prompts, tasks=("random",), outcome="correct", split=split)  # pyright: ignore
        drawn, _ = draw_prompts(AskLM(lm), files, config, rejected=Counter())
        stream = capture_prompts(lm, drawn, CaptureConfig(heads=heads), size=LENGTH)
        Patterns.concatenate([captured.patterns.resized(LENGTH) for captured in stream]).save(path)
    return Patterns.load(path)


def probe(z: ndarray, labels: ndarray, other: ndarray, wanted: ndarray) -> float:
    """Accuracy on other files of a multinomial regression on standardised embeddings."""
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(z), labels)
    return float(model.score(scaler.transform(other), wanted))


def measures(mae: APMAE, train: Patterns, held_out: Patterns) -> dict[str, Any]:
    """How good an encoder is on files it did not see."""
    losses = pattern_losses(mae, held_out).loss
    picked = train[np.sort(generator(0, "probe").permutation(len(train))[:6000])]
    z, other = mae.encode(picked), mae.encode(held_out)
    heads = [patterns.layer * 100 + patterns.head for patterns in (picked, held_out)]
    by_prompt = [float(losses[held_out.prompt == prompt].mean()) for prompt in np.unique(held_out.prompt)]
    return {
        "loss": float(losses.mean()),
        "loss_sd": float(losses.std()),
        "loss_by_prompt": [round(loss, 7) for loss in by_prompt],
        "layer": probe(z, picked.layer, other, held_out.layer),
        "head": probe(z, heads[0], other, heads[1]),
    }


def variants(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Sizes and steps: untrained; the same steps; as many steps as cost the same as a larger size's."""
    steps = arguments.steps
    same = [(name, steps) for name in BASE_LR]
    as_small = ("nano", round(steps * arguments.nano / arguments.small))
    as_base = [("small", round(steps * arguments.small)), ("nano", round(steps * arguments.nano))]
    return [*((name, 0) for name in BASE_LR), *same[:2], as_small, same[2], *as_base]


def quality(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    train = stored(folder, "train", arguments.prompts, 0.5)
    held_out = stored(folder, "held_out", arguments.prompts // 8, 1.0)
    done = {tuple(row["variant"]) for row in rows(folder)}
    for name, steps in variants(arguments):
        if (name, steps) in done:
            continue
        config = TrainConfig(
            model=SIZES[name],
            steps=max(steps, 1),
            batch_size=arguments.batch,
            base_lr=BASE_LR[name],
            warmup_steps=min(50, steps // 8),
            checkpoint_every=100,
            log_every=5,
        )
        where = folder / f"{name}-{steps}"
        mae = apmae.train(train, recipe=config, folder=where) if steps else APMAE(SIZES[name]).eval()
        found = {"variant": [name, steps], "batch": arguments.batch, **measures(mae, train, held_out)}
        found |= {"train": len(train), "held_out": len(held_out)}
        with (folder / "quality.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        shown = {key: value for key, value in found.items() if key != "loss_by_prompt"}
        print(json.dumps(shown), flush=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The variants measured so far."""
    path = folder / "quality.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(arguments: argparse.Namespace) -> None:
    """Print the table of ``quality`` and draw it: loss against the cost of encoding, and against that of training."""
    cost = json.loads(arguments.cost.read_text())["sizes"]
    found = rows(arguments.folder)
    of_base = next(
        np.array(row["loss_by_prompt"]) for row in found if row["variant"][0] == "base" and row["variant"][1]
    )
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    print("| size, steps | CPU s | held-out loss, mean and s.d. | less base's, by prompt | layer | head |")
    print("|---|---|---|---|---|---|")
    for row in found:
        name, steps = row["variant"]
        seconds = steps * cost[name]["step_seconds"]
        difference = np.array(row["loss_by_prompt"]) - of_base
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        print(
            f"| {name}, {steps} | {seconds:.0f} | {row['loss']:.5f}, {row['loss_sd']:.5f} | "
            f"{difference.mean():+.5f} ± {error:.5f} | {row['layer']:.3f} | {row['head']:.3f} |"
        )
        if not steps:
            continue
        log = (arguments.folder / f"{name}-{steps}" / "metrics.jsonl").read_text().splitlines()
        loss = np.array([json.loads(line)["loss"] for line in log])
        window = 12
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        at = np.array([json.loads(line)["step"] for line in log])[window - 1 :] * cost[name]["step_seconds"]
        colour = f"C{list(BASE_LR).index(name)}"
        right.plot(at, smooth, color=colour, linewidth=1.2, label=f"{name}, {steps} steps")
        share = cost[name]["float32"]["share"]
        left.plot(share, row["loss"], "o", color=colour)
        left.annotate(f"{name}, {steps} steps", (share, row["loss"]), (6, 4), textcoords="offset points", fontsize=8)
    left.axvline(0.3, color="0.7", linewidth=0.8, linestyle="--")
    left.set(xscale="log", xlabel="encoding all heads of a 3B model / its forward", ylabel="held-out loss")
    left.set_xlim(0.03, 3)
    right.set(
        xlabel="CPU seconds of training",
        ylabel=f"loss of the batch of {found[0]['batch']}, mean of 60 steps",
        yscale="log",
    )
    right.set_ylim(top=0.06)
    right.legend(fontsize=8, frameon=False)
    figure.savefig(arguments.picture, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("quality")
    job.add_argument("folder", type=Path)
    job.add_argument("--prompts", type=int, default=480)
    job.add_argument("--steps", type=int, default=400)
    job.add_argument("--batch", type=int, default=32)
    job.add_argument("--nano", type=float, default=12.0, help="steps of nano that cost one of base")
    job.add_argument("--small", type=float, default=2.6, help="steps of small that cost one of base")
    job.set_defaults(run=quality)
    job = jobs.add_parser("table")
    job.add_argument("folder", type=Path)
    job.add_argument("cost", type=Path)
    job.add_argument("picture", type=Path)
    job.set_defaults(run=table)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
