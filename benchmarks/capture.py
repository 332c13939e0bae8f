"""What does capture cost? The plain forward, its peers and ours, interleaved in one process.

    python benchmarks/capture.py                      (6 layers, 8 heads, 4 key-value heads, hidden 512)
    python benchmarks/capture.py --shape 3b           (2 layers as wide as StarCoder2-3B)
    python benchmarks/capture.py --shape 7b --device cuda --dtype bfloat16 --prompts 16

Peers: transformers' eager attention with ``output_attentions`` and the published log_normalize (with the same passes
over whole arrays as the authors' code, and with as few passes as possible); TransformerLens' bridge, if it is installed
(it pins other versions, so it needs a separate environment: ``pip install torch==2.13.0 transformers==5.23.0
transformer_lens==4.3.0``, then this package).

Every round runs all variants once, in a new order. Each number is the median over rounds of the variant's time divided
by the plain forward's in the same round: CPU time, or on a GPU wall time until the queue is empty. Peak memory is the
growth of the resident set during one forward, after a small one, each variant in a separate process (on a GPU: the
allocator's peak).
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Starcoder2Config

from apmae.lm.tap import capture
from apmae.patterns.patterns import PATCH

LENGTH = 256
_PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Otherwise glibc keeps freed memory at will; with this, repeated numbers agree to 1 MB instead of 15."""
PATTERN_BYTES = 73_728
"""One kept pattern of 256 tokens: 36 patches of 32 x 32 in fp16."""
SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 512, "layers": 6, "heads": 8, "kv": 4, "mlp": 2048, "vocab": 4096, "prompts": 8},
    "3b": {"hidden_size": 3072, "layers": 2, "heads": 24, "kv": 2, "mlp": 12288, "vocab": 4096, "prompts": 2},
    "7b": {"hidden_size": 4608, "layers": 32, "heads": 36, "kv": 4, "mlp": 18432, "vocab": 49152, "prompts": 8},
    "15b": {"hidden_size": 6144, "layers": 40, "heads": 48, "kv": 4, "mlp": 24576, "vocab": 49152, "prompts": 8},
    "3b-whole": {"hidden_size": 3072, "layers": 30, "heads": 24, "kv": 2, "mlp": 12288, "vocab": 49152, "prompts": 8},
}


def build(arguments: argparse.Namespace) -> tuple[PreTrainedModel, Tensor]:
    shape = SHAPES[arguments.shape]
    torch.manual_seed(0)
    config = Starcoder2Config(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        max_position_embeddings=512,
        sliding_window=None,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.device(arguments.device):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=getattr(torch, arguments.dtype)
        )
    prompts = arguments.prompts or shape["prompts"]
    ids = torch.randint(0, shape["vocab"], (prompts, LENGTH), generator=torch.Generator().manual_seed(1))
    return model.eval().requires_grad_(False), ids.to(arguments.device)


def log_normalize(attentions: Tensor) -> Tensor:
    """The published scaling of whole (n, t, t) patterns in as few passes as possible."""
    logs = attentions.log()
    finite = torch.isfinite(logs)
    smallest = torch.where(finite, logs, 0.0).amin(dim=(-1, -2), keepdim=True)
    return torch.where(finite, (logs - smallest) / -smallest, 0.0)


def published_log_normalize(attentions: Tensor) -> Tensor:
    """The same in the passes of the authors' code: a copy for the minimum, the minimum repeated for every pixel, and
    masked entries set by indexing, twice.
    """
    logs = attentions.log()
    copy = logs.clone()
    copy[copy.isneginf()] = 0
    smallest = copy.flatten(1).min(dim=-1).values
    spread = smallest.repeat_interleave(logs[0].numel()).view_as(logs)
    scaled = (logs - spread) / (-1 * spread)
    scaled[scaled.isneginf()] = 0
    return scaled


