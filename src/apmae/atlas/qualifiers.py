"""Qualifiers: what separates a cluster from others of the same kinds, in words that can be checked.

Each is a range of one measured feature, "width 3 to 5" or "from newlines". Ranges hold 95 % of the members; of all
features, those are taken, at most three, that rule out most members of the like clusters.

Axes: n patterns, f features, l like clusters.
"""

from math import ceil, floor, inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.atlas.kinds import KIND, KIND_WORDS, MEASURES, bounds_in_words, in_words, on_token_kind, score_of
from apmae.schema import KINDS, SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 3
"""Qualifiers of one name."""
_APART = 0.2
"""With no more than this share of any like cluster's members left, no further qualifier is needed."""
_TAILS = (0.025, 0.975)
_WORTH = 0.05
"""What a bound, or a qualifier, has to rule out of a like cluster's members to be said."""
_SAMPLE = 2000
"""Members looked at per cluster, evenly spaced."""
_PLACES = {
    "first_token": "on the first token",
    "previous": "on the previous token",
    "self": "on itself",
    "local": "nearby",
    "duplicate": "on copies",
    "induction": "after copies",
    "retrieval": "far back",
    "columns": "in columns",
    "blocks": "in blocks",
    "later_sink": "on later sinks",
}
"""Where attention goes, by score; a share of it is said in per cent."""
_OF_REST = ("previous", "self", "local", "duplicate", "induction", "retrieval", "columns", "blocks", "later_sink")
"""Scores that also say where the attention goes that a first-token sink leaves."""
_LEAST_REST = 0.02
"""Where a sink leaves less than this, the rest counts as this much."""


class Qualifier(NamedTuple):
    """A range of a feature that members of a cluster are in."""

    feature: str
    """A score ("score_local_width"), the same of what is not on the first token ("rest_previous"), or a token kind of
    keys or queries ("query_newline")."""
    low: float
    """-inf if there is no bound."""
    high: float
    words: str
    """What the name says of it."""

    @property
    def measured(self) -> str:
        """The score whose own range this is; "" if it is that of a ratio or of a token kind."""
        group, _, what = self.feature.partition("_")
        return what if group == "score" else ""

    @property
    def meaning(self) -> str:
        """The same in words that can be checked, as :func:`satisfies` does."""
        group, _, what = self.feature.partition("_")
        if group == "key":
            return on_token_kind(KIND_WORDS[what], self.low)
        if group == "query":
            return f"attention from {KIND_WORDS[what]} at least {self.low:.4g} more than the mean query's"
        if group == "score":
            return in_words(what, self.low, self.high)
        ratio = f"score {what} / (1 - score first_token), that at least {_LEAST_REST:g}"
        bounds = bounds_in_words(self.low, self.high)
        return f"{MEASURES[what]} as a share of what is not on the first token ({ratio}){bounds}"


class Features(NamedTuple):
    """What patterns are told apart by."""

    names: tuple[str, ...]
    values: Float[ndarray, "n f"]

    @classmethod
    def of(cls, measured: "Sequence[Float[ndarray, 'n _']]") -> "Features":
        """The features of measured patterns.

        Args:
            measured: scores, key kinds and query kinds (``names.Measured``).
        """
        values, keys, queries = measured
        names = [f"score_{name}" for name in SCORES]
        rest = np.maximum(1 - values[:, :1], _LEAST_REST)  # first_token is the first score
        names += [f"rest_{name}" for name in _OF_REST]
        of_rest = values[:, [SCORES.index(name) for name in _OF_REST]] / rest
        of_rest = np.minimum(of_rest, 1)  # scores are means over different rows, so a ratio may be larger
        names += [f"key_{name}" for name in KINDS] + [f"query_{name}" for name in KINDS]
        return cls(tuple(names), np.concatenate([values, of_rest, keys, queries], axis=1).astype(np.float32))


def satisfies(qualifiers: tuple[Qualifier, ...], features: Features) -> Bool[ndarray, " n"]:
    """Which patterns are in every range; what is not measured is in none."""
    true = np.ones(len(features.values), bool)
    for one in qualifiers:
        of = features.values[:, features.names.index(one.feature)]
        true &= (of >= np.float32(one.low)) & (of <= np.float32(one.high))
    return true


def ruled_out(qualifiers: tuple[Qualifier, ...], features: Features) -> Bool[ndarray, " n"]:
    """Which patterns are out of a range; of what is not measured, nobody knows."""
    outside = np.zeros(len(features.values), bool)
    for one in qualifiers:
        of = features.values[:, features.names.index(one.feature)]
        outside |= (of < np.float32(one.low)) | (of > np.float32(one.high))
    return outside


