"""Are clusters found again, true to their names, and absent in noise? One command per figure of docs/studies/atlas.md.

    python experiments/atlas.py halves MODEL TEXTS [--split all]       # three thirds: two halves, and flags
    python experiments/atlas.py clusterers MODEL TEXTS [--split all]   # the candidates, on the same two halves
    python experiments/atlas.py noise                                  # Gaussian rows, 50 to 20 000
    python experiments/atlas.py shuffled MODEL TEXTS --prompts 16      # real patterns without what makes them so
    python experiments/atlas.py planted                                # families of ``held_out.AFTERWARDS``

``halves`` fits an atlas on each third of the prompts. Clusters of the first are looked for in the second, whose
patterns are placed among the first; they are flagged by the fit's own stability, and, apart, by the third.
"""

import argparse
from pathlib import Path

import numpy as np
from candidates import CANDIDATES, Half, compared
from embedding import jaccard, study
from held_out import AFTERWARDS, held_out
from numpy import ndarray
from seen import seen
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from apmae.atlas.atlas import Atlas
from apmae.atlas.branches import STABLE
from apmae.config import PRESETS, AtlasConfig
from apmae.model.mae import APMAE
from apmae.model.represent import Represented, represented
from apmae.patterns.patterns import Patterns
from apmae.schema import NOISE

_SHUFFLED = 2000
"""Patterns that are fitted, and as many of other prompts that are placed."""


def found_again(atlas: Atlas, other: Atlas, z: ndarray) -> ndarray:
    """Best Jaccard index of each cluster in another atlas, on that one's own rows."""
    placed = atlas.place(z).cluster
    return np.array(
        [
            max((jaccard(placed == own, other.labels_ == theirs) for theirs in range(len(other.clusters))), default=0.0)
            for own in range(len(atlas.clusters))
        ]
    )


