"""The row of the completion position of every head, and what heads write there.

A pattern's last row says what a head reads when the model answers; it costs a fraction of the pattern. What the head
writes is its output before the output projection.

Axes: n rows (one per prompt and head), t tokens, h heads, b prompts, v width of a head's output.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded
from apmae.lm.observe import Seen, observing
from apmae.lm.rows import log_row_at


class Rows(NamedTuple):
    """One row per prompt and head, ordered by prompt, layer, head."""

    prompt: Int[ndarray, " n"]
    layer: Int[ndarray, " n"]
    head: Int[ndarray, " n"]
    log_probabilities: Float[Tensor, "n t"]
    """Over the prompt's own tokens; -inf where the position does not attend, and past a prompt's end. Rows sum to 1,
    but for heads with a sink that belongs to no token."""


class LastRows:
    """Collects a row per head of every forward inside :func:`capture_last_rows`."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, Tensor]] = {}  # prompt -> layer -> (h, t)
        self._bad: dict[int, Tensor] = {}

    def see(self, seen: Seen) -> None:
        """Form the rows of one layer."""
        bad = self._bad.setdefault(seen.layer, torch.zeros((), device=seen.attention.device))
        for prompt, row in log_row_at(seen.attention, seen.sight, seen.rows, bad):
            self._rows.setdefault(seen.first_prompt + prompt, {})[seen.layer] = row

    def of(self, prompt: int) -> Float[Tensor, "h t"]:
        """The log rows of all heads of one prompt, layer by layer, on the CPU.

        Raises:
            CaptureError: if there is no such prompt, or scores were not finite.
        """
        if prompt not in self._rows:
            raise CaptureError(f"expected a prompt that was run inside the block, got {prompt}; call the model first")
        if broken := [layer for layer, bad in self._bad.items() if bool(bad.isnan())]:
            raise CaptureError(
                f"expected finite attention scores, layer {broken[0]} has NaN or infinite ones; check the model's "
                "weights, and use bfloat16 or float32 if float16 overflows"
            )
        layers = self._rows[prompt]
        return torch.cat([layers[layer].cpu() for layer in sorted(layers)])  # layers may be on several devices

    @property
    def rows(self) -> Rows:
        """Everything captured so far.

        Raises:
            CaptureError: if no forward ran, or scores were not finite.
        """
        if not self._rows:
            raise CaptureError("expected at least one forward inside the block, got none; call the model first")
        prompts = sorted(self._rows)
        parts = [self.of(prompt) for prompt in prompts]
        longest = max(part.shape[1] for part in parts)
        padded = [nn.functional.pad(part, (0, longest - part.shape[1]), value=-torch.inf) for part in parts]
        places = [
            (prompt, layer, head)
            for prompt in prompts
            for layer in sorted(self._rows[prompt])
            for head in range(len(self._rows[prompt][layer]))
        ]
        prompt, layer, head = np.array(places, np.int64).T
        return Rows(prompt, layer, head, torch.cat(padded))


class HeadOutputs:
    """Collects what heads write at the completion position, in every forward inside :func:`record_outputs`."""

    def __init__(self) -> None:
        self._outputs: dict[int, dict[int, Tensor | None]] = {}  # prompt -> layer -> (h, v)

    def see(self, seen: Seen) -> None:
        """Keep the outputs of one layer, as the model computed them."""
        for prompt, row in enumerate(seen.rows):
            own = None if seen.output is None else seen.output[prompt, row].detach().clone()
            self._outputs.setdefault(seen.first_prompt + prompt, {})[seen.layer] = own

    def of(self, prompts: Sequence[int]) -> dict[int, Float[Tensor, "b h v"] | None]:
        """Layer -> the outputs of its heads; None for layers whose heads' output cannot be seen.

        Raises:
            CaptureError: if one of the prompts was not run inside the block.
        """
        if absent := [prompt for prompt in prompts if prompt not in self._outputs]:
            raise CaptureError(f"expected prompts that were run inside the block, got {absent}; call the model first")
        found: dict[int, Tensor | None] = {}
        for layer in sorted(self._outputs[prompts[0]]) if prompts else ():
            own = [output for prompt in prompts if (output := self._outputs[prompt][layer]) is not None]
            found[layer] = torch.stack(own) if len(own) == len(prompts) else None
        return found


@contextmanager
def capture_last_rows(model: nn.Module | Loaded, positions: Sequence[int] | None = None) -> Iterator[LastRows]:
    """Capture one row of every head's pattern, that of the completion position, in every forward in the block.

    The model computes the same as without the block. Rows are formed in float32 as :func:`apmae.capture` forms those of
    whole patterns, and equal them.

    Args:
        model: as for :func:`apmae.capture`.
        positions: as for :func:`apmae.lm.observe.observing`.

    Raises:
        CaptureError: as :func:`apmae.lm.observe.observing`.
    """
    rows = LastRows()
    with observing(model, rows.see, positions):
        yield rows


@contextmanager
def record_outputs(model: nn.Module | Loaded, positions: Sequence[int] | None = None) -> Iterator[HeadOutputs]:
    """Record what every head writes at the completion position, before the output projection.

    Args:
        model: as for :func:`apmae.capture`.
        positions: as for :func:`apmae.lm.observe.observing`.

    Raises:
        CaptureError: as :func:`apmae.lm.observe.observing`.
    """
    outputs = HeadOutputs()
    with observing(model, outputs.see, positions):
        yield outputs
