"""The tables of the answers stage: what heads do, and what the model's state is, where it answers."""

import pyarrow as pa

from apmae.schema.names import COPIES, ROW_NUMBERS


def answer_heads(eigenvalues: int) -> pa.Schema:
    """One row per prompt and head: numbers of the head's row at the completion position (``patterns/answer_row.py``),
    its flow and the largest Laplacian eigenvalues of its pattern (``lm/flow.py``), and what it adds to the logit of the
    predicted token less that of the second (``lm/readout.py``). NaN where a model or a prompt has none.

    Args:
        eigenvalues: how many of each head.
    """
    return pa.schema(
        [
            pa.field("prompt", pa.int32(), nullable=False),
            pa.field("layer", pa.int16(), nullable=False),
            pa.field("head", pa.int16(), nullable=False),
            *[pa.field(f"row_{name}", pa.float32(), nullable=False) for name in ROW_NUMBERS],
            *[pa.field(f"copy_{name}", pa.float32(), nullable=False) for name in COPIES],
            pa.field("flow", pa.float32(), nullable=False),
            pa.field("attribution", pa.float32(), nullable=False),
            pa.field("laplacian", pa.list_(pa.float32(), eigenvalues), nullable=False),
        ]
    )


def answer_states(width: int) -> pa.Schema:
    """One row per prompt: the hidden state at the completion position after half of the layers, and the last one, as
    the unembedding reads it. Values that fp16 cannot hold are its largest.

    Args:
        width: of the residual stream.
    """
    return pa.schema(
        [
            pa.field("prompt", pa.int32(), nullable=False),
            pa.field("middle", pa.list_(pa.float16(), width), nullable=False),
            pa.field("final", pa.list_(pa.float16(), width), nullable=False),
        ]
    )
