"""Kinds of attention, and the names that a pattern's own measured scores give it.

Every name is made of these kinds. A kind has a definition, a threshold on measured scores, so a name can be checked
against each pattern. Where no behaviour is clear, there may still be some of one ("some induction"), which is true of
patterns in which it is clear as well. The thresholds were chosen by judgement.

Axes: n patterns, s scores (``schema.SCORES``), k token kinds (``schema.KINDS``).
"""

from collections.abc import Mapping
from math import inf, isnan

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from apmae.schema import KINDS, SCORES

_BEHAVIOURS = (
    # Score, the name it gives, the score of a uniform causal pattern of 256 tokens, and the threshold for naming, as a
    # share of the range above that. It is lower for bands: those wider than the score's window cannot reach 1.
    ("first_token", "first-token sink", 0.02, 0.35),
    ("previous", "previous token", 0.02, 0.35),
    ("self", "self", 0.02, 0.35),
    ("induction", "induction", 0.03, 0.35),
    ("duplicate", "duplicate token", 0.03, 0.35),
    ("local", "local band", 0.10, 0.25),
    ("columns", "columns", 0.05, 0.35),
    ("blocks", "blocks", 0.0, 0.3),
    ("later_sink", "later sink", 0.0, 0.35),
)
_ON_KINDS = ("columns", "later sink")
"""Names that also say which kind of token the keys are."""
_WITH_KINDS = ("columns", "later sink", "looks at", "retrieval")
"""Names that a token kind follows."""
_SINK_OF_COLUMNS = 2 / 3
"""Columns are called a later sink if sinks draw at least this share of their attention."""
_CLEAR_IF_EVEN = 0.5
"""The threshold for diffuse patterns: with few tokens, even attention alone scores high."""
_SECOND = 0.25
_SOME = 0.15
"""From this share on, a pattern has some of a behaviour, and is named so if nothing is clear."""
KIND = 0.12
"""Attention beyond chance that a token kind needs to be named."""
_RETRIEVAL = 0.6
"""Mass on distant keys that a pattern needs to be named by it, if it is not diffuse and no other name fits: a uniform
causal pattern of 256 tokens has 0.7 there, and columns and induction attend to distant keys too."""
_UNIFORM = 0.88
_DIFFUSE = 0.75
KIND_WORDS = {
    "sentinel": "sentinels",
    "word": "words",
    "keyword": "keywords",
    "number": "numbers",
    "string": "quotes",
    "operator": "operators",
    "open_bracket": "opening brackets",
    "close_bracket": "closing brackets",
    "semicolon": "';'",
    "separator": "separators",
    "newline": "newlines",
    "space": "spaces",
    "other": "other tokens",
}
MEASURES = {
    "first_token": "attention on the first token",
    "previous": "attention on the previous token",
    "self": "attention of a token on itself",
    "local": "attention nearby, but not on the previous token or itself",
    "duplicate": "attention on earlier copies of a token",
    "induction": "attention on what followed earlier copies of a token",
    "retrieval": "attention far back",
    "columns": "attention on a few tokens that many later ones share",
    "blocks": "how far attention stays within blocks of tokens",
    "uniform": "evenness of attention",
    "entropy": "entropy of attention, in nats",
    "local_width": "tokens back that draw half of what is not on the first token",
    "later_sink": "attention on sinks after the first token",
}
"""What each of ``schema.SCORES`` measures, in few words."""
BEHAVIOURS = tuple(name for _, name, _, _ in _BEHAVIOURS)
"""Kinds that a score measures directly."""


def kind_word(excess: Mapping[str, float]) -> str:
    """The name of the token kind that stands out most; "" if none does.

    Args:
        excess: attention beyond chance by kind (``Scores.key_kinds`` or ``query_kinds``).
    """
    kind = max(KINDS, key=lambda name: excess.get(name, 0.0))
    return KIND_WORDS[kind] if excess.get(kind, 0.0) >= KIND else ""


