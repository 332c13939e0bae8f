"""Do representations tell what heads do? One command per figure of docs/studies/embedding.md.

    python experiments/embedding.py heads MODEL TEXTS [--language python] [--encoder FOLDER]
    python experiments/embedding.py probes | halves | gate | tags | cost MODEL TEXTS ...
    python experiments/embedding.py planted | clusters [--encoder FOLDER]
    python experiments/embedding.py map MODEL TEXTS --out FIGURE.png

MODEL is a language model, TEXTS what ``apmae prompts`` takes; prompts are of any outcome, from files of the split
``held_out`` (``--split all`` for texts that nothing was trained on). Half of the prompts, drawn by a seed, are for
fitting, the others for measuring.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from held_out import HELD_OUT, held_out
from numpy import ndarray
from probes import accuracy, head_accuracy
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from apmae.atlas.atlas import Atlas
from apmae.atlas.kinds import kinds_of, measured_names
from apmae.atlas.names import Measured
from apmae.config import CaptureConfig, PromptsConfig, Representation, parse
from apmae.corpus.parse import parse_source
from apmae.encode import score_batch
from apmae.engine.prompts import load_prompts, make_prompts
from apmae.lm.language_model import LM
from apmae.lm.load import load_lm
from apmae.lm.stream import capture_prompts
from apmae.model.mae import APMAE
from apmae.model.represent import represented
from apmae.patterns.descriptor import describe
from apmae.patterns.gate import has_structure
from apmae.patterns.patterns import Patterns
from apmae.patterns.planted import FAMILIES, planted
from apmae.prompts.prompt import Prompt
from apmae.schema import NOISE

_KINDS: tuple[Representation, ...] = ("cls", "descriptor", "joint")


class Study(NamedTuple):
    """Patterns of some prompts, in order, and what is known of them."""

    patterns: Patterns
    head: ndarray
    """(n) number of the head."""
    half: ndarray
    """(n) whether the prompt is for fitting."""
    measured: list[str]
    """(n) the name that each pattern's own scores give."""
    scores: Measured


def drawn_prompts(arguments: argparse.Namespace, lm: LM) -> list[Prompt]:
    """Prompts of the texts, in random order."""
    asked = {"per_task": arguments.per_task, "outcome": "any", "split": arguments.split, "seed": arguments.seed}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.parquet"
        config = parse(PromptsConfig, {**asked, "language": arguments.language}, "prompts")
        make_prompts([parse_source(source) for source in arguments.texts], path, config, lm=lm)
        prompts = load_prompts(path)
    order = np.random.default_rng(arguments.seed).permutation(len(prompts))
    return [prompts[number] for number in order[: arguments.prompts]]


