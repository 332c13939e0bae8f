"""The tap: capture attention patterns from a transformers model as loaded, at the cost of its own forward.

It works around any forward, including those of ``generate``::

    with apmae.capture(model, heads=0.25) as tap:
        model(input_ids, attention_mask=mask)
    tap.patterns

No (heads, length, length) array ever exists: patterns are formed a few rows at a time (``lm.rows``), layer by layer,
into lower-triangle patches. Only what was asked for is kept.

A compiled model runs uncompiled inside a capture (``torch.compiler.set_stance("force_eager")``): its graph cannot be
seen from inside, and a graph break in each layer would cost as much as compiling gains. Nothing is compiled again.

Scores that are not finite are noticed when patterns are read, by one number per layer that has become NaN: to check
each layer at once would mean waiting for the GPU.

Axes: b prompts, s selected heads, q queries, t keys, k patches, p pixels along a patch.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, local
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.lm.attention import Loaded, find_model, listening
from apmae.lm.forward import Forward
from apmae.lm.inputs import Generation, generation, reading_all_tokens, watching_generations, watching_inputs
from apmae.lm.layers import attention_modules, count_heads
from apmae.lm.rows import Attention, Sight, log_rows, sight, write_pooled, write_whole
from apmae.lm.selection import Heads, Selection
from apmae.patterns.patterns import Patterns


class _Limit(NamedTuple):
    """What to do with long prompts."""

    rows: int
    """Most rows of a pattern."""
    reach: str
    """"pool" or "crop"."""


class _ThreadState(local):
    """What runs in this thread: several threads may use the model at once."""

    forward: Forward | None = None
    ids: Tensor | None = None


class Tap:
    """Collects the patterns of every forward inside :func:`capture`."""

    def __init__(
        self,
        selection: Selection,
        *,
        dtype: torch.dtype,
        first_prompt: int,
        limit: _Limit | None,
        tokenizer: Any,
        each_layer: Callable[[Patterns], None] | None,
    ) -> None:
        self._selection = selection
        self._dtype = dtype
        self._prompts = first_prompt
        self._limit = limit
        # transformers' own decode() drops the space before a SentencePiece token
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._each_layer = each_layer
        self._forwards: list[Forward] = []
        self._thread = _ThreadState()
        self._lock = Lock()

    @property
    def patterns(self) -> Patterns:
        """Everything captured so far, ordered by prompt, layer, head; prompts are numbered over all forwards.

        Row 0 of a pattern is the prompt's first token, wherever the batch was padded.

        Raises:
            CaptureError: if no forward ran, one did not reach all layers, or scores were not finite.
        """
        if self._each_layer is not None:
            raise CaptureError(
                "expected patterns to be taken from each_layer, which was given them; the tap keeps none"
            )
        if not self._forwards:
            raise CaptureError(
                "expected at least one forward inside the capture, got none that attends; call the model first"
            )
        parts = [forward.patterns(self._tokenizer) for forward in self._forwards]
        joined = Patterns.concatenate(parts)
        # Each forward now refers to its part of the joined patterns, so that every pattern is in memory once.
        ends = np.cumsum([len(part) for part in parts])
        for forward, part, end in zip(self._forwards, parts, ends.tolist(), strict=True):
            if not forward.grown and (joined.causal or part.size == joined.size):
                own = joined.log_patches[end - len(part) : end, : part.log_patches.shape[1]]
                forward.patches = own.unflatten(0, (forward.batch, -1))
        return joined

    # -- during a forward ----------------------------------------------------------------------------------------------

    def _see_ids(self, ids: Tensor) -> None:
        self._thread.ids = ids.detach()

    def _listen(self, layer: int, attention: Attention, _output: Tensor | None) -> None:
        # Gradient checkpointing runs each forward a second time, inside backward: that time does not count.
        if torch._C._current_graph_task_id() == -1:
            with torch.no_grad():
                self._record(layer, attention)

    def _record(self, layer: int, attention: Attention) -> None:
        """Form the log patterns of one layer's selected heads."""
        _, heads, queries, keys = attention.shape
        if heads != self._selection.counts[layer]:
            raise CaptureError(
                f"expected the {self._selection.counts[layer]} heads that the model says layer {layer} has, {heads} "
                "attend; apmae does not support this family"
            )
        forward = self._thread.forward
        if queries < keys:
            self._record_step(forward, layer, attention)
            return
        if forward is None or layer in forward.filled:
            forward = self._begin(attention)
        seen = forward.sights.look(attention)
        if seen.causal != forward.sight.causal:
            raise CaptureError(
                f"layer {layer} lets queries see later tokens and others do not, or the other way round; "
                "capture the two kinds separately, with heads=[(layer, head), ...]"
            )
        forward.filled[layer] = queries
        columns = self._selection.columns(layer)
        chosen = self._selection.heads(layer, forward.first_prompt, forward.batch)
        bad = forward.bad[layer] = torch.zeros((), device=attention.device)
        if chosen.shape[1]:
            forward.heads[:, columns] = chosen
            if forward.patches is None:
                patches = forward.empty(chosen.shape[1], self._dtype, attention.device)
            else:
                patches = forward.patches[:, columns]
            selected = torch.from_numpy(chosen).to(attention.device)
            if forward.reach == "pool":
                write_pooled(attention, seen, selected, patches, bad, size=forward.size)
            else:
                write_whole(attention, _cropped(seen, forward.size), selected, patches, bad)
            if self._each_layer is not None:
                forward.expect_finite(layer)
                self._each_layer(forward.named(patches, np.full(chosen.size, layer), chosen, self._tokenizer))
        self._after(forward, layer, attention)

    def _begin(self, attention: Attention) -> Forward:
        batch, _, tokens, _ = attention.shape
        if (call := generation()) is not None and call.drafts:
            raise CaptureError(
                "expected generate without drafts, which it may drop again, got an assistant_model or "
                "prompt_lookup_num_tokens; generate first, then capture one forward of the whole text"
            )
        seen = sight(attention)
        size, reach = tokens, "whole"
        if self._limit is not None and tokens > self._limit.rows:
            size, reach = self._limit
        total = sum(self._selection.count(layer) for layer in self._selection.layers)
        thread, heads = self._thread, np.zeros((batch, total), np.int64)
        ids = [thread.ids] if thread.ids is not None and thread.ids.shape == (batch, tokens) else []
        with self._lock:
            place = self._place_in(call, ids)
            new = place == len(self._forwards)
            first = self._prompts if new else self._forwards[place].first_prompt
            forward = Forward(self._selection, first, tokens, size, reach, seen, heads, ids=ids, generation=call)
            if new:
                self._prompts += batch
            else:
                forward.replace(self._forwards[place])
            self._forwards[place : place + 1] = [forward]
        thread.forward, thread.ids = forward, None
        forward.sights.remember(attention, seen)
        if self._each_layer is None:
            forward.patches = forward.empty(total, self._dtype, attention.device)
        return forward

    def _place_in(self, call: Generation | None, ids: list[Tensor]) -> int:
        """Where a new forward belongs: at the end, or in the place of the one whose prompts it reads again."""
        for place, before in enumerate(self._forwards):
            if call is None or before.generation is not call:
                continue
            if not ids and not before.ids:
                raise CaptureError(
                    "expected token ids in every step of generate without a cache, to recognise its prompts, got "
                    "embeddings; generate with use_cache=True"
                )
            if ids and before.ids and before.is_read_again(ids[0]):
                if self._each_layer is not None:
                    raise CaptureError(
                        "each_layer needs a text's whole forward, got a step of generate without a cache; "
                        "generate first, then capture one forward of the whole text"
                    )
                return place
        return len(self._forwards)

    def _record_step(self, forward: Forward | None, layer: int, attention: Attention) -> None:
        """Form the rows of tokens that continue from a cache."""
        batch, _, queries, keys = attention.shape
        if forward is None or layer not in forward.filled:
            raise CaptureError(
                f"expected as many keys as queries in the first forward of a text, got {keys} keys and {queries} "
                f"queries in layer {layer}; open the capture before the cache is filled, and use the default (dynamic) "
                "cache"
            )
        total = forward.filled[layer] + queries
        short = attention.sliding is not None and queries < keys < total and keys < attention.sliding + queries
        if keys != total and not short:
            raise CaptureError(
                f"expected a cache of the {total - queries} tokens captured so far in layer {layer}, got "
                f"{keys - queries}; use the default (dynamic) cache and do not crop it"
            )
        if batch != forward.batch:
            raise CaptureError(
                f"expected the {forward.batch} prompts captured so far, got {batch} that continue from their cache; "
                "keep the batch as it is while it generates"
            )
        if forward.reach != "whole" or self._each_layer is not None:
            raise CaptureError(
                "pooling, cropping and each_layer need a text's whole forward, got one that continues from a cache; "
                "generate first, then capture one forward of the whole text"
            )
        if min(forward.sight.ends) < forward.tokens:
            raise CaptureError("expected prompts padded on the left, which can be continued, got padding on the right")
        seen = Sight(True, None, forward.sight.starts, forward.sight.ends)
        if layer == self._selection.layers[0] and self._thread.ids is not None:
            forward.ids.append(self._thread.ids)
            self._thread.ids = None
        chosen = self._selection.heads(layer, forward.first_prompt, forward.batch)
        if chosen.shape[1]:
            selected = torch.from_numpy(chosen).to(attention.device)
            rows = log_rows(attention, seen, selected, forward.bad[layer])
            rows = nn.functional.pad(rows, (total - keys, 0), value=-torch.inf)
            forward.steps.setdefault(layer, []).append(rows.to(self._dtype))
        forward.filled[layer] = total
        self._after(forward, layer, attention)

    def _after(self, forward: Forward, layer: int, attention: Attention) -> None:
        if layer == self._selection.layers[-1]:
            forward.finish(attention)


