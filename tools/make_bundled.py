"""Make the encoder and the atlas that the package carries, from Java sources such as a JDK's ``lib/src.zip``.

    python tools/make_bundled.py encoder SRC_ZIP --work WORK     (about 25 minutes on two cores; resumes after a kill)
    python tools/make_bundled.py atlas SRC_ZIP --work WORK       (about 5 minutes)

The encoder is the recipe "bundled", trained on the bundled language model's patterns of random spans that the model
completes correctly (paper section 4). A share of every batch is planted patterns, because the small model lacks some
behaviours that larger ones have. The atlas is fitted on prompts of all ten tasks from held-out files; a shorter copy of
each pattern is added to its reference points, under the same cluster, so that short prompts can be placed.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from apmae import bundled, recipes
from apmae.artifacts import matrix, read_tables, write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.config import AtlasConfig, CaptureConfig, EncodeConfig, PromptsConfig, TrainConfig
from apmae.corpus.parse import parse_source
from apmae.engine.local import encode
from apmae.engine.prompts import load_prompts, make_prompts
from apmae.lm.load import load_lm
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import FAMILIES, planted
from apmae.schema import SCORES
from apmae.seeding import generator
from apmae.train.lm_source import LMSource
from apmae.train.loop import METRICS, fit
from apmae.train.source import ArraySource

_PLANTED_SHARE = 0.1875  # 12 of a batch of 64
_POINTS = 12_000  # of full patterns, and the same number of shorter ones: about 10 MB
_EPSILON = 0.15  # finer than the default: for tags, pure clusters matter more than few clusters
_NOISES = (0.1, 0.5, 1.0, 1.5, 2.0)
_FAMILIES = tuple(FAMILIES)[:9]  # up to sink_and_previous; the others are kept to measure the encoder with


class MixedSource:
    """Batches with a fixed share of planted patterns."""

    def __init__(self, real: LMSource, made: ArraySource) -> None:
        self._real, self._made = real, made

    def batch(self, step: int) -> Patterns:
        """The patterns of a step."""
        return Patterns.concatenate([self._real.batch(step), self._made.batch(step)])

    def state(self) -> dict[str, np.ndarray]:
        """The state of the real patterns; planted ones follow from the step."""
        return self._real.state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from a state."""
        self._real.restore(state)

    def counts(self) -> dict[str, int]:
        """The counts of the real patterns."""
        return self._real.counts()


def planted_patterns(per_family: int, seed: int) -> Patterns:
    """Planted patterns at several noise levels, float16."""
    parts = [
        planted(per_family // len(_NOISES), noise=noise, families=_FAMILIES, seed=seed + i)[0]
        for i, noise in enumerate(_NOISES)
    ]
    for part in parts:
        part.log_patches = part.log_patches.half()
    return Patterns.concatenate(parts)


def make_encoder(source: str, work: Path, config: TrainConfig, count: int) -> None:
    lm = load_lm()
    path = work / "train-prompts.parquet"
    drawn = PromptsConfig(per_task=count, tasks=("random",), outcome="correct", split="train")
    make_prompts([parse_source(source)], path, drawn, lm=lm)
    made = round(config.batch_size * _PLANTED_SHARE)
    real = LMSource(
        lm,
        load_prompts(path),
        config.capture,
        size=config.model.pattern_size,
        batch_size=config.batch_size - made,
        seed=config.seed,
        buffer=config.buffer,
    )
    mixed = MixedSource(real, ArraySource(planted_patterns(100, config.seed), made, config.seed))
    mae = fit(config, mixed, folder=work)
    mae.save_pretrained(bundled.encoder(), dtype=torch.float16)
    write_json(bundled.encoder() / "training.json", {**config.model_dump(mode="json"), "planted": sorted(_FAMILIES)})
    (bundled.encoder() / METRICS).write_bytes((work / METRICS).read_bytes())


def make_atlas(source: str, work: Path, per_task: int) -> None:
    lm, mae = load_lm(), APMAE.from_pretrained()
    path = work / "atlas-prompts.parquet"
    config = PromptsConfig(per_task=per_task, outcome="balanced", split="held_out")
    make_prompts([parse_source(source)], path, config, lm=lm)
    counts = encode(lm, "bundled", path, work / "embeddings", EncodeConfig(exemplars_per_head=0))
    table = read_tables(work / "embeddings", "encode", "embeddings")
    measured = Measured(
        np.stack([table[f"score_{name}"].to_numpy() for name in SCORES], axis=1),
        matrix(table["key_kinds"]),
        matrix(table["query_kinds"]),
    )
    atlas = Atlas.fit(
        matrix(table["embedding"]),
        where=(table["layer"].to_numpy(), table["head"].to_numpy()),
        config=AtlasConfig(reference_points=_POINTS, epsilon=_EPSILON),
        num_heads=sum(counts["heads_by_layer"]),
        measured=measured,
        encoder=mae,
    )
    # One shorter copy of each pattern, for the same behaviour on a short prompt. Rows are in the same order.
    draw = generator(0, "short")
    short = []
    for captured in capture_prompts(lm, load_prompts(path), CaptureConfig(), size=mae.config.pattern_size):
        longest = np.array([len(window.ids) for window in captured.windows])
        longest = longest[captured.patterns.prompt - captured.patterns.prompt[0]]
        short.append(
            mae.encode(captured.patterns.cropped(np.exp(draw.uniform(np.log(8), np.log(longest))).astype(int)))
        )
    kept = np.sort(draw.permutation(len(table))[:_POINTS])
    atlas.extend(np.concatenate(short)[kept], atlas.labels_[kept], atlas.coordinates_[kept])
    atlas.save(bundled.atlas())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("encoder", "atlas"))
    parser.add_argument("source", help="folder, zip or tar of Java that is not in the bundled sample")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and intermediate tables")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--prompts", type=int, default=1500, help="prompts to train on")
    parser.add_argument("--per-task", type=int, default=30, help="prompts per task in the atlas")
    arguments = parser.parse_args()
    if arguments.what == "encoder":
        config = recipes.train_recipe("bundled").model_copy(update={"steps": arguments.steps})
        make_encoder(arguments.source, arguments.work, config, arguments.prompts)
    else:
        make_atlas(arguments.source, arguments.work, arguments.per_task)


if __name__ == "__main__":
    main()
