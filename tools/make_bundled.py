"""Make what the package carries to represent and place patterns: constants, encoder and atlas.

    python tools/make_bundled.py descriptor --work WORK          (about 2 minutes)
    python tools/make_bundled.py encoder SRC_ZIP --work WORK     (about 20 minutes of one core; resumes after a kill)
    python tools/make_bundled.py atlas SRC_ZIP --work WORK       (about 5 minutes)
    python tools/make_bundled.py strengths --work WORK           (after atlas: how sure a vote among other models is)

SRC_ZIP is a JDK's ``lib/src.zip``. The constants of the descriptor come from the grammar alone. Encoder and atlas are
made from several language models, so that they do not learn one model's habits: the three bundled ones and any others,
given as ``--lm FOLDER TEXTS LANGUAGE`` for each (tiny ones of other families: ``tools/train_lm.py``). The encoder is
trained on prompts of training files, the atlas fitted on prompts of held-out files.

Heads of large models put most of their attention on a sink, which small models have not learned. So the atlas is also
fitted on copies of each prompt's patterns in which a part of every row goes to a few keys. Shorter copies of the
patterns are added to its reference points, under the same clusters, so that short prompts can be placed.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from apmae import bundled, recipes
from apmae.artifacts import write_json
from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import kinds_of, measured_names
from apmae.atlas.names import Measured, agreeing, definitions
from apmae.atlas.search import Search
from apmae.atlas.vote import VOTERS
from apmae.config import AtlasConfig, CaptureConfig, PromptsConfig, parse
from apmae.corpus.parse import parse_source
from apmae.encode import score_batch
from apmae.engine.prompts import load_prompts, make_prompts
from apmae.lm.load import load_lm
from apmae.lm.stream import Captured, capture_prompts
from apmae.model.mae import APMAE
from apmae.model.represent import cls_whitening, represented
from apmae.patterns import geometry
from apmae.patterns.descriptor import describe
from apmae.patterns.gate import has_structure
from apmae.patterns.grammar import grammar
from apmae.patterns.patterns import Patterns
from apmae.patterns.tokens import token_kinds
from apmae.patterns.whitening import Whitening
from apmae.prompts.prompt import Prompt
from apmae.schema import NOISE
from apmae.seeding import generator
from apmae.train.loop import METRICS, train

_LAYERS = 1000
"""Layer numbers of a model begin at a multiple of this, so that its heads are nobody else's."""
_POINTS = 14_000  # fitted ones of the reference, and half as many shorter copies, of 301 numbers each: 13 MB
_CONFIG = AtlasConfig(reference_points=_POINTS, by_kind=True, min_cluster_size=25)
"""Twice the smallest branch that so many rows have by default: with it the strength of the vote was chosen, and what
the atlas says of other models was measured (``docs/studies/embedding.md``)."""
_PARKED = 2
"""Copies of each prompt with parked attention."""
_PROGRAMS, _INSTANCES = 800, 6
_ROWS = "rows.npz"
"""What the atlas was fitted on."""
_SINKS = ("first-token sink", "later sink")


class Subject(NamedTuple):
    """A language model and the texts that it is run on."""

    lm: str
    texts: str
    language: str


def make_descriptor() -> None:
    for causal in (True, False):
        patterns = grammar(_PROGRAMS, _INSTANCES, seed=11, causal=causal)
        found = describe(patterns)
        passing = has_structure(found.structure)
        Whitening.fit(found.values[passing], patterns.head[passing]).save(bundled.descriptor(causal))


def captures(subject: Subject, work: Path, split: str, per_task: int) -> Iterator[Captured]:
    """The patterns that a model makes of prompts of all tasks, from one split of the files."""
    lm = load_lm(subject.lm)
    path = work / f"{Path(subject.lm).name}-{split}.parquet"
    asked = {"per_task": per_task, "outcome": "any", "split": split, "language": subject.language}
    config = parse(PromptsConfig, asked, "prompts")
    make_prompts([parse_source(subject.texts)], path, config, lm=lm)
    yield from capture_prompts(lm, load_prompts(path), CaptureConfig(batch=4), size=256)


def training_patterns(subjects: list[Subject], work: Path, per_task: int) -> Patterns:
    """The patterns of all models; heads of different models have different layer numbers."""
    parts = []
    for number, subject in enumerate(subjects):
        for captured in captures(subject, work, "train", per_task):
            part = captured.patterns.without_texts()
            part.layer, part.prompt = part.layer + _LAYERS * number, part.prompt + 10**6 * number
            parts.append(part)
    return Patterns.concatenate(parts)


