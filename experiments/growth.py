"""Do clusters grow with the language model (paper Table 4)? One row per folder of atlases, mean and range over them.

    apmae prompts SOURCE --lm bundled --per-task 40 --outcome any --set split=atlas --out atlas.parquet
    apmae encode --lm LM --encoder ENCODER --prompts atlas.parquet --out LM/embeddings                  # for each LM
    for seed in 0 1 2; do apmae cluster LM/embeddings --seed $seed --out LM/atlas-$seed; done
    python experiments/growth.py LM OTHER-LM ...

The atlases of a folder are of the same embeddings and differ by seed: what differs between them is noise.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from apmae.analyze.locations import clustering, head_grid
from apmae.artifacts import read_table


def measure(points: pa.Table) -> dict[str, float]:
    """Table 4's figures, and pattern locations, of which there are at most clusters x heads."""
    layers, heads = (int(points[name].to_numpy().max()) + 1 for name in ("layer", "head"))
    found, grid = clustering(points), head_grid(points, layers, heads)
    captured = ~np.isnan(grid.clustered)
    return {
        "heads": int(captured.sum()),
        "patterns": found.total,
        "clusters": found.clusters,
        "% clustered": 100 * found.share,
        "locations": int(grid.distinct.sum()),
        "locations per head": grid.distinct[captured].mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="each holds atlas-*/")
    titles: list[str] = []
    for folder in parser.parse_args().folders:
        rows = [measure(read_table(path)) for path in sorted(folder.glob("atlas-*/points.parquet"))]
        if not rows:
            parser.error(f"expected finished atlases {folder}/atlas-*, found none; run apmae cluster")
        if not titles:
            titles = ["embeddings", "atlases", *rows[0]]
            print("|", " | ".join(titles), "|\n|" + "---|" * len(titles))
        cells = []
        for title in titles[2:]:
            values = np.array([row[title] for row in rows], dtype=float)
            digits = 1 if title in ("% clustered", "locations per head") else 0
            low, mean, high = (f"{value:.{digits}f}" for value in (values.min(), values.mean(), values.max()))
            cells.append(mean if low == high else f"{mean} ({low} to {high})")
        print("|", " | ".join([str(folder), str(len(rows)), *cells]), "|")


if __name__ == "__main__":
    main()
