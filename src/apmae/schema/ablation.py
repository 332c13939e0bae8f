"""The tables of the ablate stage: each prompt with heads removed, and what that says of heads and sets."""

import pyarrow as pa

_MEASURED = [
    pa.field("log_probability", pa.float32(), nullable=False),
    pa.field("correct", pa.bool_(), nullable=False),
    pa.field("elsewhere", pa.float32()),
]


def _estimate(name: str) -> list[pa.Field]:
    """A figure with its 95 % interval; null where it cannot be told."""
    return [pa.field(f"{name}{part}", pa.float32()) for part in ("", "_low", "_high")]


UNEDITED = pa.schema([pa.field("prompt", pa.int32(), nullable=False), *_MEASURED])
"""One row per prompt: the model as it is. ``log_probability`` of the expected token, in nats; whether the answer is
correct by the outcome rule; ``elsewhere`` is the mean negative log-probability of the prompt's other tokens, null for
an encoder."""

EFFECTS = pa.schema(
    [
        pa.field("prompt", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        *_MEASURED,
    ]
)
"""One row per prompt, mode and head: the same with that head removed."""

REMOVED = pa.schema(
    [pa.field("prompt", pa.int32(), nullable=False), pa.field("set", pa.int32(), nullable=False), *_MEASURED]
)
"""One row per measuring prompt and set of ``HEAD_SETS``: the same with all heads of the set removed."""

HEAD_SETS = pa.schema(
    [
        pa.field("set", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("dose", pa.int32(), nullable=False),
        pa.field("control", pa.string(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("layers", pa.list_(pa.int16()), nullable=False),
        pa.field("heads", pa.list_(pa.int16()), nullable=False),
    ]
)
"""One row per ranking, dose and set that is removed for it: the ranked heads themselves (``control`` is empty), or a
random draw that they are compared with. Equal sets share a number."""

HEAD_EFFECTS = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("half", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("prompts", pa.int32(), nullable=False),
        *_estimate("log_probability"),
        *_estimate("accuracy"),
        *_estimate("elsewhere"),
        pa.field("lost", pa.int32(), nullable=False),
        pa.field("gained", pa.int32(), nullable=False),
    ]
)
"""One row per mode, half ("ranking", "measuring", "both") and head: mean changes when it is removed, and how many
answers were correct only before (``lost``) and only after (``gained``)."""

RELIABILITY = pa.schema(
    [
        pa.field("what", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        *_estimate("spearman"),
    ]
)
"""One row per rank correlation of heads: of a mode between the two halves ("halves"), or between two modes in all
prompts ("modes")."""

_FIGURES = ("drawn", "balanced", "natural", "reweighting", "log_probability", "elsewhere")

ABLATION = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("dose", pa.int32(), nullable=False),
        pa.field("control", pa.string(), nullable=False),
        pa.field("sets", pa.int32(), nullable=False),
        pa.field("shared", pa.float32(), nullable=False),
        pa.field("ranked", pa.float32(), nullable=False),
        *[pa.field(name, pa.float32(), nullable=False) for name in ("lost", "gained")],
        *[field for name in _FIGURES for field in _estimate(name)],
        *[pa.field(f"drawn_all_{part}", pa.float32()) for part in ("low", "high")],
        *[field for name in _FIGURES for field in _estimate(f"{name}_beyond")],
        *[pa.field(f"drawn_beyond_all_{part}", pa.float32()) for part in ("low", "high")],
    ]
)
"""One row per ranking, dose and control: changes on the measuring half when its heads are removed, and how much further
the ranked heads go than the control (``_beyond``; null in their own row). ``docs/ablation.md`` defines each figure."""

ABLATION_TASKS = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("ranking", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
        pa.field("dose", pa.int32(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompts", pa.int32(), nullable=False),
        pa.field("files", pa.int32(), nullable=False),
        pa.field("unedited", pa.float32(), nullable=False),
        *_estimate("drawn"),
        *_estimate("natural"),
        *_estimate("log_probability"),
    ]
)
"""One row per ranking, dose and task: the share of correct answers before, and changes when the ranked heads are
removed. ``natural`` weighs outcomes by the task's own rate."""
