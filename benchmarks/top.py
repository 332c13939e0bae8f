"""How long it takes to choose the top prompts of every head, and how much memory, over many patterns.

    python benchmarks/top.py 1200000 19200000

Patterns are synthetic: prompts of 640 heads, a score for each, in clusters that depend on the head. Their tables are
written first, which is not timed. Peaks are of the process, so give the larger count last.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apmae.analyze.top import top_prompts
from apmae.artifacts import Stage, fingerprint
from apmae.config import TopConfig
from apmae.schema import ATLAS_FILE, POINTS, POINTS_FILE, embeddings
from apmae.study.reader import Study

_HEADS, _LAYERS, _CLUSTERS, _BLOCK = 20, 32, 300, 500
_ENCODED = [field for field in embeddings(1) if field.name in ("prompt", "layer", "head", "score_induction", "sinks")]


def write(folder: Path, rows: int) -> Study:
    """A study of about so many patterns, with the columns that choosing reads, a block of prompts at a time."""
    draw = np.random.default_rng(0)
    each = _HEADS * _LAYERS
    encoded, points = folder / "embeddings", folder / "atlas"
    home = draw.integers(_CLUSTERS, size=each)
    with Stage.open(encoded, "encode", {}, {}) as stage:
        with pq.ParquetWriter(encoded / "embeddings-00000.parquet", pa.schema(_ENCODED)) as file:
            for own in _blocks(rows // each):
                prompt, head = np.repeat(own, each), np.tile(np.arange(each), len(own))
                score = draw.beta(1, 6, len(prompt)).astype(np.float32)
                columns = [prompt, head // _HEADS, head % _HEADS, score, pa.array([[0]] * len(prompt))]
                file.write_table(_table(columns, pa.schema(_ENCODED)))
        stage.add_files(["embeddings-00000.parquet"])
        stage.finish({"layers": _LAYERS, "heads": _HEADS, "heads_by_layer": [_HEADS] * _LAYERS})
    with Stage.open(points, "cluster", {}, {"encode": fingerprint(encoded)}) as stage:
        with pq.ParquetWriter(points / POINTS_FILE, POINTS) as file:
            for own in _blocks(rows // each):
                prompt, head = np.repeat(own, each), np.tile(np.arange(each), len(own))
                cluster = np.where(draw.random(len(prompt)) < 0.1, -1, np.tile(home, len(own)))
                coordinates = pa.FixedSizeListArray.from_arrays(draw.random(4 * len(prompt), dtype=np.float32), 4)
                task, outcome = np.full(len(prompt), "eol"), np.full(len(prompt), "correct")
                columns = [prompt, head // _HEADS, head % _HEADS, task, outcome, cluster, coordinates]
                file.write_table(_table(columns, POINTS))
        stage.write_files({ATLAS_FILE: b"{}"})
        stage.add_files([POINTS_FILE])
        stage.finish()
    return Study(folder)


def _blocks(prompts: int) -> list[np.ndarray]:
    return [np.arange(begin, min(begin + _BLOCK, prompts)) for begin in range(0, prompts, _BLOCK)]


def _table(columns: list, schema: pa.Schema) -> pa.Table:
    made = [pa.array(values).cast(field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(made, schema=schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[1_200_000, 19_200_000])
    arguments = parser.parse_args()
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            study = write(Path(folder), count)
            for by in ("induction", "strength"):
                begin = time.perf_counter()
                chosen = top_prompts(study, TopConfig(by=by))
                took = time.perf_counter() - begin
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
                print(
                    f"| {count:,} | {by} | {took:.1f} s | peak {peak:.2f} GB | {chosen.rows.num_rows:,} chosen |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
