"""Does an encoder with the atlas find planted families? Agreement with the truth, at several noise levels.

    python benchmarks/planted.py [--encoder FOLDER] [--count 40]

Prints the accuracy of 5 nearest neighbours in embedding space and the adjusted Rand index of the atlas' clusters (noise
counted as one cluster) against the families; and both for the bare pixels, which an encoder should beat.
"""

import argparse

import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from apmae.atlas.atlas import Atlas
from apmae.model.mae import APMAE
from apmae.patterns.planted import FAMILIES, planted


def measure(z: np.ndarray, families: np.ndarray) -> tuple[float, float, int]:
    """Neighbour accuracy, adjusted Rand index, clusters."""
    model = KNeighborsClassifier(5, metric="manhattan", algorithm="brute").fit(z[::2], families[::2])
    atlas = Atlas.fit(z, seed=0)
    rand = adjusted_rand_score(families, atlas.labels_)
    return float(model.score(z[1::2], families[1::2])), float(rand), len(atlas.clusters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--count", type=int, default=40, help="patterns a family")
    arguments = parser.parse_args()
    mae = APMAE.from_pretrained(arguments.encoder)
    print(f"{len(FAMILIES)} families, {arguments.count} patterns each")
    print("| noise | input | neighbour accuracy | ARI of clusters | clusters |")
    print("|---|---|---|---|---|")
    for noise in (0.0, 0.1, 0.5, 1.0, 1.5):
        patterns, families = planted(arguments.count, noise=noise, seed=99)
        pixels = patterns.scaled_patches().flatten(1).numpy()
        for name, z in (("embedding", mae.encode(patterns)), ("pixels", pixels)):
            accuracy, rand, clusters = measure(z, families)
            print(f"| {noise} | {name} | {accuracy:.2f} | {rand:.2f} | {clusters} |", flush=True)


if __name__ == "__main__":
    main()
