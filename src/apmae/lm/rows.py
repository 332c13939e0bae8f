"""Forming log patterns: ``score - logsumexp(scores)`` in fp32, a few query rows at a time, straight into patches.

Axes: b prompts, h heads of a layer, s selected heads, q queries, t keys, d head width, k patches, p pixels of a patch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from apmae.errors import CaptureError
from apmae.patterns import geometry, pooling

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query attends to a key, from (prompt, head, query, key), which broadcast: flex attention's ``mask_mod``."""

_CACHE_BYTES = {"cpu": 1 << 20}
"""Scores formed at once: about what a core's cache holds. Other devices do better with larger pieces."""
_DEVICE_BYTES = 1 << 28
_LONG_ROWS, _CHECK_ROWS = 32, 1024

LOWEST = -5e8
"""No real score is near it, and every usual value for "masked" is below it, such as -1e9; except in float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one layer attends with in one forward, before its softmax."""

    query: Float[Tensor, "b h q d"] | None = None
    key: Float[Tensor, "b g t d"] | None = None
    """Keys, shared by ``h // g`` query heads each."""
    scores: Float[Tensor, "b h q t"] | None = None
    """Instead of both, for models that form all scores themselves; masked ones are at ``lowest`` or below."""
    lowest: float = LOWEST
    """Scores at or below it are masked."""
    scale: float = 1.0
    mask: Tensor | None = None
    """(b or 1, h or 1, q, t): boolean, True where a query attends, or additive."""
    padding: Bool[Tensor, "b t"] | None = None
    """True at real tokens, where there is no mask."""
    rule: Rule | None = None
    """Instead of a mask."""
    causal: bool = True
    """Without a mask or a rule: keys after the query are hidden."""
    window: int | None = None
    """Without a mask or a rule: keys that are this many tokens back, or more, are hidden."""
    sliding: int | None = None
    """Tokens that a sliding-window layer may keep of its cache."""
    softcap: float | None = None
    """Scores are ``softcap * tanh(score / softcap)`` (Gemma 2, arXiv 2408.00118, section 2)."""
    sinks: Float[Tensor, " h"] | None = None
    """A score per head that takes attention but belongs to no key (gpt-oss): rows sum to less than 1."""
    bias: Tensor | None = None
    """Added to scores: (b or 1, h or 1, q, t)."""
    source: object = None
    """What mask, padding or rule were made from: layers with the same source see the same."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """b, h, q, t."""
        if self.scores is not None:
            b, h, q, t = self.scores.shape
            return b, h, q, t
        assert self.query is not None and self.key is not None
        return self.query.shape[0], self.query.shape[1], self.query.shape[2], self.key.shape[2]

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        tensor = self.query if self.scores is None else self.scores
        assert tensor is not None
        return tensor.device


Listener = Callable[[int, Attention, Tensor | None], Tensor | None]
"""Called in every forward with a layer, what it attends with, and its heads' output (b, q, h, v) on the way to the
output projection, or None where that cannot be seen. Returns a new output, or None to leave it."""


class Sight(NamedTuple):
    """What the masks of a forward let its queries see."""

    causal: bool
    """No query sees a later key."""
    real: Bool[Tensor, "b q"] | None
    """Queries that are not padding; None if there is no padding."""
    starts: list[int]
    """The first real query of each prompt."""
    ends: list[int]
    """One past its last."""


def sight(attention: Attention) -> Sight:
    """Look at the masks. Waits for the device once.

    Raises:
        CaptureError: if they hide every token of a prompt from itself, or from everything.
    """
    batch, _, queries, keys = attention.shape
    offset = keys - queries
    everything = torch.arange(batch, device=attention.device)
    own, anything, later = [], [], []
    for begin in range(0, queries, _CHECK_ROWS):
        rows = slice(begin, min(begin + _CHECK_ROWS, queries))
        seen = _visible(attention, everything, rows, slice(0, keys))
        if seen is None:
            continue
        own.append(seen.diagonal(offset=offset + begin, dim1=-2, dim2=-1).any(1))
        anything.append(seen.any(-1).any(1))
        later.append(seen[..., offset + begin :].triu(1).any())
    if not own:
        return Sight(attention.causal, None, [0] * batch, [queries] * batch)
    itself, sees = (torch.cat(parts, dim=-1).expand(batch, -1) for parts in (own, anything))
    place = torch.arange(1, queries + 1, device=itself.device)
    first = queries - torch.where(itself, queries + 1 - place, 0).amax(-1)
    last = torch.where(itself, place, 0).amax(-1)
    # Between first and last a query may be hidden from itself, as when a key is knocked out; beyond them it is padding.
    real = itself | sees & (place > first[:, None]) & (place <= last[:, None])
    hidden = (sees.any(-1) & ~itself.any(-1)).any()
    flags = torch.stack([torch.stack(later).any(), hidden, real.all()]).long()
    answers = torch.cat([flags, first, last]).tolist()
    (later_seen, hides, whole), ends = answers[:3], answers[3 + batch :]
    if hides:
        raise CaptureError(
            "expected queries that see themselves, got an attention mask that hides each token from itself; by that "
            "apmae recognises padding"
        )
    if empty := [row for row, end in enumerate(ends) if not end]:
        raise CaptureError(
            "expected at least one token in every prompt, got an attention mask that is all zero in "
            f"row{'s' if len(empty) > 1 else ''} {', '.join(map(str, empty))} of the batch; leave empty prompts out"
        )
    starts = answers[3 : 3 + batch]
    causal = not later_seen if queries > 1 else attention.causal  # a single token does not show it
    return Sight(causal, None if whole else real, starts, ends)


def _visible(attention: Attention, prompts: Tensor, rows: slice, keys: slice) -> Bool[Tensor, "b h r t"] | None:
    """Which keys the rows attend to, as one head if all agree; None: all that causality allows."""
    a = attention
    if a.scores is not None:
        return ~(a.scores[:, :1, rows, keys][prompts] <= a.lowest)  # a NaN is no padding: it is refused later
    if a.mask is not None:
        return _allowed(_of_heads(a.mask, prompts, None, rows, keys))
    if a.rule is None and a.padding is None and a.window is None:
        return None
    query = torch.arange(a.shape[3] - a.shape[2] + rows.start, a.shape[3] - a.shape[2] + rows.stop, device=a.device)
    query, key = query[:, None], torch.arange(keys.start, keys.stop, device=a.device)
    if a.rule is not None:
        q, k = query - (a.shape[3] - a.shape[2]), key
        zero = torch.zeros((), dtype=torch.long, device=a.device)
        return a.rule(prompts[:, None, None, None], zero, q[None, None], k).expand(len(prompts), 1, -1, len(key))
    seen = torch.ones(len(prompts), 1, len(query), len(key), dtype=torch.bool, device=a.device)
    if a.causal:
        seen = seen & (key <= query)
    if a.window is not None:
        seen = seen & ((query - key).abs() < a.window)
    if a.padding is not None:
        seen = seen & a.padding[prompts][:, None, None, keys]
    return seen


def of_all_queries(mask: Tensor, queries: int) -> Tensor:
    """A mask as (b or 1, h or 1, q, t); it may have fewer axes, or one row for all queries."""
    return mask[(None,) * (4 - mask.ndim)].expand(-1, -1, queries, -1)


def _allowed(mask: Tensor) -> Tensor:
    """A boolean or additive mask as a boolean one, True where a query attends."""
    return mask if mask.dtype == torch.bool else mask > max(torch.finfo(mask.dtype).min / 2, LOWEST)


def _of_heads(values: Tensor, prompts: Tensor, heads: Tensor | None, rows: slice, keys: slice) -> Tensor:
    """(b, s or 1, r, t) of a tensor that may have one entry for all prompts or heads."""
    values = values[:, :, rows, keys].to(prompts.device)
    own = prompts if values.shape[0] > 1 else torch.zeros_like(prompts)
    if heads is None or values.shape[1] == 1:
        return values[own]
    return values[own[:, None], heads]


class _Chosen(NamedTuple):
    """The selected heads of some prompts, in fp32 and scaled; or their scores."""

    prompts: Int[Tensor, " b"]
    heads: Int[Tensor, "b s"]
    query: Tensor | None  # b s q d
    key: Tensor | None  # b s d t


def _choose(a: Attention, prompts: Tensor, heads: Tensor) -> _Chosen:
    if a.scores is not None:
        return _Chosen(prompts, heads, None, None)
    assert a.query is not None and a.key is not None
    group = a.query.shape[1] // a.key.shape[1]
    query = a.query[prompts[:, None], heads].float().mul_(a.scale)
    key = a.key[prompts[:, None], torch.div(heads, group, rounding_mode="floor")].float().transpose(-1, -2)
    return _Chosen(prompts, heads, query, key)


def _scores(a: Attention, chosen: _Chosen, seen: Sight, rows: slice, keys: slice) -> Float[Tensor, "b s r t"]:
    """Scores in fp32; -inf where a query does not attend, and everywhere in the rows of padding."""
    if a.scores is not None:
        scores = a.scores[chosen.prompts[:, None], chosen.heads, rows, keys].float()
    else:
        assert chosen.query is not None and chosen.key is not None
        scores = chosen.query[:, :, rows] @ chosen.key[..., keys]
    return _masked(a, chosen, scores, seen, rows, keys)


def _masked(
    a: Attention, chosen: _Chosen, scores: Float[Tensor, "b s r t"], seen: Sight, rows: slice, keys: slice
) -> Float[Tensor, "b s r t"]:
    """Products of queries and keys as scores: soft-caps, biases and masks, in place."""
    if a.softcap is not None:
        scores = scores.div_(a.softcap).tanh_().mul_(a.softcap)
    if a.bias is not None:
        scores += _of_heads(a.bias, chosen.prompts, chosen.heads, rows, keys)
    if a.mask is not None:
        mask = _of_heads(a.mask, chosen.prompts, chosen.heads, rows, keys)
        if mask.dtype != torch.bool:
            scores += mask
        scores.masked_fill_(~_allowed(mask), -torch.inf)
    elif a.scores is not None:
        scores.masked_fill_(scores <= a.lowest, -torch.inf)
    elif (visible := _visible(a, chosen.prompts, rows, keys)) is not None:
        scores.masked_fill_(~visible, -torch.inf)
    elif a.causal:
        first = rows.start + a.shape[3] - a.shape[2] - keys.start
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)[:, first:].triu_(1)
        scores[..., first:].masked_fill_(future, -torch.inf)
    if seen.real is not None:
        scores.masked_fill_(~seen.real[chosen.prompts][:, None, rows, None].to(scores.device), -torch.inf)
    return scores


def _normalize(a: Attention, chosen: _Chosen, scores: Tensor, bad: Tensor) -> Tensor:
    """Subtract each row's logsumexp (and the sinks') in place. ``bad`` becomes NaN if a score was not finite."""
    total = scores.logsumexp(-1, keepdim=True)
    empty = total.isneginf()
    if a.sinks is not None:
        total = torch.logaddexp(total, a.sinks.float()[chosen.heads][..., None, None])
    total = total.masked_fill(empty, 0.0)
    bad += total.sum() * 0
    return scores.sub_(total)


def log_rows(a: Attention, seen: Sight, heads: Int[Tensor, "b s"], bad: Float[Tensor, ""]) -> Float[Tensor, "b s q t"]:
    """Log patterns of a few queries over all keys: the steps of a generation.

    Args:
        a: the layer's attention.
        seen: what its masks show.
        heads: selected heads of each prompt.
        bad: becomes NaN if a score was not finite.
    """
    everything = torch.arange(a.shape[0], device=a.device)
    chosen = _choose(a, everything, heads)
    scores = _scores(a, chosen, seen, slice(0, a.shape[2]), slice(0, a.shape[3]))
    return _normalize(a, chosen, scores, bad)


def log_row_at(
    a: Attention, seen: Sight, rows: Sequence[int], bad: Float[Tensor, ""]
) -> Iterator[tuple[int, Float[Tensor, "h t"]]]:
    """One row of every head's log pattern for each prompt, at the cost of one row.

    Args:
        a: the layer's attention, as many keys as queries.
        seen: what its masks show.
        rows: of each prompt, counted with its padding.
        bad: becomes NaN if a score was not finite.

    Yields:
        The number of a prompt in the batch, ascending, and its row over its own tokens, without padding.
    """
    every = torch.arange(a.shape[1], device=a.device)[None]
    for prompt, (row, start, end) in enumerate(zip(rows, seen.starts, seen.ends, strict=True)):
        last = row + 1 if seen.causal else end
        here, keys = slice(row, row + 1), slice(start, last)
        chosen = _Chosen(torch.tensor([prompt], device=a.device), every, None, None)
        if a.scores is not None:
            scores = a.scores[prompt, :, here, keys].float()[None]
        else:
            assert a.query is not None and a.key is not None
            # heads that share keys are rows of one product, so that no key is copied
            query = a.query[prompt, :, row].float().mul(a.scale).unflatten(0, (a.key.shape[1], -1))
            scores = (query @ a.key[prompt, :, keys].float().transpose(-1, -2)).reshape(1, a.shape[1], 1, -1)
        logs = _normalize(a, chosen, _masked(a, chosen, scores, seen, here, keys), bad)[0, :, 0]
        yield prompt, nn.functional.pad(logs, (0, end - last), value=-torch.inf)


def log_blocks(
    a: Attention, seen: Sight, heads: Int[Tensor, "b s"], height: int, bad: Float[Tensor, ""]
) -> Iterator[tuple[Int[Tensor, " b"], slice, slice, Float[Tensor, "b s r t"]]]:
    """Log patterns, ``height`` rows at a time, for as many prompts as fit in a cache.

    Args:
        a: the layer's attention, as many keys as queries.
        seen: what its masks show.
        heads: selected heads of each prompt.
        height: rows formed at once.
        bad: becomes NaN if a score was not finite.

    Yields:
        Neighbouring prompts; rows and keys, both from the prompts' first real token; their log probabilities.
    """
    for prompts, start, end in _groups(a, seen, heads.shape[1] * height * a.shape[2]):
        chosen = _choose(a, prompts, heads[prompts])
        for begin in range(start, end, height):
            stop = min(begin + height, end)
            last = stop if seen.causal else end
            logs = _normalize(a, chosen, _scores(a, chosen, seen, slice(begin, stop), slice(start, last)), bad)
            yield prompts, slice(begin - start, stop - start), slice(0, last - start), logs


def write_whole(
    a: Attention, seen: Sight, heads: Int[Tensor, "b s"], out: Float[Tensor, "b s k p p"], bad: Float[Tensor, ""]
) -> None:
    """Write log patterns, one row per token, into patches; row 0 is a prompt's first real token.

    Args:
        a: the layer's attention, as many keys as queries.
        seen: what its masks show; ``causal`` decides which patches there are.
        heads: selected heads of each prompt.
        out: written in place; left as it is where nothing is attended to.
        bad: becomes NaN if a score was not finite.
    """
    patch, side = out.shape[-1], isqrt(out.shape[2])
    for prompts, rows, keys, logs in log_blocks(a, seen, heads, patch, bad):
        into, row = out[int(prompts[0]) : int(prompts[-1]) + 1], rows.start // patch
        columns = geometry.grid_size(keys.stop, patch)
        beyond = columns * patch - logs.shape[-1], patch - logs.shape[-2]
        if any(beyond):
            logs = nn.functional.pad(logs, (0, beyond[0], 0, beyond[1]), value=-torch.inf)
        first = row * (row + 1) // 2 if seen.causal else row * side
        into[:, :, first : first + columns] = logs.unflatten(-1, (columns, patch)).transpose(2, 3)


def write_pooled(
    a: Attention,
    seen: Sight,
    heads: Int[Tensor, "b s"],
    out: Float[Tensor, "b s k p p"],
    bad: Float[Tensor, ""],
    *,
    size: int,
) -> None:
    """Write log patterns pooled to ``size`` blocks of each prompt's own tokens (``patterns.pooling``); shorter prompts
    stay whole. The arguments are those of :func:`write_whole`; memory grows linearly with the tokens.
    """
    for prompt, (start, end) in enumerate(zip(seen.starts, seen.ends, strict=True)):
        for column in range(heads.shape[1] if start < end else 0):
            chosen = _choose(a, torch.tensor([prompt], device=a.device), heads[prompt, column].view(1, 1))
            pooled = _pooled(a, seen, chosen, start, pooling.edges(end - start, size), bad)
            beyond = size - pooled.shape[-1]
            dense = nn.functional.pad(pooled, (0, beyond, 0, beyond), value=-torch.inf)
            out[prompt, column] = geometry.pack(dense, out.shape[-1], -torch.inf, causal=seen.causal)[0]


def _pooled(
    a: Attention, seen: Sight, chosen: _Chosen, start: int, bounds: Int[Tensor, " edges"], bad: Tensor
) -> Float[Tensor, "s c c"]:
    """Pooled log patterns of one prompt whose real tokens begin at ``start``."""
    edges = bounds.tolist()
    blocks = len(edges) - 1
    out = torch.full((chosen.heads.shape[1], blocks, blocks), -torch.inf, device=a.device)
    begin = 0
    while begin < blocks:
        end = begin + 1  # as many query blocks as fit, at least one
        while end < blocks and edges[end + 1] - edges[begin] <= _LONG_ROWS:
            end += 1
        columns = end if seen.causal else blocks
        parts = []
        for first in range(edges[begin], edges[end], _LONG_ROWS):
            rows = slice(start + first, start + min(first + _LONG_ROWS, edges[end]))
            scores = _scores(a, chosen, seen, rows, slice(start, start + edges[columns]))
            pooled = pooling.pool_keys(scores, bounds[: columns + 1])
            parts.append(_normalize(a, chosen, pooled, bad)[0])
        rows_of = bounds[begin : end + 1] - edges[begin]
        out[:, begin:end, :columns] = pooling.pool_queries(torch.cat(parts, dim=-2), rows_of)
        begin = end
    return out


def _groups(a: Attention, seen: Sight, numbers: int) -> Iterator[tuple[Int[Tensor, " b"], int, int]]:
    """Prompts with the same range of tokens, few enough that their scores, ``numbers`` per prompt, fit in a cache."""
    batch = a.shape[0]
    whole = [(0, max(seen.ends))] * batch
    ranges = list(zip(seen.starts, seen.ends, strict=True)) if any(seen.starts) else whole
    most = max(1, _CACHE_BYTES.get(a.device.type, _DEVICE_BYTES) // (4 * max(numbers, 1)))
    for (start, end), group in groupby(range(batch), key=ranges.__getitem__):
        for prompts in torch.tensor(list(group), device=a.device).split(most):
            yield prompts, start, end