def name_of(scores: Mapping[str, float], looks_at: str = "") -> str:
    """The name that scores give, for instance "previous token" or "first-token sink + columns on ';'".

    Args:
        scores: by the names in ``schema.SCORES``; NaN or missing where not measured.
        looks_at: the token kind that stands out among the keys, from :func:`kind_word`.
    """
    uniform = scores.get("uniform", float("nan"))
    columns = scores.get("columns", float("nan"))
    sink = scores.get("later_sink", float("nan")) >= _SINK_OF_COLUMNS * (0.0 if isnan(columns) else columns)
    hidden = "columns" if sink else "later sink"  # a sink is a column too: only one of the two is named
    shown = []
    for score, name, chance, clear in _BEHAVIOURS:
        value = scores.get(score, float("nan"))
        if not isnan(value) and name != hidden:
            shown.append(((value - chance) / (1 - chance), name, _CLEAR_IF_EVEN if uniform >= _DIFFUSE else clear))
    shown.sort(key=lambda entry: -entry[0])
    words = [name for strength, name, clear in shown if strength >= clear][:1]
    if words:
        second = max(_SECOND, 0.5 * shown[0][0])
        words += [name for strength, name, _ in shown[:2] if name not in words and strength >= second]
    if words and not uniform >= _UNIFORM:
        return " + ".join(f"{word} on {looks_at}" if word in _ON_KINDS and looks_at else word for word in words)
    if scores.get("retrieval", 0.0) >= _RETRIEVAL and uniform < _DIFFUSE:
        return f"retrieval of {looks_at}" if looks_at else "retrieval"
    if looks_at:
        return f"looks at {looks_at}"
    if uniform >= _UNIFORM:
        return "uniform"
    if uniform >= _DIFFUSE:
        return "diffuse"
    return f"some {shown[0][1]}" if shown and shown[0][0] >= _SOME else "mixed"


def kinds_of(name: str) -> tuple[str, ...]:
    """The behaviours that a name is made of, the leading one first, without the token kinds and "some".

    For instance ("columns", "local band") of "columns on ';' + local band", and ("looks at",) of "looks at newlines".
    """
    return tuple(token_kind(part.removeprefix("some "))[0] for part in name.split(", ")[0].split(" + "))


def token_kind(part: str) -> tuple[str, str]:
    """A part of a name without its token kind, and that: ("columns", "newlines") of "columns on newlines"."""
    for stem in _WITH_KINDS:
        if part.removeprefix("some ").startswith(f"{stem} "):
            before, _, after = part.partition(f"{stem} ")
            return before + stem, after.removeprefix("on ").removeprefix("of ")
    return part, ""


def strengths(values: Float[ndarray, "n s"]) -> dict[str, Float[ndarray, " n"]]:
    """How clear each behaviour is: its score less that of a uniform pattern, as a share of the range above that.

    Args:
        values: in the order of ``schema.SCORES``; NaN where not measured, and then NaN here.
    """
    return {
        name: (values[:, SCORES.index(score)].astype(np.float64) - chance) / (1 - chance)
        for score, name, chance, _ in _BEHAVIOURS
    }


def score_of(kind: str) -> str:
    """The score in ``schema.SCORES`` that a behaviour is measured by; "" for kinds that are no behaviour."""
    return next((score for score, name, _, _ in _BEHAVIOURS if name == kind.removeprefix("some ")), "")


def bounded_by(kind: str) -> str:
    """The score that a kind's definition bounds first; "" for "mixed" and for kinds of token alone."""
    stem = token_kind(kind)[0]
    return score_of(stem) or {"uniform": "uniform", "diffuse": "uniform", "retrieval": "retrieval"}.get(stem, "")


