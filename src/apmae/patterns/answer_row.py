"""What a head looks at when the model answers: numbers of one row of its pattern, that of the completion position.

*Row* numbers say where attention goes: its entropy in nats and its largest entry; and sums over keys:

| name | keys |
|---|---|
| first, self | the window's first token; the completion position itself |
| prefix, suffix, sentinels | tokens of the left context, of the right one, and of neither, masks left out |
| newline | tokens whose text has a line break |
| within_1, _4, _16 | tokens at most so far away, itself left out |
| kind_... | tokens of a kind (``patterns.tokens``) |

*Copy* numbers are sums over keys that could be copied from, where y is the predicted token and x the last token of the
left context:

| name | keys |
|---|---|
| predicted | whose token is y |
| after_last | whose predecessor is x |
| predicted_after_last | both |
| last | whose token is x |

All copies in the window count, in either context. Of a decoder without infill the completion position is x itself, so
"last" has it too. A prompt without left context has no x: then the last three are 0.

Axes: h heads, t tokens.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from apmae.patterns.tokens import token_kinds
from apmae.prompts.fim import Window
from apmae.schema import COPIES, KINDS, ROW_NUMBERS

_DISTANCES = (1, 4, 16)


def describe_rows(log_rows: Float[Tensor, "h t"], window: Window, predicted: int) -> dict[str, Float[ndarray, " h"]]:
    """The numbers of every head's row.

    They are named ``row_`` with a name of ``schema.ROW_NUMBERS``, or ``copy_`` with one of ``COPIES``.

    Args:
        log_rows: log probabilities at ``window.position``; -inf where it does not attend.
        window: the tokens.
        predicted: id of the predicted token.
    """
    p = log_rows.double().exp().numpy()
    logs = np.where(p > 0, log_rows.double().numpy(), 0.0)
    keys = np.stack([*_places(window), *_copies(window, predicted)]).astype(np.float64)
    sums = p @ keys.T
    names = [f"row_{name}" for name in ROW_NUMBERS[2:]] + [f"copy_{name}" for name in COPIES]
    found = {"row_entropy": -(p * logs).sum(1), "row_largest": p.max(1)}
    found |= {name: sums[:, place] for place, name in enumerate(names)}
    return {name: values.astype(np.float32) for name, values in found.items()}


def _places(window: Window) -> list[Bool[ndarray, " t"]]:
    """Which keys belong to each name of ``ROW_NUMBERS`` after the first two, in their order."""
    size, places = len(window.ids), np.arange(len(window.ids))
    away, kinds = np.abs(places - window.position), token_kinds(window.tokens)
    return [
        places == 0,
        away == 0,
        _within(size, [window.prefix]),
        _within(size, [window.suffix]),
        _within(size, list(window.sentinels)),
        np.array(["\n" in text or "\r" in text for text in window.tokens]),
        *[(away > 0) & (away <= far) for far in _DISTANCES],
        *[kinds == code for code in range(len(KINDS))],
    ]


def _copies(window: Window, predicted: int) -> list[Bool[ndarray, " t"]]:
    ids, last = np.array(window.ids), -1 if window.last is None else window.last
    same = ids == predicted
    after = np.concatenate([[False], ids[:-1] == last])
    return [same, after, same & after, ids == last]


def _within(size: int, ranges: list[range]) -> Bool[ndarray, " t"]:
    found = np.zeros(size, bool)
    for own in ranges:
        found[own.start : own.stop] = True
    return found
