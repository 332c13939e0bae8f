"""Edits: what heads write is changed on its way to the output projection, for as long as a block is open.

    with apmae.edit(model, {(2, 3): "zero"}):
        model(input_ids, attention_mask=mask)

An edit is a listener like the tap (``lm.attention.listening``), one that puts something in the place of its heads'
output.

Replacing a head's output before the output projection makes "zero" the model whose columns of that matrix are zero for
the head, bit for bit; the tests hold it against such copies in every family. After the projection heads are summed and
the bias is in. Where the interface is used, the place is what the attention function returns, (prompt, query, head,
width) by contract, whatever the projection is called and wherever it is (BERT's is in another module). Hooks on a
projection found by name or width were the other way, but names differ and a gate's matrix has the same width. A gate on
the heads' output (afmoe) comes after the edit, so zero stays zero. Families that attend by themselves are edited where
a child of their module is first called with all heads' output after the softmax.

Refused are a norm over all heads between attention and projection (BitNet), which changes with one head gone; a module
whose heads' output is never seen (BLOOM's ``slow_but_exact``, GPT-2's ``reorder_and_upcast_attn``, MegatronBERT,
RoFormer), when it ends; and, with gradient checkpointing, ``backward`` after the block, which would run the layers
again without the edit and give gradients of no model.

Axes: b prompts, q queries, h heads, v width of a head's output.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import index
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded, find_model, listening
from apmae.lm.layers import attention_modules, count_heads
from apmae.lm.rows import Attention
from apmae.lm.selection import expect_head

Change = Callable[[Float[Tensor, "b q v"]], Float[Tensor, "b q v"]]
"""What takes the place of one head's output."""

MODES: dict[str, Change] = {"zero": torch.zeros_like}
"""By name, what an edit puts in the place of a head's output."""

_EXAMPLE = "for instance {(2, 3): 'zero'} for head 3 of layer 2"