def halves(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Clusters, coverage, the largest, those flagged, Jaccard of the others, and what clusters tell of the head."""
    found = seen(arguments, mae)
    passing = [found.part(number, 3) for number in range(3)]
    for preset in ("stable", "paper"):
        config = AtlasConfig(**PRESETS[preset])
        fits = [
            Atlas.fit(
                found.z[rows],
                seed=number,
                config=config,
                num_heads=int(found.head.max()) + 1,
                measured=found.scores.of(rows),
                prompts=found.prompt[rows],
            )
            for number, rows in enumerate(passing)
        ]
        one, inside = fits[0], fits[0].labels_ != NOISE
        again, third_again = (found_again(one, fits[number], found.z[passing[number]]) for number in (1, 2))
        sizes = np.bincount(one.labels_[inside], minlength=len(again))
        stable = ~one.clusters["unstable"].to_numpy(zero_copy_only=False).astype(bool)
        told = mutual_info_score(found.head[passing[0]], one.labels_)
        null = mutual_info_score(np.random.default_rng(0).permutation(found.head[passing[0]]), one.labels_)
        true, names = one.clusters["true_share"].to_numpy(), one.clusters["name"].to_pylist()
        print(
            f"{preset}: {len(passing[0])} patterns, {len(again)} clusters, {inside.mean():.3f} of patterns in one, the "
            f"largest {sizes.max(initial=0) / len(inside):.3f}; {np.mean(~stable):.2f} flagged, "
            f"{np.isin(one.labels_, np.flatnonzero(stable)).mean():.3f} in one that is not"
        )
        for what, rows in (
            ("all", np.ones(len(again), bool)),
            ("not flagged by the fit", stable),
            ("flagged by the fit", ~stable),
            ("not flagged by the third set", third_again >= STABLE),
        ):
            print(f"  found again, {what}: {again[rows].mean() if rows.any() else np.nan:.3f} ({rows.sum()})")
        print(f"  tells {told:.2f} nats of the head, permuted {null:.2f}")
        print(
            f"  {len(set(names))} different names, {sum('unnamed' in name for name in names)} unnamed, "
            f"{sum(name.startswith('mixed') for name in names)} mixed; least true {true.min(initial=1):.3f}",
            flush=True,
        )


def clusterers(arguments: argparse.Namespace, mae: APMAE) -> None:
    """A row of the table for each candidate."""
    found = seen(arguments, mae)
    first, second = (Half(found, found.part(number, 3), seed=number) for number in range(2))
    print(f"{len(first.rows)} and {len(second.rows)} patterns", flush=True)
    for name, candidate in CANDIDATES.items():
        try:
            row = compared(first, second, found.head, candidate)
        except ImportError as error:
            print(f"| {name} | {error} |")
            continue
        print(
            f"| {name} | {row.clusters} | {row.covered:.2f} | {row.largest:.2f} | {row.again:.2f} | {row.stable:.2f} | "
            f"{row.nats:.2f} |",
            flush=True,
        )


def noise(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Share of Gaussian rows that is clustered, and of new ones that is placed."""
    for count in (50, 400, 2000, 20_000):
        shares = []
        for seed in range(arguments.seeds if count < 20_000 else 1):
            draw = np.random.default_rng(seed)
            atlas = Atlas.fit(draw.standard_normal((count, 64)), seed=seed)
            placed = atlas.place(draw.standard_normal((1000, 64))).cluster
            shares.append([np.mean(atlas.labels_ != NOISE), np.mean(placed != NOISE)])
        clustered, placed = np.max(shares, axis=0)
        print(f"| {count} | {clustered:.3f} | {placed:.3f} |", flush=True)


def shuffled(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Shares of real patterns with shuffled keys, and of permuted embeddings, that are clustered and placed."""
    found, draw = study(arguments), np.random.default_rng(0)
    rows = [draw.permutation(np.flatnonzero(found.half == fit))[:_SHUFFLED] for fit in (True, False)]
    parts = [found.patterns[own] for own in rows]
    real = [represented(part, mae) for part in parts]
    without_order = [represented(shuffled_keys(part, draw), mae) for part in parts]
    without_relations = [Represented(draw.permuted(part.z, axis=0), part.structure) for part in real]
    among = Atlas.fit(real[0].z, seed=0, structured=real[0].structured, prompts=parts[0].prompt)
    print("| | pass the gate | clustered | placed among these | placed among real ones |")
    for what, null, gated in (
        ("keys of each row shuffled, gate", without_order, True),
        ("keys of each row shuffled, no gate", without_order, False),
        ("numbers of each dimension permuted, no gate", without_relations, False),
    ):
        passing = [part.structured if gated else np.ones(len(part.z), bool) for part in null]
        shares = [np.mean(passing[0]), 0.0, 0.0]
        if passing[0].sum() > 1:
            own = Atlas.fit(null[0].z, seed=0, structured=passing[0], prompts=parts[0].prompt)
            placed = own.place(null[1].z, structured=passing[1]).cluster
            shares[1:] = np.mean(own.labels_ != NOISE), np.mean(placed != NOISE)
        shares.append(np.mean(among.place(null[1].z, structured=passing[1]).cluster != NOISE))
        print(f"| {what} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)


def shuffled_keys(patterns: Patterns, draw: np.random.Generator) -> Patterns:
    """Each row's probabilities, given to its keys in random order."""
    parts = []
    for begin in range(0, len(patterns), 100):
        some = patterns[begin : begin + 100]
        probabilities = some.probabilities()
        order = draw.random(probabilities.shape)
        order[:, ~np.tri(some.size, dtype=bool)] = 2  # later keys stay behind
        mixed = np.take_along_axis(probabilities, order.argsort(-1), axis=-1)
        parts.append(Patterns.from_probabilities(mixed, prompt=some.prompt))
    return Patterns.concatenate(parts)


def planted(arguments: argparse.Namespace, mae: APMAE) -> None:
    """Families written after the clusterer was chosen: clusters, coverage, ARI of clustered rows and of all."""
    for length, shortest in (("256", None), ("32 to 256", 32)):
        for seed in range(arguments.seeds):
            patterns, family = held_out(arguments.count, shortest=shortest, seed=900 + seed, families=AFTERWARDS)
            read = represented(patterns, mae)
            labels = Atlas.fit(read.z, seed=seed, structured=read.structured).labels_
            inside = labels != NOISE
            agreed = (adjusted_rand_score(family[of], labels[of]) for of in (inside, np.ones_like(inside)))
            print(
                f"| {length} | {labels.max() + 1} of {len(AFTERWARDS)} | {inside.mean():.3f} | "
                f"{' | '.join(f'{one:.3f}' for one in agreed)} |",
                flush=True,
            )


COMMANDS = {
    "halves": halves,
    "clusterers": clusterers,
    "noise": noise,
    "shuffled": shuffled,
    "planted": planted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("model", nargs="?", default="bundled")
    parser.add_argument("texts", nargs="*", default=["bundled"])
    parser.add_argument("--encoder", default="bundled", help="a folder, a hub id or bundled")
    parser.add_argument("--language", default="java")
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--per-task", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=300, help="in all, a third for each fit")
    parser.add_argument("--count", type=int, default=40, help="planted patterns per family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="an .npz file for what was captured; read if it is there")
    arguments = parser.parse_args()
    COMMANDS[arguments.what](arguments, APMAE.from_pretrained(arguments.encoder))


if __name__ == "__main__":
    main()
