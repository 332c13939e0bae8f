"""Names of clusters, from the measured scores of their members. The same rules name a single pattern."""

from collections.abc import Mapping
from math import isnan

from apmae.schema import KINDS

_BEHAVIOURS = (
    # score, the name it gives, what a uniform causal pattern of 256 tokens scores
    ("first_token", "first-token sink", 0.02),
    ("previous", "previous token", 0.02),
    ("self", "self", 0.02),
    ("induction", "induction", 0.03),
    ("duplicate", "duplicate token", 0.03),
    ("local", "local band", 0.16),
    ("columns", "columns", 0.10),
)
_CLEAR = 0.35
"""Share of what a score could show above chance from which it names a pattern."""
_SECOND = 0.25
_KIND = 0.12
"""Attention beyond chance from which a token kind is named."""
_UNIFORM = 0.88
_DIFFUSE = 0.75
_KIND_WORDS = {
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


def kind_word(excess: Mapping[str, float]) -> str:
    """The token kind that stands out most, in words; "" if none does.

    Args:
        excess: attention beyond chance by kind (``Scores.key_kinds`` or ``query_kinds``).
    """
    kind = max(KINDS, key=lambda name: excess.get(name, 0.0))
    return _KIND_WORDS[kind] if excess.get(kind, 0.0) >= _KIND else ""


def name_of(scores: Mapping[str, float], looks_at: str = "") -> str:
    """The name that scores give, for instance "previous token" or "first-token sink + columns on ';'".

    Args:
        scores: by the names of ``schema.SCORES``, in [0, 1]; NaN or missing where not measured.
        looks_at: the token kind that stands out among the keys, from :func:`kind_word`.
    """
    shown = []
    for score, name, chance in _BEHAVIOURS:
        value = scores.get(score, float("nan"))
        if not isnan(value):
            shown.append(((value - chance) / (1 - chance), name))
    shown.sort(key=lambda entry: -entry[0])
    words = [name for strength, name in shown[:1] if strength >= _CLEAR]
    words += [name for strength, name in shown[1:2] if words and strength >= max(_SECOND, 0.5 * shown[0][0])]
    if words:
        return " + ".join(f"columns on {looks_at}" if word == "columns" and looks_at else word for word in words)
    if looks_at:
        return f"looks at {looks_at}"
    uniform = scores.get("uniform", float("nan"))
    if uniform >= _UNIFORM:
        return "uniform"
    return "diffuse" if uniform >= _DIFFUSE else "mixed"
