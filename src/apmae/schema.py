"""The Parquet tables of a study and their columns; ``docs/artifacts.md`` says what each means. Torch-free."""

import pyarrow as pa

FORMAT = 5
"""Raised when a table changes shape, or when every manifest does: artifacts of another format are refused, not misread.
A stage may gain settings without raising it: an artifact made with other settings asks for ``--overwrite``."""

NOISE = -1
"""Label of a pattern that is in no cluster."""

ENCODED = ("embeddings", "prompts", "exemplars")
"""The tables of the encode stage, in shards: ``embeddings()``, ``ENCODED_PROMPTS`` and ``EXEMPLARS``."""
TAGGED = ("tags", "prompts")
"""The tables of the tag stage, in shards: ``CORPUS_TAGS`` and ``ENCODED_PROMPTS``."""
SUMMARY_FILE = "summary.json"
RECONSTRUCTIONS_FILE = "reconstructions.parquet"
POINTS_FILE = "points.parquet"
CLUSTERS_FILE = "clusters.parquet"
NAMES_FILE = "names.json"
ATLAS_FILE = "atlas.json"
LOCATIONS_FILE = "locations.parquet"
FOREIGN_FILE = "foreign.parquet"
PREDICTION_FILE = "prediction.parquet"
PREDICTION_TASKS_FILE = "tasks.parquet"
CALIBRATION_FILE = "calibration.parquet"
COVERAGE_FILE = "coverage.parquet"
FORECASTS_FILE = "forecasts.parquet"

KINDS = (
    "sentinel",
    "word",
    "keyword",
    "number",
    "string",
    "operator",
    "open_bracket",
    "close_bracket",
    "semicolon",
    "separator",
    "newline",
    "space",
    "other",
)
"""Token kinds: scores say which of them a head looks at and which it looks from. A kind's code is its index here."""

SCORES = (
    "first_token",
    "previous",
    "self",
    "local",
    "duplicate",
    "induction",
    "retrieval",
    "columns",
    "blocks",
    "uniform",
    "entropy",
    "local_width",
    "later_sink",
)
"""Hand-made scores of a pattern, defined in ``patterns/scores.py``: shares in [0, 1], except ``entropy`` (nats) and
``local_width`` (tokens)."""

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
            pa.field("prompt", pa.int32(), nullable=False),
            pa.field("layer", pa.int16(), nullable=False),
            pa.field("head", pa.int16(), nullable=False),
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
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
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
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
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

LOSSES = pa.schema(
    [
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("lm", pa.string(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("measured", pa.string(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
        pa.field("published_loss", pa.float32(), nullable=False),
        pa.field("divergence", pa.float32()),
        pa.field("uniform_divergence", pa.float32()),
    ]
)
"""One row per encoder and pattern: how well the encoder predicts the hidden patches (``train/evaluate.py``).
``measured`` is the name that the pattern's own scores give it."""

POINTS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
    ]
)
"""One row per pattern of the atlas, in the order of the embeddings: its cluster (-1: noise) and reduced coordinates."""

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

DIMENSIONS = pa.schema(
    [
        pa.field("dimensions", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("trustworthiness", pa.float32(), nullable=False),
        pa.field("error", pa.float32(), nullable=False),
        pa.field("neighbors", pa.int32(), nullable=False),
        pa.field("points", pa.int32(), nullable=False),
        pa.field("queries", pa.int32(), nullable=False),
    ]
)
"""One row per number of UMAP dimensions and seed (paper Figure 7): trustworthiness (``atlas/trustworthiness.py``) and
its standard error from asking ``queries`` of the ``points`` for their ``neighbors``."""

LOCATIONS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompts", pa.int64(), nullable=False),
        pa.field("files", pa.int64(), nullable=False),
        pa.field("possible", pa.int64(), nullable=False),
        pa.field("total", pa.int64(), nullable=False),
        pa.field("total_error", pa.float32(), nullable=False),
        pa.field("unique", pa.int64(), nullable=False),
        pa.field("unique_error", pa.float32(), nullable=False),
        pa.field("unique_once", pa.int64(), nullable=False),
        pa.field("unique_half", pa.float32(), nullable=False),
        pa.field("unique_even", pa.float32(), nullable=False),
        pa.field("unique_stable", pa.int64(), nullable=False),
        pa.field("unique_weighted", pa.float32(), nullable=False),
        *[
            pa.field(f"{which}{part}", kind)
            for which in ("correct", "incorrect", "overlap")
            for part, kind in (
                ("", pa.int64()),
                ("_null", pa.float32()),
                ("_null_sd", pa.float32()),
                ("_p", pa.float32()),
            )
        ],
        pa.field("movable", pa.float32()),
    ]
)
"""Pattern locations of each task against chance (``analyze/locations.py``; ``docs/locations.md`` says what each column
is); what needs outcomes is null if none is known."""

FOREIGN = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("correct", pa.int64(), nullable=False),
        pa.field("incorrect", pa.int64(), nullable=False),
        pa.field("share_correct", pa.float32(), nullable=False),
        pa.field("share_incorrect", pa.float32(), nullable=False),
        pa.field("null", pa.float32(), nullable=False),
        pa.field("null_sd", pa.float32(), nullable=False),
        pa.field("p", pa.float32(), nullable=False),
    ]
)
"""Whether incorrect prompts look like another task (``analyze/foreign.py``): mean shares of a prompt's locations that
are another task's own, and the difference under permuted outcomes. One row per task with both outcomes."""

