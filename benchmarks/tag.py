"""What tagging every head costs beyond the forward, by step, and how it grows with the number of heads.

    python benchmarks/tag.py MODEL [--dtype bfloat16] [--prompts 4] [--rounds 3] [--heads 1]
    python benchmarks/tag.py MODEL --heads 0.125 0.25 0.5 1          (heads of 1x, 2x, 4x and 8x)

Prompts are windows of 256 tokens of the bundled Java. All steps run in turn for each share of the heads, round after
round, so that whatever else the machine does hits them alike. Times are the smallest of each step, per prompt. The
forward alone gives logits at the completion position only, as tagging asks for; what capture adds to it is its own
column. The last two columns are the time beyond the forward for each head, and its ratio to that of the first row.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from apmae import bundled
from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import measured_names
from apmae.atlas.names import Measured
from apmae.config import CaptureConfig
from apmae.encode import score_batch
from apmae.engine.tag import is_unseen
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.outcome import read, window_of
from apmae.lm.stream import capture_batch
from apmae.model.mae import APMAE
from apmae.model.represent import represented
from apmae.prompts.line import text_prompt
from apmae.prompts.prompt import Prompt

_SIZE = 256
_LONG = 4000
"""Characters that fill any window."""


def one_round(
    lm: LM, mae: APMAE, atlas: Atlas, prompts: Sequence[Prompt], config: CaptureConfig
) -> tuple[list[float], int]:
    """Seconds of the forward alone, the forward with capture, and each step after it; and heads of each prompt."""
    windows = [window_of(lm, prompt, _SIZE) for prompt in prompts]
    stamps = [time.perf_counter()]
    read(lm, windows)
    stamps.append(time.perf_counter())
    captured = capture_batch(lm, prompts, windows, config, size=_SIZE)
    stamps.append(time.perf_counter())
    scores = score_batch(captured)
    stamps.append(time.perf_counter())
    seen = represented(captured.patterns, mae, atlas.representation or "joint")
    stamps.append(time.perf_counter())
    own = Measured(scores.values, scores.key_kinds, scores.query_kinds)
    where = (captured.patterns.layer, captured.patterns.head)
    placed = atlas.place(
        seen.z, where=where, structured=seen.structured, measured=own, unseen=is_unseen(atlas, lm.name)
    )
    stamps.append(time.perf_counter())
    atlas.names_of(placed.cluster, own)
    measured_names(scores.values, scores.key_kinds)
    stamps.append(time.perf_counter())
    return [after - before for before, after in pairwise(stamps)], len(captured.patterns) // len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=float, nargs="+", default=[1.0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm = load_lm(arguments.model, dtype=arguments.dtype, check=False)
    mae, atlas = APMAE.from_pretrained(), Atlas.load()
    texts = [path.read_text() for path in sorted(bundled.java().rglob("*.java"))]
    prompts = [text_prompt(text[:_LONG], "1", None) for text in texts if len(text) >= _LONG][: arguments.prompts]
    configs = [CaptureConfig(batch=len(prompts), heads="all" if share == 1 else share) for share in arguments.heads]
    best, heads = [[float("inf")] * 6 for _ in configs], [0] * len(configs)
    for _ in range(arguments.rounds):
        for number, config in enumerate(configs):
            took, heads[number] = one_round(lm, mae, atlas, prompts, config)
            best[number] = [min(pair) for pair in zip(best[number], took, strict=True)]
    print("| heads | forward | capture | scores | represent | place | names | beyond the forward | for each | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    first = 0.0
    for count, own in zip(heads, best, strict=True):
        forward, whole, *rest = (1000 * seconds / len(prompts) for seconds in own)
        beyond = [max(whole - forward, 0.0), *rest]
        shown = " | ".join(f"{ms:.0f} ms" for ms in (forward, *beyond))
        each = sum(beyond) / count
        first = first or each
        total = f"{sum(beyond):.0f} ms, {sum(beyond) / forward:.2f} forwards"
        print(f"| {count} | {shown} | {total} | {each:.2f} ms | {each / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
