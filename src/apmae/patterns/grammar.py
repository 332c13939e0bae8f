"""A grammar of attention: random programs, each of which makes any number of patterns that mean the same.

A program says what a head does: up to three primitives (attend to the previous token, to a band, to the last
delimiter, to what followed an earlier copy, to keys with a large bias, ...), how strong they are beside one another,
which rows do it, and what the other rows do. An instance draws everything that does not matter: the text, its length,
noise, the exact strength, width and distance, which keys are columns, where blocks begin. So two instances differ as
one head's patterns on two prompts do, and the covariance inside programs is what a representation should ignore
(``patterns/whitening.py``), while the program is a label for contrast (``train/objectives.py``).

The planted families (``patterns/planted.py``), which measure representations, are not made from the grammar.

Axes: t tokens (query_pos, key_pos).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from apmae.patterns import geometry
from apmae.patterns.patterns import PATCH, Patterns
from apmae.seeding import generator

Draw = np.random.Generator
PROGRAM = -1
"""Layer of grammar patterns; their head is the program's number."""
SHORTEST = 24
"""Tokens of the shortest instance."""


@dataclass(frozen=True)
class Text:
    """An imagined text, and where its token pairs are."""

    back: Int[ndarray, "t t"]
    """query - key; in square patterns the distance on the side that the program looks at, and their size elsewhere."""
    tokens: Int[ndarray, " t"]
    """Token ids, with repeated stretches."""
    delimiter: Bool[ndarray, " t"]
    """Which tokens end a stretch, such as a line."""
    stretch: Int[ndarray, " t"]
    """Number of the stretch that each token is in."""
    kind: Int[ndarray, " t"]
    """One of eight kinds of token; a token always has the same."""
    draw: Draw