PREDICTION = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        *[
            pa.field(f"{figure}{part}", pa.float32(), nullable=figure != "auroc")
            for figure in ("auroc", "within_task", "delta", "transfer")
            for part in ("", "_low", "_high")
        ],
        pa.field("accuracy", pa.float32(), nullable=False),
        pa.field("brier", pa.float32(), nullable=False),
        pa.field("brier_raw", pa.float32(), nullable=False),
        pa.field("calibration_error", pa.float32(), nullable=False),
        pa.field("calibration_error_raw", pa.float32(), nullable=False),
        pa.field("calibration_error_chance", pa.float32(), nullable=False),
        pa.field("natural_accuracy", pa.float32()),
        pa.field("natural_brier", pa.float32()),
        pa.field("chosen", pa.list_(pa.string()), nullable=False),
    ]
)
"""How well each set of features predicts the outcome (``analyze/prediction.py``; ``docs/prediction.md`` says what each
column is). One row per set, ``kind`` is "baseline", "heads" or "added"."""

PREDICTION_TASKS = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompts", pa.int64(), nullable=False),
        pa.field("files", pa.int64(), nullable=False),
        pa.field("correct", pa.int64(), nullable=False),
        *[
            pa.field(f"{figure}{part}", pa.float32())
            for figure in ("auroc", "delta", "transfer")
            for part in ("", "_low", "_high")
        ],
    ]
)
"""The same within each task. ``transfer`` is that of models fitted on the other tasks."""

CALIBRATION = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("recalibrated", pa.bool_(), nullable=False),
        pa.field("bin", pa.int32(), nullable=False),
        pa.field("prompts", pa.int64(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("correct", pa.float32(), nullable=False),
    ]
)
"""Calibration curves: the mean probability of correct in bins of equally many prompts, and the share correct."""

COVERAGE = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("coverage", pa.float32(), nullable=False),
        pa.field("threshold", pa.float32(), nullable=False),
        pa.field("risk", pa.float32(), nullable=False),
    ]
)
"""Risk by coverage: if only the surest prompts are answered, the share of them that is incorrect."""

FORECASTS = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("fold", pa.int16(), nullable=False),
        pa.field("decision", pa.float32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("recalibrated", pa.float32(), nullable=False),
        pa.field("transferred", pa.float32()),
    ]
)
"""What models fitted on other files say of each prompt: log-odds, probability of correct, the same recalibrated, and
the log-odds by models fitted on other tasks of other files."""

TAGS = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("strength", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("unstable", pa.bool_(), nullable=False),
        pa.field("structure", pa.float32(), nullable=False),
        pa.field("measured", pa.string(), nullable=False),
        pa.field("nearest", pa.list_(pa.string()), nullable=False),
        pa.field("distances", pa.list_(pa.float32()), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
        *[pa.field(f"score_{name}", pa.float32(), nullable=False) for name in SCORES],
        pa.field("sinks", pa.list_(pa.int32()), nullable=False),
        pa.field("sink_tokens", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per head: what the atlas says about it on one prompt. ``reason`` says why it is in no
cluster (``atlas/place.py``; "" if it is in one), ``unstable`` that the
cluster is not found again well enough, ``structure`` is the gate's statistic (NaN: not
judged), ``measured`` is the name that its own scores give, ``nearest`` are the names of the nearest clusters and
``distances`` how far they are, in radii of the cluster (1 is as far as a member may be),
``sinks`` are the positions of its sinks in the window, the strongest first, and ``sink_tokens`` their texts."""

CORPUS_TAGS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("strength", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("unstable", pa.bool_(), nullable=False),
        pa.field("structure", pa.float32(), nullable=False),
        pa.field("measured", pa.string(), nullable=False),
        pa.field("nearest", pa.list_(pa.int32()), nullable=False),
        pa.field("distances", pa.list_(pa.float32()), nullable=False),
        pa.field("coordinates", pa.list_(pa.float32()), nullable=False),
    ]
)
"""One row per head and prompt of a corpus, as ``TAGS`` without scores and sinks; ``nearest`` are numbers of clusters,
whose names are in the atlas."""