def make_encoder(subjects: list[Subject], work: Path, per_task: int, steps: int | None, seed: int) -> None:
    config = recipes.train_recipe("bundled").model_copy(update={"seed": seed})
    if steps:
        config = config.model_copy(update={"steps": steps})
    mae = train(training_patterns(subjects, work, per_task), config, folder=work / "encoder")
    cls_whitening(mae)
    mae.save_pretrained(bundled.encoder(), dtype=torch.float16)
    models = [Path(subject.lm).name for subject in subjects]
    write_json(bundled.encoder() / "training.json", {**config.model_dump(mode="json"), "models": models})
    (bundled.encoder() / METRICS).write_bytes((work / "encoder" / METRICS).read_bytes())


def parked(captured: Captured, draw: np.random.Generator) -> Captured:
    """The same prompts with a part of every row on a few keys, as larger models park what a head does not need.

    Those keys are the first token and delimiters (Sun et al. 2024, arXiv 2402.17762): mostly key 0, else some tokens
    of one kind, with or without key 0. How much of a row goes there is drawn for each pattern, and for most of them
    varies from row to row.
    """
    patterns = captured.patterns
    kinds = [np.asarray(token_kinds(window.tokens)) for window in captured.windows]
    p = patterns.probabilities()
    for number, prompt in enumerate(patterns.prompt - patterns.prompt[0]):
        real = p[number].sum(-1) > 0
        weights = np.zeros(len(real))
        if draw.random() < 0.5:
            own = kinds[prompt][: len(real)]
            alike = np.flatnonzero(own == draw.choice(np.unique(own)))
            chosen = draw.permutation(alike[alike > 0])[: draw.integers(1, 7)]
            weights[chosen] = draw.uniform(0.3, 1, len(chosen))
        if draw.random() < 0.6 or not weights.any():
            weights[0] = draw.uniform(0.1, 1.5)
        part = draw.beta(2, 1.2) + (draw.normal(0, 0.15, len(real)) if draw.random() < 0.6 else 0.0)
        visible = np.tril(np.broadcast_to(weights, p[number].shape))
        total = visible.sum(-1)
        part = np.clip(part, 0.02, 0.995) * real * (total > 0)
        p[number] = (1 - part)[:, None] * p[number] + (part / np.maximum(total, 1e-9))[:, None] * visible
    logs = torch.from_numpy(p).float().log()  # not from_probabilities: rows with a sink outside sum to less than 1
    changed = Patterns(
        geometry.pack(logs, patterns.patch, -torch.inf),
        patterns.size,
        prompt=patterns.prompt,
        layer=patterns.layer,
        head=patterns.head,
        tokens=patterns.tokens,
    )
    return dataclasses.replace(captured, patterns=changed)


