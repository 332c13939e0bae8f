"""What does an AP-MAE's size cost, and what does it buy? Four sizes, nano to paper.

    python benchmarks/sizes.py cost [--rounds 5] [--out cost.json]
    python benchmarks/sizes.py quality FOLDER [--steps 400] [--batch 32]
    python benchmarks/sizes.py table FOLDER cost.json PICTURE.png

``cost`` encodes the patterns of all heads of a StarCoder2-3B-shaped model of random weights, and holds that against one
forward of the model at 256 tokens: CPU time, all variants interleaved, in float32 and in bfloat16. The model runs as 3
of its 30 layers, times ten (all 30 take 12 GB), without the one row of logits that a forward ends with.
FLOPs are counted for the shapes of 3B, 7B and 15B.

``quality`` trains nano, small and base on the same stored patterns of the bundled language model on the bundled Java:
untrained, for the same steps (same batches, same masks), and for as long as a larger size took, by the cost of a step.
Each is measured on files that no encoder saw: loss on hidden patches, and a linear probe, fitted on the training files,
for the layer and the head that made a pattern. One JSON line a variant in FOLDER/quality.jsonl; a second call goes on.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, Starcoder2Config

import apmae
from apmae.config import APMAEConfig, PromptsConfig, TrainConfig
from apmae.corpus.parse import parse_source
from apmae.lm.load import load_lm
from apmae.lm.outcome import AskLM
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.model.masking import random_masking
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import draw_prompts
from apmae.recipes import train_recipe
from apmae.seeding import generator
from apmae.train.evaluate import pattern_losses

LENGTH = 256
LMS = {  # layers, heads, hidden, key-value heads, mlp
    "3b": (30, 24, 3072, 2, 12_288),
    "7b": (32, 36, 4608, 4, 18_432),
    "15b": (40, 48, 6144, 4, 24_576),
}
HEAD_DIM = 128
RUN_LAYERS = 3
BASE_LR = {"nano": 1e-3, "small": 8e-4, "base": 5e-4}


SIZES = {
    name: train_recipe(recipe).model for name, recipe in (*zip(BASE_LR, BASE_LR, strict=True), ("paper", "paper-3b"))
}


# -- cost --------------------------------------------------------------------------------------------------------------


def lm_flops(name: str) -> float:
    """Of one forward over 256 tokens, logits left out: 2 a weight and token, and 4 a score and channel."""
    layers, heads, hidden, kv, mlp = LMS[name]
    weights = 2 * hidden * heads * HEAD_DIM + 2 * hidden * kv * HEAD_DIM + 2 * hidden * mlp
    return layers * (2 * weights * LENGTH + 4 * LENGTH**2 * heads * HEAD_DIM)


def encoder_flops(config: APMAEConfig, patches: int | None = None) -> float:
    """Of the encoder's forward on one pattern: CLS and every patch, or as many as are visible."""
    c, patches = config, patches or config.num_patches
    tokens = 1 + patches
    inner = c.encoder_heads * c.encoder_head_dim
    weights = 4 * c.encoder_dim * inner + 2 * c.encoder_dim * c.encoder_mlp_dim
    blocks = c.encoder_layers * (2 * weights * tokens + 4 * tokens**2 * inner)
    return blocks + 2 * c.patch_size**2 * c.encoder_dim * patches


def random_patterns(count: int) -> Patterns:
    """Patterns of 256 tokens in float16, as a capture makes them."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(count, LENGTH, LENGTH, generator=draw) * 2
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    patterns = Patterns.from_probabilities(scores.softmax(-1))
    patterns.log_patches = patterns.log_patches.half()
    return patterns


def lm_shape(name: str, *, layers: int | None = None) -> Starcoder2Config:
    """A StarCoder2 shape, of all its layers or of some."""
    every, heads, hidden, kv, mlp = LMS[name]
    return Starcoder2Config(
        vocab_size=49_152,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers or every,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=512,
        sliding_window=None,
        bos_token_id=0,
        eos_token_id=0,
    )


def lm_forward(name: str, dtype: torch.dtype) -> Callable[[], None]:
    """One forward of the model's first layers."""
    config = lm_shape(name, layers=RUN_LAYERS)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
    ids = torch.randint(0, 49_152, (1, LENGTH), generator=torch.Generator().manual_seed(1))

    def run() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    return run


