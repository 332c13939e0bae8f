"""What do edits of heads, records of their outputs and restarts cost, beside the plain forward?

    python benchmarks/edit.py MODEL [--dtype bfloat16] [--prompts 4] [--rounds 9]

Prompts are windows of 256 tokens of the bundled Java. All variants run in turn, round after round, so that whatever
else the machine does hits them alike. Each number is the median over rounds of the variant's CPU time divided by the
plain forward's in the same round. Two plain forwards per round say how much of that is noise. Edits include opening and
closing their block. "Every layer's restart" is one restarted forward for each layer, divided by as many plain ones:
what exact patching of one head per layer costs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from answers import of_java

import apmae
from apmae.lm.changes import Scale
from apmae.lm.edit import Edit
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.outcome import pad
from apmae.lm.record import mean_outputs, record_heads, sample_outputs
from apmae.lm.restart import Restart
from apmae.prompts.fim import Window


def variants(lm: LM, windows: list[Window]) -> dict[str, tuple[Callable[[], object], int]]:
    """Each variant as a function, and for how many forwards it stands."""
    ids, mask = pad([window.ids for window in windows], lm.pad_id)
    few = {"logits_to_keep": 1} if lm.keeps_logits else {}
    inputs: dict[str, Any] = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device), "use_cache": False}
    places = [(layer, head) for layer, heads in lm.heads.items() for head in range(heads)]
    middle = places[len(places) // 2]
    means, samples = mean_outputs(lm, windows), sample_outputs(lm, windows, count=4)

    def forward() -> object:
        return lm.model(**inputs, **few)

    with record_heads(lm) as recorded:
        forward()
    patches = recorded.patches(places)
    restart = Restart(lm)
    with restart.recording():
        forward()

    def edited(edits: dict[tuple[int, int], Edit]) -> Callable[[], object]:
        def run() -> object:
            with apmae.edit(lm, edits):
                return forward()

        return run

    def record() -> object:
        with record_heads(lm) as own:
            forward()
        return own.outputs

    def gradients() -> object:
        with torch.enable_grad(), record_heads(lm, gradients=True) as own:
            chosen = lm.model(**inputs, **few).logits[:, -1, 0].sum()
            return torch.autograd.grad(chosen, [*own.outputs.values()])

    def restarts() -> object:
        for layer in range(lm.num_layers):
            with restart.at(layer):
                forward()
        return restart.reason

    def kept() -> object:
        with restart.recording():
            return forward()

    every: dict[str, dict[tuple[int, int], Edit]] = {
        "zero": dict.fromkeys(places, "zero"),
        "scale": dict.fromkeys(places, Scale(0.5)),
        "a function": dict.fromkeys(places, torch.neg),
        "mean": dict(means),
        "resample": dict(samples),
        "patch": dict(patches),
    }
    found: dict[str, tuple[Callable[[], object], int]] = {
        "plain forward": (forward, 1),
        "plain forward, again": (forward, 1),
        "one head: zero": (edited({middle: "zero"}), 1),
        "one head: mean": (edited({middle: means[middle]}), 1),
        "one head: resample": (edited({middle: samples[middle]}), 1),
        "one head: patch": (edited({middle: patches[middle]}), 1),
    }
    found |= {f"all heads: {name}": (edited(edits), 1) for name, edits in every.items()}
    found |= {
        "recording all heads": (record, 1),
        "recording in the graph, and its gradients": (gradients, 1),
        "recording for restarts": (kept, 1),
        "every layer's restart": (restarts, lm.num_layers),
    }
    return found


@torch.no_grad()
def measure(lm: LM, windows: list[Window], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round, for one forward, after one round that does not count."""
    runs = variants(lm, windows)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run, forwards = runs[name]
            start = time.process_time()
            run()
            if number:
                seconds[name].append((time.process_time() - start) / forwards)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm = load_lm(arguments.model, dtype=arguments.dtype, check=False)
    windows = of_java(lm, arguments.prompts)
    seconds = measure(lm, windows, arguments.rounds)
    print(f"{lm.name}, {sum(lm.heads.values())} heads, {arguments.prompts} prompts of {len(windows[0].ids)} tokens")
    print("| variant | ms per forward | x plain forward | lower and upper quartile |")
    print("|---|---|---|---|")
    for variant, spent in seconds.items():
        ratios = [own / bound for own, bound in zip(spent, seconds["plain forward"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells = [variant, f"{1000 * statistics.median(spent):.0f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
