"""What does capture cost? Plain forward, transformers eager with output_attentions, and ours, interleaved.

    python benchmarks/capture.py               (6 layers, 8 heads, 4 key-value heads, hidden 512)
    python benchmarks/capture.py --rounds 15

Every round runs all variants once, in a new order; a figure is the median over rounds of the variant's time over the
plain forward's of the same round. Peak memory is the growth of the process' resident set during one forward, each
variant in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Starcoder2Config

from apmae.lm.tap import capture

PROMPTS, LENGTH = 8, 256


def build() -> tuple[PreTrainedModel, torch.Tensor]:
    torch.manual_seed(0)
    config = Starcoder2Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        sliding_window=None,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    ids = torch.randint(0, 4096, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(1))
    return model, ids


def log_normalize(attentions: torch.Tensor) -> torch.Tensor:
    """The published scaling of whole (n, t, t) patterns: log, then over the smallest finite log; masked entries 0."""
    logs = attentions.log()
    finite = torch.isfinite(logs)
    smallest = torch.where(finite, logs, 0.0).amin(dim=(-1, -2), keepdim=True)
    return torch.where(finite, (logs - smallest) / -smallest, 0.0)


@torch.no_grad()
def variants(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Each variant as a function that runs one forward and returns what it captured."""

    def forward() -> object:
        return model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def eager(share: float, batch: int = PROMPTS) -> torch.Tensor:
        model.set_attn_implementation("eager")
        try:
            parts = []
            for start in range(0, PROMPTS, batch):
                own = {"input_ids": ids[start : start + batch], "use_cache": False, "logits_to_keep": 1}
                attentions = torch.stack(model(**own, output_attentions=True).attentions, dim=1)
                kept = attentions[:, :, torch.randperm(attentions.shape[2])[: round(share * attentions.shape[2])]]
                parts.append(log_normalize(kept.flatten(0, 2)))
        finally:
            model.set_attn_implementation("sdpa")
        return torch.cat(parts)

    def ours(share: float, scale: bool, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        with capture(model, heads=share, dtype=dtype) as tap:
            forward()
        return tap.patterns.scaled_patches() if scale else tap.patterns.log_patches

    return {
        "plain forward": forward,
        "eager + log_normalize, 25 %": lambda: eager(0.25),
        "eager + log_normalize, 25 %, one prompt at a time": lambda: eager(0.25, 1),
        "eager + log_normalize, 100 %": lambda: eager(1.0),
        "capture, 25 %": lambda: ours(0.25, False),
        "capture + log_normalize, 25 %": lambda: ours(0.25, True),
        "capture, 100 %": lambda: ours(1.0, False),
        "capture + log_normalize, 100 %": lambda: ours(1.0, True),
        "capture in float32, 100 %": lambda: ours(1.0, False, torch.float32),
    }


def times(rounds: int) -> dict[str, list[float]]:
    model, ids = build()
    runs = variants(model, ids)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for run in runs.values():
            run()
        for number in range(rounds):
            names = list(runs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                start = time.process_time()
                runs[name]()
                seconds[name].append(time.process_time() - start)
    return seconds


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak_mb(name: str) -> float:
    """Growth of the resident set while one variant runs, MB. Linux only: resets the kernel's high-water mark."""
    model, ids = build()
    run = variants(model, ids)[name]
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with torch.no_grad():
        run()
    return _status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(peak_mb(arguments.memory)))
        return
    seconds = times(arguments.rounds)
    plain = seconds["plain forward"]
    print(f"{PROMPTS} prompts of {LENGTH} tokens, {arguments.threads} thread, {arguments.rounds} rounds, CPU time")
    print("| variant | ms | x plain forward | peak MB | x plain memory |")
    print("|---|---|---|---|---|")
    base = None
    for name, spent in seconds.items():
        ratio = statistics.median(own / bound for own, bound in zip(spent, plain, strict=True))
        command = [sys.executable, __file__, "--threads", str(arguments.threads), "--memory", name]
        peaks = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
        peak = statistics.median(peaks)
        base = base or peak
        print(f"| {name} | {1000 * statistics.median(spent):.0f} | {ratio:.2f} | {peak:.0f} | {peak / base:.2f} |")


if __name__ == "__main__":
    main()
