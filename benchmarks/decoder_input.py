"""What should the decoder see: the visible patches, or CLS alone as published? Train both, same data, same steps.

    python benchmarks/decoder_input.py SOURCE [--steps 1000]

Prints, for each: held-out reconstruction loss; how well 5 nearest neighbours in embedding space recover the head that
made a held-out pattern; and how well they recover the family of planted patterns never trained on.
"""

import argparse
import json
from collections import Counter

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from apmae.config import PromptsConfig
from apmae.corpus.sources import list_sources
from apmae.lm.load import load_lm
from apmae.lm.outcome import draw_prompts
from apmae.lm.stream import capture_prompts
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import planted
from apmae.recipes import RECIPES, train_recipe
from apmae.train.loop import fit
from apmae.train.source import ArraySource


def neighbours_agree(z: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of 5 nearest neighbours (Manhattan), fitted on every other row."""
    model = KNeighborsClassifier(5, metric="manhattan", algorithm="brute").fit(z[::2], labels[::2])
    return float(model.score(z[1::2], labels[1::2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder, zip or tar of Java that trains the encoders")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--recipe", default="nano", choices=tuple(RECIPES))
    arguments = parser.parse_args()
    lm = load_lm()
    files = list_sources([arguments.source], suffixes=(".java",))
    parts = {}
    for split, count in (("train", arguments.prompts), ("held_out", arguments.prompts // 5)):
        config = PromptsConfig.model_validate(
            {"per_task": count, "tasks": ["random"], "outcome": "correct", "split": split}
        )
        prompts, _ = draw_prompts(lm, files, config, rejected=Counter())
        stream = capture_prompts(lm, prompts, length=256, batch=8, heads=0.25)
        parts[split] = Patterns.concatenate([captured.patterns for captured in stream])
    truth, families = planted(40)
    held_out = parts["held_out"]
    for decoder_input in ("visible", "cls"):
        recipe = train_recipe(arguments.recipe).model_copy(update={"steps": arguments.steps})
        config = recipe.model_copy(update={"model": recipe.model.model_copy(update={"decoder_input": decoder_input})})
        mae = fit(config, ArraySource(parts["train"], config.batch_size, 0))
        _, result = mae.reconstruct(held_out)
        z, planted_z = mae.encode(held_out), mae.encode(truth)
        print(
            json.dumps(
                {
                    "decoder_input": decoder_input,
                    "steps": arguments.steps,
                    "held_out_loss": round(float(result.loss), 5),
                    "head_accuracy": round(neighbours_agree(z, held_out.layer * lm.num_heads + held_out.head), 4),
                    "planted_accuracy": round(neighbours_agree(planted_z, families), 4),
                    "threads": torch.get_num_threads(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
