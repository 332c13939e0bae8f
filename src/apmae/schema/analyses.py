"""The tables of the analyses: losses, dimensions, locations, prediction."""

import pyarrow as pa

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
        pa.field("total_error", pa.float32()),
        pa.field("unique", pa.int64(), nullable=False),
        pa.field("unique_error", pa.float32()),
        pa.field("unique_null", pa.float32(), nullable=False),
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
        pa.field("models", pa.list_(pa.string()), nullable=False),
        *[
            pa.field(f"{figure}{part}", pa.float32(), nullable=figure != "auroc")
            for figure in ("auroc", "within_task", "delta", "transfer")
            for part in ("", "_low", "_high")
        ],
        pa.field("delta_all_low", pa.float32()),
        pa.field("delta_all_high", pa.float32()),
        pa.field("accuracy", pa.float32(), nullable=False),
        pa.field("brier", pa.float32(), nullable=False),
        pa.field("brier_raw", pa.float32(), nullable=False),
        pa.field("calibration_error", pa.float32(), nullable=False),
        pa.field("calibration_error_raw", pa.float32(), nullable=False),
        pa.field("calibration_error_chance", pa.float32(), nullable=False),
        pa.field("natural_auroc", pa.float32()),
        pa.field("natural_accuracy", pa.float32()),
        pa.field("natural_brier", pa.float32()),
        pa.field("chosen", pa.list_(pa.string()), nullable=False),
        pa.field("with_heads", pa.int32(), nullable=False),
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

FITS = pa.schema(
    [
        pa.field("features", pa.string(), nullable=False),
        pa.field("fold", pa.int16(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("loss", pa.float32()),
        pa.field("baseline", pa.string()),
        pa.field("heads", pa.bool_(), nullable=False),
    ]
)
"""What each fold chose for each set of features, and its log loss within the fitting files."""
