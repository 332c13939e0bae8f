"""What does encoding cost at each size of the AP-MAE? Four sizes, nano to paper.

    python benchmarks/sizes.py [--rounds 5] [--out cost.json]

Encodes the patterns of all heads of a StarCoder2-3B-shaped model with random weights, and compares that with one
forward of the model at 256 tokens: CPU time, all variants interleaved, in float32 and in bfloat16. Of the model's 30
layers, 3 are run and the time is multiplied by ten (all 30 take 12 GB), without the one row of logits at the end. FLOPs
are counted for the shapes of 3B, 7B and 15B. A training step of the three smaller sizes is timed too;
``experiments/sizes.py`` reads both from the file.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, Starcoder2Config

from apmae.config import APMAEConfig
from apmae.model.mae import APMAE
from apmae.model.masking import random_masking
from apmae.patterns.patterns import Patterns
from apmae.recipes import train_recipe

LENGTH = 256
LMS = {  # layers, heads, hidden, key-value heads, mlp
    "3b": (30, 24, 3072, 2, 12_288),
    "7b": (32, 36, 4608, 4, 18_432),
    "15b": (40, 48, 6144, 4, 24_576),
}
HEAD_DIM = 128
RUN_LAYERS = 3
TRAINED = ("nano", "small", "base")
"""Sizes whose training step is timed: one of paper size takes minutes."""
SIZES = {name: train_recipe("paper-3b" if name == "paper" else name).model for name in (*TRAINED, "paper")}


def lm_flops(name: str) -> float:
    """FLOPs of one forward over 256 tokens, without logits: 2 per weight and token, and 4 per score and channel."""
    layers, heads, hidden, kv, mlp = LMS[name]
    weights = 2 * hidden * heads * HEAD_DIM + 2 * hidden * kv * HEAD_DIM + 2 * hidden * mlp
    return layers * (2 * weights * LENGTH + 4 * LENGTH**2 * heads * HEAD_DIM)


def encoder_flops(config: APMAEConfig, patches: int | None = None) -> float:
    """FLOPs of the encoder's forward on one pattern: CLS and every patch, or as many patches as are visible."""
    c, patches = config, patches or config.num_patches
    tokens = 1 + patches
    inner = c.encoder_heads * c.encoder_head_dim
    weights = 4 * c.encoder_dim * inner + 2 * c.encoder_dim * c.encoder_mlp_dim
    blocks = c.encoder_layers * (2 * weights * tokens + 4 * tokens**2 * inner)
    return blocks + 2 * c.channels * c.patch_size**2 * c.encoder_dim * patches


def random_patterns(count: int) -> Patterns:
    """Patterns of 256 tokens in float16, as a capture makes them."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(count, LENGTH, LENGTH, generator=draw) * 2
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    patterns = Patterns.from_probabilities(scores.softmax(-1))
    patterns.log_patches = patterns.log_patches.half()
    return patterns


def lm_shape(name: str, *, layers: int | None = None) -> Starcoder2Config:
    """A StarCoder2 shape with all of its layers, or with some."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="patterns per training step")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
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
    for name in TRAINED:
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
    heading = "size | M parameters (encoder) | GFLOP per pattern | 3b / 7b / 15b"
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
    print(json.dumps({"lm_seconds": found["lm_seconds"], "steps": {n: middle[f"{n} step"] for n in TRAINED}}))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