def make_atlas(subjects: list[Subject], work: Path, per_task: int) -> None:
    mae, draw = APMAE.from_pretrained(), generator(0, "short")
    rows: dict[str, list[np.ndarray]] = {}
    asked: list[list[Prompt]] = []
    for number, subject in enumerate(subjects):
        asked.append([])
        for captured in captures(subject, work, "held_out", per_task):
            asked[-1] += captured.prompts
            for copy, seen_by in enumerate((captured, *(parked(captured, draw) for _ in range(_PARKED)))):
                patterns = seen_by.patterns
                scores, seen = score_batch(seen_by), represented(patterns, mae)
                longest = np.array([len(window.ids) for window in seen_by.windows])
                longest = longest[patterns.prompt - patterns.prompt[0]]
                lengths = np.exp(draw.uniform(np.log(8), np.log(longest))).astype(int)
                short = patterns.cropped(lengths)
                short_scores = score_batch(dataclasses.replace(seen_by, patterns=short))
                for name, values in (
                    ("z", seen.z),
                    ("structured", seen.structured),
                    ("layer", patterns.layer + _LAYERS * ((1 + _PARKED) * number + copy)),
                    ("head", patterns.head),
                    ("prompt", patterns.prompt + 10**6 * number),
                    ("length", lengths),
                    ("values", scores.values),
                    ("key_kinds", scores.key_kinds),
                    ("query_kinds", scores.query_kinds),
                    ("short", represented(short, mae).z),
                    ("short_values", short_scores.values),
                    ("short_key_kinds", short_scores.key_kinds),
                    ("short_query_kinds", short_scores.query_kinds),
                ):
                    rows.setdefault(name, []).append(values)
    found = {name: np.concatenate(values) for name, values in rows.items()}
    names = [Path(subject.lm).name for subject in subjects]
    np.savez(work / _ROWS, **found)  # pyright: ignore[reportArgumentType]
    atlas = Atlas.fit(
        found["z"],
        where=(found["layer"], found["head"]),
        config=_CONFIG,
        measured=Measured(found["values"], found["key_kinds"], found["query_kinds"]),
        encoder=mae,
        representation="joint",
        structured=found["structured"],
        prompts=found["prompt"],
        origins=origins(found, asked, names),
    )
    # A shorter copy belongs to its pattern's cluster, unless it does something else.
    short = Measured(*(found[f"short_{name}"] for name in ("values", "key_kinds", "query_kinds")))
    inside = np.flatnonzero(atlas.labels_ != NOISE)
    same = agreeing(definitions(atlas.clusters), short.of(inside), leading=True)
    kept = inside[same[np.arange(len(inside)), atlas.labels_[inside]]]
    kept = np.sort(draw.permutation(kept)[: _POINTS // 2])
    atlas.extend(
        found["short"][kept],
        atlas.labels_[kept],
        atlas.coordinates_[kept],
        origins=origins({name: values[kept] for name, values in found.items()}, asked, names, short=True),
    )
    atlas.models = tuple(names)
    atlas.constants = bundled.constants()
    atlas.save(bundled.atlas())


def origins(
    rows: dict[str, np.ndarray], asked: list[list[Prompt]], names: list[str], *, short: bool = False
) -> dict[str, Any]:
    """Where rows came from, as ``Atlas.fit`` asks: the prompts of each model, numbered from 0, are ``asked``."""
    model, number = np.divmod(rows["prompt"], 10**6)
    prompts = [asked[one][two] for one, two in zip(model.tolist(), number.tolist(), strict=True)]
    parked = rows["layer"] // _LAYERS % (1 + _PARKED) > 0
    variants = [
        ", ".join([*(["with added sinks"] if changed else []), *([f"first {length} tokens"] if short else [])]) or None
        for changed, length in zip(parked.tolist(), rows["length"].tolist(), strict=True)
    ]
    return {
        "model": [names[one] for one in model.tolist()],
        "prompt": number,
        "path": [prompt.path for prompt in prompts],
        "task": [prompt.task for prompt in prompts],
        "layer": rows["layer"] % _LAYERS,
        "head": rows["head"],
        "variant": variants,
    }


def strengths(work: Path) -> None:
    """Each model's patterns among those of the others: how often the kind that wins the vote leads their own name.

    By the share of the vote that a kind has to win: patterns for which one does, and those of them that it is right
    for; the same without sinks.
    """
    found = np.load(work / _ROWS)
    passing = found["structured"]
    own = np.array([kinds_of(name)[0] for name in measured_names(found["values"], found["key_kinds"])])
    model, sink = found["layer"] // (_LAYERS * (1 + _PARKED)), np.isin(own, _SINKS)
    print("| model | share | placed | right | no sinks: placed | right |")
    for number in np.unique(model):
        others, rows = (np.flatnonzero(of & passing) for of in (model != number, model == number))
        nearest = Search(found["z"][others].astype(np.float16), "manhattan", VOTERS).nearest(found["z"][rows])
        weights = 1 / (nearest.distances + np.median(nearest.distances[:, 0]))
        kinds, voters = np.unique(own[others], return_inverse=True)
        votes = np.stack([(weights * (voters[nearest.indices] == kind)).sum(1) for kind in range(len(kinds))], axis=1)
        votes /= votes.sum(1, keepdims=True)
        right = kinds[votes.argmax(1)] == own[rows]
        for share in (0.5, 0.6, 0.7, 0.8):
            sure = votes.max(1) >= share
            figures = [
                figure
                for of in (np.ones(len(rows), bool), ~sink[rows])
                for figure in (sure[of].mean(), right[of & sure].mean())
            ]
            print(f"| {number} | {share} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("descriptor", "encoder", "atlas", "strengths"))
    parser.add_argument("source", nargs="?", help="folder, zip or tar of Java that is not in the bundled sample")
    parser.add_argument("--lm", nargs=3, action="append", default=[], metavar=("FOLDER", "TEXTS", "LANGUAGE"))
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and intermediate tables")
    parser.add_argument("--steps", type=int, help="of the encoder; by default the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-task", type=int, default=6, help="prompts per task and model")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    subjects = [Subject(name, arguments.source, "java") for name in bundled.LANGUAGE_MODELS]
    subjects += [Subject(*given) for given in arguments.lm]
    if arguments.what == "descriptor":
        make_descriptor()
    elif arguments.what == "encoder":
        make_encoder(subjects, arguments.work, arguments.per_task, arguments.steps, arguments.seed)
    elif arguments.what == "strengths":
        strengths(arguments.work)
    else:
        make_atlas(subjects, arguments.work, arguments.per_task)


if __name__ == "__main__":
    main()
