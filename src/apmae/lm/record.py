"""Recording what heads write before the output projection: whole outputs of a batch, their means, a sample of them.

    with record_heads(model) as clean:
        model(**clean_inputs)
    with apmae.edit(model, clean.patches([(2, 3)])):
        model(**corrupted_inputs)

With ``gradients=True`` the recorded outputs are part of the graph. Attribution patching is then a sum over queries and
width of (clean - corrupted) * gradient, for all heads at the price of one backward (arXiv 2310.10348).

Axes: b prompts, q queries, h heads, v width of a head's output, t tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded, find_model, listening
from apmae.lm.changes import Mean, Patch, Resample
from apmae.lm.inputs import reading_all_tokens
from apmae.lm.language_model import LM
from apmae.lm.layers import attention_modules, count_heads
from apmae.lm.outcome import pad
from apmae.lm.rows import Attention
from apmae.lm.selection import expect_head
from apmae.lm.where import Follower, Where, following
from apmae.prompts.fim import Window
from apmae.seeding import generator

Place = tuple[int, int]
"""(layer, head)."""


class Recorded:
    """The outputs of all heads in the last forward inside :func:`record_heads`."""

    def __init__(self, counts: dict[int, int], follower: Follower, *, gradients: bool) -> None:
        self._counts = counts
        self._follower = follower
        self._gradients = gradients
        self._outputs: dict[int, Tensor] = {}
        self._where: Where | None = None

    def listen(self, layer: int, attention: Attention, output: Tensor | None) -> Tensor | None:
        """Keep the outputs of one layer."""
        _, heads, queries, keys = attention.shape
        if output is None or heads != self._counts[layer] or output.shape[2] != heads:
            raise CaptureError(
                f"expected the {self._counts[layer]} heads that the model says layer {layer} has to hand their output "
                "to one output projection, they do not; apmae cannot record heads of this family"
            )
        if queries != keys:
            raise CaptureError(
                f"expected a forward of whole prompts, got {queries} queries and {keys} keys in layer {layer}; "
                "generate first, then run the whole text"
            )
        where = self._follower.where()
        if where is not self._where:
            self._outputs, self._where = {}, where
        if not self._gradients:
            self._outputs[layer] = output.detach().clone()
            return None
        if not torch.is_grad_enabled():
            raise CaptureError("expected gradients to be enabled for record_heads(gradients=True); leave out no_grad")
        # With frozen parameters nothing before the first layer is in the graph: it begins here.
        kept = output if output.requires_grad else output.detach().requires_grad_()
        kept.retain_grad()
        self._outputs[layer] = kept
        return kept

    @property
    def outputs(self) -> dict[int, Float[Tensor, "b q h v"]]:
        """Layer -> the outputs of its heads, ascending, padding included.

        With gradients they are in the graph: ``torch.autograd.grad(x, [*recorded.outputs.values()])`` works, and their
        ``.grad`` after ``x.backward()``. Without, they are copies.

        Raises:
            CaptureError: if no forward ran, or it did not reach all layers.
        """
        if missing := [layer for layer in self._counts if layer not in self._outputs]:
            raise CaptureError(
                f"expected a forward of all layers inside the block, got none of layers {missing}; call the model first"
            )
        return {layer: self._outputs[layer] for layer in self._counts}

    @property
    def positions(self) -> Int[Tensor, "b q"]:
        """Of each query, counted from its prompt's first token; -1 for padding."""
        if self._where is None:
            raise CaptureError("expected a forward inside the block, got none; call the model first")
        return self._where.positions

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return (self.positions.amax(1) + 1).tolist()

    def aligned(self, layer: int) -> Float[Tensor, "b t h v"]:
        """A layer's outputs with each prompt's first token in row 0, without gradients; zero past a prompt's end."""
        output = self.outputs[layer].detach()
        positions = self.positions.to(output.device)
        rows, columns = (positions >= 0).nonzero(as_tuple=True)
        found = output.new_zeros(len(output), max(self.lengths), *output.shape[2:])
        found[rows, positions[rows, columns]] = output[rows, columns]
        return found

    def patches(self, heads: Iterable[Place], positions: Sequence[Sequence[int]] | None = None) -> dict[Place, Patch]:
        """Edits that put these outputs into another run of the same batch.

        Args:
            heads: (layer, head) of those to patch.
            positions: as of :class:`Patch`.

        Raises:
            CaptureError: if there is no such head or position.
        """
        wanted = list(heads)
        for layer, head in wanted:
            expect_head(self._counts, layer, head)
        layers = {layer: self.aligned(layer) for layer in dict.fromkeys(layer for layer, _ in wanted)}
        return {(layer, head): Patch(layers[layer][:, :, head], positions) for layer, head in wanted}


