"""What does the stream cost besides the models? The bundled language model feeds the recipe "bundled" in the real loop.

    python benchmarks/training.py [--steps 60] [--rounds 3] [--threads 1]

Model code is the language model's forward (capture included), the encoder's forward and backward, and the optimizer.
Everything else, from drawing prompts to scaling a batch, is the stream; in guided training also the patterns of the
grammar and the descriptors. Rows are ratios, medians over rounds. The
published loop fills a batch with one prompt after another; that is compared with ours.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from apmae.config import PromptsConfig, TrainConfig
from apmae.corpus.parse import parse_source
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.outcome import window_of
from apmae.lm.selection import share_of
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.prompts.draw import build_prompts
from apmae.prompts.prompt import Prompt
from apmae.recipes import train_recipe
from apmae.train import checkpoint
from apmae.train.launch import drawn_share
from apmae.train.lm_source import LMSource
from apmae.train.loop import fit


class Clock:
    """Seconds in the code of each model."""

    def __init__(self) -> None:
        self.lm = self.encoder = 0.0
        self._since: dict[nn.Module, float] = {}
        self._stepped = 0.0

    @contextmanager
    def running(self, lm: nn.Module) -> Iterator[None]:
        """Measure while the block runs."""

        def before(module: nn.Module, _: Any) -> None:
            if module is lm or isinstance(module, APMAE):
                self._since[module] = time.perf_counter()

        def after(module: nn.Module, *_: Any) -> None:
            if module is lm:
                self.lm += time.perf_counter() - self._since.pop(module)

        def stepped(*_: Any) -> None:
            # From the encoder's forward to the end of the optimizer's step.
            self.encoder += time.perf_counter() - self._since.popitem()[1]

        with ExitStack() as stack:
            for handle in (
                register_module_forward_pre_hook(before),
                register_module_forward_hook(after),
                register_optimizer_step_post_hook(stepped),
            ):
                stack.callback(handle.remove)
            yield


class Warm:
    """A source whose buffer is filled before the clock starts."""

    def __init__(self, source: LMSource) -> None:
        self._source = source
        source.batch(0)
        self.prompts: list[int] = []
        self.layers: list[int] = []

    def batch(self, step: int) -> Patterns:
        """The patterns of a step."""
        patterns = self._source.batch(step + 1)
        self.prompts.append(len(np.unique(patterns.prompt)))
        self.layers.append(len(np.unique(patterns.layer)))
        return patterns


def source_of(lm: LM, prompts: Sequence[Prompt], config: TrainConfig, *, overlap: bool) -> LMSource:
    return LMSource(
        lm,
        prompts,
        config.capture,
        size=config.model.pattern_size,
        batch_size=drawn_share(config, 1),
        seed=config.seed,
        buffer=config.buffer,
        outcome="any",
        overlap=overlap,
        pairs=config.objective == "guided",
    )


def steps(lm: LM, prompts: Sequence[Prompt], config: TrainConfig, *, overlap: bool) -> dict[str, float]:
    """Train for the config's steps: seconds, their share in model code (0 with overlap), what a batch holds."""
    clock = Clock()
    with source_of(lm, prompts, config, overlap=overlap) as source:
        warm = Warm(source)
        with nullcontext() if overlap else clock.running(lm.model):
            begin = time.perf_counter()
            fit(config, warm)
            seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "share": (clock.lm + clock.encoder) / seconds,
        "lm": clock.lm / seconds,
        "prompts": statistics.mean(warm.prompts),
        "layers": statistics.mean(warm.layers),
    }


def padding(lm: LM, prompts: Sequence[Prompt], config: TrainConfig) -> tuple[float, float]:
    """Tokens run per token of a prompt: in the order drawn, and as the stream batches them."""
    width = config.capture.batch
    lengths = [len(window_of(lm, prompt, config.model.pattern_size).ids) for prompt in prompts]
    parts = [lengths[start : start + width] for start in range(0, len(lengths), width)]
    with source_of(lm, prompts, config, overlap=False) as source:
        sorted_parts = [[len(w.ids) for w in source._forwards[number].windows] for number in range(len(parts))]
    plain, ours = (sum(max(part) * len(part) for part in cut) / sum(lengths) for cut in (parts, sorted_parts))
    return plain, ours


