"""How long an atlas takes, and how much memory, from one prompt's heads to 19.2 million patterns.

    python benchmarks/atlas.py fit 200000            # embeddings to a named atlas
    python benchmarks/atlas.py place                 # patterns placed per second, beside scikit-learn's brute force
    python benchmarks/atlas.py stream 1000000 ...    # synthesised, placed and counted block by block; 19200000 too
    python benchmarks/atlas.py stage 200000 1000000  # the cluster stage, from an artifact on disk to one on disk
    python benchmarks/atlas.py subsample 100000      # fit on a subsample and place the rest, against a full fit

Embeddings are synthetic: half of them in 200 groups of Zipf's sizes, half on a smooth surface of 8 dimensions in 512,
with noise. Threads are those of OMP_NUM_THREADS; peaks are of the whole process, those of the stage without pages of
files, which the system takes back when it needs them.
"""

import argparse
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from numpy import ndarray
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from apmae.artifacts import Stage, cut, fixed_list, write_tables
from apmae.atlas.atlas import Atlas
from apmae.atlas.names import Measured
from apmae.atlas.search import Search
from apmae.config import AtlasConfig
from apmae.engine.local import fit_atlas
from apmae.schema import ENCODED, KINDS, SCORES, embeddings

_WIDTH, _GROUPS, _BLOCK = 512, 200, 65_536


class Synthetic:
    """Rows of any number, a block at a time; the same seed gives the same rows."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.centres = draw.standard_normal((_GROUPS, _WIDTH)).astype(np.float32)
        weights = 1 / np.arange(1, _GROUPS + 1) ** 0.7
        self.weights = weights / weights.sum()
        self.inner = draw.standard_normal((8, 64)).astype(np.float32)
        self.outer = draw.standard_normal((64, _WIDTH)).astype(np.float32) / 8

    def block(self, rows: int, number: int) -> tuple[ndarray, ndarray]:
        """Embeddings as float16, and the group of each row, -1 on the surface."""
        draw = np.random.default_rng([1, number])
        group = np.where(draw.random(rows) < 0.5, draw.choice(_GROUPS, rows, p=self.weights), -1)
        surface = np.tanh(draw.uniform(-2, 2, (rows, 8)).astype(np.float32) @ self.inner) @ self.outer
        z = np.where((group >= 0)[:, None], self.centres[group], surface)
        z += 0.1 * draw.standard_normal((rows, _WIDTH), dtype=np.float32)
        return z.astype(np.float16), group

    def rows(self, count: int) -> tuple[ndarray, ndarray]:
        """Many rows in one array."""
        z, group = np.empty((count, _WIDTH), np.float16), np.empty(count, np.int64)
        for number, begin in enumerate(range(0, count, _BLOCK)):
            end = min(begin + _BLOCK, count)
            z[begin:end], group[begin:end] = self.block(end - begin, number)
        return z, group


def measured(group: ndarray) -> Measured:
    """Scores that differ between groups, so that there is something to name."""
    draw = np.random.default_rng(2)
    levels = draw.random((_GROUPS + 1, len(SCORES))).astype(np.float32)
    values = np.clip(levels[group] + 0.02 * draw.standard_normal((len(group), len(SCORES)), dtype=np.float32), 0, 1)
    kinds = np.zeros((len(group), len(KINDS)), np.float32)
    return Measured(values, kinds, kinds)


def peak() -> float:
    """Peak memory of the process, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def warm(data: Synthetic) -> None:
    """Compile what UMAP compiles, which is kept on disk, so that it is not timed."""
    Atlas.fit(data.rows(5000)[0], seed=0)


