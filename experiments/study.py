"""The decoder study: variants of the autoencoder, trained at equal compute on the same patterns with the same masks.

    python experiments/study.py capture --source SRC_ZIP --work WORK
    python experiments/study.py train --work WORK [--variant base --variant cls] [--seed 0]
    python experiments/study_figures.py WORK/results.jsonl

``capture`` draws prompts and stores patterns of the three bundled language models: of random spans to train on, and of
all ten tasks, from held-out files, to measure on. ``train`` appends one line per variant to ``results.jsonl`` and skips
variants that are there already. Compute is the floating-point operations of matrix products, counted by torch. Every
variant gets as much compute as base; its number of steps follows from its cost per step.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import cos, pi
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from planted import LEVELS, recovery
from probes import accuracy, head_accuracy, outcome_auroc, outcome_of_answer
from sklearn.decomposition import PCA
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from apmae import bundled
from apmae.atlas.kinds import measured_names
from apmae.config import APMAEConfig, CaptureConfig, PromptsConfig
from apmae.corpus.parse import parse_source
from apmae.corpus.source import list_sources
from apmae.encode import score_batch
from apmae.lm.load import load_lm
from apmae.lm.outcome import AskLM
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.model.masking import random_masking
from apmae.patterns import geometry
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.prompts.draw import build_prompts, draw_prompts
from apmae.seeding import subseed
from apmae.train.evaluate import hidden, pattern_losses
from apmae.train.source import ArraySource

NANO = APMAEConfig(
    encoder_layers=4,
    encoder_dim=160,
    encoder_heads=5,
    encoder_head_dim=32,
    encoder_mlp_dim=640,
    decoder_layers=2,
    decoder_dim=128,
    decoder_heads=4,
    decoder_head_dim=32,
    decoder_mlp_dim=512,
)
BATCH, LR, WARMUP = 48, 9.6e-4, 0.1
CHECKS = 10
"""How often the held-out loss is measured during training."""


class Variant(NamedTuple):
    """How a training differs from base."""

    model: dict[str, Any] = {}
    positions: str = "learned"
    """Or "sincos": fixed by row and column; "none"; "decoder": learned in the decoder, none in the encoder."""
    loss: str = "real"
    """Pixels that count: "real" ones, or "all", the upper halves of diagonal patches included."""


VARIANTS = {
    "base": Variant(),
    "cls": Variant({"decoder_input": "cls"}),
    "mask 0.75": Variant({"mask_ratio": 0.75}),
    "cls, mask 0.75": Variant({"decoder_input": "cls", "mask_ratio": 0.75}),
    "all pixels": Variant(loss="all"),
    "sin-cos": Variant(positions="sincos"),
    "no positions": Variant(positions="none"),
    "positions in the decoder": Variant(positions="decoder"),
}
CONTROLS = ("untrained", "pixels")
"""Base before its first step; and the first principal components of the pixels, as many as an embedding has numbers."""


def capture(sources: list[str], work: Path, train_prompts: int, per_task: int) -> None:
    """Store patterns: ``train`` and ``loss`` of 25 % of the heads of every model, ``probe`` of all of the largest's."""
    lm = load_lm()
    drawn = PromptsConfig(per_task=train_prompts, tasks=("random",), split="train")
    files = list_sources(map(parse_source, sources), suffixes=(".java",))
    prompts, _ = build_prompts(files, drawn, tokenizer=lm.backend_tokenizer)
    balanced = PromptsConfig(per_task=per_task, outcome="balanced", split="held_out")
    asked, _ = draw_prompts(AskLM(lm), files, balanced, rejected=Counter())
    asked = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))]
    parts: dict[str, list[Patterns]] = {"train": [], "loss": [], "probe": []}
    names: list[str] = []
    for number, name in enumerate(bundled.LANGUAGE_MODELS):
        lm = load_lm(name)
        first = number * 1_000_000  # prompts of different models are different prompts
        settings: dict[str, Any] = {"size": NANO.pattern_size, "first": first}
        some = CaptureConfig(heads=0.25)
        parts["train"] += [one.patterns for one in capture_prompts(lm, prompts, some, **settings)]
        parts["loss"] += [one.patterns for one in capture_prompts(lm, asked[:150], some, **settings)]
        if name == "bundled":
            for captured in capture_prompts(lm, asked, CaptureConfig(), **settings):
                parts["probe"].append(captured.patterns)
                scores = score_batch(captured)
                names += measured_names(scores.values, scores.key_kinds)
    work.mkdir(parents=True, exist_ok=True)
    for name, captures in parts.items():
        patterns = Patterns.concatenate(captures)
        patterns.save(work / f"{name}.safetensors")
        print(name, patterns)
    answers = [prompt.answer for prompt in asked if prompt.answer is not None]
    about = {
        "file": [prompt.path for prompt in asked],
        "correct": [answer.correct for answer in answers],
        "max_probability": [answer.max_probability for answer in answers],
        "entropy": [answer.entropy for answer in answers],
        "name": names,
    }
    (work / "probe.json").write_text(json.dumps(about))