@torch.no_grad()
def variants(model: PreTrainedModel, ids: Tensor) -> dict[str, Callable[[], object]]:
    """Each variant as a function that runs one forward and returns what it captured."""
    heads = model.config.num_attention_heads
    keywords = {"use_cache": False, "logits_to_keep": 1}

    def forward() -> object:
        return model(input_ids=ids, **keywords)

    def eager(share: float, scale: Callable[[Tensor], Tensor], batch: int = len(ids)) -> Tensor:
        model.set_attn_implementation("eager")
        try:
            parts = []
            for start in range(0, len(ids), batch):
                part = ids[start : start + batch]
                attentions = model(input_ids=part, output_attentions=True, **keywords).attentions
                chosen = torch.stack([layer[:, torch.randperm(heads)[: round(share * heads)]] for layer in attentions])
                parts.append(scale(chosen.flatten(0, 2).float()))
        finally:
            model.set_attn_implementation("sdpa")
        return torch.cat(parts)

    def ours(share: float, scale: bool) -> Tensor:
        with capture(model, heads=share, dtype=torch.float16) as tap:
            forward()
        return tap.patterns.scaled_patches() if scale else tap.patterns.log_patches

    runs: dict[str, Callable[[], object]] = {
        "plain forward": forward,
        "eager + published log_normalize, 25 %": lambda: eager(0.25, published_log_normalize),
        "eager + published log_normalize, 25 %, one prompt at a time": lambda: eager(0.25, published_log_normalize, 1),
        "eager + lean log_normalize, 25 %": lambda: eager(0.25, log_normalize),
        "eager + published log_normalize, 100 %": lambda: eager(1.0, published_log_normalize),
        "eager + lean log_normalize, 100 %": lambda: eager(1.0, log_normalize),
        "capture, 25 %": lambda: ours(0.25, False),
        "capture + log_normalize, 25 %": lambda: ours(0.25, True),
        "capture, 100 %": lambda: ours(1.0, False),
        "capture + log_normalize, 100 %": lambda: ours(1.0, True),
    }
    if importlib.util.find_spec("transformer_lens") and ids.device.type == "cpu":
        runs["TransformerLens, patterns of 25 %"] = transformer_lens(model, ids, 0.25)
        runs["TransformerLens, patterns of 100 %"] = transformer_lens(model, ids, 1.0)
    return runs


def transformer_lens(model: PreTrainedModel, ids: Tensor, share: float) -> Callable[[], object]:
    """``run_with_cache`` of every layer's pattern: it filters by layer, not by head. The bridge changes the model it
    is given, so it gets a copy.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import (  # pyright: ignore[reportMissingImports]
        build_bridge_from_module,
    )

    own = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").eval().requires_grad_(False)
    own.load_state_dict(model.state_dict())
    bridge: Any = build_bridge_from_module(own, "Starcoder2ForCausalLM", hf_config=own.config)
    wanted = round(share * model.config.num_attention_heads)

    def run() -> list[Tensor]:
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"))
        return [log_normalize(pattern[:, :wanted].flatten(0, 1)) for pattern in cache.values()]

    return run


def clock(device: str) -> Callable[[], float]:
    if device == "cpu":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished


def times(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every variant in every round; a variant that runs out of GPU memory is left out."""
    model, ids = build(arguments)
    runs, now = variants(model, ids), clock(arguments.device)
    seconds: dict[str, list[float]] = {}
    with torch.no_grad():
        for name, run in list(runs.items()):
            try:
                run()
                seconds[name] = []
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory", file=sys.stderr)
                del runs[name]
                torch.cuda.empty_cache()
        for number in range(arguments.rounds):
            names = list(runs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                start = now()
                runs[name]()
                seconds[name].append(now() - start)
    return seconds


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak_mb(arguments: argparse.Namespace) -> float:
    """Growth of memory while one variant runs, MB. On a CPU, Linux only: resets the kernel's high-water mark."""
    model, ids = build(arguments)
    with torch.no_grad():
        variants(model, ids[:, :PATCH])[arguments.memory]()  # code that is read from disk on first use does not count
    run = variants(model, ids)[arguments.memory]
    if arguments.device != "cpu":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            run()
        return torch.cuda.max_memory_allocated() / 2**20 - before
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with torch.no_grad():
        run()
    return _status("VmHWM") - before


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, help="by default the shape's")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(peak_mb(arguments)))
        return
    seconds = times(arguments)
    shape = SHAPES[arguments.shape]
    prompts = arguments.prompts or shape["prompts"]
    print(
        f"{arguments.shape}: {prompts} prompts of {LENGTH} tokens, {shape['layers']} x {shape['heads']} heads, "
        f"{arguments.device}, {arguments.dtype}, {arguments.threads} thread, {arguments.rounds} rounds"
    )
    print("| variant | ms | x plain forward | patterns/s | peak MB | (peak - plain peak) / kept |")
    print("|---|---|---|---|---|---|")
    plain, base = seconds["plain forward"], None
    for name, spent in seconds.items():
        ratio = statistics.median(own / bound for own, bound in zip(spent, plain, strict=True))
        share = 0.25 if "25 %" in name else 1.0
        kept = prompts * shape["layers"] * max(1, round(share * shape["heads"]))
        cells = [name, f"{1000 * statistics.median(spent):.0f}", f"{ratio:.2f}"]
        cells.append("" if name == "plain forward" else f"{kept / statistics.median(spent):.0f}")
        if not arguments.no_memory:
            command = [sys.executable, __file__, *(argv or sys.argv[1:]), "--memory", name]
            peak = float(
                subprocess.run(command, capture_output=True, check=True, env={**os.environ, **_PLAIN_MALLOC}).stdout
            )
            base = peak if base is None else base
            over = "" if name == "plain forward" else f"{(peak - base) / (kept * PATTERN_BYTES / 2**20):.2f}"
            cells += [f"{peak:.0f}", over]
        else:
            cells += ["", ""]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
