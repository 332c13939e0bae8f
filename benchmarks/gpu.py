"""Paper size on one GPU: patterns per second in training, in encoding, and with a language model; what limits them.

    python benchmarks/gpu.py --peak-tflops 989 [--batch 480] [--steps 60] [--compile] [--lm 3b]
    python benchmarks/gpu.py --device cpu --debug       (everything at tiny size: shows that it runs, measures nothing)

"Stored" trains on one batch that stays on the device; "end to end" feeds the loop from a StarCoder2-shaped model with
random weights, in bfloat16, that reads the bundled Java. FLOPs are those of matrix products, counted from the shapes;
the backward pass counts as two forward passes. The peak is the device's dense bfloat16 peak from its data sheet (H200:
989). A summary of torch.profiler follows.

It has not been run on a GPU: none was available.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from sizes import LENGTH, LMS, encoder_flops, lm_flops, lm_shape, random_patterns
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from apmae.config import APMAEConfig, CaptureConfig, PromptsConfig, TrainConfig
from apmae.corpus.parse import parse_source
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.selection import share_of
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import build_prompts
from apmae.recipes import train_recipe
from apmae.train.lm_source import LMSource
from apmae.train.loop import fit
from apmae.train.source import PatternSource

WARM_STEPS = 5
"""Steps before the clock starts: compilation, the choice of kernels, the first fill of the buffer."""


def train_flops(config: APMAEConfig) -> float:
    """FLOPs of one pattern's forward and backward pass."""
    c, hidden = config, config.num_masked
    inner = c.decoder_heads * c.decoder_head_dim
    tokens = 1 + (c.num_patches if c.grid == "triangle" else c.grid_size**2)
    weights = 4 * c.decoder_dim * inner + 2 * c.decoder_dim * c.decoder_mlp_dim
    decoder = c.decoder_layers * (2 * weights * tokens + 4 * tokens**2 * inner)
    pixels = 2 * c.channels * c.patch_size**2 * c.decoder_dim * hidden
    return 3 * (encoder_flops(c, c.num_patches - hidden) + decoder + pixels)


class Timed:
    """A source that starts the clock after a few steps."""

    def __init__(self, source: PatternSource) -> None:
        self._source = source
        self.began = 0.0

    def batch(self, step: int) -> Patterns:
        """The patterns of a step."""
        if step == WARM_STEPS:
            finish()
            self.began = time.perf_counter()
        return self._source.batch(step)


class Resident:
    """The same batch at every step."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns

    def batch(self, step: int) -> Patterns:
        """The batch."""
        return self._patterns


def finish() -> None:
    """Wait for the device's queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def on(device: str, patterns: Patterns) -> Patterns:
    """The patterns, with their pixels on a device."""
    patterns.log_patches = patterns.log_patches.to(device)
    return patterns


def training(config: TrainConfig, source: PatternSource, device: str) -> float:
    """Patterns per second."""
    timed = Timed(source)
    fit(config, timed, device=device)
    finish()
    return config.batch_size * (config.steps - WARM_STEPS) / (time.perf_counter() - timed.began)


def encoding(mae: APMAE, patterns: Patterns, batch: int, rounds: int) -> float:
    """Patterns per second, in bfloat16; embeddings end in main memory."""
    with torch.autocast(mae.cls.device.type, torch.bfloat16):
        mae.encode(patterns, batch=batch)
        finish()
        begin = time.perf_counter()
        for _ in range(rounds):
            mae.encode(patterns, batch=batch)
    finish()
    return rounds * len(patterns) / (time.perf_counter() - begin)


def random_lm(name: str, device: str) -> LM:
    """A StarCoder2 shape with random weights in bfloat16, and the bundled tokenizer."""
    config = lm_shape(name)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    return replace(load_lm(), model=model)


def stream(lm: LM, config: TrainConfig) -> LMSource:
    """The package's own source, for any outcome: random weights answer nothing correctly."""
    files = parse_source("bundled").handles((".java",))
    prompts, _ = build_prompts(files, PromptsConfig(per_task=400, tasks=("random",), length=LENGTH))
    return LMSource(
        lm,
        prompts,
        config.capture,
        size=config.model.pattern_size,
        batch_size=config.batch_size,
        seed=config.seed,
        buffer=config.buffer,
        outcome="any",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--batch", type=int, default=480)
    parser.add_argument("--encode-batch", type=int, default=960)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-prompts", type=int, default=32)
    parser.add_argument("--lm", default="3b", choices=tuple(LMS))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--debug", action="store_true", help="tiny models, a few steps")
    arguments = parser.parse_args()
    model = train_recipe("debug").model if arguments.debug else APMAEConfig()
    batch, device = 16 if arguments.debug else arguments.batch, arguments.device
    changes: dict[str, Any] = {
        "model": model,
        "steps": WARM_STEPS + (3 if arguments.debug else arguments.steps),
        "batch_size": batch,
        "buffer": 256 if arguments.debug else 16_384,
        "capture": CaptureConfig(heads=0.25, batch=2 if arguments.debug else arguments.batch_prompts),
    }
    config = TrainConfig(**changes, precision="bfloat16", compile=arguments.compile)
    peak = arguments.peak_tflops * 1e12
    print("| job | patterns/s | GFLOP per pattern | share of the peak |")
    print("|---|---|---|---|")

    def row(job: str, rate: float, flops: float) -> None:
        print(f"| {job} | {rate:.0f} | {flops / 1e9:.2f} | {rate * flops / peak:.1%} |", flush=True)

    some = on(device, random_patterns(batch))
    row("training, stored", training(config, Resident(some), device), train_flops(model))
    mae = APMAE(model).eval().to(device)
    width = 32 if arguments.debug else arguments.encode_batch
    row(
        "encoding",
        encoding(mae, on(device, random_patterns(width)), width, 2 if arguments.debug else 20),
        encoder_flops(model),
    )
    lm = load_lm("bundled-small", device=device) if arguments.debug else random_lm(arguments.lm, device)
    per_prompt = sum(share_of(float(config.capture.heads), heads) for heads in lm.heads.values())
    lm_share = 0.0 if arguments.debug else lm_flops(arguments.lm) / per_prompt
    with stream(lm, config) as source:
        row("end to end", training(config, source, device), train_flops(model) + lm_share)

    cuda = device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    short = config.model_copy(update={"steps": 8})
    for job, feed in (("stored", nullcontext(Resident(some))), ("end to end", stream(lm, short))):
        with feed as source, profile(activities=kinds) as found:
            fit(short, source, device=device)
            finish()
        print(f"\nWhere the time of 8 steps goes, {job}:")
        by = "self_device_time_total" if cuda else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=by, row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    main()