def holds(
    kind: str, values: Float[ndarray, "n s"], key_kinds: Float[ndarray, "n k"], *, leading: bool = True
) -> Bool[ndarray, " n"]:
    """Which patterns satisfy the definition of a kind, for instance "previous token" or "columns on newlines".

    Args:
        kind: one part of a name.
        values: in the order of ``schema.SCORES``; what is not measured does not hold.
        key_kinds: attention beyond chance to each of ``schema.KINDS``.
        leading: whether it is the first part of the name; later parts need not be as clear.
    """
    even = values[:, SCORES.index("uniform")]
    if kind == "mixed":  # claims nothing
        return np.ones(len(values), bool)
    if kind == "uniform":
        return even >= _UNIFORM
    if kind == "diffuse":
        return even >= _DIFFUSE
    stem, token = token_kind(kind.removeprefix("some "))
    true = np.ones(len(values), bool)
    if token:
        number = next((KINDS.index(name) for name, text in KIND_WORDS.items() if text == token), None)
        if number is None:
            return np.zeros(len(values), bool)
        true = key_kinds[:, number] >= KIND
    if stem == "looks at":
        return true
    if stem == "retrieval":
        return true & (values[:, SCORES.index("retrieval")] >= _RETRIEVAL) & ~(even >= _DIFFUSE)
    clear = next((clear for _, name, _, clear in _BEHAVIOURS if name == stem), None)
    if clear is None:
        return np.zeros(len(values), bool)
    strength = np.nan_to_num(strengths(values)[stem], nan=-1.0)
    if kind.startswith("some "):
        return true & (strength >= _SOME)
    if not leading:
        return true & (strength >= _SECOND)
    return true & (strength >= np.where(even >= _DIFFUSE, _CLEAR_IF_EVEN, clear))


def meaning(kind: str, *, leading: bool = True) -> str:
    """The definition of a kind in words, as :func:`holds` checks it.

    For instance "attention on earlier copies of a token (score duplicate) at least 0.1755" of "some duplicate token".

    Args:
        kind: one part of a name.
        leading: whether it is the first part of the name; later parts need not be as clear.
    """
    if kind == "mixed":
        return "no kind is clear, and none is claimed"
    if kind in ("uniform", "diffuse"):
        return in_words("uniform", _UNIFORM if kind == "uniform" else _DIFFUSE)
    stem, token = token_kind(kind.removeprefix("some "))
    said = [on_token_kind(token, KIND)] if token else []
    if stem == "retrieval":
        said += [in_words("retrieval", _RETRIEVAL), f"{in_words('uniform')} under {_DIFFUSE:g}"]
    for score, name, chance, clear in _BEHAVIOURS:
        if name != stem:
            continue
        some = kind.startswith("some ")
        share = _SOME if some else clear if leading else _SECOND
        least = in_words(score, chance + share * (1 - chance))
        if leading and not some:
            even = chance + _CLEAR_IF_EVEN * (1 - chance)
            least += f" ({even:.4g} where score uniform is at least {_DIFFUSE:g})"
        said.insert(0, least)
    return ", and ".join(said) or "no kind of this version"


def in_words(score: str, low: float = -inf, high: float = inf) -> str:
    """A score and its range in words, such as "evenness of attention (score uniform) at least 0.4".

    Args:
        score: one of ``schema.SCORES``.
        low: -inf if there is no bound.
        high: inf if there is no bound.
    """
    return f"{MEASURES[score]} (score {score}){bounds_in_words(low, high)}"


def bounds_in_words(low: float, high: float) -> str:
    """A range as it follows a score: " at least 0.1", " at most 0.2", " from 0.1 to 0.2"; "" if there is no bound."""
    if low == high:
        return f" equal to {low:.4g}"
    if high == inf:
        return "" if low == -inf else f" at least {low:.4g}"
    return f" at most {high:.4g}" if low == -inf else f" from {low:.4g} to {high:.4g}"


def on_token_kind(word: str, least: float) -> str:
    """What a token kind has to draw, such as "attention on newlines at least 0.12 more than ..."."""
    return f"attention on {word} at least {least:.4g} more than even attention would put there"


def measured_names(values: Float[ndarray, "n s"], key_kinds: Float[ndarray, "n k"]) -> list[str]:
    """The name that its own scores give each pattern.

    Args:
        values: in the order of ``schema.SCORES``; NaN where not measured.
        key_kinds: attention beyond chance to each of ``schema.KINDS``.
    """
    return [
        name_of(dict(zip(SCORES, scores, strict=True)), kind_word(dict(zip(KINDS, kinds, strict=True))))
        for scores, kinds in zip(values.tolist(), key_kinds.tolist(), strict=True)
    ]