def imagined(length: int, side: str, draw: Draw) -> Text:
    """A text of Zipf-like tokens in which some stretches come again.

    Args:
        length: tokens.
        side: "causal", or in square patterns "before", "after" or "both".
        draw: decides the text.
    """
    vocabulary = int(draw.integers(20, 400))
    weights = 1.0 / np.arange(1, vocabulary + 1)
    tokens = draw.choice(vocabulary, length, p=weights / weights.sum())
    for _ in range(draw.integers(0, 5)):
        size = int(draw.integers(4, max(length // 4, 5)))
        source, target = draw.integers(0, max(length - size, 1), 2)
        tokens[target : target + size] = tokens[source : source + size].copy()[: length - target]
    every = draw.uniform(4, 24)
    delimiter = draw.random(length) < 1 / every
    query, key = np.indices((length, length))
    back = query - key
    if side != "causal":
        back = {"before": back, "after": -back, "both": np.abs(back)}[side]
        back = np.where(back < 0, length, back)
    kinds = draw.permutation(vocabulary) % 8
    return Text(back, tokens, delimiter, np.append(0, delimiter.cumsum()[:-1]), kinds[tokens], draw)


# -- primitives: a bonus over (query_pos, key_pos), in units of its strength; a, in [0, 1], is the program's -----------


def _log_uniform(low: float, high: float, a: float, text: Text, spread: float = 0.15) -> float:
    """A size between two: where, the program decides; a sixth more or less, the instance."""
    return low * (high / low) ** a * float(np.exp(text.draw.normal(0, spread)))


def _on_side(text: Text, chosen: ndarray) -> ndarray:
    """Only keys on the side that the program looks at."""
    return chosen & (text.back < len(text.back))


def _sink(text: Text, a: float) -> ndarray:
    return np.broadcast_to(np.arange(len(text.back)) == 0, text.back.shape)


def _itself(text: Text, a: float) -> ndarray:
    return text.back == 0


def _neighbour(text: Text, a: float) -> ndarray:
    return text.back == 1 + int(a * 3.999)


def _band(text: Text, a: float) -> ndarray:
    return _on_side(text, text.back <= _log_uniform(3.0, 64.0, a, text))


def _distant_band(text: Text, a: float) -> ndarray:
    begin = _log_uniform(4.0, 100.0, a, text)
    return _on_side(text, (text.back >= begin) & (text.back <= begin * 1.6))


def _exponential(text: Text, a: float) -> ndarray:
    return np.maximum(-text.back / _log_uniform(2.0, 100.0, a, text), -3.0)


def _power(text: Text, a: float) -> ndarray:
    return -np.log1p(np.maximum(text.back, 0)) * (0.2 + 0.4 * a)


def _distant(text: Text, a: float) -> ndarray:
    return _on_side(text, text.back >= _log_uniform(8.0, 80.0, a, text))


def _diagonal(text: Text, a: float) -> ndarray:
    distance = np.abs(text.back - round(_log_uniform(6.0, 100.0, a, text)))
    return _on_side(text, distance <= text.draw.integers(0, 2))


def _few_columns(text: Text, a: float) -> ndarray:
    size = len(text.back)
    chosen = text.draw.choice(size, min(1 + int(a * 7.999), size), replace=False)
    return np.broadcast_to(np.isin(np.arange(size), chosen), text.back.shape)


def _salient(text: Text, a: float) -> ndarray:
    """Keys with a bias of their own, from many slight ones to few strong ones."""
    bias = text.draw.exponential(1.0, len(text.back)) ** (0.5 + 2 * a)
    return np.broadcast_to(bias / max(np.quantile(bias, 0.98), 1e-6), text.back.shape).clip(max=1.5)


def _of_kinds(text: Text, a: float) -> ndarray:
    chosen = text.draw.permutation(8)[: 1 + int(a * 2.999)]
    return np.broadcast_to(np.isin(text.kind, chosen), text.back.shape)


def _like_kind(text: Text, a: float) -> ndarray:
    return text.kind[:, None] == text.kind


def _delimiters(text: Text, a: float) -> ndarray:
    return np.broadcast_to(text.delimiter, text.back.shape)


def _last_delimiter(text: Text, a: float) -> ndarray:
    position = np.arange(len(text.back))
    last = np.maximum.accumulate(np.where(text.delimiter, position, 0))
    return position == np.append(0, last[:-1])[:, None]


def _same_stretch(text: Text, a: float) -> ndarray:
    return text.stretch[:, None] == text.stretch


def _start_of_stretch(text: Text, a: float) -> ndarray:
    first = np.append(True, text.delimiter[:-1])
    return _same_stretch(text, a) & first


def _earlier_stretch(text: Text, a: float) -> ndarray:
    return text.stretch[:, None] - text.stretch == 1 + int(a * 1.999)


def _first_tokens(text: Text, a: float) -> ndarray:
    return np.arange(len(text.back)) < np.broadcast_to(_log_uniform(3.0, 60.0, a, text), text.back.shape)


def _periodic_columns(text: Text, a: float) -> ndarray:
    period = round(_log_uniform(3.0, 24.0, a, text))
    phase = text.draw.integers(0, period)
    return np.broadcast_to(np.arange(len(text.back)) % period == phase, text.back.shape)


def _periodic_lags(text: Text, a: float) -> ndarray:
    period = round(_log_uniform(4.0, 40.0, a, text))
    return _on_side(text, (text.back > 0) & (text.back % period == 0))


def _copies(text: Text, a: float) -> ndarray:
    return _on_side(text, (text.tokens[:, None] == text.tokens) & (text.back > 0))


def _after_copies(text: Text, a: float) -> ndarray:
    before = np.append(-1, text.tokens[:-1])
    return _on_side(text, (text.tokens[:, None] == before) & (text.back > 0))


def _content(text: Text, a: float) -> ndarray:
    """Smooth features of queries and keys, a few dimensions of them."""
    size, rank = len(text.back), 1 + int(a * 3.999)
    steps = text.draw.standard_normal((2, size + 40, rank))
    width = int(text.draw.integers(2, 40))
    smooth = np.cumsum(steps, 1)
    smooth = (smooth[:, width:] - smooth[:, :-width])[:, :size] / np.sqrt(width)
    scores = smooth[0] @ smooth[1].T
    return np.clip(scores / max(2 * scores.std(), 1e-6), -1, 1)


def _even(text: Text, a: float) -> ndarray:
    return np.zeros(text.back.shape)


PRIMITIVES: dict[str, Callable[[Text, float], ndarray]] = {
    "sink": _sink,
    "itself": _itself,
    "neighbour": _neighbour,
    "band": _band,
    "distant_band": _distant_band,
    "exponential": _exponential,
    "power": _power,
    "distant": _distant,
    "diagonal": _diagonal,
    "few_columns": _few_columns,
    "salient": _salient,
    "of_kinds": _of_kinds,
    "like_kind": _like_kind,
    "delimiters": _delimiters,
    "last_delimiter": _last_delimiter,
    "same_stretch": _same_stretch,
    "start_of_stretch": _start_of_stretch,
    "earlier_stretch": _earlier_stretch,
    "first_tokens": _first_tokens,
    "periodic_columns": _periodic_columns,
    "periodic_lags": _periodic_lags,
    "copies": _copies,
    "after_copies": _after_copies,
    "content": _content,
    "even": _even,
}
"""What a head can attend to, by name."""


# -- gates: which rows do it, in [0, 1] --------------------------------------------------------------------------------


def _all_rows(text: Text, share: float) -> ndarray:
    return np.ones(len(text.back))


def _some_kinds(text: Text, share: float) -> ndarray:
    return np.isin(text.kind, text.draw.permutation(8)[: max(round(8 * share), 1)]).astype(float)


def _some_stretches(text: Text, share: float) -> ndarray:
    return (text.draw.random(int(text.stretch.max()) + 1) < share)[text.stretch].astype(float)


def _at_random(text: Text, share: float) -> ndarray:
    return (text.draw.random(len(text.back)) < share).astype(float)


def _softly(text: Text, share: float) -> ndarray:
    return np.clip(text.draw.normal(share, 0.35, len(text.back)), 0, 1)


GATES: dict[str, Callable[[Text, float], ndarray]] = {
    "all_rows": _all_rows,
    "some_kinds": _some_kinds,
    "some_stretches": _some_stretches,
    "at_random": _at_random,
    "softly": _softly,
}
"""Which rows follow the program, by name."""


class Program(NamedTuple):
    """What a head does."""

    primitives: tuple[tuple[str, float, float], ...]
    """Name, parameter in [0, 1], and strength relative to the strongest."""
    gate: str
    share: float
    """How many rows the gate lets through, in [0, 1]."""
    otherwise: str
    """What the other rows do: a primitive."""
    strength: float
    """Of the strongest primitive, in logits."""
    noise: float
    """S.d. of the scores."""
    outside: float | None
    """Logit of a sink outside the softmax, where keys without a bonus have 0 on average; None: there is none."""
    window: int | None
    """How many keys a row sees at most; None: all."""
    side: str
    """Where a square pattern looks: "before", "after" or "both"."""


def random_program(draw: Draw) -> Program:
    """A program, drawn so that single behaviours on all rows are the most frequent."""
    count = int(draw.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
    names = draw.choice(list(PRIMITIVES), count, replace=False)
    weights = [1.0, *draw.uniform(0.4, 1.0, count - 1)]
    gate = str(draw.choice(list(GATES), p=[0.5, 0.15, 0.1, 0.1, 0.15]))
    return Program(
        tuple((str(name), float(draw.random()), float(weight)) for name, weight in zip(names, weights, strict=True)),
        gate,
        float(draw.uniform(0.2, 0.8)),
        str(draw.choice(["sink", "itself", "even", "neighbour"], p=[0.6, 0.1, 0.2, 0.1])),
        float(draw.uniform(2.5, 9.0)),
        float(draw.uniform(0.1, 2.0)),
        float(draw.uniform(0, 6)) if draw.random() < 0.06 else None,
        int(draw.integers(24, 160)) if draw.random() < 0.06 else None,
        str(draw.choice(["before", "after", "both"])),
    )


def instance(program: Program, length: int, draw: Draw, *, causal: bool = True) -> Float[ndarray, "t t"]:
    """Log probabilities of one pattern of a program; -inf where attention is impossible.

    Args:
        program: what the head does.
        length: tokens.
        draw: decides everything else.
        causal: False: a square pattern, as encoders make.
    """
    text = imagined(length, "causal" if causal else program.side, draw)
    done = GATES[program.gate](text, program.share)[:, None]
    strength = program.strength * draw.uniform(0.75, 1.25)
    bonus = sum(weight * PRIMITIVES[name](text, a) for name, a, weight in program.primitives)
    other = PRIMITIVES[program.otherwise](text, 0.0)
    scores = strength * (done * bonus + (1 - done) * other)
    noise = program.noise * draw.uniform(0.6, 1.5)
    scores = scores + noise * draw.standard_normal((length, length), dtype=np.float32)
    scores = scores + 0.3 * noise * draw.standard_normal(length)  # some keys are liked a little everywhere
    back = np.subtract.outer(np.arange(length), np.arange(length))
    hidden = back < 0 if causal else np.zeros_like(back, bool)
    if program.window is not None:
        hidden = hidden | (np.abs(back) >= program.window)
    scores = np.where(hidden, -np.inf, scores)
    largest = scores.max(1, keepdims=True)
    weights = np.exp(scores - largest)
    total = weights.sum(1, keepdims=True)
    if program.outside is not None:
        total = total + np.exp(program.outside - largest)
    with np.errstate(divide="ignore"):
        return np.where(hidden, -np.inf, scores - largest - np.log(total)).astype(np.float32)


def grammar(
    programs: int,
    instances: int,
    *,
    size: int = 256,
    shortest: int = SHORTEST,
    seed: int = 0,
    first: int = 0,
    causal: bool = True,
) -> Patterns:
    """Patterns of random programs.

    Args:
        programs: how many.
        instances: of each.
        size: tokens of the longest; half of the instances are shorter, log-uniformly from ``shortest`` on.
        shortest: tokens of the shortest, at most ``size``.
        seed: decides everything.
        first: number of the first program; program number i is the same whatever else is made.
        causal: False: square patterns, as encoders make.

    Returns:
        float16 patterns, program by program. ``head`` is the program's number, ``layer`` is ``PROGRAM``, and ``prompt``
        counts.
    """
    count, shortest = programs * instances, min(shortest, size)
    logs = torch.full((count, geometry.num_patches(size, PATCH, causal), PATCH, PATCH), -torch.inf, dtype=torch.float16)
    dense = torch.full((size, size), -torch.inf)
    for number in range(programs):
        draw = generator(seed, "grammar", first + number)
        program = random_program(draw)
        for i in range(instances):
            length = size if draw.random() < 0.5 else int(np.exp(draw.uniform(np.log(shortest), np.log(size + 1))))
            dense.fill_(-torch.inf)
            dense[:length, :length] = torch.from_numpy(instance(program, length, draw, causal=causal))
            logs[number * instances + i] = geometry.pack(dense[None], PATCH, -torch.inf, causal)[0].half()
    heads = np.repeat(np.arange(first, first + programs), instances)
    return Patterns(logs, size, prompt=np.arange(count), layer=np.full(count, PROGRAM), head=heads, causal=causal)
