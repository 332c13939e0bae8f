"""Token kinds: coarse classes of tokens by their text, in any programming language, to say what a head looks at."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int8
from numpy import ndarray

from apmae.schema import KINDS

_CODE = {kind: code for code, kind in enumerate(KINDS)}
_SENTINEL = re.compile(
    r"<s>|<[^\s<>]{2,}>|[ \u2581]<(PRE|SUF|MID|EOT)>|\[(PAD|CLS|SEP|UNK|MASK|BOS|EOS|PREFIX|SUFFIX|MIDDLE)\]"
)
_KEYWORDS = frozenset(
    "abstract and as assert async await boolean break byte case catch char class const continue def default del do "  # noqa: SIM905
    "double elif else enum except extends false final finally float fn for from func function if impl implements "
    "import in instanceof int interface is lambda let long match mod mut native new nil none not null or package pass "
    "pub private protected public raise record return self short static string struct super switch synchronized this "
    "throw throws true try type use var void volatile where while with yield".split()
)


def token_kind(token: str) -> str:
    """The kind of one token, from its decoded text with spaces and newlines."""
    if _SENTINEL.fullmatch(token):
        return "sentinel"
    text = token.strip(" \t\r\n\u2581\u0120")
    if not text:
        return "newline" if "\n" in token or "\r" in token else "space"
    if text[0] in "\"'`" or text[-1] in "\"'`":
        return "string"
    if text[0].isdigit():
        return "number"
    if text[0].isalpha() or text[0] in "_$@":
        return "keyword" if text.lower() in _KEYWORDS else "word"
    for kind, characters in (
        ("semicolon", ";"),
        ("close_bracket", ")]}"),
        ("open_bracket", "([{"),
        ("separator", ",.:"),
        ("operator", "+-*/%=<>!&|^~?"),
    ):
        if any(character in characters for character in text):
            return kind
    return "other"


def token_kinds(tokens: Sequence[str]) -> Int8[ndarray, " t"]:
    """(t,) codes into ``schema.KINDS``."""
    return np.array([_CODE[token_kind(token)] for token in tokens], dtype=np.int8)
