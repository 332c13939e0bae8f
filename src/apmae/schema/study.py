"""The tables of a study: prompts, what the encoder makes of their patterns, and the atlas."""

import pyarrow as pa

from apmae.schema.names import KINDS, SCORES

_ANSWER = (
    pa.field("outcome", pa.string()),
    pa.field("predicted", pa.string()),
    pa.field("text_correct", pa.bool_()),
    pa.field("token_correct", pa.bool_()),
    pa.field("max_probability", pa.float32()),
    pa.field("expected_probability", pa.float32()),
    pa.field("margin", pa.float32()),
    pa.field("entropy", pa.float32()),
    pa.field("log_probability", pa.float32()),
    pa.field("exact", pa.bool_()),
)
"""The outcome, and a model's answer (``prompts.prompt.Answer``)."""
_PATTERN = (
    pa.field("prompt", pa.int32(), nullable=False),
    pa.field("layer", pa.int16(), nullable=False),
    pa.field("head", pa.int16(), nullable=False),
)
"""Whose pattern it is."""

PROMPTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("repository", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("prefix", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("suffix", pa.string()),
        *_ANSWER,
        pa.field("group", pa.string()),
        pa.field("counterfactual", pa.string()),
        pa.field("accepted", pa.list_(pa.string()), nullable=False),
        pa.field("wrong", pa.list_(pa.string()), nullable=False),
    ]
)
"""Prompts as text. ``line`` counts from 1; ``start`` is the position of the span's first character in its file;
``suffix`` is null where the prompt has no right context. ``outcome`` is "correct", "incorrect" or null (no model was
asked), and the nine columns after it are the model's answer (``prompts.prompt.Answer``). Prompts that belong together
share a ``group``. ``counterfactual`` is a text to put in place of ``prefix``, after which another completion is right.
``accepted`` are other right completions, ``wrong`` the wrong ones that compete with them."""

ENCODED_PROMPTS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("repository", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.string()), nullable=False),
        pa.field("expected", pa.string(), nullable=False),
        *_ANSWER,
    ]
)
"""One row per prompt that the model ran on: its tokens and the model's answer (``prompts.prompt.Answer``). The answer,
and every ``outcome`` of the tables below, is null if the model answers nothing: an encoder without a head."""


def embeddings(dim: int) -> pa.Schema:
    """One row per pattern: where it came from, its representation and its scores. ``structure`` is the gate's statistic
    (``patterns/gate.py``; NaN: not judged), ``sinks`` are the rows of its sinks (``patterns/sinks.py``), the strongest
    first.

    Args:
        dim: length of the representation.
    """
    return pa.schema(
        [
            *_PATTERN,
            pa.field("task", pa.string(), nullable=False),
            pa.field("outcome", pa.string()),
            pa.field("embedding", pa.list_(pa.float16(), dim), nullable=False),
            pa.field("structure", pa.float32(), nullable=False),
            *[pa.field(f"score_{name}", pa.float32(), nullable=False) for name in SCORES],
            pa.field("sinks", pa.list_(pa.int32()), nullable=False),
            pa.field("key_kinds", pa.list_(pa.float32(), len(KINDS)), nullable=False),
            pa.field("query_kinds", pa.list_(pa.float32(), len(KINDS)), nullable=False),
        ]
    )


EXEMPLARS = pa.schema(
    [
        *_PATTERN,
        pa.field("size", pa.int32(), nullable=False),
        pa.field("patch", pa.int32(), nullable=False),
        pa.field("causal", pa.bool_(), nullable=False),
        pa.field("log_pattern", pa.binary(), nullable=False),
    ]
)
"""A seeded sample of whole patterns of ``size`` tokens, as little-endian fp16 log probabilities: the patches on or
below the diagonal in row-major order, ``patch x patch`` each; all patches if the pattern is not ``causal``."""

RECONSTRUCTIONS = pa.schema(
    [
        *_PATTERN,
        pa.field("size", pa.int32(), nullable=False),
        pa.field("patch", pa.int32(), nullable=False),
        pa.field("causal", pa.bool_(), nullable=False),
        pa.field("original", pa.binary(), nullable=False),
        pa.field("predicted", pa.binary(), nullable=False),
        pa.field("masked", pa.binary(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
"""What the encoder's decoder makes of masked exemplars (paper Figure 3): scaled fp16 patches as in EXEMPLARS;
``masked`` is one byte per patch, 1 where it was hidden."""

POINTS = pa.schema(
    [
        *_PATTERN,
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
    ]
)
"""One row per pattern of the atlas, in the order of the embeddings: its cluster (-1: noise) and reduced coordinates."""

ORIGINS = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("prompt", pa.int64()),
        pa.field("path", pa.string()),
        pa.field("task", pa.string()),
        pa.field("layer", pa.int32()),
        pa.field("head", pa.int16()),
        pa.field("variant", pa.string()),
    ]
)
"""One row per point that an atlas places among (``atlas/place.py``), in their order: the model, prompt and head that
made the pattern, and the file that the prompt came from; null where unknown. ``variant`` says what was done to the
pattern ("first 40 tokens"); null if nothing."""

QUALIFIER = pa.struct([("feature", pa.string()), ("low", pa.float32()), ("high", pa.float32()), ("words", pa.string())])
"""A range of a measured feature that members of a cluster are in (``atlas/qualifiers.py``)."""

CLUSTERS = pa.schema(
    [
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mean_distance", pa.float32(), nullable=False),
        pa.field("stability", pa.float32(), nullable=False),
        pa.field("seed_stability", pa.float32(), nullable=False),
        pa.field("unstable", pa.bool_(), nullable=False),
        pa.field("kinds", pa.list_(pa.string()), nullable=False),
        pa.field("qualifiers", pa.list_(QUALIFIER), nullable=False),
        pa.field("true_share", pa.float32()),
        pa.field("like_share", pa.float32()),
        pa.field("confidence", pa.float32()),
        pa.field("looks_at", pa.string(), nullable=False),
        pa.field("looks_from", pa.string(), nullable=False),
        *[pa.field(f"score_{name}", pa.float32()) for name in SCORES],
    ]
)
"""One row per cluster: its name, members, mean distance of a member to the centre in reduced coordinates, Jaccard index
over halves of the prompts and over seeds, whether either is too low (``unstable``), what the name claims (``kinds``,
``qualifiers``), the share of members that it is true for (``true_share``), the largest share of the members of another
cluster of the same kinds that it does not exclude (``like_share``), the name's confidence (``true_share`` ×
(1 − ``like_share``)), the token kinds it attends to and from beyond chance, and the members' mean scores (null: not
measured)."""
