import numpy as np
import pyarrow as pa
import pytest

from apmae.schema import POINTS

LAYERS, HEADS = 3, 4
TASKS = ("eol", "identifier", "random")


class Drawn:
    """A study of random points: its tables, and the same as plain rows."""

    def __init__(self, seed, prompts=40, clusters=4, noise=0.3, files=12, asked=True):
        draw = np.random.default_rng(seed)
        self.task = [TASKS[number] for number in draw.integers(len(TASKS), size=prompts)]
        self.correct = [bool(right) for right in draw.random(prompts) < 0.6]
        self.file = [f"f{number}" for number in draw.integers(files, size=prompts)]
        self.rows = [
            (prompt, layer, head, int(cluster))
            for prompt in range(prompts)
            for layer in range(LAYERS)
            for head in range(HEADS)
            for cluster in [-1 if draw.random() < noise else draw.integers(clusters)]
        ]
        outcome = [("correct" if right else "incorrect") if asked else None for right in self.correct]
        columns = [
            (prompt, layer, head, self.task[prompt], outcome[prompt], cluster, [0.0])
            for prompt, layer, head, cluster in self.rows
        ]
        self.points = pa.Table.from_arrays(
            [
                pa.array(list(values), field.type)
                for values, field in zip(zip(*columns, strict=True), POINTS, strict=True)
            ],
            schema=POINTS,
        )
        self.prompts = pa.table({"prompt": pa.array(range(prompts), pa.int32()), "path": self.file})

    def places(self, prompt):
        """The locations of a prompt."""
        return {(cluster, layer, head) for own, layer, head, cluster in self.rows if own == prompt and cluster >= 0}


@pytest.fixture
def drawn():
    return Drawn
