"""Does an encoder with the atlas find planted families? Agreement with the truth at several levels of noise.

    python experiments/planted.py [--encoder FOLDER] [--encoder FOLDER] [--count 40] [--seeds 3]

Fifteen families, each with its own parameters (``apmae.patterns.planted``), are clustered with the atlas' defaults.
Prints the adjusted Rand index of clusters against families, over the patterns in clusters; the coverage, which is the
share of patterns in clusters; and the accuracy of 5 nearest neighbours. Each is a mean and, in brackets, an s.d. over
seeds, which draw other patterns and another layout. "pixels" are the scaled patterns themselves, which an encoder
should beat.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from apmae.atlas.atlas import Atlas
from apmae.model.mae import APMAE
from apmae.patterns.planted import FAMILIES, planted

LEVELS = {
    "noise 0.1": {"noise": 0.1},
    "noise 0.5": {"noise": 0.5},
    "noise 1.0": {"noise": 1.0},
    "noise 1.5": {"noise": 1.5},
    "noise 0.1 to 2": {"noise": (0.1, 2.0)},
    "noise 0.1 to 2, 32 to 256 tokens": {"noise": (0.1, 2.0), "shortest": 32},
}
"""What is drawn in addition to each family's own parameters."""


class Recovery(NamedTuple):
    """How well clusters match the families."""

    rand: float
    """Adjusted Rand index over the patterns in clusters, at most 1; 0 for chance, and where there is no cluster."""
    coverage: float
    """Share of the patterns that are in a cluster."""
    neighbors: float
    """Accuracy of 5 nearest neighbours (Manhattan), fitted on every other row."""
    clusters: int


def recovery(z: ndarray, families: ndarray, *, seed: int = 0) -> Recovery:
    """Cluster embeddings as the atlas does, and compare the clusters with the truth.

    Args:
        z: (n, d) embeddings.
        families: (n,) the family of each.
        seed: of the layout.
    """
    model = KNeighborsClassifier(5, metric="manhattan", algorithm="brute").fit(z[::2], families[::2])
    labels = Atlas.fit(z, seed=seed).labels_
    found = labels >= 0
    rand = adjusted_rand_score(families[found], labels[found]) if found.any() else 0.0
    right = float(model.score(z[1::2], families[1::2]))
    return Recovery(float(rand), float(found.mean()), right, int(labels.max()) + 1)


def spread(values: Sequence[float]) -> str:
    """Mean and, for several values, s.d."""
    return f"{np.mean(values):.2f}" + (f" ({np.std(values, ddof=1):.2f})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="a folder, a hub id or bundled; may be given again")
    parser.add_argument("--count", type=int, default=40, help="patterns per family")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    encoders = {name: APMAE.from_pretrained(name) for name in arguments.encoder or ["bundled"]}
    print(f"{len(FAMILIES)} families, {arguments.count} patterns each")
    print("| patterns | input | ARI | coverage | 5 neighbours | clusters |")
    print("|---|---|---|---|---|---|")
    for level, settings in LEVELS.items():
        found: dict[str, list[Recovery]] = {name: [] for name in (*encoders, "pixels")}
        for seed in range(arguments.seeds):
            patterns, families = planted(arguments.count, seed=99 + seed, **settings)
            for name, mae in encoders.items():
                found[name].append(recovery(mae.encode(patterns), families, seed=seed))
            pixels = patterns.scaled_patches().flatten(1).numpy()
            found["pixels"].append(recovery(pixels, families, seed=seed))
        for name, runs in found.items():
            rand, coverage, neighbors, clusters = zip(*runs, strict=True)
            shown = [spread(rand), spread(coverage), spread(neighbors), f"{np.mean(clusters):.0f}"]
            print(f"| {level} | {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