def fit(data: Synthetic, counts: list[int]) -> None:
    warm(data)
    for count in counts:
        z, group = data.rows(count)
        scores = measured(group)
        begin = time.perf_counter()
        atlas = Atlas.fit(z, seed=0, measured=scores, prompts=np.arange(count) // 270)
        took = time.perf_counter() - begin
        agreed = adjusted_rand_score(group[group >= 0], atlas.labels_[group >= 0])
        names = atlas.clusters["name"].to_pylist()
        print(
            f"| {count:,} | {took:.0f} s | {peak():.1f} GB | {len(names)} clusters, {len(set(names))} names | "
            f"ARI of groups {agreed:.3f} |",
            flush=True,
        )


def stage(data: Synthetic, counts: list[int]) -> None:
    """Each size is written as the encode stage would, 270 patterns per prompt, and then clustered."""
    warm(data)
    for count in counts:
        with TemporaryDirectory() as folder:
            encoded = Path(folder) / "embeddings"
            _write(data, encoded, count)
            begin = time.perf_counter()
            with own_peak() as used:
                counted = fit_atlas(encoded, Path(folder) / "atlas", AtlasConfig())
            took = time.perf_counter() - begin
            print(f"| {count:,} | {took:.0f} s | {max(used):.2f} GB | {counted['clusters']} clusters |", flush=True)


def _write(data: Synthetic, out: Path, count: int) -> None:
    """An artifact of the encode stage."""
    inputs = {name: "0" * 64 for name in ("lm", "encoder", "prompts")}
    with Stage.open(out, "encode", {}, inputs) as opened:
        for number, shard in enumerate(cut(count, _BLOCK, ENCODED[:2])):
            z, group = data.block(len(shard), number)
            scores = measured(group)
            row = np.arange(shard.first, shard.stop)
            columns = {
                "prompt": row // 270,
                "layer": row % 270 // 9,
                "head": row % 9,
                "task": ["identifier"] * len(row),
                "outcome": ["correct"] * len(row),
                "embedding": fixed_list(z),
                "structure": np.full(len(row), 50.0, np.float32),
                **{f"score_{name}": scores.values[:, place] for place, name in enumerate(SCORES)},
                "sinks": [[]] * len(row),
                "key_kinds": fixed_list(scores.key_kinds),
                "query_kinds": fixed_list(scores.query_kinds),
            }
            table = pa.table(columns).cast(embeddings(_WIDTH))
            asked = pa.table({"prompt": np.unique(row // 270).astype(np.int32)})
            asked = asked.append_column("path", pa.array([f"{number}.java" for number in asked["prompt"].to_pylist()]))
            opened.add(write_tables(opened.staging, dict(zip(shard.files, (table, asked), strict=True))))
        heads = [9] * 30
        opened.finish(
            {"dim": _WIDTH, "heads_by_layer": heads, "layers": 30, "heads": 9, "representation": "cls", "lm": "none"}
        )


@contextmanager
def own_peak() -> Iterator[list[float]]:
    """The memory of the process that is in no file, GB, looked at ten times a second."""
    used, done = [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            used[0] = max(used[0], next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024**2)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield used
    finally:
        done.set()
        watch.join()


def place(data: Synthetic, counts: list[int]) -> None:
    points, _ = data.rows(20_000)
    new, _ = data.block(10_000, 999)
    search = Search(points, "manhattan", 15)
    brute = NearestNeighbors(n_neighbors=15, metric="manhattan", algorithm="brute").fit(points.astype(np.float32))
    atlas = Atlas.fit(points, seed=0)
    times: dict[str, list[float]] = {"search": [], "place": [], "brute force": []}
    for _ in range(5):
        for name, rows, work in (
            ("search", len(new), lambda: search.nearest(new)),
            ("place", len(new), lambda: atlas.place(new)),
            ("brute force", 500, lambda: brute.kneighbors(new[:500].astype(np.float32))),
        ):
            begin = time.perf_counter()
            work()
            times[name].append(rows / (time.perf_counter() - begin))
    begin = time.perf_counter()
    atlas.place(new[:48])
    few = time.perf_counter() - begin
    found, true = search.nearest(new[:500]).indices, brute.kneighbors(new[:500].astype(np.float32))[1]
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found.tolist(), true.tolist(), strict=True)])
    for name, speeds in times.items():
        print(f"| {name} | {np.median(speeds):,.0f} patterns/s |")
    print(f"48 patterns placed in {1000 * few:.0f} ms; {recall:.3f} of the true 15 neighbours")
    print(f"{torch.get_num_threads()} threads")


def stream(data: Synthetic, counts: list[int]) -> None:
    """Synthesise, place and count, one stream that says where it is at each count; making the rows is timed apart."""
    warm(data)
    z, _ = data.rows(20_000)
    atlas = Atlas.fit(z, seed=0)
    sizes, done, making, placing, busy = np.zeros(len(atlas.clusters) + 1, np.int64), 0, 0.0, 0.0, 0.0
    for count in sorted(counts):
        while done < count:
            begin = time.perf_counter()
            rows, _ = data.block(min(_BLOCK, count - done), 10_000 + done // _BLOCK)
            middle, used = time.perf_counter(), time.process_time()
            sizes += np.bincount(atlas.place(rows).cluster + 1, minlength=len(sizes))
            placing, busy = placing + time.perf_counter() - middle, busy + time.process_time() - used
            making, done = making + middle - begin, done + len(rows)
        print(
            f"| {count:,} | {placing:.0f} s ({busy:.0f} of CPU) | {count / placing:,.0f} patterns/s | {peak():.2f} GB "
            f"| {1 - sizes[0] / count:.3f} placed | synthesised in {making:.0f} s |",
            flush=True,
        )


def subsample(data: Synthetic, counts: list[int]) -> None:
    """Partitions of a fit on 20 000 and of full fits of three seeds, compared over all rows."""
    for count in counts:
        z, group = data.rows(count)
        full = [Atlas.fit(z, seed=seed, config=AtlasConfig(fit_points=count)).labels_ for seed in (0, 1, 2)]
        parts = [Atlas.fit(z, seed=seed).labels_ for seed in (0, 1, 2)]
        own = group >= 0
        for what, pairs in (
            ("two full fits", [(full[0], full[1]), (full[0], full[2]), (full[1], full[2])]),
            ("subsample and full", list(zip(parts, full, strict=True))),
        ):
            for which, rows in (("all rows", np.ones(count, bool)), ("groups", own)):
                agreed = [adjusted_rand_score(a[rows], b[rows]) for a, b in pairs]
                print(f"| {what} | {which} | {np.mean(agreed):.3f} ({np.std(agreed):.3f}) |", flush=True)
        truth = [adjusted_rand_score(group[own], labels[own]) for labels in parts]
        print(f"| subsample and truth | groups | {np.mean(truth):.3f} ({np.std(truth):.3f}) |", flush=True)


COMMANDS = {"fit": fit, "stage": stage, "place": place, "stream": stream, "subsample": subsample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("counts", type=int, nargs="*", default=[200_000])
    arguments = parser.parse_args()
    COMMANDS[arguments.what](Synthetic(), arguments.counts)


if __name__ == "__main__":
    main()