def built(variant: Variant, seed: int) -> APMAE:
    """A model before training; positions that are not learned are set and frozen."""
    mae = APMAE(NANO.model_copy(update=variant.model), seed=seed)
    fixed = {"sincos": (True, True), "none": (True, True), "decoder": (True, False), "learned": (False, False)}
    tables = (mae.positions, mae.decoder_positions)
    for table, frozen in zip(tables, fixed[variant.positions], strict=True):
        if frozen:
            table.requires_grad_(False).zero_()
            if variant.positions == "sincos":
                table[0, 1:] = sincos(mae.config, table.shape[-1])
    return mae


def sincos(config: APMAEConfig, dim: int) -> Tensor:
    """(k, dim) fixed positions: half the numbers encode the patch's row, half its column (ViTMAE, He et al. 2022)."""
    rows, columns = geometry.tiles(config.grid_size)
    rates = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = [place[:, None] * rates for place in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


def step_flops(mae: APMAE) -> int:
    """Floating-point operations of the matrix products of one training step."""
    config = mae.config
    patches = torch.zeros(BATCH, config.num_patches, config.channels, config.patch_size, config.patch_size)
    with FlopCounterMode(display=False) as counter:
        mae(patches, random_masking(BATCH, config.num_patches, config.num_masked, torch.Generator())).loss.backward()
    mae.zero_grad()
    return counter.get_total_flops()


def trained(
    variant: Variant, seed: int, base_steps: int, train: Patterns, check: Callable[[APMAE, float], None]
) -> APMAE:
    """Train at the cost of ``base_steps`` of base; step s has the same patterns and order of hiding in all variants."""
    mae = built(variant, seed)
    cost, budget = step_flops(mae), base_steps * step_flops(built(Variant(), seed))
    steps = round(budget / cost)
    learned = [parameter for parameter in mae.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in learned if one.ndim == 2], "weight_decay": 0.05},
        {"params": [one for one in learned if one.ndim != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    source, warmup = ArraySource(train, BATCH, seed), round(WARMUP * base_steps)
    for step in range(steps):
        done = (step - warmup) / max(steps - warmup, 1)
        for group in optimizer.param_groups:
            group["lr"] = LR * (step + 1) / warmup if step < warmup else LR * 0.5 * (1 + cos(pi * done))
        draw = torch.Generator().manual_seed(subseed(seed, "mask", step))
        masking = random_masking(BATCH, mae.config.num_patches, mae.config.num_masked, draw)  # nested over ratios
        result = mae(mae.scale(source.batch(step)), masking)
        (result.loss if variant.loss == "real" else result.published_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) * CHECKS // steps > step * CHECKS // steps:
            check(mae, (step + 1) * cost / 1e12)
    return mae


@torch.no_grad()
def embeddings(mae: APMAE, patterns: Patterns) -> dict[str, ndarray]:
    """CLS, and the mean of the patches' tokens, (n, d) each, from the same forward pass."""
    cls, mean = [], []
    for first in range(0, len(patterns), 128):
        encoded = mae.encode_tokens(mae.scale(patterns[first : first + 128]))
        cls.append(encoded[:, 0])
        mean.append(encoded[:, 1:].mean(1))
    return {"cls": torch.cat(cls).numpy(), "mean": torch.cat(mean).numpy()}


class Measure:
    """Held-out patterns and what is known about them."""

    def __init__(self, work: Path) -> None:
        self.loss, self.probe = (Patterns.load(work / f"{name}.safetensors") for name in ("loss", "probe"))
        about = json.loads((work / "probe.json").read_text())
        self.files, self.correct = np.array(about["file"]), np.array(about["correct"])
        self.sure, self.entropy = np.array(about["max_probability"]), np.array(about["entropy"])
        self.names = classes(about["name"])
        self.numbers = self.probe.prompt - self.probe.prompt.min()

    def losses(self, mae: APMAE) -> dict[str, Any]:
        """Held-out losses with half of the patches hidden: mean, s.d. over patterns, and the published loss."""
        found = pattern_losses(mae, self.loss)
        return {"loss": found.loss.mean(), "loss_sd": found.loss.std(), "published_loss": found.published_loss.mean()}

    def of(self, z: ndarray, planted_z: list[tuple[ndarray, ndarray]]) -> dict[str, float]:
        """Everything that is read from embeddings of ``probe``, and clusters of planted patterns."""
        files = self.files[self.numbers]
        found = [recovery(own, families, seed=seed) for seed, (own, families) in enumerate(planted_z)]
        # all heads of one prompt are together, always in the same order
        return {
            "layer": accuracy(z, self.probe.layer, files),
            "head": head_accuracy(z, self.probe.layer, self.probe.head, files),
            "class": accuracy(z, self.names, files),
            "outcome": outcome_auroc(z.reshape(len(self.correct), -1, z.shape[-1]), self.correct, self.files),
            "rand": float(np.mean([one.rand for one in found])),
            "coverage": float(np.mean([one.coverage for one in found])),
            "neighbors": float(np.mean([one.neighbors for one in found])),
        }

    def known(self) -> dict[str, Any]:
        """What needs no encoder: how often the most frequent class is right, and the model's own certainty."""
        _, often = np.unique(self.names, return_counts=True)
        return {
            "outcome_max_probability": outcome_of_answer(self.sure, self.correct, self.files),
            "outcome_entropy": outcome_of_answer(-self.entropy, self.correct, self.files),
            "layer": 1 / len(np.unique(self.probe.layer)),
            "head": 1 / len(np.unique(self.probe.head)),
            "class": float(often.max() / often.sum()),
            "classes": len(often),
            "prompts": len(self.correct),
            "patterns": len(self.probe),
        }


def classes(names: list[str]) -> ndarray:
    """A pattern's first behaviour, clear or not; behaviours of less than one pattern in a hundred are "other"."""
    first = np.array([name.split(" + ")[0].removeprefix("some ").split(" on ")[0] for name in names])
    first[[name.startswith(("looks at", "retrieval")) for name in first]] = "looks at or retrieves tokens"
    kinds, counts = np.unique(first, return_counts=True)
    return np.where(np.isin(first, kinds[counts >= len(first) / 100]), first, "other")


def planted_sets() -> Iterator[tuple[Patterns, ndarray]]:
    for seed in range(3):
        yield planted(40, seed=99 + seed, **LEVELS["noise 0.1 to 2"])


def control(
    name: str, seed: int, work: Path, measure: Measure, known: list[tuple[Patterns, ndarray]]
) -> dict[str, Any]:
    """The line of a control, which is not trained."""
    if name == "untrained":
        mae = built(Variant(), seed).eval()
        return {**measure.losses(mae), **read_off(mae, measure, known)}
    train = Patterns.load(work / "train.safetensors")
    patches = APMAE(NANO).scale
    some = patches(train[np.random.default_rng(0).permutation(len(train))[:2000]]).flatten(1).numpy()
    reducer = PCA(NANO.encoder_dim, svd_solver="randomized", random_state=0).fit(some)

    def reduced(patterns: Patterns) -> ndarray:
        firsts = range(0, len(patterns), 512)
        return np.concatenate([reducer.transform(patches(patterns[i : i + 512]).flatten(1).numpy()) for i in firsts])

    mean = torch.from_numpy(reducer.mean_).float().reshape(1, NANO.num_patches, -1)
    target = patches(measure.loss).flatten(2)
    masked = hidden(measure.loss, NANO.num_patches, NANO.num_masked, 0).masked
    real = APMAE(NANO).real[masked]
    error = (target - mean).square().gather(1, masked[..., None].expand(-1, -1, target.shape[-1]))
    loss = ((error * real).sum((1, 2)) / real.sum((1, 2))).double().numpy()
    planted_z = [(reduced(patterns), families) for patterns, families in known]
    return {"loss": loss.mean(), "loss_sd": loss.std(), "cls": measure.of(reduced(measure.probe), planted_z)}


def read_off(mae: APMAE, measure: Measure, known: list[tuple[Patterns, ndarray]]) -> dict[str, dict[str, float]]:
    z = embeddings(mae, measure.probe)
    planted_z = [(embeddings(mae, patterns), families) for patterns, families in known]
    return {way: measure.of(z[way], [(own[way], families) for own, families in planted_z]) for way in z}


def run(work: Path, names: list[str], seed: int, base_steps: int, threads: int) -> None:
    results = work / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(line["variant"], line["seed"]) for line in lines}
    measure, known = Measure(work), list(planted_sets())
    train = Patterns.load(work / "train.safetensors")
    curve_on = measure.loss[np.random.default_rng(0).permutation(len(measure.loss))[:500]]
    for name in names:
        if (name, seed) in done:
            continue
        torch.set_num_threads(threads)  # again each time: UMAP's numba sets the threads of the whole process
        line: dict[str, Any] = {"variant": name, "seed": seed}
        begin = time.process_time()
        if name in CONTROLS:
            line |= control(name, seed, work, measure, known)
        else:
            curve: list[tuple[float, float]] = []

            def check(mae: APMAE, spent: float, curve: list[tuple[float, float]] = curve) -> None:
                curve.append((round(spent, 3), float(pattern_losses(mae, curve_on).loss.mean())))

            mae = trained(VARIANTS[name], seed, base_steps, train, check).eval()
            line |= {"steps": round(base_steps * step_flops(built(Variant(), seed)) / step_flops(mae)), "curve": curve}
            line |= {"gflop": step_flops(mae) / 1e9, "train_s": round(time.process_time() - begin)}
            line |= {**measure.losses(mae), **read_off(mae, measure, known)}
        if name == "base" or name in CONTROLS:
            line["known"] = measure.known()
        line["all_s"] = round(time.process_time() - begin)
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print({key: value for key, value in line.items() if key != "curve"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("capture", "train"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the patterns and the results")
    parser.add_argument("--source", action="append", help="folder, zip or tar of Java; by default the bundled sample")
    parser.add_argument("--train-prompts", type=int, default=600)
    parser.add_argument("--per-task", type=int, default=50, help="held-out prompts per task, half of them correct")
    parser.add_argument("--variant", action="append", choices=(*VARIANTS, *CONTROLS), help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800, help="steps of base; others get the same compute")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "capture":
        sources = arguments.source or [str(bundled.java())]
        capture(sources, arguments.work, arguments.train_prompts, arguments.per_task)
    else:
        run(
            arguments.work,
            arguments.variant or [*VARIANTS, *CONTROLS],
            arguments.seed,
            arguments.steps,
            arguments.threads,
        )


if __name__ == "__main__":
    main()
