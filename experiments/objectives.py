"""Which objective makes the better encoder, in equal time? The table of docs/studies/embedding.md.

    python experiments/objectives.py TEXTS --unseen SMOLLM2 [--seconds 100] [--seeds 3]

Each encoder is ``nano`` with one objective, trained on patterns of the bundled model (files of the split ``train``) for
as many steps as fit into equal processor time. The figure is the head by 5 neighbours on other prompts: of the bundled
model, on held-out files, and of a model that no encoder saw.
"""

import argparse
import time
from typing import Any

import numpy as np
from embedding import neighbors, study

from apmae.config import TrainConfig, parse
from apmae.model.represent import represented
from apmae.patterns.descriptor import WIDTH
from apmae.recipes import train_recipe
from apmae.train import loop

OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "mae, log pixels": ({"objective": "mae", "pixels": "log"}, {}),
    "mae, root pixels too": ({"objective": "mae"}, {}),
    "and contrast over programs": ({"head_labels": False}, {"DESCRIPTION": 0.0}),
    "and description": ({"head_labels": False}, {}),
    "and contrast over heads (nano)": ({}, {}),
}
"""What is compared: settings, and weights of the guided losses where they differ from ``train/objectives.py``."""
WEIGHTS = {"CONTRAST": loop.CONTRAST, "DESCRIPTION": loop.DESCRIPTION}
"""Those of ``train/objectives.py``, before any objective sets its own."""
_TIMED = 12
"""Steps that are timed, to learn how many fit."""


def config_of(name: str, steps: int, seed: int) -> TrainConfig:
    """``nano`` with one of the objectives; sets the weights of its losses."""
    settings, weights = OBJECTIVES[name]
    loop.CONTRAST, loop.DESCRIPTION = (weights.get(which, own) for which, own in WEIGHTS.items())
    values = train_recipe("nano").changed({"steps": steps, "seed": seed, **settings})
    return parse(TrainConfig, values, "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--unseen", required=True, help="a model to measure on that nothing is trained on")
    parser.add_argument("--seconds", type=float, default=100, help="processor time of each training")
    parser.add_argument("--prompts", type=int, default=60, help="of the bundled model, to train on")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    asked = {"texts": arguments.texts, "language": "java", "per_task": 6, "seed": 0}
    fit = study(argparse.Namespace(**asked, model="bundled", split="train", prompts=arguments.prompts)).patterns
    measured = [
        study(argparse.Namespace(**asked, model=model, split="held_out", prompts=24))
        for model in ("bundled", arguments.unseen)
    ]
    described = [represented(own.patterns, None, "descriptor").z for own in measured]
    for own, z in zip(measured, described, strict=True):
        print(f"descriptor alone: {neighbors(z, own.head, own.half).mean():.3f}")
    steps = {}
    for name in OBJECTIVES:
        begin = time.process_time()
        loop.train(fit, config_of(name, _TIMED, 0))
        steps[name] = round(arguments.seconds / (time.process_time() - begin) * _TIMED)
    print("| objective | seed | steps | s | bundled: CLS | joint | unseen: CLS | joint |")
    for seed in range(arguments.seeds):
        for name, count in steps.items():
            begin = time.process_time()
            trained = loop.train(fit, config_of(name, count, seed))
            took = time.process_time() - begin
            found = []
            for own, z in zip(measured, described, strict=True):
                joint = represented(own.patterns, trained, "joint").z
                for what in (trained.encode(own.patterns), np.concatenate([z, joint[:, WIDTH:]], axis=1)):
                    found.append(neighbors(what, own.head, own.half).mean())
            print(f"| {name} | {seed} | {count} | {took:.0f} | {' | '.join(f'{x:.3f}' for x in found)} |", flush=True)


if __name__ == "__main__":
    main()
