"""Where the queries of a forward are in their prompts, also when it continues from a cache.

Edits that depend on the position, and records of heads' outputs, count from a prompt's first token, wherever the batch
is padded. So a forward is followed from outside: its attention mask says what is padding, its cache how many tokens
came before. Nothing is computed before someone asks.

Axes: b prompts, q queries, t tokens with those in the cache.
"""

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from threading import Lock, local
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from apmae.errors import CaptureError
from apmae.lm.inputs import Generation, generation, watching_generations

T = TypeVar("T")


class Where:
    """The queries of one forward."""

    def __init__(self, shape: tuple[int, int], past: int, mask: Any, device: torch.device, first_prompt: int) -> None:
        self.shape = shape
        """b, q."""
        self.past = past
        """Tokens in the cache, padding included."""
        self.first_prompt = first_prompt
        """Number of the batch's first prompt, over all forwards; a forward that continues has that of its prompts."""
        self.continued: Where | None = None
        """The forward that read the prompts first, if this one continues them."""
        self._mask = mask
        self._device = device
        self._known: dict[Hashable, Any] = {}

    @cached_property
    def positions(self) -> Int[Tensor, "b q"]:
        """Of each query, counted from its prompt's first token; -1 for padding.

        Raises:
            CaptureError: if the attention mask does not say which tokens are padding.
        """
        batch, queries = self.shape
        total = self.past + queries
        if self._mask is None:
            return torch.arange(self.past, total, device=self._device).expand(batch, -1)
        if not isinstance(self._mask, Tensor) or self._mask.shape != (batch, total):
            found = tuple(self._mask.shape) if isinstance(self._mask, Tensor) else type(self._mask).__name__
            raise CaptureError(
                f"expected an attention mask of shape {(batch, total)}, which says what is padding, got {found}; edits "
                "and records that depend on positions need it"
            )
        real = self._mask.bool()
        return (real.cumsum(1) - 1).masked_fill(~real, -1)[:, self.past :]

    @cached_property
    def ends(self) -> Int[Tensor, " b"]:
        """Tokens that each prompt had when it was first read, before any was generated."""
        return self.positions.amax(1) + 1 if self.continued is None else self.continued.ends

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once for all heads and layers of this forward."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


class _ThreadState(local):
    """What runs in this thread: several threads may use the model at once."""

    where: Where | None = None
    generation: Generation | None = None
    outermost = False
    """Whether the whole model runs, not only a part of it."""


class Follower:
    """Knows where the queries of the running forward are."""

    def __init__(self, model: PreTrainedModel, first_prompt: int) -> None:
        self._model = model
        self._prompts = first_prompt
        self._thread = _ThreadState()
        self._lock = Lock()

    def __deepcopy__(self, _memo: Any) -> "Follower":
        return self  # hooks are copied with a model that is copied inside the block; threads and locks cannot be

    def where(self) -> Where:
        """The queries of the forward that runs in this thread.

        Raises:
            CaptureError: if none runs, as when gradient checkpointing runs a layer again.
        """
        if torch._C._current_graph_task_id() != -1 or self._thread.where is None:
            raise CaptureError(
                "expected a forward of the whole model, got a layer that is run alone or again, by gradient "
                "checkpointing: its tokens' positions are not known; turn checkpointing off"
            )
        return self._thread.where

    def begin(self, part: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A hook for the start of a model's forward, or of one inside it that is called alone."""
        if part is not self._model and self._thread.outermost:
            return
        self._thread.outermost = part is self._model
        given = inspect.signature(part.forward).bind_partial(*arguments, **keywords).arguments
        given = {**given.pop("kwargs", {}), **given}
        read = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
        if not isinstance(read, Tensor) or read.ndim < 2:
            self._thread.where = None
            return
        batch, queries = read.shape[:2]
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        past = cache.get_seq_length() if isinstance(cache, Cache) else 0
        if isinstance(mask, Tensor) and mask.ndim == 2 and past:
            past = mask.shape[1] - queries  # a cache that keeps a window only may know less
        before, call = self._thread.where, generation()
        continues = before is not None and (past > 0 or (call is not None and call is self._thread.generation))
        if before is not None and continues and before.shape[0] == batch:
            where = Where((batch, queries), past, mask, read.device, before.first_prompt)
            where.continued = before if before.continued is None else before.continued
        else:
            with self._lock:
                where = Where((batch, queries), past, mask, read.device, self._prompts)
                self._prompts += batch
        self._thread.where, self._thread.generation = where, call

    def end(self, part: nn.Module, _inputs: Any, _output: Any) -> None:
        """A hook for its end."""
        if part is self._model:
            self._thread.outermost = False


@contextmanager
def following(model: PreTrainedModel, first_prompt: int = 0) -> Iterator[Follower]:
    """Follow every forward inside the block.

    Args:
        model: as :func:`apmae.lm.attention.find_model` finds it.
        first_prompt: number of the first prompt; forwards that continue from a cache, and those of one call of
            ``generate``, keep the numbers of their prompts.
    """
    follower = Follower(model, first_prompt)
    with ExitStack() as stack:
        stack.enter_context(watching_generations())
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                stack.callback(part.register_forward_pre_hook(follower.begin, with_kwargs=True).remove)
        stack.callback(model.register_forward_hook(follower.end, always_call=True).remove)
        yield follower
