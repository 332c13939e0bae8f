"""What a head carries of a task: attribution, exact activation patching, paths, and what clean patterns alone say.

A pair is a prompt and a counterfactual of as many tokens, after which another completion is right. The measure is the
logit of the right completion less that of the wrong one where the model answers. Two runs differ in it; a head's
*effect* is how much of that difference it carries:

- *exact*, noising: the head's output in the run of the prompt is replaced by its output on the counterfactual, at every
  position; effect = measure before - measure after. Denoising: its output on the prompt is put into the run of the
  counterfactual; effect = measure after - measure before. One forward per head (activation patching: Vig et al. 2020,
  arXiv:2004.12265; which direction shows what: Heimersheim and Nanda 2024, arXiv:2404.15255).
- *attribution*: the same to first order, for all heads at once: the sum over positions and width of (output on the
  prompt - output on the counterfactual) x gradient of the measure in the run that is patched (Nanda 2023; Syed et al.
  2023, arXiv:2310.10348). With several steps, the mean of the gradients on the way between the two inputs' embeddings,
  at the middle of equal steps (integrated gradients: Sundararajan et al. 2017, arXiv:1703.01365; for circuits Hanna et
  al. 2024, arXiv:2403.17806).
- *edge*, path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969): the sender
  is patched while every other head before the receiver is held at what it wrote, MLPs are not; what the receiver then
  writes is put into the run. That is the sender's effect through the receiver alone.

Positive is: the head works for the right answer. Filters that need no gradient read the clean run alone: *flow*
(``lm.flow``, where the share of each layer's attention is one over the number of layers) from the changed tokens, and
*last row*, the mass that the head's row at the completion position puts on them.

Axes: b pairs of a batch, h heads of all layers, q queries, v width of a head's output, n chosen heads, e edges.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apmae.lm.edit import edit
from apmae.lm.flow import Flow
from apmae.lm.last_row import LastRows
from apmae.lm.observe import Seen, observing
from apmae.lm.pairs import Batch
from apmae.lm.record import record_heads
from apmae.lm.restart import Restart
from apmae.lm.selection import expect_head

Head = tuple[int, int]
"""(layer, head)."""

FORWARDS = {"flow": 1, "last_row": 1, "tags": 2, "random": 0}
"""Forwards per pair of the filters without a gradient."""
RUNS = 2
"""Forwards per pair before any head is patched: outputs to put in, and the run to put them into."""


def forwards_of(name: str, steps: int) -> int:
    """Forwards per pair of a filter; a backward counts as two.

    Args:
        name: one of ``schema.FILTERS``.
        steps: gradients of attribution.
    """
    if name != "attribution":
        return FORWARDS[name]
    return 1 + 3 if steps == 1 else 2 + 3 * steps  # outputs on both sides, or on the other one alone


class Attributed(NamedTuple):
    """What attribution gives, in logits on the CPU."""

    effects: Float[Tensor, "b h"]
    """Of each head to first order, heads by layer and number."""
    clean: Float[Tensor, " b"]
    """The measure on the prompts."""
    counterfactual: Float[Tensor, " b"]


class Looks(NamedTuple):
    """What clean patterns say of each head, on the CPU."""

    flow: Float[Tensor, "b h"]
    last_row: Float[Tensor, "b h"]
    """Share of the row of the completion position that goes to changed tokens."""


@torch.no_grad()
def see_clean(batch: Batch) -> Looks:
    """Run the prompts once, and read where their heads look.

    Raises:
        CaptureError: if attention scores are not finite.
    """
    changed = torch.zeros(batch.clean.shape, dtype=torch.bool)
    for row, pair in enumerate(batch.pairs):
        changed[row, pair.changed] = True
    share = 1 / max(len(batch.lm.heads), 2)  # over all layers, about a third of the stream stays where it is
    flow, rows = Flow(changed.to(batch.lm.device), 1, share), LastRows()

    def see(seen: Seen) -> None:
        flow.see(seen)
        rows.see(seen)

    with observing(batch.lm.model, see, batch.rows):
        batch.difference(batch.clean)
    last = [rows.of(place)[:, pair.changed].exp().sum(1) for place, pair in enumerate(batch.pairs)]
    return Looks(flow.flow(), torch.stack(last))


def attribute(batch: Batch, *, denoising: bool = False, steps: int = 1) -> Attributed:
    """The effect of every head to first order.

    Args:
        batch: the pairs.
        denoising: patch the run of the counterfactual, not that of the prompt.
        steps: gradients to take the mean of.
    """
    if steps > 1:
        return _integrated(batch, steps)
    source, base = (batch.clean, batch.other) if denoising else (batch.other, batch.clean)
    with torch.no_grad(), record_heads(batch.lm.model) as put_in:
        there = batch.difference(source).cpu()
    own, gradients, here = _gradients(batch, base)
    sign = -1 if denoising else 1
    effects = [sign * _dot(own[at] - put_in.outputs[at], gradients[at]) for at in own]
    return Attributed(torch.cat(effects, dim=1), *((there, here) if denoising else (here, there)))


def _integrated(batch: Batch, steps: int) -> Attributed:
    """The same with the mean of gradients between the two sides; it has no direction."""
    sides, states, measures = [], [], []
    for ids in (batch.clean, batch.other):
        with torch.no_grad(), record_heads(batch.lm.model) as recorded, _embeddings(batch) as embedded:
            measures.append(batch.difference(ids).cpu())
        sides.append(recorded.outputs)
        states.append(embedded[0])
    mean: dict[int, Tensor] = {}
    for step in range(steps):
        share = (step + 0.5) / steps
        with _embeddings(batch, states[1] + share * (states[0] - states[1])):
            gradients = _gradients(batch, batch.clean)[1]
        for at, gradient in gradients.items():
            mean[at] = gradient / steps if step == 0 else mean[at] + gradient / steps
    effects = [_dot(sides[0][at] - sides[1][at], mean[at]) for at in mean]
    return Attributed(torch.cat(effects, dim=1), measures[0], measures[1])


@torch.no_grad()
def patch_each(
    batch: Batch,
    heads: Sequence[Head],
    *,
    denoising: bool = False,
    restart: Restart | None = None,
    advance: Callable[[], None] | None = None,
) -> Float[Tensor, "b n"]:
    """The exact effect of each head, in logits: one forward for each, after two.

    Args:
        batch: the pairs.
        heads: which to patch, one at a time.
        denoising: as for :func:`attribute`.
        restart: of the model; with it each forward begins at the head's layer. None runs whole forwards.
        advance: called after each head.

    Raises:
        CaptureError: if there is no such head, or heads of this family cannot be edited.
    """
    for layer, head in heads:
        expect_head(batch.lm.heads, layer, head)
    base, source = (batch.other, batch.clean) if denoising else (batch.clean, batch.other)
    with record_heads(batch.lm.model) as put_in:
        batch.difference(source)
    with _recording(restart):
        before = batch.difference(base)
    effects = []
    for head in heads:
        new = partial(_instead, put_in.outputs[head[0]][:, :, head[1]])
        with _at(restart, head[0]), edit(batch.lm.model, {head: new}):
            after = batch.difference(base)
        effects.append((after - before if denoising else before - after).cpu())
        if advance:
            advance()
    return torch.stack(effects, dim=1) if effects else torch.zeros(len(before), 0)


def edges_among(heads: Sequence[Head]) -> list[tuple[Head, Head]]:
    """The pairs of heads that can be an edge: the sender is in an earlier layer."""
    ordered = sorted(heads)
    return [(sender, receiver) for sender in ordered for receiver in ordered if sender[0] < receiver[0]]


@torch.no_grad()
def patch_edges(
    batch: Batch, heads: Sequence[Head], *, denoising: bool = False, restart: Restart | None = None
) -> Float[Tensor, "b e"]:
    """The effect of each head through each later one of the same heads, past no other head, in logits.

    One forward per sender, with all other heads held, shows what every receiver would write; one per edge puts that in.

    Args:
        batch: the pairs.
        heads: among which edges are measured, in the order of :func:`edges_among`.
        denoising: as for :func:`attribute`.
        restart: as for :func:`patch_each`.
    """
    lm = batch.lm
    for layer, head in heads:
        expect_head(lm.heads, layer, head)
    base, source = (batch.other, batch.clean) if denoising else (batch.clean, batch.other)
    with record_heads(lm.model) as put_in:
        batch.difference(source)
    with record_heads(lm.model) as held, _recording(restart):
        before = batch.difference(base)
    edges = edges_among(heads)
    effects = []
    for sender in dict.fromkeys(sender for sender, _ in edges):
        receivers = [to for own, to in edges if own == sender]
        would: dict[Head, Tensor] = {}
        edits: dict[Head, Callable[[Tensor], Tensor]] = {
            (layer, head): partial(_held, would, (layer, head), held.outputs[layer][:, :, head])
            for layer, count in lm.heads.items()
            if layer > sender[0]
            for head in range(count)
        }
        edits[sender] = partial(_instead, put_in.outputs[sender[0]][:, :, sender[1]])
        with _at(restart, sender[0]), edit(lm.model, edits):
            batch.difference(base)
        for receiver in receivers:
            with _at(restart, receiver[0]), edit(lm.model, {receiver: partial(_instead, would[receiver])}):
                after = batch.difference(base)
            effects.append((after - before if denoising else before - after).cpu())
    return torch.stack(effects, dim=1) if effects else torch.zeros(len(before), 0)


def _recording(restart: Restart | None) -> AbstractContextManager[None]:
    return nullcontext() if restart is None else restart.recording()


def _at(restart: Restart | None, layer: int) -> AbstractContextManager[None]:
    return nullcontext() if restart is None else restart.at(layer)


def _instead(new: Float[Tensor, "b q v"], own: Float[Tensor, "b q v"]) -> Float[Tensor, "b q v"]:
    return new


def _held(
    would: dict[Head, Tensor], head: Head, fixed: Float[Tensor, "b q v"], own: Float[Tensor, "b q v"]
) -> Float[Tensor, "b q v"]:
    """Keep what a head would write, and write what it wrote before."""
    would[head] = own.clone()
    return fixed


def _gradients(batch: Batch, ids: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor], Float[Tensor, " b"]]:
    """Each layer's outputs of heads, the gradient of the measure with respect to them, and the measure."""
    with torch.enable_grad(), record_heads(batch.lm.model, gradients=True) as recorded:
        measure = batch.difference(ids)
        outputs = recorded.outputs
        gradients = torch.autograd.grad(measure.sum(), list(outputs.values()))
    found = dict(zip(outputs, gradients, strict=True))
    return {at: output.detach() for at, output in outputs.items()}, found, measure.detach().cpu()


def _dot(one: Float[Tensor, "b q h v"], other: Float[Tensor, "b q h v"]) -> Float[Tensor, "b h"]:
    return (one.float() * other.float()).sum((1, 3)).cpu()


@contextmanager
def _embeddings(batch: Batch, instead: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Keep what the token embedding gives, or give something else."""
    kept: list[Tensor] = []

    def see(_module: object, _inputs: object, output: Tensor) -> Tensor | None:
        kept.append(output.detach())
        return instead

    hook = batch.lm.model.get_input_embeddings().register_forward_hook(see)
    try:
        yield kept
    finally:
        hook.remove()