def _cropped(seen: Sight, size: int) -> Sight:
    """Only the last ``size`` tokens of each prompt."""
    return seen._replace(starts=[max(start, end - size) for start, end in zip(seen.starts, seen.ends, strict=True)])


@contextmanager
def capture(
    model: nn.Module | Loaded,
    *,
    heads: Heads = "all",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    first_prompt: int = 0,
    pool: int | None = None,
    crop: int | None = None,
    tokenizer: Any = None,
    each_layer: Callable[[Patterns], None] | None = None,
) -> Iterator[Tap]:
    """Capture the patterns of every forward in the block.

    The model computes the same as without the block, bit for bit, with whichever attention it was loaded with. A
    compiled model runs uncompiled inside, and Gemma 4 reads all tokens in all layers, however few logits are kept. In
    train mode patterns are those before attention dropout. Layers keep the model's own numbers; those without
    attention have no patterns.

    Every forward that you call adds new prompts, numbered after the earlier ones, even if it repeats an earlier text
    with more tokens after it. One call of ``generate`` adds one prompt per sequence, which grows with every step, with
    a cache or without.

    Args:
        model: a decoder or encoder of transformers, as loaded or wrapped (PEFT, torch.compile, data parallel); or what
            ``load_lm`` returned, whose tokenizer is then used.
        heads: "all"; a share in (0, 1] of each layer's heads, redrawn for each prompt; (layer, head) pairs; or a
            function of layer and head that says which.
        seed: decides the draw.
        dtype: of the kept log probabilities; they are formed in float32. float16 halves the memory and costs about
            1e-4 relative on an embedding (DESIGN section 3).
        first_prompt: number of the first prompt; a draw of heads depends on the number of its batch's first prompt.
        pool: most rows of a pattern; prompts of more tokens are pooled to blocks (``patterns.pooling``).
        crop: most tokens of a pattern; of longer prompts the last tokens are kept, and their rows renormalised.
        tokenizer: of transformers; with it patterns know their tokens.
        each_layer: called with each layer's patterns as soon as they are formed; then nothing is kept.

    Yields:
        A :class:`Tap`; its ``patterns`` may be read inside the block or after it.

    Raises:
        CaptureError: if the model's attention cannot be read, the heads do not exist, or a forward cannot be captured:
            it has no prompt, or one without a token, such as a row of the batch whose attention mask is all zero.
    """
    for name, value in (("pool", pool), ("crop", crop)):
        if value is not None and (value < 1 or pool is not None and crop is not None):
            raise CaptureError(f"expected either pool or crop, at least 1, got {name}={value}; 256 is the paper's size")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CaptureError(f"expected a floating dtype of torch, got {dtype!r}; torch.float16 halves the memory")
    if not isinstance(model, nn.Module):
        tokenizer = tokenizer or getattr(model, "tokenizer", None)
    inner = find_model(model)
    modules = attention_modules(inner)
    tap = Tap(
        Selection(heads, count_heads(inner), seed),
        dtype=dtype,
        first_prompt=first_prompt,
        limit=_Limit(pool, "pool") if pool is not None else _Limit(crop, "crop") if crop is not None else None,
        tokenizer=tokenizer,
        each_layer=each_layer,
    )
    with ExitStack() as stack:
        stack.enter_context(watching_generations())
        stack.enter_context(watching_inputs(inner, tap._see_ids))
        stack.enter_context(reading_all_tokens(inner))
        stack.enter_context(listening(inner, modules, tap._listen))
        yield tap
