"""How long pattern locations take, and how much memory, over many patterns.

    python benchmarks/locations.py 19200000 [--full]     # Table 5; with --full nulls, errors and other tasks' own too

Points are synthetic: prompts of 640 heads in ten tasks and a third as many files, clusters of Zipf's sizes that depend
on the head, a tenth noise. They are written to a Parquet file first, which is not timed. Peaks are of the process.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apmae.analyze.locations import against_chance, task_locations
from apmae.config import LocationsConfig
from apmae.schema import POINTS

_HEADS, _LAYERS, _CLUSTERS, _BLOCK = 20, 32, 300, 500


def write(folder: Path, rows: int) -> tuple[Path, list[Path]]:
    """The points and the prompts of a study of about so many patterns, a block of prompts at a time."""
    draw = np.random.default_rng(0)
    each = _HEADS * _LAYERS
    prompts = rows // each
    task = draw.integers(10, size=prompts)
    right = draw.random(prompts) < 0.5
    weights = 1 / np.arange(1, _CLUSTERS + 1)
    home = draw.choice(_CLUSTERS, each, p=weights / weights.sum())
    names = np.array([f"task {number}" for number in range(10)], object)
    points, table = folder / "points.parquet", folder / "prompts.parquet"
    with pq.ParquetWriter(points, POINTS) as file:
        for begin in range(0, prompts, _BLOCK):
            own = np.arange(begin, min(begin + _BLOCK, prompts))
            count = len(own) * each
            cluster = np.where(draw.random(count) < 0.9, np.tile(home, len(own)), draw.integers(_CLUSTERS, size=count))
            cluster[draw.random(count) < 0.1] = -1
            prompt = np.repeat(own, each)
            head = np.tile(np.arange(each), len(own))
            coordinates = pa.FixedSizeListArray.from_arrays(draw.random(4 * count, dtype=np.float32), 4)
            columns = [prompt, head // _HEADS, head % _HEADS, names[task[prompt]]]
            columns += [np.where(right[prompt], "correct", "incorrect"), cluster, coordinates]
            file.write_table(
                pa.Table.from_arrays(
                    [pa.array(values).cast(field.type) for values, field in zip(columns, POINTS, strict=True)],
                    schema=POINTS,
                )
            )
    paths = [f"f{number}" for number in draw.integers(prompts // 3 + 1, size=prompts)]
    pq.write_table(pa.table({"prompt": pa.array(range(prompts), pa.int32()), "path": paths}), table)
    return points, [table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[1_200_000, 19_200_000])
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    clusters = pa.table({"stability": np.ones(_CLUSTERS), "unstable": np.zeros(_CLUSTERS, bool)})
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            points, prompts = write(Path(folder), count)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
            begin = time.perf_counter()
            if arguments.full:
                found, _ = against_chance(points, prompts, clusters, LocationsConfig(), lambda what: print(what))
                unique = sum(found["unique"].to_pylist())
            else:
                unique = sum(row.unique for row in task_locations(points))
            took = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(
            f"| {count:,} | {took:.1f} s | peak {peak:.2f} GB ({before:.2f} before) | {unique:,} unique |", flush=True
        )


if __name__ == "__main__":
    main()
