"""Edits: while a block is open, what heads write is changed on its way to the output projection.

    with apmae.edit(model, {(2, 3): "zero", (4, 0): Scale(0.5), (4, 1): lambda output: -output}):
        model(input_ids, attention_mask=mask)

What an edit does is "zero", a function, or a value of ``lm.changes`` that carries what it needs. An edit is a listener
like the tap (``lm.attention.listening``); it replaces the output of its heads.

A head's output is replaced before the output projection. So "zero" gives, bit for bit, the model in whose output
projection the head's columns are zero; the tests compare it with such copies in every family. After the projection it
would be too late: heads are summed and the bias is added.

In families that use the interface, the edit changes what the attention function returns, (prompt, query, head, width)
by contract, whatever the projection is called and wherever it is (BERT's is in another module). The alternative, hooks
on a projection found by its name or width, would fail: names differ, and a gate's matrix has the same width. A gate on
the heads' output (afmoe) comes after the edit, so zero stays zero. Families with attention code of their own are edited
where, after the softmax, a child of the attention module is first called with the output of all heads.

Four things are refused. A norm over all heads between attention and projection (BitNet) would change with any head. A
module whose heads' output was never seen (BLOOM's ``slow_but_exact``, GPT-2's ``reorder_and_upcast_attn``,
MegatronBERT, RoFormer) is refused when it ends. With gradient checkpointing, ``backward`` after the block would run
the layers again without the edit; its gradients would belong to no model. And a model is not saved while it is edited:
its weights are as they were, so what is saved would not be what was run.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import index
from threading import RLock, get_ident
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded, find_model, listening
from apmae.lm.changes import Change, Function, Mean, Patch, Resample, Scale, Zero
from apmae.lm.layers import attention_modules, count_heads
from apmae.lm.rows import Attention
from apmae.lm.selection import expect_head
from apmae.lm.where import Follower, following

Edit = str | Zero | Scale | Mean | Resample | Patch | Callable[[Tensor], Tensor]
"""What an edit does: "zero", a value of ``lm.changes``, or a function of the output (prompt, query, width)."""

_MADE_BY = {
    "mean": "Mean, which apmae.lm.record.mean_outputs makes for every head",
    "resample": "Resample, which apmae.lm.record.sample_outputs makes for every head",
    "patch": "Patch, which apmae.lm.record.record_heads makes from another run",
    "scale": "Scale, for instance Scale(0.5)",
}
_EXAMPLE = "for instance {(2, 3): 'zero'} for head 3 of layer 2"
_open: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()
"""Attention module -> (layer, head) of the edits that are open."""
_lock = RLock()


class _Edits:
    """The edits of one block, as a listener."""

    def __init__(self, edits: dict[int, dict[int, Change]], counts: Mapping[int, int], follower: Follower) -> None:
        self._edits = edits  # by layer and head
        self._counts = counts  # heads of each layer
        self._follower = follower
        self._edited: set[tuple[int, int]] = set()  # thread and layer, while the layer's attention module runs
        self.open = True

    def listen(self, layer: int, attention: Attention, output: Tensor | None) -> Tensor | None:
        """The heads' output with the chosen heads edited; also called when checkpointing recomputes a layer."""
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
            try:
                edited[:, :, head] = change.apply(output[:, :, head], self._follower)
            except CaptureError as error:
                raise CaptureError(f"head ({layer}, {head}): {error}") from error
        self._edited.add((get_ident(), layer))
        return edited

    def begin(self, layer: int) -> Callable[[nn.Module, Any], None]:
        """A hook for the start of a layer's attention module: it forgets what a failed forward left."""

        def forget(_module: nn.Module, _inputs: Any) -> None:
            self._edited.discard((get_ident(), layer))

        return forget

    def expect_edited(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        """A hook for the end of a layer's attention module: it refuses a module whose heads' output was not seen."""

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
        """A hook for the end of a model's forward: what gradient checkpointing runs again must run inside the block."""
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
def edit(model: nn.Module | Loaded, edits: Mapping[tuple[int, int], Edit], *, first_prompt: int = 0) -> Iterator[None]:
    """Edit what the chosen heads write, in every forward inside the block, including those of ``generate``.

    An edit changes a head's output before the output projection. "zero" has the effect of zeroing the head's columns of
    that matrix; a bias of the projection stays. The layer's other heads are not changed, later layers see the edited
    output, and an :func:`apmae.capture` that is open at the same time captures the patterns that follow from it. Blocks
    nest, as long as no head is in two of them. Gradients flow through what is not edited, and through functions and
    :class:`~apmae.lm.changes.Scale`; with gradient checkpointing, which runs layers again, ``backward`` belongs inside
    the block. Afterwards the model is what it was, bit for bit. A compiled model runs uncompiled inside the block.

    Args:
        model: as for :func:`apmae.capture`.
        edits: (layer, head) -> what to do with its output:

            - "zero", or :class:`~apmae.lm.changes.Scale` with a factor;
            - :class:`~apmae.lm.changes.Mean`: its mean over other prompts, from :func:`apmae.lm.record.mean_outputs`;
            - :class:`~apmae.lm.changes.Resample`: its output on another prompt, from
              :func:`apmae.lm.record.sample_outputs`;
            - :class:`~apmae.lm.changes.Patch`: its output in another run of the batch, everywhere or at some positions,
              from :func:`apmae.lm.record.record_heads`;
            - a function of the output (prompt, query, width), padding included, that returns as much. While a text is
              generated it is called with one query at a time.
        first_prompt: number of the first prompt, which decides what :class:`~apmae.lm.changes.Resample` draws.

    Raises:
        CaptureError: if the model's attention cannot be read, it mixes heads before its output projection, there is
            no such head or mode, no edit at all, or another for the same head; in a forward, if a layer's heads cannot
            be told apart, or outputs do not fit; in a backward after the block, if gradient checkpointing would run
            layers again without the edit; in ``save_pretrained`` inside the block.
    """
    inner = find_model(model)
    modules, counts = attention_modules(inner), count_heads(inner)
    wanted = _wanted(edits, counts)
    chosen = {layer: modules[layer] for layer in wanted}
    for module in chosen.values():
        _refuse_mixing(module)
    with ExitStack() as stack:
        listener = _Edits(wanted, counts, stack.enter_context(following(inner, first_prompt)))
        for layer, module in chosen.items():
            stack.callback(_claim(module, {(layer, head) for head in wanted[layer]}))
        stack.enter_context(listening(inner, chosen, listener.listen))
        for layer, module in chosen.items():
            stack.callback(module.register_forward_pre_hook(listener.begin(layer)).remove)
            stack.callback(module.register_forward_hook(listener.expect_edited(layer)).remove)
        for part in inner.modules():
            if isinstance(part, PreTrainedModel):
                stack.callback(part.register_forward_hook(listener.expect_open).remove)
                if "save_pretrained" not in vars(part):
                    vars(part)["save_pretrained"] = MethodType(_refuse_saving, part)
                    stack.callback(vars(part).pop, "save_pretrained")
        stack.callback(setattr, listener, "open", False)
        yield


def edited_heads(model: nn.Module | Loaded) -> set[tuple[int, int]]:
    """(layer, head) of every head that is edited now.

    Args:
        model: as for :func:`apmae.capture`.
    """
    return {place for module in attention_modules(find_model(model)).values() for place in _open.get(module, ())}


def _claim(module: nn.Module, places: set[tuple[int, int]]) -> Callable[[], None]:
    """Note that some heads are edited; returns a function that ends that.

    Raises:
        CaptureError: if one of them is edited already.
    """
    with _lock:
        if twice := sorted(places & _open.get(module, set())):
            raise CaptureError(
                f"expected one edit of a head at a time, head {twice[0]} is edited in an outer block already; leave it "
                "out of one of the two, or do both in one function"
            )
        _open[module] = _open.get(module, set()) | places

    def release() -> None:
        with _lock:
            _open[module] = _open[module] - places

    return release


def _refuse_saving(model: PreTrainedModel, *_arguments: Any, **_keywords: Any) -> None:
    """Stands for ``save_pretrained`` inside the block."""
    raise CaptureError(
        f"expected {type(model).__name__} to be saved outside of the edit, got save_pretrained inside it: its weights "
        "are not edited, so the saved model would not be the one that was run; save it after the block"
    )


def _wanted(edits: Mapping[tuple[int, int], Edit], counts: Mapping[int, int]) -> dict[int, dict[int, Change]]:
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
        if head in wanted.setdefault(layer, {}):
            raise CaptureError(f"expected one edit of head ({layer}, {head}), got two; leave one of them out")
        wanted[layer][head] = _change(layer, head, mode)
    return wanted


def _change(layer: int, head: int, mode: Edit) -> Change:
    """What an edit does, as a value."""
    if isinstance(mode, Zero | Scale | Mean | Resample | Patch):
        return mode
    if isinstance(mode, str) and mode == "zero":
        return Zero()
    if callable(mode) and not isinstance(mode, type):
        return Function(mode)
    name = mode if isinstance(mode, str) else getattr(mode, "__name__", "").lower()
    if name in _MADE_BY:
        raise CaptureError(f"expected what {name!r} needs for head ({layer}, {head}); give {_MADE_BY[name]}")
    raise CaptureError(
        f"expected an edit of head ({layer}, {head}) that is 'zero', Mean, Resample, Scale, Patch or a function, got "
        f"{mode!r}"
    )


def _refuse_mixing(module: nn.Module) -> None:
    """Refuse a norm over the outputs of all heads, which lets each head change the others.

    Norms of queries, keys or values are fine.

    Raises:
        CaptureError: naming the module and its norm.
    """
    for name, child in module.named_children():
        if "norm" in type(child).__name__.lower() and not name.startswith(("q", "k", "v")):
            raise CaptureError(
                f"expected heads' outputs to go to the output projection as they are, {type(module).__name__} "
                f"normalises them first ({name}), which mixes heads; apmae cannot edit heads of this family"
            )
