"""The tables of what single heads do: top prompts, attended tokens."""

import pyarrow as pa

TOP = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("decile", pa.int8(), nullable=False),
        pa.field("top", pa.bool_(), nullable=False),
        pa.field("drawn", pa.bool_(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("sinks", pa.list_(pa.int32()), nullable=False),
    ]
)
"""The prompts chosen for each head (``analyze/top.py``), by layer, head and rank (1: the largest value). ``decile`` is
10 for the tenth of the head's prompts with the largest values, 1 for that with the smallest. A row is there because it
is among the first (``top``), because it was drawn from its decile (``drawn``), or both. ``share`` is that of all
patterns, of all heads, whose value is at least as large."""

TOP_HEADS = pa.schema(
    [
        pa.field("layer", pa.int16()),
        pa.field("head", pa.int16()),
        pa.field("patterns", pa.int64(), nullable=False),
        pa.field("measured", pa.int64(), nullable=False),
        *[pa.field(name, pa.float32()) for name in ("smallest", "q10", "q25", "median", "q75", "q90", "largest")],
        pa.field("above", pa.float32()),
    ]
)
"""The distribution of the value in each head, and over all heads (the first row, without layer and head): its
patterns, how many of them have a value, quantiles of these, and the share of the other heads whose median is smaller
(``above``). What was not measured is null."""

ATTENDED = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("received", pa.list_(pa.float32()), nullable=False),
        *[
            pa.field(f"{which}{part}", pa.list_(kind), nullable=False)
            for which in ("", "away_")
            for part, kind in (("queries", pa.int32()), ("keys", pa.int32()), ("weights", pa.float32()))
        ],
    ]
)
"""What each chosen head attends to on each chosen prompt (``patterns/attended.py``). ``received`` is the attention that
each row of the pattern gets from all rows together; it sums to the number of rows. The pairs with the most attention
are entry i of ``queries`` and ``keys``; in those with ``away_`` the key is neither the first token nor a sink."""

TOP_TEXTS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("expected", pa.string(), nullable=False),
        pa.field("predicted", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
    ]
)
"""The prompts of TOP: where each is from, the model's answer, and the text of each row of its patterns: a token, or the
first and last token of a block if the prompt was pooled."""

SIMILAR = pa.schema(
    [
        pa.field("query", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        pa.field("pairs", pa.float32(), nullable=False),
        pa.field("controls", pa.float32(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("measured", pa.string(), nullable=False),
    ]
)
"""The heads with the patterns that are nearest to a query (``analyze/similar.py``), each with its nearest pattern.
``pairs`` is the share of random pairs of patterns of different heads that are nearer to each other, ``controls`` the
share of drawn patterns whose own head of this rank is nearer to them."""

SIMILAR_HEADS = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("patterns", pa.int64(), nullable=False),
        pa.field("mean", pa.float32(), nullable=False),
        pa.field("nearest", pa.float32(), nullable=False),
        pa.field("controls", pa.float32(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
    ]
)
"""The heads nearest to all queries over all their patterns: mean and smallest distance of a query and a pattern of the
head. ``controls`` is the share of drawn patterns whose own head of this rank has a smaller mean distance, ``cluster``
the cluster of most of the head's patterns, which has the ``share`` of them."""
