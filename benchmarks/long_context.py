"""What does a long context cost? The plain forward, and ours with patterns pooled to 256 x 256 or cropped, interleaved.

    python benchmarks/long_context.py                          (8 192 tokens, 25 % of heads)
    python benchmarks/long_context.py --growth                 (2 048 to 32 768 tokens: time and memory)

The model is the small shape of ``benchmarks/capture.py`` (6 layers, 8 heads, 4 key-value heads, hidden 512) with
positions for 32 768 tokens. Times are CPU time; peak memory is the growth of the resident set while one variant runs
in a separate process.
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
from transformers import AutoModelForCausalLM, Starcoder2Config

from apmae.lm.tap import capture

LENGTHS = (2048, 4096, 8192, 16384, 32768)


def variants(length: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    config = Starcoder2Config(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        sliding_window=None,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
    ids = torch.randint(0, 4096, (1, length), generator=torch.Generator().manual_seed(1))

    def forward() -> object:
        return model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def ours(share: float, *, pool: int | None = None, crop: int | None = None) -> object:
        with capture(model, heads=share, dtype=torch.float16, pool=pool, crop=crop) as tap:
            forward()
        return tap.patterns

    return {
        "plain forward": forward,
        "pooled, 25 %": lambda: ours(0.25, pool=256),
        "pooled, 100 %": lambda: ours(1.0, pool=256),
        "cropped, 25 %": lambda: ours(0.25, crop=256),
    }


def seconds(length: int, names: list[str], rounds: int) -> dict[str, list[float]]:
    runs = variants(length)
    spent: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        runs[names[0]]()
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                start = time.process_time()
                runs[name]()
                spent[name].append(time.process_time() - start)
    return spent


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak_mb(length: int, name: str) -> float:
    run = variants(length)[name]
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with torch.no_grad():
        run()
    return _status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--growth", action="store_true", help="every length once, plain and pooled, with memory")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(peak_mb(int(arguments.memory[0]), arguments.memory[1])))
        return
    lengths = LENGTHS if arguments.growth else (arguments.length,)
    names = ["plain forward", "pooled, 25 %"] if arguments.growth else list(variants(256))
    print(f"6 x 8 heads, one prompt, {arguments.threads} thread, CPU time")
    print("| tokens | variant | s | x plain forward | peak MB |")
    print("|---|---|---|---|---|")
    for length in lengths:
        spent = seconds(length, names, 1 if arguments.growth else arguments.rounds)
        for name, own in spent.items():
            ratio = statistics.median(a / b for a, b in zip(own, spent["plain forward"], strict=True))
            command = [sys.executable, __file__, "--threads", str(arguments.threads), "--memory", str(length), name]
            peak = float(subprocess.run(command, capture_output=True, check=True).stdout)
            print(f"| {length} | {name} | {statistics.median(own):.2f} | {ratio:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
