"""The tables of pattern locations of several corpora side by side."""

import pyarrow as pa

from apmae.schema.analyses import FOREIGN, LOCATIONS

_CORPUS = pa.field("corpus", pa.string(), nullable=False)
_TASK = pa.field("task", pa.string())

CORPORA_LOCATIONS = pa.schema([_CORPUS, *LOCATIONS])
"""LOCATIONS of each corpus by itself: its tasks are compared with one another."""

CORPORA_TASKS = pa.schema([_CORPUS, *FOREIGN])
"""FOREIGN of each corpus by itself."""

CORPORA = pa.schema(
    [
        _CORPUS,
        _TASK,
        pa.field("prompts", pa.int64(), nullable=False),
        pa.field("files", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),
        pa.field("unique", pa.int64(), nullable=False),
        pa.field("unique_once", pa.int64(), nullable=False),
        pa.field("unique_null", pa.float32(), nullable=False),
        pa.field("unique_null_sd", pa.float32(), nullable=False),
        pa.field("unique_p", pa.float32(), nullable=False),
        pa.field("movable", pa.float32(), nullable=False),
    ]
)
"""Locations that occur in no other corpus (``analyze/corpora.py``), beside what shuffled corpora give: one row per
corpus with ``task`` null, over all tasks, and one per corpus and task, among prompts of that task."""

CORPORA_FOREIGN = pa.schema([_CORPUS, _TASK, *(field for field in FOREIGN if field.name != "task")])
"""Whether incorrect prompts look like another corpus: FOREIGN with corpora in place of tasks, over all tasks of a
corpus (``task`` null) and for each."""
