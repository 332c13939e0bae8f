"""The tables of the circuit stage."""

import pyarrow as pa

from apmae.schema.names import FILTERS

_HEAD = [pa.field("layer", pa.int16(), nullable=False), pa.field("head", pa.int16(), nullable=False)]
_RECEIVER = [pa.field("to_layer", pa.int16(), nullable=False), pa.field("to_head", pa.int16(), nullable=False)]
_PAIR = pa.field("pair", pa.int32(), nullable=False)
_TASK = pa.field("task", pa.string(), nullable=False)
_INTERVAL = [pa.field("low", pa.float32()), pa.field("high", pa.float32())]
_MEASURED = [pa.field(name, pa.float32(), nullable=name == "tags") for name in FILTERS if name != "random"]

CIRCUIT_PAIRS = pa.schema(
    [
        _PAIR,
        pa.field("id", pa.string(), nullable=False),
        _TASK,
        pa.field("group", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("changed", pa.int32(), nullable=False),
        pa.field("clean", pa.float32(), nullable=False),
        pa.field("counterfactual", pa.float32(), nullable=False),
    ]
)
"""One row per prompt with a counterfactual: how many tokens it has and how many change, and the logit difference, right
minus wrong, in both."""

CIRCUIT_SCORES = pa.schema([_PAIR, *_HEAD, *_MEASURED])
"""One row per pair and head: what each filter sees of it (``lm/patching.py``). ``tags`` is null if no atlas was
given."""

CIRCUIT_EFFECTS = pa.schema([_PAIR, *_HEAD, pa.field("effect", pa.float32(), nullable=False)])
"""One row per pair and head that was patched: by how much the logit difference changes, in logits."""

CIRCUIT_EDGE_EFFECTS = pa.schema(
    [
        _PAIR,
        *_HEAD,
        *_RECEIVER,
        pa.field("effect", pa.float32(), nullable=False),
    ]
)
"""One row per pair and edge: the effect of the sender through the receiver alone, in logits."""

CIRCUIT = pa.schema(
    [
        _TASK,
        *_HEAD,
        *_MEASURED,
        pa.field("random", pa.float32(), nullable=False),
        pa.field("shortlisted", pa.bool_(), nullable=False),
        pa.field("effect", pa.float32()),
        *_INTERVAL,
        pa.field("share", pa.float32()),
        pa.field("rank", pa.int32()),
    ]
)
"""One row per task and head: the mean of each filter's score, whether the chosen filter takes it, and of heads that
were patched the mean effect, its 95 % interval, its share of the summed sizes of all effects measured, and its rank."""

CIRCUIT_RECALL = pa.schema(
    [
        _TASK,
        pa.field("filter", pa.string(), nullable=False),
        pa.field("heads", pa.int32(), nullable=False),
        pa.field("recall_5", pa.float32()),
        pa.field("recall_10", pa.float32()),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("forwards", pa.float32(), nullable=False),
    ]
)
"""One row per task, filter and size of the shortlist: how many of the five and ten heads with the largest effects are
in it, the share of the summed sizes of effects that it has, and forwards per pair, patching included."""

CIRCUIT_TASKS = pa.schema(
    [
        _TASK,
        pa.field("pairs", pa.int32(), nullable=False),
        pa.field("groups", pa.int32(), nullable=False),
        pa.field("clean", pa.float32(), nullable=False),
        pa.field("counterfactual", pa.float32(), nullable=False),
        pa.field("fell", pa.float32(), nullable=False),
        pa.field("halves_5", pa.float32()),
        pa.field("halves_10", pa.float32()),
        pa.field("halves_share", pa.float32()),
    ]
)
"""One row per task: its pairs, groups that they come from, mean logit difference in prompts and counterfactuals, the
share of pairs in which it is smaller in the counterfactual; and where all heads were patched, how well one half of the
groups gives the top five, the top ten and the share of effects of the other."""

CIRCUIT_EDGES = pa.schema(
    [
        _TASK,
        *_HEAD,
        *_RECEIVER,
        pa.field("effect", pa.float32(), nullable=False),
        *_INTERVAL,
    ]
)
"""One row per task and pair of heads found, the sender in an earlier layer: the effect of the sender through the
receiver alone, past no other head."""
