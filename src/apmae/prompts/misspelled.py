"""Sentinels that are nearly right: which token of a tokenizer the user meant. Torch-free."""

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

_UNIT = re.compile(r"\s*[\u2581_]*[<\[\uff1c].*?[>\]\uff1e]+\s*", re.DOTALL)
"""One sentinel in a run of several."""
_BLANKS = str.maketrans("", "", " \t\r\n\u00a0\u2581_-\u2010\u2013")
"""Signs that are typed in place of one another, or added by accident."""
_BARS = str.maketrans(dict.fromkeys("\u2502\u2503\u2758\u2223\u00a6", "|"))
_ALIKE = 0.8
"""Similarity of two names (0 to 1) from which one counts as a typing mistake for the other."""


def meant(text: str, names: Sequence[str]) -> str | None:
    """The run of tokens that was probably meant by a text that is not one.

    Args:
        text: the part of a template before, between or after its contexts.
        names: names of the tokens that it may be made of.

    Returns:
        None if nothing is near.
    """
    units = _UNIT.findall(text)
    if "".join(units) != text:
        units = [text]
    found = [_nearest(unit, names) for unit in units]
    return "".join(name for name in found if name is not None) if None not in found else None


def _nearest(unit: str, names: Sequence[str]) -> str | None:
    if unit in names:
        return unit
    key = _key(unit)
    alike = {name: SequenceMatcher(None, _key(name), key).ratio() for name in names if key and _key(name)}
    best = max(alike.values(), default=0.0)
    if best < _ALIKE:
        return None
    # of several that differ only in such signs, the one nearest to what was typed
    return max(
        (name for name in alike if alike[name] == best), key=lambda name: SequenceMatcher(None, name, unit).ratio()
    )


def _key(name: str) -> str:
    """A name without case, spaces, and the widths and variants of its signs."""
    return unicodedata.normalize("NFKC", name).casefold().translate(_BARS).translate(_BLANKS)