def train_step(config: APMAEConfig, batch: int, patterns: Patterns) -> Callable[[], None]:
    """Scaling, forward, backward and AdamW on one batch."""
    model = APMAE(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    masking = random_masking(batch, config.num_patches, config.num_masked, torch.Generator().manual_seed(0))
    some = patterns[:batch]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(model.scale(some), masking).loss.backward()
        optimizer.step()

    return run


def encoding(mae: APMAE, patterns: Patterns, dtype: torch.dtype) -> Callable[[], None]:
    """``encode``, under autocast where it is not float32."""

    def run() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            mae.encode(patterns)

    return run


def cost(arguments: argparse.Namespace) -> None:
    layers, heads = LMS["3b"][:2]
    count = layers * heads
    measured = 144  # of the 720, times five: paper size takes minutes otherwise
    patterns = random_patterns(measured)
    jobs: dict[str, tuple[Callable[[], None], float]] = {}
    for kind in ("float32", "bfloat16"):
        dtype = getattr(torch, kind)
        jobs[f"lm {kind}"] = (lm_forward("3b", dtype), layers / RUN_LAYERS)
        for name, config in SIZES.items():
            jobs[f"{name} {kind}"] = (encoding(APMAE(config).eval(), patterns, dtype), count / measured)
    for name in BASE_LR:
        jobs[f"{name} step"] = (train_step(SIZES[name], arguments.batch, patterns), 1.0)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(-1, arguments.rounds):  # one round to warm up
        for name, (run, times) in jobs.items():
            begin = time.process_time()
            run()
            if number >= 0:
                seconds[name].append((time.process_time() - begin) * times)
        print(f"round {number + 1} of {arguments.rounds}", flush=True)
    found: dict[str, Any] = {"batch": arguments.batch, "sizes": {}}
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    found["lm_seconds"] = {kind: middle[f"lm {kind}"] for kind in ("float32", "bfloat16")}
    heading = "size | M parameters (encoder) | GFLOP a pattern | 3b / 7b / 15b"
    print(f"| {heading} | float32 s, x forward | bfloat16 s, x forward |")
    print("|---|---|---|---|---|---|")
    for name, config in SIZES.items():
        model = APMAE(config)
        of_encoder = sum(
            p.numel() for key, p in model.named_parameters() if not key.startswith(("decoder", "to_", "mask"))
        )
        flops = encoder_flops(config)
        shares = {lm: shape[0] * shape[1] * flops / lm_flops(lm) for lm, shape in LMS.items()}
        row: dict[str, Any] = {
            "parameters": model.num_parameters,
            "encoder_parameters": of_encoder,
            "gflop": flops / 1e9,
            "flop_shares": shares,
            "step_seconds": middle.get(f"{name} step"),
        }
        for kind in ("float32", "bfloat16"):
            pairs = zip(seconds[f"{name} {kind}"], seconds[f"lm {kind}"], strict=True)
            row[kind] = {"seconds": middle[f"{name} {kind}"], "share": statistics.median(a / b for a, b in pairs)}
        found["sizes"][name] = row
        times = [f"{row[kind]['seconds']:.1f}, {row[kind]['share']:.2f}" for kind in ("float32", "bfloat16")]
        by_flops = " / ".join(f"{share:.2f}" for share in shares.values())
        print(
            f"| {name} | {row['parameters'] / 1e6:.1f} ({of_encoder / 1e6:.1f}) | {flops / 1e9:.2f} | {by_flops} | "
            f"{times[0]} | {times[1]} |"
        )
    print(json.dumps({"lm_seconds": found["lm_seconds"], "steps": {n: middle[f"{n} step"] for n in BASE_LR}}))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


# -- quality -----------------------------------------------------------------------------------------------------------


def stored(folder: Path, split: str, prompts: int, heads: float) -> Patterns:
    """Patterns of the bundled language model on one split of the bundled Java, captured once and kept."""
    path = folder / f"{split}.safetensors"
    if not path.is_file():
        lm = load_lm()
        files = parse_source("bundled").handles((".java",))
        config = PromptsConfig(per_task=prompts, tasks=("random",), outcome="correct", split=split)  # pyright: ignore
        drawn, _ = draw_prompts(AskLM(lm), files, config, rejected=Counter())
        stream = capture_prompts(lm, drawn, length=LENGTH, batch=8, heads=heads)
        Patterns.concatenate([captured.patterns.resized(LENGTH) for captured in stream]).save(path)
    return Patterns.load(path)


def probe(z: ndarray, labels: ndarray, other: ndarray, wanted: ndarray) -> float:
    """Accuracy on other files of a multinomial regression on standardised embeddings."""
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(z), labels)
    return float(model.score(scaler.transform(other), wanted))


def measures(mae: APMAE, train: Patterns, held_out: Patterns) -> dict[str, Any]:
    """What an encoder is worth on files it did not see."""
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
    """Sizes and steps: untrained; the same steps; the steps that cost as much as those of a larger size."""
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
        said = {key: value for key, value in found.items() if key != "loss_by_prompt"}
        print(json.dumps(said), flush=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The variants that are measured."""
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


# -- both --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("cost")
    job.add_argument("--rounds", type=int, default=5)
    job.add_argument("--batch", type=int, default=32, help="patterns a training step")
    job.add_argument("--out", type=Path)
    job.set_defaults(run=cost)
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
