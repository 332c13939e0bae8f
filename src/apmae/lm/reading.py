"""What every head does where the model answers: two forwards per batch, one that answers and one that is watched.

The second forward knows the answer: flow follows the copies of the predicted token, and logit attribution compares it
with the second.

Axes: b prompts, h heads of all layers that attend, t tokens, k eigenvalues, d of the residual stream.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.lm.flow import Flow
from apmae.lm.language_model import LM
from apmae.lm.last_row import HeadOutputs, LastRows
from apmae.lm.observe import Seen, observing
from apmae.lm.outcome import answer, pad
from apmae.lm.readout import Readout, last_states, state_at
from apmae.prompts.fim import Window
from apmae.prompts.prompt import Answer


class Read(NamedTuple):
    """What was read of one batch, on the CPU; heads are ordered by layer and head."""

    answers: list[Answer]
    rows: list[Float[Tensor, "h t"]]
    """Log probabilities of each head at the completion position of each prompt, over the prompt's tokens."""
    flow: Float[Tensor, "b h"]
    """From the copies of the predicted token (``lm.flow``)."""
    eigenvalues: Float[Tensor, "b h k"]
    attribution: Float[Tensor, "b h"]
    """Of the predicted token against the second (``lm.readout``), in nats; NaN where there is none."""
    middle: Float[Tensor, "b d"]
    """Hidden state after half of the layers, at the completion position."""
    final: Float[Tensor, "b d"]
    """The last hidden state there, as the unembedding reads it."""


@torch.no_grad()
def read_batch(lm: LM, windows: Sequence[Window], readout: Readout | None, *, eigenvalues: int) -> Read:
    """Ask the model, then read its heads where it answered.

    Args:
        lm: a model that answers.
        windows: what it sees of each prompt.
        readout: from :func:`apmae.lm.tracing.find_readout`; None if the model has none.
        eigenvalues: how many of each head.

    Raises:
        ModelError: if the model is an encoder without a head for masked tokens.
        CaptureError: if attention scores are not finite.
    """
    answers = answer(lm, windows, spans=True)
    ids, mask = pad([window.ids for window in windows], lm.pad_id)
    chosen, other = (
        torch.tensor([getattr(own, name) for own in answers], device=lm.device)
        for name in ("predicted_id", "second_id")
    )
    inputs: dict[str, Any] = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device)}
    positions = [window.position for window in windows]
    flow = Flow((inputs["input_ids"] == chosen[:, None]) & inputs["attention_mask"].bool(), eigenvalues)
    rows, outputs = LastRows(), HeadOutputs()

    def see(seen: Seen) -> None:
        rows.see(seen)
        flow.see(seen)
        if readout is not None:
            outputs.see(seen)

    with ExitStack() as stack:
        stack.enter_context(observing(lm.model, see, positions))
        states = None if readout is None else stack.enter_context(last_states(readout.reader))
        keeps = lm.keeps_logits and lm.causal and (readout is None or readout.norm is not None)
        few = {"logits_to_keep": 1} if keeps else {}
        made = lm.model(**inputs, use_cache=False, output_hidden_states=True, **few)
    prompts = range(len(windows))
    found = torch.full((len(windows), sum(lm.heads.values())), torch.nan)
    if readout is not None and states is not None:
        state, written, begin = state_at(states, positions), outputs.of(prompts), 0
        for layer, heads in lm.heads.items():
            own = written[layer]
            if layer in readout.projections and own is not None:
                share = readout.attribute(layer, own, state, chosen, other)
                found[:, begin : begin + heads] = share.cpu()
            begin += heads
    hidden = made.hidden_states
    return Read(
        answers,
        [rows.of(prompt) for prompt in prompts],
        flow.flow(),
        flow.eigenvalues(),
        found,
        state_at([hidden[(len(hidden) - 1) // 2]], positions).float().cpu(),
        state_at([hidden[-1]], positions).float().cpu(),
    )