def study(arguments: argparse.Namespace, lm: LM | None = None) -> Study:
    """Capture all heads of the model on the prompts."""
    lm = lm or load_lm(arguments.model)
    prompts = drawn_prompts(arguments, lm)
    parts, names, values = [], [], []
    for captured in capture_prompts(lm, prompts, CaptureConfig(batch=4), size=256):
        parts.append(captured.patterns.without_texts())
        scores = score_batch(captured)
        names += measured_names(scores.values, scores.key_kinds)
        values.append((scores.values, scores.key_kinds, scores.query_kinds))
    patterns = Patterns.concatenate(parts)
    scores = Measured(*(np.concatenate(part) for part in zip(*values, strict=True)))
    _, head = np.unique(np.stack([patterns.layer, patterns.head]), axis=1, return_inverse=True)
    print(f"{lm.name}: {len(prompts)} prompts, {head.max() + 1} heads", flush=True)
    return Study(patterns, head.ravel(), patterns.prompt < len(prompts) // 2, names, scores)


def pixels(patterns: Patterns, *, root: bool = False) -> ndarray:
    """(n, 1024) means of 8 x 8 pixels of log-normalised patterns, or of root probabilities."""
    found = []
    for begin in range(0, len(patterns), 64):
        some = patterns[begin : begin + 64]
        dense = np.sqrt(some.probabilities()) if root else some.scaled()
        size = dense.shape[1] // 8
        found.append(dense[:, : size * 8, : size * 8].reshape(len(dense), size, 8, size, 8).mean((2, 4)))
    joined = np.concatenate(found)
    return joined.reshape(len(joined), -1)


def inputs(patterns: Patterns, mae: APMAE) -> dict[str, ndarray]:
    """Everything that is compared, by name."""
    seen = {kind: represented(patterns, mae, kind).z for kind in _KINDS}
    whitened = seen["joint"][:, seen["descriptor"].shape[1] :]
    return {"pixels": pixels(patterns), "root pixels": pixels(patterns, root=True), **seen, "cls, whitened": whitened}


def neighbors(z: ndarray, labels: ndarray, fit: ndarray) -> ndarray:
    """Whether 5 nearest neighbours (Manhattan) name the label of each row that is not for fitting."""
    model = KNeighborsClassifier(5, metric="manhattan", algorithm="brute").fit(z[fit], labels[fit])
    return model.predict(z[~fit]) == labels[~fit]


def heads(arguments: argparse.Namespace, mae: APMAE) -> None:
    """The head by 5 neighbours on other prompts; a null with heads permuted; intervals over prompts."""
    found = study(arguments)
    prompt = found.patterns.prompt[~found.half]
    draw = np.random.default_rng(0)
    null = draw.permutation(found.head)
    right = {}
    for name, z in inputs(found.patterns, mae).items():
        right[name] = neighbors(z, found.head, found.half)
        chance = neighbors(z, null, found.half).mean()
        low, high = bootstrap(right[name].astype(float), prompt, draw)
        print(f"| {name} | {right[name].mean():.3f} | {low:.3f} to {high:.3f} | {chance:.3f} |", flush=True)
    gain = right["joint"].astype(float) - right["descriptor"]
    low, high = bootstrap(gain, prompt, draw)
    print(f"joint less descriptor: {gain.mean():+.3f} ({low:+.3f} to {high:+.3f})")


def bootstrap(values: ndarray, groups: ndarray, draw: np.random.Generator) -> tuple[float, float]:
    """A 95 % interval of the mean, groups drawn with replacement."""
    means = np.array([values[groups == group].mean() for group in np.unique(groups)])
    drawn = means[draw.integers(0, len(means), (2000, len(means)))].mean(1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def probe(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Linear probes of layer, and of the head among those of its layer, on prompts that they were not fitted on."""
    found = study(arguments)
    layer, head = found.patterns.layer, found.patterns.head
    for name, z in inputs(found.patterns, mae).items():
        scores = accuracy(z, layer, found.patterns.prompt), head_accuracy(z, layer, head, found.patterns.prompt)
        print(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} |", flush=True)


def halves(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Are clusters of one half of the prompts found again in the other? Best Jaccard of each, and its mean."""
    found = study(arguments)
    passing = represented(found.patterns, mae, "descriptor").structured
    found = Study(found.patterns[passing], found.head[passing], found.half[passing], found.measured, found.scores)
    for name, z in inputs(found.patterns, mae).items():
        one, other = Atlas.fit(z[found.half], seed=0), Atlas.fit(z[~found.half], seed=0)
        placed = one.place(z[~found.half]).cluster
        best = [
            max((jaccard(placed == own, other.labels_ == theirs) for theirs in range(len(other.clusters))), default=0.0)
            for own in range(len(one.clusters))
        ]
        covered = float(np.mean(one.labels_ != NOISE))
        largest = float(np.bincount(one.labels_[one.labels_ != NOISE]).max() / len(one.labels_)) if best else 0.0
        mean = np.mean(best) if best else 0.0
        print(f"| {name} | {len(best)} | {covered:.3f} | {largest:.3f} | {mean:.3f} |", flush=True)


def jaccard(a: ndarray, b: ndarray) -> float:
    """Of two sets, given as booleans."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def gate(arguments: argparse.Namespace, mae: APMAE) -> None:
    """How many patterns pass: real ones, the same with shuffled rows, and independent noise; short ones left out."""
    patterns = study(arguments).patterns
    patterns = patterns[np.random.default_rng(0).permutation(len(patterns))[:2000]]
    judged = ~np.isnan(describe(patterns).structure)
    print(f"too short to be judged: {np.mean(~judged):.4f} of {len(patterns)}")
    patterns = patterns[judged]
    draw = np.random.default_rng(1)
    probabilities = patterns[slice(0, 600)].probabilities()
    for rows in probabilities:
        for query in range(len(rows)):
            rows[query, : query + 1] = draw.permutation(rows[query, : query + 1])
    scores = draw.uniform(0.1, 4, (600, 1, 1)) * draw.standard_normal((600, 256, 256))
    scores = torch.from_numpy(scores).masked_fill(torch.ones(256, 256).triu(1).bool(), -torch.inf)
    for name, some in (
        ("real", patterns),
        ("shuffled", Patterns.from_probabilities(probabilities)),
        ("noise", Patterns.from_probabilities(scores.softmax(-1).float())),
    ):
        found = describe(some).structure
        spread = np.quantile(found, [0.01, 0.5, 0.99])
        print(
            f"| {name} | {len(some)} | {has_structure(found).mean():.4f} | {' | '.join(f'{x:.1f}' for x in spread)} |"
        )


def tags(arguments: argparse.Namespace, mae: APMAE) -> None:
    """What the bundled atlas says of the model's heads, against what their own scores say."""
    found, atlas = study(arguments), Atlas.load()
    seen = represented(found.patterns, mae, atlas.representation or "joint")
    placed = atlas.place(seen.z, structured=seen.structured, unseen=True)
    # The null: the scores of the prompt's other heads, under the same rule.
    draw, order = np.random.default_rng(0), np.arange(len(found.measured))
    for prompt in np.unique(found.patterns.prompt):
        rows = np.flatnonzero(found.patterns.prompt == prompt)
        order[rows] = draw.permutation(rows)
    own = np.array([kinds_of(name)[0] for name in found.measured])
    sink = np.isin(own, ["first-token sink", "later sink"])
    said, permuted = (
        atlas.place(seen.z, structured=seen.structured, measured=found.scores.of(rows), unseen=True).cluster
        for rows in (slice(None), order)
    )
    result = {"by the atlas alone": (placed.cluster, placed.cluster), "as tag says it": (said, permuted)}
    print("| patterns | placed | leading kind as measured | heads permuted: placed | leading kind |")
    for what, (clusters, permuted) in result.items():
        names, nulls = (np.array([kinds_of(atlas.names[int(one)])[0] for one in of]) for of in (clusters, permuted))
        near, null = clusters != NOISE, permuted != NOISE
        for which, of in (("", np.ones_like(sink)), (", no sinks", ~sink)):
            shares = [near[of].mean(), (names == own)[near & of].mean(), null[of].mean()]
            shares.append((nulls == own[order])[null & of].mean())
            print(f"| {what}{which} | {' | '.join(f'{share:.3f}' for share in shares)} |")
    known, names = said != NOISE, np.array([kinds_of(atlas.names[int(one)])[0] for one in said])
    for kind in np.unique(own):
        rows = known & (own == kind)
        shares = np.mean(known[own == kind]), np.mean(names[rows] == kind) if rows.any() else np.nan
        print(f"  {kind}: {shares[0]:.2f} placed, {shares[1]:.2f} of them right ({rows.sum()})")


def families(arguments: argparse.Namespace, mae: APMAE) -> None:
    """5 neighbours on planted families, of one length and of lengths from 32 to 256; those held out are the figure."""
    for name, make in (("planted", partial(planted, noise=(0.1, 2.0))), ("held out", held_out)):
        for length, shortest in (("256", None), ("32 to 256", 32)):
            right: dict[str, list[float]] = {}
            for seed in range(arguments.seeds):
                patterns, family = make(arguments.count, shortest=shortest, seed=700 + seed)
                for what, z in inputs(patterns, mae).items():
                    scored = neighbors(z, family, np.arange(len(family)) % 2 == 0)
                    right.setdefault(what, []).append(float(scored.mean()))
            count = len(FAMILIES) if name == "planted" else len(HELD_OUT)
            for what, values in right.items():
                print(
                    f"| {count} {name}, {length} tokens | {what} | {np.mean(values):.3f} ({np.std(values):.3f}) |",
                    flush=True,
                )


def clusters(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Clusters of planted families by the defaults: how many, coverage, ARI of the clustered points and of all."""
    for name, make in (("planted", partial(planted, noise=(0.1, 2.0))), ("held out", held_out)):
        for length, shortest in (("256", None), ("32 to 256", 32)):
            for seed in range(arguments.seeds):
                patterns, family = make(arguments.count, shortest=shortest, seed=800 + seed)
                seen = represented(patterns, mae)
                labels = Atlas.fit(seen.z, seed=0, structured=seen.structured).labels_
                inside = labels != NOISE
                agreed = (adjusted_rand_score(family[of], labels[of]) for of in (inside, np.ones_like(inside)))
                print(
                    f"| {name}, {length} tokens | {800 + seed} | {labels.max() + 1} of {len(np.unique(family))} | "
                    f"{inside.mean():.3f} | {' | '.join(f'{one:.3f}' for one in agreed)} |",
                    flush=True,
                )


def cost(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Time of descriptor and gate per pattern, and of representing all heads beside the model's forward; one core."""
    torch.set_num_threads(1)
    lm = load_lm(arguments.model)
    arguments.prompts = 1
    patterns = study(arguments, lm).patterns
    ids = torch.full((1, 256), lm.pad_id)
    times: dict[str, list[float]] = {"forward": [], "descriptor": [], "joint": []}
    for _ in range(arguments.seeds + 2):
        for name, work in (
            ("forward", lambda: lm.model(input_ids=ids, use_cache=False)),
            ("descriptor", lambda: describe(patterns)),
            ("joint", lambda: represented(patterns, mae)),
        ):
            begin = time.perf_counter()
            with torch.no_grad():
                work()
            times[name].append(time.perf_counter() - begin)
    forward, descriptor, joint = (float(np.median(own)) for own in times.values())
    print(f"descriptor and gate: {1e3 * descriptor / len(patterns):.2f} ms per pattern")
    print(f"forward {forward:.2f} s; {len(patterns)} heads represented in {joint:.2f} s, {joint / forward:.2f} of it")


def picture(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Figure 6 of the model: two dimensions of UMAP, coloured by the measured leading kind, for CLS and for joint."""
    import matplotlib.pyplot as plt

    from apmae.atlas.reduce import Reducer
    from apmae.config import AtlasConfig

    found = study(arguments)
    kinds = np.array([kinds_of(name)[0] for name in found.measured])
    most = [kind for kind, _ in sorted(zip(*np.unique(kinds, return_counts=True), strict=True), key=lambda e: -e[1])][
        :9
    ]
    before = APMAE.from_pretrained(arguments.before) if arguments.before else mae
    figure, axes = plt.subplots(1, 2, figsize=(13, 6.2), layout="constrained")
    for axis, (title, z) in zip(
        axes,
        (("CLS" + (" before" if arguments.before else ""), before.encode(found.patterns)),
         ("joint", represented(found.patterns, mae).z)),
        strict=True,
    ):  # fmt: skip
        places = Reducer(AtlasConfig(dimensions=2)).fit(z).coordinates_
        axis.scatter(*places[~np.isin(kinds, most)].T, s=2, color="0.8", label="other")
        for number, kind in enumerate(most):
            axis.scatter(*places[kinds == kind].T, s=2, color=f"C{number}", label=kind)
        axis.set(title=f"{title}, {len(z)} patterns", xticks=[], yticks=[])
    axes[1].legend(markerscale=5, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(arguments.out, dpi=110)


COMMANDS = {
    "heads": heads,
    "probes": probe,
    "halves": halves,
    "gate": gate,
    "tags": tags,
    "planted": families,
    "clusters": clusters,
    "cost": cost,
    "map": picture,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("texts", nargs="*", default=["bundled"])
    parser.add_argument("--encoder", default="bundled", help="a folder, a hub id or bundled")
    parser.add_argument("--before", help="for map: an encoder to compare with")
    parser.add_argument("--language", default="java")
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--per-task", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=36, help="prompts in all, half of them to fit")
    parser.add_argument("--count", type=int, default=40, help="planted patterns per family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("map.png"))
    arguments = parser.parse_args()
    COMMANDS[arguments.what](arguments, APMAE.from_pretrained(arguments.encoder))


if __name__ == "__main__":
    main()
