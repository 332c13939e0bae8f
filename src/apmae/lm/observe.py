"""Watching every layer attend, where each prompt's completion position is known.

What is read of a model beside whole patterns is read here: last rows, flow, heads' outputs. It is the listening seam of
the tap and of edits (``lm.attention.listening``); whoever observes changes nothing, and may keep what is shown.

Axes: b prompts, q queries, h heads, v width of a head's output.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded, find_model, listening
from apmae.lm.inputs import reading_all_tokens, watching_inputs
from apmae.lm.layers import attention_modules, count_heads
from apmae.lm.rows import Attention, Sight
from apmae.lm.sights import Sights


class Seen(NamedTuple):
    """One layer in one forward."""

    layer: int
    """The model's own number."""
    attention: Attention
    output: Float[Tensor, "b q h v"] | None
    """Of the heads, before the output projection; None where it cannot be seen."""
    sight: Sight
    """What the masks show."""
    rows: list[int]
    """The completion position of each prompt, counted with its padding."""
    first_prompt: int
    """Number of the batch's first prompt, over all forwards."""


class _Observer:
    """Calls a function with each layer of each forward; forwards of one block run one after another."""

    def __init__(
        self, observe: Callable[[Seen], None], counts: dict[int, int], positions: Sequence[int] | None
    ) -> None:
        self._observe = observe
        self._counts = counts
        self._positions = positions
        self._heard: set[int] = set()
        self._sights = Sights()
        self._first, self._batch = 0, 0

    def listen(self, layer: int, attention: Attention, output: Tensor | None) -> None:
        # Gradient checkpointing runs each forward a second time, inside backward: that time does not count.
        if torch._C._current_graph_task_id() != -1:
            return
        batch, heads, queries, keys = attention.shape
        if heads != self._counts[layer]:
            raise CaptureError(
                f"expected the {self._counts[layer]} heads that the model says layer {layer} has, {heads} attend; "
                "apmae does not support this family"
            )
        if queries != keys:
            raise CaptureError(
                f"expected a forward of whole prompts, got {queries} queries and {keys} keys in layer {layer}; "
                "generate first, then run the whole text"
            )
        if not self._heard or layer in self._heard:
            self._first, self._batch = self._first + self._batch, batch
            self._heard.clear()
            self._sights.forget()
        self._heard.add(layer)
        with torch.no_grad():
            seen = self._sights.look(attention)
            self._observe(Seen(layer, attention, output, seen, self._rows(seen), self._first))

    def _rows(self, seen: Sight) -> list[int]:
        if self._positions is None:
            return [end - 1 for end in seen.ends]
        own = self._positions[self._first : self._first + self._batch]
        lengths = [end - start for start, end in zip(seen.starts, seen.ends, strict=True)]
        if len(own) < len(lengths) or any(not 0 <= row < size for row, size in zip(own, lengths, strict=True)):
            raise CaptureError(
                f"expected a position inside each prompt, of {lengths} tokens, got {list(own)}; count from each "
                "prompt's first token"
            )
        return [start + row for start, row in zip(seen.starts, own, strict=True)]


@contextmanager
def observing(
    model: nn.Module | Loaded, observe: Callable[[Seen], None], positions: Sequence[int] | None = None
) -> Iterator[None]:
    """Call a function with every layer that attends, in every forward inside the block.

    Args:
        model: as for :func:`apmae.capture`.
        observe: called without gradients, layer by layer.
        positions: the completion position of each prompt of all forwards, counted from the prompt's first token; by
            default its last token.

    Raises:
        CaptureError: if the model's attention cannot be read; in a forward, if it continues from a cache, has a prompt
            without a token, or a position outside of its prompt.
    """
    inner = find_model(model)
    observer = _Observer(observe, count_heads(inner), positions)
    with ExitStack() as stack:
        stack.enter_context(watching_inputs(inner, lambda _ids: None))
        stack.enter_context(reading_all_tokens(inner))
        stack.enter_context(listening(inner, attention_modules(inner), observer.listen))
        yield