class _Edits:
    """The edits of one block, as a listener."""

    def __init__(self, edits: dict[int, dict[int, Change]], counts: Mapping[int, int]) -> None:
        self._edits = edits  # by layer and head
        self._counts = counts  # heads of each layer
        self._edited: set[tuple[int, int]] = set()  # thread and layer, while the layer's attention module runs
        self.open = True

    def listen(self, layer: int, attention: Attention, output: Tensor | None) -> Tensor | None:
        """The heads' output with the edited heads in it; called in the recomputations of checkpointing too."""
        if output is None:
            return None  # the module is refused when it ends
        heads = self._counts[layer]
        if attention.shape[1] != heads or output.shape[2] != heads:
            raise CaptureError(
                f"expected the {heads} heads that the model says layer {layer} has, {attention.shape[1]} attend and "
                f"{output.shape[2]} write; apmae cannot edit heads of this family"
            )
        edited = output.clone()
        for head, change in self._edits[layer].items():
            edited[:, :, head] = change(output[:, :, head])
        self._edited.add((get_ident(), layer))
        return edited

    def begin(self, layer: int) -> Callable[[nn.Module, Any], None]:
        """A hook for the start of a layer's attention module: what a forward that failed left behind says nothing."""

        def forget(_module: nn.Module, _inputs: Any) -> None:
            self._edited.discard((get_ident(), layer))

        return forget

    def expect_edited(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        """A hook for the end of a layer's attention module: it refuses one whose heads' output never came by."""

        def check(module: nn.Module, _inputs: Any, _output: Any) -> None:
            try:
                self._edited.remove((get_ident(), layer))
            except KeyError:
                raise CaptureError(
                    f"expected {type(module).__name__} to hand its heads' output to one output projection, layer "
                    f"{layer} does not; apmae cannot edit heads of this model"
                ) from None

        return check

    def expect_open(self, model: PreTrainedModel, _inputs: Any, output: Any) -> None:
        """A hook for the end of a model's forward: what gradient checkpointing runs again must run in the block."""
        if not (model.training and any(getattr(part, "gradient_checkpointing", False) for part in model.modules())):
            return
        for value in output.values() if isinstance(output, Mapping) else output:
            if isinstance(value, Tensor) and value.requires_grad:
                value.register_hook(self._refuse_if_closed)

    def _refuse_if_closed(self, _gradient: Tensor) -> None:
        if not self.open:
            raise CaptureError(
                "expected backward inside the edit, got it after: gradient checkpointing would run the layers again "
                "without it; call backward in the block"
            )


@contextmanager
def edit(model: nn.Module | Loaded, edits: Mapping[tuple[int, int], str]) -> Iterator[None]:
    """Edit what chosen heads write, in every forward in the block, ``generate`` included.

    An edit acts on a head's output before the output projection, so that "zero" is the model whose columns of that
    matrix are zero for the head; a bias of the projection stays. Other heads of the layer are not touched, later layers
    see the edited output, and a :func:`apmae.capture` in the same place sees their patterns under it. Blocks nest; the
    inner one edits last. Gradients flow through what is not edited; with gradient checkpointing, which runs layers
    again, ``backward`` belongs inside the block. After the block the model is what it was, bit for bit; a compiled one
    runs uncompiled inside.

    Args:
        model: as for :func:`apmae.capture`.
        edits: (layer, head) -> what becomes of its output, one of :data:`MODES`: "zero".

    Raises:
        CaptureError: if the model's attention cannot be read, it mixes heads before its output projection, there is
            no such head or mode, or no edit at all; in a forward, if a layer's heads cannot be told apart; in a
            backward after the block, if gradient checkpointing would run layers again without the edit.
    """
    inner = find_model(model)
    modules, counts = attention_modules(inner), count_heads(inner)
    wanted = _wanted(edits, counts)
    chosen = {layer: modules[layer] for layer in wanted}
    for module in chosen.values():
        _refuse_mixing(module)
    listener = _Edits(wanted, counts)
    with ExitStack() as stack:
        stack.enter_context(listening(inner, chosen, listener.listen))
        for layer, module in chosen.items():
            stack.callback(module.register_forward_pre_hook(listener.begin(layer)).remove)
            stack.callback(module.register_forward_hook(listener.expect_edited(layer)).remove)
        for part in inner.modules():
            if isinstance(part, PreTrainedModel):
                stack.callback(part.register_forward_hook(listener.expect_open).remove)
        stack.callback(setattr, listener, "open", False)
        yield


def _wanted(edits: Mapping[tuple[int, int], str], counts: Mapping[int, int]) -> dict[int, dict[int, Change]]:
    if not isinstance(edits, Mapping):
        raise CaptureError(f"expected edits by (layer, head), {_EXAMPLE}, got {edits!r}")
    if not edits:
        raise CaptureError(f"expected at least one edit, {_EXAMPLE}, got none")
    wanted: dict[int, dict[int, Change]] = {}
    for place, mode in edits.items():
        try:
            layer, head = map(index, place)
        except (TypeError, ValueError):
            raise CaptureError(f"expected edits by (layer, head), {_EXAMPLE}, got {place!r}") from None
        expect_head(counts, layer, head)
        if not isinstance(mode, str) or mode not in MODES:
            known = ", ".join(map(repr, MODES))
            raise CaptureError(f"expected an edit of head ({layer}, {head}) that is one of {known}, got {mode!r}")
        wanted.setdefault(layer, {})[head] = MODES[mode]
    return wanted


def _refuse_mixing(module: nn.Module) -> None:
    """Refuse a norm over all heads' outputs, by which each changes the others: queries, keys and values may have one.

    Raises:
        CaptureError: naming the module and its norm.
    """
    for name, child in module.named_children():
        if "norm" in type(child).__name__.lower() and not name.startswith(("q", "k", "v")):
            raise CaptureError(
                f"expected heads' outputs to go to the output projection as they are, {type(module).__name__} "
                f"normalises them before it ({name}), which mixes heads; apmae cannot edit heads of this family"
            )