@contextmanager
def record_heads(model: nn.Module | Loaded, *, gradients: bool = False) -> Iterator[Recorded]:
    """Record what every head writes before the output projection, in the last forward inside the block.

    The model computes the same as without the block. Inside an :func:`apmae.edit` the outputs are those after the edit.

    Args:
        model: as for :func:`apmae.capture`.
        gradients: keep the outputs in the graph, from the first layer that attends. Parameters may be frozen.

    Raises:
        CaptureError: if the model's attention cannot be read, or ``gradients`` meets gradient checkpointing; in a
            forward, if a layer's heads cannot be told apart, it continues from a cache, or gradients are not enabled.
    """
    inner = find_model(model)
    counts = count_heads(inner)
    if gradients and inner.training and any(getattr(part, "gradient_checkpointing", False) for part in inner.modules()):
        raise CaptureError(
            "expected no gradient checkpointing for record_heads(gradients=True), which keeps outputs in the graph; "
            "turn it off, or call model.eval()"
        )
    with ExitStack() as stack:
        recorded = Recorded(counts, stack.enter_context(following(inner)), gradients=gradients)
        stack.enter_context(reading_all_tokens(inner))
        stack.enter_context(listening(inner, attention_modules(inner), recorded.listen))
        yield recorded


def mean_outputs(lm: LM, windows: Iterable[Window], *, batch: int = 8) -> dict[Place, Mean]:
    """Each head's mean output over the tokens of some prompts, as edits: ``apmae.edit(lm, means)`` edits all heads.

    Sums are in float64, without padding. Each token counts the same, so longer prompts count more.

    Args:
        lm: the model.
        windows: what it sees of the prompts (:func:`apmae.lm.outcome.window_of`); a stream, of which one batch is kept.
        batch: prompts of a forward.

    Raises:
        CaptureError: if there is no prompt, or heads cannot be recorded or write values that are not finite.
    """
    sums: dict[int, Tensor] = {}
    count = 0
    for recorded in _forwards(lm, windows, batch):
        real = recorded.positions >= 0
        count += int(real.sum())
        for layer, output in recorded.outputs.items():
            own = output[real.to(output.device)].sum(0, dtype=torch.float64).cpu()
            sums[layer] = sums[layer] + own if layer in sums else own
    if not count:
        raise CaptureError("expected at least one prompt to take means over, got none; give more prompts")
    return {
        (layer, head): Mean((own / count).to(torch.float32))
        for layer, total in sums.items()
        for head, own in enumerate(total)
    }


def sample_outputs(
    lm: LM, windows: Iterable[Window], *, count: int, seed: int = 0, batch: int = 8
) -> dict[Place, Resample]:
    """Every head's outputs on a uniform sample of prompts, as edits that resample from them.

    A reservoir (Vitter 1985, algorithm R): prompts are drawn before any is run, by their number alone. Kept of each are
    tokens x heads x width values in the model's precision: 9 MB for 256 tokens of 30 x 9 heads of width 64 in bfloat16.

    Args:
        lm: the model.
        windows: as for :func:`mean_outputs`; all are read, and those drawn are run.
        count: prompts to keep, fewer if there are fewer.
        seed: decides the sample, and what edits draw from it.
        batch: prompts of a forward.

    Raises:
        CaptureError: as for :func:`mean_outputs`.
    """
    if count < 1:
        raise CaptureError(f"expected at least one prompt to sample, got count={count}; 16 is a start")
    draw = generator(seed, "sample_outputs")
    kept: list[Window] = []
    for number, window in enumerate(windows):
        place = number if number < count else int(draw.integers(number + 1))
        if place < count:
            kept[place : place + 1] = [window]
    if not kept:
        raise CaptureError("expected at least one prompt to sample outputs from, got none; give more prompts")
    parts: dict[int, list[Tensor]] = {}
    lengths: list[int] = []
    longest = max(len(window.ids) for window in kept)
    for recorded in _forwards(lm, kept, batch):
        lengths += recorded.lengths
        for layer in lm.heads:
            own = recorded.aligned(layer)
            parts.setdefault(layer, []).append(nn.functional.pad(own, (0, 0, 0, 0, 0, longest - own.shape[1])))
    found: dict[Place, Resample] = {}
    for layer, heads in lm.heads.items():
        whole = torch.cat(parts.pop(layer))
        found |= {(layer, head): Resample(whole[:, :, head], tuple(lengths), seed) for head in range(heads)}
    return found


@torch.no_grad()
def _forwards(lm: LM, windows: Iterable[Window], batch: int) -> Iterator[Recorded]:
    """The heads' outputs of each batch in turn."""
    few: dict[str, Any] = {"logits_to_keep": 1} if lm.keeps_logits else {}
    rest = iter(windows)
    while chunk := list(islice(rest, batch)):
        ids, mask = pad([window.ids for window in chunk], lm.pad_id)
        with record_heads(lm.model) as recorded:
            lm.model(input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False, **few)
        yield recorded