def separate(
    own: Features, like: list[Features], kinds: tuple[str, ...], true: Bool[ndarray, " n"], share: float
) -> tuple[tuple[Qualifier, ...], float]:
    """The qualifiers that separate a cluster from others of the same kinds, and the share of these that they leave.

    Args:
        own: features of the members.
        like: those of each like cluster.
        kinds: their common kinds; the range of the leading one's own score is said in few words.
        true: which members satisfy the kinds.
        share: of the members that the kinds and all qualifiers together have to be true for.

    Returns:
        The qualifiers, and the largest share of a like cluster's members that they do not rule out; 0 if there is none.
    """
    if not like:
        return (), 0.0
    like = [_sampled(other) for other in like]
    left = [np.ones(len(other.values), bool) for other in like]
    found: list[Qualifier] = []
    own_score = f"score_{score_of(kinds[0].split(' on ')[0])}"
    options = _options(own, kinds, own_score)
    while len(found) < _MOST and max(one.mean() for one in left) > _APART:
        best, best_gain, best_left = None, _WORTH, left
        for option in options:
            if any(option.feature == one.feature for one in found):
                continue
            after = [still & ~ruled_out((option,), other) for still, other in zip(left, like, strict=True)]
            before, now = (np.array([one.mean() for one in of]) for of in (left, after))
            worst = before.argmax()
            gain = float((before - now).mean() + (before[worst] - now[worst])) / 2
            # A range with both ends has to say more than one with a single end.
            gain -= _WORTH * (np.isfinite(option.low) + np.isfinite(option.high) - 1)
            if gain > best_gain and (true & satisfies((*found, option), own)).mean() >= share:
                best, best_gain, best_left = option, gain, after
        if best is None:
            break
        found.append(best)
        left = best_left
    found.sort(key=lambda one: one.feature != own_score)
    return tuple(found), max(float(one.mean()) for one in left)


def _sampled(features: Features) -> Features:
    return features._replace(values=features.values[:: max(len(features.values) // _SAMPLE, 1)])


def _options(own: Features, kinds: tuple[str, ...], own_score: str) -> list[Qualifier]:
    """Every range that could be said of the members."""
    found = []
    for number, name in enumerate(own.names):
        values = own.values[:, number]
        if np.isnan(values).any() or name == "score_entropy":  # entropy depends on the prompt's length
            continue
        group, _, what = name.partition("_")
        if group == "rest" and "first-token sink" not in kinds[0]:
            continue
        if group in ("key", "query"):
            word = f"{'to' if group == 'key' else 'from'} {KIND_WORDS[what]}"
            if (values >= KIND).mean() >= _TAILS[1] and word.removeprefix("to ") not in " ".join(kinds):
                found.append(Qualifier(name, KIND, inf, word))
            continue
        low = np.quantile(values, _TAILS[0], method="lower")  # between two members, fewer than 95 % would be inside
        high = np.quantile(values, _TAILS[1], method="higher")
        step, least, most = (1.0, 0.0, inf) if what == "local_width" else (0.01, 0.01, 0.99)
        low, high = floor(low / step + 1e-6) * step, ceil(high / step - 1e-6) * step
        low, high = min(low, most), max(high, least)
        # Nothing is under 0 or over 100 %, so a bound there would say nothing.
        below, above = low > 0, high <= most
        for least, most in [(low, inf)] * below + [(-inf, high)] * above + [(low, high)] * (below and above):
            place = "" if name == own_score else _PLACES.get(what, "")
            found.append(Qualifier(name, least, most, _words(what, least, most, place, rest=group == "rest")))
    return found


def _words(score: str, low: float, high: float, place: str, *, rest: bool) -> str:
    """A range in words: "40 to 60 %", "over 80 % on copies", "width up to 5"."""
    if score == "local_width":
        return f"width {_range(f'{low:.0f}', f'{high:.0f}', low, high, ('from', 'up to'))}"
    if score == "uniform":
        return f"evenness {_range(f'{low:.2f}', f'{high:.2f}', low, high, ('over', 'under'))}"
    said = _range(f"{100 * low:.0f}", f"{100 * high:.0f}", low, high, ("over", "under"))
    return " ".join([said, "%", *(["of the rest"] if rest else []), *([place] if place else [])])


def _range(below: str, above: str, low: float, high: float, words: tuple[str, str]) -> str:
    if high == inf:
        return f"{words[0]} {below}"
    if low == -inf:
        return f"{words[1]} {above}" if high > 0 else above
    return below if below == above else f"{below} to {above}"