def resuming(lm: LM, prompts: Sequence[Prompt], config: TrainConfig, drawn: int) -> dict[str, float]:
    """Seconds and bytes of a checkpoint that keeps the buffer's origins, compared with one that keeps its patterns."""
    model = APMAE(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with source_of(lm, prompts, config, overlap=False) as source, tempfile.TemporaryDirectory() as name:
        for step in range(drawn):
            source.batch(step)
        state = source.state()
        pixels = {"patterns": source._buffer._logs.view(torch.uint8).numpy()}
        sizes, seconds = [], []
        for kept in (state, {**state, **pixels}):
            begin = time.perf_counter()
            checkpoint.save(Path(name), drawn, checkpoint.State(model, optimizer), {}, [kept])
            seconds.append(time.perf_counter() - begin)
            sizes.append((Path(name) / checkpoint.NAME).stat().st_size)
        begin = time.perf_counter()
        checkpoint.load(Path(name), checkpoint.State(model, optimizer), {})
        read = time.perf_counter() - begin
    with source_of(lm, prompts, config, overlap=False) as other:
        begin = time.perf_counter()
        other.restore(state)
        replay = time.perf_counter() - begin
    return {
        "size": sizes[1] / sizes[0],
        "saved": seconds[1] - seconds[0],
        "read": read,
        "replay": replay,
        "forwards": len(np.unique(state["origins"][:, 0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-task", type=int, default=800)
    parser.add_argument("--drawn", type=int, default=300, help="steps before the checkpoint to resume from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm = load_lm()
    drawn = PromptsConfig(per_task=arguments.per_task, tasks=("random",), length=256, split="train")
    prompts, _ = build_prompts(parse_source("bundled").handles((".java",)), drawn)
    config = train_recipe("bundled").model_copy(update={"steps": arguments.steps, "warmup_steps": 0})
    one, two = [], []
    for _ in range(arguments.rounds):  # interleaved: the machine is noisy
        one.append(steps(lm, prompts, config, overlap=False))
        two.append(steps(lm, prompts, config, overlap=True))
    middle = {key: statistics.median(row[key] for row in one) for key in one[0]}
    ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(one, two, strict=True))
    share = config.capture.heads
    per_prompt = sum(heads if share == "all" else share_of(float(share), heads) for heads in lm.heads.values())
    drawn_patterns = drawn_share(config, 1)
    plain, ours = padding(lm, prompts, config)
    batch = f"batch {config.batch_size}, {drawn_patterns} of them the model's"
    print(f"{len(prompts)} prompts; buffer {config.buffer}, {batch}; {arguments.threads} threads")
    print(f"share of a step in model code, one after the other   {middle['share']:.3f}  (the LM's {middle['lm']:.3f})")
    print(f"a step with overlap / one after the other            {ratio:.3f}")
    mixed = middle["prompts"] * per_prompt / drawn_patterns
    held = f"{middle['prompts']:.1f} prompts, {middle['layers']:.1f} of {lm.num_layers} layers"
    print(f"prompts per batch / filled one prompt after another  {mixed:.1f}  ({held})")
    print(f"tokens run / tokens of prompts, in the order drawn   {plain:.3f}")
    print(f"tokens run / tokens of prompts, as batched here      {ours:.3f}")
    found = resuming(lm, prompts, config, arguments.drawn)
    step = statistics.median(row["seconds"] for row in one) / config.steps
    print(f"checkpoint with patterns / with their origins, bytes {found['size']:.1f}")
    print(f"saving the patterns too / a step                     {found['saved'] / step:.1f}  (each checkpoint)")
    once = f"once per resume; {found['forwards']:.0f} forwards; reading the patterns {found['read'] / step:.1f}"
    print(f"capturing them again / a step                        {found['replay'] / step:.1f}  ({once})")


if __name__ == "__main__":
    main()
