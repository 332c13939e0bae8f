"""The tables of the prune stage: how heads are ranked, and what is left without the first of them."""

import pyarrow as pa

HEAD_READINGS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("gradient", pa.float32(), nullable=False),
        pa.field("attribution", pa.float32(), nullable=False),
        pa.field("flow", pa.float32()),
        pa.field("first_token", pa.float32()),
    ]
)
"""One row per prompt of the ranking half and head: what one forward, one backward and one reading say of it. Flow and
mass on the first token are null where no ranking needs them."""

RANKED_HEADS = pa.schema(
    [
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
    ]
)
"""One row per ranking and head: when it is removed, from 0, and the score that decides it."""

PRUNED_SETS = pa.schema(
    [
        pa.field("set", pa.int32(), nullable=False),
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("dose", pa.int32(), nullable=False),
        pa.field("control", pa.string(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("layers", pa.list_(pa.int16()), nullable=False),
        pa.field("heads", pa.list_(pa.int16()), nullable=False),
    ]
)
"""One row per ranking, dose and set that is removed for it: the first heads of the ranking (``control`` is empty), or a
random draw. Equal sets share a number."""

_FIGURES = ("drawn", "balanced", "natural", "kept", "kept_natural", "log_probability", "elsewhere")
_BEYOND = ("drawn", "natural", "log_probability", "elsewhere")

PRUNING = pa.schema(
    [
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("dose", pa.int32(), nullable=False),
        pa.field("control", pa.string(), nullable=False),
        pa.field("sets", pa.int32(), nullable=False),
        pa.field("shared", pa.float32()),
        *[pa.field(f"{name}{part}", pa.float32()) for name in _FIGURES for part in ("", "_low", "_high")],
        *[pa.field(f"kept_all_{part}", pa.float32()) for part in ("low", "high")],
        *[pa.field(f"{name}_beyond{part}", pa.float32()) for name in _BEYOND for part in ("", "_low", "_high")],
    ]
)
"""One row per ranking, dose and control, on the measuring half. ``docs/pruning.md`` defines each figure."""
