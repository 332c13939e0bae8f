import numpy as np
import pyarrow as pa
import pytest

from apmae.schema import ENCODED_PROMPTS, POINTS

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


def _table_of_prompts(rows):
    made = []
    for number, row in enumerate(rows):
        row = {
            "prompt": number,
            "id": str(number),
            "task": "eol",
            "path": "f",
            "split": "all",
            "tokens": [f"only{number}", "b"],
            "expected": "x",
            "predicted": "x",
            "max_probability": 0.5,
            "margin": 0.2,
            "entropy": 1.0,
            **row,
        }
        right = row.pop("correct")
        row["outcome"] = None if right is None else "correct" if right else "incorrect"
        made.append({name: row.get(name) for name in ENCODED_PROMPTS.names})
    return pa.Table.from_pylist(made, schema=ENCODED_PROMPTS)


@pytest.fixture(scope="session")
def table_of_prompts():
    """Makes ``schema.ENCODED_PROMPTS`` of rows; each has ``correct`` (None: no outcome) and the columns that matter."""
    return _table_of_prompts
