"""A stage with a few shards of random numbers, for the tests of artifacts."""

import numpy as np
import pyarrow as pa

from apmae.artifacts import Stage

CONFIG, INPUTS = {"seed": 0, "heads": "all"}, {"lm": "a" * 64}


def table(number, rows=50):
    return pa.table({"x": np.random.default_rng(number).random(rows), "number": np.full(rows, number)})


def make(out, shards=3, config=CONFIG, inputs=INPUTS, *, overwrite=False, stop_after=None):
    """Run a stage with a few shards, or stop like a killed run after ``stop_after``. Returns the shards it wrote."""
    written = []
    with Stage.open(out, "encode", config, inputs, overwrite=overwrite) as stage:
        if stage.finished:
            return written
        for number in range(shards):
            if number == stop_after:
                return written
            name = f"rows-{number:05d}.parquet"
            if not stage.has(name):
                stage.write_tables({name: table(number)})
                written.append(number)
        stage.finish({"shards": shards})
    return written


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
