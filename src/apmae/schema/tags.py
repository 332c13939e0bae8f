"""The tables of tags: heads on one prompt, and on many."""

import pyarrow as pa

from apmae.schema.names import SCORES
from apmae.schema.study import ORIGINS

EXEMPLAR = pa.struct([pa.field("cluster", pa.int32()), *ORIGINS, pa.field("distance", pa.float32())])
"""A member of the atlas that resembles a pattern: its cluster, where it came from, and how far it is, in radii of its
cluster."""

_PLACED = (
    pa.field("cluster", pa.int32(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("strength", pa.float32(), nullable=False),
    pa.field("reason", pa.string(), nullable=False),
    pa.field("stability", pa.float32()),
    pa.field("unstable", pa.bool_(), nullable=False),
    pa.field("structure", pa.float32(), nullable=False),
    pa.field("measured", pa.string(), nullable=False),
)
"""Where the atlas puts a pattern, and what its own scores say."""

TAGS = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        *_PLACED,
        pa.field("nearest", pa.list_(pa.string()), nullable=False),
        pa.field("distances", pa.list_(pa.float32()), nullable=False),
        pa.field("exemplars", pa.list_(EXEMPLAR), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
        *[pa.field(f"score_{name}", pa.float32(), nullable=False) for name in SCORES],
        pa.field("sinks", pa.list_(pa.int32()), nullable=False),
        pa.field("sink_tokens", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per head: what the atlas says about it on one prompt. ``reason`` says why it is in no
cluster (``atlas/place.py``; "" if it is in one), ``stability`` is the smaller of its cluster's Jaccard indices over
halves of the prompts and over seeds (null: in none), ``unstable`` that the
cluster is not found again well enough, ``structure`` is the gate's statistic (NaN: not
judged), ``measured`` is the name that its own scores give, ``nearest`` are the names of the nearest clusters and
``distances`` how far they are, in radii of the cluster (1 is as far as a member may be), ``exemplars`` are up to three
members of the cluster that resemble it most, the nearest first (of any cluster if it is in none),
``sinks`` are the positions of its sinks in the window, the strongest first, and ``sink_tokens`` their texts."""

CORPUS_TAGS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        *_PLACED,
        pa.field("nearest", pa.list_(pa.int32()), nullable=False),
        pa.field("distances", pa.list_(pa.float32()), nullable=False),
        pa.field("exemplars", pa.list_(pa.int32()), nullable=False),
        pa.field("exemplar_distances", pa.list_(pa.float32()), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
    ]
)
"""One row per head and prompt of a corpus, as ``TAGS`` without scores and sinks; ``nearest`` are numbers of clusters,
whose names are in the atlas, and ``exemplars`` rows of its ``origins.parquet``."""
