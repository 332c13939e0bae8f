"""Which characters of a text each token holds, exactly. Torch-free.

Tokenizers that trim blanks or compose accents leave characters out. Without them random spans lost their first blank,
or ended between a letter and its accent.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

from tokenizers import processors

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def offsets_of(tokenizer: "Tokenizer") -> "Callable[[str], list[tuple[int, int]]]":
    """A function from a text to the first and past-the-end character of each of its tokens.

    What a tokenizer says itself is not always all. Some leave the blanks of a token out (``trim_offsets``); one that
    composes characters (NFC, as Qwen's) leaves out what it joined to the one before, and a span would end between a
    letter and its accent. Here every character belongs to some token, to several where they share its bytes, and tokens
    are in order: both ends never fall.
    """
    plain = deepcopy(tokenizer)
    # Trimming is the work of this last step, which otherwise only adds special tokens.
    plain.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])

    def offsets(text: str) -> list[tuple[int, int]]:
        found = plain.encode(text, add_special_tokens=False).offsets
        claimed = bytearray(len(text))
        for start, end in found:
            claimed[start:end] = b"\x01" * (end - start)
        follows = list(range(len(text) + 1))
        if 0 in claimed:
            # What no token claims belongs with the character before: it was joined to it, or dropped behind it.
            for place in reversed(range(len(text))):
                follows[place] = place if claimed[place] else follows[place + 1]
        exact = []
        begun = reached = 0
        for start, end in found:
            begun = max(begun, start if start > follows[0] else 0)
            reached = max(reached, begun, follows[end])
            exact.append((begun, reached))
        return exact

    return offsets
